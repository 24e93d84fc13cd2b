//! `[[listener]]`, `[[client]]`, `[[route]]`: who may submit, and where it goes.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use ipnet::IpNet;

use super::{Problem, refuse, refuse_list, section::Section};
use crate::{
    delivery::Account,
    mail::AccountName,
    route::{Route, Router},
    submission::{Address, Auth, AuthWithoutTls, Client, LineEndings, Listener, Rules, Tls},
};

const DEFAULT_ADDRESS: &str = "127.0.0.1:2525";
/// Not routed on the public Internet: private use, link-local, carrier NAT, unique local.
const PRIVATE: [&str; 9] = [
    "127.0.0.0/8",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "169.254.0.0/16",
    "100.64.0.0/10",
    "::1/128",
    "fc00::/7",
    "fe80::/10",
];

pub(super) fn read(
    root: &mut Section,
    problems: &mut Vec<Problem>,
    hostname: &str,
    accounts: &[Account],
) -> (Vec<Listener>, Rules) {
    let given = root.array("listener", problems);
    let given = given.unwrap_or_else(|| vec![Section::new("listener[0]", Default::default())]);
    let listeners = given.into_iter().map(|s| listener(s, problems)).collect();
    let mut clients = BTreeMap::new();
    for mut section in root.array("client", problems).unwrap_or_default() {
        if let Some((name, client)) = client(&mut section, problems, accounts) {
            clients.insert(name, client);
        }
        section.finish(problems);
    }
    let mut routes = Vec::new();
    for mut section in root.array("route", problems).unwrap_or_default() {
        routes.extend(route(&mut section, problems, accounts));
        section.finish(problems);
    }
    let default_account =
        known_account(root, "default_account", problems, accounts).or_else(|| {
            // With one account there is nothing to choose.
            match accounts {
                [only] => Some(only.name.clone()),
                _ => None,
            }
        });
    let router = Router {
        routes,
        default_account,
    };
    (
        listeners,
        Rules {
            hostname: hostname.to_owned(),
            clients,
            router,
        },
    )
}

fn listener(mut s: Section, problems: &mut Vec<Problem>) -> Listener {
    let name = s
        .text("address", problems)
        .unwrap_or_else(|| DEFAULT_ADDRESS.to_owned());
    let address = address(&name).unwrap_or_else(|| {
        let remedy = "use \"IP:PORT\", \"unix:/PATH\" or \"systemd:NAME\"";
        problems.push(s.problem(
            "address",
            format!("{name:?}"),
            "no address to listen on",
            remedy,
        ));
        Address::Unix(PathBuf::new())
    });
    let tls = [
        ("none", Tls::None),
        ("starttls", Tls::Starttls),
        ("implicit", Tls::Implicit),
    ];
    let tls = s.choice("tls", problems, &tls).unwrap_or(Tls::None);
    let certificate = s.text("certificate_file", problems).map(PathBuf::from);
    let certificate = certificate.zip(s.text("key_file", problems).map(PathBuf::from));
    if tls != Tls::None && certificate.is_none() {
        let remedy = "set certificate_file and key_file (PEM)";
        problems.push(s.problem("tls", "..", "TLS without a certificate", remedy));
    }
    let auth = [
        ("none", Auth::None),
        ("optional", Auth::Optional),
        ("required", Auth::Required),
    ];
    let auth = s.choice("auth", problems, &auth).unwrap_or(Auth::Optional);
    let without_tls = [
        ("never", AuthWithoutTls::Never),
        ("loopback", AuthWithoutTls::Loopback),
        ("always", AuthWithoutTls::Always),
    ];
    let without_tls = s.choice("auth_without_tls", problems, &without_tls);
    let endings = [
        ("strict", LineEndings::Strict),
        ("normalize", LineEndings::Normalize),
    ];
    let endings = s.choice("line_endings", problems, &endings);
    let allow = allow(&mut s, problems, &address, auth);
    refuse(&mut s, "delivery", &["queue"], problems);
    refuse(&mut s, "hybrid_wait", &["8s"], problems);
    refuse_list(&mut s, "proxy_protocol_from", problems);
    let listener = Listener {
        name,
        address,
        tls,
        certificate,
        auth,
        auth_without_tls: without_tls.unwrap_or(AuthWithoutTls::Loopback),
        allow,
        line_endings: endings.unwrap_or(LineEndings::Strict),
        max_message_size: s.size("max_message_size", problems).unwrap_or(35 << 20),
        max_recipients: s.number("max_recipients", problems).unwrap_or(500),
        max_connections: s.number("max_connections", problems).unwrap_or(1000),
        max_connections_per_client: s
            .number("max_connections_per_client", problems)
            .unwrap_or(50),
    };
    s.finish(problems);
    listener
}

fn address(text: &str) -> Option<Address> {
    if let Some(path) = text.strip_prefix("unix:") {
        return path
            .starts_with('/')
            .then(|| Address::Unix(PathBuf::from(path)));
    }
    if let Some(name) = text.strip_prefix("systemd:") {
        return (!name.is_empty()).then(|| Address::Systemd(name.to_owned()));
    }
    text.parse().ok().map(Address::Tcp)
}

/// Closed by default: beyond loopback it takes authentication, or a list of private networks.
fn allow(
    s: &mut Section,
    problems: &mut Vec<Problem>,
    address: &Address,
    auth: Auth,
) -> Vec<IpNet> {
    let given = s.texts("allow", problems);
    let is_given = given.is_some();
    let mut allow: Vec<IpNet> = Vec::new();
    for text in given.unwrap_or_default() {
        let one = || text.parse::<IpAddr>().ok().map(IpNet::from);
        match text.parse().ok().or_else(one) {
            Some(net) => allow.push(net),
            None => problems.push(s.problem(
                "allow",
                format!("{text:?}"),
                "not a network",
                "use \"192.168.1.0/24\"",
            )),
        }
    }
    let wide = match address {
        Address::Tcp(tcp) => !tcp.ip().is_loopback(),
        Address::Unix(_) => false,
        // systemd may hold any address: only the list can say.
        Address::Systemd(_) => is_given,
    };
    if auth == Auth::Required {
        return allow;
    }
    if !is_given {
        if wide {
            problems.push(s.problem(
                "allow",
                "(missing)",
                "a listener beyond loopback without required authentication is open to everyone",
                "set allow = [\"192.168.1.0/24\"] (your network) or auth = \"required\"",
            ));
        }
        return ["127.0.0.0/8", "::1/128"]
            .iter()
            .filter_map(|n| n.parse().ok())
            .collect();
    }
    let private: Vec<IpNet> = PRIVATE.iter().filter_map(|n| n.parse().ok()).collect();
    for net in &allow {
        if !private.iter().any(|p| p.contains(net)) {
            problems.push(s.problem(
                "allow",
                format!("\"{net}\""),
                "public addresses without required authentication make an open relay",
                "name private networks only, or set auth = \"required\"",
            ));
        }
    }
    allow
}

fn client(
    s: &mut Section,
    problems: &mut Vec<Problem>,
    accounts: &[Account],
) -> Option<(String, Client)> {
    let name = s.text("name", problems);
    let hash = |t: &str| t.starts_with("$argon2id$").then(|| t.to_owned());
    let want = "what `gatepost hash-password` prints ($argon2id$..)";
    let password_hash = s.parsed("password_hash", problems, hash, want);
    let account = known_account(s, "account", problems, accounts);
    let senders = s.texts("senders", problems).unwrap_or_default();
    for (key, missing) in [
        ("name", name.is_none()),
        ("password_hash", password_hash.is_none()),
    ] {
        if missing {
            problems.push(s.problem(key, "(missing)", "a client needs it", "set it"));
        }
    }
    Some((
        name?,
        Client {
            password_hash: password_hash?,
            account,
            senders,
        },
    ))
}

fn route(s: &mut Section, problems: &mut Vec<Problem>, accounts: &[Account]) -> Option<Route> {
    let network = s.parsed(
        "network",
        problems,
        |t| t.parse().ok(),
        "a network: \"10.0.0.0/8\"",
    );
    let route = Route {
        sender: s.text("sender", problems),
        recipient: s.text("recipient", problems),
        client: s.text("client", problems),
        listener: s.text("listener", problems),
        network,
        account: known_account(s, "account", problems, accounts)?,
    };
    Some(route)
}

fn known_account(
    s: &mut Section,
    key: &'static str,
    problems: &mut Vec<Problem>,
    accounts: &[Account],
) -> Option<AccountName> {
    let name = s.text(key, problems)?;
    let found = accounts
        .iter()
        .find(|a| a.name.as_str() == name)
        .map(|a| a.name.clone());
    if found.is_none() {
        let known: Vec<&str> = accounts.iter().map(|a| a.name.as_str()).collect();
        let remedy = format!("use one of: {}", known.join(", "));
        problems.push(s.problem(key, format!("{name:?}"), "no such account", &remedy));
    }
    found
}

/// A smarthost that is our own listener would send every message round for ever.
pub(super) fn refuse_loops(
    listeners: &[Listener],
    accounts: &[Account],
    problems: &mut Vec<Problem>,
) {
    for account in accounts {
        let local = matches!(
            account.smtp.host.as_str(),
            "localhost" | "127.0.0.1" | "::1"
        );
        let same = |l: &Listener| matches!(&l.address, Address::Tcp(a) if a.port() == account.smtp.port && a.port() != 0);
        if local && listeners.iter().any(same) {
            problems.push(Problem {
                key: format!("account.{}.smtp.port", account.name),
                value: account.smtp.port.to_string(),
                what: "the smarthost is our own listener: a loop".to_owned(),
                remedy: "name the provider's server".to_owned(),
            });
        }
    }
}
