//! The command line against a running daemon: the field names of listings are a contract.

use std::process::Output;

use serde_json::Value;

use crate::support::{
    eventually,
    mail::{assert_same, message},
    relay::Site,
    sink::Sink,
};

/// Fields of `accounts --json`.
const ACCOUNT: &[&str] = &[
    "name",
    "mailbox",
    "provider",
    "grant",
    "transport",
    "state",
    "reason",
    "remedy",
    "token_expires_at",
    "last_refresh_at",
    "tokens_kept",
    "queued",
    "limits",
];

/// Fields of `queue list --json`.
const ENTRY: &[&str] = &[
    "id",
    "account",
    "state",
    "sender",
    "recipients",
    "size",
    "received_at",
    "next_attempt_at",
    "attempts",
    "reason",
];

fn assert_fields(object: &Value, fields: &[&str]) {
    let object = object.as_object().unwrap();
    for field in fields {
        assert!(
            object.contains_key(*field),
            "{field} is missing: {object:?}"
        );
    }
}

fn is_time(value: &Value) -> bool {
    value
        .as_str()
        .is_some_and(|text| text.parse::<jiff::Timestamp>().is_ok())
}

/// A site whose upstream defers everything, with one deferred message; its id.
fn deferred(sink: &Sink) -> (Site, crate::support::relay::Relay, String) {
    sink.answer_mail(Some("451 4.7.500 busy"));
    let site = Site::plain(sink);
    site.edit(
        "retry_first = \"1s\"\nretry_max = \"2s\"",
        "retry_first = \"1h\"\nretry_max = \"1h\"",
    );
    let relay = site.start();
    site.submit(&message("wait", b"I wait.\r\n"));
    let id = eventually("the message is deferred", || {
        let entry = site.queue().into_iter().next()?;
        (entry["state"] == "deferred").then(|| entry["id"].as_str().unwrap().to_owned())
    });
    (site, relay, id)
}

fn state(site: &Site, id: &str) -> Option<String> {
    let entry = site.queue().into_iter().find(|entry| entry["id"] == id)?;
    Some(entry["state"].as_str().unwrap().to_owned())
}

/// Each account with every field; a plain smarthost has no token to tell of.
#[test]
fn accounts() {
    let sink = Sink::start();
    let site = Site::plain(&sink);
    let _relay = site.start();
    let accounts = site.json(&["accounts"]);
    assert_eq!(accounts.len(), 1);
    let account = &accounts[0];
    assert_fields(account, ACCOUNT);
    assert_eq!(account["name"], "alerts");
    assert_eq!(account["mailbox"], "alerts@example.test");
    assert_eq!(account["transport"], "smtp");
    assert_eq!(account["state"], "ready");
    assert_eq!(account["queued"], 0);
    assert!(site.cli(&["accounts"]).contains("alerts"));
}

/// The story of a message, found by each of its names; what was deferred, held, released and
/// delivered stands in its order.
#[test]
fn trace() {
    let sink = Sink::start();
    let (site, _relay, id) = deferred(&sink);
    site.cli(&["queue", "hold", &id]);
    sink.answer_mail(None);
    site.cli(&["queue", "release", &id]);
    site.wait_empty();
    let stories = eventually("the outcome is told", || {
        let stories = site.json(&["trace", &id]);
        let facts = stories[0]["facts"].as_array().unwrap().clone();
        let outcome = facts.last().unwrap()["outcomes"][0]["state"].clone();
        (outcome == "delivered").then_some(stories)
    });
    let facts = stories[0]["facts"].as_array().unwrap();
    let told: Vec<&str> = facts
        .iter()
        .map(|fact| fact["event"].as_str().unwrap())
        .collect();
    assert_eq!(
        told,
        ["received", "attempted", "operated", "operated", "attempted"]
    );
    assert!(facts.iter().all(|fact| is_time(&fact["at"])));
    let recipient = facts[0]["recipients"][0].as_str().unwrap();
    let message_id = facts[0]["message_id"].as_str().unwrap();
    assert!(
        facts[0]["origin"]["peer"]
            .as_str()
            .unwrap()
            .starts_with("127.0.0.1:")
    );
    for name in [recipient, "app@example.test", message_id, "*@example.test"] {
        assert_eq!(site.json(&["trace", name])[0]["id"], id, "{name}");
    }
    assert_eq!(site.json(&["trace", "--since", "1h"]).len(), 1);
    let text = site.cli(&["trace", recipient]);
    for part in [
        &id,
        "received from 127.0.0.1:",
        "451 4.7.500 busy",
        "released by",
        "delivered: ",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let unknown = site.run(&["trace", "nobody@example.test"]);
    assert_eq!(unknown.status.code(), Some(1));
}

/// Each entry with every field, times as RFC 3339, the upstream's reply with its odd enhanced code.
#[test]
fn queue_list_and_show() {
    let sink = Sink::start();
    let (site, _relay, id) = deferred(&sink);
    let queue = site.queue();
    assert_eq!(queue.len(), 1);
    let entry = &queue[0];
    assert_fields(entry, ENTRY);
    assert_eq!(entry["account"], "alerts");
    assert_eq!(entry["sender"], "app@example.test");
    assert!(
        is_time(&entry["received_at"]) && is_time(&entry["next_attempt_at"]),
        "{entry}"
    );
    assert!(entry["size"].as_u64().unwrap() > 200, "{entry}");
    let recipient = &entry["recipients"][0];
    assert_eq!(recipient["address"], "rcpt@example.org");
    assert!(recipient["state"].is_string());
    assert!(
        recipient["last_reply"]
            .as_str()
            .unwrap()
            .contains("4.7.500"),
        "{recipient}"
    );
    let shown: Value = serde_json::from_str(&site.cli(&["queue", "show", &id, "--json"])).unwrap();
    let shown = if shown.is_array() { &shown[0] } else { &shown };
    assert_eq!(shown["id"], id.as_str());
    assert!(site.cli(&["queue", "show", &id]).contains("4.7.500"));
    assert!(site.cli(&["queue"]).contains(&id), "`queue` alone lists");
}

/// Hold, retry, release: a held message waits for a person whatever else is said.
#[test]
fn queue_hold_and_release() {
    let sink = Sink::start();
    let (site, _relay, id) = deferred(&sink);
    site.cli(&["queue", "hold", &id]);
    assert_eq!(state(&site, &id).unwrap(), "held");
    sink.answer_mail(None);
    site.cli(&["queue", "release", &id]);
    sink.find("I wait.");
    site.wait_empty();
}

/// By account, by sender, all: each selector reaches the message.
#[test]
fn queue_selectors() {
    for selector in [
        ["--account", "alerts"].as_slice(),
        &["--sender", "*@example.test"],
        &["--all"],
    ] {
        let sink = Sink::start();
        let (site, _relay, id) = deferred(&sink);
        site.cli(&[["queue", "hold"].as_slice(), selector].concat());
        assert_eq!(state(&site, &id).unwrap(), "held", "{selector:?}");
        sink.answer_mail(None);
        site.cli(&[["queue", "release"].as_slice(), selector].concat());
        site.cli(&[["queue", "retry"].as_slice(), selector].concat());
        sink.find("I wait.");
    }
}

/// An export is the message as it will be sent; delete takes it away for good.
#[test]
fn queue_export_and_delete() {
    let sink = Sink::start();
    let (site, _relay, id) = deferred(&sink);
    let exported = exported(&site, &id);
    assert_same("export", &message("wait", b"I wait.\r\n"), &exported);
    site.cli(&["queue", "delete", &id]);
    site.wait_empty();
    let gone = site.run(&["queue", "show", &id]);
    assert_eq!(gone.status.code(), Some(1), "{gone:?}");
    assert!(sink.ledger().deliveries.is_empty());
}

/// The exported octets, from the file whose name is told.
fn exported(site: &Site, id: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().to_str().unwrap();
    let output: Output = site.run(&["queue", "export", id, "--dir", to]);
    assert!(output.status.success(), "{output:?}");
    std::fs::read(dir.path().join(format!("{id}.eml"))).unwrap()
}

/// `test` tells each step and sends one message; a wrong word is a usage error; no daemon is said so.
#[test]
fn verbs() {
    let sink = Sink::start();
    let site = Site::plain(&sink);
    {
        let _relay = site.start();
        site.cli(&["test", "alerts", "--to", "someone@example.org"]);
        assert_eq!(sink.nth(1).to, ["someone@example.org"]);
        site.cli(&["healthcheck"]);
        site.cli(&["reload"]);
        site.cli(&["rotate-key"]);
        site.cli(&["check"]);
        assert_eq!(site.run(&["queue", "fold"]).status.code(), Some(2));
        assert_eq!(
            site.run(&["test", "nobody", "--to", "a@example.org"])
                .status
                .code(),
            Some(1)
        );
    }
    site.cli(&["rotate-key"]);
    let output = site.run(&["queue", "list"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(site.run(&["healthcheck"]).status.code(), Some(1));
}

/// `doctor` walks the way with and without a daemon, sends nothing, and fails where something is wrong.
#[test]
fn doctor() {
    let sink = Sink::start();
    let site = Site::plain(&sink);
    let examine = |wanted: i32| -> Value {
        let output = site.run(&["doctor", "--json"]);
        assert_eq!(output.status.code(), Some(wanted), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let names = |examined: &Value| -> Vec<String> {
        let steps = examined[0]["steps"].as_array().unwrap();
        let names = steps
            .iter()
            .map(|step| step["step"].as_str().unwrap().to_owned());
        names.collect()
    };
    {
        let _relay = site.start();
        let examined = examine(0);
        assert_eq!(examined[0]["account"], "alerts");
        assert_eq!(names(&examined), ["connect", "ehlo", "offers", "mail"]);
    }
    assert_eq!(names(&examine(0)), ["connect", "ehlo", "offers", "mail"]);
    assert!(sink.ledger().deliveries.is_empty(), "nothing is sent");
    let output = site.run(&["doctor", "nobody"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    drop(sink);
    let examined = examine(1);
    assert_eq!(examined[0]["ok"], false);
    let last = &examined[0]["steps"].as_array().unwrap().last().unwrap()["detail"];
    assert!(
        last.as_str().unwrap().contains("cannot be reached"),
        "{last}"
    );
}

/// Health, readiness and metrics answer on the console's address; a strange Host is refused.
#[test]
fn probes() {
    let sink = Sink::start();
    let site = Site::plain(&sink);
    let _relay = site.start();
    assert_eq!(site.get("/healthz").unwrap().0, 200);
    eventually("ready", || {
        site.get("/readyz").filter(|(status, _)| *status == 200)
    });
    let (status, metrics) = site.get("/metrics").unwrap();
    assert_eq!(status, 200);
    assert!(metrics.contains("gatepost_"), "{metrics}");
    assert_eq!(site.get("/api/v1/queue").unwrap().0, 401);
}
