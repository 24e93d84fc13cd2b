//! Listeners: closed by default. Who beyond this machine may connect is always written down.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use ipnet::IpNet;

use super::{Checker, positive};
use crate::{
    admin,
    config::{
        field::{Leaf, Listed},
        file,
        leaf::{DeliveryContract, network},
        made,
        units::ByteSize,
    },
    delivery,
    net::private::{is_private, loopback},
    registry::Section,
    submission::{
        self, Address, Auth, AuthWithoutTls, Contract, LineEndings, Listener, LongLines, Tls,
    },
};

/// Where mail is taken unless told otherwise: a port that needs no privilege.
const LISTENER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 2525);

/// Exchange Online's default limit; a larger message would only be refused later.
const MESSAGE_SIZE_MAX: ByteSize = ByteSize(35 << 20);
/// Less and nothing with a header fits.
const MESSAGE_SIZE_LEAST: ByteSize = ByteSize(1 << 10);
/// Exchange Online's default limit.
const RECIPIENTS_MAX: usize = 500;
/// A session costs some tens of KiB.
const CONNECTIONS_MAX: usize = 1000;
/// Long enough for a provider on a good day, short enough for a device that waits 30 s.
const HYBRID_WAIT: Duration = Duration::from_secs(8);
/// Half of what a client must wait (RFC 5321 §4.5.3.2.6).
const HYBRID_WAIT_MAX: Duration = Duration::from_secs(5 * 60);
/// One runaway client must leave room for the others.
const CONNECTIONS_PER_CLIENT_MAX: usize = 50;

/// A message whose client waits goes in one transaction, whichever account it leaves by: more
/// recipients than that may have are asked to come in a second one.
pub(super) fn fit_to_accounts(listeners: &mut [Listener], accounts: &[delivery::Account]) {
    let widths = accounts.iter().map(|it| it.limits.recipients_per_message);
    let Some(least) = widths.min() else { return };
    for listener in listeners {
        if listener.delivery == Contract::Direct {
            listener.max_recipients = listener.max_recipients.min(least);
        }
    }
}

impl Checker<'_> {
    /// Every listener; without any section, the one on loopback.
    pub(super) fn listeners(
        &mut self,
        listed: &Listed<file::Listener>,
        admin: &admin::Config,
    ) -> Vec<Listener> {
        let Some(sections) = &listed.0 else {
            return vec![default_listener()];
        };
        let mut listeners: Vec<Listener> = Vec::new();
        for section in sections {
            let listener = self.listener(section);
            let taken = if listeners
                .iter()
                .any(|other| same(&other.address, &listener.address))
            {
                Some("another listener")
            } else if is_at(&listener.address, admin.address) {
                Some("the console")
            } else if is_at(&listener.address, admin.metrics_address) {
                Some("metrics")
            } else {
                None
            };
            if let Some(taken) = taken {
                let what = format!("is the address of {taken} too");
                let remedy = "give each its own address or port";
                section.address.refuse(&mut self.report, what, remedy);
            }
            listeners.push(listener);
        }
        listeners
    }

    fn listener(&mut self, section: &file::Listener) -> Listener {
        let address = section
            .address
            .required(&mut self.report, "write IP:PORT, as \"127.0.0.1:2525\"");
        let default = default_listener();
        let report = &mut self.report;
        let max_connections = positive(&section.max_connections, CONNECTIONS_MAX, report);
        let listener = Listener {
            name: address.as_ref().map_or_else(String::new, name),
            // Any port: a missing address is told once, not as a second listener at one place.
            address: address.unwrap_or(Address::Tcp(SocketAddr::new(LISTENER.ip(), 0))),
            tls: section.tls.copied().unwrap_or(default.tls),
            certificate: None,
            auth: section.auth.copied().unwrap_or(default.auth),
            auth_without_tls: section
                .auth_without_tls
                .copied()
                .unwrap_or(default.auth_without_tls),
            allow: Vec::new(),
            delivery: Contract::Queue,
            line_endings: section
                .line_endings
                .copied()
                .unwrap_or(default.line_endings),
            long_lines: section.long_lines.copied().unwrap_or(default.long_lines),
            hide_client_address: section.hide_client_address.copied().unwrap_or(false),
            max_message_size: section
                .max_message_size
                .copied()
                .unwrap_or(MESSAGE_SIZE_MAX)
                .0,
            max_recipients: positive(&section.max_recipients, RECIPIENTS_MAX, report),
            max_connections,
            max_connections_per_client: positive(
                &section.max_connections_per_client,
                CONNECTIONS_PER_CLIENT_MAX,
                report,
            ),
            proxy_protocol_from: section.proxy_protocol_from.copied().unwrap_or_default(),
        };
        if listener.max_message_size < MESSAGE_SIZE_LEAST.0 {
            let what = "is too small for any message";
            section
                .max_message_size
                .refuse(report, what, "use \"35MiB\"");
        }
        self.passwords_in_clear(section, &listener);
        self.proxies(section, &listener);
        Listener {
            delivery: self.contract(section, listener.max_message_size),
            certificate: self.certificate(section, listener.tls),
            allow: self.allow(section, &listener),
            ..listener
        }
    }

    /// Adds the networks that were let in from the console. What holds for `allow` holds for them: no
    /// listener that takes mail without a login is opened to public addresses.
    pub(super) fn allow_made(&mut self, listeners: &mut [Listener]) {
        for (name, entry) in self.made.used_of(Section::Allow) {
            let key = made::key(Section::Allow, name);
            let Ok(network) = network(name) else {
                let remedy = <IpNet as Leaf>::REMEDY;
                self.report.problem(key, name, "is not a network", remedy);
                continue;
            };
            let only = entry.settings.get("listener").and_then(|it| it.as_str());
            let meant = |listener: &&mut Listener| only.is_none_or(|only| listener.name == only);
            if let Some(only) = only
                && !listeners.iter().any(|listener| listener.name == only)
            {
                let what = "there is no listener of this name";
                let remedy = "name one as its address is written in the file, or none for all";
                self.report
                    .problem(format!("{key}.listener"), only, what, remedy);
            }
            for listener in listeners.iter_mut().filter(meant) {
                // An empty list lets everybody in already; a Unix socket has its permissions.
                if listener.allow.is_empty() {
                    continue;
                }
                if listener.auth != Auth::Required && !is_private(&network) {
                    let what = format!(
                        "covers public addresses, and listener {} takes mail without a login: an open \
                         relay",
                        listener.name
                    );
                    let remedy = "use a private network, or set auth = \"required\" there";
                    self.report.problem(key.clone(), name, what, remedy);
                    continue;
                }
                listener.allow.push(network);
            }
        }
    }

    fn certificate(&mut self, section: &file::Listener, tls: Tls) -> Option<(PathBuf, PathBuf)> {
        let (certificate, key) = (&section.certificate_file, &section.key_file);
        let report = &mut self.report;
        if tls == Tls::None {
            for file in [certificate, key] {
                // After a wrong `tls` the wish for TLS is plain enough.
                if file.get().is_some() && (section.tls.is_absent() || section.tls.get().is_some())
                {
                    let remedy = "set tls = \"starttls\" as well, or take it out";
                    file.refuse(report, "has no effect with tls = \"none\"", remedy);
                }
            }
            return None;
        }
        let remedy = "name the PEM file, or use tls = \"none\"";
        let certificate_path = certificate.required(report, remedy);
        let key_path = key.required(report, remedy);
        self.readable(certificate);
        self.readable(key);
        certificate_path.zip(key_path)
    }

    /// Who may connect. Beyond loopback nothing is assumed: there must be a list, and without
    /// required authentication the list must stay inside private networks.
    fn allow(&mut self, section: &file::Listener, listener: &Listener) -> Vec<IpNet> {
        let given = section.allow.copied();
        let is_beyond = match &listener.address {
            // A proxy brings clients from anywhere, whatever it connects to.
            Address::Tcp(_) if !listener.proxy_protocol_from.is_empty() => true,
            Address::Tcp(address) => !address.ip().to_canonical().is_loopback(),
            // Whatever systemd listens on, only loopback is let in unless a list says otherwise.
            Address::Systemd(_) => {
                given.is_some()
                    || listener.auth == Auth::Required
                    || !listener.proxy_protocol_from.is_empty()
            }
            Address::Unix(_) => return Vec::new(),
        };
        let needs_list = is_beyond && listener.auth != Auth::Required;
        let report = &mut self.report;
        match given {
            None if section.allow.is_absent() && needs_list => {
                let what =
                    "is needed: this listener is reachable beyond this machine without login";
                let remedy = "list the networks that may connect, as allow = [\"192.168.0.0/16\"], or set auth = \"required\"";
                section.allow.refuse(report, what, remedy);
                loopback()
            }
            None if is_beyond && listener.auth == Auth::Required => Vec::new(),
            None => loopback(),
            Some(allow) if needs_list && allow.is_empty() => {
                let what = "would let everyone connect without login";
                let remedy = "list the networks that may connect, or set auth = \"required\"";
                section.allow.refuse(report, what, remedy);
                allow
            }
            Some(allow) if needs_list => {
                if let Some(public) = allow.iter().find(|net| !is_private(net)) {
                    let what = format!("{public} covers public addresses: an open relay");
                    let remedy = "list private networks only, or set auth = \"required\"";
                    section.allow.refuse(report, what, remedy);
                }
                allow
            }
            Some(allow) => allow,
        }
    }

    /// What a 250 promises; keys that another contract has are refused.
    fn contract(&mut self, section: &file::Listener, max_message_size: u64) -> Contract {
        let wait = &section.hybrid_wait;
        let report = &mut self.report;
        let given = section.delivery.copied().unwrap_or(DeliveryContract::Queue);
        let is_meant = wait.get().is_some_and(|wait| *wait != HYBRID_WAIT);
        if given != DeliveryContract::Hybrid && is_meant {
            let what = "has no effect without delivery = \"hybrid\"";
            wait.refuse(report, what, "set that as well, or take it out");
        }
        match given {
            DeliveryContract::Queue => Contract::Queue,
            DeliveryContract::Direct => {
                if max_message_size > submission::DIRECT_MESSAGE_LEN_MAX {
                    let what =
                        "is too much for delivery = \"direct\", which keeps messages in memory";
                    let remedy = "use at most \"48MiB\", or delivery = \"hybrid\"";
                    section.max_message_size.refuse(report, what, remedy);
                }
                Contract::Direct
            }
            DeliveryContract::Hybrid => {
                let given = wait.copied().unwrap_or(HYBRID_WAIT);
                if given.is_zero() || given > HYBRID_WAIT_MAX {
                    let what = "is no time that a client waits";
                    let remedy = "use \"1s\" to \"5m\" (devices give up after 30 s), or delivery = \"queue\"";
                    wait.refuse(report, what, remedy);
                }
                Contract::Hybrid { wait: given }
            }
        }
    }

    /// Whoever may tell addresses passes every `allow` list.
    fn proxies(&mut self, section: &file::Listener, listener: &Listener) {
        let field = &section.proxy_protocol_from;
        let report = &mut self.report;
        if matches!(listener.address, Address::Unix(_)) && !listener.proxy_protocol_from.is_empty()
        {
            let what = "has no effect on a Unix socket";
            field.refuse(report, what, "let the proxy connect by TCP, or take it out");
        }
        let is_host = |net: &IpNet| net.prefix_len() == net.max_prefix_len();
        let mut wide = listener.proxy_protocol_from.iter();
        if let Some(net) = wide.find(|net| !is_private(net) && !is_host(net)) {
            let what =
                format!("{net} covers public addresses: anyone there could claim any address");
            field.refuse(report, what, "list each proxy's own address");
        }
    }

    /// A login that can never succeed is refused; one that crosses a network in clear is remarked.
    fn passwords_in_clear(&mut self, section: &file::Listener, listener: &Listener) {
        let Address::Tcp(address) = &listener.address else {
            return;
        };
        let is_beyond =
            !address.ip().to_canonical().is_loopback() || !listener.proxy_protocol_from.is_empty();
        let report = &mut self.report;
        match (listener.tls, listener.auth, listener.auth_without_tls) {
            (
                Tls::Starttls | Tls::Implicit | Tls::Auto,
                _,
                AuthWithoutTls::Never | AuthWithoutTls::Loopback,
            )
            | (Tls::Implicit, _, _)
            | (_, Auth::None, _) => {}
            (Tls::None, Auth::Required, AuthWithoutTls::Never) => {
                let what = "nobody could log in: passwords need TLS here, and there is none";
                let remedy =
                    "set tls = \"starttls\" with a certificate, or auth_without_tls = \"loopback\"";
                section.auth.refuse(report, what, remedy);
            }
            (Tls::None, Auth::Required, AuthWithoutTls::Loopback) if is_beyond => {
                let what = "nobody beyond this machine could log in: passwords need TLS there, and there is none";
                let remedy = "set tls = \"starttls\" with a certificate, or auth_without_tls = \"always\" (passwords then cross the network in clear)";
                section.auth.refuse(report, what, remedy);
            }
            (
                Tls::None | Tls::Starttls | Tls::Auto,
                Auth::Optional | Auth::Required,
                AuthWithoutTls::Always,
            ) if is_beyond => {
                report.warning(format!(
                    "listener {}: passwords may cross the network in clear (auth_without_tls = \"always\")",
                    listener.name
                ));
            }
            (Tls::None | Tls::Starttls | Tls::Auto, Auth::Optional | Auth::Required, _) => {}
        }
    }

    /// Remarks a listener where everyone must log in and nobody can.
    pub(super) fn logins(&mut self, listeners: &[Listener], clients: usize) {
        for listener in listeners {
            if clients == 0 && listener.auth == Auth::Required {
                self.report.warning(format!(
                    "listener {}: auth = \"required\" and there is no [[client]], so nobody can log in",
                    listener.name
                ));
            }
        }
    }
}

fn default_listener() -> Listener {
    let address = Address::Tcp(LISTENER);
    Listener {
        name: name(&address),
        address,
        tls: Tls::None,
        certificate: None,
        auth: Auth::Optional,
        auth_without_tls: AuthWithoutTls::Loopback,
        allow: loopback(),
        delivery: Contract::Queue,
        line_endings: LineEndings::Strict,
        long_lines: LongLines::Pass,
        hide_client_address: false,
        max_message_size: MESSAGE_SIZE_MAX.0,
        max_recipients: RECIPIENTS_MAX,
        max_connections: CONNECTIONS_MAX,
        max_connections_per_client: CONNECTIONS_PER_CLIENT_MAX,
        proxy_protocol_from: Vec::new(),
    }
}

/// A listener's name: its address as it is written.
pub(super) fn name(address: &Address) -> String {
    match address {
        Address::Tcp(address) => address.to_string(),
        Address::Unix(path) => format!("unix:{}", path.display()),
        Address::Systemd(name) => format!("systemd:{name}"),
    }
}

/// Port 0 is a fresh port each time.
fn same(a: &Address, b: &Address) -> bool {
    a == b && !matches!(a, Address::Tcp(address) if address.port() == 0)
}

fn is_at(listener: &Address, other: Option<SocketAddr>) -> bool {
    other.is_some_and(|other| same(listener, &Address::Tcp(other)))
}
