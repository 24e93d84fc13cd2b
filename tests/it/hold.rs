//! Held mail waits for a person, whatever its age; what is released is delivered or returned, never gone.

use jiff::Timestamp;

use crate::support::{eventually, mail::message, relay::Site, sink::Sink};

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "the daemon is real, and so is its clock"
)]
fn held_mail_outlives_its_lifetime_and_is_told_when_it_fails() {
    let sink = Sink::start();
    sink.answer_mail(Some("451 4.7.500 busy"));
    let site = Site::plain(&sink);
    site.edit(
        "retry_max = \"2s\"",
        "retry_max = \"2s\"\nlifetime = \"3s\"",
    );
    let relay = site.start();
    site.submit(&message("kept", b"Keep me.\r\n"));
    site.submit(&message("late", b"Too late.\r\n"));
    eventually("both are held", || {
        site.cli(&["queue", "hold", "--all"]);
        let queue = site.queue();
        assert_eq!(queue.len(), 2, "{queue:?}");
        queue
            .iter()
            .all(|entry| entry["state"] == "held")
            .then_some(())
    });
    eventually("their lifetime is over", || {
        let queue = site.queue();
        let old = |entry: &serde_json::Value| {
            let at: Timestamp = entry["received_at"].as_str().unwrap().parse().unwrap();
            Timestamp::now().duration_since(at).as_secs() > 6
        };
        queue.iter().all(old).then_some(())
    });
    drop(relay);
    let _relay = site.start();
    let queue = site.queue();
    assert_eq!(queue.len(), 2, "nothing is given up while it is held");
    assert!(queue.iter().all(|entry| entry["state"] == "held"));
    let id = |n: usize| queue[n]["id"].as_str().unwrap().to_owned();

    // Released while the server still refuses: its time is over, and its sender is told.
    site.cli(&["queue", "release", &id(1)]);
    eventually("a report is on its way", || {
        let queue = site.queue();
        queue
            .iter()
            .any(|entry| entry["sender"] == "")
            .then_some(())
    });
    sink.answer_mail(None);
    site.cli(&["queue", "retry", "--all"]);
    let report = sink.find("Action: failed");
    assert_eq!(report.to, ["app@example.test"]);
    let text = String::from_utf8_lossy(&report.octets).into_owned();
    assert!(
        text.contains("Subject: test late") && text.contains("Status: 4.4.7"),
        "{text}"
    );
    site.cli(&["queue", "release", &id(0)]);
    sink.find("Keep me.");
    site.wait_empty();
    assert_eq!(sink.ledger().deliveries.len(), 2);
}
