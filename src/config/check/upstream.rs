//! The upstream server of an account: where it is, how we log in there, and what must never happen
//! on the way (credentials in clear, mail that comes back to us).

use std::net::IpAddr;

use super::{Checker, provider::Profiles};
use crate::{
    config::{file, leaf::Mechanism},
    delivery::{Auth, Smarthost, Tls},
    oauth::preset::{self, SmtpTls},
    submission::{self, Listener},
};

/// What every account is checked against.
pub(super) struct Upstream<'a> {
    pub(super) profiles: &'a Profiles,
    pub(super) hostname: &'a str,
    pub(super) listeners: &'a [Listener],
}

impl Checker<'_> {
    /// The smarthost. `None`: something is missing, and told.
    pub(super) fn smarthost(
        &mut self,
        section: &file::Smtp,
        preset: Option<preset::Smtp>,
        auth: Option<Auth>,
        upstream: &Upstream<'_>,
    ) -> Option<Smarthost> {
        let host = match (section.host.copied(), preset) {
            (None, Some(preset)) if section.host.is_absent() => Some(preset.host.to_owned()),
            _ => section.host.required(
                &mut self.report,
                "name the submission server, as \"smtp.example.com\"",
            ),
        };
        if let Some(given) = section.host.get()
            && !is_host(given)
        {
            let remedy = "write the name or address alone; the port has its own key";
            section
                .host
                .refuse(&mut self.report, "is not a host", remedy);
        }
        let tls = tls(section, preset);
        let port = self.port(section, preset, tls);
        self.readable(&section.ca_file);
        let smarthost = Smarthost {
            host: host?,
            port: port?,
            tls,
            auth: auth?,
            ca_file: section.ca_file.copied(),
        };
        self.in_clear(section, &smarthost);
        self.loops(section, &smarthost, upstream);
        Some(smarthost)
    }

    fn port(
        &mut self,
        section: &file::Smtp,
        preset: Option<preset::Smtp>,
        tls: Tls,
    ) -> Option<u16> {
        let Some(given) = section.port.copied() else {
            let preset = preset.filter(|_| section.tls.is_absent());
            let usual = match tls {
                Tls::Starttls => 587,
                Tls::Implicit => 465,
                Tls::None => 25,
            };
            return section
                .port
                .is_absent()
                .then(|| preset.map_or(usual, |p| p.port));
        };
        let port = u16::try_from(given).ok().filter(|port| *port > 0);
        if port.is_none() {
            let remedy = "use a port from 1 to 65535, usually 587 (starttls) or 465 (implicit)";
            section
                .port
                .refuse(&mut self.report, "is not a port", remedy);
        }
        port
    }

    fn in_clear(&mut self, section: &file::Smtp, smarthost: &Smarthost) {
        let is_open = smarthost.auth == Auth::None || is_loopback(&smarthost.host);
        if smarthost.tls == Tls::None && !is_open {
            let what = "would send credentials over the network in clear";
            let remedy = "use \"starttls\" or \"implicit\", or auth = \"none\"";
            section.tls.refuse(&mut self.report, what, remedy);
        }
    }

    /// Mail for our own listener would go round until its hop limit.
    fn loops(&mut self, section: &file::Smtp, smarthost: &Smarthost, upstream: &Upstream<'_>) {
        let is_us =
            is_loopback(&smarthost.host) || smarthost.host.eq_ignore_ascii_case(upstream.hostname);
        let own = upstream.listeners.iter().find(|listener| {
            let submission::Address::Tcp(address) = &listener.address else {
                return false;
            };
            let ip = address.ip().to_canonical();
            let reaches = match smarthost.host.parse::<IpAddr>() {
                Ok(host) if !host.is_loopback() => ip == host.to_canonical(),
                _ => is_us && (ip.is_loopback() || ip.is_unspecified()),
            };
            address.port() == smarthost.port && reaches
        });
        if let Some(listener) = own {
            let what = format!(
                "is our own listener {}: mail would go in a circle",
                listener.name
            );
            let remedy = "name the provider's server, or another port";
            section.port.refuse(&mut self.report, what, remedy);
        }
    }

    /// How we log in. `None`: something is missing, and told.
    pub(super) fn upstream_auth(
        &mut self,
        section: &file::Smtp,
        mechanism: Mechanism,
        mailbox: Option<&str>,
    ) -> Option<Auth> {
        let username = section
            .username
            .copied()
            .or_else(|| mailbox.map(str::to_owned));
        if mechanism != Mechanism::Password && section.password.get().is_some() {
            let remedy = "set auth = \"password\" as well, or take it out";
            section
                .password
                .refuse(&mut self.report, "is not used by this auth", remedy);
        }
        match mechanism {
            Mechanism::None => Some(Auth::None),
            Mechanism::Xoauth2 => username.map(|username| Auth::Xoauth2 { username }),
            Mechanism::OauthBearer => username.map(|username| Auth::OauthBearer { username }),
            Mechanism::Password => {
                if username.is_none() && section.username.is_absent() {
                    let remedy = "write what the server knows you by";
                    section
                        .username
                        .refuse(&mut self.report, "is needed", remedy);
                }
                if section.password.is_absent() {
                    let remedy = "write password = { file = \"..\" }, or use auth = \"none\"";
                    section
                        .password
                        .refuse(&mut self.report, "is needed", remedy);
                }
                let password = self.secret(&section.password);
                username
                    .zip(password)
                    .map(|(username, password)| Auth::Password { username, password })
            }
        }
    }
}

fn tls(section: &file::Smtp, preset: Option<preset::Smtp>) -> Tls {
    let preset = preset.map(|preset| match preset.tls {
        SmtpTls::Starttls => Tls::Starttls,
        SmtpTls::Implicit => Tls::Implicit,
    });
    section.tls.copied().or(preset).unwrap_or(Tls::Starttls)
}

/// Whether a host is this machine, whatever a resolver says (RFC 6761 §6.3).
pub(super) fn is_loopback(host: &str) -> bool {
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost"
        || name.ends_with(".localhost")
        || name
            .parse()
            .is_ok_and(|ip: IpAddr| ip.to_canonical().is_loopback())
}

/// A name or an address, nothing around it.
fn is_host(host: &str) -> bool {
    let is_name = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
    host.parse::<IpAddr>().is_ok() || host.chars().all(is_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_known_by_name_and_address() {
        for (host, want) in [
            ("localhost", true),
            ("LOCALHOST.", true),
            ("sink.localhost", true),
            ("127.0.0.2", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("localhost.example.com", false),
            ("127.0.0.1.example.com", false),
            ("10.0.0.1", false),
        ] {
            assert_eq!(is_loopback(host), want, "{host}");
        }
    }
}
