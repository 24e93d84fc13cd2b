//! Listeners before programs of others: openssl for each form of TLS, haproxy for the PROXY protocol,
//! swaks for logins from several addresses.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

use crate::{
    clients::{PASSWORD, USER, hash},
    rig::certificates,
    support::{
        eventually, free_address,
        process::{Process, guarded},
        program,
        relay::Site,
        sink::Sink,
        smtp::Client,
    },
};

/// Guesses of a password, each on a connection of its own.
const GUESSES: usize = 60;
/// A minute of them at most.
const CHECKED_MAX: usize = 10;

fn talk(command: &Command, input: &str) -> Output {
    let mut guarded = guarded(command);
    guarded
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = guarded.spawn().unwrap();
    // A client that was turned away reads nothing.
    let _unread = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

/// A listener's table after the plain one.
fn secured(address: std::net::SocketAddr, tls: &str) -> String {
    format!(
        "[[listener]]\naddress = \"{address}\"\ntls = \"{tls}\"\n\
         certificate_file = \"@DIR@/cert.pem\"\nkey_file = \"@DIR@/key.pem\"\n"
    )
}

fn openssl(dir: &Path, port: u16, options: &[&str]) -> String {
    let mut command = Command::new(program("openssl", "openssl"));
    command.args(["s_client", "-quiet", "-crlf", "-verify_return_error"]);
    command.args([
        "-connect",
        &format!("127.0.0.1:{port}"),
        "-servername",
        "localhost",
    ]);
    command.arg("-CAfile").arg(dir.join("ca.pem")).args(options);
    let output = talk(&command, "EHLO openssl.example.test\nQUIT\n");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("250 ") && said.contains("221 "),
        "{options:?}: {said}\n{complained}"
    );
    said
}

/// Every form of TLS in both versions; a renewed certificate is taken with sessions open.
#[test]
fn openssl_speaks_every_form() {
    let sink = Sink::start();
    let site = Site::plain(&sink);
    certificates(site.path());
    let ports = [free_address(), free_address(), free_address()];
    let tables = ["starttls", "implicit", "auto"];
    let tables = tables
        .iter()
        .zip(ports)
        .map(|(tls, address)| secured(address, tls));
    site.extend(&tables.collect::<Vec<_>>());
    let _relay = site.start();
    let [starttls, implicit, auto] = ports.map(|address| address.port());
    let every = || {
        for version in ["-tls1_2", "-tls1_3"] {
            for (port, options) in [
                (starttls, &["-starttls", "smtp", version][..]),
                (implicit, &[version]),
                (auto, &[version]),
                (auto, &["-starttls", "smtp", version]),
            ] {
                let said = openssl(site.path(), port, options);
                assert!(!said.contains("STARTTLS"), "{said}");
            }
        }
    };
    every();
    let mut open = Client::ehlo(ports[0]).unwrap();
    certificates(site.path());
    every();
    open.command("NOOP").unwrap().expect(250).unwrap();
}

fn swaks(port: u16, from: &str, options: &[&str]) -> Output {
    let mut command = Command::new(program("swaks", "swaks"));
    command.args(["--server", "127.0.0.1", "--port", &port.to_string()]);
    command.args(["--from", "app@example.test", "--to", "rcpt@example.org"]);
    command
        .args(["--local-interface", from, "--timeout", "60"])
        .args(options);
    talk(&command, "")
}

fn assert_sent(output: &Output) {
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
}

/// haproxy sends both versions of the header, and looks after our health with them.
#[test]
fn haproxy_tells_who_its_clients_are() {
    let sink = Sink::start();
    let site = Site::plain(&sink);
    site.edit(
        "address = \"@SMTP@\"",
        "address = \"@SMTP@\"\nproxy_protocol_from = [\"127.0.0.1/32\"]\n\
         allow = [\"127.0.0.9/32\", \"127.0.0.1/32\"]",
    );
    let ports = [free_address(), free_address()];
    let config = site.path().join("haproxy.cfg");
    let mut text = "global\n maxconn 100\ndefaults\n mode tcp\n timeout connect 60s\n \
                    timeout client 60s\n timeout server 60s\n"
        .to_owned();
    for (address, send) in ports.iter().zip(["send-proxy", "send-proxy-v2"]) {
        let smtp = site.smtp;
        text.push_str(&format!(
            "listen {send}\n bind {address}\n option smtpchk EHLO check.example.test\n \
             server gatepost {smtp} {send} check check-send-proxy inter 200ms fall 1 rise 1\n"
        ));
    }
    fs::write(&config, text).unwrap();
    let mut relay = site.spawn();
    eventually("gatepost listens", || {
        assert!(relay.process.ended().is_none());
        std::net::TcpStream::connect(site.smtp).ok()
    });
    let mut command = Command::new(program("haproxy", "haproxy"));
    command.arg("-db").arg("-f").arg(&config);
    let _haproxy = Process::spawn("haproxy", &command, &site.path().join("haproxy.log"));
    let sessions = || {
        let (_, metrics) = site.get("/metrics")?;
        let line = metrics
            .lines()
            .find(|line| line.starts_with("gatepost_sessions_total "))?;
        line.rsplit(' ').next()?.parse::<u64>().ok()
    };
    // Two backends, so that each has been checked more than once; one that failed would be down.
    eventually("haproxy has checked", || {
        sessions().filter(|sessions| *sessions >= 8)
    });
    for (n, address) in ports.iter().enumerate() {
        assert_sent(&swaks(address.port(), "127.0.0.9", &[]));
        let came = sink.nth(n + 1);
        let text = String::from_utf8_lossy(&came.octets).into_owned();
        assert!(text.contains("([127.0.0.9])"), "{text}");
        let refused = swaks(address.port(), "127.0.0.8", &[]);
        assert!(
            String::from_utf8_lossy(&refused.stdout).contains("554 5.7.1"),
            "{refused:?}"
        );
    }
    // Who forgets the header is not served, although its address is allowed.
    let mut plain = swaks(site.smtp.port(), "127.0.0.1", &["--timeout", "10"]);
    plain.stdout.retain(|octet| octet.is_ascii());
    let said = String::from_utf8_lossy(&plain.stdout);
    assert!(!plain.status.success() && !said.contains("220 "), "{said}");
}

/// Guessing ends at one address, and the device at another logs in and sends meanwhile.
#[test]
fn guessers_are_slowed_and_devices_are_not() {
    let sink = Sink::start();
    let site = Site::plain(&sink);
    let hash = hash(&site);
    let open = "address = \"@SMTP@\"\nauth = \"none\"";
    site.edit(open, "address = \"@SMTP@\"\nauth = \"required\"");
    site.extend(&[format!(
        "[[client]]\nname = \"{USER}\"\npassword_hash = \"{hash}\"\n"
    )]);
    let _relay = site.start();
    let login = |from: &str, password: &str| {
        let auth = [
            "--auth",
            "LOGIN",
            "--auth-user",
            USER,
            "--auth-password",
            password,
        ];
        swaks(site.smtp.port(), from, &auth)
    };
    let mut checked = 0;
    for guess in 0..GUESSES {
        let mut client = Client::ehlo(site.smtp).unwrap();
        // "\0printer-2\0" and a digit: of a name that exists and of one that does not.
        let name = if guess % 2 == 0 {
            "AHByaW50ZXItMgB4"
        } else {
            "AHByaW50ZXItMwB4"
        };
        let reply = client.command(&format!("AUTH PLAIN {name}")).unwrap();
        assert!(matches!(reply.code, 535 | 454), "{reply:?}");
        checked += usize::from(reply.code == 535);
    }
    assert!(
        checked > 0 && checked <= CHECKED_MAX,
        "{checked} were checked"
    );
    for _ in 0..3 {
        assert_sent(&login("127.0.0.5", PASSWORD));
    }
    sink.nth(3);
    // Right or not, the guesser's address waits.
    let refused = login("127.0.0.1", PASSWORD);
    let said = String::from_utf8_lossy(&refused.stdout);
    assert!(
        !refused.status.success() && said.contains("454 4.7.0"),
        "{said}"
    );
}
