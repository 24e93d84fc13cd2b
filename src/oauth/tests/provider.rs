//! A provider: RFC 6749 with rotating refresh tokens, and every bad answer in turn.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex, atomic::AtomicUsize, atomic::Ordering},
    time::Duration,
};

use axum::{
    Form, Router,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use tokio::net::TcpListener;

use crate::net::tasks::Tasks;

/// What the token endpoint answers next.
#[derive(Debug, Clone)]
pub(super) enum Answer {
    /// As a good server would.
    Good,
    /// Status, content type, body.
    Raw(u16, &'static str, String),
    /// As `Raw`, JSON, with `Retry-After`.
    Later(u16, &'static str, u64),
    /// A good answer with this body instead; the refresh token is rotated all the same.
    Body(&'static str),
    /// A good answer with these fields besides.
    With(serde_json::Value),
    /// A good answer after so long.
    Slow(Duration),
    /// A redirect to this path of the same server.
    Redirect(&'static str),
}

/// A running provider. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Provider {
    pub(super) address: SocketAddr,
    pub(super) seen: Arc<Seen>,
}

#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Answers to come; none left: good ones.
    script: Mutex<VecDeque<Answer>>,
    /// Forms posted to the token endpoint.
    forms: Mutex<Vec<BTreeMap<String, String>>>,
    authorizations: Mutex<Vec<String>>,
    /// What is there to be fetched, by path: status and JSON. A redirect goes to `/trap`.
    documents: Mutex<BTreeMap<String, (u16, String)>>,
    pub(super) fetched: AtomicUsize,
    issued: AtomicUsize,
    current: Mutex<String>,
    pub(super) revoked: AtomicUsize,
    pub(super) trapped: AtomicUsize,
}

impl Provider {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let router = Router::new()
            .route("/token", post(token))
            .route("/device", post(device))
            .route("/revoke", post(revoke))
            .route("/identity", get(identity))
            .route("/trap", post(trap).get(trap))
            .route("/.well-known/{name}", get(document))
            .with_state(Arc::clone(&seen));
        Tasks::new().spawn("played_provider", async move {
            axum::serve(listener, router).await.unwrap();
        });
        Self { address, seen }
    }

    pub(super) fn next(&self, answers: impl IntoIterator<Item = Answer>) {
        self.seen.script.lock().unwrap().extend(answers);
    }

    /// Its name of itself.
    pub(super) fn issuer(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Puts a document under `/.well-known/`.
    pub(super) fn publish(&self, name: &str, status: u16, json: &impl ToString) {
        let document = (status, json.to_string());
        let mut documents = self.seen.documents.lock().unwrap();
        documents.insert(name.to_owned(), document);
    }

    /// How often the token endpoint was asked.
    pub(super) fn asked(&self) -> usize {
        self.seen.forms.lock().unwrap().len()
    }

    pub(super) fn forms(&self) -> Vec<BTreeMap<String, String>> {
        self.seen.forms.lock().unwrap().clone()
    }

    pub(super) fn last_form(&self) -> BTreeMap<String, String> {
        self.seen.forms.lock().unwrap().last().cloned().unwrap()
    }

    pub(super) fn last_authorization(&self) -> Option<String> {
        self.seen.authorizations.lock().unwrap().last().cloned()
    }
}

type Fields = Form<BTreeMap<String, String>>;

async fn token(State(seen): State<Arc<Seen>>, headers: HeaderMap, form: Fields) -> Response {
    seen.forms.lock().unwrap().push(form.0.clone());
    if let Some(value) = headers.get("authorization") {
        let value = value.to_str().unwrap().to_owned();
        seen.authorizations.lock().unwrap().push(value);
    }
    let answer = seen
        .script
        .lock()
        .unwrap()
        .pop_front()
        .unwrap_or(Answer::Good);
    match answer {
        Answer::Good => good(&seen, &form.0, ""),
        Answer::Raw(status, kind, body) => {
            let status = StatusCode::from_u16(status).unwrap();
            (status, [("content-type", kind)], body).into_response()
        }
        Answer::Later(status, error, seconds) => {
            let status = StatusCode::from_u16(status).unwrap();
            let body = format!(r#"{{"error":"{error}"}}"#);
            let headers = [
                ("content-type", "application/json".to_owned()),
                ("retry-after", seconds.to_string()),
            ];
            (status, headers, body).into_response()
        }
        Answer::Body(body) => {
            drop(good(&seen, &form.0, ""));
            ([("content-type", "application/json")], body).into_response()
        }
        Answer::Slow(span) => {
            tokio::time::sleep(span).await;
            good(&seen, &form.0, "")
        }
        Answer::With(fields) => {
            let fields = fields.to_string();
            let fields = fields.strip_prefix('{').and_then(|f| f.strip_suffix('}'));
            good(&seen, &form.0, fields.unwrap())
        }
        Answer::Redirect(to) => {
            (StatusCode::TEMPORARY_REDIRECT, [("location", to)]).into_response()
        }
    }
}

/// What a good server says: a refresh token serves once.
fn good(seen: &Seen, form: &BTreeMap<String, String>, fields: &str) -> Response {
    let grant = form["grant_type"].as_str();
    let mut current = seen.current.lock().unwrap();
    let refused = match grant {
        "refresh_token" => form["refresh_token"] != *current,
        "authorization_code" => form["code"] != "good" || !form.contains_key("code_verifier"),
        _ => false,
    };
    let json = [("content-type", "Application/json; charset=utf-8")];
    if refused {
        let body = r#"{"error":"invalid_grant","error_description":"no such grant"}"#;
        return (StatusCode::BAD_REQUEST, json, body).into_response();
    }
    let number = seen.issued.fetch_add(1, Ordering::SeqCst) + 1;
    let rotated = if grant == "client_credentials" || grant.ends_with(":jwt-bearer") {
        String::new()
    } else {
        *current = format!("canary-refresh-{number}");
        format!(r#","refresh_token":"{current}""#)
    };
    let comma = if fields.is_empty() { "" } else { "," };
    let body = format!(
        r#"{{"access_token":"canary-access-{number}","token_type":"bearer","expires_in":"3600"{rotated}{comma}{fields}}}"#
    );
    (json, body).into_response()
}

async fn document(
    State(seen): State<Arc<Seen>>,
    headers: HeaderMap,
    Path(name): Path<String>,
) -> Response {
    if let Some(value) = headers.get("authorization") {
        let value = value.to_str().unwrap().to_owned();
        seen.authorizations.lock().unwrap().push(value);
    }
    seen.fetched.fetch_add(1, Ordering::SeqCst);
    let found = seen.documents.lock().unwrap().get(&name).cloned();
    let (status, json) = found.unwrap_or((404, "{}".to_owned()));
    let headers = [("content-type", "application/json"), ("location", "/trap")];
    (StatusCode::from_u16(status).unwrap(), headers, json).into_response()
}

/// A cloud's endpoint on the machine: one form only, numbers as text.
async fn identity(
    State(seen): State<Arc<Seen>>,
    headers: HeaderMap,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    let header = |name: &str| Some(headers.get(name)?.to_str().unwrap().to_owned());
    let forwarded = headers.contains_key("x-forwarded-for");
    let mut form = query.clone();
    form.extend(header("metadata").map(|value| ("Metadata".to_owned(), value)));
    form.extend(header("x-identity-header").map(|value| ("X-IDENTITY-HEADER".to_owned(), value)));
    let known = header("metadata").as_deref() == Some("true")
        || header("x-identity-header").as_deref() == Some("canary-header");
    seen.forms.lock().unwrap().push(form);
    let answer = seen.script.lock().unwrap().pop_front();
    if let Some(Answer::Raw(status, kind, body)) = answer {
        let status = StatusCode::from_u16(status).unwrap();
        return (status, [("content-type", kind)], body).into_response();
    }
    if !known || forwarded {
        return StatusCode::BAD_REQUEST.into_response();
    }
    let number = seen.issued.fetch_add(1, Ordering::SeqCst) + 1;
    let body = format!(
        r#"{{"access_token":"canary-access-{number}","refresh_token":"","expires_in":"3599",
            "expires_on":"1506484173","resource":"x","token_type":"Bearer"}}"#
    );
    ([("content-type", "application/json; charset=utf-8")], body).into_response()
}

async fn device() -> Response {
    let body = r#"{"device_code":"canary-device","user_code":"ABCD-EFGH",
        "verification_url":"https://example.com/device","expires_in":900}"#;
    ([("content-type", "application/json")], body).into_response()
}

async fn revoke(State(seen): State<Arc<Seen>>, form: Fields) -> StatusCode {
    let right = form.0.get("token") == Some(&*seen.current.lock().unwrap())
        && form.0.contains_key("client_secret");
    if right {
        seen.revoked.fetch_add(1, Ordering::SeqCst);
    }
    if right {
        StatusCode::OK
    } else {
        StatusCode::BAD_REQUEST
    }
}

async fn trap(State(seen): State<Arc<Seen>>) -> StatusCode {
    seen.trapped.fetch_add(1, Ordering::SeqCst);
    StatusCode::OK
}
