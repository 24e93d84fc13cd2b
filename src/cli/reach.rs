//! Finding the running daemon.
//!
//! Its socket is where the configuration puts it, but an administrator's shell has neither
//! `$RUNTIME_DIRECTORY` nor the daemon's credentials. So only `state_dir` is read (no secret, no
//! command is run for a listing), and the packaged service's socket is tried as well; a daemon found
//! there must have read the same configuration, else it is somebody else's.

use std::{
    env, fmt, fs, io,
    path::{Path, PathBuf},
};

use figment::{
    Figment,
    providers::{Format, Toml},
};

use crate::{
    admin::client::{self, Client},
    config::{Config, Sources},
};

/// Where the packaged service has its socket (`RuntimeDirectory=gatepost`).
const SERVICE_SOCKET: &str = "/run/gatepost/control.sock";
/// Where the packaged service has its configuration.
const SERVICE_FILE: &str = "/etc/gatepost/gatepost.toml";

/// No daemon could be asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreachable {
    /// None runs.
    #[error(
        "no daemon is running: {}; start it with `gatepost run` or `systemctl start gatepost`",
        Tried(.0)
    )]
    NotRunning(Vec<client::Error>),
    /// One runs, but not for this user.
    #[error(
        "{path}: only the daemon's user and root may control it; try `sudo gatepost ...`",
        path = .0.display()
    )]
    Forbidden(PathBuf),
    /// One answered, but something went wrong.
    #[error("{0}")]
    Client(client::Error),
}

/// What was tried and why it failed, on one line.
struct Tried<'a>(&'a [client::Error]);

impl fmt::Display for Tried<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("no control socket is known");
        }
        for (index, tried) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            match tried {
                client::Error::Connect { socket, source } => {
                    write!(f, "{separator}{} ({source})", socket.display())?;
                }
                other @ (client::Error::Http(_) | client::Error::Problem(_)) => {
                    write!(f, "{separator}{other}")?;
                }
            }
        }
        Ok(())
    }
}

/// Where the configuration comes from: `--config`, else `$GATEPOST_CONFIG`, else the packaged file
/// if it is there, else nowhere.
pub(crate) fn sources(config: Option<PathBuf>) -> Sources {
    let given = config.or_else(|| {
        let given = env::var_os("GATEPOST_CONFIG").filter(|given| !given.is_empty());
        given.map(PathBuf::from)
    });
    let file = given.or_else(|| {
        let packaged = Path::new(SERVICE_FILE);
        // One that may not be looked at is there: silence would run without any configuration.
        let is_there = packaged.try_exists().unwrap_or(true);
        is_there.then(|| packaged.to_owned())
    });
    Sources {
        file,
        text: None,
        environment: true,
    }
}

/// A client of the daemon that this configuration is for.
pub(crate) async fn connect(sources: &Sources) -> Result<Client, Unreachable> {
    let mut tried = Vec::new();
    if let Some(socket) = configured_socket(sources) {
        match Client::connect(&socket).await {
            Ok(client) => return Ok(client),
            Err(error) => tried.push(passed_over(error)?),
        }
        if socket == Path::new(SERVICE_SOCKET) {
            return Err(Unreachable::NotRunning(tried));
        }
    }
    match Client::connect(Path::new(SERVICE_SOCKET)).await {
        Ok(client) if is_ours(&client, sources).await? => Ok(client),
        Ok(_) => Err(Unreachable::NotRunning(tried)),
        Err(error) => {
            tried.push(passed_over(error)?);
            Err(Unreachable::NotRunning(tried))
        }
    }
}

/// A socket that is not there, or that nobody listens on, leads to the next; all else is told.
fn passed_over(error: client::Error) -> Result<client::Error, Unreachable> {
    match &error {
        client::Error::Connect { socket, source }
            if source.kind() == io::ErrorKind::PermissionDenied =>
        {
            Err(Unreachable::Forbidden(socket.clone()))
        }
        client::Error::Connect { .. } => Ok(error),
        client::Error::Http(_) | client::Error::Problem(_) => Err(Unreachable::Client(error)),
    }
}

/// Whether the daemon read the configuration that this command is about.
async fn is_ours(client: &Client, sources: &Sources) -> Result<bool, Unreachable> {
    let status = client.status().await.map_err(Unreachable::Client)?;
    let theirs = status.config_file.as_deref().map(canonical);
    let ours = sources.file.as_deref().map(canonical);
    Ok(theirs == ours || state_dir(sources).is_some_and(|ours| ours == status.state_dir))
}

fn canonical(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// The control socket as the configuration has it. The rule is the configuration's own: it is asked
/// with nothing but the state directory.
fn configured_socket(sources: &Sources) -> Option<PathBuf> {
    let text = match state_dir(sources) {
        // A JSON string is a TOML string.
        Some(dir) => format!("state_dir = {}", serde_json::Value::from(dir.to_str()?)),
        None => String::new(),
    };
    let only_state_dir = Sources {
        file: None,
        text: Some(text),
        environment: false,
    };
    Some(Config::load(&only_state_dir).ok()?.admin.socket)
}

/// `state_dir` as it is given; `None`: the default (or an unreadable file).
fn state_dir(sources: &Sources) -> Option<PathBuf> {
    let from_environment = env::var_os("GATEPOST_STATE_DIR").filter(|_| sources.environment);
    if let Some(dir) = from_environment.filter(|dir| !dir.is_empty()) {
        return Some(PathBuf::from(dir));
    }
    let figment = match (&sources.text, &sources.file) {
        (Some(text), _) => Figment::from(Toml::string(text)),
        (None, Some(file)) => Figment::from(Toml::file_exact(file)),
        (None, None) => return None,
    };
    figment.extract_inner("state_dir").ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_text(text: &str) -> Sources {
        Sources {
            file: None,
            text: Some(text.into()),
            environment: false,
        }
    }

    /// Only the one key is looked at: the rest may be wrong, secret or missing.
    #[test]
    fn the_state_directory_is_found_without_reading_secrets() {
        let text =
            "state_dir = \"/var/lib/x\"\n[provider.p]\nclient_secret = { command = [\"false\"] }";
        assert_eq!(state_dir(&from_text(text)), Some("/var/lib/x".into()));
        assert_eq!(state_dir(&from_text("[queue]")), None);
        assert_eq!(state_dir(&from_text("not toml")), None);
    }

    /// The message says what was tried and what to do.
    #[test]
    fn nobody_at_home_is_told_with_what_to_do() {
        let refused = client::Error::Connect {
            socket: "/run/gatepost/control.sock".into(),
            source: io::ErrorKind::NotFound.into(),
        };
        let passed = passed_over(refused).unwrap();
        let text = Unreachable::NotRunning(vec![passed]).to_string();
        assert!(text.contains("/run/gatepost/control.sock"), "{text}");
        assert!(text.contains("gatepost run"), "{text}");
        let denied = client::Error::Connect {
            socket: "/run/gatepost/control.sock".into(),
            source: io::ErrorKind::PermissionDenied.into(),
        };
        assert!(matches!(
            passed_over(denied),
            Err(Unreachable::Forbidden(_))
        ));
    }
}
