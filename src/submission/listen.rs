//! Sockets that listen, and the loop that accepts from one.
//!
//! The loop never ends on an error and never spins on one: when the system has no descriptor or
//! memory left it pauses, and the backlog waits in the kernel.

use std::{
    env, fs, io,
    net::SocketAddr,
    os::{
        fd::{AsRawFd, RawFd},
        unix::{
            fs::{FileTypeExt, PermissionsExt},
            net as unix,
        },
    },
    path::{Path, PathBuf},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use listenfd::ListenFd;
use rustix::process::{Resource, getrlimit};
use socket2::SockRef;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream},
    time,
};

use super::{
    Address, Error, Listener, Tls,
    begun::Begun,
    connection,
    door::{Context, Door, Live, Peer, Shared},
    policy, proxy,
};
use crate::{
    net::{limits::Permit, tasks::Tasks},
    smtp::replies::Reply,
};

/// Connections the kernel keeps while we are busy; it caps the number itself (`somaxconn`).
const BACKLOG: u32 = 1024;
/// How long the loop pauses when the system cannot give a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// How long a peer behind a proxy is listened to when it is turned away.
const REFUSAL_WAIT: Duration = Duration::from_secs(1);
/// Descriptors left to the store, spill files, upstream connections and the log: one in so many of
/// what the system gives us, and never less or more than these.
const RESERVED_PART: u64 = 8;
const RESERVED_MIN: u64 = 16;
const RESERVED_MAX: u64 = 1024;
/// How long a loop that is told to stop accepts who is just connecting: the handshake of a slow line.
const LAST_ACCEPTS: Duration = Duration::from_millis(200);
/// How often an idle loop shows that it lives; well below any watchdog's interval.
const TURN: Duration = Duration::from_secs(2);

/// A socket that listens.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp {
        listener: TcpListener,
        /// None: systemd keeps it open, and whoever waits at it, for the next process.
        family: Option<Family>,
    },
    Unix {
        listener: UnixListener,
        /// The file that we made and remove again; none when systemd owns it.
        path: Option<PathBuf>,
    },
}

#[derive(Debug)]
enum Accepted {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

impl Socket {
    /// Binds a listener's address. systemd may pass several sockets under one name.
    pub(super) fn bind(
        listener: &Listener,
        family: Family,
        passed: &mut Option<Passed>,
        leaving: &mut Vec<Arc<Self>>,
    ) -> Result<Vec<Arc<Self>>, Error> {
        let bound = match &listener.address {
            Address::Tcp(address) => bind_tcp(*address, family, leaving),
            Address::Unix(path) => {
                let same = leaving.iter().position(|one| one.is_file(path));
                let socket = same.map(|same| Ok(leaving.swap_remove(same)));
                let socket = socket.unwrap_or_else(|| bind_unix(path).map(Arc::new));
                socket.map(|socket| vec![socket])
            }
            Address::Systemd(name) => {
                let passed = passed.get_or_insert_with(Passed::from_environment);
                let sockets = passed
                    .take(name)
                    .map_err(|source| bind_error(listener, source))?;
                if sockets.is_empty() {
                    return Err(Error::NotPassed(name.clone()));
                }
                return Ok(sockets.into_iter().map(Arc::new).collect());
            }
        };
        bound.map_err(|source| bind_error(listener, source))
    }

    pub(super) fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp { listener, .. } => listener.local_addr().ok(),
            Self::Unix { .. } => None,
        }
    }

    /// Lets a socket that takes its place be bound before it is closed, or no longer.
    fn share(&self, shared: bool) -> io::Result<()> {
        match self {
            Self::Tcp { listener, .. } => SockRef::from(listener).set_reuse_port(shared),
            Self::Unix { .. } => Ok(()),
        }
    }

    /// Whether it stays open when we close it.
    fn is_passed(&self) -> bool {
        match self {
            Self::Tcp { family, .. } => family.is_none(),
            Self::Unix { path, .. } => path.is_none(),
        }
    }

    fn is_at(&self, address: SocketAddr, family: Family) -> bool {
        self.family() == Some(family) && self.local_addr() == Some(address)
    }

    fn is_file(&self, file: &Path) -> bool {
        match self {
            Self::Tcp { .. } => false,
            Self::Unix { path, .. } => path.as_deref() == Some(file),
        }
    }

    /// Whether a socket at `address` takes all connections that this one takes.
    fn is_within(&self, address: SocketAddr, family: Family) -> bool {
        let Some(own) = self.local_addr().filter(|_| self.family().is_some()) else {
            return false;
        };
        let same_version = own.is_ipv4() == address.is_ipv4();
        let both_versions = address.is_ipv6() && family == Family::Any;
        address.ip().is_unspecified()
            && own.port() == address.port()
            && (same_version || both_versions)
    }

    /// None of a socket that is not bound by us.
    fn family(&self) -> Option<Family> {
        match self {
            Self::Tcp { family, .. } => *family,
            Self::Unix { .. } => None,
        }
    }

    /// Cancel safe.
    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp { listener, .. } => {
                let (stream, peer) = listener.accept().await?;
                Ok(Accepted::Tcp(stream, peer))
            }
            Self::Unix { listener, .. } => Ok(Accepted::Unix(listener.accept().await?.0)),
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Self::Unix {
            path: Some(path), ..
        } = self
        {
            // Gone already is as good.
            fs::remove_file(path).unwrap_or_default();
        }
    }
}

fn bind_error(listener: &Listener, source: io::Error) -> Error {
    Error::Bind {
        name: listener.name.clone(),
        source,
    }
}

/// Which connections an IPv6 wildcard takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    /// As the system is set, which is IPv4 as well.
    Any,
    /// IPv6 alone, because another listener takes IPv4 on this port.
    V6Only,
}

/// A socket at this address and, where it is wider than a listener that goes, that one's as well: a
/// socket that closes would reset who is just connecting to it.
fn bind_tcp(
    address: SocketAddr,
    family: Family,
    leaving: &mut Vec<Arc<Socket>>,
) -> io::Result<Vec<Arc<Socket>>> {
    let same = leaving.iter().position(|one| one.is_at(address, family));
    let socket = match same {
        Some(same) => leaving.swap_remove(same),
        None => Arc::new(bind_beside(address, family, leaving)?),
    };
    let mut sockets = vec![socket];
    sockets.extend(leaving.extract_if(.., |one| one.is_within(address, family)));
    Ok(sockets)
}

/// Binds, if need be beside our own sockets that are about to close. Both get `SO_REUSEPORT` for
/// that moment alone, or a second process of ours could share the port.
fn bind_beside(address: SocketAddr, family: Family, leaving: &[Arc<Socket>]) -> io::Result<Socket> {
    let error = match bind_once(address, family, false) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => error,
        other => return other,
    };
    let is_in_the_way = |one: &&Arc<Socket>| {
        one.local_addr()
            .is_some_and(|at| at.port() == address.port())
    };
    let in_the_way: Vec<_> = leaving.iter().filter(is_in_the_way).collect();
    if in_the_way.is_empty() {
        return Err(error);
    }
    for socket in &in_the_way {
        socket.share(true)?;
    }
    let bound = bind_once(address, family, true);
    for socket in in_the_way {
        socket.share(false)?;
    }
    let bound = bound?;
    bound.share(false)?;
    Ok(bound)
}

fn bind_once(address: SocketAddr, family: Family, shared: bool) -> io::Result<Socket> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // A restart must not wait for connections of the last run to die.
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(shared)?;
    if address.is_ipv6() && family == Family::V6Only {
        SockRef::from(&socket).set_only_v6(true)?;
    }
    socket.bind(address)?;
    let listener = socket.listen(BACKLOG)?;
    Ok(Socket::Tcp {
        listener,
        family: Some(family),
    })
}

/// A socket file left by a process that died is replaced; one that answers is in use.
fn bind_unix(path: &Path) -> io::Result<Socket> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    if is_socket {
        if unix::UnixStream::connect(path).is_ok() {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        fs::remove_file(path)?;
    }
    let listener = unix::UnixListener::bind(path)?;
    // Like a loopback port: whoever may enter the folder may connect.
    fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
    listener.set_nonblocking(true)?;
    Ok(Socket::Unix {
        listener: UnixListener::from_std(listener)?,
        path: Some(path.to_owned()),
    })
}

/// Sockets that systemd passed (sd_listen_fds(3)).
pub(super) struct Passed {
    sockets: ListenFd,
    names: Vec<String>,
}

impl std::fmt::Debug for Passed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Passed").field(&self.names).finish()
    }
}

impl Passed {
    #[expect(
        clippy::disallowed_methods,
        reason = "the names are a part of the sd_listen_fds protocol, not of the configuration"
    )]
    fn from_environment() -> Self {
        let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
        Self {
            sockets: ListenFd::from_env(),
            names: names.split(':').map(str::to_owned).collect(),
        }
    }

    /// All sockets of this name that nobody has taken.
    fn take(&mut self, name: &str) -> io::Result<Vec<Socket>> {
        let mut taken = Vec::new();
        for at in 0..self.sockets.len() {
            // Without FileDescriptorName= systemd gives the unit's name.
            let found = self.names.get(at).map_or("", String::as_str);
            if found != name && found.strip_suffix(".socket") != Some(name) {
                continue;
            }
            if let Ok(Some(listener)) = self.sockets.take_tcp_listener(at) {
                listener.set_nonblocking(true)?;
                taken.push(Socket::Tcp {
                    listener: TcpListener::from_std(listener)?,
                    family: None,
                });
            } else if let Some(listener) = self.sockets.take_unix_listener(at)? {
                listener.set_nonblocking(true)?;
                let listener = UnixListener::from_std(listener)?;
                taken.push(Socket::Unix {
                    listener,
                    path: None,
                });
            }
        }
        Ok(taken)
    }
}

/// Accepts until told to stop, and then who waits in the kernel already, unless the socket outlives
/// us; leaves the sessions alone.
pub(super) async fn accept(
    socket: Arc<Socket>,
    door: Arc<Door>,
    shared: Arc<Shared>,
    tasks: Tasks,
    turns: Arc<AtomicU64>,
) {
    let mut ticks = time::interval(TURN);
    let mut over = pin!(async {
        tasks.stopped().await;
        if !socket.is_passed() {
            time::sleep(LAST_ACCEPTS).await;
        }
    });
    loop {
        turns.fetch_add(1, Ordering::Relaxed);
        let accepted = tokio::select! {
            biased;
            () = over.as_mut() => return,
            accepted = socket.accept() => accepted,
            _ = ticks.tick() => continue,
        };
        match accepted {
            Ok(accepted) => admit(accepted, &door, &shared),
            // The peer was gone before we looked.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => (),
            Err(error) => {
                let listener = door.live().listener.name.clone();
                tracing::error!(event = "accept_failed", listener, %error, "pausing");
                tokio::select! {
                    () = tasks.stopped() => return,
                    () = time::sleep(ACCEPT_PAUSE) => (),
                }
            }
        }
    }
}

/// Turns a peer away, or gives it a session.
fn admit(accepted: Accepted, door: &Arc<Door>, shared: &Arc<Shared>) {
    let live = door.live();
    let listener = &live.listener;
    let peer = match &accepted {
        Accepted::Tcp(_, peer) => Peer::direct(Some(*peer)),
        Accepted::Unix(_) => Peer::direct(None),
    };
    let proxied = peer.ip().is_some_and(|ip| listener.believes(ip));
    // Whom a proxy brings is known when its header was read.
    let address = if proxied { None } else { peer.ip() };
    let admitted = if is_short_of_descriptors(&accepted) {
        Err((
            Reply::TOO_MANY_SESSIONS,
            "no descriptor left: raise LimitNOFILE",
        ))
    } else if !proxied && !policy::may_connect(&listener.allow, address) {
        Err(NOT_ALLOWED)
    } else {
        let (total, each) = (
            listener.max_connections,
            listener.max_connections_per_client,
        );
        let permit = door.limits.admit(address, total, each);
        permit.ok_or((Reply::TOO_MANY_SESSIONS, "connection limit"))
    };
    let permit = match admitted {
        Ok(permit) => permit,
        Err((reply, reason)) => {
            tracing::info!(event = "session_refused", listener = listener.name, %peer, reason);
            shared.turned_away((&reply, reason), listener, peer.ip());
            // Under implicit TLS nothing can be said before the handshake.
            if listener.tls != Tls::Implicit {
                accepted.say(&reply);
            }
            return;
        }
    };
    match accepted {
        Accepted::Tcp(stream, proxy) => {
            // Replies are small and each is waited for; failure costs only latency.
            stream.set_nodelay(true).unwrap_or_default();
            let stream = Begun::new(stream);
            if proxied {
                let entry = enter_by_proxy(stream, proxy, live, permit, Arc::clone(shared));
                shared.tasks.spawn("session", entry);
            } else {
                let context = Context::new(Arc::clone(shared), live, peer, permit);
                let session = connection::serve(stream, context);
                shared.tasks.spawn("session", session);
            }
        }
        Accepted::Unix(stream) => {
            let context = Context::new(Arc::clone(shared), live, peer, permit);
            let session = connection::serve(Begun::new(stream), context);
            shared.tasks.spawn("session", session);
        }
    }
}

/// Not in `allow`.
const NOT_ALLOWED: (Reply, &str) = (Reply::ACCESS_DENIED, "not in the allow list");

/// A session of whom a proxy's header names.
async fn enter_by_proxy(
    mut stream: Begun<TcpStream>,
    proxy: SocketAddr,
    live: Arc<Live>,
    permit: Permit,
    shared: Arc<Shared>,
) {
    let name = &live.listener.name;
    let told = tokio::select! {
        () = shared.tasks.stopped() => return,
        told = proxy::client(&mut stream) => told,
    };
    let peer = match told {
        Ok(client) => Peer::told(client, proxy),
        Err(refusal) => {
            let remedy = "let the proxy send the PROXY header (haproxy: send-proxy-v2), or take \
                          it out of proxy_protocol_from";
            tracing::warn!(event = "session_refused", listener = name, %proxy, reason = %refusal, remedy);
            shared.count_refused("no PROXY header");
            return;
        }
    };
    let admitted = if policy::may_connect(&live.listener.allow, peer.ip()) {
        let permit = permit.count_for(peer.ip(), live.listener.max_connections_per_client);
        permit.ok_or((Reply::TOO_MANY_SESSIONS, "connection limit"))
    } else {
        Err(NOT_ALLOWED)
    };
    match admitted {
        Ok(permit) => connection::serve(stream, Context::new(shared, live, peer, permit)).await,
        Err((reply, reason)) => {
            tracing::info!(event = "session_refused", listener = name, %peer, %proxy, reason);
            shared.turned_away((&reply, reason), &live.listener, peer.ip());
            if live.listener.tls != Tls::Implicit {
                let said = async {
                    stream.write_all(reply.0.as_bytes()).await?;
                    stream.shutdown().await
                };
                // A refused peer is not waited for.
                drop(time::timeout(REFUSAL_WAIT, said).await);
            }
        }
    }
}

/// Whether a session would take a descriptor that something else needs. The system gives out the
/// lowest free number, so a high one tells that few are left.
fn is_short_of_descriptors(accepted: &Accepted) -> bool {
    let limit = getrlimit(Resource::Nofile).current;
    let Some(limit) = limit else { return false };
    let reserved = (limit / RESERVED_PART).clamp(RESERVED_MIN, RESERVED_MAX);
    let number = u64::try_from(accepted.as_raw_fd()).unwrap_or(u64::MAX);
    number >= limit.saturating_sub(reserved)
}

impl Accepted {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Self::Tcp(stream, _) => stream.as_raw_fd(),
            Self::Unix(stream) => stream.as_raw_fd(),
        }
    }

    /// One reply, if the socket takes it at once; a refused peer is not waited for.
    fn say(&self, reply: &Reply) {
        let said = match self {
            Self::Tcp(stream, _) => stream.try_write(reply.0.as_bytes()),
            Self::Unix(stream) => stream.try_write(reply.0.as_bytes()),
        };
        said.unwrap_or_default();
    }
}
