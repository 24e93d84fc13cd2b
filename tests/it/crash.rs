//! Hundreds of `kill -9` at random moments under load.
//!
//! Seeded: `GATEPOST_SEED=N` repeats the moments and sizes of a run (not the kernel's scheduling).

use std::{
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use crate::support::{
    Chance, PATIENCE,
    oracle::{self, Acknowledged, Counts, numbered},
    pause,
    relay::Site,
    say,
    sink::Sink,
    smtp::Client,
};

/// Relays killed at the same time, each a test of its own so that the runner spreads them.
const KILLS_EACH: u32 = 75;

/// Sessions that submit without pause.
const SENDERS: u64 = 3;

/// A kill comes up to so long after the first 250 of a run ...
const AFTER_ACK: Duration = Duration::from_millis(250);

/// ... or, one time in eight, up to so long after the start of the process: recovery is killed too.
const AFTER_START: Duration = Duration::from_millis(150);

/// One message in so many is too large for the database and lies in a file.
const SPILLED_ONE_IN: u64 = 24;

/// Above `store::INLINE_BODY_MAX`.
const SPILLED_LEN: u64 = 300 * 1024;

/// What the sender threads and the killer share.
#[derive(Debug, Default)]
struct Load {
    acknowledged: Acknowledged,
    next: AtomicU64,
    done: AtomicBool,
    /// 250s read so far, and a bell for each.
    acks: Mutex<u64>,
    bell: Condvar,
}

impl Load {
    fn acknowledge(&self, id: u64) {
        self.acknowledged.add(id);
        *self.acks.lock().unwrap() += 1;
        self.bell.notify_all();
    }

    /// Waits for one more 250 than `seen`.
    fn wait_ack(&self, seen: u64) {
        let acks = self.acks.lock().unwrap();
        let (acks, _) = self
            .bell
            .wait_timeout_while(acks, PATIENCE, |acks| *acks <= seen)
            .unwrap();
        assert!(*acks > seen, "no message was taken after a restart");
    }

    fn acks(&self) -> u64 {
        *self.acks.lock().unwrap()
    }
}

/// Submits until told to stop; connections that die are opened again.
fn submit(site: &Site, load: &Load, chance: &mut Chance) {
    while !load.done.load(Ordering::Relaxed) {
        let Ok(mut client) = Client::ehlo(site.smtp) else {
            pause(Duration::from_millis(2));
            continue;
        };
        while !load.done.load(Ordering::Relaxed) {
            let id = load.next.fetch_add(1, Ordering::Relaxed);
            let len = match chance.below(SPILLED_ONE_IN) {
                0 => SPILLED_LEN,
                _ => 200 + chance.below(6000),
            };
            let message = numbered(id, usize::try_from(len).unwrap());
            match client.send("app@example.test", &["rcpt@example.org"], &message) {
                Ok(reply) if reply.code == 250 => load.acknowledge(id),
                // 421 of a dying process, or the connection is gone: nothing is promised.
                Ok(_) | Err(_) => break,
            }
        }
    }
}

/// Kills one relay `KILLS_EACH` times and checks the ledger at the end.
fn kill_under_load(seed: u64) -> Counts {
    say(&format!("GATEPOST_SEED={seed}"));
    let mut chance = Chance::seeded(seed);
    let sink = Sink::start();
    sink.dawdle(Duration::from_millis(4));
    let limits = "[account.alerts.limits]\nconnections = 3\n";
    let site = Arc::new(Site::new(&format!("{}{limits}", sink.account("alerts"))));
    let load = Arc::new(Load::default());
    let senders: Vec<_> = (0..SENDERS)
        .map(|_| {
            let (site, load) = (Arc::clone(&site), Arc::clone(&load));
            let mut chance = Chance::seeded(chance.next());
            thread::spawn(move || submit(&site, &load, &mut chance))
        })
        .collect();
    for _ in 0..KILLS_EACH {
        let seen = load.acks();
        let mut relay = site.spawn();
        if chance.below(8) == 0 {
            pause(chance.moment(AFTER_START));
        } else {
            relay.wait_open(&site);
            load.wait_ack(seen);
            pause(chance.moment(AFTER_ACK));
        }
        assert!(
            relay.process.ended().is_none(),
            "ended before it was killed"
        );
        relay.process.kill();
    }
    load.done.store(true, Ordering::Relaxed);
    let relay = site.start();
    for sender in senders {
        sender.join().unwrap();
    }
    site.wait_empty();
    let counts = oracle::check(&load.acknowledged.all(), &sink.ledger());
    drop(relay);
    counts
}

fn seed() -> u64 {
    let given = std::env::var_os("GATEPOST_SEED");
    given.map_or_else(
        || Chance::new().next(),
        |seed| seed.to_str().unwrap().parse().unwrap(),
    )
}

/// Nothing acknowledged is lost, nothing is torn, and a copy comes twice only where its outcome was
/// in flight: at most once for each upstream connection that a kill cut.
fn promise_holds() {
    let counts = kill_under_load(seed());
    say(&format!("{KILLS_EACH} kills: {counts:?}"));
    assert!(
        counts.acknowledged > usize::try_from(KILLS_EACH).unwrap(),
        "hardly any load: {counts:?}"
    );
}

#[test]
fn kill_at_any_moment_1() {
    promise_holds();
}

#[test]
fn kill_at_any_moment_2() {
    promise_holds();
}

#[test]
fn kill_at_any_moment_3() {
    promise_holds();
}

#[test]
fn kill_at_any_moment_4() {
    promise_holds();
}
