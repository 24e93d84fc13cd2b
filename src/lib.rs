//! Gatepost: plain SMTP in, durable queue, fresh OAuth token, Microsoft 365 or Google out.
//!
//! ```text
//! legacy app --plain SMTP--> submission --> queue (durable) --> delivery --XOAUTH2--> provider
//!                                             |                   ^
//!                                           store               oauth: tokens kept fresh
//! ```
//!
//! # Layers
//! Each module uses only modules of lower layers; `tests/tidy.rs` holds this table.
//!
//! | layer | modules |
//! |---|---|
//! | 0 | [`mail`] [`clock`] [`secret`] [`telemetry`] |
//! | 1 | [`smtp`] [`route`] [`dsn`] [`net`] |
//! | 2 | [`store`] |
//! | 3 | [`queue`] [`oauth`] [`notify`] |
//! | 4 | [`submission`] [`delivery`] [`registry`] |
//! | 5 | [`admin`] |
//! | 6 | [`config`] |
//! | 7 | [`daemon`] [`sandbox`] |
//! | 8 | [`cli`] |
//!
//! Start reading at [`daemon`], then [`queue`]; `ARCHITECTURE.md` tells the two stories (a message's
//! way, a token's way) in code order.

pub mod admin;
pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod delivery;
pub mod dsn;
pub mod mail;
pub mod net;
pub mod notify;
pub mod oauth;
pub mod queue;
pub mod registry;
pub mod route;
pub mod sandbox;
pub mod secret;
pub mod smtp;
pub mod store;
pub mod submission;
pub mod telemetry;
