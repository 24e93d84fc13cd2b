//! The promise, as a check: what was acknowledged came out, whole; twice only where it may.
//!
//! A message may come twice if the daemon was killed before the upstream's reply was durable as its
//! outcome. On the wire that looks like this: each copy but the last is the last message of its
//! connection, and that connection was cut, not closed. So there is at most one such message for each
//! upstream connection that a kill cut.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
};

use super::{
    mail::{filler, message, same},
    sink::{Delivery, End, Ledger},
};

/// What a sender knows: which messages it was told 250 for.
#[derive(Debug, Default)]
pub(crate) struct Acknowledged(Mutex<BTreeSet<u64>>);

impl Acknowledged {
    /// 250 was read for this message.
    pub(crate) fn add(&self, id: u64) {
        self.0.lock().unwrap().insert(id);
    }

    /// All of them.
    pub(crate) fn all(&self) -> BTreeSet<u64> {
        self.0.lock().unwrap().clone()
    }
}

/// What a check counted, for the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Messages with a 250.
    pub(crate) acknowledged: usize,
    /// Different messages upstream.
    pub(crate) delivered: usize,
    /// Upstream without a 250 read by the sender: it was on its way when we were killed.
    pub(crate) unacknowledged: usize,
    /// Copies beyond the first.
    pub(crate) duplicates: usize,
}

/// The message with this number: its octets follow from it.
pub(crate) fn numbered(id: u64, len: usize) -> Vec<u8> {
    message(&format!("n{id:012}l{len:08}"), &filler(id, len))
}

/// Number and length from the subject of a message made by [`numbered`].
fn number(delivery: &Delivery) -> Option<(u64, usize)> {
    let at = memchr::memmem::find(&delivery.octets, b"\r\nSubject: test n")? + 17;
    let text = std::str::from_utf8(delivery.octets.get(at..at + 21)?).ok()?;
    Some((text.get(..12)?.parse().ok()?, text.get(13..)?.parse().ok()?))
}

/// Holds the ledger of the upstream against what senders were told.
///
/// # Panics
/// With every broken promise by name.
pub(crate) fn check(acknowledged: &BTreeSet<u64>, ledger: &Ledger) -> Counts {
    let mut wrong = Vec::new();
    let mut copies: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (at, delivery) in ledger.deliveries.iter().enumerate() {
        let Some((id, len)) = number(delivery) else {
            wrong.push(format!("unknown message {at} upstream"));
            continue;
        };
        if let Err(difference) = same(&numbered(id, len), &delivery.octets) {
            wrong.push(format!("corrupted: {id}: {difference}"));
        }
        copies.entry(id).or_default().push(at);
    }
    let lost: Vec<_> = acknowledged
        .iter()
        .filter(|id| !copies.contains_key(id))
        .collect();
    if !lost.is_empty() {
        wrong.push(format!("acknowledged and lost: {lost:?}"));
    }
    for (id, copies) in &copies {
        let (_, earlier) = copies.split_last().unwrap();
        for at in earlier {
            if let Some(reason) = forbidden(ledger, *at) {
                wrong.push(format!("duplicate of {id} without need: {reason}"));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} broken promises: {wrong:#?}",
        wrong.len()
    );
    Counts {
        acknowledged: acknowledged.len(),
        delivered: copies.len(),
        unacknowledged: copies
            .keys()
            .filter(|id| !acknowledged.contains(id))
            .count(),
        duplicates: copies.values().map(|copies| copies.len() - 1).sum(),
    }
}

/// Why another copy after this delivery was not allowed.
fn forbidden(ledger: &Ledger, at: usize) -> Option<String> {
    let connection = ledger.deliveries.get(at)?.connection;
    let later = ledger
        .deliveries
        .iter()
        .skip(at + 1)
        .filter(|d| d.connection == connection)
        .count();
    if later > 0 {
        return Some(format!(
            "connection {connection} carried {later} messages after it"
        ));
    }
    match ledger.ends.get(connection) {
        Some(End::Cut) => None,
        end => Some(format!("connection {connection} was not cut but {end:?}")),
    }
}
