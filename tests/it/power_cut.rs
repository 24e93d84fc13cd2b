//! The power is cut right after a 250: the state lies on a disk image of its own, which is copied while
//! the file system on it is mounted. The copy has what was synced and nothing that was only in memory.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    sync::{Arc, mpsc},
    thread,
};

use rustix::process::Signal;

use crate::support::{
    disk::{Disk, cut_power, make_image},
    oracle::{self, numbered},
    relay::Site,
    say, scratch,
    sink::Sink,
    smtp::Client,
};

/// Cuts, each after the first 250 of a burst of one to four messages at the same moment.
const CUTS: u64 = 24;

/// Size of the image.
const MEBIBYTES: u64 = 96;

/// Messages before the first cut, in all more than the journal takes before it is used again.
const WARM_UP: u64 = 60;

/// Just small enough for the database.
const WARM_UP_LEN: usize = 200 * 1024;

/// Every message acknowledged before the cut is on the disk, whole, and the state opens again.
#[test]
fn after_each_250() {
    let sink = Sink::start();
    let site = Arc::new(Site::plain(&sink));
    let image = site.path().join("disk.img");
    make_image(&image, MEBIBYTES);
    let disk = Disk::image(&site.state(), &image);
    let mut relay = site.start();
    warm_up(&site, &sink);
    let mut acknowledged = BTreeSet::new();
    let mut next = 0;
    for cut in 0..CUTS {
        let (sender, acks) = mpsc::channel();
        let burst = 1 + cut % 4;
        let senders: Vec<_> = (next..next + burst)
            .map(|id| {
                let (site, sender) = (Arc::clone(&site), sender.clone());
                thread::spawn(move || submit(&site, id, &sender))
            })
            .collect();
        next += burst;
        acknowledged.insert(acks.recv().unwrap());
        relay.process.signal(Signal::STOP);
        acknowledged.extend(acks.try_iter());
        let copy = site.path().join("cut.img");
        cut_power(&image, &copy);
        relay.process.signal(Signal::CONT);
        everything_is_on(&copy, &acknowledged);
        for sender in senders {
            sender.join().unwrap();
        }
        acknowledged.extend(acks.try_iter());
    }
    relay.process.kill();
    drop(disk);
    say(&format!("{CUTS} cuts, {} messages", acknowledged.len()));
}

/// Lets the database's journal grow and be used again from its start. While it grows, each sync of it
/// takes the file system's metadata along and would hide a directory that was not synced.
fn warm_up(site: &Site, sink: &Sink) {
    for id in 0..WARM_UP {
        site.submit(&numbered(1_000_000 + id, WARM_UP_LEN));
    }
    site.wait_empty();
    sink.answer_mail(Some("451 4.3.2 not now"));
}

/// Submits the message with this number; tells when it is acknowledged.
fn submit(site: &Site, id: u64, acknowledged: &mpsc::Sender<u64>) {
    let len = if id.is_multiple_of(3) {
        300 * 1024
    } else {
        1500
    };
    let mut client = Client::ehlo(site.smtp).unwrap();
    let reply = client
        .send(
            "app@example.test",
            &["rcpt@example.org"],
            &numbered(id, len),
        )
        .unwrap();
    reply.expect(250).unwrap();
    acknowledged.send(id).unwrap();
}

/// Starts a relay on what the cut left: all that was acknowledged comes out.
fn everything_is_on(copy: &Path, acknowledged: &BTreeSet<u64>) {
    let sink = Sink::start();
    let site = Site::plain(&sink);
    let disk = Disk::image(&site.state(), copy);
    let mut relay = site.start();
    site.cli(&["queue", "retry", "--all"]);
    site.wait_empty();
    oracle::check(acknowledged, &sink.ledger());
    relay.process.kill();
    drop(disk);
}

/// The method itself: a file that was not synced is not in the copy, one that was is.
#[test]
fn the_method_bites() {
    let dir = scratch();
    let image = dir.path().join("disk.img");
    make_image(&image, MEBIBYTES);
    let at = dir.path().join("mounted");
    let disk = Disk::image(&at, &image);
    fs::write(at.join("synced"), "here").unwrap();
    fs::File::open(at.join("synced"))
        .unwrap()
        .sync_all()
        .unwrap();
    fs::File::open(&at).unwrap().sync_all().unwrap();
    fs::write(at.join("forgotten"), "gone").unwrap();
    let copy = dir.path().join("cut.img");
    cut_power(&image, &copy);
    let after = dir.path().join("after");
    let cut = Disk::image(&after, &copy);
    assert_eq!(fs::read_to_string(after.join("synced")).unwrap(), "here");
    let forgotten = fs::read_to_string(after.join("forgotten")).unwrap_or_default();
    assert_eq!(forgotten, "", "what was never synced must not be there");
    drop((cut, disk));
}
