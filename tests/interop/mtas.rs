//! Exim and OpenSMTPD as senders, our listener their smarthost. (Postfix is with the clients.)
//!
//! Debian installs one mail server at a time, so these run from unpacked packages
//! (`rig/installed.sh`).

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use crate::{
    clients::{Office, PASSWORD, USER, Way, run},
    rig::{file, fill},
    support::{
        eventually, free_address,
        mail::{assert_same, hard_bodies, message},
        need_root,
        process::Process,
        program, repository, scratch,
        smtp::Client,
    },
};

/// An unpacked mail server with its configuration.
struct Unpacked {
    dir: TempDir,
    package: PathBuf,
}

impl Unpacked {
    /// `accounts`: the users it runs as, which its package would make.
    fn new(package: &str, accounts: &[&str]) -> Self {
        need_root("mail servers start as root");
        let dir = scratch();
        let package = repository().join("target/tools/mta").join(package);
        assert!(
            package.join("usr").is_dir(),
            "{} is missing: run ./test.sh",
            package.display()
        );
        let etc = dir.path().join("etc");
        fs::create_dir(&etc).unwrap();
        for (name, tail) in [("passwd", "::/:/bin/false"), ("group", "")] {
            let mut text = fs::read_to_string(Path::new("/etc").join(name)).unwrap();
            for (at, account) in accounts.iter().enumerate() {
                let id = 61_234 + at;
                text += &match name {
                    "passwd" => format!("{account}:x:{id}:{id}{tail}\n"),
                    _ => format!("{account}:x:{id}:\n"),
                };
            }
            fs::write(etc.join(name), text).unwrap();
        }
        Self { dir, package }
    }

    fn etc(&self, name: &str) -> PathBuf {
        self.dir.path().join("etc").join(name)
    }

    /// Runs this as if the package were installed.
    fn command(&self, program_and_arguments: &[&str]) -> Command {
        let mut command = Command::new(program("unshare", "util-linux"));
        command.args(["--mount", "sh"]).arg(file("installed.sh"));
        command.arg(&self.package).arg(self.dir.path().join("etc"));
        command.args(program_and_arguments);
        command
    }
}

/// In clear, and with STARTTLS, a verified certificate and AUTH.
#[test]
fn exim() {
    let office = Office::open();
    for way in [Way::Open, Way::StartTls("PLAIN")] {
        let exim = Unpacked::new("exim", &["Debian-exim"]);
        let dir = exim.dir.path();
        for folder in ["spool", "log"] {
            fs::create_dir(dir.join(folder)).unwrap();
            let owner = Some(61_234);
            std::os::unix::fs::chown(dir.join(folder), owner, owner).unwrap();
        }
        fs::copy(office.ca(), dir.join("ca.pem")).unwrap();
        let transport = if way == Way::Open {
            "  hosts_avoid_tls = *\n".to_owned()
        } else {
            format!(
                "  hosts_require_tls = *\n  tls_verify_hosts = *\n  tls_verify_certificates = {}\n  \
                 hosts_require_auth = *\n",
                dir.join("ca.pem").display()
            )
        };
        fs::create_dir(exim.etc("exim4")).unwrap();
        fill(
            "exim.conf",
            &exim.etc("exim4/exim4.conf"),
            &[
                ("@DIR@", dir.to_str().unwrap()),
                ("@RELAY_PORT@", &office.port(way).to_string()),
                ("@TRANSPORT@", &transport),
                ("@USER@", USER),
                ("@PASSWORD@", PASSWORD),
            ],
        );
        for (name, body) in hard_bodies() {
            let sent = message(&format!("exim-{}-{name}", way.tls()), &body);
            let before = office.sink.ledger().deliveries.len();
            let mut unix = sent.clone();
            unix.retain(|octet| *octet != b'\r');
            let arguments = [
                "/usr/sbin/exim4",
                "-odf",
                "-i",
                "-f",
                "app@example.test",
                "rcpt@example.org",
            ];
            run(&exim.command(&arguments), &unix);
            let log = || fs::read_to_string(dir.join("log/mainlog")).unwrap_or_default();
            assert!(
                log().contains("250 2.0.0 queued as "),
                "{way:?} {name}: {}",
                log()
            );
            let came = office.sink.nth(before + 1).octets;
            assert_same(&format!("exim {way:?} {name}"), &sent, &came);
        }
    }
    office.sink.ledger();
}

/// In clear, and with STARTTLS, a verified certificate and AUTH.
#[test]
fn opensmtpd() {
    let office = Office::open();
    for way in [Way::Open, Way::StartTls("PLAIN")] {
        let smtpd = Unpacked::new("opensmtpd", &["opensmtpd", "opensmtpq"]);
        let port = office.port(way);
        let host = if way == Way::Open {
            format!("\"smtp://127.0.0.1:{port}\"")
        } else {
            format!("\"smtp+tls://rig@localhost:{port}\" auth <secrets>")
        };
        let listens: SocketAddr = free_address();
        let marks = [
            ("@SMTP_PORT@", listens.port().to_string()),
            ("@HOST@", host),
        ];
        let marks: Vec<_> = marks
            .iter()
            .map(|(mark, value)| (*mark, value.as_str()))
            .collect();
        fill("smtpd.conf", &smtpd.etc("smtpd.conf"), &marks);
        fs::write(smtpd.etc("secrets"), format!("rig {USER}:{PASSWORD}\n")).unwrap();
        // It trusts what the system trusts, and knows its names.
        fs::create_dir_all(smtpd.etc("ssl/certs")).unwrap();
        fs::copy(office.ca(), smtpd.etc("ssl/certs/ca-certificates.crt")).unwrap();
        fs::write(smtpd.etc("hosts"), "127.0.0.1 localhost\n").unwrap();
        let closed = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(smtpd.etc("secrets"), closed).unwrap();
        let log = smtpd.dir.path().join("smtpd.log");
        let command = smtpd.command(&["/usr/sbin/smtpd", "-d"]);
        let mut process = Process::spawn("opensmtpd", &command, &log).orderly();
        for (name, body) in hard_bodies() {
            let sent = message(&format!("opensmtpd-{}-{name}", way.tls()), &body);
            let before = office.sink.ledger().deliveries.len();
            let mut client = eventually("OpenSMTPD greets", || {
                assert!(process.ended().is_none(), "{}", process.log());
                Client::ehlo(listens).ok()
            });
            let taken = client
                .send("app@example.test", &["rcpt@example.org"], &sent)
                .unwrap();
            taken.expect(250).unwrap();
            let came = office.sink.nth(before + 1).octets;
            assert_same(&format!("opensmtpd {way:?} {name}"), &sent, &came);
        }
    }
    office.sink.ledger();
}
