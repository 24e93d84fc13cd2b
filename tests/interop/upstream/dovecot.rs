//! Dovecot's submission service as upstream: its own limits, a stop in the middle of the mail, and
//! sessions that are killed while they take a message.

use std::{collections::BTreeSet, fs, time::Duration};

use crate::{
    rig::{Dovecot, Provider},
    support::{
        Chance, eventually,
        mail::{assert_same, filler, message},
        oracle::{self, numbered},
        pause,
        relay::Site,
        sink::Sink,
        smtp::Client,
    },
};

/// The mailbox that may send.
const MAILBOX: &str = "app@example.test";

/// Everything between a client and the ledger.
struct Rig {
    // First, so that it is looked for secrets while the provider's list of them is there.
    site: Site,
    dovecot: Dovecot,
    sink: Sink,
    _provider: Provider,
}

impl Rig {
    fn new() -> Self {
        let provider = Provider::start(&[("MAILBOX", MAILBOX)]);
        let sink = Sink::start();
        let dovecot = Dovecot::start(&provider, &sink);
        let site = Site::new(&format!(
            "{}[account.alerts]\nprovider = \"rig\"\nmailbox = \"{MAILBOX}\"\n\
             grant = \"client_credentials\"\n{}",
            provider.table(),
            dovecot.table("alerts", "implicit", "xoauth2")
        ));
        site.transcript.beware_of(&provider.log_file());
        Self {
            site,
            dovecot,
            sink,
            _provider: provider,
        }
    }

    /// How many messages have reached the ledger.
    fn arrived(&self) -> usize {
        self.sink.ledger().deliveries.len()
    }
}

/// More recipients than Dovecot takes go in several transactions at once, and a message larger than it
/// says it takes comes back at once, with the reason.
#[test]
fn its_own_limits_cost_nobody_their_mail() {
    let mut rig = Rig::new();
    rig.dovecot.stop();
    rig.dovecot
        .resume("submission_max_recipients = 3\nsubmission_max_mail_size = 20k\n");
    let _relay = rig.site.start();
    let to: Vec<_> = (0..8).map(|n| format!("r{n}@example.org")).collect();
    let to: Vec<_> = to.iter().map(String::as_str).collect();
    let wide = message("wide", b"To many.\r\n");
    let mut client = Client::ehlo(rig.site.smtp).unwrap();
    client
        .send(MAILBOX, &to, &wide)
        .unwrap()
        .expect(250)
        .unwrap();
    rig.site.wait_empty();
    let deliveries = rig.sink.ledger().deliveries;
    let mut reached: Vec<_> = deliveries.iter().flat_map(|d| d.to.clone()).collect();
    reached.sort();
    // Dovecot 2.3 has handed the recipient on that it then refuses as one too many (451 4.5.3), so that
    // this one gets it twice; the limit is known from then on, and nobody is refused again.
    assert_eq!(reached.iter().filter(|one| **one == to[3]).count(), 2);
    reached.dedup();
    assert_eq!(reached, to, "everybody, and nobody else twice");
    assert_eq!(
        reached.len() + 1,
        deliveries.iter().map(|d| d.to.len()).sum::<usize>()
    );
    assert_eq!(deliveries.len(), 3, "{deliveries:?}");
    for delivery in &deliveries {
        assert_same("in parts", &wide, &delivery.octets);
    }
    // It took several transactions of one attempt, and not an hour of retries.
    let log = fs::read_to_string(rig.site.log()).unwrap();
    assert!(!log.contains("\"event\":\"deferred\""), "{log}");

    let large = message("large", &filler(1, 30 * 1024));
    client
        .send(MAILBOX, &to[..1], &large)
        .unwrap()
        .expect(250)
        .unwrap();
    rig.site.wait_empty();
    let report = rig.sink.find("Action: failed");
    assert_eq!(
        (report.from.as_str(), &report.to[..]),
        ("", &[MAILBOX.to_owned()][..])
    );
    let text = String::from_utf8_lossy(&report.octets);
    assert!(
        text.contains("Status: 5.3.4") && text.contains("Subject: test large"),
        "{text}"
    );
    assert_eq!(rig.arrived(), deliveries.len() + 1, "the report alone");
}

/// Stopped while mail waits: the account says so and why, mail is taken all the same and nothing is held
/// against it; started again, it gets everything, once.
#[test]
fn stopped_and_started_in_the_middle_of_the_mail() {
    let mut rig = Rig::new();
    let _relay = rig.site.start();
    let mut acknowledged = BTreeSet::new();
    let mut send = |ids: std::ops::Range<u64>| {
        for id in ids {
            rig.site.submit(&numbered(id, 2_000));
            acknowledged.insert(id);
        }
    };
    send(0..10);
    rig.sink.nth(5);
    // Sessions that are open outlive their master.
    assert!(rig.dovecot.kill_sessions() > 0, "nobody to kill");
    rig.dovecot.stop();
    send(10..20);
    // A session that begins while it goes down ends in another way: the next one tells.
    eventually("the account says what is wrong", || {
        let account = rig.site.wait_account("alerts", "retrying");
        let reason = account["reason"].as_str().unwrap();
        reason.contains("cannot be reached").then_some(())
    });
    assert_eq!(rig.site.get("/readyz").unwrap().0, 200, "it takes mail");
    let waiting = rig.site.queue();
    assert!(waiting.len() >= 10, "{waiting:?}");
    let new = waiting.iter().filter(|entry| entry["state"] == "queued");
    assert!(new.clone().count() >= 10, "{waiting:?}");
    assert!(new.clone().all(|entry| entry["attempts"] == 0));

    rig.dovecot.resume("");
    eventually("everything has gone", || {
        rig.site.cli(&["queue", "retry", "--all"]);
        rig.site.queue().is_empty().then_some(())
    });
    assert!(rig.site.wait_account("alerts", "ready")["reason"].is_null());
    let counts = oracle::check(&acknowledged, &rig.sink.ledger());
    assert_eq!(counts.delivered, 20);
}

/// Its sessions are killed while they pass a message on, in the middle of it and after its end: nothing
/// is lost, and only what nobody can know comes twice.
#[test]
fn sessions_killed_while_they_take_a_message() {
    const MESSAGES: u64 = 20;
    const LEN: usize = 1024 * 1024;
    let rig = Rig::new();
    let _relay = rig.site.start();
    // After its end: the ledger has it, and the word of that is still on its way.
    rig.sink.hold();
    let mut acknowledged = BTreeSet::from([0]);
    rig.site.submit(&numbered(0, 2_000));
    rig.sink.nth(1);
    assert!(rig.dovecot.kill_sessions() > 0, "nobody to kill");
    eventually("it may have been delivered", || {
        let queue = rig.site.queue();
        let uncertain = |entry: &serde_json::Value| entry["state"] == "uncertain";
        queue.iter().any(uncertain).then_some(())
    });
    rig.sink.release();
    rig.site.cli(&["queue", "retry", "--all"]);
    rig.site.wait_empty();
    assert_eq!(rig.arrived(), 2, "once more, as nobody could know");

    // In the middle: large messages are on their way most of the time.
    for id in 1..=MESSAGES {
        rig.site.submit(&numbered(id, LEN));
        acknowledged.insert(id);
    }
    let mut chance = Chance::new();
    eventually("a session ends in the middle of a message", || {
        assert!(rig.arrived() < 1000, "the messages have gone");
        rig.dovecot.kill_sessions();
        rig.site.cli(&["queue", "retry", "--all"]);
        pause(chance.moment(Duration::from_millis(30)));
        let log = fs::read_to_string(rig.site.log()).unwrap();
        log.contains("in the middle of the message").then_some(())
    });
    eventually("everything has gone", || {
        rig.site.cli(&["queue", "retry", "--all"]);
        rig.site.queue().is_empty().then_some(())
    });
    let counts = oracle::check(&acknowledged, &rig.sink.ledger());
    assert_eq!(counts.delivered, acknowledged.len());
}
