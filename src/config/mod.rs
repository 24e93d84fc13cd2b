//! TOML and environment -> checked types; every problem at once, each with key, value and remedy.
//!
//! - `layers`: file and variables, merged by figment. - `field`, `leaf`: one key, read so that a
//!   wrong one hides no other. - `file`: the mirror of the file, every key once. - `unbuilt`: values
//!   of the contract that are refused for now. - `secret_source`, `units`: how secrets, times and
//!   sizes are written. - `reference`: the defaults in words. - `check`: defaults, presets and what keys mean together.
//!
//! This is where the process environment is read. Nothing here opens a socket; what is read from
//! disk is the file itself, and the files and commands that give secrets.

mod check;
mod field;
mod file;
mod layers;
mod leaf;
mod nearest;
mod reference;
mod secret_source;
#[cfg(test)]
mod tests;
mod unbuilt;
mod units;

use std::{fmt, path::PathBuf};

use crate::{delivery, oauth, queue, store, submission};

use self::{
    field::{Reader, Report},
    file::File,
    layers::Variables,
};

/// The whole configuration, checked, cut into what each part needs.
#[derive(Debug, Clone)]
pub struct Config {
    /// Store.
    pub store: store::Config,
    /// Queue.
    pub queue: queue::Config,
    /// How much of the trace is kept.
    pub trace: queue::trace::Config,
    /// Listeners.
    pub listeners: Vec<submission::Listener>,
    /// Clients and routes.
    pub rules: submission::Rules,
    /// Providers and accounts.
    pub oauth: oauth::Config,
    /// Lanes.
    pub delivery: delivery::Config,
    /// Console address, callback.
    pub admin: crate::admin::Config,
    /// Log output.
    pub log: crate::telemetry::log::Config,
    /// Where it was read from, for reload.
    pub file: Option<PathBuf>,
    /// What is allowed and still worth a remark. For `check`, and the log at start.
    pub warnings: Vec<String>,
    /// Every key, its value and where that comes from; no secrets.
    pub settings: Vec<crate::admin::api::Setting>,
}

/// Where a configuration comes from; later ones win: defaults, file, environment.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The TOML file; none: only defaults and environment.
    pub file: Option<PathBuf>,
    /// TOML text in place of a file (demo, tests).
    pub text: Option<String>,
    /// Whether `GATEPOST_*` variables count.
    pub environment: bool,
}

/// Everything that is wrong, one line each.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct Problems(pub Vec<Problem>);

/// One thing that is wrong: `account.alerts.smtp.tls = "startls": unknown value; use "starttls"`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Problem {
    /// The key, dotted; the n-th section of a list is `listener#n`.
    pub key: String,
    /// Its value as given; never a secret's. Empty: the problem is not one value's.
    pub value: String,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let equals = if self.value.is_empty() { "" } else { " = " };
        write!(
            f,
            "{}{equals}{}: {}; {}",
            self.key, self.value, self.what, self.remedy
        )
    }
}

impl Config {
    /// Reads, layers and checks. Blocking (files, and commands that give secrets).
    ///
    /// Variables other than `GATEPOST_*` are looked at whatever [`Sources::environment`] says: they
    /// tell where things are (`$STATE_DIRECTORY`, `$RUNTIME_DIRECTORY`, `$CREDENTIALS_DIRECTORY`),
    /// and `{ env = ".." }` names one outright.
    ///
    /// # Errors
    /// [`Problems`] lists every one.
    pub fn load(sources: &Sources) -> Result<Self, Problems> {
        Self::load_with(sources, &variables())
    }

    /// As [`Config::load`], in a process with these variables.
    fn load_with(sources: &Sources, variables: &Variables) -> Result<Self, Problems> {
        let mut report = Report::default();
        let Some((figment, dict)) = layers::merge(sources, variables, &mut report) else {
            return Err(report.into_problems());
        };
        let path = sources.file.as_deref().filter(|_| sources.text.is_none());
        let folder = path.and_then(std::path::Path::parent);
        let (file, reader) = Reader::read::<File>(&figment, folder, dict);
        check::check(&file, path, reader.into_findings(), variables)
    }
}

/// A span of time as it is written in the file, for the command line: `2h`, `3d`.
pub(crate) fn duration(text: &str) -> Option<std::time::Duration> {
    units::duration(text)
}

/// The variables of this process that are text.
fn variables() -> Variables {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}
