//! TLS that ends in the middle of DATA, with plain octets after it (the form of CVE-2026-45185): nothing
//! is accepted, and the next client is served.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::Arc,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, pem::PemObject},
};

use crate::{
    rig::certificates,
    support::{free_address, mail::message, relay::Site, scratch, sink::Sink},
};

type Tls = StreamOwned<ClientConnection, TcpStream>;

fn reply(stream: &mut Tls) -> String {
    let mut text = Vec::new();
    let mut octet = [0];
    loop {
        stream.read_exact(&mut octet).unwrap();
        text.push(octet[0]);
        let line = text.rsplit(|o| *o == b'\n').nth(1);
        if text.ends_with(b"\n") && line.is_some_and(|line| line.get(3) == Some(&b' ')) {
            return String::from_utf8(text).unwrap();
        }
    }
}

#[test]
fn nothing_is_taken_of_a_session_whose_tls_ended() {
    let dir = scratch();
    certificates(dir.path());
    let (sink, tls) = (Sink::start(), free_address());
    let file = |name: &str| dir.path().join(name).display().to_string();
    let site = Site::new(&format!(
        "[[listener]]\naddress = \"{tls}\"\ntls = \"implicit\"\nauth = \"none\"\ncertificate_file = \"{}\"\n\
         key_file = \"{}\"\n{}",
        file("cert.pem"),
        file("key.pem"),
        sink.account("alerts")
    ));
    let mut relay = site.start();
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(file("ca.pem")).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let config = Arc::new(config);
    let open = || {
        let client = ClientConnection::new(Arc::clone(&config), "localhost".try_into().unwrap());
        let stream = TcpStream::connect(tls).unwrap();
        let mut stream = StreamOwned::new(client.unwrap(), stream);
        assert!(reply(&mut stream).starts_with("220"));
        for line in [
            "EHLO x",
            "MAIL FROM:<a@example.test>",
            "RCPT TO:<b@example.org>",
        ] {
            write!(stream, "{line}\r\n").unwrap();
            assert!(reply(&mut stream).starts_with("250"), "{line}");
        }
        write!(stream, "DATA\r\n").unwrap();
        assert!(reply(&mut stream).starts_with("354"));
        stream
    };
    let octets = message("cut", b"Half of it.\r\n");
    // What is said in clear after the end of TLS: an octet, an end of data, a command.
    for after in [
        b"x".as_slice(),
        b".\r\n",
        b"\r\n.\r\nMAIL FROM:<evil@example.test>\r\n",
        b"",
    ] {
        for notified in [true, false] {
            let mut stream = open();
            stream.write_all(&octets).unwrap();
            stream.flush().unwrap();
            if notified {
                stream.conn.send_close_notify();
                stream.conn.write_tls(&mut stream.sock).unwrap();
            }
            stream.sock.write_all(after).unwrap();
            stream.sock.shutdown(std::net::Shutdown::Write).unwrap();
            let mut rest = Vec::new();
            // Reset or closed: it must end.
            let _ended = stream.sock.read_to_end(&mut rest);
            assert!(site.queue().is_empty(), "{after:?} {notified}");
        }
    }
    assert!(relay.process.ended().is_none(), "it lives");
    // And a whole message of the same kind is taken.
    let mut stream = open();
    stream.write_all(&octets).unwrap();
    stream.write_all(b".\r\n").unwrap();
    assert!(reply(&mut stream).starts_with("250"));
    sink.find("Half of it.");
    site.wait_empty();
    assert_eq!(sink.ledger().deliveries.len(), 1);
}
