//! A mail loop: two relays that send everything to each other.

use std::fmt::Write;

use crate::support::{mail::message, relay::Site, sink::Sink};

/// The account table that sends to another relay.
fn account(port: u16) -> String {
    format!(
        "default_account = \"loop\"\n[account.loop]\n[account.loop.smtp]\nhost = \"127.0.0.1\"\n\
         port = {port}\ntls = \"none\"\nauth = \"none\"\n"
    )
}

/// It ends when a message has passed one relay too often, with exactly one report outside the loop, and
/// nothing stays behind. (`loops`: where the report turns in the loop as well.)
#[test]
fn a_loop_ends_with_one_report() {
    let sink = Sink::start();
    let (one, other) = (Site::new(""), Site::new(""));
    for (site, next) in [(&one, &other), (&other, &one)] {
        let text = std::fs::read_to_string(site.config()).unwrap();
        let mut tables = account(next.smtp.port());
        // Reports leave the loop; else they would turn in it as well, and be held at its end.
        write!(
            tables,
            "{}[[route]]\nsender = \"<>\"\naccount = \"reports\"\n",
            sink.account("reports")
        )
        .unwrap();
        let (default, tables) = tables.split_once('\n').unwrap();
        site.configure(&format!("{default}\n{text}\n{tables}"));
    }
    let _relays = [one.start(), other.start()];
    one.submit(&message("round", b"Round and round.\r\n"));
    let report = sink.find("Action: failed");
    one.wait_empty();
    other.wait_empty();
    let text = String::from_utf8_lossy(&report.octets).into_owned();
    assert_eq!(report.from, "");
    assert_eq!(report.to, ["app@example.test"]);
    assert!(text.contains("5.4.6"), "{text}");
    let hops = text.matches("\nReceived: ").count();
    assert!((2..10).contains(&hops), "{hops} hops: {text}");
    assert_eq!(sink.ledger().deliveries.len(), 1, "one report");
}
