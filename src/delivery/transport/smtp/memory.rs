//! Upstreams in the test's own process: with sockets, the paused clock would run away from octets
//! that are still in the kernel.

use std::cell::RefCell;

use tokio::io::DuplexStream;

use crate::net::dial;

/// What a call to a host and port comes to; `None`: no such upstream here.
pub(crate) type Dialer = Box<dyn Fn(&str, u16) -> Option<Result<DuplexStream, dial::Error>>>;

thread_local! {
    /// A test's own: each has its thread, and its runtime that thread alone.
    static DIALER: RefCell<Option<Dialer>> = const { RefCell::new(None) };
}

/// From now on this thread's connections are made by `dialer`.
pub(crate) fn install(dialer: Dialer) {
    DIALER.set(Some(dialer));
}

pub(super) fn dial(host: &str, port: u16) -> Option<Result<DuplexStream, dial::Error>> {
    DIALER.with_borrow(|dialer| dialer.as_ref()?(host, port))
}
