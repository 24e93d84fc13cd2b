//! Envelope and client -> account. Pure; the first matching route wins.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::mail::{AccountName, Envelope};

/// The routing table.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Router {
    /// In order; the first whose conditions all hold wins.
    pub routes: Vec<Route>,
    /// When no route matches.
    pub default_account: Option<AccountName>,
}

/// One `[[route]]`: every condition that is given must hold.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// Pattern for the reverse-path, `*` matches any run of characters; case-insensitive.
    pub sender: Option<String>,
    /// Pattern that every recipient must match.
    pub recipient: Option<String>,
    /// The client's login name.
    pub client: Option<String>,
    /// The listener's address as configured.
    pub listener: Option<String>,
    /// The peer's network.
    pub network: Option<IpNet>,
    /// Where the mail goes.
    pub account: AccountName,
}

/// What is known about who submits.
#[derive(Debug, Clone, Default)]
pub struct Origin<'a> {
    /// The login name, if the client authenticated.
    pub client: Option<&'a str>,
    /// The account that this client is bound to; it wins over every route.
    pub client_account: Option<&'a AccountName>,
    /// The listener's address as configured.
    pub listener: &'a str,
    /// The peer; none on a Unix socket.
    pub peer: Option<IpAddr>,
}

impl Router {
    /// The account for a message: the client's own, else the first matching route's, else the
    /// default. `None`: nothing matches, the transaction is refused with 550 5.7.1.
    #[must_use]
    pub fn route(&self, _envelope: &Envelope, _origin: &Origin<'_>) -> Option<&AccountName> {
        todo!()
    }
}
