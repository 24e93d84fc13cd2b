//! Where a program on this machine finds the listener.
//!
//! Whoever calls `sendmail` may be anybody, so nothing of the configuration is needed that anybody may
//! not read: of a file that can be read only the listeners are looked at (no secret, no command); where
//! it cannot, or where there is none, the usual places are tried.

use std::{
    fmt, fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use figment::{
    Figment, Provider as _,
    providers::{Format, Toml},
};
use serde::Deserialize;

use super::submit::Stream;
use crate::config::Sources;

/// Where a Unix socket for programs stands by custom.
const SOCKET: &str = "/run/gatepost/smtp.sock";
/// The listener there is without any configuration.
const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 2525);
/// A listener on this machine answers at once or not at all.
const CONNECT_WAIT: Duration = Duration::from_secs(10);
/// For each reply; the one to a message waits for disks (RFC 5321 §4.5.3.2.6).
const REPLY_WAIT: Duration = Duration::from_secs(10 * 60);

/// A place to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => address.fmt(f),
        }
    }
}

/// Why no place is known.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The file is wrong, or not there.
    #[error("{path}: {reason}; `gatepost check` tells more", path = .0.display(), reason = .1)]
    Unreadable(PathBuf, String),
    /// Every listener wants TLS or a login, or is reached by other machines only.
    #[error(
        "no listener is open to programs on this machine; add one to the configuration: \
         [[listener]] with address = \"127.0.0.1:2525\", or address = \"unix:/run/gatepost/smtp.sock\""
    )]
    None,
}

/// What is looked at of a `[[listener]]`.
#[derive(Debug, Deserialize)]
struct Listener {
    #[serde(default)]
    address: String,
    #[serde(default)]
    tls: String,
    #[serde(default)]
    auth: String,
}

/// The places to try in turn: Unix sockets before addresses, else as the configuration has them.
///
/// # Errors
/// [`Error`].
pub(super) fn places(sources: &Sources) -> Result<Vec<Place>, Error> {
    let Some(file) = &sources.file else {
        return Ok(usual());
    };
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        // It may hold secrets; then it is not for every user, and the usual places must do.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(usual()),
        Err(error) => return Err(Error::Unreadable(file.clone(), error.to_string())),
    };
    let folder = file.parent().unwrap_or(Path::new(""));
    match read(&text) {
        Ok(None) => Ok(vec![Place::Tcp(LOOPBACK)]),
        Ok(Some(listeners)) => match open(&listeners, folder) {
            places if places.is_empty() => Err(Error::None),
            places => Ok(places),
        },
        Err(reason) => Err(Error::Unreadable(file.clone(), reason)),
    }
}

fn usual() -> Vec<Place> {
    vec![Place::Unix(SOCKET.into()), Place::Tcp(LOOPBACK)]
}

/// The listeners in a configuration; `None`: it has no such section.
fn read(text: &str) -> Result<Option<Vec<Listener>>, String> {
    let figment = Figment::from(Toml::string(text));
    let wrong = |error: figment::Error| error.kind.to_string();
    if figment.find_value("listener").is_err() {
        // There is none, or the whole is no TOML.
        return figment.data().map(|_| None).map_err(wrong);
    }
    figment.extract_inner("listener").map(Some).map_err(wrong)
}

/// The listeners that a program without TLS and login can use.
fn open(listeners: &[Listener], folder: &Path) -> Vec<Place> {
    let usable = listeners
        .iter()
        .filter(|one| one.tls != "implicit" && one.auth != "required");
    let places = usable.filter_map(|one| match one.address.strip_prefix("unix:") {
        Some(path) => Some(Place::Unix(folder.join(path))),
        None => reachable(one.address.parse().ok()?).map(Place::Tcp),
    });
    let (sockets, addresses): (Vec<_>, Vec<_>) =
        places.partition(|place| matches!(place, Place::Unix(_)));
    [sockets, addresses].concat()
}

/// How an address is reached from this machine.
fn reachable(address: SocketAddr) -> Option<SocketAddr> {
    let here = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip if ip.to_canonical().is_loopback() => ip,
        IpAddr::V4(_) | IpAddr::V6(_) => return None,
    };
    Some(SocketAddr::new(here, address.port()))
}

/// Connects to the first place where somebody answers.
///
/// # Errors
/// What was tried, and what the system said.
pub(super) fn connect(places: &[Place]) -> Result<Stream, String> {
    let mut tried = Vec::new();
    for place in places {
        match place.connect() {
            Ok(stream) => return Ok(stream),
            Err(error) => tried.push(format!("{place} ({error})")),
        }
    }
    Err(tried.join(", "))
}

impl Place {
    fn connect(&self) -> io::Result<Stream> {
        match self {
            Self::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(REPLY_WAIT))?;
                stream.set_write_timeout(Some(REPLY_WAIT))?;
                Ok(Stream::Unix(stream))
            }
            Self::Tcp(address) => {
                let stream = TcpStream::connect_timeout(address, CONNECT_WAIT)?;
                stream.set_read_timeout(Some(REPLY_WAIT))?;
                stream.set_write_timeout(Some(REPLY_WAIT))?;
                // The envelope is a dialogue of small lines.
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_listener_for_programs_is_found() {
        let at = |text: &str| {
            let listeners = read(text).unwrap().unwrap_or_default();
            let places = open(&listeners, Path::new("/etc/gatepost"));
            let places: Vec<String> = places.iter().map(Place::to_string).collect();
            places.join(" ")
        };
        let listener = "[[listener]]\naddress =";
        for (text, wanted) in [
            (format!("{listener} \"127.0.0.1:25\""), "127.0.0.1:25"),
            (
                format!("{listener} \"0.0.0.0:25\"\ntls = \"starttls\""),
                "127.0.0.1:25",
            ),
            (format!("{listener} \"[::]:25\""), "[::1]:25"),
            (format!("{listener} \"192.0.2.1:25\""), ""),
            (format!("{listener} \"systemd:smtp\""), ""),
            (
                format!("{listener} \"127.0.0.1:465\"\ntls = \"implicit\""),
                "",
            ),
            (
                format!("{listener} \"127.0.0.1:587\"\nauth = \"required\""),
                "",
            ),
            (
                format!("{listener} \"127.0.0.1:25\"\n{listener} \"unix:smtp.sock\"\nallow = []"),
                "unix:/etc/gatepost/smtp.sock 127.0.0.1:25",
            ),
        ] {
            assert_eq!(at(&text), wanted, "{text}");
        }
        assert!(
            read("[provider.p]\nclient_secret = { command = [\"x\"] }")
                .unwrap()
                .is_none()
        );
        assert!(read("no toml").is_err());
        assert!(read("listener = 1").is_err());
    }

    #[test]
    fn without_a_file_the_usual_places_are_tried() {
        let none = Sources {
            file: None,
            text: None,
            environment: false,
        };
        assert_eq!(places(&none).unwrap(), usual());
        let gone = Sources {
            file: Some("/nowhere/gatepost.toml".into()),
            ..none
        };
        assert!(matches!(places(&gone), Err(Error::Unreadable(..))));
    }
}
