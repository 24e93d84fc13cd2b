//! What people see: `/authorize` and `/device`.
//!
//! The consent form posts to its own address, so every request is checked afresh and nothing about
//! it is kept. A wrong client or redirect URI is told to the person and goes nowhere else (RFC 6749
//! §4.1.2.1).

use std::sync::Arc;

use axum::{
    body::Bytes,
    extract::{RawQuery, State},
    http::StatusCode,
    response::{IntoResponse, Redirect, Response},
};
use tokio::time::Instant;
use url::Url;

use super::{
    CLIENT_ID, PUBLIC_CLIENT_ID, Refusal,
    grants::{Consent, Decision},
    params::Params,
};
use crate::{
    mail::Address,
    sandbox::{Shared, pages},
};

/// An authorization request that was found good.
struct Request {
    client_id: &'static str,
    redirect_uri: Url,
    /// As it was written; the code is bound to it.
    redirect_text: String,
    state: Option<String>,
    scope: String,
    challenge: String,
    login_hint: Option<String>,
    prompt: Option<String>,
    nonce: Option<String>,
}

/// Why there is no consent page.
enum Obstacle {
    /// Told to the person.
    Page(&'static str),
    /// Told to the application.
    Answer(Box<Answer>),
}

/// Where an answer of `/authorize` goes.
struct Answer {
    redirect_uri: Url,
    state: Option<String>,
    pairs: Vec<(&'static str, String)>,
}

/// `GET /authorize` (RFC 6749 §4.1.1).
pub(in crate::sandbox) async fn authorize(
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
) -> Response {
    let request = match Request::parse(&shared, query.as_deref().unwrap_or_default()) {
        Ok(request) => request,
        Err(obstacle) => return obstacle.response(&shared),
    };
    // There are no sessions here: somebody must always choose.
    if request.prompt.as_deref() == Some("none") {
        let why = "the sandbox keeps no session";
        return request.error("login_required", why).response(&shared);
    }
    let hint = request.login_hint.clone();
    pages::consent(
        &request.scope,
        request.client_id,
        &hint.unwrap_or_else(|| shared.mailbox_name.clone()),
        None,
    )
}

/// `POST /authorize`: the person has decided (`mailbox`, `decision` = `allow` or `deny`).
pub(in crate::sandbox) async fn decide(
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
    body: Bytes,
) -> Response {
    let request = match Request::parse(&shared, query.as_deref().unwrap_or_default()) {
        Ok(request) => request,
        Err(obstacle) => return obstacle.response(&shared),
    };
    let form = Params::parse(&body).unwrap_or_default();
    match decision(&form) {
        Ok(Decision::Deny) => request
            .error("access_denied", "the person said no")
            .response(&shared),
        Ok(Decision::Allow(mailbox)) => request.allow(&shared, mailbox),
        Err(why) => {
            let typed = form.get("mailbox").unwrap_or_default();
            pages::consent(&request.scope, request.client_id, typed, Some(why))
        }
    }
}

/// `GET /device`: the code is typed in, or comes with the link.
pub(in crate::sandbox) async fn device(
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
) -> Response {
    let params = Params::parse(query.unwrap_or_default().as_bytes()).unwrap_or_default();
    let code = params.get("user_code").unwrap_or_default();
    let mailbox = &shared.mailbox_name;
    pages::device(code, mailbox, None)
}

/// `POST /device`: `user_code`, `mailbox`, `decision`.
pub(in crate::sandbox) async fn decide_device(
    State(shared): State<Arc<Shared>>,
    body: Bytes,
) -> Response {
    let form = Params::parse(&body).unwrap_or_default();
    let code = form.get("user_code").unwrap_or_default();
    let decided = decision(&form);
    let mailbox = form.get("mailbox").unwrap_or_default();
    let decided = match decided {
        Ok(decided) => decided,
        Err(why) => return pages::device(code, mailbox, Some(why)),
    };
    let allowed = matches!(decided, Decision::Allow(_));
    let known = shared
        .provider
        .grants()
        .decide_device(code, decided, Instant::now());
    if !known {
        let why = "No sign-in waits for this code: it is mistyped, used or too old.";
        return pages::device(code, mailbox, Some(why));
    }
    tracing::debug!(event = "consent_decided", allowed, grant = "device_code");
    let (title, text) = if allowed {
        (
            "Signed in",
            "The device has its token now. You can close this page.",
        )
    } else {
        (
            "Refused",
            "The device was told no. You can close this page.",
        )
    };
    pages::notice(StatusCode::OK, title, text)
}

fn decision(form: &Params) -> Result<Decision, &'static str> {
    match form.get("decision") {
        Some("allow") => form
            .get("mailbox")
            .and_then(|text| Address::parse(text.trim()).ok())
            .map(|mailbox| Decision::Allow(mailbox.to_string()))
            .ok_or("A mailbox looks like name@example.com."),
        Some("deny") => Ok(Decision::Deny),
        _ => Err("Choose Allow or Deny."),
    }
}

impl Request {
    fn parse(shared: &Shared, query: &str) -> Result<Self, Obstacle> {
        let params = Params::parse(query.as_bytes())
            .map_err(|_| Obstacle::Page("The link gives a parameter twice."))?;
        let client_id = match params.get("client_id") {
            Some(CLIENT_ID) => CLIENT_ID,
            Some(PUBLIC_CLIENT_ID) => PUBLIC_CLIENT_ID,
            _ => return Err(Obstacle::Page("The link names an unknown client_id.")),
        };
        let redirect_text = params.get("redirect_uri").unwrap_or_default().to_owned();
        let redirect_uri = Url::parse(&redirect_text)
            .ok()
            .filter(|_| shared.provider.may_redirect(&redirect_text))
            .ok_or(Obstacle::Page(
                "The link's redirect_uri is not registered: it must be http on localhost, \
                 127.0.0.1 or [::1], or one given with --redirect-url.",
            ))?;
        let owned = |name: &str| params.get(name).map(str::to_owned);
        let request = Self {
            client_id,
            redirect_uri,
            redirect_text,
            state: owned("state"),
            scope: owned("scope").unwrap_or_default(),
            challenge: owned("code_challenge").unwrap_or_default(),
            login_hint: owned("login_hint"),
            prompt: owned("prompt"),
            nonce: owned("nonce"),
        };
        let refused = |error, why| Err(Obstacle::Answer(Box::new(request.error(error, why))));
        if params.get("response_type") != Some("code") {
            return refused("unsupported_response_type", "response_type must be code");
        }
        // 32 octets in base64url (RFC 7636 §4.2).
        if params.get("code_challenge_method") != Some("S256") || request.challenge.len() != 43 {
            return refused("invalid_request", "PKCE with S256 is required");
        }
        Ok(request)
    }

    fn allow(self, shared: &Shared, mailbox: String) -> Response {
        let consent = Consent {
            client_id: self.client_id.to_owned(),
            mailbox: Some(mailbox),
            scope: self.scope.clone(),
            nonce: self.nonce.clone(),
        };
        let code = shared.provider.grants().code(
            consent,
            &self.redirect_text,
            &self.challenge,
            Instant::now(),
        );
        tracing::debug!(event = "consent_decided", grant = "authorization_code");
        match code {
            Ok(code) => self
                .answer(vec![("code", code.expose().to_owned())])
                .response(shared),
            Err(refusal) => self.refused(refusal).response(shared),
        }
    }

    fn refused(&self, refusal: Refusal) -> Answer {
        self.error(refusal.error, refusal.description)
    }

    fn error(&self, error: &str, description: &str) -> Answer {
        self.answer(vec![
            ("error", error.to_owned()),
            ("error_description", description.to_owned()),
        ])
    }

    fn answer(&self, pairs: Vec<(&'static str, String)>) -> Answer {
        Answer {
            redirect_uri: self.redirect_uri.clone(),
            state: self.state.clone(),
            pairs,
        }
    }
}

impl Answer {
    /// 303, so that a browser that posted a form comes back with GET.
    fn response(self, shared: &Shared) -> Response {
        let mut uri = self.redirect_uri;
        uri.query_pairs_mut()
            .extend_pairs(self.pairs)
            .extend_pairs(self.state.map(|state| ("state", state)))
            .append_pair("iss", &shared.provider.issuer);
        Redirect::to(uri.as_str()).into_response()
    }
}

impl Obstacle {
    fn response(self, shared: &Shared) -> Response {
        match self {
            Self::Answer(answer) => answer.response(shared),
            Self::Page(why) => pages::notice(StatusCode::BAD_REQUEST, "Not possible", why),
        }
    }
}
