//! The one control surface: HTTP on the console's TCP address and on the control socket.

use std::{net::SocketAddr, path::PathBuf};

/// What the control surface needs to know.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The console's TCP address; none: no console.
    pub address: Option<SocketAddr>,
    /// `/metrics` on an address of its own; none: on the console's.
    pub metrics_address: Option<SocketAddr>,
    /// The control socket.
    pub socket: PathBuf,
}
