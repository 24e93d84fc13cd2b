//! The pages, one file each with its template beside it.

pub(super) mod overview;
pub(super) mod providers;
pub(super) mod settings;
