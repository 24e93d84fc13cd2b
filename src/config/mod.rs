//! TOML and environment -> checked types; every problem at once, each with key, value and remedy.

use std::path::PathBuf;

use crate::{delivery, oauth, queue, store, submission};

/// The whole configuration, checked, cut into what each part needs.
#[derive(Debug, Clone)]
pub struct Config {
    /// Store.
    pub store: store::Config,
    /// Queue.
    pub queue: queue::Config,
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
#[error("{key} = {value}: {what}; {remedy}")]
pub struct Problem {
    /// The key, dotted.
    pub key: String,
    /// Its value as given; never a secret's.
    pub value: String,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

impl Config {
    /// Reads, layers and checks. Blocking (files, and commands that give secrets).
    ///
    /// # Errors
    /// [`Problems`] lists every one.
    pub fn load(_sources: &Sources) -> Result<Self, Problems> {
        todo!()
    }
}
