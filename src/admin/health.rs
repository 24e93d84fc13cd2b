//! `/healthz`, `/readyz`, `/metrics`: for probes and scrapers. No address of anybody is in them.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use super::{Shared, problem::chain};
use crate::telemetry::Metrics;

/// The process lives and its runtime turns.
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// Whether mail can come in, be kept and go out: 200, or 503 with one reason a line.
pub(super) async fn readyz(State(shared): State<Arc<Shared>>) -> Response {
    let missing = shared.not_ready();
    if missing.is_empty() {
        return "ready\n".into_response();
    }
    let mut text = missing.join("\n");
    text.push('\n');
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

/// Every metric, as OpenMetrics text.
pub(super) async fn metrics(State(metrics): State<Arc<Metrics>>) -> Response {
    const OPEN_METRICS: HeaderValue =
        HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    ([(header::CONTENT_TYPE, OPEN_METRICS)], metrics.encode()).into_response()
}

impl Shared {
    /// What is missing for mail to come in, be kept and go out; empty: nothing. Anybody may ask for it,
    /// as often as they like: it reads nothing from the store.
    pub(super) fn not_ready(&self) -> Vec<String> {
        let mut missing = Vec::new();
        if self.submission.get().is_none() {
            missing.push("the listeners are not bound yet".into());
        }
        if let Err(error) = self.parts.queue.ready() {
            missing.push(format!("the store takes no mail: {}", chain(&error)));
        }
        let now = self.parts.clock.now();
        let accounts = self.accounts_with(&[]);
        if !accounts.iter().any(|account| account.can_send(now)) {
            missing.push("no account can send; see the accounts (gatepost accounts)".into());
        }
        missing
    }
}
