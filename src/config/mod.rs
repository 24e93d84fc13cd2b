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
