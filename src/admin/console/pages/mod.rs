//! The pages, one file each with its template beside it.

pub(super) mod message;
mod operate;
pub(super) mod overview;
pub(super) mod queue;
pub(super) mod settings;
pub(super) mod trace;
