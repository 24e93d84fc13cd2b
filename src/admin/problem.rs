//! Errors of the API as problem+json (RFC 9457): the operator gets the chain and the remedy.
//!
//! Includes the request extractors, whose rejections must have the same shape as everything else.

use axum::{
    Json,
    extract::{
        FromRequest, FromRequestParts, Path, Query, Request,
        rejection::{JsonRejection, PathRejection, QueryRejection},
    },
    http::{HeaderValue, StatusCode, header, request},
    response::{IntoResponse, Response},
};
use serde::de::DeserializeOwned;

use super::{
    api::Problem,
    connection::BODY_DEADLINE,
    server::{API, BODY_LEN_MAX},
};
use crate::{mail::AccountName, mail::QueueId, oauth, oauth::Diagnosis, store};

impl Problem {
    /// A problem with the standard title of its status.
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            title: status.canonical_reason().unwrap_or("Error").into(),
            status: status.as_u16(),
            detail: detail.into(),
            remedy: None,
            problems: Vec::new(),
            fields: Box::default(),
        }
    }

    /// What is wrong, a line each.
    pub(super) fn lines(&self) -> Vec<String> {
        let fields = self.fields.iter().map(ToString::to_string);
        self.problems.iter().cloned().chain(fields).collect()
    }

    /// The same with what to do about it.
    pub(super) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// No account of that name.
    pub(super) fn no_account(name: &AccountName) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            format!("no account is called {name}"),
        )
        .remedy("`gatepost accounts` lists them; a new one in the file needs `gatepost reload`")
    }

    /// No message of that id.
    pub(super) fn no_message(id: QueueId) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            format!("no message {id} is in the queue"),
        )
        .remedy("it was delivered, returned or deleted; the log has its last event")
    }

    /// A message's file is there and cannot be opened.
    pub(super) fn unreadable(error: &std::io::Error) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("the message's file cannot be read: {error}"),
        )
        .remedy("look at the disk of state_dir")
    }

    /// The task that did the work has ended without an answer: it panicked, and the log has it.
    pub(super) fn lost() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the operation ended without an answer",
        )
        .remedy("the log has the reason; please report it")
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self)).into_response();
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        response
    }
}

impl From<Diagnosis> for Problem {
    /// The request was understood, and the answer is no.
    fn from(diagnosis: Diagnosis) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, diagnosis.reason).remedy(diagnosis.remedy)
    }
}

impl From<store::Error> for Problem {
    fn from(error: store::Error) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, chain(&error))
            .remedy("look at the disk of state_dir; the queue takes no mail until it works again")
    }
}

impl From<oauth::Error> for Problem {
    fn from(error: oauth::Error) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, chain(&error))
    }
}

/// An error and its causes on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let step = error.to_string();
        // Wrappers repeat their cause here and there; a reader wants each once.
        if !text.ends_with(&step) {
            text.push_str(": ");
            text.push_str(&step);
        }
        cause = error.source();
    }
    text
}

/// A JSON body; what is wrong with it is told as a [`Problem`].
pub(super) struct Input<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Input<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let read = Json::from_request(request, state);
        match tokio::time::timeout(BODY_DEADLINE, read).await {
            Ok(Ok(Json(value))) => Ok(Self(value)),
            Ok(Err(rejection)) => Err(json_problem(&rejection)),
            Err(_) => {
                let what = "the request did not arrive in time";
                Err(Problem::new(StatusCode::REQUEST_TIMEOUT, what).remedy("send it again"))
            }
        }
    }
}

/// The query; what is wrong with it is told as a [`Problem`].
pub(super) struct Queried<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Queried<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut request::Parts, state: &S) -> Result<Self, Problem> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(value)) => Ok(Self(value)),
            Err(rejection) => Err(query_problem(&rejection)),
        }
    }
}

/// A part of the path; one that does not parse names nothing that exists.
pub(super) struct Named<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Named<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut request::Parts, state: &S) -> Result<Self, Problem> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(value)) => Ok(Self(value)),
            Err(rejection) => Err(path_problem(&rejection)),
        }
    }
}

fn json_problem(rejection: &JsonRejection) -> Problem {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        let what = format!("the body is larger than {BODY_LEN_MAX} octets");
        return Problem::new(StatusCode::PAYLOAD_TOO_LARGE, what).remedy("send it in parts");
    }
    not_understood(rejection.status(), "the body", rejection)
}

fn query_problem(rejection: &QueryRejection) -> Problem {
    not_understood(StatusCode::BAD_REQUEST, "the query", rejection)
}

fn path_problem(rejection: &PathRejection) -> Problem {
    not_understood(StatusCode::NOT_FOUND, "the address", rejection)
}

/// The cause says which field it is; what stands around it is the framework's.
fn not_understood(status: StatusCode, part: &str, rejection: &dyn std::error::Error) -> Problem {
    let cause = rejection.source().unwrap_or(rejection);
    Problem::new(
        status,
        format!("{part} is not understood: {}", chain(cause)),
    )
    .remedy(format!(
        "{API}/openapi.json tells what each operation takes"
    ))
}
