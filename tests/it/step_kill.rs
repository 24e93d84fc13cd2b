//! The process killed at each step of the store: `strace` counts the n-th call of each kind in each
//! thread and kills before it, for n = 1, 2, .. until a message passes untouched.

use std::collections::BTreeSet;

use crate::support::{
    eventually,
    oracle::{self, numbered},
    relay::{Relay, Site, Strace},
    say,
    sink::Sink,
    smtp::Client,
};

/// Fits into the database.
const SMALL: usize = 2_000;

/// Lies in a file beside it.
const SPILLED: usize = 300 * 1024;

/// A pass without a kill may be luck (another thread made the call): so many in a row end a sweep.
const UNTOUCHED: u32 = 2;

/// A sweep that finds no end is a mistake in the test.
const STEPS_MAX: u32 = 400;

/// One message with a kill before the `n`-th call of `syscalls`. Whether it passed untouched.
fn step(site: &Site, sink: &Sink, acknowledged: &mut BTreeSet<u64>, trial: &Trial<'_>) -> bool {
    let mut relay = site.start();
    let inject = format!("inject={}:signal=KILL:when={}", trial.syscalls, trial.n);
    let trace = format!("trace={}", trial.syscalls);
    let strace = Strace::attach(&relay, site, &["-e", &trace, "-e", &inject]);
    let id = u64::from(trial.n);
    let message = numbered(id, trial.len);
    let sent = Client::ehlo(site.smtp)
        .and_then(|mut client| client.send("app@example.test", &["rcpt@example.org"], &message));
    let acknowledges = sent.is_ok_and(|reply| reply.code == 250);
    if acknowledges {
        acknowledged.insert(id);
    }
    let untouched = acknowledges && settled(&mut relay, site);
    drop(strace);
    if untouched {
        return true;
    }
    eventually("the injected kill ends the process", || {
        relay.process.ended()
    });
    drop(relay);
    let mut relay = site.start();
    site.wait_empty();
    assert!(relay.process.ended().is_none(), "ended after recovery");
    oracle::check(acknowledged, &sink.ledger());
    false
}

/// Waits until the message has left the queue; `false`: the process was killed first.
fn settled(relay: &mut Relay, site: &Site) -> bool {
    eventually("the message is settled or the process is dead", || {
        if relay.process.ended().is_some() {
            return Some(false);
        }
        let listing = site.run(&["queue", "list", "--json"]);
        let listed: Option<Vec<serde_json::Value>> = serde_json::from_slice(&listing.stdout).ok();
        (listing.status.success() && listed.is_some_and(|entries| entries.is_empty()))
            .then_some(true)
    })
}

#[derive(Debug)]
struct Trial<'a> {
    syscalls: &'a str,
    n: u32,
    len: usize,
}

fn sweep(syscalls: &str, len: usize) {
    let sink = Sink::start();
    let site = Site::plain(&sink);
    let mut acknowledged = BTreeSet::new();
    let mut untouched = 0;
    let mut n = 0;
    while untouched < UNTOUCHED {
        n += 1;
        assert!(n < STEPS_MAX, "no pass was untouched");
        let trial = Trial { syscalls, n, len };
        untouched = if step(&site, &sink, &mut acknowledged, &trial) {
            untouched + 1
        } else {
            0
        };
    }
    let counts = oracle::check(&acknowledged, &sink.ledger());
    say(&format!(
        "{syscalls}: {n} steps of {len} octets: {counts:?}"
    ));
}

/// Every kind of call by which something reaches the disk, or the peers on both sides.
macro_rules! sweeps {
    ($($name:ident: $syscalls:expr;)*) => {
        mod small {
            $(#[test] fn $name() { super::sweep($syscalls, super::SMALL); })*
        }
        mod spilled {
            $(#[test] fn $name() { super::sweep($syscalls, super::SPILLED); })*
        }
    };
}

sweeps! {
    sync: "fsync,fdatasync,sync_file_range,msync";
    positioned_write: "pwrite64,pwritev,pwritev2";
    rename: "rename,renameat,renameat2,link,linkat";
    unlink: "unlink,unlinkat";
    truncate: "ftruncate,fallocate";
    open: "openat";
    send: "sendto,sendmsg,writev";
}

/// The plain `write` is the body file's, the log's and the wakers': swept for the small message and
/// for the first steps of the large one (a body is many writes of the same kind).
mod write {
    #[test]
    fn small() {
        super::sweep("write", super::SMALL);
    }

    #[test]
    fn spilled() {
        super::sweep("write", super::SPILLED);
    }
}

/// A first start is killed at each step that makes the state (database, key, directories); the next
/// start must make do with what is there.
#[test]
fn first_start() {
    let sink = Sink::start();
    for syscalls in [
        "fsync,fdatasync",
        "pwrite64",
        "rename,renameat,renameat2",
        "mkdir,openat",
    ] {
        for n in 1.. {
            assert!(n < STEPS_MAX, "no start was untouched");
            let site = Site::plain(&sink);
            if !killed_at_start(&site, syscalls, n) {
                break;
            }
            let _relay = site.start();
            site.submit(&numbered(1, SMALL));
            site.wait_empty();
        }
    }
    sink.ledger();
}

/// Starts under strace; whether the injected kill came before the listener greeted.
fn killed_at_start(site: &Site, syscalls: &str, n: u32) -> bool {
    let mut relay = Strace::launch(
        site,
        &[
            "-e",
            &format!("trace={syscalls}"),
            "-e",
            &format!("inject={syscalls}:signal=KILL:when={n}"),
        ],
    );
    eventually("the start succeeds or is killed", || {
        if relay.ended().is_some() {
            return Some(true);
        }
        Client::connect(site.smtp).is_ok().then_some(false)
    })
}
