//! Backoff against guessed passwords: by address, by name, and for devices that have logged in.
//!
//! A guesser is slowed at its address, and a name that is guessed from many addresses is slowed for
//! addresses it never logged in from. A device that has logged in from an address counts apart: one
//! misconfigured neighbour behind the same NAT, or a guesser elsewhere, does not lock it out. Names
//! are counted whether a client of that name exists or not, so that the answer tells nothing. Time
//! comes in as an argument; every table is bounded.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Failures without consequence: a typing error, and a device that tries each mechanism it knows.
const ADDRESS_FREE: u32 = 5;
/// The same for a name, over all addresses it is unknown at: a guesser at one address never gets so
/// far, so that it cannot lock others out.
const NAME_FREE: u32 = 30;
/// The first wait; doubled with each failure.
const WAIT_FIRST: Duration = Duration::from_secs(2);
/// Long enough to make guessing hopeless, short enough that a corrected device comes back by itself.
const WAIT_MAX: Duration = Duration::from_secs(15 * 60);
/// For a name it is shorter, because somebody else may be meant.
const NAME_WAIT_MAX: Duration = Duration::from_secs(30);
/// After so long without a failure it is forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(60 * 60);
/// Failures remembered at once; then the oldest gives way.
const FAILURES_MAX: usize = 4096;
/// Devices remembered at once; then the one not seen for longest gives way.
const DEVICES_MAX: usize = 4096;

/// Counts failed logins.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    /// Keyed by chance, so that nobody can make two names collide.
    hasher: RandomState,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    failures: HashMap<Key, Failures>,
    /// When a name last logged in from a network.
    devices: HashMap<(Network, u64), Instant>,
}

/// Where a login comes from: an IPv4 address, or the /64 that one IPv6 host can use as it likes.
/// Unix sockets are one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Network(Option<IpAddr>);

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    Address(Network),
    Name(u64),
    Device(Network, u64),
}

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    last: Instant,
    /// No login before.
    until: Instant,
}

impl Key {
    fn free(self) -> u32 {
        match self {
            Self::Address(_) | Self::Device(..) => ADDRESS_FREE,
            Self::Name(_) => NAME_FREE,
        }
    }

    fn wait_max(self) -> Duration {
        match self {
            Self::Address(_) | Self::Device(..) => WAIT_MAX,
            Self::Name(_) => NAME_WAIT_MAX,
        }
    }
}

impl Backoff {
    /// How long a login must wait; none: it may be checked now.
    pub(crate) fn wait(&self, peer: Option<IpAddr>, name: &str, now: Instant) -> Option<Duration> {
        let keys = self.keys(peer, name);
        let state = self.state();
        let until = |key: &Key| state.failures.get(key).map(|failures| failures.until);
        let until = state
            .counted(keys)
            .iter()
            .flatten()
            .filter_map(until)
            .max()?;
        (until > now).then(|| until - now)
    }

    /// A login failed.
    pub(crate) fn failed(&self, peer: Option<IpAddr>, name: &str, now: Instant) {
        let keys = self.keys(peer, name);
        let mut state = self.state();
        for key in state.counted(keys).into_iter().flatten() {
            state.count(key, now);
        }
    }

    /// A login succeeded.
    pub(crate) fn succeeded(&self, peer: Option<IpAddr>, name: &str, now: Instant) {
        let (network, name) = self.keys(peer, name);
        let mut state = self.state();
        // The address keeps its failures: one right password of many must not hide the guessing.
        state.failures.remove(&Key::Device(network, name));
        let device = (network, name);
        if state.devices.len() >= DEVICES_MAX && !state.devices.contains_key(&device) {
            let oldest = state.devices.iter().min_by_key(|(_, seen)| **seen);
            if let Some(oldest) = oldest.map(|(device, _)| *device) {
                state.devices.remove(&oldest);
            }
        }
        state.devices.insert(device, now);
    }

    fn keys(&self, peer: Option<IpAddr>, name: &str) -> (Network, u64) {
        (Network::of(peer), self.hasher.hash_one(name))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// What a login by this name from there counts for.
    fn counted(&self, (network, name): (Network, u64)) -> [Option<Key>; 2] {
        if self.devices.contains_key(&(network, name)) {
            [Some(Key::Device(network, name)), None]
        } else {
            [Some(Key::Address(network)), Some(Key::Name(name))]
        }
    }

    fn count(&mut self, key: Key, now: Instant) {
        if self.failures.len() >= FAILURES_MAX && !self.failures.contains_key(&key) {
            self.make_room(now);
        }
        let failures = self.failures.entry(key).or_insert(Failures {
            count: 0,
            last: now,
            until: now,
        });
        if now.duration_since(failures.last) >= FORGET_AFTER {
            failures.count = 0;
        }
        failures.count = failures.count.saturating_add(1);
        failures.last = now;
        if let Some(over) = failures.count.checked_sub(key.free()) {
            let wait = WAIT_FIRST.saturating_mul(2u32.saturating_pow(over));
            failures.until = now + wait.min(key.wait_max());
        }
    }

    /// Forgets what is old; else the one that failed longest ago.
    fn make_room(&mut self, now: Instant) {
        self.failures
            .retain(|_, failures| now.duration_since(failures.last) < FORGET_AFTER);
        if self.failures.len() >= FAILURES_MAX {
            let oldest = self
                .failures
                .iter()
                .min_by_key(|(_, failures)| failures.last);
            if let Some(oldest) = oldest.map(|(key, _)| *key) {
                self.failures.remove(&oldest);
            }
        }
    }
}

impl Network {
    fn of(peer: Option<IpAddr>) -> Self {
        Self(peer.map(|peer| match peer.to_canonical() {
            four @ IpAddr::V4(_) => four,
            IpAddr::V6(six) => {
                let [a, b, c, d, ..] = six.segments();
                IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    /// Guesses for a minute as fast as it may; how many guesses that were.
    fn guesses(backoff: &Backoff, from: Option<IpAddr>, name: &str, start: Instant) -> u32 {
        let mut guesses = 0;
        for tenth in 0..600 {
            let now = start + Duration::from_millis(100) * tenth;
            if backoff.wait(from, name, now).is_none() {
                backoff.failed(from, name, now);
                guesses += 1;
            }
        }
        guesses
    }

    #[test]
    fn a_guesser_gets_ten_tries_a_minute_and_others_are_not_slowed() {
        let (backoff, now) = (Backoff::default(), Instant::now());
        let guesser = address("192.0.2.1");
        assert!(guesses(&backoff, guesser, "printer", now) <= 10);
        let later = now + Duration::from_secs(60);
        assert_eq!(backoff.wait(address("192.0.2.2"), "printer", later), None);
        assert!(backoff.wait(guesser, "any other name", later).is_some());
        // One host has the whole /64.
        let (one, two) = (address("2001:db8::1"), address("2001:db8::ffff:2"));
        assert!(guesses(&backoff, one, "x", now) + guesses(&backoff, two, "x", now) <= 10);
        // A mapped address is the IPv4 one.
        assert!(
            backoff
                .wait(address("::ffff:192.0.2.1"), "x", later)
                .is_some()
        );
    }

    #[test]
    fn a_device_that_logged_in_counts_for_itself() {
        let (backoff, now) = (Backoff::default(), Instant::now());
        let nat = address("192.0.2.1");
        backoff.succeeded(nat, "printer", now);
        guesses(&backoff, nat, "scanner", now);
        assert!(backoff.wait(nat, "scanner", now).is_some());
        assert_eq!(backoff.wait(nat, "printer", now), None);
        // Its own failures slow it.
        assert!(guesses(&backoff, nat, "printer", now) <= 10);
        let later = now + Duration::from_secs(61);
        assert!(backoff.wait(nat, "printer", later).is_some());
    }

    #[test]
    fn a_name_guessed_from_everywhere_is_slowed_where_it_is_not_known() {
        let (backoff, now) = (Backoff::default(), Instant::now());
        let home = address("198.51.100.1");
        backoff.succeeded(home, "printer", now);
        for host in 0..100 {
            backoff.failed(Some(IpAddr::from([192, 0, 2, host])), "printer", now);
        }
        assert!(
            backoff
                .wait(address("203.0.113.1"), "printer", now)
                .is_some()
        );
        assert_eq!(backoff.wait(home, "printer", now), None);
        let later = now + NAME_WAIT_MAX;
        assert_eq!(backoff.wait(address("203.0.113.1"), "printer", later), None);
    }

    #[test]
    fn waits_end_and_tables_are_bounded() {
        let (backoff, now) = (Backoff::default(), Instant::now());
        let from = address("192.0.2.1");
        for _ in 0..100 {
            backoff.failed(from, "x", now);
        }
        assert_eq!(backoff.wait(from, "y", now), Some(WAIT_MAX));
        backoff.failed(from, "y", now + FORGET_AFTER + WAIT_MAX);
        assert_eq!(backoff.wait(from, "y", now + FORGET_AFTER + WAIT_MAX), None);
        for host in 0..5_000u32 {
            let from = Some(IpAddr::from(host.to_be_bytes()));
            backoff.failed(from, "x", now);
            backoff.succeeded(from, "x", now);
        }
        let state = backoff.state();
        assert!(state.failures.len() <= FAILURES_MAX && state.devices.len() <= DEVICES_MAX);
    }
}
