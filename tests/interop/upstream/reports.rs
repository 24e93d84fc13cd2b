//! Our reports as others read them: Python's email package and mailparser see the same facts.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::{
    rig::{self, Postfix},
    support::{mail::message, process::guarded, program, relay::Site, sink::Sink, smtp::Client},
};

/// Postfix without DSN of its own: success is ours to report. Its text is hostile.
const SETTINGS: &str = "smtpd_discard_ehlo_keywords = dsn\n\
    smtpd_recipient_restrictions = check_recipient_access \
    inline:{ {busy@example.org=450 4.2.1 come later} \
    {gone@example.org=550 5.1.1 no <script>alert(1)</script> =?utf-8?q?here?= --=_boundary} }, \
    permit_mynetworks, reject\n";

/// What a parser makes of a report.
fn read(mut command: Command, report: &[u8]) -> Value {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(report).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success(),
        "{said}\n{}",
        String::from_utf8_lossy(report)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What both see; they must agree.
fn facts(report: &[u8]) -> Value {
    let mut python = Command::new(program("python3", "python3"));
    python.arg(rig::file("report.py"));
    let mut node = Command::new(program("node", "nodejs (20 or newer)"));
    node.arg(rig::file("report.mjs"));
    let by_python = read(guarded(&python), report);
    let by_node = read(guarded(&node), report);
    for key in ["from", "to", "auto_submitted", "kinds", "fields"] {
        assert_eq!(by_python[key], by_node[key], "{key}");
    }
    for key in ["text", "original"] {
        let text = |value: &Value| value[key].as_str().unwrap().trim().to_owned();
        assert_eq!(text(&by_python), text(&by_node), "{key}");
    }
    by_python
}

#[test]
fn two_parsers_read_the_same_in_every_kind_of_report() {
    let sink = Sink::start();
    let postfix = Postfix::upstream(&sink, SETTINGS);
    let site = Site::new(&postfix.account("alerts"));
    site.edit(
        "retry_max = \"2s\"",
        "retry_max = \"2s\"\ndelay_warning = \"1s\"",
    );
    let _relay = site.start();
    let mut client = Client::ehlo(site.smtp).unwrap();
    for line in [
        "MAIL FROM:<app@example.test> RET=FULL ENVID=QQ+2B314159",
        "RCPT TO:<ok@example.org> NOTIFY=SUCCESS ORCPT=rfc822;first+40example.org",
        "RCPT TO:<gone@example.org> NOTIFY=FAILURE ORCPT=rfc822;second+40example.org",
        "RCPT TO:<busy@example.org>",
    ] {
        client.command(line).unwrap().expect(250).unwrap();
    }
    client.command("DATA").unwrap().expect(354).unwrap();
    let octets = message("reported", "gr\u{fc}n\r\n".as_bytes());
    client.data(&octets).unwrap().expect(250).unwrap();
    for (action, address, status, returns_body) in [
        ("failed", "gone@example.org", "5.1.1", true),
        ("delayed", "busy@example.org", "4.2.1", false),
        ("relayed", "ok@example.org", "2.1.5", false),
    ] {
        let report = sink.find(&format!("Action: {action}"));
        assert_eq!(report.from, "", "the null reverse-path");
        let facts = facts(&report.octets);
        assert_eq!(facts["from"], "alerts@example.test");
        assert_eq!(facts["to"], "app@example.test");
        assert_eq!(facts["auto_submitted"], "auto-replied");
        let fields = facts["fields"].as_array().unwrap();
        assert_eq!(fields.len(), 2, "the message and one recipient: {fields:?}");
        assert_eq!(fields[0]["Reporting-MTA"], "dns; relay.example.test");
        assert_eq!(fields[0]["Original-Envelope-Id"], "QQ+314159");
        assert_eq!(fields[1]["Final-Recipient"], format!("rfc822; {address}"));
        assert_eq!(fields[1]["Action"], action);
        let said = fields[1]["Status"].as_str().unwrap();
        assert_eq!(said.split('.').next(), status.split('.').next(), "{said}");
        assert!(
            fields[1]["Diagnostic-Code"]
                .as_str()
                .unwrap()
                .starts_with("smtp; ")
        );
        let text = facts["text"].as_str().unwrap();
        assert!(text.contains(address), "{text}");
        let original = facts["original"].as_str().unwrap();
        assert!(original.contains("Subject: test reported"), "{original}");
        assert_eq!(original.contains("gr\u{fc}n"), returns_body, "{original}");
        if action == "failed" {
            assert_eq!(
                fields[1]["Original-Recipient"],
                "rfc822; second@example.org"
            );
            assert_eq!(said, status);
        }
    }
    // One of each; the delay is told once, however often it is tried.
    let ledger = sink.ledger();
    let reports = ledger
        .deliveries
        .iter()
        .filter(|delivery| delivery.from.is_empty());
    assert_eq!(reports.count(), 3);
}
