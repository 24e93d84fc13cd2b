//! Sockets and tasks: everything that talks to the network without knowing what is said.

pub mod dial;
pub mod http;
pub(crate) mod limits;
pub mod private;
pub mod proxy;
pub mod tasks;
pub mod tls;
