//! What the operator sees: log events and metrics. Every metric is declared in one place.

pub mod log;
mod metrics;

pub use metrics::{ACCOUNT_STATES, Metrics, QUEUE_STATES};
