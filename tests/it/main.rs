//! The built daemon through real sockets: crashes at any moment and at each step, broken disks, reload,
//! drain, systemd, signing in, Graph and Gmail, notices, command
//! line.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail loudly"
)]

#[path = "../support/mod.rs"]
mod support;

mod apis;
mod bulk;
mod cli;
mod clients;
mod console;
mod console_accounts;
mod console_clients;
mod console_providers;
mod crash;
mod disk;
mod drain;
mod fuzz;
mod hold;
mod import;
mod inflow;
mod listener;
mod loops;
mod made;
mod mail_loop;
mod notify;
mod power_cut;
mod queue_pages;
mod reload;
mod sendmail;
mod sign_in;
mod step_kill;
mod systemd;
