//! Builds bottom-up, starts, reloads, drains: the only file that knows everyone.

use std::net::SocketAddr;

use crate::{
    config::{Config, Sources},
    delivery::Delivery,
    oauth::Oauth,
    queue::Queue,
    submission::Submission,
};

/// A running daemon. Its parts are shared handles.
#[derive(Debug, Clone)]
pub struct Daemon {
    /// Accept, lease, settle.
    pub queue: Queue,
    /// Tokens.
    pub oauth: Oauth,
    /// Lanes.
    pub delivery: Delivery,
    /// Listeners.
    pub submission: Submission,
    /// The console's bound TCP address.
    pub console: Option<SocketAddr>,
}

impl Daemon {
    /// Builds every part bottom-up and starts it. `Ok`: listeners are bound, the store is open.
    ///
    /// # Errors
    /// Whatever part could not start, with the remedy.
    pub async fn start(_config: Config, _sources: Sources) -> anyhow::Result<Self> {
        todo!()
    }

    /// Reads the configuration again and applies it; on an error the old one stays in force.
    ///
    /// # Errors
    /// Every problem.
    pub async fn reload(&self) -> anyhow::Result<()> {
        todo!()
    }

    /// Drains: stop accepting, finish transactions, settle, flush. Returns when all is done or the
    /// drain limit has passed (what is then unfinished is in the store).
    pub async fn stop(&self) {
        todo!()
    }
}
