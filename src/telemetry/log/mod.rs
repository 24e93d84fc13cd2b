//! Log output: text on a terminal, the journal under systemd, JSON elsewhere.
//!
//! Invariants: an event never waits for its sink. It is rendered where it happens, handed to one
//! writer thread over a bounded channel, and dropped when that is full (a terminal with the scroll
//! lock on, a journal that hangs); how many were dropped is told as soon as lines flow again.
//! Mail addresses stand in fields named `sender` and `recipient` and nowhere else; the one filter
//! here leaves these out above debug level unless [`Config::addresses`] is set. There is no global
//! switch that the rest would have to ask.

mod record;
mod writer;

use std::{ffi::OsStr, io::IsTerminal};

use tracing_subscriber::{EnvFilter, Registry, layer::SubscriberExt, util::SubscriberInitExt};

use record::{Renderer, Shape};
pub use writer::Guard;

/// How events are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The shape.
    pub format: Format,
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter as tracing-subscriber takes it.
    pub level: String,
    /// Whether mail addresses appear at `info`.
    pub addresses: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            format: Format::Auto,
            level: String::from("info"),
            addresses: false,
        }
    }
}

/// The shape of log output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Journal under systemd, text on a terminal, JSON elsewhere.
    Auto,
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Why log output could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The level is neither a word nor a filter.
    #[error("log.level: {0:?} is no level; use error, warn, info, debug or trace")]
    Level(String),
    /// The writer thread could not start.
    #[error("log writer")]
    Writer(#[source] std::io::Error),
    /// Something else in this process already takes the events.
    #[error("log output was already set up")]
    AlreadySetUp,
}

/// Sends every event of the process to standard error or the journal, and panics as events
/// (location only: a panic's text may hold anything). Call once, early in `main`; keep the guard
/// until the end, it writes out what waits.
///
/// # Errors
/// [`Error`]; nothing is set up then.
pub fn init(config: &Config) -> Result<Guard, Error> {
    let filter = filter(&config.level)?;
    let (shape, sink) = output(config);
    let (queue, guard) = writer::start(sink).map_err(Error::Writer)?;
    Registry::default()
        .with(filter)
        .with(Renderer::new(shape, config.addresses, queue))
        .try_init()
        .map_err(|_| Error::AlreadySetUp)?;
    std::panic::set_hook(Box::new(|panic| {
        let location = panic
            .location()
            .map(ToString::to_string)
            .unwrap_or_default();
        tracing::error!(event = "panic", location);
    }));
    Ok(guard)
}

/// Whether `level` is one that [`init`] takes.
#[must_use]
pub fn is_level(level: &str) -> bool {
    filter(level).is_ok()
}

/// A bare word speaks of this program only: libraries at debug level write what they send, and what
/// they send holds tokens. A filter with targets is taken as it stands.
fn filter(level: &str) -> Result<EnvFilter, Error> {
    let wrong = || Error::Level(level.to_owned());
    let directives = match level.trim().to_ascii_lowercase().as_str() {
        "error" => "error".to_owned(),
        word @ ("warn" | "info" | "debug" | "trace") => format!("warn,gatepost={word}"),
        _ if level.contains('=') => level.to_owned(),
        _ => return Err(wrong()),
    };
    EnvFilter::try_new(directives).map_err(|_| wrong())
}

/// Where lines go and how they look.
fn output(config: &Config) -> (Shape, writer::Sink) {
    let stderr = || writer::Sink::Stderr(std::io::stderr());
    match config.format {
        Format::Text => (Shape::Text, stderr()),
        Format::Json => (Shape::Json, stderr()),
        Format::Auto => {
            // Not a setting: it tells what systemd made of this process's standard error.
            let stream = std::env::var_os("JOURNAL_STREAM");
            if let Some(journal) = journal(stream.as_deref().and_then(OsStr::to_str)) {
                (Shape::Journal, writer::Sink::Journal(journal))
            } else if std::io::stderr().is_terminal() {
                (Shape::Text, stderr())
            } else {
                (Shape::Json, stderr())
            }
        }
    }
}

/// The journal's socket, if standard error goes to the journal. `$JOURNAL_STREAM` alone is not
/// enough: it is inherited by children whose standard error goes elsewhere (systemd.exec(5)).
fn journal(stream: Option<&str>) -> Option<std::os::unix::net::UnixDatagram> {
    use std::os::unix::fs::MetadataExt;

    let (device, inode) = stream?.split_once(':')?;
    let stderr = std::fs::metadata("/proc/self/fd/2").ok()?;
    if device.parse() != Ok(stderr.dev()) || inode.parse() != Ok(stderr.ino()) {
        return None;
    }
    let socket = std::os::unix::net::UnixDatagram::unbound().ok()?;
    socket.connect("/run/systemd/journal/socket").ok()?;
    Some(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A word never turns on the libraries' own output, which may hold what they send.
    #[test]
    fn a_bare_level_speaks_of_this_program_only() {
        let cases = [
            ("info", Some("gatepost=info,warn")),
            ("DEBUG", Some("gatepost=debug,warn")),
            ("error", Some("error")),
            (
                "gatepost::queue=debug,warn",
                Some("gatepost::queue=debug,warn"),
            ),
            ("loud", None),
            ("", None),
            ("gatepost=loud", None),
        ];
        for (level, want) in cases {
            let got = filter(level).ok().map(|f| f.to_string());
            assert_eq!(got.as_deref(), want, "{level:?}");
        }
    }

    /// An inherited variable must not send events to the journal when standard error goes elsewhere.
    #[test]
    fn the_journal_is_used_only_when_standard_error_is_its_stream() {
        for stream in [
            None,
            Some(""),
            Some("1:1"),
            Some("x:y"),
            Some("99999999999999999999:1"),
        ] {
            assert!(journal(stream).is_none(), "{stream:?}");
        }
    }
}
