//! TLS that must not be trusted, by OpenSSL: nothing secret is said, the account is held, and the reason
//! names what is wrong.

use std::{fs, net::SocketAddr, path::Path, process::Command};

use crate::{
    rig::{authority, certificates_for, certificates_until},
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

/// An authority and a certificate for 127.0.0.1 that it has signed with SHA-1, by OpenSSL: `rcgen` will not.
fn signed_with_sha1(dir: &Path) {
    fs::write(dir.join("names"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    let steps = [
        "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -subj /CN=weak-authority -days 3650",
        "req -newkey rsa:2048 -nodes -keyout key.pem -out request.pem -subj /CN=127.0.0.1",
        "x509 -req -sha1 -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -out cert.pem -days 3650 -extfile names",
    ];
    for step in steps {
        let mut command = Command::new(program("openssl", "openssl"));
        let output = command.args(step.split(' ')).current_dir(dir).output();
        let output = output.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{step}: {said}");
    }
}

/// Row 31: the order in which a server shows its chain does not matter, nor what else it shows.
#[test]
fn a_chain_in_the_wrong_order_is_believed() {
    let (dir, other) = (scratch(), scratch());
    let path = dir.path();
    certificates_for(other.path(), &["mail.other.example"]);
    let root_key = rcgen::KeyPair::generate().unwrap();
    let root = authority("root");
    let root_pem = root.self_signed(&root_key).unwrap().pem();
    let root = rcgen::Issuer::new(root, root_key);
    let (mut above, mut chain) = (root, Vec::new());
    for name in ["upper", "lower"] {
        let key = rcgen::KeyPair::generate().unwrap();
        let own = authority(name);
        chain.push(own.signed_by(&key, &above).unwrap().pem());
        above = rcgen::Issuer::new(own, key);
    }
    let key = rcgen::KeyPair::generate().unwrap();
    let own = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    fs::write(
        path.join("cert.pem"),
        own.signed_by(&key, &above).unwrap().pem(),
    )
    .unwrap();
    fs::write(path.join("key.pem"), key.serialize_pem()).unwrap();
    fs::write(path.join("ca.pem"), root_pem).unwrap();
    // From the top down, behind a stranger's.
    let strange = fs::read_to_string(other.path().join("cert.pem")).unwrap();
    fs::write(path.join("chain.pem"), strange + &chain.concat()).unwrap();
    let shown = path.join("chain.pem");
    let server = Server::start(path, "cert.pem", &["-cert_chain", shown.to_str().unwrap()]);
    let site = Site::new(&server.account("chain", &path.join("ca.pem")));
    let _relay = site.start();
    let mut client = Client::ehlo(site.smtp).unwrap();
    let sent = client.send(
        "chain@example.test",
        &["rcpt@example.org"],
        &message("c", b"c\r\n"),
    );
    sent.unwrap().expect(250).unwrap();
    eventually("the server sees a client", || {
        server.process.log().contains("CIPHER is").then_some(())
    });
}

#[test]
fn what_cannot_be_trusted_gets_nothing_and_is_named() {
    let names = ["127.0.0.1"];
    let dirs: Vec<_> = (0..9).map(|_| scratch()).collect();
    let dir = |n: usize| dirs[n].path();
    certificates_until(dir(0), &names, 2020);
    certificates_for(dir(1), &["mail.other.example"]);
    for n in 2..9 {
        certificates_for(dir(n), &names);
    }
    // Signed by itself, for the right name.
    let own = rcgen::KeyPair::generate().unwrap();
    let own_certificate = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let own_certificate = own_certificate.self_signed(&own).unwrap();
    fs::write(dir(2).join("cert.pem"), own_certificate.pem()).unwrap();
    fs::write(dir(2).join("key.pem"), own.serialize_pem()).unwrap();
    signed_with_sha1(dir(6));
    let old = "DEFAULT@SECLEVEL=0";
    // Name, options of the server, whose authority is trusted, words of the reason.
    let cases: [(&str, &[&str], usize, &str); 7] = [
        ("expired", &[], 0, "expired"),
        ("name", &[], 1, "name"),
        ("selfsigned", &[], 2, "issuer"),
        ("unknown", &[], 8, "issuer"),
        ("old10", &["-tls1", "-cipher", old], 4, "1.2"),
        ("old11", &["-tls1_1", "-cipher", old], 5, "1.2"),
        ("sha1", &["-cipher", old], 6, "signature"),
    ];
    let mut tables = String::new();
    let mut servers = Vec::new();
    for (n, (name, options, trusted, _)) in cases.iter().enumerate() {
        let server = Server::start(dir(n), "cert.pem", options);
        tables.push_str(&server.account(name, &dir(*trusted).join("ca.pem")));
        servers.push(server);
    }
    // The same rig with nothing wrong comes as far as the password: else the test would prove nothing.
    let good = Server::start(dir(7), "cert.pem", &[]);
    tables.push_str(&good.account("good", &dir(7).join("ca.pem")));
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
        for seen in ["CIPHER is", "EHLO", CANARY] {
            assert!(!log.contains(seen), "{name}: {log}");
        }
    }
}
