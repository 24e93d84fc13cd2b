//! Mail by Microsoft Graph and the Gmail API, through the built daemon to the practice provider: the
//! octets, the recipients, what is too large, what goes wrong, and `transport = "auto"`.

mod corpus;
mod cut;
mod refused;
mod stripped;
mod waiting;

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

use serde_json::{Value, json};
use url::form_urlencoded;

use self::corpus::TO;
use crate::support::{
    eventually, free_address,
    login::Login,
    mail::assert_same,
    process::Process,
    relay::{BINARY, Relay, Site, bare},
    smtp::Client,
};

const MAILBOX: &str = "alerts@example.com";

/// The practice provider and a relay that sends by one of its APIs.
pub(crate) struct Rig {
    http: SocketAddr,
    pub(crate) site: Site,
    _relay: Relay,
    _sandbox: Process,
}

/// How the account gets its tokens.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum By {
    Application,
    Person,
    ServiceAccount,
}

impl Rig {
    /// `tables`: the account's transport and more, after `[account.practice]`.
    pub(crate) fn start(by: By, transport: &str, tables: &str) -> Self {
        let (http, smtp, console) = (free_address(), free_address(), free_address());
        let site = Site::with_console(console, "");
        let written = site.path().join("practice.toml");
        let mut command = std::process::Command::new(BINARY);
        command.args(["sandbox", "--http", &http.to_string()]);
        command.args(["--smtp", &smtp.to_string(), "--mailbox", MAILBOX]);
        let back = format!("http://{console}/authorization/smtp_oauth/");
        command.args(["--redirect-url", &back]);
        command.arg("--write-config").arg(&written);
        bare(&mut command);
        let sandbox = Process::spawn("sandbox", &command, &site.path().join("sandbox.log"));
        eventually("the sandbox is up", || {
            sandbox.log().contains("Ctrl-C stops it").then_some(())
        });
        let written = fs::read_to_string(written).unwrap();
        let line = |key: &str| {
            let line = written.lines().find(|line| line.starts_with(key));
            line.unwrap_or_else(|| panic!("no {key}: {written}"))
                .to_owned()
        };
        let (provider, grant) = match by {
            By::Application => (
                format!(
                    "kind = \"microsoft\"\ntenant = \"practice.example\"\ntoken_url = \"http://{http}/token\""
                ),
                "client_credentials",
            ),
            By::ServiceAccount => (
                format!(
                    "kind = \"google\"\ntoken_url = \"http://{http}/token\"\nservice_account_file = \"{}\"",
                    site.path().join("practice.service-account.json").display()
                ),
                "service_account",
            ),
            By::Person => (
                format!(
                    "kind = \"custom\"\n{}\nscope = \"https://mail.google.com/ offline_access\"\nclient_authentication = \"basic\"",
                    line("issuer")
                ),
                "authorization_code",
            ),
        };
        let client = match by {
            By::ServiceAccount => String::new(),
            By::Application | By::Person => ["client_id", "client_secret", "redirect_url"]
                .map(line)
                .join("\n"),
        };
        site.extend(&[format!(
            "[provider.practice]\n{provider}\n{client}\n\
             [account.practice]\nprovider = \"practice\"\nmailbox = \"{MAILBOX}\"\n\
             grant = \"{grant}\"\ntransport = \"{transport}\"\n\
             [account.practice.limits]\nmessages_per_minute = 0\n\
             [account.practice.smtp]\nhost = \"127.0.0.1\"\nport = {}\ntls = \"starttls\"\n{}\n{}\n",
            smtp.port(),
            line("ca_file"),
            tables.replace("@API@", &format!("http://{http}")),
        )]);
        let relay = site.start();
        let rig = Self {
            http,
            site,
            _relay: relay,
            _sandbox: sandbox,
        };
        if by == By::Person {
            rig.sign_in();
        }
        rig
    }

    fn graph(tables: &str) -> Self {
        let tables = format!("[account.practice.graph]\nurl = \"@API@\"\n{tables}");
        Self::start(By::Application, "graph", &tables)
    }

    fn gmail() -> Self {
        Self::start(
            By::Person,
            "gmail",
            "[account.practice.gmail]\nurl = \"@API@\"\n",
        )
    }

    fn sign_in(&self) {
        let mut login = Login::start(&self.site, &["login", "practice", "--no-browser"]);
        let url = login.url(&format!("http://{}/authorize", self.http));
        let (_, path) = url.split_once(&self.http.to_string()).unwrap();
        let form = form_urlencoded::Serializer::new(String::new())
            .append_pair("mailbox", MAILBOX)
            .append_pair("decision", "allow")
            .finish();
        let type_ = "application/x-www-form-urlencoded";
        let (head, _) = self.ask("POST", path, type_, form.as_bytes());
        let location = head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("location").then_some(value)
        });
        let location = location.unwrap_or_else(|| panic!("no way back: {head}"));
        let (_, back) = location.split_once(&self.site.console.to_string()).unwrap();
        assert_eq!(self.site.get(back).unwrap().0, 200);
        self.site.wait_account("practice", "ready");
    }

    /// A request to the sandbox: head and body of its answer.
    fn ask(&self, method: &str, path: &str, type_: &str, body: &[u8]) -> (String, Vec<u8>) {
        let mut stream = TcpStream::connect(self.http).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n\
             Content-Type: {type_}\r\n\r\n",
            self.http,
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let at = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
        let head = String::from_utf8_lossy(&answer[..at]).into_owned();
        (head, answer[at + 4..].to_vec())
    }

    pub(crate) fn play(&self, fault: &Value) {
        let body = fault.to_string();
        let (head, body) = self.ask("POST", "/faults", "application/json", body.as_bytes());
        assert!(head.contains(" 200 "), "{}", String::from_utf8_lossy(&body));
    }

    /// No more faults.
    pub(crate) fn mend(&self) {
        let (head, _) = self.ask("DELETE", "/faults", "", b"");
        assert!(head.contains(" 200 ") || head.contains(" 204 "), "{head}");
    }

    /// Everything the sandbox has taken by now.
    fn messages(&self) -> Vec<Value> {
        let (_, body) = self.ask("GET", "/messages", "", b"");
        serde_json::from_slice(&body).unwrap()
    }

    /// Everything the sandbox took, once there is so much of it.
    pub(crate) fn taken(&self, count: usize) -> Vec<Value> {
        eventually("the sandbox has the mail", || {
            let taken = self.messages();
            (taken.len() >= count).then_some(taken)
        })
    }

    fn octets(&self, number: usize) -> Vec<u8> {
        let (head, body) = self.ask("GET", &format!("/messages/{number}.eml"), "", b"");
        assert!(head.contains(" 200 "), "{head}");
        body
    }

    fn submit(&self, to: &[&str], message: &[u8]) {
        let mut client = Client::ehlo(self.site.smtp).unwrap();
        let sent = client.send("app@example.test", to, message).unwrap();
        sent.expect(250).unwrap();
    }
}

/// A short message whose header names these.
fn addressed(to: &str, more: &str) -> Vec<u8> {
    format!(
        "Date: Tue, 24 Nov 2026 09:00:00 +0000\r\nFrom: {MAILBOX}\r\nTo: {to}\r\n{more}\
         Message-ID: <1@app.example.test>\r\nSubject: s\r\n\r\nbody\r\n"
    )
    .into_bytes()
}

fn recipients(taken: &Value) -> BTreeSet<String> {
    let recipients = taken["recipients"].as_array().unwrap();
    recipients
        .iter()
        .map(|one| one.as_str().unwrap().to_owned())
        .collect()
}

fn set(recipients: &[&str]) -> BTreeSet<String> {
    recipients.iter().map(|one| (*one).to_owned()).collect()
}

/// Sends the corpus and compares what the sandbox took, octet for octet.
fn corpus_survives(rig: &Rig, extra: Vec<corpus::Sample>, over: &str) {
    let mut samples = corpus::messages(MAILBOX);
    assert!(samples.len() >= 90, "{}", samples.len());
    samples.extend(extra);
    for sample in &samples {
        rig.submit(&[TO], &sample.octets);
    }
    rig.site.wait_empty();
    let mut found = BTreeSet::new();
    for number in 1..=samples.len() {
        let octets = rig.octets(number);
        let field = b"\r\nMessage-ID: <";
        let id = octets.windows(field.len()).position(|w| w == field);
        let id =
            &octets[id.unwrap_or_else(|| panic!("message {number} has no id")) + field.len()..];
        let id = String::from_utf8_lossy(&id[..id.iter().position(|o| *o == b'>').unwrap()])
            .into_owned();
        let sample = samples.iter().find(|sample| {
            let wanted = format!("\r\nMessage-ID: <{id}>");
            sample
                .octets
                .windows(wanted.len())
                .any(|w| w == wanted.as_bytes())
        });
        let sample = sample.unwrap_or_else(|| panic!("nobody sent {id}"));
        assert_same(&sample.name, &sample.octets, &octets);
        assert!(found.insert(id), "{} came twice", sample.name);
    }
    let taken = rig.taken(samples.len());
    assert_eq!(taken.len(), samples.len());
    for one in taken {
        assert_eq!(recipients(&one), set(&[TO]));
        let is_large = one["size"].as_u64().unwrap() > 2 * 1024 * 1024;
        assert_eq!(
            one["over"],
            if is_large && over == "graph" {
                "smtp"
            } else {
                over
            }
        );
    }
}

#[test]
fn by_graph_a_hundred_messages_arrive_octet_for_octet_and_20_mb_go_by_smtp() {
    let rig = Rig::graph("above_mime_max = \"smtp\"\n");
    let extra = vec![
        corpus::large(MAILBOX, 2_000_000),
        corpus::large(MAILBOX, 20_000_000),
    ];
    corpus_survives(&rig, extra, "graph");
}

#[test]
fn by_gmail_a_hundred_messages_arrive_octet_for_octet_20_mb_among_them() {
    let rig = Rig::gmail();
    corpus_survives(&rig, vec![corpus::large(MAILBOX, 20_000_000)], "gmail");
}

#[test]
fn a_service_account_sends_by_gmail_as_the_mailbox() {
    let tables = "[account.practice.gmail]\nurl = \"@API@\"\n";
    let rig = Rig::start(By::ServiceAccount, "gmail", tables);
    rig.site.wait_account("practice", "ready");
    rig.submit(&[TO], &addressed(TO, ""));
    let taken = rig.taken(1);
    assert_eq!(
        (&taken[0]["over"], &taken[0]["mailbox"]),
        (&json!("gmail"), &json!(MAILBOX))
    );
    // Nothing refreshes such a token: another assertion brings another.
    rig.play(&json!({"fault": "expire"}));
    rig.submit(&[TO], &addressed(TO, ""));
    assert_eq!(rig.taken(2).len(), 2);
    rig.site.wait_empty();
}

#[test]
fn the_envelope_decides_who_gets_it_and_blind_copies_stay_blind() {
    for rig in [Rig::graph(""), Rig::gmail()] {
        let message = addressed(
            "a@example.org, \"List\" <list@example.org>",
            "Cc: b@example.org\r\nBcc: nobody@example.org\r\n",
        );
        let to = ["a@example.org", "b@example.org", "c@example.org"];
        rig.submit(&to, &message);
        let taken = rig.taken(1);
        assert_eq!(recipients(&taken[0]), set(&to));
        let text = String::from_utf8(rig.octets(1)).unwrap();
        assert!(
            !text.contains("c@example.org") && !text.contains("nobody"),
            "{text}"
        );
        assert!(text.contains("\r\nTo: a@example.org\r\n"), "{text}");
        let kept = "\r\nX-Gatepost-To: a@example.org, \"List\" <list@example.org>\r\nCc: b@example.org\r\n";
        assert!(text.contains(kept), "{text}");
    }
}

#[test]
fn more_recipients_than_a_request_takes_go_in_several_and_nobody_gets_it_twice() {
    let rig = Rig::gmail();
    let all: Vec<String> = (0..230).map(|n| format!("r{n}@example.org")).collect();
    let to: Vec<&str> = all.iter().map(String::as_str).collect();
    rig.submit(&to, &addressed(&to[..150].join(",\r\n "), ""));
    rig.site.wait_empty();
    let taken = rig.taken(3);
    let counts: Vec<usize> = taken.iter().map(|one| recipients(one).len()).collect();
    assert_eq!(counts.iter().sum::<usize>(), 230, "{counts:?}");
    assert!(counts.iter().all(|count| *count <= 100), "{counts:?}");
    let union: BTreeSet<String> = taken.iter().flat_map(recipients).collect();
    assert_eq!(union, set(&to));
}

#[test]
fn what_is_too_large_for_graph_goes_back_with_limit_and_remedy() {
    let rig = Rig::graph("mime_max = \"64KiB\"\n");
    rig.submit(&[TO], &corpus::large(MAILBOX, 100_000).octets);
    let taken = rig.taken(1);
    assert_eq!(
        recipients(&taken[0]),
        set(&["app@example.test"]),
        "the report"
    );
    let text = taken[0]["message"].as_str().unwrap();
    assert!(
        text.contains("65536 octets") && text.contains("Graph"),
        "{text}"
    );
    assert!(text.contains("Status: 5.3.4"), "{text}");
    rig.site.wait_empty();
}

#[test]
fn what_goes_wrong_at_an_api_is_told_apart() {
    let rig = Rig::graph("");
    let mut count = 0;
    let mut send = |fault: Value, more: usize| {
        rig.play(&fault);
        rig.submit(&[TO], &addressed(TO, ""));
        rig.site.wait_empty();
        count += more;
        let taken = rig.taken(count);
        assert_eq!(taken.len(), count, "{fault}");
        taken[count - 1].clone()
    };
    let refusal = |code: &str| format!("{{\"error\":{{\"code\":\"{code}\",\"message\":\"no\"}}}}");
    // Waits as it is told, then goes.
    let throttle = json!({"fault": "api", "status": 429, "retry_after": 1, "times": 1,
        "body": refusal("ApplicationThrottled")});
    assert_eq!(recipients(&send(throttle, 1)), set(&[TO]));
    // One new token.
    assert_eq!(recipients(&send(json!({"fault": "expire"}), 1)), set(&[TO]));
    // The message's own fault: a report.
    let denied =
        json!({"fault": "api", "status": 403, "times": 1, "body": refusal("ErrorSendAsDenied")});
    let report = send(denied, 1);
    assert_eq!(recipients(&report), set(&["app@example.test"]));
    assert!(
        report["message"]
            .as_str()
            .unwrap()
            .contains("ErrorSendAsDenied")
    );
    // Taken, and the answer breaks off: once more, and counted.
    send(
        json!({"fault": "drop", "phase": "api_accepted", "times": 1}),
        2,
    );
    let (_, metrics) = rig.site.get("/metrics").unwrap();
    assert!(
        metrics.contains("gatepost_possible_duplicates_total 1"),
        "{metrics}"
    );
    // The account's: held with the remedy, and nothing bounces.
    rig.play(
        &json!({"fault": "api", "status": 404, "body": refusal("MailboxNotEnabledForRESTAPI")}),
    );
    rig.submit(&[TO], &addressed(TO, ""));
    let held = rig.site.wait_account("practice", "held");
    assert!(
        held["remedy"].as_str().unwrap().contains("licence"),
        "{held}"
    );
    assert_eq!(held["transport"], "graph");
}

/// One address that the API does not take: its one answer is everybody's, and one report names all.
#[test]
fn one_bad_recipient_is_the_whole_requests_and_one_report_names_all() {
    let rig = Rig::graph("");
    let body = json!({"error": {"code": "ErrorInvalidRecipients", "message": "no"}}).to_string();
    rig.play(&json!({"fault": "api", "status": 400, "times": 1, "body": body}));
    let to = ["good@example.org", "bad@example.org"];
    rig.submit(&to, &addressed(&to.join(", "), ""));
    rig.site.wait_empty();
    let taken = rig.taken(1);
    assert_eq!(taken.len(), 1, "a report and nothing else");
    assert_eq!(recipients(&taken[0]), set(&["app@example.test"]));
    let report = taken[0]["message"].as_str().unwrap();
    for told in to.into_iter().chain(["ErrorInvalidRecipients"]) {
        assert!(report.contains(told), "{told}: {report}");
    }
}

#[test]
fn auto_goes_over_to_graph_when_smtp_is_switched_off() {
    let rig = Rig::start(
        By::Application,
        "auto",
        "[account.practice.graph]\nurl = \"@API@\"\n",
    );
    rig.submit(&[TO], &addressed(TO, ""));
    assert_eq!(rig.taken(1)[0]["over"], "smtp");
    assert_eq!(rig.site.account("practice")["sends_by"], "smtp");
    let off = "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Mailbox";
    rig.play(&json!({"fault": "reply", "phase": "auth", "reply": off}));
    // The connection that is open knows nothing of it.
    rig.play(&json!({"fault": "drop", "phase": "mail", "times": 1}));
    rig.submit(&[TO], &addressed(TO, ""));
    assert_eq!(rig.taken(2)[1]["over"], "graph");
    rig.site.wait_empty();
    let account = rig.site.account("practice");
    assert_eq!(
        (&account["transport"], &account["sends_by"]),
        (&json!("auto"), &json!("graph"))
    );
    assert_eq!(account["state"], "ready");
    let reason = account["reason"].as_str().unwrap();
    assert!(
        reason.contains("SMTP AUTH is switched off for this mailbox"),
        "{reason}"
    );
    rig.site.log_with("transport_switched");
    let (_, metrics) = rig.site.get("/metrics").unwrap();
    let switches = "gatepost_transport_switches_total{to=\"graph\"} 1";
    assert!(metrics.contains(switches), "{metrics}");
    let accounts = rig.site.cli(&["accounts"]);
    assert!(
        accounts.contains("mail flows, by graph since"),
        "{accounts}"
    );
    // Each message says by which way it went.
    eventually("the trace has both ways", || {
        let told = rig.site.cli(&["trace", TO]);
        let by = |way: &str| told.contains(&format!("({way}, "));
        (by("graph") && by("smtp")).then_some(())
    });
    let tested = rig.site.cli(&["test", "practice", "--to", TO]);
    assert!(tested.contains("Graph: HTTP 202"), "{tested}");
}

#[test]
fn doctor_and_test_walk_the_way_of_an_api() {
    let rig = Rig::graph("");
    let told = rig.site.cli(&["doctor", "practice"]);
    assert!(told.contains("Graph would take mail"), "{told}");
    let told = rig.site.cli(&["test", "practice", "--to", TO]);
    assert!(
        told.contains("Graph: HTTP 202") && told.contains("request-id"),
        "{told}"
    );
    assert_eq!(rig.taken(1).len(), 1, "doctor sends nothing");
    let denied = json!({"fault": "api", "status": 403,
        "body": "{\"error\":{\"code\":\"ErrorAccessDenied\",\"message\":\"Access is denied.\"}}"});
    rig.play(&denied);
    let doctor = rig.site.run(&["doctor", "practice"]);
    let told = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(
        !doctor.status.success() && told.contains("Mail.Send"),
        "{told}"
    );
    let rig = Rig::gmail();
    let told = rig.site.cli(&["doctor", "practice"]);
    assert!(told.contains("may send as alerts@example.com"), "{told}");
}
