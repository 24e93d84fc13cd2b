//! The practice provider: an OAuth server, and an XOAUTH2 SMTP server, a Microsoft Graph and a Gmail
//! API that believe only its tokens.
//!
//! A product feature (rehearse before the cut-over); used by `cli` (sandbox, demo) and tests alone.
//! It takes mail and shows it, and never sends any on. Everything it keeps is in memory, bounded,
//! and gone with the process; tokens are kept as digests only.

mod api;
mod faults;
mod mailbox;
mod oauth;
mod pages;
mod smtp;
mod tls;
mod web;

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use faults::Script;
pub use faults::{Fault, Invalid};
use mailbox::Mailbox;
use oauth::{Provider, grants::Grants};

use crate::{
    clock::{Clock, SystemClock},
    net::tasks::Tasks,
    secret::Secret,
};

/// Access tokens live no longer than this, whatever is asked for: longer than any rehearsal.
const TOKEN_LIFETIME_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// What the sandbox listens on and how it behaves.
#[derive(Debug, Clone)]
pub struct Config {
    /// OAuth endpoints, mailbox page, fault script. Port 0: any free one.
    pub http: SocketAddr,
    /// SMTP with STARTTLS. Port 0: any free one.
    pub smtp: SocketAddr,
    /// Life of access tokens, seconds.
    pub token_lifetime_s: u64,
    /// The mailbox that signs in when nobody chooses another on the consent page.
    pub mailbox: String,
}

/// A message the sandbox took.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Delivered {
    /// By which way it came: `smtp`, `graph` or `gmail`.
    #[serde(default)]
    pub over: String,
    /// The mailbox whose token was used.
    pub mailbox: String,
    /// Reverse-path.
    pub sender: String,
    /// Forward-paths.
    pub recipients: Vec<String>,
    /// The octets, after dot-unstuffing, as UTF-8 (lossy).
    pub message: String,
}

/// The running sandbox. Clones share it.
#[derive(Debug, Clone)]
pub struct Sandbox {
    shared: Arc<Shared>,
    http: SocketAddr,
    smtp: SocketAddr,
    ca_pem: Arc<str>,
}

/// What the HTTP and SMTP sides share.
#[derive(Debug)]
struct Shared {
    provider: Provider,
    script: Script,
    mailbox: Mailbox,
    /// What the APIs count.
    usage: api::Usage,
    /// Filled into the consent page.
    mailbox_name: String,
    clock: Arc<dyn Clock>,
}

impl Sandbox {
    /// Binds and serves until `tasks` stop.
    ///
    /// # Errors
    /// When an address cannot be bound, or the system gives no randomness.
    pub async fn start(config: Config, tasks: Tasks) -> io::Result<Self> {
        let web = bind(config.http).await?;
        let mail = bind(config.smtp).await?;
        let (http, smtp) = (web.local_addr()?, mail.local_addr()?);
        let clock = SystemClock::shared();
        let identity = tls::identity(smtp.ip(), clock.now())?;
        let secret = Secret::new(oauth::random::text(32).map_err(io::Error::other)?);
        let lifetime = Duration::from_secs(config.token_lifetime_s).min(TOKEN_LIFETIME_MAX);
        let issuer = format!("http://{}", reachable(http));
        let shared = Arc::new(Shared {
            provider: Provider::new(issuer, secret, Grants::new(lifetime))?,
            script: Script::default(),
            mailbox: Mailbox::new(),
            usage: api::Usage::default(),
            mailbox_name: config.mailbox,
            clock,
        });
        tracing::info!(event = "sandbox_started", %http, %smtp);
        tasks.spawn(
            "sandbox_http",
            web::serve(web, Arc::clone(&shared), tasks.clone()),
        );
        let acceptor = identity.acceptor;
        tasks.spawn(
            "sandbox_smtp",
            smtp::serve(mail, acceptor, Arc::clone(&shared), tasks.clone()),
        );
        Ok(Self {
            shared,
            http,
            smtp,
            ca_pem: identity.ca_pem.into(),
        })
    }

    /// Where HTTP listens: `/authorize`, `/token`, `/device/code`, `/device`, `/revoke`,
    /// `/userinfo`, `/introspect`, `/mailbox` (page), `/messages` (JSON), `/faults` (GET, POST, DELETE).
    #[must_use]
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// Where SMTP listens.
    #[must_use]
    pub fn smtp(&self) -> SocketAddr {
        self.smtp
    }

    /// The issuer, and what every URL of the sandbox begins with: no slash at its end.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.shared.provider.issuer
    }

    /// Client id and secret of the registered application.
    #[must_use]
    pub fn client(&self) -> (String, Secret) {
        let secret = self.shared.provider.client_secret.clone();
        (oauth::CLIENT_ID.to_owned(), secret)
    }

    /// Client id of the application that has no secret.
    #[must_use]
    pub fn public_client(&self) -> &'static str {
        oauth::PUBLIC_CLIENT_ID
    }

    /// Google's key file (JSON) of the service account, whose assertions the token endpoint believes;
    /// made at the first call.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn service_account_key(&self) -> io::Result<Secret> {
        self.shared.provider.service_account_key()
    }

    /// Registers a redirect URI beyond loopback; it must then be given exactly so.
    pub fn register_redirect(&self, uri: &str) {
        self.shared.provider.register(uri);
    }

    /// PEM of the CA that signed the SMTP certificate (for `ca_file`).
    #[must_use]
    pub fn ca_pem(&self) -> String {
        self.ca_pem.as_ref().to_owned()
    }

    /// The messages taken so far, oldest first. Of very many, the oldest are forgotten (10 000
    /// messages or 128 MiB are kept).
    #[must_use]
    pub fn delivered(&self) -> Vec<Delivered> {
        let messages = self.shared.mailbox.after(0, usize::MAX);
        messages.iter().map(mailbox::Received::delivered).collect()
    }

    /// Resolves when at least `count` messages were taken. Cancel safe.
    pub async fn delivered_at_least(&self, count: usize) {
        self.shared.mailbox.taken_at_least(count).await;
    }

    /// Adds a fault to the script. One that cannot be played is logged and left out.
    pub fn play(&self, fault: Fault) {
        if let Err(error) = self.shared.play(fault) {
            tracing::warn!(event = "fault_refused", %error);
        }
    }

    /// Forgets the faults that were not played yet.
    pub fn clear_faults(&self) {
        self.shared.script.clear();
    }
}

impl Shared {
    fn play(&self, fault: Fault) -> Result<(), Invalid> {
        match &fault {
            Fault::Revoke => self.provider.grants().revoke_all(),
            Fault::Expire => self.provider.grants().expire_all(),
            Fault::Reply { .. }
            | Fault::Drop { .. }
            | Fault::Cut { .. }
            | Fault::Slow { .. }
            | Fault::Api { .. }
            | Fault::Token { .. } => {}
        }
        self.script.add(fault)
    }
}

async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .map_err(|error| io::Error::new(error.kind(), format!("{address}: {error}")))
}

/// Where a client on this machine reaches what is bound to `address` (which may be 0.0.0.0).
#[must_use]
pub fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

#[cfg(test)]
mod tests;
