//! The proxy on the way to a provider: an HTTP proxy that is asked for a tunnel (CONNECT, RFC 9110
//! §9.3.6), so that it sees the name of the host and nothing more.
//!
//! `reqwest` speaks with it, and knows what went wrong only as text. What is the proxy's doing is
//! told as the proxy's here, because the remedy lies with it and not with the provider.

use std::fmt;

use url::Url;

use super::http;
use crate::secret::Secret;

/// How one is written.
const WRITE: &str = "write http://HOST:PORT or https://HOST:PORT, and where the proxy wants a login \
                     http://USER:PASSWORD@HOST:PORT (percent-encode what is not a letter or a digit)";

/// An HTTP proxy. Shown and compared without giving its password away.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    /// As given: it may hold a user name and a password.
    url: Secret,
    /// Scheme, host and port.
    shown: String,
    has_login: bool,
    sends_password_in_clear: bool,
}

/// Why a text names no proxy that can be used: what is wrong, and the remedy. Holds none of it.
pub type Refusal = (&'static str, &'static str);

impl Proxy {
    /// Reads `http://` or `https://`, host, port, and a login where one is needed. Without a scheme
    /// it is `http://`, as in the variables that other programs read.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let text = text.trim();
        let whole = if text.contains("://") {
            Secret::new(text)
        } else {
            Secret::new(format!("http://{text}"))
        };
        let url = Url::parse(whole.expose()).map_err(|_| ("is no proxy's URL", WRITE))?;
        if url.scheme().starts_with("socks") {
            let remedy = "name an HTTP proxy (http:// or https://)";
            return Err(("is a SOCKS proxy, which is not spoken", remedy));
        }
        let host = url.host_str().filter(|host| !host.is_empty());
        let (Some(host), "http" | "https") = (host, url.scheme()) else {
            return Err(("is neither an http nor an https URL", WRITE));
        };
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return Err(("has something after the port", WRITE));
        }
        let (scheme, port) = (url.scheme(), url.port_or_known_default().unwrap_or(80));
        let is_clear = scheme == "http" && !http::is_loopback(&url);
        Ok(Self {
            shown: format!("{scheme}://{host}:{port}"),
            has_login: !url.username().is_empty(),
            sends_password_in_clear: is_clear && url.password().is_some(),
            url: whole,
        })
    }

    /// Whether its password crosses the network readable to all (HTTP Basic without TLS).
    #[must_use]
    pub fn sends_password_in_clear(&self) -> bool {
        self.sends_password_in_clear
    }

    /// For every request of a client.
    pub(super) fn for_all(&self) -> Option<reqwest::Proxy> {
        // The error would quote the URL.
        reqwest::Proxy::all(self.url.expose()).ok()
    }

    /// What an exchange with `host` failed of, when the proxy has a part in it. `said`: the error
    /// with its causes.
    pub(super) fn blamed(&self, host: &str, said: &str, timed_out: bool) -> http::Error {
        let (what, remedy) = if said.contains("proxy authorization required") {
            (
                format!("the proxy {self} wants a login, or refuses the one it is given (407)"),
                format!(
                    "set proxy of the provider profile: {WRITE}; the proxy must take HTTP Basic"
                ),
            )
        } else if let Some((_, cause)) = said.split_once("failed to create underlying connection: ")
        {
            (
                format!("the proxy {self} cannot be reached: {cause}"),
                "check proxy of the provider profile, and that the proxy runs; it is tried again \
                 by itself"
                    .to_owned(),
            )
        } else if said.contains("tunnel error: unsuccessful") {
            // Some answer a wrong login so.
            let login = if self.has_login {
                ", and check the login in proxy of the provider profile"
            } else {
                ""
            };
            (
                format!("the proxy {self} refuses a tunnel to {host}"),
                format!("have the proxy (an HTTP proxy) allow CONNECT to {host}{login}"),
            )
        } else if said.contains("tunnel error: ") {
            (
                format!("the proxy {self} does not answer as an HTTP proxy"),
                "check host and port in proxy of the provider profile".to_owned(),
            )
        } else if timed_out {
            (
                format!("nothing came back from {host} through the proxy {self} in time"),
                format!(
                    "check that the proxy itself can reach {host}; it is tried again by itself"
                ),
            )
        } else if said.contains("invalid peer certificate") {
            (
                format!("the certificate shown for {host} through the proxy {self}: {said}"),
                format!(
                    "if the proxy reads TLS, have it leave {host} alone, or put its CA certificate \
                     into ca_file of the provider profile"
                ),
            )
        } else {
            return http::Error::Exchange(format!("{said} (through the proxy {self})"));
        };
        http::Error::Proxy { what, remedy }
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Proxy").field(&self.shown).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

    use reqwest::{Method, Request};
    use tokio::{
        io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
        net::TcpListener,
        sync::mpsc,
        time::Instant,
    };
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::net::{
        http::{Clients, Way},
        tasks::Tasks,
        tls,
    };

    /// A name that only a proxy could know.
    const HOST: &str = "login.example.test";

    /// What the proxy does with a request for a tunnel.
    #[derive(Debug, Clone, Copy)]
    enum Play {
        /// Says yes and is the host itself from then on.
        Host,
        /// Says this and closes.
        Say(&'static str),
        /// Says yes, and this header for ever.
        Drip(&'static str),
        /// Takes it and says nothing.
        Silence,
    }

    /// A proxy that does one thing; what it was asked comes out of the channel.
    struct Played {
        address: SocketAddr,
        asked: mpsc::UnboundedReceiver<String>,
        folder: tempfile::TempDir,
    }

    impl Played {
        async fn start(play: Play, own_tls: bool) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let acceptor = authority(folder.path());
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let (heard, asked) = mpsc::unbounded_channel();
            let accepting = accept(listener, acceptor, own_tls, play, heard);
            Tasks::new().spawn("played_proxy", accepting);
            Self {
                address,
                asked,
                folder,
            }
        }

        /// Fetches something by way of it.
        async fn fetch(&self, proxy: &str) -> Result<http::Response, http::Error> {
            let proxy = proxy.replace("@PROXY@", &self.address.to_string());
            let proxy = Proxy::parse(&proxy).unwrap();
            let url = Url::parse(&format!("https://{HOST}/token")).unwrap();
            let ca_file = self.folder.path().join("ca.pem");
            get(&url, Some(&ca_file), &proxy).await
        }
    }

    async fn get(
        url: &Url,
        ca_file: Option<&Path>,
        proxy: &Proxy,
    ) -> Result<http::Response, http::Error> {
        let clients = Clients::default();
        let way = Way {
            ca_file,
            proxy: Some(proxy),
        };
        let client = clients.client(url, way).await.unwrap();
        let request = Request::new(Method::GET, url.clone());
        client.exchange(request).await
    }

    /// Writes `ca.pem`; what its server certificate for the host and for this machine accepts.
    fn authority(folder: &Path) -> TlsAcceptor {
        let names = vec![HOST.to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let file = |name: &str| folder.join(name);
        std::fs::write(file("ca.pem"), made.cert.pem()).unwrap();
        std::fs::write(file("key.pem"), made.signing_key.serialize_pem()).unwrap();
        let config = tls::server::config(&file("ca.pem"), &file("key.pem")).unwrap();
        TlsAcceptor::from(Arc::clone(&config))
    }

    async fn accept(
        listener: TcpListener,
        acceptor: TlsAcceptor,
        own_tls: bool,
        play: Play,
        heard: mpsc::UnboundedSender<String>,
    ) {
        while let Ok((socket, _)) = listener.accept().await {
            if !own_tls {
                serve(socket, play, &heard, &acceptor).await;
            } else if let Ok(socket) = acceptor.accept(socket).await {
                serve(socket, play, &heard, &acceptor).await;
            }
        }
    }

    async fn serve<S>(
        mut socket: S,
        play: Play,
        heard: &mpsc::UnboundedSender<String>,
        host: &TlsAcceptor,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        heard.send(head(&mut socket).await).unwrap();
        match play {
            Play::Host => {
                let yes = b"HTTP/1.1 200 Connection established\r\n\r\n";
                socket.write_all(yes).await.unwrap();
                let Ok(mut tls) = host.accept(socket).await else {
                    return;
                };
                heard.send(head(&mut tls).await).unwrap();
                let answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\
                               content-length: 2\r\n\r\n{}";
                tls.write_all(answer).await.unwrap();
            }
            // The client may hang up in the middle of it.
            Play::Say(text) => socket.write_all(text.as_bytes()).await.unwrap_or_default(),
            Play::Drip(text) => {
                let head = b"HTTP/1.1 200 OK\r\n";
                socket.write_all(head).await.unwrap();
                while socket.write_all(text.as_bytes()).await.is_ok() {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
            Play::Silence => drop(head(&mut socket).await),
        }
    }

    /// A request's head, or what came of it before the end.
    async fn head(socket: &mut (impl AsyncRead + Unpin)) -> String {
        let mut got = Vec::new();
        while !got.ends_with(b"\r\n\r\n") {
            match socket.read_u8().await {
                Ok(octet) => got.push(octet),
                Err(_) => break,
            }
        }
        String::from_utf8_lossy(&got).into_owned()
    }

    /// A plain proxy and one behind TLS are asked for a tunnel to the host, which then shows its own
    /// certificate; the login goes to the proxy alone.
    #[tokio::test]
    async fn the_way_goes_through_a_tunnel() {
        for (url, own_tls) in [
            ("http://relay:p%40ss%3A1@@PROXY@", false),
            ("https://relay:p%40ss%3A1@@PROXY@", true),
        ] {
            let mut played = Played::start(Play::Host, own_tls).await;
            assert_eq!(played.fetch(url).await.unwrap().body, b"{}");
            let connect = played.asked.recv().await.unwrap();
            assert!(connect.starts_with(&format!("CONNECT {HOST}:443 HTTP/1.1\r\n")));
            // relay:p@ss:1
            let login = "proxy-authorization: basic cmvsyxk6cebzczox";
            assert!(connect.to_ascii_lowercase().contains(login), "{connect}");
            let request = played.asked.recv().await.unwrap();
            assert!(request.starts_with("GET /token HTTP/1.1\r\n"), "{request}");
            assert!(!request.to_ascii_lowercase().contains("proxy"), "{request}");
        }
    }

    /// What a proxy answers in place of a tunnel is told as the proxy's, with what to do, and without
    /// its password; whatever it sends, the exchange ends in time.
    #[tokio::test(start_paused = true)]
    async fn trouble_at_the_proxy_is_told_as_the_proxys() {
        let page = "HTTP/1.1 403 Forbidden\r\ncontent-type: text/html\r\n\r\n<html>Blocked</html>";
        for (play, what, remedy) in [
            (
                Play::Say("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"),
                "wants a login",
                "USER:PASSWORD",
            ),
            (
                Play::Say(page),
                "refuses a tunnel to login.example.test:443",
                "allow CONNECT",
            ),
            (
                Play::Say("HTTP/1.1 302 Found\r\nlocation: http://portal.example/\r\n\r\n"),
                "refuses a tunnel",
                "allow CONNECT",
            ),
            (
                Play::Say("220 mail.example ESMTP\r\n"),
                "refuses a tunnel",
                "HTTP proxy",
            ),
            (
                Play::Say(""),
                "does not answer as an HTTP proxy",
                "host and port",
            ),
            (
                Play::Drip("x: 1\r\n"),
                "nothing came back from login.example.test:443",
                "can reach",
            ),
            (Play::Silence, "nothing came back", "can reach"),
        ] {
            let played = Played::start(play, false).await;
            let began = Instant::now();
            let refused = played
                .fetch("http://relay:canary@@PROXY@")
                .await
                .unwrap_err();
            assert!(began.elapsed() <= http::EXCHANGE_MAX, "{play:?}");
            let shown = format!("http://{}", played.address);
            let said = refused.to_string();
            assert!(
                said.contains(what) && said.contains(&shown),
                "{play:?}: {said}"
            );
            let told = refused.remedy().unwrap();
            assert!(told.contains(remedy), "{play:?}: {told}");
            assert!(!format!("{said}{told}{refused:?}").contains("canary"));
        }
    }

    /// A proxy that is not there, and one that shows a certificate of its own making for the host.
    #[tokio::test]
    async fn a_dead_proxy_and_one_that_reads_tls_are_told() {
        let played = Played::start(Play::Host, false).await;
        let proxy = Proxy::parse(&format!("http://{}", played.address)).unwrap();
        let url = Url::parse(&format!("https://{HOST}/token")).unwrap();
        let refused = get(&url, None, &proxy).await.unwrap_err();
        assert!(
            refused.to_string().contains("certificate shown for"),
            "{refused}"
        );
        assert!(refused.remedy().unwrap().contains("ca_file"));

        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = gone.local_addr().unwrap();
        drop(gone);
        let refused = played
            .fetch(&format!("http://{address}"))
            .await
            .unwrap_err();
        assert!(
            refused
                .to_string()
                .contains("cannot be reached: tcp connect"),
            "{refused}"
        );
    }

    /// This machine is never reached by way of another.
    #[tokio::test]
    async fn loopback_is_reached_directly() {
        let mut played = Played::start(Play::Host, false).await;
        let proxy = Proxy::parse(&format!("http://{}", played.address)).unwrap();
        let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = target.local_addr().unwrap().port();
        for url in [
            format!("http://127.0.0.1:{port}/"),
            format!("http://localhost:{port}/"),
            format!("https://127.0.0.1:{port}/"),
        ] {
            let url = Url::parse(&url).unwrap();
            let (answer, reached) = tokio::join!(get(&url, None, &proxy), async {
                target.accept().await.map(drop)
            });
            assert!(answer.is_err(), "the target only hangs up");
            assert!(reached.is_ok());
        }
        assert!(played.asked.try_recv().is_err(), "the proxy was asked");
    }

    #[test]
    fn a_proxy_is_http_or_https_and_shown_without_its_login() {
        for (text, shown) in [
            ("http://proxy.example:3128", "http://proxy.example:3128"),
            ("proxy.example:3128", "http://proxy.example:3128"),
            (
                "http://u:canary@proxy.example:3128/",
                "http://proxy.example:3128",
            ),
            ("https://proxy.example", "https://proxy.example:443"),
            ("http://[fd00::1]:8080", "http://[fd00::1]:8080"),
        ] {
            let proxy = Proxy::parse(text).unwrap();
            assert_eq!(proxy.to_string(), shown);
            assert!(!format!("{proxy:?}").contains("canary"));
        }
        for (text, what) in [
            ("socks5://proxy.example:1080", "SOCKS"),
            ("ftp://proxy.example", "neither"),
            ("http://", "no proxy's URL"),
            ("http://proxy.example:port", "no proxy's URL"),
            ("http://proxy.example:3128/proxy.pac", "after the port"),
        ] {
            let (refused, remedy) = Proxy::parse(text).unwrap_err();
            assert!(refused.contains(what), "{text}: {refused}");
            assert!(!remedy.is_empty());
        }
    }

    #[test]
    fn a_password_in_clear_is_known() {
        for (text, clear) in [
            ("http://u:p@proxy.example:3128", true),
            ("http://u:p@127.0.0.1:3128", false),
            ("https://u:p@proxy.example:3128", false),
            ("http://proxy.example:3128", false),
        ] {
            let proxy = Proxy::parse(text).unwrap();
            assert_eq!(proxy.sends_password_in_clear(), clear, "{text}");
        }
    }
}
