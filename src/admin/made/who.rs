//! Who changes something, for the audit log.

use std::sync::Arc;

use axum::{
    extract::FromRequestParts,
    http::{StatusCode, request},
};

use crate::{admin::api::Problem, mail::QueueId, registry::Section};

/// Who asks: `socket`, a session or a key. What stands before every handler says so in the request's
/// extensions, and leaves the line of the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::admin) struct Who(pub(in crate::admin) Arc<str>);

impl Who {
    /// Tells the log what has changed.
    pub(super) fn changed(&self, what: &str, section: Section, name: &str) {
        tracing::info!(
            event = "changed",
            who = &*self.0,
            what,
            section = section.name(),
            name
        );
    }

    /// Tells the audit log that somebody got a message to read.
    pub(in crate::admin) fn read(&self, id: QueueId) {
        tracing::info!(event = "audit", who = &*self.0, what = "message read", queue_id = %id);
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Who {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut request::Parts, _: &S) -> Result<Self, Problem> {
        let who = parts.extensions.get::<Self>();
        // Only a route that was put outside every gate could come here without one.
        who.cloned()
            .ok_or_else(|| Problem::new(StatusCode::FORBIDDEN, "nobody asks"))
    }
}
