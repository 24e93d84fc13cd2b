//! `cargo +nightly fuzz run session fuzz/seeds/session`

#![no_main]

#[path = "../session.rs"]
mod session;

libfuzzer_sys::fuzz_target!(|input: &[u8]| session::check(input));
