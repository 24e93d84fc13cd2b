//! The process killed at each step of a rotation of the refresh token, against a server that detects reuse:
//! `strace` kills before the n-th call of a kind, for n = 1, 2, .. until a rotation passes untouched.
//!
//! Afterwards the new token or the one before it serves; where the server has rotated and nobody could read or
//! store its answer, a person is asked, after one request. Never a loop, never silence.

use serde_json::Value;

use crate::{
    oauth::{MAILBOX, Rig},
    support::{
        eventually,
        relay::{Relay, Strace},
        say,
    },
};

/// A rotation without a kill may be luck (another thread made the call): so many in a row end a sweep.
const UNTOUCHED: u32 = 2;

/// A sweep that finds no end is a mistake in the test.
const STEPS_MAX: u32 = 100;

/// Two ways to write one token endpoint: an access token stored under the other is not used, so a start refreshes
/// at once.
const ENDPOINTS: [&str; 2] = ["/token\"", "/token?again\""];

/// What a kill left behind.
#[derive(Debug, Default)]
struct Left {
    usable: u32,
    asked_for_a_person: u32,
}

struct Sweep {
    rig: Rig,
    rotations: usize,
    left: Left,
}

impl Sweep {
    fn new() -> Self {
        let rig = Rig::new("authorization_code", "starttls", "xoauth2");
        let relay = rig.site.start();
        rig.sign_in(MAILBOX);
        drop(relay);
        Self {
            rig,
            rotations: 0,
            left: Left::default(),
        }
    }

    /// The next start gets a new token at once.
    fn make_due(&mut self) {
        let (from, to) = (
            ENDPOINTS[self.rotations % 2],
            ENDPOINTS[(self.rotations + 1) % 2],
        );
        self.rotations += 1;
        self.rig.site.edit(from, to);
    }

    fn granted(&self) -> usize {
        self.rig.provider.count("granted refresh_token")
    }

    /// Waits until the rotation is stored and handed out; `false`: the process was killed first.
    fn passes(&self, relay: &mut Relay, granted: usize) -> bool {
        eventually("the rotation ends or the process is dead", || {
            if relay.process.ended().is_some() {
                return Some(false);
            }
            let listing = self.rig.site.run(&["accounts", "--json"]);
            let accounts: Option<Value> = serde_json::from_slice(&listing.stdout).ok();
            let is_ready = accounts.is_some_and(|accounts| accounts[0]["state"] == "ready");
            (is_ready && self.granted() > granted).then_some(true)
        })
    }

    /// What the next start makes of it.
    fn recover(&mut self) {
        let refused = self.rig.provider.count("refused");
        let _relay = self.rig.site.start();
        let account = eventually("the account is ready or asks for a person", || {
            let account = self.rig.site.account("alerts");
            let state = account["state"].as_str().unwrap().to_owned();
            ["ready", "sign_in_needed"]
                .contains(&&*state)
                .then_some(account)
        });
        let refused = self.rig.provider.count("refused") - refused;
        if account["state"] == "ready" {
            assert_eq!(refused, 0, "{account}");
            self.left.usable += 1;
        } else {
            assert_eq!(refused, 1, "one request finds out: {account}");
            let remedy = account["remedy"].as_str().unwrap();
            assert!(remedy.contains("gatepost login alerts"), "{account}");
            self.left.asked_for_a_person += 1;
            self.rig.sign_in(MAILBOX);
        }
        let passed = format!("after-{}", self.rotations);
        self.rig.passes(&passed);
    }

    /// Kills at each step until none is left. `from_the_start`: else from the moment on at which the
    /// request is under way.
    fn run(&mut self, syscalls: &str, from_the_start: bool) {
        let (mut n, mut untouched) = (0, 0);
        while untouched < UNTOUCHED {
            n += 1;
            assert!(n < STEPS_MAX, "no rotation was untouched");
            self.make_due();
            let trace = format!("trace={syscalls}");
            let inject = format!("inject={syscalls}:signal=KILL:when={n}");
            let options = ["-e", trace.as_str(), "-e", inject.as_str()];
            let granted = self.granted();
            let passed = if from_the_start {
                let process = Strace::launch(&self.rig.site, &options);
                self.passes(&mut self.rig.site.relay(process), granted)
            } else {
                self.rig.provider.halt();
                let mut relay = self.rig.site.start();
                let strace = Strace::attach(&relay, &self.rig.site, &options);
                self.rig.provider.go_on();
                let passed = self.passes(&mut relay, granted);
                drop(strace);
                passed
            };
            if passed {
                untouched += 1;
            } else {
                untouched = 0;
                self.recover();
            }
        }
        say(&format!("{syscalls}: {n} steps: {:?}", self.left));
    }
}

#[test]
fn before_the_request() {
    let mut sweep = Sweep::new();
    sweep.run("connect", true);
    let left = &sweep.left;
    assert!(left.usable > 0, "{left:?}");
    assert_eq!(left.asked_for_a_person, 0, "nothing was used up: {left:?}");
}

#[test]
fn reading_the_answer() {
    let mut sweep = Sweep::new();
    sweep.run("recvfrom,recvmsg", false);
    let left = &sweep.left;
    assert!(left.asked_for_a_person > 0, "{left:?}");
}

#[test]
fn storing_it() {
    let mut sweep = Sweep::new();
    sweep.run("pwrite64,pwritev", false);
    sweep.run("fsync,fdatasync", false);
    let left = &sweep.left;
    assert!(left.asked_for_a_person > 0, "{left:?}");
    assert!(left.usable > 0, "the journal had it: {left:?}");
}
