//! The practice provider: an OAuth server and an XOAUTH2 SMTP server that believe only each other.
//!
//! A product feature (rehearse before the cut-over); used by `cli` (sandbox, demo) and tests alone.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::net::tasks::Tasks;

/// What the sandbox listens on and how it behaves.
#[derive(Debug, Clone)]
pub struct Config {
    /// OAuth endpoints, mailbox page, fault script. Port 0: any free one.
    pub http: SocketAddr,
    /// SMTP with STARTTLS. Port 0: any free one.
    pub smtp: SocketAddr,
    /// Life of access tokens, seconds.
    pub token_lifetime_s: u64,
    /// The mailbox that signs in when nobody chooses (auto-consent), e.g. in the demo.
    pub mailbox: String,
}

/// A fault to play.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "snake_case")]
pub enum Fault {
    /// Answer `phase` with this reply: `reject`, `throttle`.
    Reply {
        /// `banner`, `ehlo`, `auth`, `mail`, `rcpt`, `data`, `end_of_data`.
        phase: String,
        /// `550 5.1.1 no such user`.
        reply: String,
        /// How many times; none: until cleared.
        times: Option<u32>,
    },
    /// Drop the connection in this phase.
    Drop {
        /// As above.
        phase: String,
        /// How many times; none: until cleared.
        times: Option<u32>,
    },
    /// Wait before answering.
    Slow {
        /// As above, or `token`.
        phase: String,
        /// Milliseconds.
        delay_ms: u64,
        /// How many times; none: until cleared.
        times: Option<u32>,
    },
    /// Revoke every token issued so far.
    Revoke,
    /// Answer the token endpoint so.
    Token {
        /// HTTP status.
        status: u16,
        /// Body.
        body: String,
        /// How many times; none: until cleared.
        times: Option<u32>,
    },
}

/// A message the sandbox took.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Delivered {
    /// The mailbox whose token was used.
    pub mailbox: String,
    /// Reverse-path.
    pub sender: String,
    /// Forward-paths.
    pub recipients: Vec<String>,
    /// The octets, after dot-unstuffing, as UTF-8 (lossy).
    pub message: String,
}

/// The running sandbox.
#[derive(Debug, Clone)]
pub struct Sandbox {
    _private: (),
}

impl Sandbox {
    /// Binds and serves until `tasks` stop.
    ///
    /// # Errors
    /// When an address cannot be bound.
    pub async fn start(_config: Config, _tasks: Tasks) -> std::io::Result<Self> {
        todo!()
    }

    /// Where HTTP listens: `/authorize`, `/token`, `/device/code`, `/device`, `/revoke`,
    /// `/introspect`, `/mailbox` (page), `/messages` (JSON), `/faults` (GET, POST, DELETE).
    #[must_use]
    pub fn http(&self) -> SocketAddr {
        todo!()
    }

    /// Where SMTP listens.
    #[must_use]
    pub fn smtp(&self) -> SocketAddr {
        todo!()
    }

    /// Client id and secret of the registered application.
    #[must_use]
    pub fn client(&self) -> (String, crate::secret::Secret) {
        todo!()
    }

    /// PEM of the CA that signed the SMTP certificate (for `ca_file`).
    #[must_use]
    pub fn ca_pem(&self) -> String {
        todo!()
    }

    /// The messages taken so far.
    #[must_use]
    pub fn delivered(&self) -> Vec<Delivered> {
        todo!()
    }

    /// Resolves when at least `count` messages were taken.
    pub async fn delivered_at_least(&self, _count: usize) {
        todo!()
    }

    /// Adds a fault to the script.
    pub fn play(&self, _fault: Fault) {
        todo!()
    }
}
