//! Letting a network in, by hand or because a device of it was turned away, and out again.

use askama::Template;
use axum::{
    extract::{Query, State},
    http::StatusCode,
    response::Response,
};
use serde::Deserialize;

use super::clients::HERE;
use crate::admin::{
    Shared,
    api::Problem,
    console::{
        Confirm, Frame, Page, Visitor, confirm, done,
        form::{Field, Posted, about_the_rest},
        render, told,
    },
    handlers::AppState,
    made::{Who, allowed::NewAllowed},
};

#[derive(Template)]
#[template(path = "admin/console/pages/allow.html")]
struct Allow {
    frame: Frame,
    told: Vec<String>,
    network: Field,
    note: Field,
    /// The listeners that have a list.
    listeners: Vec<String>,
    listener: String,
    listener_error: Option<String>,
}

/// What the form begins with.
#[derive(Debug, Default, Deserialize)]
pub(in crate::admin::console) struct Wish {
    #[serde(default)]
    network: String,
    #[serde(default)]
    listener: String,
    #[serde(default)]
    note: String,
}

impl Allow {
    fn new(shared: &Shared, frame: Frame, wish: &Wish, problem: Option<&Problem>) -> Self {
        let network = Field {
            name: "network",
            label: "Network or address",
            value: wish.network.clone(),
            help:
                "One address, as 192.168.7.20, or a network, as 192.168.7.0/24. Public addresses \
                   only where a listener requires a login."
                    .to_owned(),
            kind: "text",
            autocomplete: "off",
            is_required: true,
            ..Field::default()
        };
        let note = Field {
            name: "note",
            label: "Who that is",
            value: wish.note.clone(),
            help: "For whoever looks at the list next year.".to_owned(),
            kind: "text",
            autocomplete: "off",
            ..Field::default()
        };
        // An empty list lets everybody in already; a Unix socket has its permissions.
        let view = shared.view();
        let listed = view.listeners.iter().filter(|it| !it.allow.is_empty());
        let listener = Field {
            name: "listener",
            ..Field::default()
        };
        Self {
            frame,
            told: problem.map_or_else(Vec::new, |problem| {
                about_the_rest(problem, &["network", "listener", "note"])
            }),
            network: network.judged(problem),
            note: note.judged(problem),
            listeners: listed.map(|it| it.name.clone()).collect(),
            listener: wish.listener.clone(),
            listener_error: listener.judged(problem).error,
        }
    }
}

pub(in crate::admin::console) async fn show(
    State(shared): AppState,
    Query(wish): Query<Wish>,
    visitor: Visitor,
) -> Page {
    let frame = Frame::new(&shared, &visitor, HERE);
    let page = Allow::new(&shared, frame, &wish, None);
    Ok(render(StatusCode::OK, &page))
}

pub(in crate::admin::console) async fn submit(
    State(shared): AppState,
    visitor: Visitor,
    who: Who,
    posted: Posted,
) -> Response {
    let wish = Wish {
        network: posted.text("network").to_owned(),
        listener: posted.text("listener").to_owned(),
        note: posted.text("note").to_owned(),
    };
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let new = NewAllowed {
        network: wish.network.clone(),
        listener: given(&wish.listener),
        note: given(&wish.note),
    };
    match shared.allow(&new, &who).await {
        Ok(allowed) => {
            let text = format!("{} may connect now.", allowed.network);
            done(&shared, &visitor, HERE, text)
        }
        Err(problem) => {
            let status = StatusCode::from_u16(problem.status);
            let frame = Frame::new(&shared, &visitor, HERE);
            let page = Allow::new(&shared, frame, &wish, Some(&problem));
            render(status.unwrap_or(StatusCode::UNPROCESSABLE_ENTITY), &page)
        }
    }
}

pub(in crate::admin::console) async fn remove(
    State(shared): AppState,
    visitor: Visitor,
    who: Who,
    posted: Posted,
) -> Response {
    let network = posted.text("network");
    if !posted.is_confirmed() {
        let ask = Confirm {
            title: format!("Remove {network}?"),
            text: "Whoever is there can connect no more, unless the file lets them in. What was \
                   accepted from there is still delivered."
                .into(),
            action: "/clients/allow/remove".into(),
            fields: vec![("network".into(), network.into())],
            button: "Remove",
            back: HERE.into(),
            ..Confirm::default()
        };
        return confirm(Frame::new(&shared, &visitor, HERE), &ask);
    }
    let removed = shared.disallow(network, &who).await;
    let removed = removed.map(|()| format!("{network} may connect no more."));
    told(&shared, &visitor, HERE, removed)
}
