//! TLS that must not be trusted, by OpenSSL: nothing secret is said, the account is held, and the reason
//! names what is wrong.

use std::{fs, net::SocketAddr, path::Path, process::Command};

use crate::{
    rig::{certificates_for, certificates_until},
    support::{
        eventually, free_address, mail::message, process::Process, program, relay::Site, scratch,
        smtp::Client,
    },
};

/// What no server may see.
const CANARY: &str = "canary-password-31";

/// `openssl s_server`; what it decrypts is in its log.
struct Server {
    address: SocketAddr,
    process: Process,
}

impl Server {
    fn start(dir: &Path, certificate: &str, options: &[&str]) -> Self {
        let address = free_address();
        // It ends when its input does.
        let mut command = Command::new(program("sh", "dash"));
        command
            .args(["-c", "sleep infinity | \"$@\"", "sh"])
            .arg(program("openssl", "openssl"))
            .args(["s_server", "-accept", &address.to_string()])
            .arg("-cert")
            .arg(dir.join(certificate))
            .arg("-key")
            .arg(dir.join("key.pem"))
            .args(options);
        let log = dir.join("s_server.log");
        let mut process = Process::spawn("s_server", &command, &log);
        // A look by connecting would be a handshake that fails.
        eventually("s_server listens", || {
            assert!(process.ended().is_none(), "{}", process.log());
            process.log().contains("ACCEPT").then_some(())
        });
        Self { address, process }
    }

    fn account(&self, name: &str, ca_file: &Path) -> String {
        format!(
            "[account.{name}]\nmailbox = \"{name}@example.test\"\n[account.{name}.smtp]\n\
             host = \"127.0.0.1\"\nport = {}\ntls = \"implicit\"\nauth = \"password\"\n\
             username = \"{name}\"\npassword = \"{CANARY}\"\nca_file = \"{}\"\n\
             [[route]]\nsender = \"{name}@example.test\"\naccount = \"{name}\"\n",
            self.address.port(),
            ca_file.display()
        )
    }
}

#[test]
fn what_cannot_be_trusted_gets_nothing_and_is_named() {
    let names = ["127.0.0.1"];
    let dirs: Vec<_> = (0..8).map(|_| scratch()).collect();
    let dir = |n: usize| dirs[n].path();
    certificates_until(dir(0), &names, 2020);
    certificates_for(dir(1), &["mail.other.example"]);
    for n in 2..8 {
        certificates_for(dir(n), &names);
    }
    // Signed by itself, for the right name.
    let own = rcgen::KeyPair::generate().unwrap();
    let own_certificate = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let own_certificate = own_certificate.self_signed(&own).unwrap();
    fs::write(dir(2).join("cert.pem"), own_certificate.pem()).unwrap();
    fs::write(dir(2).join("key.pem"), own.serialize_pem()).unwrap();
    let old = "DEFAULT@SECLEVEL=0";
    // Name, options of the server, whose authority is trusted, words of the reason.
    let cases: [(&str, &[&str], usize, &str); 6] = [
        ("expired", &[], 0, "expired"),
        ("name", &[], 1, "name"),
        ("selfsigned", &[], 2, "issuer"),
        ("unknown", &[], 7, "issuer"),
        ("old10", &["-tls1", "-cipher", old], 4, "1.2"),
        ("old11", &["-tls1_1", "-cipher", old], 5, "1.2"),
    ];
    let mut tables = String::new();
    let mut servers = Vec::new();
    for (n, (name, options, trusted, _)) in cases.iter().enumerate() {
        let server = Server::start(dir(n), "cert.pem", options);
        tables.push_str(&server.account(name, &dir(*trusted).join("ca.pem")));
        servers.push(server);
    }
    // The same rig with nothing wrong comes as far as the password: else the test would prove nothing.
    let good = Server::start(dir(6), "cert.pem", &[]);
    tables.push_str(&good.account("good", &dir(6).join("ca.pem")));
    let site = Site::new(&tables);
    let _relay = site.start();
    let mut client = Client::ehlo(site.smtp).unwrap();
    for (name, ..) in cases.iter().chain([&("good", &[][..], 0, "")]) {
        let from = format!("{name}@example.test");
        let octets = message(name, b"secret\r\n");
        let sent = client.send(&from, &["rcpt@example.org"], &octets);
        sent.unwrap().expect(250).unwrap();
    }
    for (name, _, _, words) in cases {
        let account = site.wait_account(name, "held");
        let reason = account["reason"].as_str().unwrap().to_lowercase();
        assert!(reason.contains(words), "{name}: {reason}");
        let remedy = account["remedy"].as_str().unwrap();
        assert!(remedy.contains("nothing was sent"), "{name}: {remedy}");
    }
    eventually("the good server sees a client", || {
        good.process.log().contains("CIPHER is").then_some(())
    });
    let waiting = site.queue();
    assert_eq!(waiting.len(), cases.len() + 1, "nothing is bounced");
    assert!(waiting.iter().all(|entry| entry["attempts"] == 0));
    for (server, (name, ..)) in servers.iter().zip(cases) {
        let log = server.process.log();
        assert!(
            !log.contains("EHLO") && !log.contains(CANARY),
            "{name}: {log}"
        );
    }
}
