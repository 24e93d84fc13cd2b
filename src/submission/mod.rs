//! The listeners: accept and limits, one connection driving [`crate::smtp::server`], login, policy.
//!
//! - `listen`: sockets, and the loop that accepts from one.
//! - `proxy`: whom a proxy brings; `begun`: a stream whose first octets were looked at.
//! - `connection`: one session, driven; `wire`: its stream, the only place that reads and writes.
//!   Its `contract`: what a 250 promises.
//! - `door`: what sessions share, and a listener as it is configured now.
//! - `intake`: the data of one message, bounded in memory, edited once.
//! - `login`, `backoff`, `policy`: who may, with `net::limits`.
//! - `seen`: who has connected lately; `remedy`: why what it tried was refused, and what to do.
//!
//! Meets `delivery` nowhere but in the queue. A session takes its settings when it begins and the
//! rules (clients, routes) at each transaction, so a reload reaches open sessions.

mod backoff;
mod begun;
mod connection;
mod door;
mod intake;
mod listen;
mod login;
mod policy;
mod proxy;
mod remedy;
mod seen;
mod wire;

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ipnet::IpNet;
use tokio::task;

pub(crate) use self::backoff::Backoff;
use self::{
    door::{Door, Live, Shared},
    intake::{ROOM_LEN, Room},
    listen::{Family, Passed, Socket},
    login::Logins,
    seen::Seen,
};
pub use self::{
    login::{hash_password, verify_password},
    seen::{ClientSeen, Refusal},
};
use crate::{
    clock::Clock, mail::AccountName, net::tasks::Tasks, queue::Queue, route::Router,
    telemetry::Metrics,
};

/// One `[[listener]]`, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Listener {
    /// As written in the configuration; names the listener in routes and logs.
    pub name: String,
    /// Where it listens.
    pub address: Address,
    /// When TLS begins.
    pub tls: Tls,
    /// Certificate chain and key, PEM; needed unless `tls` is none.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Whether clients log in.
    pub auth: Auth,
    /// When credentials may cross the wire in clear.
    pub auth_without_tls: AuthWithoutTls,
    /// Who may connect; empty: everyone (only with required authentication).
    pub allow: Vec<IpNet>,
    /// What a 250 promises.
    pub delivery: Contract,
    /// What is done with bare CR and LF in message data.
    pub line_endings: LineEndings,
    /// What is done with lines over RFC 5321's 998 octets.
    pub long_lines: LongLines,
    /// Whether `Received` tells nothing of the client.
    pub hide_client_address: bool,
    /// Octets.
    pub max_message_size: u64,
    /// Recipients of one transaction.
    pub max_recipients: usize,
    /// Sessions at once.
    pub max_connections: usize,
    /// Sessions at once from one address.
    pub max_connections_per_client: usize,
    /// Networks of proxies: they must send a PROXY header, and are believed.
    pub proxy_protocol_from: Vec<IpNet>,
}

impl Listener {
    /// Whether a peer is a proxy whose word counts for its client's address.
    fn believes(&self, peer: IpAddr) -> bool {
        let mut networks = self.proxy_protocol_from.iter();
        networks.any(|network| network.contains(&peer))
    }
}

/// Where a listener listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
    /// A socket that systemd passes, by its `FileDescriptorName`.
    Systemd(String),
}

/// When TLS begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    /// Never.
    None,
    /// After STARTTLS.
    Starttls,
    /// At once.
    Implicit,
    /// At once if the client's first octet says so, else after STARTTLS.
    Auto,
}

/// What a 250 promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contract {
    /// The message is stored.
    Queue,
    /// The provider has taken it. Nothing is ever stored; the provider's refusal is the client's.
    Direct,
    /// The provider has taken it, or it is stored.
    Hybrid {
        /// How long the client waits for the provider.
        wait: Duration,
    },
}

impl Contract {
    /// As the configuration and the log call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Direct => "direct",
            Self::Hybrid { .. } => "hybrid",
        }
    }
}

/// The largest `max_message_size` of a listener whose messages are kept in memory alone.
pub const DIRECT_MESSAGE_LEN_MAX: u64 = 48 * 1024 * 1024;

/// Whether clients log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    /// AUTH is not offered.
    None,
    /// Offered.
    Optional,
    /// 530 without.
    Required,
}

/// When credentials may cross the wire in clear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthWithoutTls {
    /// Never.
    Never,
    /// From loopback and Unix sockets.
    Loopback,
    /// From everywhere.
    Always,
}

/// What is done with bare CR and LF in message data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineEndings {
    /// 550 5.6.11.
    Strict,
    /// Made CRLF before anything else looks at it; never ends the data.
    Normalize,
}

/// What is done with a line of the message over 998 octets. Header lines are folded at white space in
/// either case, and nothing is ever cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LongLines {
    /// It goes on as it is: many programs write a whole page in one line, and providers take it.
    Pass,
    /// 554 5.6.0, while the one who wrote it is there to hear it: for servers upstream that would
    /// refuse or break it.
    Refuse,
}

/// A `[[client]]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Client {
    /// PHC string, argon2id.
    pub password_hash: String,
    /// The account that sends its mail; none: routes decide.
    pub account: Option<AccountName>,
    /// Patterns for the reverse-path; empty: any.
    pub senders: Vec<String>,
    /// Whether it may not log in.
    pub disabled: bool,
}

/// What may change by reload without touching sessions.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rules {
    /// Our name in greetings and Received.
    pub hostname: String,
    /// By login name.
    pub clients: BTreeMap<String, Client>,
    /// Where mail goes.
    pub router: Router,
}

/// Deadlines of a session. Each begins with its phase, not with each octet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deadlines {
    /// For a command line (RFC 5321 §4.5.3.2.7: at least 5 minutes).
    pub command: Duration,
    /// For one block of message data (RFC 5321 §4.5.3.2.5: 3 minutes).
    pub data_block: Duration,
    /// For a TLS handshake.
    pub handshake: Duration,
    /// For a whole session.
    pub session: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            command: Duration::from_secs(5 * 60),
            data_block: Duration::from_secs(3 * 60),
            // Long enough for a small device, short enough that silent peers do not pile up.
            handshake: Duration::from_secs(30),
            // A device may keep its session for its working day; nobody needs it for ever.
            session: Duration::from_secs(12 * 60 * 60),
        }
    }
}

/// The running listeners. Clones share them.
#[derive(Debug, Clone)]
pub struct Submission {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    listeners: Mutex<Listeners>,
}

#[derive(Debug)]
struct Listeners {
    running: Vec<Running>,
    /// Those of listeners that are gone, until they have closed.
    closing: Vec<Weak<Socket>>,
    /// What systemd passed and nobody has taken.
    passed: Option<Passed>,
}

/// A listener that runs: its sockets live as long as its accept loops.
#[derive(Debug)]
struct Running {
    place: Place,
    door: Arc<Door>,
    loops: Vec<AcceptLoop>,
    tasks: Tasks,
}

#[derive(Debug)]
struct AcceptLoop {
    /// The loop's own: it closes with the loop, so that clients are refused while the rest drains.
    socket: Weak<Socket>,
    turns: Arc<AtomicU64>,
}

impl AcceptLoop {
    fn local_addr(&self) -> Option<SocketAddr> {
        self.socket.upgrade()?.local_addr()
    }
}

/// A listener made ready; nothing of it is visible yet.
#[derive(Debug)]
struct Ready {
    place: Place,
    live: Live,
    /// Empty: the socket of the running listener at this address goes on.
    sockets: Vec<Arc<Socket>>,
}

/// What a running socket must be to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    address: Address,
    family: Family,
}

/// Why a listener could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be bound.
    #[error("listener {name}: {source}{}", remedy(source))]
    Bind {
        /// Which.
        name: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Certificate or key cannot be used.
    #[error("listener {name}: {reason}")]
    Certificate {
        /// Which.
        name: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// systemd passed no socket of that name.
    #[error(
        "listener systemd:{0}: systemd passed no socket of this name (FileDescriptorName= in the .socket unit)"
    )]
    NotPassed(String),
}

/// What an operator does about an address that cannot be bound.
fn remedy(error: &io::Error) -> &'static str {
    let remedies = [
        (
            io::ErrorKind::AddrInUse,
            "; another process listens there: `ss -ltnp` names it. Stop it, or use another port",
        ),
        (
            io::ErrorKind::AddrNotAvailable,
            "; no interface of this machine has this address",
        ),
        (
            io::ErrorKind::PermissionDenied,
            "; ports below 1024 need CAP_NET_BIND_SERVICE (the shipped unit has it), and a Unix \
             socket a folder that the daemon may write to",
        ),
    ];
    let found = remedies.iter().find(|(kind, _)| *kind == error.kind());
    found.map_or("", |(_, remedy)| remedy)
}

/// What the listeners need of the rest.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Where accepted mail goes.
    pub queue: Queue,
    /// Wall clock.
    pub clock: Arc<dyn Clock>,
    /// Owner of the sessions.
    pub tasks: Tasks,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

impl Submission {
    /// Binds every listener (all or none) and accepts.
    ///
    /// # Errors
    /// [`Error`] names the listener.
    pub async fn start(
        listeners: Vec<Listener>,
        rules: Rules,
        parts: Parts,
    ) -> Result<Self, Error> {
        let shared = Shared {
            queue: parts.queue,
            clock: parts.clock,
            tasks: parts.tasks,
            metrics: parts.metrics,
            rules: Mutex::new(Arc::new(Rules::default())),
            logins: Logins::new(),
            deadlines: Deadlines::default(),
            seen: Seen::default(),
            room: Room::new(ROOM_LEN),
            sessions: AtomicU64::new(0),
        };
        let listening = Listeners {
            running: Vec::new(),
            closing: Vec::new(),
            passed: None,
        };
        let submission = Self {
            inner: Arc::new(Inner {
                shared: Arc::new(shared),
                listeners: Mutex::new(listening),
            }),
        };
        submission.reconfigure(listeners, rules).await?;
        Ok(submission)
    }

    /// Takes new rules and listeners: unchanged listeners keep their socket, sessions go on.
    /// Certificates are read again.
    ///
    /// # Errors
    /// [`Error`]; everything then stays as it was.
    pub async fn reconfigure(&self, listeners: Vec<Listener>, rules: Rules) -> Result<(), Error> {
        let rules = Arc::new(rules);
        let prepare = {
            let rules = Arc::clone(&rules);
            move || -> Result<Vec<Live>, Error> {
                let live = listeners.into_iter().map(|one| Live::new(one, &rules));
                live.collect()
            }
        };
        // Reads certificates from disk.
        let lives = match task::spawn_blocking(prepare).await {
            Ok(lives) => lives?,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        };
        let mut listening = self.listeners();
        let ready = listening.prepare(lives)?;
        self.inner.shared.set_rules(rules);
        listening.apply(ready, &self.inner.shared);
        Ok(())
    }

    /// The addresses bound, in the order of the configuration (port 0 resolved).
    #[must_use]
    pub fn addresses(&self) -> Vec<(String, Option<SocketAddr>)> {
        let listening = self.listeners();
        let addresses = listening.running.iter().flat_map(|running| {
            let name = running.door.live().listener.name.clone();
            let loops = running.loops.iter();
            loops.map(move |one| (name.clone(), one.local_addr()))
        });
        addresses.collect()
    }

    /// Who has connected since the start, who came last first: a bounded table in memory.
    #[must_use]
    pub fn clients(&self) -> Vec<ClientSeen> {
        self.inner.shared.seen.list()
    }

    /// A number that rises while the accept loops turn; the watchdog compares it.
    #[must_use]
    pub fn progress(&self) -> u64 {
        self.listeners().progress()
    }

    fn listeners(&self) -> std::sync::MutexGuard<'_, Listeners> {
        self.inner
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// An IPv6 wildcard leaves IPv4 to the listener that has it on the same port.
    fn of(address: &Address, all: &[Address]) -> Self {
        let is_ipv4_at = |other: &Address, port| matches!(other, Address::Tcp(other) if other.is_ipv4() && other.port() == port);
        let family = match address {
            Address::Tcp(SocketAddr::V6(six))
                if six.ip().is_unspecified()
                    && all.iter().any(|other| is_ipv4_at(other, six.port())) =>
            {
                Family::V6Only
            }
            Address::Tcp(_) | Address::Unix(_) | Address::Systemd(_) => Family::Any,
        };
        Self {
            address: address.clone(),
            family,
        }
    }
}

impl Listeners {
    /// Binds what is not bound yet.
    fn prepare(&mut self, lives: Vec<Live>) -> Result<Vec<Ready>, Error> {
        let addresses: Vec<_> = lives
            .iter()
            .map(|live| live.listener.address.clone())
            .collect();
        let places: Vec<_> = addresses
            .iter()
            .map(|one| Place::of(one, &addresses))
            .collect();
        let mut leaving = self.leaving(&places);
        let mut all = Vec::with_capacity(lives.len());
        for (live, place) in lives.into_iter().zip(places) {
            let known = self.running.iter().any(|one| one.place == place);
            let sockets = if known {
                Vec::new()
            } else {
                Socket::bind(&live.listener, place.family, &mut self.passed, &mut leaving)?
            };
            all.push(Ready {
                place,
                live,
                sockets,
            });
        }
        Ok(all)
    }

    /// Each socket once that no listener at these places goes on with.
    fn leaving(&self, places: &[Place]) -> Vec<Arc<Socket>> {
        let goes_on = |one: &&Running| places.contains(&one.place);
        let kept: Vec<_> = self.running.iter().filter(goes_on).collect();
        let gone = self.running.iter().filter(|one| !goes_on(one));
        let gone = gone.flat_map(|one| one.loops.iter().filter_map(|one| one.socket.upgrade()));
        let mut leaving = Vec::<Arc<Socket>>::new();
        for socket in gone.chain(self.closing.iter().filter_map(Weak::upgrade)) {
            let known = Arc::downgrade(&socket);
            let is_kept = kept.iter().any(|one| one.has_socket(&known));
            if !is_kept && !leaving.iter().any(|other| Arc::ptr_eq(other, &socket)) {
                leaving.push(socket);
            }
        }
        leaving
    }

    /// Cannot fail: loops of listeners that are gone stop, others go on, new ones start.
    fn apply(&mut self, ready: Vec<Ready>, shared: &Arc<Shared>) {
        let turns = self.progress();
        let mut old = std::mem::take(&mut self.running);
        for ready in ready {
            let same = old.iter().position(|one| one.place == ready.place);
            if let Some(same) = same {
                let running = old.swap_remove(same);
                running.door.set_live(ready.live);
                self.running.push(running);
                continue;
            }
            let running = Running::start(ready, shared, turns);
            self.running.push(running);
        }
        for gone in old {
            // Whoever still comes in by a socket that another listener took over is that one's.
            if let Some(heir) = self.running.iter().find(|one| one.shares_socket(&gone)) {
                gone.door.follow(&heir.door);
            }
            for one in &gone.loops {
                if !self.closing.iter().any(|other| other.ptr_eq(&one.socket)) {
                    self.closing.push(Weak::clone(&one.socket));
                }
            }
            gone.tasks.stop();
        }
        let running = &self.running;
        self.closing.retain(|socket| {
            let is_open = socket.strong_count() > 0;
            is_open && !running.iter().any(|one| one.has_socket(socket))
        });
    }

    /// The slowest loop counts: one that hangs must show.
    fn progress(&self) -> u64 {
        let loops = self.running.iter().flat_map(|running| &running.loops);
        let turns = loops.map(|one| one.turns.load(Ordering::Relaxed));
        turns.min().unwrap_or(0)
    }
}

impl Running {
    fn has_socket(&self, socket: &Weak<Socket>) -> bool {
        let mut loops = self.loops.iter();
        loops.any(|one| one.socket.ptr_eq(socket))
    }

    fn shares_socket(&self, other: &Self) -> bool {
        let mut loops = other.loops.iter();
        loops.any(|other| self.has_socket(&other.socket))
    }

    fn start(ready: Ready, shared: &Arc<Shared>, turns: u64) -> Self {
        let door = Arc::new(Door::new(ready.live));
        let tasks = shared.tasks.child();
        let start = |socket: Arc<Socket>| {
            let turns = Arc::new(AtomicU64::new(turns));
            let (door, shared) = (Arc::clone(&door), Arc::clone(shared));
            let known = Arc::downgrade(&socket);
            let accept = listen::accept(socket, door, shared, tasks.clone(), Arc::clone(&turns));
            tasks.spawn("accept", accept);
            AcceptLoop {
                socket: known,
                turns,
            }
        };
        let loops = ready.sockets.into_iter().map(start).collect();
        Self {
            place: ready.place,
            door: Arc::clone(&door),
            loops,
            tasks,
        }
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
