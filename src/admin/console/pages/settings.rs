//! Settings: reading the configuration again, and ending sessions.

use std::sync::Arc;

use askama::Template;
use axum::{extract::State, http::StatusCode, response::Response};

use crate::admin::{
    api::Reloaded,
    console::{
        Confirm, Frame, Page, Visitor, confirm, done, failed, form::Posted, redirect, render,
    },
    handlers::{self, AppState},
};

const HERE: &str = "/settings";

#[derive(Template)]
#[template(path = "admin/console/pages/settings.html")]
struct Settings {
    frame: Frame,
}

pub(in crate::admin::console) async fn show(State(shared): AppState, visitor: Visitor) -> Page {
    let page = Settings {
        frame: Frame::new(&shared, &visitor, HERE),
    };
    Ok(render(StatusCode::OK, &page))
}

pub(in crate::admin::console) async fn reload(
    State(shared): AppState,
    visitor: Visitor,
) -> Response {
    match handlers::reload(State(Arc::clone(&shared))).await {
        Ok(reloaded) => done(&shared, &visitor, HERE, reloaded_text(&reloaded)),
        Err(problem) => failed(&shared, &visitor, HERE, &problem),
    }
}

fn reloaded_text(reloaded: &Reloaded) -> String {
    let mut text = String::from("The configuration was read again and is in force.");
    for key in &reloaded.restart_needed {
        text.push_str(&format!(
            "\n{key} has changed: it takes effect when the daemon is restarted."
        ));
    }
    text
}

/// Ends every session, this one too.
pub(in crate::admin::console) async fn log_out_all(
    State(shared): AppState,
    visitor: Visitor,
    posted: Posted,
) -> Response {
    if posted.is_confirmed() {
        shared.access.end_all();
        return redirect("/login");
    }
    let ask = Confirm {
        title: "Log out everywhere?".into(),
        text: "Every browser that is logged in to this console must log in again, this one too."
            .into(),
        action: "/settings/log-out-all".into(),
        fields: Vec::new(),
        button: "Log out everywhere",
        back: HERE.into(),
    };
    confirm(Frame::new(&shared, &visitor, HERE), &ask)
}
