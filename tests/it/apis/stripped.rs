//! Row 30: a server, or somebody on the way to it, that will have no TLS gets no token.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use serde_json::json;

use super::{By, Rig, TO, addressed};

/// What it says of itself, and to STARTTLS; what becomes of the account, and the reason that is told.
const CASES: [[&str; 5]; 3] = [
    [
        "stripped",
        "250-mock\r\n250 AUTH XOAUTH2 PLAIN LOGIN\r\n",
        "502 5.5.1 no\r\n",
        "held",
        "does not offer STARTTLS",
    ],
    [
        "refused",
        "250-mock\r\n250-STARTTLS\r\n250 AUTH XOAUTH2\r\n",
        "454 4.7.0 not now\r\n",
        "retrying",
        "454 4.7.0 not now",
    ],
    [
        "injected",
        "250-mock\r\n250-STARTTLS\r\n250 AUTH XOAUTH2\r\n",
        "220 go\r\n250-mock\r\n250 AUTH XOAUTH2\r\n",
        "held",
        "octets between STARTTLS and the handshake",
    ],
];

/// Everything that was said to it.
type Heard = Arc<Mutex<Vec<u8>>>;

/// Speaks in clear alone.
fn serve(greeting: &'static str, to_starttls: &'static str) -> (SocketAddr, Heard) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let heard = Heard::default();
    let all = Arc::clone(&heard);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, all) = (stream.unwrap(), Arc::clone(&all));
            thread::spawn(move || session(stream, (greeting, to_starttls), &all));
        }
    });
    (address, heard)
}

fn session(
    mut stream: TcpStream,
    (greeting, to_starttls): (&str, &str),
    heard: &Heard,
) -> io::Result<()> {
    stream.write_all(b"220 mock ESMTP\r\n")?;
    let mut lines = BufReader::new(stream.try_clone()?);
    loop {
        let mut line = Vec::new();
        if lines.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        heard.lock().unwrap().extend_from_slice(&line);
        let line = String::from_utf8_lossy(&line).to_ascii_uppercase();
        let reply = match line.split_whitespace().next() {
            Some("EHLO") => greeting,
            Some("STARTTLS") => to_starttls,
            Some("QUIT") => return stream.write_all(b"221 bye\r\n"),
            _ => "250 ok\r\n",
        };
        stream.write_all(reply.as_bytes())?;
        if reply.starts_with("220") {
            // What comes now is TLS, if anything.
            let mut rest = Vec::new();
            lines.read_to_end(&mut rest)?;
            heard.lock().unwrap().append(&mut rest);
            return Ok(());
        }
    }
}

#[test]
fn no_token_goes_to_a_server_without_tls() {
    let servers = CASES.map(|[_, greeting, to_starttls, ..]| serve(greeting, to_starttls));
    let mut tables = format!("[[route]]\nrecipient = \"{TO}\"\naccount = \"practice\"\n");
    for ([name, ..], (address, _)) in CASES.iter().zip(&servers) {
        tables.push_str(&format!(
            "[account.{name}]\nprovider = \"practice\"\nmailbox = \"alerts@example.com\"\n\
             grant = \"client_credentials\"\n\
             [account.{name}.smtp]\nhost = \"127.0.0.1\"\nport = {}\ntls = \"starttls\"\n\
             [[route]]\nrecipient = \"{name}@example.org\"\naccount = \"{name}\"\n",
            address.port()
        ));
    }
    let rig = Rig::start(By::Application, "smtp", &tables);
    for [name, ..] in CASES {
        let to = format!("{name}@example.org");
        rig.submit(&[&to], &addressed(&to, ""));
    }
    for ([name, _, _, state, reason], (_, heard)) in CASES.iter().zip(&servers) {
        let account = rig.site.wait_account(name, state);
        let told = account["reason"].as_str().unwrap();
        assert!(
            told.contains(reason) && !account["remedy"].is_null(),
            "{account}"
        );
        let heard = String::from_utf8_lossy(&heard.lock().unwrap()).to_ascii_uppercase();
        assert!(heard.contains("EHLO"), "{name}: {heard}");
        for word in ["AUTH", "MAIL", "RCPT", "DATA"] {
            assert!(!heard.contains(word), "{name}: {heard}");
        }
    }
    let queue = rig.site.queue();
    assert_eq!(queue.len(), CASES.len(), "{queue:?}");
    assert!(
        queue.iter().all(|entry| entry["attempts"] == json!(0)),
        "{queue:?}"
    );
    // The account with a server that has TLS goes on.
    rig.submit(&[TO], &addressed(TO, ""));
    assert_eq!(rig.taken(1).len(), 1);
}
