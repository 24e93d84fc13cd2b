//! Connecting: addresses of a name tried one after another with a head start (RFC 8305), then TLS.
//!
//! `mail-send` does the connecting and the handshake; every reply after that is read by
//! [`crate::smtp::client`], because its own reader drops what follows the first reply in a segment.

use std::{io, net::SocketAddr, time::Duration};

use mail_send::SmtpClient;
use rustls::{CertificateError, OtherError};
use tokio::{net::TcpStream, task::JoinSet, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::tls::client::Refused;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name has no address now.
    #[error("resolving {host}")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver says.
        #[source]
        source: io::Error,
    },
    /// No address answered; the last one's answer.
    #[error("connecting to {address}")]
    Connect {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// No address answered in time.
    #[error("no answer from {host} within {seconds} s")]
    Timeout {
        /// The name.
        host: String,
        /// The limit.
        seconds: u64,
    },
}

/// Why the handshake did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The certificate was refused.
    #[error("{0}")]
    Certificate(Refused),
    /// The peers have no common ground.
    #[error("{0}")]
    Refused(rustls::Error),
    /// The host is neither a DNS name nor an address.
    #[error("no certificate can be valid for this host name")]
    Name,
    /// The connection broke during the handshake.
    #[error("TLS handshake")]
    Io(#[source] io::Error),
    /// The peer did not answer in time.
    #[error("TLS handshake took too long")]
    Timeout,
}

/// Connects to `host`, trying its addresses in turn: the next one when one fails or has not
/// answered within a quarter of a second, so that a dead IPv6 path costs no more than that.
/// Cancel safe.
///
/// # Errors
/// [`Error`] after all addresses have failed or the time is up.
pub async fn tcp(host: &str, port: u16) -> Result<TcpStream, Error> {
    let name = unbracketed(host);
    let resolved = timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host((name, port)))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let resolved = resolved.and_then(|addresses| {
        let addresses = interleave(addresses.collect());
        if addresses.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "no address"));
        }
        Ok(addresses)
    });
    let addresses = resolved.map_err(|source| Error::Resolve {
        host: host.to_owned(),
        source,
    })?;
    let limit = Error::Timeout {
        host: host.to_owned(),
        seconds: CONNECT_TIMEOUT.as_secs(),
    };
    timeout(CONNECT_TIMEOUT, race(&addresses))
        .await
        .unwrap_or(Err(None))
        .map_err(|error| error.unwrap_or(limit))
}

/// Makes the connection a TLS session with `host`, whose certificate must be valid for that name.
/// Cancel safe: a dropped handshake drops the connection.
///
/// # Errors
/// [`TlsError`].
pub async fn tls(
    stream: TcpStream,
    connector: &TlsConnector,
    host: &str,
) -> Result<TlsStream<TcpStream>, TlsError> {
    let client = SmtpClient {
        stream,
        timeout: HANDSHAKE_TIMEOUT,
    };
    match client.into_tls(connector, unbracketed(host)).await {
        Ok(client) => Ok(client.stream),
        Err(mail_send::Error::Tls(error)) => Err(refused(*error)),
        Err(mail_send::Error::Io(error)) => Err(match error.downcast::<rustls::Error>() {
            Ok(error) => refused(error),
            // mail-send keeps no more of what the system says than its kind.
            Err(error) if error.to_string() == "Unspecified" => TlsError::Io(error.kind().into()),
            Err(error) => TlsError::Io(error),
        }),
        Err(mail_send::Error::Timeout) => Err(TlsError::Timeout),
        Err(mail_send::Error::InvalidTLSName) => Err(TlsError::Name),
        Err(other) => Err(TlsError::Io(io::Error::other(other.to_string()))),
    }
}

fn refused(error: rustls::Error) -> TlsError {
    if let rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) = &error
        && let Some(refused) = inner.downcast_ref::<Refused>()
    {
        return TlsError::Certificate(refused.clone());
    }
    TlsError::Refused(error)
}

/// `::1` for `[::1]`: resolver and certificate know addresses without brackets.
fn unbracketed(host: &str) -> &str {
    host.strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host)
}

/// Families in turn, the resolver's first family first (RFC 8305 §4).
fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let v6_first = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut first, mut second) = addresses
        .into_iter()
        .partition::<std::collections::VecDeque<_>, _>(|a| a.is_ipv6() == v6_first);
    let mut mixed = Vec::with_capacity(first.len() + second.len());
    while !first.is_empty() || !second.is_empty() {
        mixed.extend(first.pop_front());
        mixed.extend(second.pop_front());
    }
    mixed.truncate(ADDRESSES_MAX);
    mixed
}

/// The first connection that stands; the losers are dropped.
async fn race(addresses: &[SocketAddr]) -> Result<TcpStream, Option<Error>> {
    let mut waiting = addresses.iter().copied();
    let mut running = JoinSet::new();
    let mut last_error = None;
    loop {
        let begun = waiting.next().map(|address| {
            running.spawn(async move { (address, connect(address).await) });
        });
        let next_due = tokio::time::sleep(HEAD_START);
        tokio::pin!(next_due);
        // With addresses left, wait for a result or the head start; with none, for results alone.
        let result = tokio::select! {
            Some(result) = running.join_next() => Some(result),
            () = &mut next_due, if begun.is_some() => None,
            else => return Err(last_error),
        };
        match result {
            Some(Ok((_, Ok(stream)))) => return Ok(stream),
            Some(Ok((address, Err(source)))) => {
                last_error = Some(Error::Connect { address, source });
            }
            Some(Err(_)) | None => {}
        }
    }
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let client = SmtpClient::connect(address, CONNECT_TIMEOUT)
        .await
        .map_err(|error| {
            if let mail_send::Error::Io(error) = error {
                error
            } else {
                // Nothing else happens while connecting.
                io::ErrorKind::TimedOut.into()
            }
        })?;
    // Every write of ours is a whole step of the dialogue: waiting for more only costs time.
    client.stream.set_nodelay(true)?;
    Ok(client.stream)
}

/// A resolver that has not answered by then will not.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(15);
/// For all addresses together; Postfix's `smtp_connect_timeout`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// A handshake is two round trips and a signature.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);
/// RFC 8305 §5.
const HEAD_START: Duration = Duration::from_millis(250);
/// A name with more addresses is a pool; the first few stand for the rest.
const ADDRESSES_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncReadExt, net::TcpListener};

    use super::*;

    #[test]
    fn families_take_turns() {
        let parse = |texts: &[&str]| -> Vec<SocketAddr> {
            texts
                .iter()
                .map(|t| t.parse().expect("an address"))
                .collect()
        };
        let mixed = interleave(parse(&[
            "[::1]:1",
            "[::2]:1",
            "[::3]:1",
            "1.1.1.1:1",
            "1.1.1.2:1",
        ]));
        assert_eq!(
            mixed,
            parse(&["[::1]:1", "1.1.1.1:1", "[::2]:1", "1.1.1.2:1", "[::3]:1"])
        );
    }

    #[tokio::test]
    async fn a_refusing_address_costs_no_time() {
        let dead = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let dead_address = dead.local_addr().expect("bound");
        drop(dead);
        let live = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let live_address = live.local_addr().expect("bound");
        let stream = race(&[dead_address, live_address]).await.expect("connects");
        assert_eq!(stream.peer_addr().ok(), Some(live_address));
        assert!(stream.nodelay().expect("a socket"));
    }

    #[tokio::test]
    async fn when_all_refuse_the_last_answer_is_told() {
        let dead = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = dead.local_addr().expect("bound");
        drop(dead);
        let error = tcp("127.0.0.1", address.port()).await.expect_err("refused");
        assert!(matches!(error, Error::Connect { address: a, .. } if a == address));
    }

    /// What the system says of it is told, not what the library makes of that.
    #[tokio::test]
    async fn a_connection_reset_in_the_handshake_is_named() {
        let server = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = server.local_addr().expect("bound").port();
        let serving = async {
            let (mut stream, _) = server.accept().await.expect("a peer");
            stream.read_u8().await.expect("a ClientHello");
            stream.set_zero_linger().expect("a socket");
        };
        let stream = tcp("127.0.0.1", port).await.expect("connects");
        let connectors = super::super::tls::client::Connectors::new();
        let connector = connectors.get(None).await.expect("the system's roots");
        let (error, ()) = tokio::join!(tls(stream, &connector, "127.0.0.1"), serving);
        let Err(TlsError::Io(error)) = error else {
            panic!("{error:?}");
        };
        assert_eq!(error.to_string(), "connection reset");
    }

    #[tokio::test]
    async fn a_name_without_address_is_a_resolver_error() {
        let error = tcp("no-such-host.invalid", 25).await.expect_err("unknown");
        assert!(matches!(error, Error::Resolve { .. }));
    }
}
