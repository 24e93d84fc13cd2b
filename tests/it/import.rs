//! Export and import: what leaves a queue comes back as it was, once.

use std::{fs, path::Path};

use serde_json::Value;

use crate::support::{
    eventually,
    mail::{assert_same, filler, message},
    relay::Site,
    sink::Sink,
    smtp::Client,
};

/// A site that tries once in an hour, with an upstream that is busy.
fn busy(sink: &Sink) -> Site {
    sink.answer_mail(Some("451 4.7.500 busy"));
    let site = Site::plain(sink);
    site.edit(
        "retry_first = \"1s\"\nretry_max = \"2s\"",
        "retry_first = \"1h\"\nretry_max = \"1h\"",
    );
    site
}

/// Every envelope, as `queue show --json` tells it.
fn envelopes(site: &Site) -> Vec<Value> {
    let ids = site.queue();
    let ids = ids.iter().map(|entry| entry["id"].as_str().unwrap());
    ids.map(|id| serde_json::from_str(&site.cli(&["queue", "show", id, "--json"])).unwrap())
        .collect()
}

fn refused(site: &Site, path: &Path, why: &str) {
    let output = site.run(&["queue", "import", path.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(why), "{said}");
}

/// Small and large, with every parameter an envelope can have, tried and untried: deleted and brought
/// back, it is what it was, and goes out once, octet for octet.
#[test]
fn a_queue_survives_export_and_import() {
    let sink = Sink::start();
    let site = busy(&sink);
    let relay = site.start();
    let small = message("small", "caf\u{e9}\r\n.\r\n".as_bytes());
    let large = message("large", &filler(7, 700_000));
    let mut client = Client::ehlo(site.smtp).unwrap();
    for line in [
        "MAIL FROM:<app@example.test> BODY=8BITMIME RET=FULL ENVID=id+2B7",
        "RCPT TO:<a@example.org> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;old+40example.org",
        "RCPT TO:<\"b c\"@example.org> NOTIFY=NEVER",
    ] {
        client.command(line).unwrap().expect(250).unwrap();
    }
    client.command("DATA").unwrap().expect(354).unwrap();
    client.data(&small).unwrap().expect(250).unwrap();
    site.submit(&large);
    eventually("the first was tried", || {
        let queue = site.queue();
        (queue.len() == 2 && queue.iter().any(|e| e["state"] == "deferred")).then_some(())
    });
    site.cli(&["queue", "hold", "--all"]);
    let before = envelopes(&site);
    let dir = site.path().join("export");
    fs::create_dir(&dir).unwrap();
    let at = dir.to_str().unwrap();
    site.cli(&["queue", "export", "--all", "--dir", at]);

    // While it is here it cannot come back; a run that refuses changes nothing.
    let id = before[0]["id"].as_str().unwrap();
    refused(
        &site,
        &dir.join(format!("{id}.json")),
        "in the queue already",
    );
    site.cli(&["queue", "delete", "--all"]);

    // What was changed on the way is not what we gave our word for.
    let eml = dir.join(format!("{id}.eml"));
    let octets = fs::read(&eml).unwrap();
    let mut bent = octets.clone();
    bent[200] ^= 1;
    fs::write(&eml, &bent).unwrap();
    refused(&site, &eml, "not the one that was exported");
    fs::write(&eml, &octets[..octets.len() - 1]).unwrap();
    refused(&site, &eml, "not the one that was exported");
    fs::write(&eml, &octets).unwrap();
    assert!(site.queue().is_empty());

    let said = site.cli(&["queue", "import", at]);
    assert!(said.contains("2 messages imported"), "{said}");
    drop(relay);
    let _relay = site.start();
    assert_eq!(envelopes(&site), before, "also after a restart");

    // A second run finds nothing left to do, also when the messages have gone out since.
    sink.answer_mail(None);
    site.cli(&["queue", "release", "--all"]);
    site.wait_empty();
    let said = site.cli(&["queue", "import", at]);
    assert!(said.contains("0 messages imported"), "{said}");
    assert!(said.contains("no envelope (ID.json)"), "{said}");
    refused(&site, &dir.join("elsewhere"), "is not there; name what");
    refused(
        &site,
        &dir.join(format!("{id}.json")),
        "was imported before",
    );
    let ledger = sink.ledger();
    assert_eq!(ledger.deliveries.len(), 2);
    let first = sink.find("Subject: test small");
    assert_same("small", &small, &first.octets);
    assert!(first.parameters.contains("RET=FULL"), "{first:?}");
    assert!(first.parameters.contains("ENVID=id+2B7"), "{first:?}");
    assert_eq!(first.to, ["a@example.org", "\"b c\"@example.org"]);
    assert_same("large", &large, &sink.find("Subject: test large").octets);
}

/// An account that is not there is named; another one can send instead.
#[test]
fn another_account_can_take_over() {
    let (sink, other) = (Sink::start(), Sink::start());
    let site = busy(&sink);
    let relay = site.start();
    site.submit(&message("moved", b"I move.\r\n"));
    let dir = site.path().to_str().unwrap().to_owned();
    site.cli(&["queue", "export", "--account", "alerts", "--dir", &dir]);
    let id = site.queue()[0]["id"].as_str().unwrap().to_owned();
    let envelope = site.path().join(format!("{id}.json"));
    drop(relay);

    let new = Site::new(&other.account("fresh"));
    let _relay = new.start();
    refused(&new, &envelope, "no account is called alerts");
    let path = envelope.to_str().unwrap();
    new.cli(&["queue", "import", path, "--account", "fresh"]);
    // Its next attempt is when it was, until somebody wants it now.
    new.cli(&["queue", "retry", "--all"]);
    other.find("I move.");
    new.wait_empty();
    assert_eq!(other.ledger().deliveries.len(), 1);
}

/// An operation on more messages than are held in memory at once reaches each of them.
#[test]
fn operations_on_thousands_reach_each_message() {
    const MESSAGES: usize = 1_203;
    let sink = Sink::start();
    let site = busy(&sink);
    let _relay = site.start();
    site.cli(&["queue", "list"]);
    let mut client = Client::ehlo(site.smtp).unwrap();
    for n in 0..MESSAGES {
        let sender = if n % 3 == 0 {
            "erp@example.test"
        } else {
            "app@example.test"
        };
        let to = ["rcpt@example.org"];
        let octets = message(&format!("bulk{n}"), b"bulk\r\n");
        client
            .send(sender, &to, &octets)
            .unwrap()
            .expect(250)
            .unwrap();
    }
    // One of them may be on its way at this moment, and is not touched then.
    let hold = |selector: &[&str], wanted: usize| {
        eventually("all are held", || {
            site.cli(&[&["queue", "hold"], selector].concat());
            let held = site.json(&["queue", "list", "--state", "held"]).len();
            (held == wanted).then_some(())
        });
    };
    hold(&["--sender", "erp@*"], MESSAGES / 3);
    hold(&["--all"], MESSAGES);
    let said = site.cli(&["queue", "delete", "--sender", "erp@*"]);
    assert!(said.contains("401 messages"), "{said}");
    sink.answer_mail(None);
    site.cli(&["queue", "release", "--account", "alerts"]);
    site.wait_empty();
    assert_eq!(sink.ledger().deliveries.len(), MESSAGES - 401);
}
