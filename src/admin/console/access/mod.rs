//! Who may use the console: sessions, and the two ways to begin one.
//!
//! - With `console.password_hash`: the password. - Without, on a loopback address: a one-time code
//!   that is shown where the daemon was started, or by `gatepost console`. - Otherwise nobody.
//!
//! `gate` stands before the pages and the API: session, CSRF token, origin, and one line of the
//! audit log for each change. Guesses are slowed as those of clients are (`submission`'s backoff).

mod code;
mod gate;
mod login;
mod origin;
mod random;
mod session;

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use axum::http::{HeaderMap, header};
use tokio::{sync::Semaphore, task, time::Instant};
use url::Url;

use crate::{
    secret::Secret,
    submission::{Backoff, verify_password},
};

pub(in crate::admin) use gate::{api, pages, socket};
pub(in crate::admin) use login::{invite, log_out, show, submit};
pub(in crate::admin) use session::{Flash, Visitor};

use self::{code::OneTimeCode, session::Sessions};

/// Hashing a password takes some 20 MiB for its time, and no console has two logins at once.
const CHECKS_AT_ONCE_MAX: usize = 1;
/// How long a login waits for its turn.
const TURN_WAIT_MAX: Duration = Duration::from_secs(10);
/// What the backoff counts failures under, beside the address: there is one name to guess for.
const NAME: &str = "console";

/// What the configuration says about logging in.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::admin) struct Settings {
    /// An argon2id PHC string.
    pub(in crate::admin) password_hash: Option<String>,
    /// Where a proxy makes the console reachable.
    pub(in crate::admin) public_url: Option<Url>,
}

/// The way to log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Password,
    Code,
    /// Anyone could come, and nothing tells them apart.
    Closed,
}

/// Logins and sessions of the console.
#[derive(Debug)]
pub(in crate::admin) struct Access {
    settings: Mutex<Arc<Settings>>,
    /// Where the console is bound; set before it serves.
    address: OnceLock<SocketAddr>,
    /// Whether it speaks TLS itself.
    tls: bool,
    sessions: Sessions,
    code: OneTimeCode,
    backoff: Backoff,
    turns: Semaphore,
}

/// What a login came to.
enum Outcome {
    /// The id of the new session.
    In(String),
    Wrong,
    /// Not checked: too many failed before.
    TooSoon(Duration),
    /// No turn came up in time, or the system gives no randomness.
    Busy,
}

impl Access {
    pub(in crate::admin) fn new(settings: Settings, tls: bool) -> Self {
        Self {
            settings: Mutex::new(Arc::new(settings)),
            address: OnceLock::new(),
            tls,
            sessions: Sessions::default(),
            code: OneTimeCode::default(),
            backoff: Backoff::default(),
            turns: Semaphore::new(CHECKS_AT_ONCE_MAX),
        }
    }

    /// Tells where the console is bound.
    pub(in crate::admin) fn bound(&self, address: SocketAddr) {
        if self.address.set(address).is_err() {
            tracing::debug!(event = "console_bound_twice");
        }
    }

    /// Takes what a reload has changed. Another password ends every session.
    pub(in crate::admin) fn reconfigure(&self, settings: Settings) {
        let mut current = self.lock_settings();
        let is_new = current.password_hash != settings.password_hash;
        *current = Arc::new(settings);
        drop(current);
        if is_new {
            self.sessions.end_all();
        }
    }

    /// Ends every session.
    pub(in crate::admin) fn end_all(&self) {
        self.sessions.end_all();
    }

    /// Leaves a word for the visitor's next page.
    pub(in crate::admin) fn leave_flash(&self, visitor: &Visitor, flash: Flash) {
        self.sessions.leave_flash(visitor, flash);
    }

    /// Takes the word that was left for this page.
    pub(in crate::admin) fn take_flash(&self, visitor: &Visitor) -> Option<Flash> {
        self.sessions.take_flash(visitor)
    }

    /// Whether the visitor's session still lives.
    pub(in crate::admin) fn is_alive(&self, visitor: &Visitor) -> bool {
        self.sessions.is_alive(visitor, Instant::now())
    }

    /// Who sent a request with these fields, by its cookie. `uses`: a person did something.
    fn visitor(&self, headers: &HeaderMap, uses: bool) -> Option<Visitor> {
        let name = self.cookie_name();
        let fields = headers.get_all(header::COOKIE).iter();
        let mut pairs = fields
            .filter_map(|field| field.to_str().ok())
            .flat_map(|field| field.split(';'))
            .filter_map(|pair| pair.trim().split_once('='));
        let id = pairs.find_map(|(given, id)| (given == name).then_some(id))?;
        self.sessions.find(id, uses, Instant::now())
    }

    /// Cookies do not know ports: two consoles on one machine must not end each other's sessions.
    fn cookie_name(&self) -> String {
        let port = self.address.get().map_or(0, SocketAddr::port);
        format!("gatepost_session_{port}")
    }

    fn way(&self) -> Way {
        let is_loopback = |address: &SocketAddr| address.ip().to_canonical().is_loopback();
        if self.settings().password_hash.is_some() {
            Way::Password
        } else if self.address.get().is_some_and(is_loopback) {
            Way::Code
        } else {
            Way::Closed
        }
    }

    /// Where the console is for a browser, with a path.
    fn url(&self, path: &str) -> Option<Url> {
        let settings = self.settings();
        if let Some(public) = &settings.public_url {
            return public.join(path).ok();
        }
        let scheme = if self.tls { "https" } else { "http" };
        let address = self.address.get()?;
        Url::parse(&format!("{scheme}://{address}{path}")).ok()
    }

    /// Where the console is for the browser that sent these fields, with a path.
    pub(in crate::admin) fn here(&self, headers: &HeaderMap, path: &str) -> Option<Url> {
        let host = headers.get(header::HOST)?.to_str().ok()?;
        let scheme = if self.tls { "https" } else { "http" };
        let asked = Url::parse(&format!("{scheme}://{host}/")).ok()?;
        let settings = self.settings();
        // A proxy may have ended TLS.
        let public = settings.public_url.as_ref();
        let public = public.filter(|public| public.host() == asked.host());
        public.unwrap_or(&asked).join(path).ok()
    }

    /// Checks what was given, and begins a session.
    ///
    /// # Cancel safety
    /// Cancel safe; the hashing then goes on to its end unseen.
    async fn log_in(&self, given: String, peer: Option<IpAddr>) -> Outcome {
        let way = self.way();
        // Nobody guesses a code of 256 bits, and whoever tries must not keep out who has been given one.
        let is_guessable = way == Way::Password;
        let wait = || {
            let wait = self.backoff.wait(peer, NAME, Instant::now());
            wait.filter(|_| is_guessable)
        };
        if let Some(wait) = wait() {
            return Outcome::TooSoon(wait);
        }
        let Ok(Ok(turn)) = tokio::time::timeout(TURN_WAIT_MAX, self.turns.acquire()).await else {
            return Outcome::Busy;
        };
        // Guesses that came at once wait for their turns together: each sees what others came to.
        if let Some(wait) = wait() {
            return Outcome::TooSoon(wait);
        }
        let (is_right, by) = match (way, self.settings().password_hash.clone()) {
            (Way::Password, Some(hash)) => {
                let given = Secret::new(given);
                let check = task::spawn_blocking(move || verify_password(&given, &hash));
                (check.await.unwrap_or(false), "password")
            }
            (Way::Code, _) => (self.code.redeem(&given, Instant::now()), "one-time code"),
            (Way::Password, None) | (Way::Closed, _) => (false, "nothing"),
        };
        drop(turn);
        let from = peer.map(|peer| peer.to_string()).unwrap_or_default();
        if !is_right {
            self.backoff.failed(peer, NAME, Instant::now());
            tracing::warn!(event = "console_login_refused", by, from);
            return Outcome::Wrong;
        }
        self.backoff.succeeded(peer, NAME, Instant::now());
        let who = format!("{by} from {from}");
        tracing::info!(event = "audit", who, what = "logged in");
        let session = self.sessions.begin(who, Instant::now());
        session.map_or(Outcome::Busy, Outcome::In)
    }

    fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.lock_settings())
    }

    fn lock_settings(&self) -> std::sync::MutexGuard<'_, Arc<Settings>> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn access(address: &str, password_hash: Option<&str>, tls: bool) -> Access {
        let settings = Settings {
            password_hash: password_hash.map(Into::into),
            public_url: None,
        };
        let access = Access::new(settings, tls);
        access.bound(address.parse().unwrap());
        access
    }

    /// A password where there is one; else a code, but only for who is on this machine.
    #[test]
    fn the_way_in_follows_from_address_and_password() {
        for (address, hash, wanted) in [
            ("127.0.0.1:8025", None, Way::Code),
            ("[::1]:8025", None, Way::Code),
            ("[::ffff:127.0.0.1]:8025", None, Way::Code),
            ("0.0.0.0:8025", None, Way::Closed),
            ("10.0.0.5:8025", None, Way::Closed),
            ("10.0.0.5:8025", Some("$argon2id$"), Way::Password),
            ("127.0.0.1:8025", Some("$argon2id$"), Way::Password),
        ] {
            assert_eq!(
                access(address, hash, false).way(),
                wanted,
                "{address} {hash:?}"
            );
        }
        assert_eq!(Access::new(Settings::default(), false).way(), Way::Closed);
    }

    /// `Secure` over TLS, whoever ends it; each port has its own cookie.
    #[test]
    fn the_cookie_is_secure_over_tls() {
        let mut headers = HeaderMap::new();
        let plain = access("127.0.0.1:8025", None, false);
        let cookie = plain.cookie("id", &headers, "");
        let wanted = "gatepost_session_8025=id; Path=/; HttpOnly; SameSite=Strict";
        assert_eq!(cookie, wanted);
        let tls = access("127.0.0.1:8026", None, true).cookie("id", &headers, "");
        assert!(
            tls.starts_with("gatepost_session_8026=") && tls.ends_with("; Secure"),
            "{tls}"
        );
        let proxied = HeaderValue::from_static("https://relay.example.com");
        headers.insert(header::ORIGIN, proxied);
        assert!(plain.cookie("id", &headers, "").ends_with("; Secure"));
    }

    /// What the browser asked for, or what a proxy is known to stand for.
    #[test]
    fn a_browser_is_led_back_to_where_it_was() {
        let mut headers = HeaderMap::new();
        let access = access("127.0.0.1:8025", None, false);
        assert_eq!(access.here(&headers, "/x"), None);
        let host = HeaderValue::from_static("localhost:8025");
        headers.insert(header::HOST, host);
        let here = |access: &Access| access.here(&headers, "/x").unwrap().to_string();
        assert_eq!(here(&access), "http://localhost:8025/x");
        for (public, wanted) in [
            ("https://localhost/", "https://localhost/x"),
            ("https://relay.example.com/", "http://localhost:8025/x"),
        ] {
            access.reconfigure(Settings {
                password_hash: None,
                public_url: Url::parse(public).ok(),
            });
            assert_eq!(here(&access), wanted);
        }
    }

    /// The session is found among other cookies, and is gone after another password was set.
    #[tokio::test]
    async fn another_password_ends_the_sessions() {
        let access = access("127.0.0.1:8025", None, false);
        let code = access.code.renew(Instant::now()).unwrap();
        let Outcome::In(id) = access.log_in(code, None).await else {
            panic!("the code is good")
        };
        let mut headers = HeaderMap::new();
        assert!(access.visitor(&headers, true).is_none());
        let cookie = format!("a=b; gatepost_session_8025={id}; c=d");
        headers.insert(header::COOKIE, HeaderValue::from_str(&cookie).unwrap());
        assert!(access.visitor(&headers, true).is_some());
        access.reconfigure(Settings::default());
        assert!(
            access.visitor(&headers, true).is_some(),
            "nothing has changed"
        );
        access.reconfigure(Settings {
            password_hash: Some("$argon2id$".into()),
            public_url: None,
        });
        assert!(access.visitor(&headers, true).is_none());
    }

    /// However many come at once, few guesses are checked.
    #[tokio::test(start_paused = true)]
    async fn guesses_are_slowed() {
        let access = access("127.0.0.1:8025", Some("$argon2id$"), false);
        let peer = Some(IpAddr::from([127, 0, 0, 1]));
        let mut checked = 0;
        for _ in 0..100 {
            let outcome = access.log_in("guess".into(), peer).await;
            checked += u32::from(matches!(outcome, Outcome::Wrong));
        }
        assert!((1..=10).contains(&checked), "{checked}");
        let again = async || access.log_in("guess".into(), peer).await;
        assert!(matches!(again().await, Outcome::TooSoon(_)));
        tokio::time::advance(Duration::from_secs(15 * 60)).await;
        assert!(matches!(again().await, Outcome::Wrong));
    }

    /// Whoever tries codes on this machine keeps nobody out who has been given one.
    #[tokio::test(start_paused = true)]
    async fn a_code_is_good_after_any_number_of_wrong_ones() {
        let access = access("127.0.0.1:8025", None, false);
        let peer = Some(IpAddr::from([127, 0, 0, 1]));
        for _ in 0..100 {
            let outcome = access.log_in("guess".into(), peer).await;
            assert!(matches!(outcome, Outcome::Wrong));
        }
        let code = access.code.renew(Instant::now()).unwrap();
        assert!(matches!(access.log_in(code, peer).await, Outcome::In(_)));
    }
}
