//! `users.messages.send`, by media upload and as JSON, and `users.settings.sendAs.list`.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Path, Query, Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use base64::{
    Engine,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;
use jiff::SignedDuration;
use serde::Deserialize;
use serde_json::json;

use super::{Addressed, Quota, TooMany, bearer, body, deliver, opens, play};
use crate::{
    mail::{
        Address,
        author::{self, Stand},
        header::Scan,
    },
    oauth::Service,
    sandbox::{
        Shared,
        oauth::{grants::Live, random},
    },
};

/// What the upload takes.
const MESSAGE_MAX: usize = 36_700_160;

/// The form around it, when it comes as JSON.
const JSON_MAX: usize = MESSAGE_MAX / 3 * 4 + 1024;

/// By SMTP or API.
const RECIPIENTS_MAX: usize = 100;

/// 15 000 units a user and minute, of which a message takes 100. Nothing is published about requests
/// at once.
const QUOTA: Quota = Quota {
    at_once: usize::MAX,
    in_window: 150,
    window: Duration::from_secs(60),
};

/// base64url, with or without padding.
const BASE64URL: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

pub(super) fn router() -> Router<Arc<Shared>> {
    Router::new()
        .route("/upload/gmail/v1/users/{user}/messages/send", post(upload))
        .route("/gmail/v1/users/{user}/messages/send", post(raw))
        .route("/gmail/v1/users/{user}/settings/sendAs", get(send_as))
}

/// A refusal in Google's form.
#[derive(Debug)]
struct Refusal(StatusCode, &'static str, String);

impl Refusal {
    fn bad(message: &str) -> Self {
        Self(
            StatusCode::BAD_REQUEST,
            "invalidArgument",
            message.to_owned(),
        )
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self(status, reason, message) = self;
        let error = json!({ "error": {
            "code": status.as_u16(),
            "message": message,
            "errors": [{ "message": message, "domain": "global", "reason": reason }],
        }});
        let mut response = (status, Json(error)).into_response();
        if status == StatusCode::UNAUTHORIZED {
            let challenge =
                "Bearer realm=\"https://accounts.google.com/\", error=\"invalid_token\"";
            let challenge = header::HeaderValue::from_static(challenge);
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

#[derive(Deserialize)]
struct UploadType {
    #[serde(rename = "uploadType")]
    upload_type: String,
}

/// The message as it is.
async fn upload(
    State(shared): State<Arc<Shared>>,
    Path(user): Path<String>,
    Query(kind): Query<UploadType>,
    request: Request,
) -> Result<Response, Refusal> {
    let mailbox = mailbox(&shared, request.headers(), &user)?;
    if kind.upload_type != "media" {
        return Err(Refusal::bad("the sandbox takes uploadType=media alone"));
    }
    let is_message = request.headers().get(header::CONTENT_TYPE);
    if is_message.is_none_or(|media_type| media_type != "message/rfc822") {
        let what = "Media type is not supported. Valid media types: [message/rfc822]";
        return Err(Refusal(
            StatusCode::BAD_REQUEST,
            "badContent",
            what.to_owned(),
        ));
    }
    let _permit = shared.usage.read().await;
    let octets = body(request, MESSAGE_MAX).await.ok_or_else(too_large)?;
    Box::pin(send(&shared, &mailbox, octets)).await
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    raw: String,
}

/// The message in a form.
async fn raw(
    State(shared): State<Arc<Shared>>,
    Path(user): Path<String>,
    request: Request,
) -> Result<Response, Refusal> {
    let mailbox = mailbox(&shared, request.headers(), &user)?;
    let _permit = shared.usage.read().await;
    let octets = body(request, JSON_MAX).await.ok_or_else(too_large)?;
    let form: Raw = serde_json::from_slice(&octets)
        .map_err(|_| Refusal::bad("Invalid JSON payload received."))?;
    if form.raw.is_empty() {
        let what =
            "'raw' RFC822 payload message string or uploading message via /upload/* URL required";
        return Err(Refusal::bad(what));
    }
    let octets = BASE64URL
        .decode(form.raw)
        .map_err(|_| Refusal::bad("Invalid value for ByteString: raw"))?;
    Box::pin(send(&shared, &mailbox, octets.into())).await
}

/// The mailbox's aliases: here none but itself.
async fn send_as(
    State(shared): State<Arc<Shared>>,
    Path(user): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let mailbox = mailbox(&shared, &headers, &user)?;
    let live = bearer(&shared, &headers).ok_or_else(dead)?;
    if live.scope.ends_with("gmail.send") {
        return Err(insufficient());
    }
    let own = json!({ "sendAs": [{
        "sendAsEmail": mailbox, "displayName": "", "isPrimary": true, "isDefault": true,
    }]});
    Ok(Json(own).into_response())
}

async fn send(shared: &Shared, mailbox: &str, octets: Bytes) -> Result<Response, Refusal> {
    let ticket = shared.usage.enter("gmail", mailbox, QUOTA);
    let _ticket = ticket.map_err(|too_many| throttled(shared, too_many))?;
    if let Some(response) = play(shared, "api").await {
        return Ok(response);
    }
    let addressed = Addressed::read(&octets).ok_or_else(|| Refusal::bad("Invalid message"))?;
    if addressed.recipients.is_empty() {
        return Err(Refusal::bad("Recipient address required"));
    }
    if addressed.broken {
        return Err(Refusal::bad("Invalid To header"));
    }
    if addressed.recipients.len() > RECIPIENTS_MAX {
        return Err(Refusal::bad("Too many recipients"));
    }
    let octets = from_mailbox(mailbox, &octets).map_or(octets, Bytes::from);
    deliver(shared, "gmail", mailbox, addressed, &octets);
    if let Some(response) = play(shared, "api_accepted").await {
        return Ok(response);
    }
    let id = random::letters(b"0123456789abcdef", 16).unwrap_or_default();
    let taken = json!({ "id": id, "threadId": id, "labelIds": ["SENT"] });
    Ok(Json(taken).into_response())
}

/// Google puts the mailbox in the place of an author that is none of its aliases.
fn from_mailbox(mailbox: &str, octets: &[u8]) -> Option<Vec<u8>> {
    let mailbox = Address::parse(mailbox).ok()?;
    let end = Scan::new(0).finish(octets).end;
    let (section, rest) = octets.split_at_checked(end)?;
    let stand = Stand {
        mailbox: &mailbox,
        display_name: None,
        reply_to_original: false,
    };
    let is_own = |address: &str| address.eq_ignore_ascii_case(mailbox.as_str());
    let mut out = author::replace(section, &stand, is_own)?;
    out.extend_from_slice(rest);
    Some(out)
}

/// Whose mailbox is meant, if the token may.
fn mailbox(shared: &Shared, headers: &HeaderMap, user: &str) -> Result<String, Refusal> {
    let live = bearer(shared, headers).ok_or_else(dead)?;
    let Live { consent, scope, .. } = &live;
    if !opens(scope, Service::Gmail) {
        return Err(insufficient());
    }
    match (&consent.mailbox, user) {
        (Some(own), "me") => Ok(own.clone()),
        (None, "me") => {
            // An application that acts as nobody has no mailbox.
            let what = "Precondition check failed.".to_owned();
            Err(Refusal(StatusCode::BAD_REQUEST, "failedPrecondition", what))
        }
        (_, user) if consent.covers(user) => Ok(user.to_owned()),
        (Some(_) | None, user) => {
            let what = format!("Delegation denied for {user}");
            Err(Refusal(StatusCode::FORBIDDEN, "forbidden", what))
        }
    }
}

fn dead() -> Refusal {
    let what = "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid authentication credential.";
    Refusal(StatusCode::UNAUTHORIZED, "authError", what.to_owned())
}

fn insufficient() -> Refusal {
    let what = "Request had insufficient authentication scopes.".to_owned();
    Refusal(StatusCode::FORBIDDEN, "insufficientPermissions", what)
}

fn too_large() -> Refusal {
    let what = format!("Request is too large. Limit: {MESSAGE_MAX}");
    Refusal(StatusCode::PAYLOAD_TOO_LARGE, "uploadTooLarge", what)
}

fn throttled(shared: &Shared, too_many: TooMany) -> Refusal {
    let wait = match too_many {
        TooMany::AtOnce => Duration::from_secs(1),
        TooMany::InWindow(wait) => wait,
    };
    let now = shared.clock.now();
    let wait = SignedDuration::try_from(wait).unwrap_or(SignedDuration::ZERO);
    let until = now.saturating_add(wait).unwrap_or(now);
    let what = format!("User-rate limit exceeded.  Retry after {until}");
    Refusal(StatusCode::TOO_MANY_REQUESTS, "rateLimitExceeded", what)
}
