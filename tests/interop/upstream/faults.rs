//! `smtp-sink` refuses, hangs up and says 421 at every phase: nothing is lost, nothing comes twice but
//! for what nobody can know, and no refusal before MAIL bounces a message.

use std::collections::BTreeMap;

use serde_json::Value;

use super::paused;
use crate::{
    rig::{SmtpSink, plain_account},
    support::{eventually, mail::message, relay::Site, smtp::Client},
};

/// What a message must come to while its server fails so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comes {
    /// It waits, and nothing is held against it: the account's trouble.
    Untouched,
    /// The account waits for a person.
    Held,
    /// It was tried, and will be again.
    Deferred,
    /// It may have been delivered.
    Uncertain,
    /// Its sender is told.
    Returned,
    /// It arrives.
    Delivered,
}

/// Options of `smtp-sink`, and what follows.
const CASES: &[(&[&str], Comes)] = &[
    (&["-r", "CONNECT"], Comes::Untouched),
    (&["-r", "EHLO"], Comes::Untouched),
    (&["-r", "MAIL"], Comes::Deferred),
    (&["-r", "RCPT"], Comes::Deferred),
    (&["-r", "DATA"], Comes::Deferred),
    (&["-r", "."], Comes::Deferred),
    (&["-f", "CONNECT"], Comes::Held),
    (&["-f", "EHLO,HELO"], Comes::Held),
    (&["-B", "554 5.7.1 no", "-f", "MAIL"], Comes::Returned),
    (&["-B", "550 5.1.1 no", "-f", "RCPT"], Comes::Returned),
    (&["-B", "554 5.7.1 no", "-f", "DATA"], Comes::Returned),
    (&["-B", "554 5.7.1 no", "-f", "."], Comes::Returned),
    (&["-q", "CONNECT"], Comes::Untouched),
    (&["-q", "EHLO"], Comes::Untouched),
    (&["-q", "MAIL"], Comes::Deferred),
    (&["-q", "RCPT"], Comes::Deferred),
    (&["-q", "DATA"], Comes::Deferred),
    (&["-q", "."], Comes::Uncertain),
    (&["-Q", "CONNECT"], Comes::Untouched),
    (&["-Q", "EHLO"], Comes::Untouched),
    (&["-Q", "MAIL"], Comes::Deferred),
    (&["-Q", "RCPT"], Comes::Deferred),
    (&["-Q", "DATA"], Comes::Deferred),
    (&["-Q", "."], Comes::Deferred),
    // 550 in the middle of the message, before its end.
    (&["-A", "0"], Comes::Returned),
    // Late is not wrong. (With pipelining its late replies come out of order.)
    (&["-p", "-W", "EHLO:1"], Comes::Delivered),
    (&["-p", "-W", "MAIL:1"], Comes::Delivered),
    (&["-p", "-W", "RCPT:1"], Comes::Delivered),
    (&["-p", "-W", "DATA:1"], Comes::Delivered),
    (&["-p", "-W", ".:1"], Comes::Delivered),
];

/// What can be seen of a case from outside.
fn state(site: &Site, name: &str, queue: &[Value]) -> Option<Comes> {
    let mut own = queue.iter().filter(|entry| entry["account"] == name);
    let Some(entry) = own.next() else {
        return Some(Comes::Delivered);
    };
    assert!(own.next().is_none(), "{name}: one message, or its report");
    let state = entry["state"].as_str().unwrap();
    let tried = entry["attempts"].as_u64().unwrap() > 0;
    match (entry["sender"].as_str().unwrap(), state) {
        // The report is refused as well, and waits for a person.
        ("", "held") => Some(Comes::Returned),
        ("", _) => None,
        (_, "uncertain") => Some(Comes::Uncertain),
        (_, "deferred") if tried => Some(Comes::Deferred),
        (_, "queued") => match site.account(name)["state"].as_str().unwrap() {
            "held" => Some(Comes::Held),
            "retrying" if paused(site, name, "").is_some() => Some(Comes::Untouched),
            _ => None,
        },
        _ => None,
    }
}

fn what_was_late_has_arrived(sinks: &[SmtpSink]) {
    let late = (0..CASES.len()).filter(|n| CASES[*n].1 == Comes::Delivered);
    for n in late {
        let id = format!("Message-ID: <case{n}@app.example.test>");
        let taken = sinks[n].taken();
        assert_eq!(taken.len(), 1, "{:?}: {taken:#?}", CASES[n].0);
        assert!(taken[0].contains(&id), "{taken:#?}");
    }
}

#[test]
fn every_refusal_at_every_phase() {
    let mut sinks = Vec::new();
    let (mut tables, mut routes) = (String::new(), String::new());
    for (n, (options, _)) in CASES.iter().enumerate() {
        let sink = SmtpSink::start(options);
        tables.push_str(&plain_account(&format!("case{n}"), sink.address));
        routes.push_str(&format!(
            "[[route]]\nsender = \"case{n}@example.test\"\naccount = \"case{n}\"\n"
        ));
        sinks.push(sink);
    }
    sinks.iter_mut().for_each(SmtpSink::wait_open);
    let site = Site::new(&format!("{tables}{routes}"));
    let _relay = site.start();
    let mut client = Client::ehlo(site.smtp).unwrap();
    for n in 0..CASES.len() {
        let from = format!("case{n}@example.test");
        let octets = message(&format!("case{n}"), b"Will it arrive?\r\n");
        let reply = client.send(&from, &["rcpt@example.org"], &octets);
        reply.unwrap().expect(250).unwrap();
    }
    let mut open: BTreeMap<usize, Comes> = CASES.iter().map(|(_, c)| *c).enumerate().collect();
    eventually("each message comes to what it must", || {
        let queue = site.queue();
        open.retain(|n, wanted| {
            let found = state(&site, &format!("case{n}"), &queue);
            let reached = found == Some(*wanted);
            // What may follow on the way to it: first attempts are queued, reports are tried.
            let fits = match wanted {
                _ if reached => true,
                _ if found == Some(Comes::Delivered) => false,
                Comes::Delivered => found.is_none(),
                Comes::Untouched | Comes::Held => found != Some(Comes::Returned),
                Comes::Deferred => !matches!(found, Some(Comes::Returned | Comes::Uncertain)),
                Comes::Uncertain => found != Some(Comes::Returned),
                Comes::Returned => found != Some(Comes::Uncertain),
            };
            assert!(fits, "{:?}: {found:?} and not {wanted:?}", CASES[*n].0);
            !reached
        });
        open.is_empty().then_some(())
    });

    what_was_late_has_arrived(&sinks);

    // The servers recover: everything arrives, once, and nobody need know the names of the accounts.
    sinks.iter_mut().for_each(SmtpSink::heal);
    eventually("everything has gone", || {
        site.cli(&["queue", "release", "--all"]);
        site.cli(&["queue", "retry", "--all"]);
        site.queue().is_empty().then_some(())
    });
    for (n, (options, comes)) in CASES.iter().enumerate() {
        if *comes == Comes::Delivered {
            continue;
        }
        let taken = sinks[n].taken();
        let id = format!("Message-ID: <case{n}@app.example.test>");
        let reports = taken.iter().filter(|text| text.contains("Action: failed"));
        let copies = taken
            .iter()
            .filter(|text| text.contains(&id) && !text.contains("Action: failed"));
        let returned = usize::from(*comes == Comes::Returned);
        assert_eq!(reports.count(), returned, "{options:?}: {taken:#?}");
        assert_eq!(copies.count(), 1 - returned, "{options:?}: {taken:#?}");
    }
    let (_, metrics) = site.get("/metrics").unwrap();
    let counted = metrics
        .lines()
        .find(|line| line.starts_with("gatepost_possible_duplicates") && !line.starts_with('#'));
    let counted = counted.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    assert!(counted.is_some_and(|n| n >= 1.0), "{metrics}");
}

/// A server without 8BITMIME gets no 8-bit data: the sender is told at the first attempt, why and by
/// whom; ASCII that was only declared as 8-bit goes.
#[test]
fn eight_bit_data_is_returned_at_once_by_a_server_without_8bitmime() {
    let mut sink = SmtpSink::start(&["-8"]);
    sink.wait_open();
    let site = Site::new(&plain_account("alerts", sink.address));
    let _relay = site.start();
    let send = |octets: &[u8]| {
        let mut client = Client::ehlo(site.smtp).unwrap();
        // The whole message is wanted back, which is 8-bit data as well.
        let mail = "MAIL FROM:<app@example.test> BODY=8BITMIME RET=FULL";
        client.command(mail).unwrap().expect(250).unwrap();
        let rcpt = "RCPT TO:<rcpt@example.org>";
        client.command(rcpt).unwrap().expect(250).unwrap();
        client.command("DATA").unwrap().expect(354).unwrap();
        client.data(octets).unwrap().expect(250).unwrap();
    };
    send(&message("ascii", b"plain\r\n"));
    send(&message("bits", "gr\u{fc}n\r\n".as_bytes()));
    site.wait_empty();
    let taken = sink.taken();
    assert_eq!(taken.len(), 2, "{taken:#?}");
    let report = taken.iter().find(|text| text.contains("Action: failed"));
    let report = report.unwrap();
    assert!(report.contains("8-bit data"), "{report}");
    assert!(report.contains("Status: 5.6.3"), "{report}");
    assert!(
        taken
            .iter()
            .any(|text| text.contains("Subject: test ascii"))
    );
}

/// A server without SMTPUTF8: the sender of mail to an address in another script is told at once, in a
/// report that this server takes.
#[test]
fn an_address_in_another_script_is_returned_at_once_by_a_server_without_smtputf8() {
    let mut sink = SmtpSink::start(&["-8"]);
    sink.wait_open();
    let site = Site::new(&plain_account("alerts", sink.address));
    let _relay = site.start();
    let mut client = Client::ehlo(site.smtp).unwrap();
    for line in [
        "MAIL FROM:<app@example.test> SMTPUTF8",
        "RCPT TO:<j\u{fc}rgen@example.org>",
    ] {
        client.command(line).unwrap().expect(250).unwrap();
    }
    client.command("DATA").unwrap().expect(354).unwrap();
    let octets = message("script", b"Hello.\r\n");
    client.data(&octets).unwrap().expect(250).unwrap();
    site.wait_empty();
    let taken = sink.taken();
    assert_eq!(taken.len(), 1, "{taken:#?}");
    let report = &taken[0];
    assert!(report.is_ascii());
    assert!(
        report.contains("Final-Recipient: utf-8; j\\x{FC}rgen@example.org"),
        "{report}"
    );
    assert!(report.contains("Status: 5.6.7"), "{report}");
}
