//! The one control surface: HTTP on the console's TCP address and on the control socket.
//!
//! The control socket carries the whole API (its file permission is the login); the TCP address
//! carries health, metrics, the OAuth callback and, for who has logged in, the pages of `console`
//! and the same API. What either may answer is in [`api`], and none of those values can hold a
//! secret. The CLI speaks through [`client`].

pub mod api;
mod callback;
pub mod client;
mod connection;
mod console;
mod export;
mod guard;
mod handlers;
mod health;
mod import;
pub mod made;
mod problem;
mod search;
mod server;
mod socket;
pub(crate) mod text;
mod watch;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use tokio::sync::{mpsc, oneshot};
use url::Url;

use crate::{
    clock::Clock,
    delivery::Delivery,
    net::{
        tasks::Tasks,
        tls::{self, renewing::Renewing},
    },
    notify::Notifier,
    oauth::Oauth,
    queue::Queue,
    registry::Registry,
    submission::{Listener, Submission},
    telemetry::Metrics,
};

pub use callback::CallbackServer;

/// What the control surface needs to know.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The console's TCP address; none: no console.
    pub address: Option<SocketAddr>,
    /// `/metrics` on an address of its own; none: on the console's.
    pub metrics_address: Option<SocketAddr>,
    /// The control socket.
    pub socket: PathBuf,
    /// Where the console is reached from outside; its host is allowed in `Host`.
    pub public_url: Option<Url>,
    /// The console speaks TLS with this; none: plain HTTP.
    pub certificate: Option<Certificate>,
    /// What opens the console's pages: an argon2id PHC string.
    pub password_hash: Option<String>,
}

/// Where a certificate chain and its key are, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The chain, the server's own first.
    pub file: PathBuf,
    /// The key.
    pub key_file: PathBuf,
}

impl Config {
    /// Where the browser comes back to after a sign-in unless a profile says otherwise. None: the
    /// console's certificate is for a name that nobody has told.
    #[must_use]
    pub fn redirect_url(&self) -> Option<Url> {
        if self.certificate.is_some() {
            return self
                .public_url
                .as_ref()?
                .join(callback::DEFAULT_URL_PATH)
                .ok();
        }
        let port = self.address.map(|address| address.port());
        let port = port.filter(|port| *port != 0).unwrap_or(PORT);
        Url::parse(&format!(
            "http://localhost:{port}{}",
            callback::DEFAULT_URL_PATH
        ))
        .ok()
    }
}

/// The console's port when it has none that can be known beforehand.
const PORT: u16 = 8025;

impl Certificate {
    /// Opened for the console. Blocking.
    fn open(&self) -> Result<Arc<Renewing>, tls::server::Error> {
        Renewing::open("console", &self.file, &self.key_file)
    }
}

/// What the control surface needs of the rest.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Listed and operated.
    pub queue: Queue,
    /// Signed in and out.
    pub oauth: Oauth,
    /// Probed and woken.
    pub delivery: Delivery,
    /// Wall clock.
    pub clock: Arc<dyn Clock>,
    /// Owner of the connections.
    pub tasks: Tasks,
    /// Encoded at `/metrics`.
    pub metrics: Arc<Metrics>,
    /// Told what is wrong, tried on request.
    pub notify: Notifier,
    /// Whoever reads the configuration again. It lives above this module, so it is a channel.
    pub reload: mpsc::Sender<ReloadRequest>,
    /// What was made in the console.
    pub registry: Registry,
    /// Whoever changes what was made there.
    pub changes: mpsc::Sender<made::ChangeRequest>,
}

/// A wish to read the configuration again, with the place for the answer.
#[derive(Debug)]
pub struct ReloadRequest(pub oneshot::Sender<Result<api::Reloaded, Vec<String>>>);

/// What the configuration says that pages and listings show. Swapped as a whole by a reload.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct View {
    /// Every account.
    pub accounts: Vec<api::AccountFacts>,
    /// The account that mail goes by which neither a client nor a route leads elsewhere.
    pub default_account: Option<crate::mail::AccountName>,
    /// The state directory.
    pub state_dir: PathBuf,
    /// The configuration file.
    pub config_file: Option<PathBuf>,
    /// Where the console is reached from outside; its host is allowed in `Host`.
    pub public_url: Option<Url>,
    /// What opens the console's pages: an argon2id PHC string.
    pub password_hash: Option<String>,
    /// This relay's name.
    pub hostname: String,
    /// Where mail is taken, for whoever sets a device up.
    pub listeners: Vec<Listener>,
    /// Every key of the configuration; no secrets.
    pub settings: Vec<api::Setting>,
    /// What is allowed in the configuration and still worth a remark.
    pub warnings: Vec<String>,
    /// Providers, accounts and clients as they were written, and what is left out.
    pub written: Vec<made::Written>,
    /// The profiles in force.
    pub providers: BTreeMap<String, made::providers::Effective>,
    /// Where browsers come back to unless a profile says otherwise.
    pub redirect_url: Option<Url>,
}

impl View {
    fn access(&self) -> console::Settings {
        console::Settings {
            password_hash: self.password_hash.clone(),
            public_url: self.public_url.clone(),
        }
    }
}

/// Why the control surface could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The console's certificate cannot be used.
    #[error("console: {0}")]
    Certificate(#[from] tls::server::Error),
    /// A TCP address cannot be bound.
    #[error("{what}.address {address} (stop the process that has it, or choose another)")]
    Bind {
        /// `console` or `metrics`: the section of the configuration.
        what: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The control socket cannot be made.
    #[error("control socket {path}", path = path.display())]
    Socket {
        /// Its path.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// Another process answers on the control socket.
    #[error("another gatepost answers on {path}; stop it, or choose another state_dir", path = path.display())]
    InUse {
        /// Its path.
        path: PathBuf,
    },
}

/// The running control surface. Clones share it.
#[derive(Debug, Clone)]
pub struct Admin {
    shared: Arc<Shared>,
    console: Option<SocketAddr>,
    metrics: Option<SocketAddr>,
}

/// What every handler sees.
#[derive(Debug)]
struct Shared {
    parts: Parts,
    view: Mutex<Arc<View>>,
    /// Set once the listeners are bound, which is after the control surface has started.
    submission: OnceLock<Submission>,
    console: OnceLock<SocketAddr>,
    access: console::Access,
    pulse: console::live::Pulse,
    history: console::history::History,
    /// Where the pages of sign-ins were seen.
    returns: console::kept::Kept<Url>,
    /// The forms that led to sign-ins.
    typed: console::kept::Kept<Arc<console::form::Posted>>,
    runs: console::runs::Runs,
    trials: console::trials::Trials,
}

impl Admin {
    /// Binds the control socket, the console and the metrics address (all or none) and serves them
    /// until told to stop. Answers under way are then finished.
    ///
    /// # Errors
    /// [`Error`] names the address or socket.
    pub async fn start(config: &Config, view: View, parts: Parts) -> Result<Self, Error> {
        server::start(config, view, parts).await
    }

    /// Takes what a reload has changed.
    pub fn reconfigure(&self, view: View) {
        self.shared.access.reconfigure(view.access());
        *self.shared.lock_view() = Arc::new(view);
    }

    /// Tells that the listeners are bound, so that `/readyz` can say so.
    pub fn listening(&self, submission: Submission) {
        if self.shared.submission.set(submission).is_err() {
            tracing::debug!(event = "listening_twice");
        }
    }

    /// The console's bound TCP address (port 0 resolved).
    #[must_use]
    pub fn console(&self) -> Option<SocketAddr> {
        self.console
    }

    /// Where the console is and how to get in, for whoever starts the daemon: with the first one-time
    /// code where that is the way, unless somebody was given one already. None: there is no console.
    #[must_use]
    pub fn invite(&self) -> Option<api::Invitation> {
        self.console.map(|_| self.shared.access.invite_first())
    }

    /// The bound address of `/metrics`, where it has its own.
    #[must_use]
    pub fn metrics(&self) -> Option<SocketAddr> {
        self.metrics
    }
}

impl Shared {
    fn view(&self) -> Arc<View> {
        Arc::clone(&self.lock_view())
    }

    fn lock_view(&self) -> std::sync::MutexGuard<'_, Arc<View>> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
