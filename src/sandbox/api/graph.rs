//! `POST /v1.0/me/sendMail` and `/v1.0/users/{user}/sendMail`, a message as MIME.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Path, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;

use super::{Addressed, Quota, TooMany, bearer, body, deliver, opens, play};
use crate::{
    oauth::Service,
    sandbox::{
        Shared,
        oauth::{grants::Live, random},
    },
};

/// What Graph takes of a request.
const REQUEST_MAX: usize = 4_000_000;

/// Above this some messages were reported taken with 202 and never sent. Here all of them are: a relay
/// that relies on luck learns it in the rehearsal.
const SENT_MAX: usize = 2_240_000;

/// What Exchange takes by default.
const RECIPIENTS_MAX: usize = 500;

/// Of one application at one mailbox.
const QUOTA: Quota = Quota {
    at_once: 4,
    in_window: 10_000,
    window: Duration::from_secs(600),
};

pub(super) fn router() -> Router<Arc<Shared>> {
    Router::new()
        .route("/v1.0/me/sendMail", post(me))
        .route("/v1.0/users/{user}/sendMail", post(user))
}

async fn me(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    Box::pin(send(&shared, None, request)).await
}

async fn user(
    State(shared): State<Arc<Shared>>,
    Path(user): Path<String>,
    request: Request,
) -> Response {
    Box::pin(send(&shared, Some(user), request)).await
}

/// A refusal in Graph's form.
#[derive(Debug, Clone)]
struct Refusal(StatusCode, &'static str, String);

impl Refusal {
    fn new(status: StatusCode, code: &'static str, message: &str) -> Self {
        Self(status, code, message.to_owned())
    }
}

async fn send(shared: &Shared, user: Option<String>, request: Request) -> Response {
    let client_request_id = request.headers().get("client-request-id").cloned();
    let id = guid();
    let mut response = match sent(shared, user, request).await {
        Ok(response) => response,
        Err(Refusal(status, code, message)) => {
            let error = json!({ "error": {
                "code": code,
                "message": message,
                "innerError": {
                    "date": shared.clock.now().to_string(),
                    "request-id": id,
                    "client-request-id": client_request_id.as_ref().and_then(|id| id.to_str().ok()),
                },
            }});
            (status, Json(error)).into_response()
        }
    };
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert("request-id", id);
    }
    if let Some(id) = client_request_id {
        headers.insert("client-request-id", id);
    }
    response
}

async fn sent(
    shared: &Shared,
    user: Option<String>,
    request: Request,
) -> Result<Response, Refusal> {
    let live = match token(shared, request.headers()) {
        Ok(live) => live,
        Err(refusal) => return Ok(unauthorized(refusal)),
    };
    let mailbox = mailbox(&live, user)?;
    let ticket = shared.usage.enter("graph", &mailbox, QUOTA);
    let ticket = match ticket {
        Ok(ticket) => ticket,
        Err(too_many) => return Ok(throttled(too_many)),
    };
    let is_mime = media_type(request.headers()) == "text/plain";
    let _permit = shared.usage.read().await;
    let Some(octets) = body(request, REQUEST_MAX).await else {
        let code = "RequestEntityTooLarge";
        let what = "The request entity is larger than limits defined by the service.";
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, code, what));
    };
    if let Some(response) = play(shared, "api").await {
        return Ok(response);
    }
    if !is_mime {
        let what =
            "the sandbox takes messages as MIME alone: Content-Type text/plain, body in base64";
        return Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "RequestBodyRead",
            what,
        ));
    }
    let (addressed, octets) = message(&mailbox, &octets)?;
    if octets.len() <= SENT_MAX {
        deliver(shared, "graph", &mailbox, addressed, &octets);
    } else {
        tracing::warn!(
            event = "sandbox_lost",
            size = octets.len(),
            "as Graph does, in silence"
        );
    }
    if let Some(response) = play(shared, "api_accepted").await {
        return Ok(response);
    }
    drop(ticket);
    Ok(StatusCode::ACCEPTED.into_response())
}

fn token(shared: &Shared, headers: &HeaderMap) -> Result<Live, &'static str> {
    if !headers.contains_key(header::AUTHORIZATION) {
        return Err("Access token is empty.");
    }
    let live = bearer(shared, headers);
    let live = live.ok_or("Lifetime validation failed, the token is expired.")?;
    if !opens(&live.scope, Service::Graph) && !live.scope.contains("graph") {
        return Err("Access token validation failure. Invalid audience.");
    }
    Ok(live)
}

/// Whose mailbox is meant, if the token may.
fn mailbox(live: &Live, user: Option<String>) -> Result<String, Refusal> {
    let denied = || {
        let what = "Access is denied. Check credentials and try again.";
        Refusal::new(StatusCode::FORBIDDEN, "ErrorAccessDenied", what)
    };
    if !opens(&live.scope, Service::Graph) {
        return Err(denied());
    }
    match (user, &live.consent.mailbox) {
        (None, Some(own)) => Ok(own.clone()),
        (None, None) => {
            let what = "/me request is only valid with delegated authentication flow.";
            Err(Refusal::new(StatusCode::BAD_REQUEST, "BadRequest", what))
        }
        (Some(user), _) if !user.contains('@') => {
            let what = "The requested user is invalid.";
            Err(Refusal::new(
                StatusCode::NOT_FOUND,
                "ErrorInvalidUser",
                what,
            ))
        }
        (Some(user), _) if live.consent.covers(&user) => Ok(user),
        (Some(_), _) => Err(denied()),
    }
}

fn message(mailbox: &str, base64: &[u8]) -> Result<(Addressed, Vec<u8>), Refusal> {
    let bad = |code, what: &str| Refusal::new(StatusCode::BAD_REQUEST, code, what);
    let octets = STANDARD.decode(base64).map_err(|_| {
        let what = "Invalid base64 string for MIME content.";
        bad("ErrorMimeContentInvalidBase64String", what)
    })?;
    let addressed = Addressed::read(&octets).ok_or_else(|| {
        let what = "Invalid MIME content.";
        bad("ErrorMimeContentInvalid", what)
    })?;
    if addressed.recipients.is_empty() {
        let what = "At least one recipient isn't valid., A message can't be sent because it contains no recipients.";
        return Err(bad("ErrorInvalidRecipients", what));
    }
    if addressed.broken || addressed.recipients.len() > RECIPIENTS_MAX {
        return Err(bad(
            "ErrorInvalidRecipients",
            "At least one recipient is not valid.",
        ));
    }
    let is_own = |from: &String| from.eq_ignore_ascii_case(mailbox);
    if !addressed.from.as_ref().is_none_or(is_own) {
        let what = "The user account which was used to submit this request does not have the right to send mail on behalf of the specified sending account., Cannot submit message.";
        return Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "ErrorSendAsDenied",
            what,
        ));
    }
    Ok((addressed, octets))
}

fn media_type(headers: &HeaderMap) -> &str {
    let value = headers.get(header::CONTENT_TYPE);
    let value = value
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim()
}

fn unauthorized(message: &str) -> Response {
    let body = json!({ "error": {
        "code": "InvalidAuthenticationToken", "message": message,
    }});
    let challenge = [(header::WWW_AUTHENTICATE, "Bearer realm=\"\"")];
    (StatusCode::UNAUTHORIZED, challenge, Json(body)).into_response()
}

fn throttled(too_many: TooMany) -> Response {
    let (wait, message) = match too_many {
        TooMany::AtOnce => (1, "Application is over its MailboxConcurrency limit."),
        TooMany::InWindow(wait) => (wait.as_secs() + 1, "Application is over its request limit."),
    };
    let body = json!({ "error": { "code": "ApplicationThrottled", "message": message } });
    let retry_after = [(header::RETRY_AFTER, wait.to_string())];
    (StatusCode::TOO_MANY_REQUESTS, retry_after, Json(body)).into_response()
}

/// A random id in the form that Microsoft's have.
fn guid() -> String {
    let hex: String = random::letters(b"0123456789abcdef", 32).unwrap_or_default();
    let parts = [(0, 8), (8, 12), (12, 16), (16, 20), (20, 32)];
    let parts = parts.map(|(from, to)| hex.get(from..to).unwrap_or_default());
    parts.join("-")
}
