//! Disks that are full, broken, shared or changed behind our back.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use crate::support::{
    disk::Disk,
    eventually,
    mail::{assert_same, filler, message},
    oracle::{self, numbered},
    relay::{Relay, Site, Strace},
    sink::Sink,
    smtp::Client,
};

pub(crate) fn send(site: &Site, message: &[u8]) -> std::io::Result<u16> {
    let mut client = Client::ehlo(site.smtp)?;
    match client.command("MAIL FROM:<app@example.test>")? {
        reply if reply.code != 250 => return Ok(reply.code),
        _ => {}
    }
    client.command("RCPT TO:<rcpt@example.org>")?.expect(250)?;
    match client.command("DATA")? {
        reply if reply.code != 354 => return Ok(reply.code),
        _ => {}
    }
    Ok(client.data(message)?.code)
}

/// A full disk is said with 452, keeps nothing partial, leaves other sessions alone, and mail is taken
/// again without a restart as soon as there is room.
#[test]
fn full() {
    const LEN: usize = 100 * 1024;
    let sink = Sink::start();
    sink.answer_mail(Some("451 4.3.2 not now"));
    let site = Site::plain(&sink);
    let disk = Disk::tmpfs(&site.state(), "24m");
    let ballast = site.state().join("ballast");
    fs::write(&ballast, vec![1; 8 * 1024 * 1024]).unwrap();
    let mut relay = site.start();
    let mut bystander = Client::ehlo(site.smtp).unwrap();
    let mut taken = Vec::new();
    let refused = (0..1000)
        .find_map(|n| {
            let message = message(&format!("fill{n}"), &filler(n, LEN));
            match send(&site, &message).unwrap() {
                250 => {
                    taken.push(message);
                    None
                }
                code => Some(code),
            }
        })
        .expect("24 MiB never get full");
    assert_eq!(refused, 452);
    assert!(!taken.is_empty(), "nothing was ever taken");
    bystander.command("NOOP").unwrap().expect(250).unwrap();
    assert_eq!(
        site.queue().len(),
        taken.len(),
        "something partial was kept"
    );

    fs::remove_file(&ballast).unwrap();
    let late = message("late", b"There is room again.\r\n");
    eventually("mail is taken again", || {
        (send(&site, &late).unwrap() == 250).then_some(())
    });
    assert!(
        relay.process.ended().is_none(),
        "it must recover without a restart"
    );
    taken.push(late);

    sink.answer_mail(None);
    site.cli(&["queue", "retry", "--all"]);
    site.wait_empty();
    let ledger = sink.ledger();
    assert_eq!(ledger.deliveries.len(), taken.len());
    for sent in &taken {
        let came = ledger.deliveries.iter().any(|d| d.octets.ends_with(sent));
        assert!(came, "a message that was taken did not come out whole");
    }
    relay.process.kill();
    drop(disk);
}

/// The same for a message that is larger than the room left: refused on the way or at its end, and no
/// file of it stays.
#[test]
fn full_while_spilling() {
    let sink = Sink::start();
    let site = Site::plain(&sink);
    let disk = Disk::tmpfs(&site.state(), "16m");
    let mut relay = site.start();
    let before = used(&site.state());
    let huge = message("huge", &filler(1, 24 * 1024 * 1024));
    assert_eq!(send(&site, &huge).unwrap(), 452);
    eventually("its file is gone", || {
        (used(&site.state()) < before + 1024 * 1024).then_some(())
    });
    let small = message("small", b"Still here.\r\n");
    site.submit(&small);
    assert_same("after 452", &small, &sink.find("Still here.").octets);
    relay.process.kill();
    drop(disk);
}

/// Octets of all files below `dir`.
fn used(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).unwrap().map(Result::unwrap);
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => used(&entry.path()),
        Ok(metadata) => metadata.len(),
        // Removed while we looked.
        Err(_) => 0,
    };
    entries.map(size).sum()
}

/// A sync that fails is never answered with 250: 451, and the process ends so that it is started anew;
/// what had been taken before is delivered then, and the refused message is not half there.
fn failing_sync(len: usize) {
    let sink = Sink::start();
    sink.answer_mail(Some("451 4.3.2 not now"));
    let site = Site::plain(&sink);
    let mut relay = site.start();
    let before = message("before", b"Taken before.\r\n");
    site.submit(&before);
    let error = "inject=fsync,fdatasync:error=EIO";
    let strace = Strace::attach(&relay, &site, &["-e", "trace=fsync,fdatasync", "-e", error]);
    let lost = message("refused", &filler(2, len));
    // 421 at the greeting or a closed door is as good, had an earlier sync of its own failed first.
    let code = send(&site, &lost);
    assert!(
        matches!(code, Ok(451 | 421) | Err(_)),
        "a failed sync was answered with {code:?}"
    );
    let status = relay.process.wait();
    assert!(
        !status.success(),
        "a broken store must end the process with a failure"
    );
    drop(strace);

    sink.answer_mail(None);
    let _relay = site.start();
    site.cli(&["queue", "retry", "--all"]);
    site.wait_empty();
    assert_same("taken before", &before, &sink.find("Taken before.").octets);
    for delivery in sink.ledger().deliveries {
        // The commit may have reached the disk all the same; then it is whole.
        let whole = [&before, &lost]
            .iter()
            .any(|sent| delivery.octets.ends_with(sent));
        assert!(whole, "half a message came out");
    }
}

#[test]
fn failing_sync_small() {
    failing_sync(2_000);
}

#[test]
fn failing_sync_spilled() {
    failing_sync(400 * 1024);
}

/// The journal holds what was taken until it is synced into the database file. When that sync fails,
/// the journal must not start over, whatever a second sync says: the process ends, and all that was
/// taken is there for the next one.
#[test]
fn failing_sync_of_the_database() {
    const LEN: usize = 200 * 1024;
    let sink = Sink::start();
    sink.answer_mail(Some("451 4.3.2 not now"));
    let site = Site::plain(&sink);
    let mut relay = site.start();
    let database = database(&site.state());
    let error = "inject=fsync,fdatasync:error=EIO:when=1";
    let only = ["-P", database.to_str().unwrap()];
    let sync = ["-e", "trace=fsync,fdatasync", "-e", error];
    let strace = Strace::attach(&relay, &site, &[only.as_slice(), &sync].concat());
    let mut acknowledged = BTreeSet::new();
    // Many times what the journal takes.
    for id in 0..100 {
        match send(&site, &numbered(id, LEN)) {
            Ok(250) => acknowledged.insert(id),
            Ok(451 | 421) | Err(_) => break,
            Ok(code) => panic!("a failed sync was answered with {code}"),
        };
    }
    assert!((5..100).contains(&acknowledged.len()), "{acknowledged:?}");
    assert!(!relay.process.wait().success());
    drop(strace);

    sink.answer_mail(None);
    let _relay = site.start();
    site.cli(&["queue", "retry", "--all"]);
    site.wait_empty();
    oracle::check(&acknowledged, &sink.ledger());
}

/// A second process on the same state says who holds it and changes nothing; the first goes on.
#[test]
fn second_process() {
    let sink = Sink::start();
    let first = Site::plain(&sink);
    let relay = first.start();
    let second = Site::plain(&sink);
    second.edit("@DIR@/state", first.state().to_str().unwrap());
    let output = second.run(&["run"]);
    assert!(!output.status.success(), "two processes on one state");
    let told = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    let holder = relay.process.id().to_string();
    assert!(
        told.contains(&holder),
        "the holder {holder} is not named: {told}"
    );
    first.submit(&message("still", b"The first goes on.\r\n"));
    sink.find("The first goes on.");
}

/// Two messages wait; one has a bit flipped in its body. It stays behind in quarantine with a reason,
/// the other flows, and not one wrong octet goes out.
fn corrupted(len: usize) {
    let sink = Sink::start();
    sink.answer_mail(Some("451 4.3.2 not now"));
    let site = Site::plain(&sink);
    let good = message("good", b"I am well.\r\n");
    // The mark is at the end, so that neither headers nor records of the envelope contain it.
    let bad = message(
        "bad",
        &[filler(3, len), b"MARK-OF-THE-BODY\r\n".to_vec()].concat(),
    );
    {
        let mut relay = site.start();
        site.submit(&bad);
        site.submit(&good);
        relay.process.signal(rustix::process::Signal::TERM);
        assert!(relay.process.wait().success());
    }
    assert!(
        flip(&site.state(), b"MARK-OF-THE-BODY") > 0,
        "the body is nowhere on the disk"
    );

    sink.answer_mail(None);
    let _relay = site.start();
    site.cli(&["queue", "retry", "--all"]);
    assert_same("the good one", &good, &sink.find("I am well.").octets);
    let held = eventually("the bad one is held", || {
        site.queue()
            .into_iter()
            .find(|entry| entry["state"] == "held")
    });
    assert!(held["reason"].is_string(), "no reason: {held}");
    assert_eq!(
        sink.ledger().deliveries.len(),
        1,
        "a corrupted body went out"
    );
    let id = held["id"].as_str().unwrap();
    assert!(site.cli(&["queue", "show", id]).contains(id));
}

/// Flips a bit in every file that has `mark` in it. How many there were.
fn flip(dir: &Path, mark: &[u8]) -> usize {
    let mut flipped = 0;
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            flipped += flip(&path, mark);
        } else if path.is_file() {
            let mut octets = fs::read(&path).unwrap();
            if let Some(at) = memchr::memmem::find(&octets, mark) {
                octets[at + 5] ^= 0x01;
                fs::write(&path, octets).unwrap();
                flipped += 1;
            }
        }
    }
    flipped
}

#[test]
fn corrupted_small() {
    corrupted(2_000);
}

#[test]
fn corrupted_spilled() {
    corrupted(400 * 1024);
}

/// A database of a later version is refused, told so, and not touched.
#[test]
fn newer_schema() {
    let sink = Sink::start();
    let site = Site::plain(&sink);
    stop(site.start());
    let database = database(&site.state());
    let connection = rusqlite::Connection::open(&database).unwrap();
    connection
        .pragma_update(None, "user_version", 9999)
        .unwrap();
    connection.close().unwrap();
    let before = fs::read(&database).unwrap();
    let output = site.run(&["run"]);
    assert!(!output.status.success(), "a newer schema was opened");
    let told = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    assert!(told.contains("newer") && told.contains("9999"), "{told}");
    assert_eq!(
        fs::read(&database).unwrap(),
        before,
        "a newer schema was touched"
    );
}

fn stop(mut relay: Relay) {
    relay.process.signal(rustix::process::Signal::TERM);
    assert!(relay.process.wait().success());
}

/// The one SQLite database in the state directory.
fn database(state: &Path) -> PathBuf {
    let files = fs::read_dir(state)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut databases = files
        .filter(|path| path.is_file() && fs::read(path).unwrap().starts_with(b"SQLite format 3\0"));
    let found = databases
        .next()
        .expect("no database in the state directory");
    assert!(databases.next().is_none(), "more than one database");
    found
}
