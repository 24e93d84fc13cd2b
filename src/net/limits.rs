//! How many connections a listener has, in all and from one address.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Counts the connections of a listener. The map holds only addresses with an open connection, so its
/// size is bounded by the number of connections.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// The right to one connection; gives it back when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    limits: Arc<Limits>,
    address: Option<IpAddr>,
}

impl Limits {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A permit, unless the listener or the address has as many connections as it may. Peers without
    /// an address (Unix sockets) count in the total only.
    pub(crate) fn admit(
        self: &Arc<Self>,
        address: Option<IpAddr>,
        total_max: usize,
        address_max: usize,
    ) -> Option<Permit> {
        let mut open = self.open();
        let here = address.map_or(0, |address| {
            open.by_address.get(&address).copied().unwrap_or(0)
        });
        if open.total >= total_max || (address.is_some() && here >= address_max) {
            return None;
        }
        open.total += 1;
        if let Some(address) = address {
            open.by_address.insert(address, here + 1);
        }
        Some(Permit {
            limits: Arc::clone(self),
            address,
        })
    }
}

impl Permit {
    /// Counts the connection for `address` as well, once a proxy has told it; none: it has as many as
    /// it may.
    pub(crate) fn count_for(mut self, address: Option<IpAddr>, address_max: usize) -> Option<Self> {
        let address = address?;
        let mut open = self.limits.open();
        let here = open.by_address.entry(address).or_insert(0);
        if *here >= address_max {
            return None;
        }
        *here += 1;
        drop(open);
        self.address = Some(address);
        Some(self)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut open = self.limits.open();
        open.total = open.total.saturating_sub(1);
        let Some(address) = self.address else { return };
        if let Some(here) = open.by_address.get_mut(&address) {
            *here -= 1;
            if *here == 0 {
                open.by_address.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permit_counts_while_it_is_held() {
        let limits = Arc::new(Limits::default());
        let [one, two] = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse().ok());
        let first = limits.admit(one, 3, 1).unwrap();
        assert!(limits.admit(one, 3, 1).is_none(), "one from each address");
        let _second = limits.admit(two, 3, 1).unwrap();
        let _third = limits.admit(None, 3, 1).unwrap();
        assert!(limits.admit(None, 3, 1).is_none(), "three in all");
        drop(first);
        let _again = limits.admit(one, 3, 1).unwrap();
        assert_eq!(limits.open.lock().unwrap().by_address.len(), 2);
    }

    #[test]
    fn a_session_behind_a_proxy_counts_for_its_client_once_that_is_known() {
        let limits = Arc::new(Limits::default());
        let client = "192.0.2.1".parse().ok();
        let through_proxy = || limits.admit(None, 2, 1);
        let first = through_proxy().unwrap().count_for(client, 1).unwrap();
        assert!(through_proxy().unwrap().count_for(client, 1).is_none());
        drop(first);
        let _again = through_proxy().unwrap().count_for(client, 1).unwrap();
        let _other = through_proxy().unwrap();
        assert!(through_proxy().is_none(), "two in all");
    }
}
