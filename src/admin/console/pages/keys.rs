//! The API's keys, a part of the settings: a key is shown once, on the page that answers its form.

use askama::Template;
use axum::{extract::State, http::StatusCode, response::Response};
use jiff::Timestamp;

use super::settings::{HERE, answer};
use crate::admin::{
    api::Problem,
    console::{
        Confirm, Frame, Visitor, confirm, failed,
        form::{Field, Posted},
        render, told,
        view::Moment,
    },
    handlers::AppState,
    made::{
        Who,
        keys::{ApiKey, CreatedApiKey, NewApiKey},
    },
};

/// The one page that shows a key: the answer to the form itself, kept nowhere.
#[derive(Template)]
#[template(path = "admin/console/pages/key_made.html")]
struct MadePage<'a> {
    frame: Frame,
    made: &'a CreatedApiKey,
}

/// A key of the table.
pub(super) struct Row {
    pub(super) name: String,
    pub(super) created: Moment,
    /// None: never.
    pub(super) used: Option<Moment>,
}

impl Row {
    pub(super) fn new(key: ApiKey, now: Timestamp) -> Self {
        Self {
            name: key.name,
            created: Moment::new(key.created_at, now),
            used: key.last_used_at.map(|at| Moment::new(at, now)),
        }
    }
}

/// The form's one field.
pub(super) fn field(value: &str, problem: Option<&Problem>) -> Field {
    let field = Field {
        name: "name",
        label: "What it is for",
        value: value.to_owned(),
        help: "Its name in this list and in the audit log, as prometheus or backup-script."
            .to_owned(),
        kind: "text",
        autocomplete: "off",
        is_required: true,
        ..Field::default()
    };
    field.judged(problem)
}

pub(in crate::admin::console) async fn add(
    State(shared): AppState,
    visitor: Visitor,
    who: Who,
    posted: Posted,
) -> Response {
    let new = NewApiKey {
        name: posted.text("name").to_owned(),
    };
    match shared.add_key(&new, &who).await {
        Ok(made) => {
            let frame = Frame::new(&shared, &visitor, HERE);
            let made = &made;
            render(StatusCode::CREATED, &MadePage { frame, made })
        }
        Err(problem) if !problem.fields.is_empty() => {
            let status = StatusCode::UNPROCESSABLE_ENTITY;
            answer(&shared, &visitor, status, field(&new.name, Some(&problem)))
        }
        Err(problem) => failed(&shared, &visitor, HERE, &problem),
    }
}

pub(in crate::admin::console) async fn remove(
    State(shared): AppState,
    visitor: Visitor,
    who: Who,
    posted: Posted,
) -> Response {
    let name = posted.raw("name");
    if !posted.is_confirmed() {
        let ask = Confirm {
            title: format!("Remove the key {name}?"),
            text: "The program that has it is refused from then on.".into(),
            action: "/settings/keys/remove".into(),
            fields: vec![("name".into(), name.into())],
            button: "Remove",
            back: HERE.into(),
            ..Confirm::default()
        };
        return confirm(Frame::new(&shared, &visitor, HERE), &ask);
    }
    let removed = shared.remove_key(name, &who).await;
    let removed =
        removed.map(|()| format!("The key {name} is removed: it opens nothing any more."));
    told(&shared, &visitor, HERE, removed)
}
