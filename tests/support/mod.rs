//! What the test binaries share: the built daemon in a directory of its own, a small SMTP client, a
//! strict upstream that keeps a ledger, and child processes that never outlive their test.
#![allow(dead_code, reason = "each test binary uses its part")]

pub(crate) mod browser;
pub(crate) mod disk;
pub(crate) mod login;
pub(crate) mod mail;
pub(crate) mod oracle;
pub(crate) mod process;
pub(crate) mod relay;
pub(crate) mod secrets;
pub(crate) mod sink;
pub(crate) mod smtp;

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Guards against hanging for ever; no test asserts how long anything takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// Between two looks at a fact of another process, which can't wake us.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Ports are taken below the range the kernel draws outgoing ports from, so that no connection of
/// another test can sit on a port between our asking for it and a child's binding it.
const PORTS: std::ops::Range<u16> = 12_000..32_000;

/// Waits for a fact of another process.
pub(crate) fn eventually<T>(what: &str, fact: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, what, fact)
}

/// Waits for a fact of another process, for facts that take longer than [`PATIENCE`] by design.
pub(crate) fn within<T>(patience: Duration, what: &str, mut fact: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + patience;
    loop {
        if let Some(found) = fact() {
            return found;
        }
        assert!(Instant::now() < end, "did not come true: {what}");
        pause(LOOK_EVERY);
    }
}

/// Lets time pass: only for looking again, and for killing at a random moment.
#[expect(
    clippy::disallowed_methods,
    reason = "the fact is in another process, or the moment is meant to be random"
)]
pub(crate) fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

/// Tells something on standard error, where the test runner shows it when the test fails.
#[expect(clippy::print_stderr, reason = "the runner captures it")]
pub(crate) fn say(text: &str) {
    eprintln!("{text}");
}

/// A loopback address nobody listens on, another one each time: nobody may listen there yet when the
/// next is drawn, and one port for two servers is a configuration that is refused.
pub(crate) fn free_address() -> SocketAddr {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().unwrap();
    let mut chance = Chance::new();
    loop {
        let span = u64::from(PORTS.end - PORTS.start);
        let port = PORTS.start + u16::try_from(chance.below(span)).unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if !given.contains(&port) && TcpListener::bind(address).is_ok() {
            given.insert(port);
            return address;
        }
    }
}

/// The root of the repository.
pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A directory that vanishes with the test. Its path is short: Unix sockets go below it.
pub(crate) fn scratch() -> tempfile::TempDir {
    let dir = tempfile::Builder::new()
        .prefix("gp-")
        .tempdir_in("/tmp")
        .unwrap();
    // Dovecot's and Postfix's processes run as users of their own and pass through.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(dir.path(), open).unwrap();
    dir
}

/// The path of a program the tests need, or a failure that names what to install.
pub(crate) fn program(name: &str, package: &str) -> PathBuf {
    let own = repository().join("target/tools/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::iter::once(own)
        .chain(std::env::split_paths(&path))
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|folder: PathBuf| folder.join(name))
        .find(|file| file.is_file())
        .unwrap_or_else(|| {
            panic!("{name} is missing: install the package {package}, or run ./test.sh")
        })
}

/// Fails when the test is not run by root, saying how it should be.
pub(crate) fn need_root(why: &str) {
    assert!(
        rustix::process::geteuid().is_root(),
        "needs root ({why}): run ./test.sh"
    );
}

/// Reproducible chance (splitmix64). The seed is printed by whoever makes one for a sweep.
#[derive(Debug, Clone)]
pub(crate) struct Chance(u64);

impl Chance {
    /// From the system.
    pub(crate) fn new() -> Self {
        static CALLS: AtomicU64 = AtomicU64::new(0);
        Self(getrandom::u64().unwrap() ^ CALLS.fetch_add(1, Ordering::Relaxed))
    }

    /// From a seed.
    pub(crate) fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number in `0..bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Up to `most`.
    pub(crate) fn moment(&mut self, most: Duration) -> Duration {
        let micros = u64::try_from(most.as_micros()).unwrap();
        Duration::from_micros(self.below(micros + 1))
    }
}
