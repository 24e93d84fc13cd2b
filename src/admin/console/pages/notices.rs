//! The notices, a part of the settings: what is set, and a test of each way.

use axum::{extract::State, http::StatusCode, response::Response};

use super::settings::HERE;
use crate::{
    admin::{
        api::Problem,
        console::{Visitor, done, failed, form::Posted},
        handlers::AppState,
    },
    notify::Channel,
};

/// A way of the table.
pub(super) struct Row {
    pub(super) channel: &'static str,
    /// What it is set to; none: it is not set.
    pub(super) set_to: Option<String>,
    /// What sets it.
    pub(super) keys: &'static str,
}

impl Row {
    pub(super) fn new(channel: Channel, set_to: Option<String>) -> Self {
        Self {
            channel: channel.name(),
            set_to,
            keys: match channel {
                Channel::Webhook => "notify.webhook",
                Channel::Command => "notify.command",
                Channel::Mail => "notify.account and notify.to",
            },
        }
    }
}

/// Sends a test notice one way, or, without a `channel`, each that is set.
pub(in crate::admin::console) async fn test(
    State(shared): AppState,
    visitor: Visitor,
    posted: Posted,
) -> Response {
    let asked = posted.raw("channel");
    let channel = Channel::ALL.into_iter().find(|it| it.name() == asked);
    let tried = match shared.test_notify(channel).await {
        Ok(tried) => tried,
        Err(problem) => return failed(&shared, &visitor, HERE, &problem),
    };
    let lines = tried.iter().map(|tried| {
        let ok = if tried.ok { "sent" } else { "failed" };
        format!("{}: {ok}: {}", tried.channel.name(), tried.detail)
    });
    let text = lines.collect::<Vec<_>>().join("\n");
    if tried.iter().all(|tried| tried.ok) {
        return done(&shared, &visitor, HERE, text);
    }
    let problem = Problem::new(StatusCode::BAD_GATEWAY, text)
        .remedy("mend what failed under [notify] in the configuration, reload, and try again");
    failed(&shared, &visitor, HERE, &problem)
}
