//! What outlives a session: the parts all share, a listener as it is configured now, its peers.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{
    Deadlines, Error, Listener, Rules, Tls,
    intake::Room,
    login::Logins,
    policy,
    remedy::Case,
    seen::{Event, Seen, Visit, Who},
};
use crate::{
    clock::Clock,
    net::{
        limits::{Limits, Permit},
        tasks::Tasks,
        tls::renewing::Renewing,
    },
    queue::Queue,
    smtp::{replies::Reply, server::Settings},
    telemetry::Metrics,
};

/// What all sessions of all listeners share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) queue: Queue,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) tasks: Tasks,
    pub(super) metrics: Arc<Metrics>,
    pub(super) rules: Mutex<Arc<Rules>>,
    pub(super) logins: Logins,
    pub(super) deadlines: Deadlines,
    pub(super) seen: Seen,
    /// For messages of `delivery = "direct"`.
    pub(super) room: Room,
    /// Sessions begun; the number names the next one.
    pub(super) sessions: AtomicU64,
}

impl Shared {
    /// The rules in force now.
    pub(super) fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.rules.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes a peer that gets no session, for the list of clients.
    pub(super) fn turned_away(
        &self,
        (reply, why): (&Reply, &str),
        listener: &Listener,
        peer: Option<IpAddr>,
    ) {
        self.count_refused(why);
        let rules = self.rules();
        let explained = Case {
            reply,
            listener,
            rules: &rules,
            peer,
            login: None,
            sender: None,
        }
        .explain();
        let who = Who {
            address: peer,
            helo: None,
            login: None,
        };
        let visit = Visit {
            listener: &listener.name,
            tls: false,
            at: self.clock.now(),
            is_new: true,
        };
        self.seen.note(who, visit, Event::TurnedAway(explained));
    }

    /// Counts a connection that gets no session.
    pub(super) fn count_refused(&self, why: &str) {
        // What stands behind a colon is for people.
        let why = why.split(':').next().unwrap_or(why).replace(' ', "_");
        let refused = &self.metrics.sessions_refused;
        refused.get_or_create(&[("reason", why)]).inc();
    }

    pub(super) fn set_rules(&self, rules: Arc<Rules>) {
        *self.rules.lock().unwrap_or_else(PoisonError::into_inner) = rules;
    }
}

/// One listener: how it is configured now, and who is inside.
#[derive(Debug)]
pub(super) struct Door {
    live: Mutex<Arc<Live>>,
    pub(super) limits: Arc<Limits>,
}

impl Door {
    pub(super) fn new(live: Live) -> Self {
        Self {
            live: Mutex::new(Arc::new(live)),
            limits: Arc::default(),
        }
    }

    pub(super) fn live(&self) -> Arc<Live> {
        Arc::clone(&self.live.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Is configured as another from now on.
    pub(super) fn follow(&self, other: &Self) {
        *self.live.lock().unwrap_or_else(PoisonError::into_inner) = other.live();
    }

    pub(super) fn set_live(&self, live: Live) {
        *self.live.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(live);
    }
}

/// A listener's configuration, ready for sessions.
pub(super) struct Live {
    pub(super) listener: Listener,
    pub(super) tls: Option<Arc<Renewing>>,
    /// For peers elsewhere, and for peers on this machine.
    settings: [Arc<Settings>; 2],
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Live").field(&self.listener).finish()
    }
}

impl Live {
    /// Reads the certificate. Blocking.
    pub(super) fn new(listener: Listener, rules: &Rules) -> Result<Self, Error> {
        let unusable = |reason| Error::Certificate {
            name: listener.name.clone(),
            reason,
        };
        let tls = match (listener.tls, &listener.certificate) {
            (Tls::None, _) => None,
            (Tls::Starttls | Tls::Implicit | Tls::Auto, None) => {
                let remedy = "TLS needs certificate_file and key_file";
                return Err(unusable(remedy.to_owned()));
            }
            (Tls::Starttls | Tls::Implicit | Tls::Auto, Some((certificate, key))) => {
                let renewing = Renewing::open(&listener.name, certificate, key);
                Some(renewing.map_err(|error| unusable(error.to_string()))?)
            }
        };
        let settings =
            [false, true].map(|local| Arc::new(policy::settings(&listener, rules, local)));
        Ok(Self {
            listener,
            tls,
            settings,
        })
    }

    pub(super) fn settings(&self, peer: Peer) -> Arc<Settings> {
        let [elsewhere, here] = &self.settings;
        Arc::clone(if peer.is_local() { here } else { elsewhere })
    }
}

/// Who connected.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer {
    /// None on a Unix socket.
    address: Option<SocketAddr>,
    /// The proxy that told the address.
    pub(super) proxy: Option<IpAddr>,
}

impl Peer {
    /// Without a proxy between.
    pub(super) fn direct(address: Option<SocketAddr>) -> Self {
        Self {
            address,
            proxy: None,
        }
    }

    /// As a proxy tells; one that names nobody speaks for itself.
    pub(super) fn told(client: Option<SocketAddr>, proxy: SocketAddr) -> Self {
        Self {
            address: client.or(Some(proxy)),
            proxy: Some(proxy.ip().to_canonical()),
        }
    }

    /// Whether what it sends stays on this machine: another machine's loopback does not.
    pub(super) fn is_local(self) -> bool {
        let is_loopback = |ip: IpAddr| ip.is_loopback();
        self.ip().is_none_or(is_loopback) && self.proxy.is_none_or(is_loopback)
    }

    /// The address, an IPv4 one as such even on a dual-stack socket.
    pub(super) fn ip(self) -> Option<IpAddr> {
        self.address.map(|peer| peer.ip().to_canonical())
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(peer) => SocketAddr::new(peer.ip().to_canonical(), peer.port()).fmt(f),
            None => f.write_str("unix"),
        }
    }
}

/// What a session is given when it begins.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) shared: Arc<Shared>,
    pub(super) live: Arc<Live>,
    pub(super) peer: Peer,
    /// Names the session in the log.
    pub(super) number: u64,
    _permit: Permit,
}

impl Context {
    pub(super) fn new(shared: Arc<Shared>, live: Arc<Live>, peer: Peer, permit: Permit) -> Self {
        let number = shared.sessions.fetch_add(1, Ordering::Relaxed);
        shared.metrics.sessions.inc();
        shared.metrics.sessions_open.inc();
        Self {
            shared,
            live,
            peer,
            number,
            _permit: permit,
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        self.shared.metrics.sessions_open.dec();
    }
}
