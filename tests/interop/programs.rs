//! Programs that hand their mail to `sendmail`: ours stands in its place.

use std::{fs, os::unix::fs::symlink, path::PathBuf, process::Command};

use crate::{
    clients::run,
    support::{
        mail::{body, has_header},
        program,
        relay::{BINARY, Relay, Site},
        sink::{Delivery, Sink},
    },
};

/// A machine whose `sendmail` is ours.
struct Machine {
    sink: Sink,
    site: Site,
    _relay: Relay,
}

impl Machine {
    fn new() -> Self {
        let sink = Sink::start();
        let site = Site::plain(&sink);
        symlink(BINARY, site.path().join("sendmail")).unwrap();
        let relay = site.start();
        Self {
            sink,
            site,
            _relay: relay,
        }
    }

    fn sendmail(&self) -> PathBuf {
        self.site.path().join("sendmail")
    }

    /// A program with nothing of this machine's user in it.
    fn command(&self, name: &str, package: &str) -> Command {
        let mut command = Command::new(program(name, package));
        command
            .env("GATEPOST_CONFIG", self.site.config())
            .env("HOME", self.site.path())
            .env("LC_ALL", "C.UTF-8")
            .current_dir(self.site.path());
        command
    }

    fn only(&self, to: &[&str]) -> Delivery {
        let came = self.sink.nth(1);
        let mut recipients = came.to.clone();
        recipients.sort();
        assert_eq!(recipients, to);
        self.sink.ledger();
        came
    }
}

#[test]
fn php_mail() {
    let machine = Machine::new();
    let mut command = machine.command("php", "php-cli");
    let sendmail = machine.sendmail();
    command
        .arg("-d")
        .arg(format!("sendmail_path={} -t -i", sendmail.display()));
    command.args([
        "-r",
        r#"exit(mail("One <rcpt@example.org>, two@example.org", "Grüße", "line\n.\nlast\n",
            ["From" => "App <app@example.test>", "Bcc" => "three@example.org"], "-fapp@example.test") ? 0 : 1);"#,
    ]);
    run(&command, b"");
    let came = machine.only(&["rcpt@example.org", "three@example.org", "two@example.org"]);
    assert_eq!(came.from, "app@example.test");
    assert!(!has_header(&came.octets, "three@example.org"));
    assert_eq!(body(&came.octets), b"line\r\n.\r\nlast\r\n\r\n");
}

#[test]
fn git_send_email() {
    let machine = Machine::new();
    let git = |arguments: &[&str]| {
        let mut command = machine.command("git", "git");
        command.env("GIT_CONFIG_NOSYSTEM", "1").args(arguments);
        run(&command, b"");
    };
    let identity = ["-c", "user.name=App", "-c", "user.email=app@example.test"];
    git(&["init", "-q", "."]);
    fs::write(machine.site.path().join("new"), "text\n").unwrap();
    git(&["add", "new"]);
    git(&[&identity[..], &["commit", "-q", "-m", "Add gr\u{fc}n"]].concat());
    let server = format!("--smtp-server={}", machine.sendmail().display());
    let send = [
        "send-email",
        "--quiet",
        "--confirm=never",
        "--envelope-sender=auto",
        "--suppress-cc=all",
        "--from=app@example.test",
        "--to=rcpt@example.org",
        "--cc=Two <two@example.org>",
        &server,
        "--root",
        "HEAD",
    ];
    git(&[&identity[..], &send].concat());
    let came = machine.only(&["rcpt@example.org", "two@example.org"]);
    assert_eq!(came.from, "app@example.test");
    assert!(String::from_utf8_lossy(body(&came.octets)).contains("\r\n+text\r\n"));
}

#[test]
fn s_nail() {
    let machine = Machine::new();
    let mut command = machine.command("s-nail", "s-nail");
    command.args(["-:/", "-S", "v15-compat", "-S"]);
    command.arg(format!("mta={}", machine.sendmail().display()));
    command.args([
        "-r",
        "app@example.test",
        "-s",
        "Gr\u{fc}\u{df}e",
        "-b",
        "two@example.org",
    ]);
    command.arg("rcpt@example.org");
    run(&command, "sch\u{f6}n\n.dot\n".as_bytes());
    let came = machine.only(&["rcpt@example.org", "two@example.org"]);
    assert_eq!(came.from, "app@example.test");
    assert!(!has_header(&came.octets, "two@example.org"));
}

#[test]
fn bsd_mailx() {
    let machine = Machine::new();
    let settings = machine.site.path().join("mailrc");
    fs::write(
        &settings,
        format!("set sendmail={}\n", machine.sendmail().display()),
    )
    .unwrap();
    let mut command = machine.command("bsd-mailx", "bsd-mailx");
    command.env("MAILRC", settings);
    command.args([
        "-n",
        "-r",
        "app@example.test",
        "-s",
        "subject",
        "rcpt@example.org",
    ]);
    run(&command, b"text\n..\nmore\n");
    let came = machine.only(&["rcpt@example.org"]);
    assert_eq!(body(&came.octets), b"text\r\n..\r\nmore\r\n");
}

#[test]
fn mutt() {
    let machine = Machine::new();
    let mut command = machine.command("mutt", "mutt");
    command.args(["-n", "-F", "/dev/null", "-e"]);
    command.arg(format!(
        "set sendmail=\"{} -oem -oi\"",
        machine.sendmail().display()
    ));
    command.args([
        "-e",
        "set from=app@example.test use_envelope_from=yes copy=no",
    ]);
    command.args(["-s", "subject", "-b", "two@example.org", "rcpt@example.org"]);
    run(&command, "sch\u{f6}n\n.\nlast\n".as_bytes());
    let came = machine.only(&["rcpt@example.org", "two@example.org"]);
    assert_eq!(came.from, "app@example.test");
    assert!(!has_header(&came.octets, "two@example.org"));
    assert!(body(&came.octets).ends_with(b"\r\n.\r\nlast\r\n"));
}

/// As cron calls it, its output through a pipe, from a shell.
#[test]
fn cron() {
    let machine = Machine::new();
    let mut command = machine.command("sh", "dash");
    command.arg("-c").arg(format!(
        "(printf 'From: root (Cron Daemon)\\nTo: root\\nSubject: Cron <root@host> job\\n\\n'; echo done) \
         | {} -i -FCronDaemon -B8BITMIME -oem root",
        machine.sendmail().display()
    ));
    run(&command, b"");
    let came = machine.only(&["root@relay.example.test"]);
    assert_eq!(body(&came.octets), b"done\r\n");
}
