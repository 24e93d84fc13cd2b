//! TLS: one stack (rustls on aws-lc-rs), one place that makes its configurations.

pub mod client;
pub mod renewing;
pub mod server;
