//! `gatepost demo`.
