//! Every metric, one place; each doc line is its HELP text. Labels are enums and the names of the
//! configuration's accounts, never addresses.

use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::{
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::Registry,
};

/// A gauge for each account.
type ByAccount = Family<[(&'static str, String); 1], Gauge<i64, AtomicI64>>;
/// A gauge for each account and each of a few states.
type ByAccountAndState = Family<[(&'static str, String); 2], Gauge<i64, AtomicI64>>;

/// Where a message waits: for delivery, or for a person.
pub const QUEUE_STATES: [&str; 2] = ["queued", "held"];
/// Where an account stands.
pub const ACCOUNT_STATES: [&str; 5] = ["ready", "refreshing", "retrying", "sign_in_needed", "held"];

/// From 0.25 ms, a commit to a disk that lies, to 8 s, a disk that is dying.
const COMMIT_BUCKETS: (f64, f64, u16) = (0.000_25, 2.0, 16);

/// Declares the metrics and registers each under its name, with its doc as HELP.
macro_rules! metrics {
    ($($(#[doc = $doc:literal])+ $name:ident: $type:ty,)*) => {
        /// All metrics of the process. Cheap to update; encoded by [`Metrics::encode`].
        #[derive(Debug)]
        pub struct Metrics {
            registry: Registry,
            /// How long a commit of the store took, in seconds.
            pub store_commit_seconds: Histogram,
            $($(#[doc = $doc])+ pub $name: $type,)*
        }

        impl Metrics {
            /// Registers every metric.
            #[must_use]
            pub fn new() -> Self {
                let mut registry = Registry::with_prefix("gatepost");
                let store_commit_seconds = commit_seconds(&mut registry);
                let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
                registry.register("build", "The program", build);
                $(
                    let $name = <$type>::default();
                    registry.register(stringify!($name), help(&[$($doc),+]), $name.clone());
                )*
                let metrics = Self { registry, store_commit_seconds, $($name,)* };
                metrics.begin_at_zero();
                metrics
            }
        }
    };
}

metrics! {
    /// Connections accepted by listeners.
    sessions: Counter<u64, AtomicU64>,
    /// Sessions open now.
    sessions_open: Gauge<i64, AtomicI64>,
    /// Messages accepted (250).
    messages_accepted: Counter<u64, AtomicU64>,
    /// Octets of the accepted messages.
    message_bytes_accepted: Counter<u64, AtomicU64>,
    /// Transactions refused at end-of-data or before, by reply code.
    messages_refused: Family<[(&'static str, String); 1], Counter>,
    /// Recipients that reached an outcome, by outcome.
    recipients_settled: Family<[(&'static str, &'static str); 1], Counter>,
    /// Delivery attempts, by result.
    attempts: Family<[(&'static str, &'static str); 1], Counter>,
    /// Attempts whose final reply was lost: the message may be delivered twice.
    possible_duplicates: Counter<u64, AtomicU64>,
    /// Upstream connections opened.
    upstream_connections: Counter<u64, AtomicU64>,
    /// Changes between SMTP and an API, of accounts that have both, by where mail goes then.
    transport_switches: Family<[(&'static str, &'static str); 1], Counter>,
    /// Token refreshes, by result.
    token_refreshes: Family<[(&'static str, &'static str); 1], Counter>,
    /// Commits of the store.
    store_commits: Counter<u64, AtomicU64>,
    /// Operations committed by the store; divided by the commits, the group size.
    store_operations: Counter<u64, AtomicU64>,
    /// Operations that wait for the store now.
    store_waiting: Gauge<i64, AtomicI64>,
    /// Trace events that were not kept: there was no room, or the store refused them.
    trace_events_lost: Counter<u64, AtomicU64>,
    /// Replies that asked an account to send less, by what they meant.
    throttles: Family<[(&'static str, &'static str); 1], Counter>,
    /// Messages that waited for their account's limits, by limit.
    limit_waits: Family<[(&'static str, &'static str); 1], Counter>,
    /// Accounts that do not send at full pace now, by what they do instead.
    accounts_slowed: Family<[(&'static str, &'static str); 1], Gauge<i64, AtomicI64>>,
    /// Messages whose stored body did not match its digest.
    quarantined: Counter<u64, AtomicU64>,
    /// Connections turned away before a session began, by why.
    sessions_refused: Family<[(&'static str, String); 1], Counter>,
    /// Verdicts on what a provider answered, by what it was about and what follows.
    verdicts: Family<[(&'static str, &'static str); 2], Counter>,
    /// Octets that may still be written under the state directory.
    disk_free_bytes: Gauge<i64, AtomicI64>,
    /// Octets of the file system of the state directory.
    disk_size_bytes: Gauge<i64, AtomicI64>,
    /// Whether the store takes mail: 1, else 0.
    store_ready: Gauge<i64, AtomicI64>,
    /// Messages in the queue, by account and whether they wait for delivery or for a person.
    queue_messages: ByAccountAndState,
    /// Seconds that the oldest message waits for delivery, by account; 0: none waits.
    queue_oldest_age_seconds: ByAccount,
    /// Where an account stands: 1 for its state, 0 for the others.
    account_state: ByAccountAndState,
    /// When an account's access token expires, in seconds since 1970; 0: it has none.
    token_expiry_timestamp_seconds: ByAccount,
    /// What of an account ends by itself within 30 days (secret, certificate, consent).
    account_warnings: ByAccount,
    /// Whether the provider has slowed an account down: 1, else 0.
    account_throttled: ByAccount,
    /// Until when an account pauses, in seconds since 1970; 0: it does not.
    account_paused_until_timestamp_seconds: ByAccount,
    /// Notices to people, by way and result.
    notices: Family<[(&'static str, &'static str); 2], Counter>,
}

/// A doc as one line; the encoder puts the full stop.
fn help(doc: &[&str]) -> String {
    let lines: Vec<&str> = doc.iter().map(|line| line.trim()).collect();
    lines.join(" ").trim_end_matches('.').to_owned()
}

fn commit_seconds(registry: &mut Registry) -> Histogram {
    let (start, factor, length) = COMMIT_BUCKETS;
    let seconds = Histogram::new(exponential_buckets(start, factor, length));
    let help = "How long a commit of the store took, in seconds";
    registry.register("store_commit_seconds", help, seconds.clone());
    seconds
}

impl Metrics {
    /// A counter that is absent until the first event cannot be alerted on: the first event is
    /// missed, because nothing rose.
    fn begin_at_zero(&self) {
        let all = [
            (
                &self.attempts,
                "result",
                &["delivered", "deferred", "bounced", "expired", "held"][..],
            ),
            (
                &self.recipients_settled,
                "outcome",
                &["delivered", "bounced", "expired"][..],
            ),
            (
                &self.token_refreshes,
                "result",
                &["refreshed", "retrying", "refused"][..],
            ),
            (
                &self.transport_switches,
                "to",
                &["smtp", "graph", "gmail"][..],
            ),
        ];
        for (family, label, values) in all {
            for value in values {
                family.get_or_create(&[(label, *value)]).inc_by(0);
            }
        }
    }

    /// Forgets the gauges of an account that is gone.
    pub fn forget_account(&self, name: &str) {
        for family in [
            &self.queue_oldest_age_seconds,
            &self.token_expiry_timestamp_seconds,
            &self.account_warnings,
            &self.account_throttled,
            &self.account_paused_until_timestamp_seconds,
        ] {
            family.remove(&[("account", name.to_owned())]);
        }
        let with = |state: &str| [("account", name.to_owned()), ("state", state.to_owned())];
        for state in QUEUE_STATES {
            self.queue_messages.remove(&with(state));
        }
        for state in ACCOUNT_STATES {
            self.account_state.remove(&with(state));
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
