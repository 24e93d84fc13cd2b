//! People are told: an account of the practice provider goes on hold and comes back, and webhook,
//! command and mail say each once.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use serde_json::{Value, json};

use crate::{
    apis::{By, Rig},
    support::{
        disk::Disk,
        eventually,
        mail::message,
        relay::{Site, Strace},
        sink::{Sink, contains},
        smtp::Client,
    },
};

/// What a chat service gives: the path is the login.
const PATH: &str = "/services/T0/canary-webhook";

/// A webhook: the JSON of every request.
struct Webhook {
    address: SocketAddr,
    told: Arc<Mutex<Vec<Value>>>,
}

impl Webhook {
    /// One that answers 503 to its first request, and then 200.
    fn with_a_cold() -> Self {
        Self::failing(1)
    }

    fn start() -> Self {
        Self::failing(0)
    }

    /// The table that tells it.
    fn table(&self) -> String {
        format!("[notify]\nwebhook = \"http://{}{PATH}\"\n", self.address)
    }

    fn failing(first: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let told = Arc::new(Mutex::new(Vec::new()));
        let telling = Arc::clone(&told);
        thread::spawn(move || {
            for (n, stream) in listener.incoming().enumerate() {
                let mut stream = stream.unwrap();
                let body = posted(&stream);
                let is_well = n >= first;
                let status = if is_well { "200 OK" } else { "503 Later" };
                let answer =
                    format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).unwrap();
                if is_well {
                    telling.lock().unwrap().push(body);
                }
            }
        });
        Self { address, told }
    }

    fn told(&self) -> Vec<Value> {
        self.told.lock().unwrap().clone()
    }

    fn nth(&self, n: usize) -> Value {
        eventually("the webhook is told", || self.told().get(n).cloned())
    }
}

/// The JSON of a POST to [`PATH`].
fn posted(stream: &TcpStream) -> Value {
    let mut reader = BufReader::new(stream);
    let (mut line, mut length) = (String::new(), 0);
    reader.read_line(&mut line).unwrap();
    assert!(line.starts_with(&format!("POST {PATH} ")), "{line}");
    while line != "\r\n" {
        line.clear();
        reader.read_line(&mut line).unwrap();
        let (name, value) = line.split_once(':').unwrap_or_default();
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    serde_json::from_slice(&body).unwrap()
}

#[test]
fn a_hold_and_its_end_are_told_once_each_by_every_way() {
    let (webhook, sink) = (Webhook::with_a_cold(), Sink::start());
    let tables = format!(
        "{}\n[[route]]\nsender = \"*\"\naccount = \"practice\"\n{}command = [\"sh\", \"-c\", \"cat >> @DIR@/told; echo >> @DIR@/told\"]\n\
         account = \"spare\"\nto = \"ops@example.test\"\n",
        sink.account("spare"),
        webhook.table(),
    );
    let rig = Rig::start(By::Application, "smtp", &tables);
    let site = &rig.site;
    site.wait_account("practice", "ready");
    rig.play(&json!({
        "fault": "reply", "phase": "auth", "reply": "535 5.7.3 Authentication unsuccessful",
    }));
    site.submit(&message("wait", b"I wait.\r\n"));
    let held = site.wait_account("practice", "held");

    let problem = webhook.nth(0);
    assert_eq!(problem["event"], "problem");
    assert_eq!(problem["kind"], "account_held");
    assert_eq!(problem["severity"], "error");
    assert_eq!(problem["account"], "practice");
    assert_eq!(problem["host"], "relay.example.test");
    assert_eq!(problem["reason"], held["reason"], "as `gatepost accounts`");
    let letter = sink.find("practice is on hold");
    assert_eq!(
        (letter.from.as_str(), letter.to),
        ("", vec!["ops@example.test".to_owned()])
    );
    assert!(contains(
        &letter.octets,
        b"Auto-Submitted: auto-generated\r\n"
    ));

    rig.mend();
    site.cli(&["queue", "retry", "--account", "practice"]);
    site.wait_account("practice", "ready");
    rig.taken(1);
    let recovered = webhook.nth(1);
    assert_eq!(recovered["event"], "recovered");
    assert_eq!(recovered["title"], "account practice sends again");
    sink.find("practice sends again");

    // The test is told after whatever else there was to tell.
    let tried = site.cli(&["test", "--notify"]);
    for channel in ["webhook", "command", "mail"] {
        assert!(tried.contains(&format!("ok      {channel}")), "{tried}");
    }
    sink.find("this is a test");
    let events = |told: Vec<Value>| -> Vec<Value> {
        told.into_iter()
            .map(|mut told| told["event"].take())
            .collect()
    };
    let wanted = ["problem", "recovered", "test"].map(Value::from);
    assert_eq!(events(webhook.told()), wanted);
    let told = fs::read_to_string(site.path().join("told")).unwrap();
    let told = told.lines().map(|line| serde_json::from_str(line).unwrap());
    assert_eq!(events(told.collect()), wanted);
    assert_eq!(sink.ledger().deliveries.len(), 3);
    site.wait_empty();
    assert!(!site.log_with("notice_sent").contains("canary-webhook"));
    let (_, metrics) = site.get("/metrics").unwrap();
    let sent = "gatepost_notices_total{channel=\"webhook\",result=\"sent\"} 2";
    assert!(metrics.contains(sent), "{metrics}");
}

#[test]
fn a_test_says_which_way_fails_and_how() {
    let sink = Sink::start();
    let site = Site::plain(&sink);
    let _relay = site.start();
    let nobody = site.run(&["test", "--notify"]);
    assert_eq!(nobody.status.code(), Some(1));
    let said = String::from_utf8_lossy(&nobody.stderr).into_owned();
    assert!(
        said.contains("nobody is told") && said.contains("notify.webhook"),
        "{said}"
    );

    site.extend(&[
        "[notify]\ncommand = [\"sh\", \"-c\", \"echo no line free >&2; exit 3\"]\n\
                   account = \"alerts\"\nto = \"ops@example.test\"\n"
            .to_owned(),
    ]);
    site.cli(&["reload"]);
    let tried = site.run(&["test", "--notify", "--json"]);
    assert_eq!(tried.status.code(), Some(1));
    let tried: Value = serde_json::from_slice(&tried.stdout).unwrap();
    assert_eq!(tried[0]["channel"], "command");
    assert_eq!(tried[0]["ok"], false);
    assert_eq!(
        tried[0]["detail"],
        "it failed (exit status: 3): no line free"
    );
    assert_eq!(tried[1]["channel"], "mail");
    assert_eq!(tried[1]["ok"], true);
    sink.find("this is a test");
}

/// The process ends because of it, and the word goes out first.
#[test]
fn a_failed_store_is_told_before_the_daemon_ends() {
    let (webhook, sink) = (Webhook::start(), Sink::start());
    let site = Site::plain(&sink);
    site.extend(&[webhook.table()]);
    let mut relay = site.start();
    let error = "inject=fsync,fdatasync:error=EIO";
    let strace = Strace::attach(&relay, &site, &["-e", "trace=fsync,fdatasync", "-e", error]);
    let mut client = Client::ehlo(site.smtp).unwrap();
    let refused = client.send(
        "app@example.test",
        &["rcpt@example.org"],
        &message("no", b"No.\r\n"),
    );
    assert!(refused.is_ok_and(|reply| reply.code == 451));
    assert!(!relay.process.wait().success());
    drop(strace);
    let told = webhook.told();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0]["kind"], "store_failed");
    assert_eq!(told[0]["account"], Value::Null);
}

#[test]
fn a_full_disk_and_its_end_are_told() {
    let (webhook, sink) = (Webhook::start(), Sink::start());
    let site = Site::plain(&sink);
    site.extend(&[webhook.table()]);
    let _disk = Disk::tmpfs(&site.state(), "24m");
    let _relay = site.start();
    let ballast = site.state().join("ballast");
    fs::write(&ballast, vec![1; 18 * 1024 * 1024]).unwrap();
    let full = webhook.nth(0);
    assert_eq!(full["kind"], "disk_full");
    assert!(full["remedy"].as_str().unwrap().contains("make room"));
    let (_, metrics) = site.get("/metrics").unwrap();
    assert!(metrics.contains("gatepost_store_ready 0\n"), "{metrics}");
    fs::remove_file(&ballast).unwrap();
    let room = webhook.nth(1);
    assert_eq!(room["event"], "recovered");
    assert_eq!(room["title"], "the disk has room again");
}
