//! The built daemon between third-party parts: Dovecot and a certified OAuth server as upstream, the
//! mail software of the world as clients.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail loudly"
)]

#[path = "../support/mod.rs"]
mod support;

mod apis;
mod canaille;
mod clients;
mod console;
mod listener;
mod monitoring;
mod mtas;
mod network;
mod oauth;
mod openapi;
mod own_address;
mod programs;
mod proxy;
mod rig;
mod rotation_kill;
mod upstream;
