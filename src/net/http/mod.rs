//! The one HTTP client. What answers is hostile input until parsed.
//!
//! Invariants: no redirect is followed (a secret goes to the configured host and nowhere else), no
//! proxy is taken from the environment (one that is configured sees a tunnel, and nothing of what is
//! on this machine), nothing is decompressed, a whole exchange ends within [`EXCHANGE_MAX`] and no
//! more than [`BODY_MAX`] octets of an answer are kept. Credentials travel over TLS, or in the clear
//! to this very machine.
//!
//! The body of a message on its way up takes as long as octets move: see [`Client::upload`].

mod upload;

use std::{
    error::Error as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use jiff::Timestamp;
use reqwest::{Certificate, ClientBuilder, Request, StatusCode, header, redirect};
use url::{Host, Url};

use super::proxy::Proxy;
pub use upload::{Feed, Interrupted, Reached, Stopped};

/// From the first packet to the last octet of the answer. A token endpoint answers in a second;
/// one that drips must not hold an account's mail for minutes.
pub const EXCHANGE_MAX: Duration = Duration::from_secs(20);

/// TCP and TLS together; shorter than the whole so that a dead address is told from a slow server.
pub const CONNECT_MAX: Duration = Duration::from_secs(10);

/// Octets of an answer's body. A token response is under 8 KiB.
pub const BODY_MAX: usize = 64 * 1024;

/// What Microsoft calls a request; RFC 9110 has no name for it.
const REQUEST_ID: header::HeaderName = header::HeaderName::from_static("request-id");

/// How long a connection waits for the next request (device sign-in polls every 5 seconds).
const IDLE_MAX: Duration = Duration::from_secs(15);

/// Why there is no answer. Every one of these may be over in a minute.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The CA file cannot be read or holds no certificate.
    #[error("CA file {path}: {reason}", path = path.display())]
    CaFile {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// TLS could not be set up (no trust anchors on this system).
    #[error("TLS set-up: {0}")]
    Setup(String),
    /// A credential would travel in the clear.
    #[error("{0} is neither https nor on this machine")]
    Insecure(String),
    /// Name, connection, TLS or protocol trouble.
    #[error("{0}")]
    Exchange(String),
    /// The proxy cannot be reached, or does not let us through.
    #[error("{what}")]
    Proxy {
        /// What is wrong; names the proxy.
        what: String,
        /// What to do.
        remedy: String,
    },
    /// Not done within [`EXCHANGE_MAX`].
    #[error("no complete answer within {} seconds", EXCHANGE_MAX.as_secs())]
    Timeout,
    /// The answer is longer than [`BODY_MAX`].
    #[error("the answer is longer than {} KiB", BODY_MAX / 1024)]
    TooLarge,
}

impl Error {
    /// What to do, where that is known here.
    #[must_use]
    pub fn remedy(&self) -> Option<&str> {
        match self {
            Self::Proxy { remedy, .. } => Some(remedy),
            Self::CaFile { .. }
            | Self::Setup(_)
            | Self::Insecure(_)
            | Self::Exchange(_)
            | Self::Timeout
            | Self::TooLarge => None,
        }
    }
}

/// An answer, body complete.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status code.
    pub status: StatusCode,
    /// The media type without parameters, lower case.
    pub media_type: Option<String>,
    /// `Retry-After` (RFC 9110 §10.2.3).
    pub retry_after: Option<RetryAfter>,
    /// The server's clock (RFC 9110 §6.6.1).
    pub date: Option<Timestamp>,
    /// What the server calls this request (`request-id`), for its operator's support.
    pub request_id: Option<String>,
    /// What it wants before it lets us in (`WWW-Authenticate`, RFC 9110 §11.6.1).
    pub challenge: Option<String>,
    /// The body, at most [`BODY_MAX`] octets.
    pub body: Vec<u8>,
}

impl Response {
    /// Whether the body claims to be JSON (`application/json` or a `+json` type).
    #[must_use]
    pub fn is_json(&self) -> bool {
        self.media_type
            .as_deref()
            .is_some_and(|m| m == "application/json" || m.ends_with("+json"))
    }
}

/// When a server wants to be asked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryAfter {
    /// After so long.
    Delay(Duration),
    /// At this moment of the wall clock.
    At(Timestamp),
}

impl RetryAfter {
    /// Reads the header's value: seconds or an HTTP-date. Anything else is no wish at all.
    #[must_use]
    pub fn parse(value: &str) -> Option<Self> {
        let value = value.trim();
        if let Ok(seconds) = value.parse::<u64>() {
            return Some(Self::Delay(Duration::from_secs(seconds)));
        }
        let date = jiff::fmt::rfc2822::parse(value).ok()?;
        Some(Self::At(date.timestamp()))
    }

    /// How long to wait from `now` on; zero when the moment has passed.
    #[must_use]
    pub fn wait(self, now: Timestamp) -> Duration {
        match self {
            Self::Delay(delay) => delay,
            Self::At(moment) => {
                Duration::try_from(moment.duration_since(now)).unwrap_or(Duration::ZERO)
            }
        }
    }
}

/// HTTP clients, made when first needed and let go when nobody uses them: reading the system's
/// trust anchors takes megabytes, and a token is refreshed once an hour.
///
/// Clones share them. Requests in flight at the same moment share one client a CA file.
#[derive(Debug, Clone, Default)]
pub struct Clients {
    live: Arc<Mutex<Live>>,
}

type Live = Vec<((Trust, Pace), Weak<reqwest::Client>)>;

/// How long a client may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// [`EXCHANGE_MAX`] for all of it.
    Exchange,
    /// As long as octets move; see [`Client::upload`].
    Upload,
}

/// How a client reaches what is not on this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct Way<'a> {
    /// Trust anchors in PEM besides the system's.
    pub ca_file: Option<&'a Path>,
    /// A proxy; requests go through it in a tunnel (CONNECT).
    pub proxy: Option<&'a Proxy>,
}

/// Whom a client trusts and through what it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Trust {
    /// Nobody: a plain connection on this machine, spared the reading of trust anchors.
    Loopback,
    /// The system's anchors and those of a PEM file.
    System {
        ca_file: Option<PathBuf>,
        proxy: Option<Proxy>,
    },
}

impl Trust {
    fn proxy(&self) -> Option<&Proxy> {
        match self {
            Self::Loopback => None,
            Self::System { proxy, .. } => proxy.as_ref(),
        }
    }
}

/// A client for one destination; keep it over the requests of one conversation.
#[derive(Debug, Clone)]
pub struct Client {
    http: Arc<reqwest::Client>,
    through: Option<Proxy>,
}

impl Clients {
    /// A client that may talk to `url`. What is on this machine is reached without a proxy.
    ///
    /// # Errors
    /// [`Error::Insecure`], [`Error::CaFile`], [`Error::Setup`].
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn client(&self, url: &Url, way: Way<'_>) -> Result<Client, Error> {
        self.paced(url, way, Pace::Exchange).await
    }

    /// As [`Clients::client`], for requests with large bodies ([`Client::upload`]).
    ///
    /// # Errors
    /// As [`Clients::client`].
    pub async fn uploader(&self, url: &Url, way: Way<'_>) -> Result<Client, Error> {
        self.paced(url, way, Pace::Upload).await
    }

    async fn paced(&self, url: &Url, way: Way<'_>, pace: Pace) -> Result<Client, Error> {
        let trust = match url.scheme() {
            "https" => Trust::System {
                ca_file: way.ca_file.map(Path::to_owned),
                proxy: way.proxy.filter(|_| !is_loopback(url)).cloned(),
            },
            "http" if is_loopback(url) => Trust::Loopback,
            _ => return Err(Error::Insecure(url.origin().ascii_serialization())),
        };
        let through = trust.proxy().cloned();
        if let Some(http) = self.live(&trust, pace) {
            return Ok(Client { http, through });
        }
        let wanted = trust.clone();
        // Reads and parses files: some 10 ms.
        let made = tokio::task::spawn_blocking(move || build(&wanted, pace))
            .await
            .map_err(|e| Error::Setup(e.to_string()))??;
        let made = Arc::new(made);
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.retain(|(_, client)| client.strong_count() > 0);
        live.push(((trust, pace), Arc::downgrade(&made)));
        drop(live);
        Ok(Client {
            http: made,
            through,
        })
    }

    /// A client for what answers on this machine or on its own link, in the clear: a cloud's
    /// endpoint for the identity of the machine. Never through a proxy.
    ///
    /// # Errors
    /// [`Error::Insecure`] for any other host, [`Error::Setup`].
    pub async fn on_this_machine(&self, url: &Url) -> Result<Client, Error> {
        if url.scheme() != "http" || !(is_loopback(url) || is_link_local(url)) {
            return Err(Error::Insecure(url.origin().ascii_serialization()));
        }
        let loopback = Url::parse("http://127.0.0.1/").map_err(|e| Error::Setup(e.to_string()))?;
        self.client(&loopback, Way::default()).await
    }

    fn live(&self, trust: &Trust, pace: Pace) -> Option<Arc<reqwest::Client>> {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        let mut live = live
            .iter()
            .filter(|((known, wanted), _)| known == trust && *wanted == pace);
        live.find_map(|(_, client)| client.upgrade())
    }
}

impl Client {
    /// One exchange: the request goes out, the whole answer comes back, whatever its status.
    ///
    /// # Errors
    /// [`Error::Exchange`], [`Error::Proxy`], [`Error::Timeout`], [`Error::TooLarge`].
    ///
    /// # Cancel safety
    /// Dropping the future drops the connection; the server may have acted on the request.
    pub async fn exchange(&self, request: Request) -> Result<Response, Error> {
        // reqwest's own timeout covers the body too; this one also covers what it might not.
        tokio::time::timeout(EXCHANGE_MAX, self.exchange_untimed(request))
            .await
            .unwrap_or(Err(Error::Timeout))
    }

    async fn exchange_untimed(&self, request: Request) -> Result<Response, Error> {
        let host = host_and_port(request.url());
        let told = |error| self.told(&host, error);
        let mut answer = self.http.execute(request).await.map_err(told)?;
        let text =
            |name: header::HeaderName| answer.headers().get(name).and_then(|v| v.to_str().ok());
        let media_type = text(header::CONTENT_TYPE)
            .and_then(|value| value.split(';').next())
            .map(|value| value.trim().to_ascii_lowercase());
        let retry_after = text(header::RETRY_AFTER).and_then(RetryAfter::parse);
        let date = text(header::DATE).and_then(|date| jiff::fmt::rfc2822::parse(date).ok());
        let date = date.map(|date| date.timestamp());
        let request_id = text(REQUEST_ID).map(str::to_owned);
        let challenge = text(header::WWW_AUTHENTICATE).map(str::to_owned);
        let mut body = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(told)? {
            if body.len() + piece.len() > BODY_MAX {
                return Err(Error::TooLarge);
            }
            body.extend_from_slice(&piece);
        }
        Ok(Response {
            status: answer.status(),
            media_type,
            retry_after,
            date,
            request_id,
            challenge,
            body,
        })
    }

    /// The proxy that stands between, if one does.
    #[must_use]
    pub fn through(&self) -> Option<&Proxy> {
        self.through.as_ref()
    }

    /// An error with its causes, without the URL (the caller names the host).
    fn told(&self, host: &str, error: reqwest::Error) -> Error {
        let timed_out = error.is_timeout();
        match &self.through {
            Some(proxy) => proxy.blamed(host, &chain(&error.without_url()), timed_out),
            None if timed_out => Error::Timeout,
            None => Error::Exchange(chain(&error.without_url())),
        }
    }
}

fn host_and_port(url: &Url) -> String {
    let port = url.port_or_known_default().unwrap_or(443);
    format!("{}:{port}", url.host_str().unwrap_or_default())
}

/// Whether a URL's host is this machine, by its very text: `localhost` or a loopback literal.
#[must_use]
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// Whether a URL's host is an IPv4 link-local literal (RFC 3927): it never leaves the link.
#[must_use]
pub fn is_link_local(url: &Url) -> bool {
    matches!(url.host(), Some(Host::Ipv4(address)) if address.is_link_local())
}

/// What all clients have in common.
fn sober() -> ClientBuilder {
    reqwest::Client::builder()
        .redirect(redirect::Policy::none())
        .no_proxy()
        .referer(false)
        .connect_timeout(CONNECT_MAX)
        .pool_idle_timeout(IDLE_MAX)
        .pool_max_idle_per_host(1)
        .user_agent(concat!("gatepost/", env!("CARGO_PKG_VERSION")))
}

fn build(trust: &Trust, pace: Pace) -> Result<reqwest::Client, Error> {
    let builder = match pace {
        Pace::Exchange => sober().timeout(EXCHANGE_MAX),
        Pace::Upload => sober().pool_max_idle_per_host(upload::IDLE_CONNECTIONS),
    };
    let builder = match trust {
        Trust::Loopback => builder.tls_certs_only([]),
        Trust::System { ca_file, proxy } => {
            let builder = builder.https_only(true);
            let builder = match ca_file {
                Some(file) => builder.tls_certs_merge(certificates(file)?),
                None => builder,
            };
            match proxy {
                Some(proxy) => {
                    let made = proxy.for_all();
                    builder.proxy(made.ok_or_else(|| Error::Setup(format!("the proxy {proxy}")))?)
                }
                None => builder,
            }
        }
    };
    builder.build().map_err(|e| Error::Setup(chain(&e)))
}

fn certificates(path: &Path) -> Result<Vec<Certificate>, Error> {
    let wrong = |reason: String| Error::CaFile {
        path: path.to_owned(),
        reason,
    };
    let pem = std::fs::read(path).map_err(|e| wrong(e.to_string()))?;
    let found = Certificate::from_pem_bundle(&pem).map_err(|e| wrong(chain(&e)))?;
    if found.is_empty() {
        return Err(wrong("no certificate in it (PEM)".to_owned()));
    }
    Ok(found)
}

fn chain(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
        time::Instant,
    };

    use super::*;
    use crate::net::tasks::Tasks;

    /// A server that reads a request, writes `head`, then `piece` again and again, `pause` apart.
    async fn server(head: &'static str, piece: &'static [u8], pause: Duration) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        Tasks::new().spawn("test_server", async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            assert!(socket.read(&mut request).await.unwrap() > 0);
            socket.write_all(head.as_bytes()).await.unwrap();
            while !piece.is_empty() && socket.write_all(piece).await.is_ok() {
                tokio::time::sleep(pause).await;
            }
        });
        address
    }

    async fn fetch(address: SocketAddr) -> Result<Response, Error> {
        let url = Url::parse(&format!("http://{address}/")).unwrap();
        let client = Clients::default()
            .client(&url, Way::default())
            .await
            .unwrap();
        client
            .exchange(Request::new(reqwest::Method::GET, url))
            .await
    }

    #[tokio::test]
    async fn an_answer_without_end_is_cut_at_the_cap() {
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 104857600\r\n\r\n";
        let address = server(head, &[b'x'; 8192], Duration::ZERO).await;
        assert!(matches!(fetch(address).await, Err(Error::TooLarge)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_drips_is_given_up_in_time() {
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n";
        let address = server(head, b"x", Duration::from_secs(1)).await;
        let started = Instant::now();
        assert!(matches!(fetch(address).await, Err(Error::Timeout)));
        assert!(started.elapsed() <= EXCHANGE_MAX + Duration::from_secs(1));
    }

    #[tokio::test]
    async fn a_redirect_is_an_answer_not_an_order() {
        let head = "HTTP/1.1 307 Go\r\nlocation: http://192.0.2.1/\r\nRetry-After: 7\r\n\
                    Content-Type: Application/JSON; charset=utf-8\r\ncontent-length: 0\r\n\r\n";
        let address = server(head, b"", Duration::ZERO).await;
        let answer = fetch(address).await.unwrap();
        assert_eq!(answer.status, StatusCode::TEMPORARY_REDIRECT);
        assert!(answer.is_json());
        let seven = RetryAfter::Delay(Duration::from_secs(7));
        assert_eq!(answer.retry_after, Some(seven));
    }

    #[tokio::test]
    async fn only_this_machine_is_spoken_to_in_the_clear() {
        let clients = Clients::default();
        for (url, allowed) in [
            ("http://127.0.0.1:1/", true),
            ("http://[::1]:1/", true),
            ("http://localhost/", true),
            ("http://login.example.com/", false),
            ("http://localhost.example.com/", false),
            ("ftp://127.0.0.1/", false),
        ] {
            let client = clients
                .client(&Url::parse(url).unwrap(), Way::default())
                .await;
            assert_eq!(client.is_ok(), allowed, "{url}");
        }
    }

    #[tokio::test]
    async fn a_ca_file_without_a_certificate_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let url = Url::parse("https://127.0.0.1/").unwrap();
        let refused = Clients::default()
            .client(
                &url,
                Way {
                    ca_file: Some(file.path()),
                    proxy: None,
                },
            )
            .await;
        assert!(matches!(refused, Err(Error::CaFile { .. })), "{refused:?}");
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now: Timestamp = "2015-10-21T07:27:30Z".parse().unwrap();
        for (value, seconds) in [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("Wed, 21 Oct 2015 07:28:00 GMT", Some(30)),
            ("Wed, 21 Oct 2015 07:27:00 GMT", Some(0)),
            ("soon", None),
            ("-5", None),
        ] {
            let wait = RetryAfter::parse(value).map(|r| r.wait(now).as_secs());
            assert_eq!(wait, seconds, "{value}");
        }
    }
}
