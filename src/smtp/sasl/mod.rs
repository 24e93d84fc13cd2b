//! SASL exchanges (RFC 4422, RFC 4954): as a server for our clients, as a client upstream.

pub mod client;
pub mod server;
