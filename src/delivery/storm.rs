//! Bounds the reports to one address: a program that mails thousands of dead addresses does not get
//! thousands of reports, nor does a forged sender. Pure; time comes in.
//!
//! What follows beyond the bound is the caller's: a failure is held instead, so that nothing ends in
//! silence. Counted in memory: a restart begins anew.

use std::{collections::HashMap, num::NonZeroU32, time::Duration};

use tokio::time::Instant;

use crate::mail::Address;

/// Reports of the last hour, by the address they went to.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    /// The start of the address's hour, and how many went since.
    sent: HashMap<String, (Instant, u32)>,
}

/// Whether a report may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leave {
    /// Yes; it is counted.
    Granted,
    /// No. `news`: the first refusal of this hour.
    Refused { news: bool },
}

impl Reports {
    /// Asks for leave to send `to` a report; `limit` is per hour, none: no limit.
    pub(crate) fn ask(&mut self, to: &Address, limit: Option<NonZeroU32>, now: Instant) -> Leave {
        let Some(limit) = limit.map(NonZeroU32::get) else {
            return Leave::Granted;
        };
        let key = to.to_string().to_lowercase();
        let is_over = |start: Instant| now.duration_since(start) >= HOUR;
        if self.sent.len() >= ADDRESSES_MAX && !self.sent.contains_key(&key) {
            self.sent.retain(|_, (start, _)| !is_over(*start));
            if self.sent.len() >= ADDRESSES_MAX {
                // So many addresses within an hour are a storm of forged senders.
                return Leave::Refused { news: false };
            }
        }
        let (start, count) = self.sent.entry(key).or_insert((now, 0));
        if is_over(*start) {
            (*start, *count) = (now, 0);
        }
        *count = count.saturating_add(1);
        if *count <= limit {
            Leave::Granted
        } else {
            Leave::Refused {
                news: *count == limit.saturating_add(1),
            }
        }
    }
}

const HOUR: Duration = Duration::from_secs(3600);
/// At some hundred octets each, a megabyte.
const ADDRESSES_MAX: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        Address::parse(text).expect("valid")
    }

    #[test]
    fn an_hour_has_so_many_for_an_address_and_tells_the_first_refusal() {
        let (start, limit) = (Instant::now(), NonZeroU32::new(3));
        let mut reports = Reports::default();
        let mut ask = |to: &str, now| reports.ask(&address(to), limit, now);
        for _ in 0..3 {
            assert_eq!(ask("erp@b.example", start), Leave::Granted);
        }
        // The same mailbox in another case is no way around.
        assert_eq!(ask("ERP@b.example", start), Leave::Refused { news: true });
        assert_eq!(ask("erp@b.example", start), Leave::Refused { news: false });
        assert_eq!(ask("cron@b.example", start), Leave::Granted);
        assert_eq!(ask("erp@b.example", start + HOUR), Leave::Granted);
    }

    #[test]
    fn forged_senders_cost_bounded_memory_and_are_forgotten() {
        let (start, limit) = (Instant::now(), NonZeroU32::new(1));
        let mut reports = Reports::default();
        for n in 0..ADDRESSES_MAX {
            let to = address(&format!("f{n}@b.example"));
            assert_eq!(reports.ask(&to, limit, start), Leave::Granted);
        }
        let more = address("more@b.example");
        assert_eq!(
            reports.ask(&more, limit, start),
            Leave::Refused { news: false }
        );
        assert_eq!(reports.sent.len(), ADDRESSES_MAX);
        assert_eq!(reports.ask(&more, limit, start + HOUR), Leave::Granted);
        assert_eq!(reports.sent.len(), 1);
    }

    #[test]
    fn without_a_limit_nothing_is_counted() {
        let mut reports = Reports::default();
        let to = address("a@b.example");
        assert!((0..1000).all(|_| reports.ask(&to, None, Instant::now()) == Leave::Granted));
        assert!(reports.sent.is_empty());
    }
}
