//! Two relays that send everything to each other: the loop ends by itself, with one report.
//! (A relay whose upstream is itself does not start.)

use std::net::SocketAddr;

use crate::support::{eventually, mail::message, relay::Site};

fn sends_to(site: &Site, upstream: SocketAddr) {
    site.extend(&[format!(
        "[account.loop]\nmailbox = \"alerts@example.test\"\n[account.loop.smtp]\nhost = \"127.0.0.1\"\n\
         port = {}\ntls = \"none\"\nauth = \"none\"\n",
        upstream.port()
    )]);
}

#[test]
fn a_loop_ends_after_a_few_rounds_with_one_report_that_waits_for_a_person() {
    let (one, other) = (Site::new(""), Site::new(""));
    other.edit("relay.example.test", "other.example.test");
    sends_to(&one, other.smtp);
    sends_to(&other, one.smtp);
    let _relays = (one.start(), other.start());
    one.submit(&message("loop", b"round and round\r\n"));
    let report = eventually("the report about the loop is held", || {
        let queue = [one.queue(), other.queue()].concat();
        let [entry] = &queue[..] else { return None };
        (entry["state"] == "held").then(|| entry.clone())
    });
    assert_eq!(report["sender"], "", "{report}");
    assert_eq!(report["recipients"][0]["address"], "app@example.test");
    let shown = other.cli(&["queue", "show", report["id"].as_str().unwrap()]);
    assert!(shown.contains("5.4.6"), "{shown}");
    // The message came back twice and the report, which was made at the other, came three times; the
    // next round of either was refused.
    let clients = one.json(&["clients"]);
    let seen = clients
        .iter()
        .find(|client| client["helo"] == "other.example.test");
    let seen = seen.unwrap();
    assert_eq!(seen["messages"], 5, "{seen}");
    assert_eq!(seen["refusals"][0]["count"], 2, "{seen}");
}
