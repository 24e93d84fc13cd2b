//! Serving HTTP connections: bounded in number, in time, and owned by a task set.
//!
//! `axum::serve` spawns tasks nobody owns and waits for ever on a silent client; this drives hyper
//! directly instead, which axum uses below anyway.

use std::{future::Future, io, net::IpAddr, pin::pin, sync::Arc, time::Duration};

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::Semaphore,
};

use crate::net::{limits::Limits, tasks::Tasks, tls::renewing::Renewing};

/// Connections at once on one address: an operator, a scraper and some probes need a few; each may
/// cost [`BUFFER_LEN_MAX`] of memory.
const CONNECTIONS_MAX: usize = 128;
/// Connections at once from one address: it alone does not keep everybody else out.
const CONNECTIONS_PER_CLIENT_MAX: usize = CONNECTIONS_MAX / 2;
/// For a request head, and so also for an idle kept-alive connection.
const HEAD_DEADLINE: Duration = Duration::from_secs(15);
/// For a form or a JSON text to arrive whole: the largest does on a slow line. What only trickles does
/// not keep its place.
pub(super) const BODY_DEADLINE: Duration = Duration::from_secs(30);
/// For a whole connection: the longest export of the largest message fits, a client that reads
/// nothing does not keep its place for ever.
const CONNECTION_DEADLINE: Duration = Duration::from_secs(15 * 60);
/// A request head; 4 KiB of query (authorization codes are long) and the fields of a browser.
const BUFFER_LEN_MAX: usize = 32 * 1024;
/// After a failed accept (no descriptor left): long enough not to spin, short enough to recover.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// The address that a connection came in on; none on a Unix socket.
#[derive(Debug, Clone, Copy)]
pub(super) struct LocalAddress(pub(super) Option<IpAddr>);

/// The address that a connection came from; none on a Unix socket.
#[derive(Debug, Clone, Copy)]
pub(super) struct PeerAddress(pub(super) Option<IpAddr>);

/// Both ends of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    local: LocalAddress,
    peer: PeerAddress,
}

/// A listening socket of either kind.
pub(super) trait Accept: Send + 'static {
    /// A connection.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// The next connection. Cancel safe.
    fn next(&self) -> impl Future<Output = io::Result<(Self::Io, Ends)>> + Send;
}

impl Accept for TcpListener {
    type Io = TcpStream;

    async fn next(&self) -> io::Result<(TcpStream, Ends)> {
        let (stream, peer) = self.accept().await?;
        let local = stream.local_addr()?.ip().to_canonical();
        let ends = Ends {
            local: LocalAddress(Some(local)),
            peer: PeerAddress(Some(peer.ip().to_canonical())),
        };
        Ok((stream, ends))
    }
}

impl Accept for UnixListener {
    type Io = UnixStream;

    async fn next(&self) -> io::Result<(UnixStream, Ends)> {
        let (stream, _) = self.accept().await?;
        let ends = Ends {
            local: LocalAddress(None),
            peer: PeerAddress(None),
        };
        Ok((stream, ends))
    }
}

/// Serves `router` on `listener` until `tasks` are told to stop.
pub(super) async fn serve<L: Accept>(listener: L, router: Router, tasks: Tasks) {
    serve_with(listener, None, router, tasks).await;
}

/// As [`serve`], over TLS where there is a certificate.
pub(super) async fn serve_with<L: Accept>(
    listener: L,
    certificate: Option<Arc<Renewing>>,
    router: Router,
    tasks: Tasks,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let limits = Arc::new(Limits::default());
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return; // Never: nobody closes the semaphore.
        };
        let accepted = tokio::select! {
            accepted = listener.next() => accepted,
            () = tasks.stopped() => return,
        };
        match accepted {
            Ok((io, Ends { local, peer })) => {
                let each = CONNECTIONS_PER_CLIENT_MAX;
                let Some(permit) = limits.admit(peer.0, CONNECTIONS_MAX, each) else {
                    tracing::debug!(event = "admin_connection_refused", peer = ?peer.0);
                    continue;
                };
                let router = router.clone();
                let router = router.layer(Extension(local)).layer(Extension(peer));
                let (certificate, owner) = (certificate.clone(), tasks.clone());
                tasks.spawn("admin_connection", async move {
                    match certificate {
                        None => connection(io, router, owner).await,
                        Some(certificate) => secured(io, &certificate, router, owner).await,
                    }
                    drop((place, permit));
                });
            }
            Err(error) => {
                tracing::warn!(event = "accept_failed", listener = "admin", %error);
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves one connection after its handshake.
async fn secured<Io>(io: Io, certificate: &Arc<Renewing>, router: Router, tasks: Tasks)
where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let acceptor = certificate.acceptor().await;
    let handshake = tokio::time::timeout(HEAD_DEADLINE, acceptor.accept(io));
    let done = tokio::select! {
        done = handshake => done,
        () = tasks.stopped() => return,
    };
    match done {
        Ok(Ok(io)) => connection(io, router, tasks).await,
        // A scanner, or a browser that does not know the authority: it tells its own user.
        Ok(Err(error)) => tracing::trace!(event = "admin_handshake_failed", %error),
        Err(_) => {}
    }
}

/// Serves one connection; when told to stop, the answer under way is finished.
async fn connection<Io>(io: Io, router: Router, tasks: Tasks)
where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_buf_size(BUFFER_LEN_MAX)
        .serve_connection(TokioIo::new(io), TowerToHyperService::new(router));
    let mut serving = pin!(serving);
    let ended = tokio::time::timeout(CONNECTION_DEADLINE, async {
        tokio::select! {
            ended = serving.as_mut() => return ended,
            () = tasks.stopped() => serving.as_mut().graceful_shutdown(),
        }
        serving.await
    });
    // A client that went away is no fact an operator needs.
    if let Ok(Err(error)) = ended.await {
        tracing::trace!(event = "admin_connection_failed", %error);
    }
}
