//! Legacy clients of all kinds submit; every octet is compared at the upstream's ledger.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    rig::{Hop, Postfix, certificates},
    support::{
        free_address,
        mail::{assert_same, attachment, body, hard_bodies, message},
        process::guarded,
        program,
        relay::{Relay, Site},
        repository,
        sink::Sink,
    },
};

/// The device's password; its hash is made by our own `hash-password`.
pub(crate) const PASSWORD: &str = "pr1nter-pass";

/// The device's name.
pub(crate) const USER: &str = "printer-2";

/// A relay with a plain listener, one with STARTTLS and one with implicit TLS; the latter two want a
/// login.
pub(crate) struct Office {
    pub(crate) sink: Sink,
    site: Site,
    starttls: u16,
    tls: u16,
    _relay: Relay,
}

/// How a client connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Nothing at all, as old devices do.
    Open,
    /// STARTTLS, then AUTH with this mechanism.
    StartTls(&'static str),
    /// TLS from the first octet, then AUTH with this mechanism.
    Tls(&'static str),
    /// AUTH in clear, on loopback.
    Clear(&'static str),
}

impl Way {
    /// All that are tried with each client that can.
    const ALL: [Self; 6] = [
        Self::Open,
        Self::StartTls("PLAIN"),
        Self::StartTls("LOGIN"),
        Self::Tls("PLAIN"),
        Self::Tls("LOGIN"),
        Self::Clear("PLAIN"),
    ];

    /// `none`, `starttls` or `tls`, as the client scripts take it.
    pub(crate) fn tls(self) -> &'static str {
        match self {
            Self::Open | Self::Clear(_) => "none",
            Self::StartTls(_) => "starttls",
            Self::Tls(_) => "tls",
        }
    }

    fn mechanism(self) -> Option<&'static str> {
        match self {
            Self::Open => None,
            Self::StartTls(mechanism) | Self::Tls(mechanism) | Self::Clear(mechanism) => {
                Some(mechanism)
            }
        }
    }

    /// USER PASSWORD MECHANISM, as the client scripts take it.
    fn login(self) -> Vec<&'static str> {
        self.mechanism()
            .map_or_else(Vec::new, |mechanism| vec![USER, PASSWORD, mechanism])
    }
}

impl Office {
    pub(crate) fn open() -> Self {
        let sink = Sink::start();
        let (starttls, tls) = (free_address(), free_address());
        let site = Site::new("");
        certificates(site.path());
        let secured = |address, tls| {
            format!(
                "[[listener]]\naddress = \"{address}\"\ntls = \"{tls}\"\nauth = \"required\"\n\
                 certificate_file = \"@DIR@/cert.pem\"\nkey_file = \"@DIR@/key.pem\"\n"
            )
        };
        let hash = hash(&site);
        let client = format!(
            "[[client]]\nname = \"{USER}\"\npassword_hash = \"{hash}\"\nsenders = [\"*@example.test\"]\n"
        );
        site.edit("auth = \"none\"", "auth = \"optional\"");
        site.extend(&[
            secured(starttls, "starttls"),
            secured(tls, "implicit"),
            client,
            sink.account("alerts"),
        ]);
        let relay = site.start();
        Self {
            sink,
            site,
            starttls: starttls.port(),
            tls: tls.port(),
            _relay: relay,
        }
    }

    pub(crate) fn port(&self, way: Way) -> u16 {
        match way {
            Way::Open | Way::Clear(_) => self.site.smtp.port(),
            Way::StartTls(_) => self.starttls,
            Way::Tls(_) => self.tls,
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.site.path().join(name)
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.file("ca.pem")
    }

    /// A file with these octets.
    fn write(&self, name: &str, octets: &[u8]) -> PathBuf {
        let path = self.file(name);
        fs::write(&path, octets).unwrap();
        path
    }

    /// Each hard body by each way: `send` runs the client with the message; then it is compared.
    fn all(&self, who: &str, ways: &[Way], send: impl Fn(&Letter<'_>)) {
        for way in ways {
            for (name, body) in hard_bodies() {
                // The attachment is large: once by the plainest and once by an encrypted way.
                let rare = !matches!(way, Way::Open | Way::Tls("PLAIN") | Way::StartTls("PLAIN"));
                if name == "attachment" && rare {
                    continue;
                }
                let sent = message(&format!("{who}-{name}"), &body);
                let before = self.sink.ledger().deliveries.len();
                send(&Letter {
                    office: self,
                    way: *way,
                    octets: &sent,
                });
                let came = self.sink.nth(before + 1);
                assert_same(&format!("{who} {way:?} {name}"), &sent, &came.octets);
                assert_eq!(came.from, "app@example.test");
                assert_eq!(came.to, ["rcpt@example.org"]);
            }
        }
        self.sink.ledger();
    }
}

/// A message for a client to send.
struct Letter<'a> {
    office: &'a Office,
    way: Way,
    octets: &'a [u8],
}

impl Letter<'_> {
    fn port(&self) -> String {
        self.office.port(self.way).to_string()
    }

    fn ca(&self) -> PathBuf {
        self.office.ca()
    }

    /// The message with LF, as programs on Unix want it.
    fn unix(&self) -> Vec<u8> {
        let mut octets = self.octets.to_vec();
        octets.retain(|octet| *octet != b'\r');
        octets
    }
}

/// A script of `clients/`.
fn script(name: &str) -> PathBuf {
    repository().join("tests/interop/clients").join(name)
}

/// Runs a client to its success.
pub(crate) fn run(command: &Command, input: &[u8]) {
    let mut guarded = guarded(command);
    guarded
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = guarded.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    // A client that does not read its input has ended by now.
    let _unread = writer.join().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The hash our own verb makes of the password.
pub(crate) fn hash(site: &Site) -> String {
    let mut child = Command::new(crate::support::relay::BINARY)
        .arg("hash-password")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    writeln!(stdin, "{PASSWORD}").unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let hash = printed.lines().find(|line| line.starts_with("$argon2id$"));
    hash.unwrap_or_else(|| panic!("hash-password in {site:?} printed {printed:?}"))
        .to_owned()
}

#[test]
fn swaks() {
    Office::open().all("swaks", &Way::ALL, |letter| {
        let mut command = Command::new(program("swaks", "swaks"));
        command.args(["--server", "localhost", "--port", &letter.port()]);
        command.args(["--from", "app@example.test", "--to", "rcpt@example.org"]);
        command.args(["--hide-all", "--no-data-fixup", "--data"]);
        // Sent as it stands, so dots and the end are ours to write.
        let wire = crate::support::smtp::stuffed(letter.octets);
        command.arg(letter.office.write("letter.wire", &wire));
        match letter.way {
            Way::StartTls(_) => command.arg("--tls"),
            Way::Tls(_) => command.arg("--tls-on-connect"),
            Way::Open | Way::Clear(_) => &mut command,
        };
        if let Some(mechanism) = letter.way.mechanism() {
            command.args([
                "--auth",
                mechanism,
                "--auth-user",
                USER,
                "--auth-password",
                PASSWORD,
            ]);
        }
        run(&command, b"");
    });
}

#[test]
fn curl() {
    Office::open().all("curl", &Way::ALL, |letter| {
        let mut command = Command::new(program("curl", "curl"));
        let scheme = if letter.way.tls() == "tls" {
            "smtps"
        } else {
            "smtp"
        };
        command.args(["-sS", "--max-time", "60", "--crlf"]);
        command.arg(format!(
            "{scheme}://localhost:{}/sender.example.test",
            letter.port()
        ));
        command.args([
            "--mail-from",
            "app@example.test",
            "--mail-rcpt",
            "rcpt@example.org",
        ]);
        command.arg("--cacert").arg(letter.ca());
        let unix = letter.unix();
        command
            .arg("--upload-file")
            .arg(letter.office.write("letter.unix", &unix));
        if let Way::StartTls(_) = letter.way {
            command.arg("--ssl-reqd");
        }
        if let Some(mechanism) = letter.way.mechanism() {
            command.args(["--user", &format!("{USER}:{PASSWORD}")]);
            command.args(["--login-options", &format!("AUTH={mechanism}")]);
        }
        run(&command, b"");
    });
}

#[test]
fn msmtp() {
    Office::open().all("msmtp", &Way::ALL, |letter| {
        let mut command = Command::new(program("msmtp", "msmtp"));
        command.args(["--file=/dev/null", "--host=localhost", "--timeout=60"]);
        command.arg(format!("--port={}", letter.port()));
        command.args([
            "--from=app@example.test",
            "--set-from-header=off",
            "--set-date-header=off",
        ]);
        match letter.way {
            Way::Open | Way::Clear(_) => command.arg("--tls=off"),
            Way::StartTls(_) => command.args(["--tls=on", "--tls-starttls=on"]),
            Way::Tls(_) => command.args(["--tls=on", "--tls-starttls=off"]),
        };
        if letter.way.tls() != "none" {
            command.arg(format!("--tls-trust-file={}", letter.ca().display()));
        }
        if let Some(mechanism) = letter.way.mechanism() {
            let mechanism = mechanism.to_lowercase();
            command.args([format!("--auth={mechanism}"), format!("--user={USER}")]);
            command.arg(format!("--passwordeval=printf %s {PASSWORD}"));
        } else {
            command.arg("--auth=off");
        }
        command.args(["--", "rcpt@example.org"]);
        run(&command, &letter.unix());
    });
}

#[test]
fn smtplib() {
    Office::open().all("smtplib", &Way::ALL, |letter| {
        let mut command = Command::new(program("python3", "python3"));
        command
            .arg(script("smtplib_send.py"))
            .args([&letter.port(), letter.way.tls()]);
        command.arg(letter.ca()).args(letter.way.login());
        run(&command, letter.octets);
    });
}

/// Where Debian keeps Java's libraries.
const JARS: [&str; 2] = [
    "/usr/share/java/jakarta-mail.jar",
    "/usr/share/java/jakarta-activation.jar",
];

/// Compiled once: the launcher that takes source files would compile it for each message.
fn jakarta_class(office: &Office) -> String {
    for jar in JARS {
        assert!(
            Path::new(jar).is_file(),
            "{jar}: install the package libjakarta-mail-java"
        );
    }
    let mut compile = Command::new(program("javac", "openjdk-17-jdk-headless"));
    compile.args(["-cp", &JARS.join(":"), "-d"]);
    compile.arg(office.site.path()).arg(script("Send.java"));
    run(&compile, b"");
    let mut trust = Command::new(program("keytool", "openjdk-17-jdk-headless"));
    trust.args(["-importcert", "-noprompt", "-storetype", "PKCS12"]);
    trust.args(["-storepass", "changeit", "-keystore"]);
    trust
        .arg(office.file("trust.p12"))
        .arg("-file")
        .arg(office.ca());
    run(&trust, b"");
    format!("{}:{}", office.site.path().display(), JARS.join(":"))
}

/// Jakarta Mail, which Java's ERP systems send with. A virtual machine a message is slow: one way of
/// each kind.
#[test]
fn jakarta_mail() {
    let ways = [Way::Open, Way::StartTls("LOGIN"), Way::Tls("PLAIN")];
    let office = Office::open();
    let classes = jakarta_class(&office);
    office.all("jakarta-mail", &ways, |letter| {
        let mut command = Command::new(program("java", "openjdk-17-jdk-headless"));
        let trust = letter.office.file("trust.p12");
        command.arg(format!("-Djavax.net.ssl.trustStore={}", trust.display()));
        command.args([
            "-Djavax.net.ssl.trustStorePassword=changeit",
            "-XX:TieredStopAtLevel=1",
        ]);
        command.args(["-cp", &classes, "Send", &letter.port()]);
        command.arg(match letter.way {
            Way::Open | Way::Clear(_) => "open",
            Way::StartTls(_) => "starttls",
            Way::Tls(_) => "tls",
        });
        if let Some(mechanism) = letter.way.mechanism() {
            command.args([mechanism, USER, PASSWORD]);
        }
        run(&command, letter.octets);
    });
}

#[test]
fn nodemailer() {
    Office::open().all("nodemailer", &Way::ALL, |letter| {
        let mut command = Command::new(program("node", "nodejs (20 or newer)"));
        command
            .arg(script("nodemailer_send.mjs"))
            .args([&letter.port(), letter.way.tls()]);
        command.arg(letter.ca()).args(letter.way.login());
        run(&command, letter.octets);
    });
}

/// What nodemailer itself composes, with an attachment and words beyond ASCII.
#[test]
fn nodemailer_composes() {
    let office = Office::open();
    let text = office.write(
        "text",
        "Gr\u{fc}\u{df}e.\n.\n.dot\n\nlong ".repeat(200).as_bytes(),
    );
    let attached = office.write("attachment", &attachment());
    let out = office.file("composed.eml");
    let mut command = Command::new(program("node", "nodejs (20 or newer)"));
    command
        .arg(script("nodemailer_compose.mjs"))
        .arg(office.port(Way::Open).to_string());
    command.args([&text, &attached, &out]);
    run(&command, b"");
    assert_same(
        "nodemailer",
        &fs::read(&out).unwrap(),
        &office.sink.nth(1).octets,
    );
}

/// PHPMailer composes by itself; what it says it sent is compared.
#[test]
fn phpmailer() {
    let office = Office::open();
    let php = |way: Way, text: &Path, attached: &Path| {
        let out = office.file("composed.eml");
        let mut command = Command::new(program("php", "php-cli"));
        command.arg(script("phpmailer_send.php"));
        command
            .args([&office.port(way).to_string(), way.tls()])
            .arg(office.ca());
        command.args([text, attached, &out]).args(way.login());
        run(&command, b"");
        fs::read(&out).unwrap()
    };
    let none = Path::new("-");
    let attached = office.write("attachment", &attachment());
    let mut count = 0;
    for way in Way::ALL {
        for (name, body) in hard_bodies() {
            let attached = match name {
                // Its text is UTF-8; the attachment is made by PHPMailer itself.
                "latin-1" => continue,
                "attachment" if way == Way::Open => attached.as_path(),
                "attachment" => continue,
                _ => none,
            };
            let text = if attached == none {
                body
            } else {
                b"See attachment.\r\n".to_vec()
            };
            let text = office.write("text", &text);
            let mut sent = php(way, &text, attached);
            count += 1;
            let came = office.sink.nth(count).octets;
            // It cuts the text at its line ends and sends the empty rest as a line too.
            sent.extend_from_slice(b"\r\n");
            assert_same(&format!("phpmailer {way:?} {name}"), &sent, &came);
        }
    }
    office.sink.ledger();
}

/// Postfix as a sender, our listener its relayhost: in clear, with STARTTLS and AUTH. It puts its own
/// `Received` first and ours comes before that.
#[test]
fn postfix() {
    let office = Office::open();
    let login = format!("{USER}:{PASSWORD}");
    let ca = office.ca();
    for (tls, login) in [("none", None), ("encrypt", Some(login.as_str()))] {
        let way = if login.is_some() {
            Way::StartTls("PLAIN")
        } else {
            Way::Open
        };
        let relay = ([127, 0, 0, 1], office.port(way)).into();
        let postfix = Postfix::start(&Hop {
            relay,
            tls,
            login,
            ca: &ca,
        });
        for (name, text) in hard_bodies() {
            let sent = message(&format!("postfix-{tls}-{name}"), &text);
            let before = office.sink.ledger().deliveries.len();
            let mut unix = sent.clone();
            unix.retain(|octet| *octet != b'\r');
            run(&postfix.sendmail(), &unix);
            let came = office.sink.nth(before + 1).octets;
            assert_same(&format!("postfix {tls} {name}"), &sent, &came);
            assert_eq!(body(&came), text);
        }
    }
    office.sink.ledger();
}
