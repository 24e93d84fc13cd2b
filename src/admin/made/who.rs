//! Who changes something, for the audit log.

use std::{convert::Infallible, sync::Arc};

use axum::{extract::FromRequestParts, http::request};

use crate::registry::Section;

/// Who asks: `socket`, a session or a key. Whatever stands before a handler says so in the request's
/// extensions; where nothing does, it is the control socket, whose file permission is the login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::admin) struct Who(pub(in crate::admin) Arc<str>);

impl Who {
    /// Writes a line into the audit log: a change was made.
    pub(super) fn audit(&self, what: &str, section: Section, name: &str) {
        tracing::info!(
            event = "audit",
            who = &*self.0,
            what,
            section = section.name(),
            name
        );
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Who {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut request::Parts, _: &S) -> Result<Self, Infallible> {
        let who = parts.extensions.get::<Self>();
        Ok(who.cloned().unwrap_or_else(|| Self("socket".into())))
    }
}
