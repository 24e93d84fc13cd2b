//! More mail comes in than goes out: row 62 of what a relay must survive.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::{
    bulk::peak,
    disk::send,
    support::{
        disk::Disk,
        eventually,
        oracle::{self, numbered},
        relay::Site,
        sink::Sink,
    },
};

const MIB: u64 = 1024 * 1024;

/// Octets of a body.
const LEN: usize = 50 * 1024;

/// Who sends without a pause, each on its own.
const SENDERS: usize = 4;

/// A sender goes on until it has been refused so often: the disk stays full while it goes on.
const REFUSALS: usize = 20;

/// Messages taken once the disk was full.
const LATE: u64 = 30;

/// Octets free where the state lies.
fn free(site: &Site) -> u64 {
    let stat = rustix::fs::statvfs(site.state()).unwrap();
    stat.f_bavail * stat.f_frsize
}

/// A server that takes a few messages a second, and senders that have hundreds: they are told 452 while
/// there is still room to record what leaves, memory does not grow with the backlog, mail is taken again
/// as it leaves, and whatever was acknowledged arrives once.
#[test]
fn a_server_slower_than_its_senders_loses_nothing() {
    let sink = Sink::start();
    sink.dawdle(Duration::from_millis(100));
    let site = Site::new(&format!(
        "{}[account.alerts.limits]\nconnections = 1\n",
        sink.account("alerts")
    ));
    let disk = Disk::tmpfs(&site.state(), "32m");
    let mut relay = site.start();
    assert_eq!(send(&site, &numbered(0, LEN)).unwrap(), 250);
    let (memory, number) = (peak(&relay), AtomicU64::new(1));
    let flood = || {
        let (mut acknowledged, mut refusals, mut least) = (Vec::new(), 0, u64::MAX);
        while refusals < REFUSALS {
            let id = number.fetch_add(1, Ordering::Relaxed);
            match send(&site, &numbered(id, LEN)).unwrap() {
                250 => acknowledged.push(id),
                452 => refusals += 1,
                code => panic!("{code} while the disk fills up"),
            }
            least = least.min(free(&site));
        }
        (acknowledged, least)
    };
    let (mut acknowledged, mut least) = (BTreeSet::from([0]), u64::MAX);
    std::thread::scope(|scope| {
        let senders: Vec<_> = (0..SENDERS).map(|_| scope.spawn(flood)).collect();
        for sender in senders {
            let (taken, room) = sender.join().unwrap();
            acknowledged.extend(taken);
            least = least.min(room);
        }
    });
    let backlog = site.queue().len();
    assert!(backlog > 100, "{backlog} messages are no backlog");
    // What is kept for settling was kept: the journal alone has been at it.
    assert!(least > 2 * MIB, "{least} octets were left");
    let growth = peak(&relay) - memory;
    assert!(
        growth <= 32 * usize::try_from(MIB).unwrap(),
        "{} MiB for {backlog} messages",
        growth >> 20
    );

    // Nobody has to do anything: as the slow server takes mail, so do we, and far more than was left.
    let late = number.into_inner();
    for id in late..late + LATE {
        eventually("mail is taken again", || {
            (send(&site, &numbered(id, LEN)).unwrap() == 250).then_some(())
        });
        acknowledged.insert(id);
    }
    assert!(relay.process.ended().is_none(), "without a restart");

    sink.dawdle(Duration::ZERO);
    site.wait_empty();
    let counts = oracle::check(&acknowledged, &sink.ledger());
    assert_eq!(
        (counts.delivered, counts.duplicates),
        (acknowledged.len(), 0),
        "each that was acknowledged, and once"
    );
    relay.process.kill();
    drop(disk);
}
