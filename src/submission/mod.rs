//! The listeners: accept and limits, one connection driving [`crate::smtp::server`], login, policy.
//!
//! Meets `delivery` nowhere but in the queue.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use ipnet::IpNet;

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
    /// What is done with bare CR and LF in message data.
    pub line_endings: LineEndings,
    /// Octets.
    pub max_message_size: u64,
    /// Recipients of one transaction.
    pub max_recipients: usize,
    /// Sessions at once.
    pub max_connections: usize,
    /// Sessions at once from one address.
    pub max_connections_per_client: usize,
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
}

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

/// A `[[client]]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Client {
    /// PHC string, argon2id.
    pub password_hash: String,
    /// The account that sends its mail; none: routes decide.
    pub account: Option<AccountName>,
    /// Patterns for the reverse-path; empty: any.
    pub senders: Vec<String>,
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

/// The running listeners. Clones share them.
#[derive(Debug, Clone)]
pub struct Submission {
    _private: (),
}

/// Why a listener could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be bound.
    #[error("listener {name}: {source}")]
    Bind {
        /// Which.
        name: String,
        /// What the system says.
        #[source]
        source: std::io::Error,
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
        _listeners: Vec<Listener>,
        _rules: Rules,
        _parts: Parts,
    ) -> Result<Self, Error> {
        todo!()
    }

    /// Takes new rules and listeners: unchanged listeners keep their socket, sessions go on.
    ///
    /// # Errors
    /// [`Error`]; everything then stays as it was.
    pub async fn reconfigure(&self, _listeners: Vec<Listener>, _rules: Rules) -> Result<(), Error> {
        todo!()
    }

    /// The addresses bound, in the order of the configuration (port 0 resolved).
    #[must_use]
    pub fn addresses(&self) -> Vec<(String, Option<SocketAddr>)> {
        todo!()
    }

    /// A number that rises while the accept loops turn; the watchdog compares it.
    #[must_use]
    pub fn progress(&self) -> u64 {
        todo!()
    }
}

/// A PHC string for `password`, for `[[client]] password_hash`. Blocking (argon2id).
///
/// # Errors
/// When the system has no randomness.
pub fn hash_password(_password: &crate::secret::Secret) -> Result<String, std::io::Error> {
    todo!()
}
