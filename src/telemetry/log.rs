//! Log output: text on a terminal, the journal under systemd, JSON elsewhere.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, layer::SubscriberExt, util::SubscriberInitExt};

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

/// Why no log could be set up.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The level is no filter.
    #[error("log.level: {0}; use error, warn, info, debug or trace")]
    Level(#[from] tracing_subscriber::filter::ParseError),
    /// The journal cannot be reached.
    #[error("the journal cannot be reached; set log.format = \"json\"")]
    Journal(#[source] std::io::Error),
    /// Somebody has set one up before.
    #[error("a log is set up already")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// Sends events where `config` says, and panics (their place, never their text) with them.
///
/// # Errors
/// [`InitError`].
pub fn init(config: &Config) -> Result<(), InitError> {
    let filter = EnvFilter::builder().parse(&config.level)?;
    let registry = tracing_subscriber::registry().with(filter);
    let terminal = std::io::stderr().is_terminal();
    let journal = std::env::var_os("JOURNAL_STREAM").is_some() && !terminal;
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false);
    match config.format {
        Format::Auto if journal => {
            registry
                .with(tracing_journald::layer().map_err(InitError::Journal)?)
                .try_init()?;
        }
        Format::Auto if !terminal => registry.with(lines.json().flatten_event(true)).try_init()?,
        Format::Json => registry.with(lines.json().flatten_event(true)).try_init()?,
        Format::Auto | Format::Text => registry.with(lines.with_ansi(terminal)).try_init()?,
    }
    std::panic::set_hook(Box::new(|panic| {
        let place = panic
            .location()
            .map(ToString::to_string)
            .unwrap_or_default();
        tracing::error!(event = "panic", place, "a bug; please report it");
    }));
    Ok(())
}
