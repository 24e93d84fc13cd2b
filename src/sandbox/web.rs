//! HTTP: which path is answered by whom, the mailbox and the fault script.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Path, Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Redirect, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::json;
use tokio::net::TcpListener;

use super::{
    Fault, Shared, api,
    mailbox::{Listed, Received},
    oauth::{consent, endpoints},
    pages,
};
use crate::net::tasks::Tasks;

/// Forms, tokens and fault scripts are small.
const BODY_LEN_MAX: usize = 64 * 1024;

/// Rows of the mailbox page, and messages of one `/messages` answer when nothing is said.
const PAGE_MESSAGES: usize = 100;
const LISTED_MESSAGES: usize = 1_000;

/// How long requests under way are waited for at the end.
const GRACE: Duration = Duration::from_secs(2);

/// Serves until told to stop.
pub(super) async fn serve(listener: TcpListener, shared: Arc<Shared>, tasks: Tasks) {
    let stopped = tasks.clone();
    let server = axum::serve(listener, router(shared))
        .with_graceful_shutdown(async move { stopped.stopped().await });
    let late = async {
        tasks.stopped().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        result = server => if let Err(error) = result {
            tracing::error!(event = "sandbox_http_failed", %error);
        },
        () = late => {}
    }
}

fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/", get(|| async { Redirect::to("/mailbox") }))
        .route("/authorize", get(consent::authorize).post(consent::decide))
        .route("/device", get(consent::device).post(consent::decide_device))
        .route("/device/code", post(endpoints::device_code))
        .route("/token", post(endpoints::token))
        .route("/revoke", post(endpoints::revoke))
        .route(
            "/userinfo",
            get(endpoints::userinfo).post(endpoints::userinfo),
        )
        .route("/jwks", get(endpoints::jwks))
        .route("/introspect", post(endpoints::introspect))
        .route(
            "/.well-known/oauth-authorization-server",
            get(endpoints::metadata),
        )
        .route(
            "/.well-known/openid-configuration",
            get(endpoints::metadata),
        )
        .route("/mailbox", get(mailbox))
        .route("/mailbox/{number}", get(message))
        .route("/messages", get(messages))
        .route("/messages/{name}", get(octets))
        .route("/faults", get(faults).post(add_faults).delete(clear_faults))
        .route("/style.css", get(style))
        .merge(api::router())
        .layer(DefaultBodyLimit::max(BODY_LEN_MAX))
        .with_state(shared)
}

async fn style() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/css")], pages::STYLE)
}

/// `GET /mailbox`: the newest messages.
async fn mailbox(State(shared): State<Arc<Shared>>) -> Response {
    let newest = shared.mailbox.newest(PAGE_MESSAGES);
    pages::mailbox(shared.mailbox.taken(), &newest)
}

/// `GET /mailbox/{number}`: one message.
async fn message(State(shared): State<Arc<Shared>>, Path(number): Path<usize>) -> Response {
    match shared.mailbox.read(number) {
        Some(received) => pages::message(&received),
        None => pages::notice(
            StatusCode::NOT_FOUND,
            "No such message",
            "It never was, or has made room for newer ones.",
        ),
    }
}

/// What part of the messages is wanted.
#[derive(Deserialize)]
struct Window {
    /// Only those with a higher number.
    #[serde(default)]
    after: usize,
    /// At most so many.
    limit: Option<usize>,
}

/// `GET /messages`: oldest first, with `number`, `received_at`, `size` and everything of
/// [`super::Delivered`].
async fn messages(
    State(shared): State<Arc<Shared>>,
    Query(window): Query<Window>,
) -> Json<Vec<Listed>> {
    let limit = window.limit.unwrap_or(LISTED_MESSAGES);
    let messages = shared.mailbox.after(window.after, limit);
    Json(messages.iter().map(Received::listed).collect())
}

/// `GET /messages/{number}.eml`: the octets as they came.
async fn octets(State(shared): State<Arc<Shared>>, Path(name): Path<String>) -> Response {
    let received = name
        .strip_suffix(".eml")
        .and_then(|number| number.parse().ok())
        .and_then(|number| shared.mailbox.read(number));
    match received {
        Some(received) => {
            let mime = [(header::CONTENT_TYPE, "message/rfc822")];
            (mime, received.octets).into_response()
        }
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// One fault or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum Faults {
    Several(Vec<Fault>),
    One(Fault),
}

/// `GET /faults`: what is still to be played.
async fn faults(State(shared): State<Arc<Shared>>) -> Json<Vec<Fault>> {
    Json(shared.script.list())
}

/// `POST /faults`: adds to the script; answers what is still to be played.
async fn add_faults(State(shared): State<Arc<Shared>>, Json(faults): Json<Faults>) -> Response {
    let faults = match faults {
        Faults::Several(faults) => faults,
        Faults::One(fault) => vec![fault],
    };
    for fault in faults {
        if let Err(error) = shared.play(fault) {
            let body = json!({ "error": error.to_string() });
            return (StatusCode::BAD_REQUEST, Json(body)).into_response();
        }
    }
    Json(shared.script.list()).into_response()
}

/// `DELETE /faults`: forgets the script.
async fn clear_faults(State(shared): State<Arc<Shared>>) -> StatusCode {
    shared.script.clear();
    StatusCode::NO_CONTENT
}
