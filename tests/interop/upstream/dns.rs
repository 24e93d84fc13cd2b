//! Names that do not resolve, and addresses that lead nowhere, in a network of its own.

use std::{
    fs,
    net::{Ipv4Addr, Ipv6Addr, UdpSocket},
    process::Command,
    sync::{Arc, Mutex},
    thread,
};

use super::paused;
use crate::{
    network,
    support::{eventually, mail::message, program, relay::Site, sink::Sink},
};

/// A name server answers so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answers {
    /// The name does not exist.
    NxDomain,
    /// It cannot say.
    ServFail,
    /// Not at all.
    Silence,
    /// 127.0.0.1, and an IPv6 address behind which nobody is.
    Both,
    /// Another address: the provider has moved.
    Moved,
}

/// What the account's reason then says.
const SAID: [(Answers, &str); 3] = [
    (Answers::NxDomain, "Name or service not known"),
    (Answers::ServFail, "Temporary failure in name resolution"),
    (Answers::Silence, "resolving smtp.provider.example"),
];

/// Where a provider that has moved is.
const MOVED_TO: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Nobody answers there, and nobody says so.
const BLACK_HOLE: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xdead, 0, 0, 0, 0, 1);

fn serve(answers: Arc<Mutex<Answers>>) {
    let socket = UdpSocket::bind("127.0.0.1:53").unwrap();
    thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut query) {
            let now = *answers.lock().unwrap();
            if let Some(answer) = answer(&query[..length], now) {
                // The resolver may have gone.
                let _sent = socket.send_to(&answer, from);
            }
        }
    });
}

/// RFC 1035 §4.1.
fn answer(query: &[u8], answers: Answers) -> Option<Vec<u8>> {
    let name_end = query.get(12..)?.iter().position(|octet| *octet == 0)? + 12;
    let question = query.get(12..name_end + 5)?;
    let kind = query[name_end + 2];
    let code = match answers {
        Answers::Silence => return None,
        Answers::NxDomain => 3,
        Answers::ServFail => 2,
        Answers::Both | Answers::Moved => 0,
    };
    let data: Option<Vec<u8>> = match (answers, kind) {
        (Answers::Both, 1) => Some(vec![127, 0, 0, 1]),
        (Answers::Moved, 1) => Some(MOVED_TO.octets().into()),
        (Answers::Both, 28) => Some(BLACK_HOLE.octets().into()),
        _ => None,
    };
    let mut out = query[..2].to_vec();
    out.extend([
        0x81,
        0x80 | code,
        0,
        1,
        0,
        u8::from(data.is_some()),
        0,
        0,
        0,
        0,
    ]);
    out.extend(question);
    if let Some(data) = data {
        out.extend([
            0xc0,
            12,
            0,
            kind,
            0,
            1,
            0,
            0,
            0,
            0,
            0,
            u8::try_from(data.len()).unwrap(),
        ]);
        out.extend(data);
    }
    Some(out)
}

fn ip(arguments: &[&str]) {
    let mut command = Command::new(program("ip", "iproute2"));
    let status = command.args(arguments).status().unwrap();
    assert!(status.success(), "ip {arguments:?}");
}

/// What the name server says makes mail wait, never bounce; when it recovers, mail goes by IPv4 although
/// the IPv6 address swallows everything.
#[test]
fn a_name_server_that_fails_and_an_address_that_leads_nowhere() {
    if !network::is_inside(
        "upstream::dns::a_name_server_that_fails_and_an_address_that_leads_nowhere",
    ) {
        return;
    }
    // A cable whose other end nobody listens to: packets go out, and nothing comes back.
    ip(&[
        "link", "add", "hole0", "type", "veth", "peer", "name", "hole1",
    ]);
    ip(&["link", "set", "hole1", "up"]);
    ip(&["link", "set", "hole0", "up"]);
    ip(&[
        "-6",
        "address",
        "add",
        "2001:db8:dead::2/64",
        "dev",
        "hole0",
        "nodad",
    ]);
    let hole = BLACK_HOLE.to_string();
    ip(&[
        "-6",
        "neighbour",
        "add",
        &hole,
        "lladdr",
        "02:00:00:00:00:01",
        "dev",
        "hole0",
    ]);
    let sink = Sink::start();
    let account = sink
        .account("alerts")
        .replace("host = \"127.0.0.1\"", "host = \"smtp.provider.example\"");
    // It has no credentials to lose, so that plain text beyond loopback is no question here.
    let site = Site::new(&account);
    let resolver = site.path().join("resolv.conf");
    fs::write(
        &resolver,
        "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n",
    )
    .unwrap();
    network::replace("/etc/resolv.conf".as_ref(), &resolver);
    let answers = Arc::new(Mutex::new(Answers::NxDomain));
    serve(Arc::clone(&answers));
    let _relay = site.start();
    for (n, (now, said)) in SAID.into_iter().enumerate() {
        *answers.lock().unwrap() = now;
        site.submit(&message(&format!("dns{n}"), b"Where to?\r\n"));
        site.cli(&["queue", "retry", "--all"]);
        // What the resolver made of it.
        eventually("the account pauses", || paused(&site, "alerts", said));
        let waiting = site.queue();
        assert_eq!(waiting.len(), n + 1, "{now:?}");
        let untouched = |entry: &serde_json::Value| entry["attempts"] == 0 && entry["sender"] != "";
        assert!(waiting.iter().all(untouched), "{now:?}: {waiting:?}");
    }
    *answers.lock().unwrap() = Answers::Both;
    eventually("mail goes by the address that answers", || {
        site.cli(&["queue", "retry", "--all"]);
        (sink.ledger().deliveries.len() == 3).then_some(())
    });
    site.wait_empty();
    assert_eq!(sink.ledger().deliveries.len(), 3, "each once");
}

/// Row 33: the name is looked up for each connection, so that mail follows a provider that moves, and
/// nothing is lost or sent twice on the way.
#[test]
fn mail_follows_a_name_to_its_new_address() {
    if !network::is_inside("upstream::dns::mail_follows_a_name_to_its_new_address") {
        return;
    }
    let old = Sink::start();
    let new = Sink::at((MOVED_TO, old.address.port()).into());
    let account = old
        .account("alerts")
        .replace("host = \"127.0.0.1\"", "host = \"smtp.provider.example\"");
    let site = Site::new(&account);
    let resolver = site.path().join("resolv.conf");
    fs::write(&resolver, "nameserver 127.0.0.1\n").unwrap();
    network::replace("/etc/resolv.conf".as_ref(), &resolver);
    let answers = Arc::new(Mutex::new(Answers::Both));
    serve(Arc::clone(&answers));
    let _relay = site.start();
    site.submit(&message("before", b"Here.\r\n"));
    site.wait_empty();
    assert_eq!(old.ledger().deliveries.len(), 1);

    *answers.lock().unwrap() = Answers::Moved;
    // The old address wants no more mail of anybody, on the connection that is still open as on new ones.
    old.answer_mail(Some("421 4.3.2 this server has moved"));
    site.submit(&message("after", b"There.\r\n"));
    site.wait_empty();
    assert_eq!(new.ledger().deliveries.len(), 1);
    assert_eq!(old.ledger().deliveries.len(), 1, "each once");
}
