//! `sendmail`, `mailq` and `newaliases` as programs call them, against a running daemon.

use std::{
    fs,
    io::{ErrorKind, Write},
    os::unix::fs::symlink,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use crate::support::{
    mail::{assert_same, body, has_header, message},
    relay::{BINARY, Site, bare},
    sink::Sink,
};

/// A daemon with a Unix socket beside its port, and links to its binary.
struct Host {
    sink: Sink,
    site: Site,
}

impl Host {
    fn new() -> Self {
        let sink = Sink::start();
        let site = Site::plain(&sink);
        site.extend(&[
            "[[listener]]\naddress = \"unix:@DIR@/smtp.sock\"\nauth = \"none\"\nmax_recipients = 2\n"
                .to_owned(),
        ]);
        for name in ["sendmail", "mailq", "newaliases"] {
            symlink(BINARY, site.path().join(name)).unwrap();
        }
        Self { sink, site }
    }

    fn link(&self, name: &str) -> PathBuf {
        self.site.path().join(name)
    }

    /// Calls it by a name of sendmail's, the configuration in the environment.
    fn call(&self, name: &str, arguments: &[&str], input: &[u8]) -> Output {
        let mut command = Command::new(self.link(name));
        command.args(arguments);
        bare(&mut command);
        command.env("GATEPOST_CONFIG", self.site.config());
        feed(command, input)
    }

    /// Sends what must be taken.
    fn send(&self, arguments: &[&str], input: &[u8]) {
        let output = self.call("sendmail", arguments, input);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
        assert!(
            output.stdout.is_empty() && output.stderr.is_empty(),
            "{output:?}"
        );
    }

    /// Sends what must be refused; what it says.
    fn refuse(&self, code: i32, arguments: &[&str], input: &[u8]) -> String {
        let output = self.call("sendmail", arguments, input);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}: {output:?}"
        );
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.starts_with("sendmail: "), "{said}");
        said
    }
}

fn feed(mut command: Command, input: &[u8]) -> Output {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    match stdin.write_all(input) {
        // Arguments are judged before the message is read: a refusal may come first.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
        written => written.unwrap(),
    }
    drop(stdin);
    child.wait_with_output().unwrap()
}

fn unix(octets: &[u8]) -> Vec<u8> {
    octets
        .iter()
        .copied()
        .filter(|octet| *octet != b'\r')
        .collect()
}

/// Every way to name the recipients; the message arrives octet for octet, by the Unix socket.
#[test]
fn a_message_goes_where_it_is_told() {
    let host = Host::new();
    let _relay = host.site.start();
    let sent = message("unix", "Gr\u{fc}\u{df}e.\r\n.\r\n..\r\n".as_bytes());
    let calls: [&[&str]; 5] = [
        &["-i", "-f", "app@example.test", "rcpt@example.org"],
        &["-t", "-oi", "-fapp@example.test"],
        &["-ti", "-r", "app@example.test"],
        &[
            "rcpt@example.org",
            "-oi",
            "-odi",
            "-oem",
            "-B8BITMIME",
            "-f<app@example.test>",
        ],
        &["-ti", "-fapp@example.test", "--", "rcpt@example.org"],
    ];
    for (at, arguments) in calls.into_iter().enumerate() {
        host.send(arguments, &unix(&sent));
        let came = host.sink.nth(at + 1);
        assert_same("sendmail", &sent, &came.octets);
        assert_eq!(
            (came.from.as_str(), came.to),
            ("app@example.test", vec!["rcpt@example.org".into()])
        );
        assert!(has_header(&came.octets, "(local)"), "it came by the socket");
    }
    host.sink.ledger();
}

/// `-t` with copies: Bcc goes no further, nobody gets it twice, and what goes beyond the listener's bound goes in a second
/// transaction.
#[test]
fn recipients_in_the_header() {
    let host = Host::new();
    let _relay = host.site.start();
    let text = "To: One <one@example.org>, two@example.org\nCc: one@example.org,\n three@example.org\n\
                Bcc: secret@example.org\nSubject: x\n\nbody\n";
    host.send(&["-t", "-f", "app@example.test"], text.as_bytes());
    let (first, second) = (host.sink.nth(1), host.sink.nth(2));
    let mut all = [first.to, second.to].concat();
    all.sort();
    assert_eq!(
        all,
        [
            "one@example.org",
            "secret@example.org",
            "three@example.org",
            "two@example.org"
        ]
    );
    for came in [&first.octets, &second.octets] {
        assert!(!has_header(came, "secret@example.org") && !has_header(came, "Bcc"));
        assert_eq!(body(came), b"body\r\n");
    }
}

/// What cron prints: no header fields but a few, progress bars, a lone dot, no sender.
#[test]
fn what_cron_prints() {
    let host = Host::new();
    let _relay = host.site.start();
    let text = "Subject: Cron <root@host> backup\n\n10%\r50%\r100%\n.\nafter the dot\n";
    host.send(
        &["-FCronDaemon", "-i", "-B8BITMIME", "-oem", "root"],
        text.as_bytes(),
    );
    let came = host.sink.nth(1);
    assert_eq!(came.from, "root@relay.example.test");
    assert_eq!(came.to, ["root@relay.example.test"]);
    assert!(has_header(
        &came.octets,
        "From: CronDaemon <root@relay.example.test>"
    ));
    assert_eq!(
        body(&came.octets),
        b"10%\r\n50%\r\n100%\r\n.\r\nafter the dot\r\n"
    );
    host.send(&["-f", "", "root"], text.as_bytes());
    let came = host.sink.nth(2);
    assert_eq!(came.from, "");
    assert_eq!(
        body(&came.octets),
        b"10%\r\n50%\r\n100%\r\n",
        "the dot ends it"
    );
}

/// Each failure by its number, with what to do; nothing is sent.
#[test]
fn failures_are_told_by_number() {
    let host = Host::new();
    let text = b"Subject: x\n\nx\n";
    let said = host.refuse(75, &["a@example.org"], text);
    assert!(
        said.contains("gatepost run") && said.contains("was not taken"),
        "{said}"
    );
    assert_eq!(host.call("mailq", &[], b"").status.code(), Some(69));
    let relay = host.site.start();
    host.refuse(64, &["-Z"], text);
    host.refuse(64, &["-t"], text);
    host.refuse(64, &["-i"], text);
    host.refuse(65, &["a b@example.org"], text);
    host.refuse(65, &["a@example.org"], b"Subject: x\n\na\0b\n");
    host.refuse(65, &["a@example.org", "-f", "x@y@z"], text);
    host.refuse(78, &["--config", "/nowhere.toml", "a@example.org"], text);
    // No route: known when the message is to come.
    host.site.edit(
        "[account.alerts]",
        "[[route]]\nsender = \"x@y.z\"\naccount = \"alerts\"\n[account.alerts]",
    );
    host.site.extend(&[host.sink.account("second")]);
    host.site.cli(&["reload"]);
    host.refuse(77, &["-f", "app@example.test", "a@example.org"], text);
    assert!(host.sink.ledger().deliveries.is_empty());
    drop(relay);
}

/// `-bs`: the caller speaks SMTP itself.
#[test]
fn smtp_on_standard_input() {
    let host = Host::new();
    let _relay = host.site.start();
    let sent = message("bs", b"By -bs.\r\n");
    let wire = [
        b"EHLO mua\r\nMAIL FROM:<app@example.test>\r\nRCPT TO:<rcpt@example.org>\r\nDATA\r\n",
        &crate::support::smtp::stuffed(&sent)[..],
        b"QUIT\r\n",
    ]
    .concat();
    let output = host.call("sendmail", &["-bs"], &wire);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        said.starts_with("220 ") && said.contains("\r\n250 2.0.0 queued as "),
        "{said}"
    );
    assert!(said.ends_with("\r\n221 2.0.0 bye\r\n"), "{said}");
    assert_same("-bs", &sent, &host.sink.nth(1).octets);
}

/// `mailq`, `-q` and `newaliases` by their names; `gatepost sendmail` is the same.
#[test]
fn the_queue_in_the_form_that_programs_expect() {
    let host = Host::new();
    let _relay = host.site.start();
    let listing = |arguments: &[&str]| {
        let output = host.call("mailq", arguments, b"");
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(listing(&[]), "Mail queue is empty\n");
    host.sink.answer_mail(Some("451 4.7.500 busy"));
    let mut command = host.site.command(&["sendmail", "-i", "-v"]);
    command.args(["-f", "app@example.test", "rcpt@example.org"]);
    let output = feed(command, &message("queued", b"x\r\n"));
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    let id = said.trim_end().rsplit(' ').next().unwrap();
    assert!(said.starts_with("250 2.0.0 queued as "), "{said}");
    let listed = listing(&[]);
    assert!(
        listed.starts_with("-Queue ID-") && listed.contains(id),
        "{listed}"
    );
    assert!(listed.contains("app@example.test\n") && listed.contains(" rcpt@example.org\n"));
    assert!(listed.ends_with("-- 1 Kbytes in 1 Request.\n"), "{listed}");
    host.sink.answer_mail(None);
    for (name, arguments) in [
        ("sendmail", &["-q"][..]),
        ("newaliases", &[]),
        ("sendmail", &["-bi"]),
    ] {
        assert_eq!(
            host.call(name, arguments, b"").status.code(),
            Some(0),
            "{name} {arguments:?}"
        );
    }
    host.sink.nth(1);
    let help = host.site.cli(&["sendmail", "--help"]);
    assert!(help.starts_with("Usage: sendmail"), "{help}");
}

/// Whoever may not read the configuration finds the usual places.
#[test]
fn an_unreadable_configuration_is_not_needed() {
    crate::support::need_root("another user calls sendmail");
    let host = Host::new();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(host.site.path(), open).unwrap();
    let closed = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(host.site.config(), closed).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    command
        .arg(BINARY)
        .args(["sendmail", "--config"])
        .arg(host.site.config());
    command.args(["-f", "app@example.test", "rcpt@example.org"]);
    let output = feed(command, b"Subject: x\n\nx\n");
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(75), "{said}");
    assert!(
        said.contains("/run/gatepost/smtp.sock") && said.contains("127.0.0.1:2525"),
        "{said}"
    );
}
