//! `gatepost clients`: an administrator sees which device fails, why, and the line that helps.

use serde_json::Value;

use crate::support::{eventually, mail::message, relay::Site, sink::Sink, smtp::Client};

fn client(site: &Site, helo: &str) -> Option<Value> {
    let clients = site.json(&["clients"]);
    clients.into_iter().find(|client| client["helo"] == helo)
}

#[test]
fn devices_are_told_apart_and_their_trouble_is_explained() {
    let sink = Sink::start();
    let site = Site::plain(&sink);
    let _relay = site.start();
    site.submit(&message("seen", b"x\r\n"));
    let mut scanner = Client::connect(site.smtp).unwrap();
    scanner
        .command("HELO Scanner 2")
        .unwrap()
        .expect(250)
        .unwrap();
    scanner
        .begin("scan@example.test", &["a@example.org"])
        .unwrap();
    scanner.write(b"Subject: scan\n\nx\r\n.\r\n").unwrap();
    scanner.reply().unwrap().expect(550).unwrap();
    scanner
        .command("AUTH PLAIN AHByaW50ZXIAaHVudGVyMg==")
        .unwrap()
        .expect(502)
        .unwrap();

    let seen = client(&site, "sender.example.test").unwrap();
    for (field, wanted) in [
        ("address", Value::from("127.0.0.1")),
        ("listener", site.smtp.to_string().into()),
        ("tls", false.into()),
        ("messages", 1.into()),
        ("sessions", 1.into()),
        ("senders", vec!["app@example.test"].into()),
        ("login", Value::Null),
        ("refusals", Value::Array(Vec::new())),
    ] {
        assert_eq!(seen[field], wanted, "{field} of {seen}");
    }
    assert!(seen["octets"].as_u64().unwrap() > 200);
    assert!(
        seen["last_seen_at"]
            .as_str()
            .unwrap()
            .parse::<jiff::Timestamp>()
            .is_ok()
    );

    let scanner = client(&site, "Scanner 2").unwrap();
    let [bare, auth] = &scanner["refusals"].as_array().unwrap()[..] else {
        panic!("{scanner}");
    };
    assert_eq!(bare["count"], 1);
    assert!(
        bare["reply"].as_str().unwrap().starts_with("550 5.6.11"),
        "{bare}"
    );
    assert!(
        bare["remedy"]
            .as_str()
            .unwrap()
            .contains("line_endings = \"normalize\""),
        "{bare}"
    );
    assert!(
        auth["reason"].as_str().unwrap().contains("log in"),
        "{auth}"
    );
    let table = site.cli(&["clients"]);
    assert!(
        table.contains("Scanner 2") && table.contains("-> in the [[listener]]"),
        "{table}"
    );
    assert!(!table.contains("hunter2") && !scanner.to_string().contains("AHBya"));
}

/// Who is turned away at the door is seen as well, with the list as it should be.
#[test]
fn a_device_outside_the_allow_list_is_seen() {
    let sink = Sink::start();
    let site = Site::plain(&sink);
    site.edit(
        "address = \"@SMTP@\"",
        "address = \"@SMTP@\"\nallow = [\"192.168.7.0/24\"]",
    );
    let mut relay = site.spawn();
    eventually("the device is turned away", || {
        assert!(relay.process.ended().is_none(), "gatepost ended");
        let turned_away = Client::connect(site.smtp).ok()?;
        turned_away.greeting().expect(554).ok()
    });
    let clients = site.json(&["clients"]);
    let refusal = &clients[0]["refusals"][0];
    assert_eq!(clients[0]["address"], "127.0.0.1");
    assert_eq!(clients[0]["messages"], 0);
    let remedy = refusal["remedy"].as_str().unwrap();
    assert!(
        remedy.contains("allow = [\"192.168.7.0/24\", \"127.0.0.1/32\"]"),
        "{remedy}"
    );
}
