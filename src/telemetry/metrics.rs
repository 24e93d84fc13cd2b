//! Every metric, one place; each doc line is its HELP text. Labels are enums, never addresses.

use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// All metrics of the process. Cheap to update; encoded by [`Metrics::encode`].
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Connections accepted by listeners.
    pub sessions: Counter<u64, AtomicU64>,
    /// Sessions open now.
    pub sessions_open: Gauge<i64, AtomicI64>,
    /// Messages accepted (250).
    pub messages_accepted: Counter<u64, AtomicU64>,
    /// Octets of the accepted messages.
    pub message_bytes_accepted: Counter<u64, AtomicU64>,
    /// Transactions refused at end-of-data or before, by reply code.
    pub messages_refused: Family<[(&'static str, String); 1], Counter>,
    /// Recipients that reached an outcome, by outcome.
    pub recipients_settled: Family<[(&'static str, &'static str); 1], Counter>,
    /// Delivery attempts, by result.
    pub attempts: Family<[(&'static str, &'static str); 1], Counter>,
    /// Attempts whose final reply was lost: the message may be delivered twice.
    pub possible_duplicates: Counter<u64, AtomicU64>,
    /// Upstream connections opened.
    pub upstream_connections: Counter<u64, AtomicU64>,
    /// Changes between SMTP and an API, of accounts that have both, by where mail goes then.
    pub transport_switches: Family<[(&'static str, &'static str); 1], Counter>,
    /// Token refreshes, by result.
    pub token_refreshes: Family<[(&'static str, &'static str); 1], Counter>,
    /// Commits of the store.
    pub store_commits: Counter<u64, AtomicU64>,
    /// Operations committed by the store; divided by the commits, the group size.
    pub store_operations: Counter<u64, AtomicU64>,
    /// Operations that wait for the store now.
    pub store_waiting: Gauge<i64, AtomicI64>,
    /// Trace events that were not kept: there was no room, or the store refused them.
    pub trace_events_lost: Counter<u64, AtomicU64>,
    /// Replies that asked an account to send less, by what they meant.
    pub throttles: Family<[(&'static str, &'static str); 1], Counter>,
    /// Messages that waited for their account's limits, by limit.
    pub limit_waits: Family<[(&'static str, &'static str); 1], Counter>,
    /// Accounts that do not send at full pace now, by what they do instead.
    pub accounts_slowed: Family<[(&'static str, &'static str); 1], Gauge<i64, AtomicI64>>,
    /// Messages whose stored body did not match its digest.
    pub quarantined: Counter<u64, AtomicU64>,
}

impl Metrics {
    /// Registers every metric.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("gatepost");
        macro_rules! metric {
            ($name:literal, $help:literal) => {{
                let metric = Default::default();
                let copy = Clone::clone(&metric);
                (metric, registry.register($name, $help, copy)).0
            }};
        }
        Self {
            sessions: metric!("sessions", "Connections accepted by listeners"),
            sessions_open: metric!("sessions_open", "Sessions open now"),
            messages_accepted: metric!("messages_accepted", "Messages accepted (250)"),
            message_bytes_accepted: metric!(
                "message_bytes_accepted",
                "Octets of the accepted messages"
            ),
            messages_refused: metric!("messages_refused", "Transactions refused, by reply code"),
            recipients_settled: metric!(
                "recipients_settled",
                "Recipients that reached an outcome, by outcome"
            ),
            attempts: metric!("attempts", "Delivery attempts, by result"),
            possible_duplicates: metric!(
                "possible_duplicates",
                "Attempts whose final reply was lost: the message may be delivered twice"
            ),
            upstream_connections: metric!("upstream_connections", "Upstream connections opened"),
            transport_switches: metric!(
                "transport_switches",
                "Changes between SMTP and an API, by where mail goes then"
            ),
            token_refreshes: metric!("token_refreshes", "Token refreshes, by result"),
            store_commits: metric!("store_commits", "Commits of the store"),
            store_operations: metric!("store_operations", "Operations committed by the store"),
            store_waiting: metric!("store_waiting", "Operations that wait for the store now"),
            trace_events_lost: metric!(
                "trace_events_lost",
                "Trace events that were not kept: there was no room, or the store refused them"
            ),
            throttles: metric!(
                "throttles",
                "Replies that asked an account to send less, by what they meant"
            ),
            limit_waits: metric!(
                "limit_waits",
                "Messages that waited for their account's limits, by limit"
            ),
            accounts_slowed: metric!(
                "accounts_slowed",
                "Accounts that do not send at full pace now, by what they do instead"
            ),
            quarantined: metric!(
                "quarantined",
                "Messages whose stored body did not match its digest"
            ),
            registry,
        }
    }

    /// The metrics in the OpenMetrics text format.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap_or_default();
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
