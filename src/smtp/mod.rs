//! SMTP without sockets: machines and codecs that eat bytes and give steps (RFC 5321).
//!
//! `smtp-proto` parses commands and EHLO answers; what it gets wrong is ours: the strict line
//! framer ([`mod@line`]), the end-of-data decoder ([`data`]), the address type
//! ([`crate::mail::Address`]) and the reply reader ([`client`]).

pub mod client;
pub mod data;
pub mod line;
pub mod replies;
pub mod sasl;
pub mod server;
