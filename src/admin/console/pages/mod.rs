//! The pages, one file each with its template beside it.

pub(super) mod allow;
pub(super) mod clients;
pub(super) mod keys;
pub(super) mod logins;
pub(super) mod notices;
pub(super) mod overview;
pub(super) mod settings;
