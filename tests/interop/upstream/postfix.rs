//! Postfix as upstream: mixed answers to one message's recipients, a check of the header, a limit of
//! recipients.

use std::collections::BTreeMap;

use crate::{
    rig::Postfix,
    support::{eventually, mail::message, relay::Site, sink::Sink, smtp::Client},
};

/// Lines of main.cf.
const SETTINGS: &str = "smtpd_recipient_restrictions = check_recipient_access \
    inline:{ {busy@example.org=450 4.2.1 come later} {gone@example.org=550 5.1.1 nobody here} }, \
    permit_mynetworks, reject\n\
    header_checks = regexp:{ {/^Subject: test forbidden/ REJECT 5.7.1 not this subject} }\n\
    smtpd_recipient_limit = 20\nsmtpd_recipient_overshoot_limit = 1000\n\
    smtpd_client_connection_count_limit = 0\n";

/// How often each address was delivered a message that has this text in it.
fn deliveries(sink: &Sink, text: &str) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    let ledger = sink.ledger();
    for delivery in ledger.deliveries {
        if crate::support::sink::contains(&delivery.octets, text.as_bytes())
            && !delivery.from.is_empty()
        {
            for to in delivery.to {
                *found.entry(to).or_default() += 1;
            }
        }
    }
    found
}

/// 250, 450 and 550 for one message: taken once, tried again, and told; nobody pays for another.
#[test]
fn each_recipient_has_its_own_outcome() {
    let sink = Sink::start();
    let postfix = Postfix::upstream(&sink, SETTINGS);
    let site = Site::new(&postfix.account("alerts"));
    let _relay = site.start();
    let mut client = Client::ehlo(site.smtp).unwrap();
    let to = ["ok@example.org", "busy@example.org", "gone@example.org"];
    let octets = message("mixed", b"To three.\r\n");
    let sent = client.send("app@example.test", &to, &octets);
    sent.unwrap().expect(250).unwrap();
    let report = sink.find("Action: failed");
    let entry = eventually("the busy one was tried again", || {
        let entry = site.queue().into_iter().next()?;
        (entry["attempts"].as_u64()? >= 3).then_some(entry)
    });
    let states: Vec<_> = entry["recipients"]
        .as_array()
        .unwrap()
        .iter()
        .map(|recipient| recipient["state"].as_str().unwrap())
        .collect();
    assert_eq!(states, ["delivered", "deferred", "bounced"]);
    let reply = entry["recipients"][1]["last_reply"].as_str().unwrap();
    assert!(reply.contains("450 4.2.1"), "{reply}");

    assert_eq!(
        (report.from.as_str(), report.to.as_slice()),
        ("", ["app@example.test".to_owned()].as_slice())
    );
    let text = String::from_utf8_lossy(&report.octets).into_owned();
    assert!(
        text.contains("Final-Recipient: rfc822; gone@example.org"),
        "{text}"
    );
    assert!(
        text.contains("Status: 5.1.1") && text.contains("nobody here"),
        "{text}"
    );
    assert!(
        !text.contains("ok@example.org") && !text.contains("busy@example.org"),
        "{text}"
    );
    let once = BTreeMap::from([("ok@example.org".to_owned(), 1)]);
    assert_eq!(deliveries(&sink, "To three."), once);
    assert_eq!(
        sink.ledger().deliveries.len(),
        2,
        "the message and one report"
    );
}

/// A refusal after the end of the data is about the message: one report for all.
#[test]
fn a_refused_header_is_returned() {
    let sink = Sink::start();
    let postfix = Postfix::upstream(&sink, SETTINGS);
    let site = Site::new(&postfix.account("alerts"));
    let _relay = site.start();
    let mut client = Client::ehlo(site.smtp).unwrap();
    let to = ["a@example.org", "b@example.org"];
    let octets = message("forbidden", b"No.\r\n");
    let sent = client.send("app@example.test", &to, &octets);
    sent.unwrap().expect(250).unwrap();
    let report = sink.find("Action: failed");
    site.wait_empty();
    let text = String::from_utf8_lossy(&report.octets).into_owned();
    assert!(text.contains("not this subject"), "{text}");
    for address in to {
        assert!(
            text.contains(&format!("Final-Recipient: rfc822; {address}")),
            "{text}"
        );
    }
    assert_eq!(sink.ledger().deliveries.len(), 1);
}

/// More recipients than Postfix takes at once: it is believed, and everybody gets the message once.
#[test]
fn a_long_list_is_split_as_the_server_wants_it() {
    let sink = Sink::start();
    let postfix = Postfix::upstream(&sink, SETTINGS);
    let site = Site::new(&postfix.account("alerts"));
    let _relay = site.start();
    let mut client = Client::ehlo(site.smtp).unwrap();
    let to: Vec<_> = (0..65).map(|n| format!("r{n}@example.org")).collect();
    let to: Vec<_> = to.iter().map(String::as_str).collect();
    let octets = message("long", b"To all.\r\n");
    let sent = client.send("app@example.test", &to, &octets);
    sent.unwrap().expect(250).unwrap();
    site.wait_empty();
    let wanted: BTreeMap<_, _> = to.iter().map(|to| ((*to).to_owned(), 1)).collect();
    eventually("all have it", || {
        (deliveries(&sink, "To all.") == wanted).then_some(())
    });
}
