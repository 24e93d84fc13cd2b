//! Sockets that listen, and the loop that accepts from one.
//!
//! The loop never ends on an error and never spins on one: when the system has no descriptor or
//! memory left it pauses, and the backlog waits in the kernel.

use std::{
    env, fs, io,
    net::SocketAddr,
    os::unix::{
        fs::{FileTypeExt, PermissionsExt},
        net as unix,
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use listenfd::ListenFd;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream},
    time,
};

use super::{
    Address, Error, Listener, Tls, connection,
    door::{Context, Door, Peer, Shared},
    policy,
};
use crate::{net::tasks::Tasks, smtp::replies::Reply};

/// Connections the kernel keeps while we are busy; it caps the number itself (`somaxconn`).
const BACKLOG: u32 = 1024;
/// How long the loop pauses when the system cannot give a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// How often an idle loop shows that it lives; well below any watchdog's interval.
const TURN: Duration = Duration::from_secs(2);

/// A socket that listens.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpListener),
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
        passed: &mut Option<Passed>,
    ) -> Result<Vec<Self>, Error> {
        let bound = match &listener.address {
            Address::Tcp(address) => bind_tcp(*address),
            Address::Unix(path) => bind_unix(path),
            Address::Systemd(name) => {
                let passed = passed.get_or_insert_with(Passed::from_environment);
                let sockets = passed
                    .take(name)
                    .map_err(|source| bind_error(listener, source))?;
                if sockets.is_empty() {
                    return Err(Error::NotPassed(name.clone()));
                }
                return Ok(sockets);
            }
        };
        let socket = bound.map_err(|source| bind_error(listener, source))?;
        Ok(vec![socket])
    }

    pub(super) fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix { .. } => None,
        }
    }

    /// Cancel safe.
    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener) => {
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

fn bind_tcp(address: SocketAddr) -> io::Result<Socket> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // A restart must not wait for connections of the last run to die.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG).map(Socket::Tcp)
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
                taken.push(Socket::Tcp(TcpListener::from_std(listener)?));
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

/// Accepts until told to stop; closes the socket then, and leaves the sessions alone.
pub(super) async fn accept(
    socket: Socket,
    door: Arc<Door>,
    shared: Arc<Shared>,
    tasks: Tasks,
    turns: Arc<AtomicU64>,
) {
    let mut ticks = time::interval(TURN);
    loop {
        turns.fetch_add(1, Ordering::Relaxed);
        let accepted = tokio::select! {
            biased;
            () = tasks.stopped() => return,
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
    let peer = Peer(match &accepted {
        Accepted::Tcp(_, peer) => Some(*peer),
        Accepted::Unix(_) => None,
    });
    let address = peer.ip();
    let refused = |reply: &Reply, reason| {
        tracing::info!(event = "session_refused", listener = listener.name, %peer, reason);
        shared.turned_away(reply, &live.listener, address);
        // Under implicit TLS nothing can be said before the handshake.
        if listener.tls != Tls::Implicit {
            accepted.say(reply);
        }
    };
    if !policy::may_connect(&listener.allow, address) {
        refused(&Reply::ACCESS_DENIED, "not in the allow list");
        return;
    }
    let (total, each) = (
        listener.max_connections,
        listener.max_connections_per_client,
    );
    let Some(permit) = door.limits.admit(address, total, each) else {
        refused(&Reply::TOO_MANY_SESSIONS, "connection limit");
        return;
    };
    let context = Context::new(Arc::clone(shared), live, peer, permit);
    match accepted {
        Accepted::Tcp(stream, _) => {
            // Replies are small and each is waited for; failure costs only latency.
            stream.set_nodelay(true).unwrap_or_default();
            shared
                .tasks
                .spawn("session", connection::serve(stream, context));
        }
        Accepted::Unix(stream) => {
            shared
                .tasks
                .spawn("session", connection::serve(stream, context));
        }
    }
}

impl Accepted {
    /// One reply, if the socket takes it at once; a refused peer is not waited for.
    fn say(&self, reply: &Reply) {
        let said = match self {
            Self::Tcp(stream, _) => stream.try_write(reply.0.as_bytes()),
            Self::Unix(stream) => stream.try_write(reply.0.as_bytes()),
        };
        said.unwrap_or_default();
    }
}
