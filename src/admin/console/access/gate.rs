//! What stands before the pages and before the API on the console's address.
//!
//! No request that changes something gets past it without a session and that session's token (or a
//! key), and each leaves a line in the audit log. So no page and no handler has to think of it.

use std::sync::Arc;

use axum::{
    body::{self, Body, Bytes},
    extract::{FromRequestParts, OriginalUri, Request, State},
    http::{HeaderMap, Method, StatusCode, header, request},
    middleware::Next,
    response::{IntoResponse, Response},
};
use url::form_urlencoded;

use super::{Visitor, origin, random};
use crate::{
    admin::{
        Shared,
        api::Problem,
        callback,
        connection::{BODY_DEADLINE, PeerAddress},
        console::{Failed, LIVE, onward, redirect},
        handlers::to_its_end,
        made::Who,
        server::BODY_LEN_MAX,
    },
    net::tasks::Tasks,
};

/// The field of a form, and the header of a script, that hold the session's token.
pub(in crate::admin) const CSRF_FIELD: &str = "csrf";
const CSRF_HEADER: &str = "x-csrf-token";

/// Lets a visitor with a session through to the pages; others are led to the login.
pub(in crate::admin) async fn pages(
    State(shared): State<Arc<Shared>>,
    mut request: Request,
    next: Next,
) -> Response {
    // A profile's redirect URL may have no path; the browser then comes back to the overview's, without
    // its cookie (SameSite=Strict), and with a state that the overview never has.
    let oauth = &shared.parts.oauth;
    if is_callback(&request) && callback::is_callback(request.uri().path(), &oauth.redirect_urls())
    {
        let uri = request.uri();
        let back = shared.way_back(uri.query().unwrap_or_default());
        return callback::answer(oauth, Method::GET, uri, Some(&back)).await;
    }
    let is_live = request.headers().contains_key(LIVE);
    let Some(visitor) = shared.access.visitor(request.headers(), !is_live) else {
        return to_login(&request, is_live);
    };
    if !origin::is_unsafe(request.method()) {
        request.extensions_mut().insert(visitor);
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    let read = tokio::time::timeout(BODY_DEADLINE, body::to_bytes(body, BODY_LEN_MAX));
    let Ok(read) = read.await else {
        return refuse(
            StatusCode::REQUEST_TIMEOUT,
            "The form did not arrive in time. Send it again.",
        );
    };
    let Ok(octets) = read else {
        return refuse(StatusCode::PAYLOAD_TOO_LARGE, "The form is too large.");
    };
    let token = header_token(&parts.headers).or_else(|| form_token(&octets));
    if !shared.is_own(&parts.headers, &visitor, token.as_deref()) {
        tracing::warn!(
            event = "console_request_refused",
            path = parts.uri.path(),
            "foreign form"
        );
        return refuse(
            StatusCode::FORBIDDEN,
            "This form does not belong to your session. Open the page again and repeat it.",
        );
    }
    let who = Who(visitor.who().into());
    let mut request = Request::from_parts(parts, Body::from(octets));
    request.extensions_mut().insert(visitor);
    audited(&shared.parts.tasks, who, request, next).await
}

/// Lets whoever has a key, or a session, through to the API.
pub(in crate::admin) async fn api(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Response {
    let is_unsafe = origin::is_unsafe(request.method());
    let headers = request.headers();
    let who = if let Some(given) = headers.get(header::AUTHORIZATION) {
        let key = given.to_str().ok().and_then(bearer_key);
        let name = key.and_then(|key| shared.parts.registry.key(key));
        name.map(|name| format!("key {name}"))
    } else {
        let visitor = shared.access.visitor(headers, true);
        let token = header_token(headers);
        let visitor = visitor.filter(|v| !is_unsafe || shared.is_own(headers, v, token.as_deref()));
        visitor.map(|visitor| visitor.who().to_owned())
    };
    let Some(who) = who else {
        if headers.contains_key(header::AUTHORIZATION) {
            let peer = request.extensions().get::<PeerAddress>();
            let from = peer.and_then(|peer| peer.0).map(|peer| peer.to_string());
            tracing::warn!(event = "api_key_refused", from);
        }
        return unauthorized();
    };
    audited(&shared.parts.tasks, Who(who.into()), request, next).await
}

/// Lets everyone through: the permission of the socket's file is the login.
pub(in crate::admin) async fn socket(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Response {
    audited(&shared.parts.tasks, Who("socket".into()), request, next).await
}

/// Says who asks to whatever comes next, and, of what may have changed something, to the audit log. That
/// runs to its end although the client goes away: a change without its line would be nobody's.
async fn audited(tasks: &Tasks, who: Who, mut request: Request, next: Next) -> Response {
    let is_unsafe = origin::is_unsafe(request.method());
    // Below a nested router the address lacks what led there.
    let asked = request.extensions().get::<OriginalUri>();
    let path = asked.map_or(request.uri(), |asked| &asked.0).path();
    let what = format!("{} {path}", request.method());
    request.extensions_mut().insert(who.clone());
    if !is_unsafe {
        return next.run(request).await;
    }
    let answer = to_its_end(tasks, "change", async move {
        let answer = next.run(request).await;
        let status = answer.status().as_u16();
        tracing::info!(event = "audit", who = &*who.0, what, status);
        answer
    });
    let answer = answer.await;
    answer.unwrap_or_else(|| Problem::lost().into_response())
}

/// The key of `Bearer KEY` (RFC 6750 §2.1); the scheme's case is free (RFC 9110 §11.1).
fn bearer_key(field: &str) -> Option<&str> {
    let (scheme, key) = field.split_once(' ')?;
    let key = key.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !key.is_empty()).then_some(key)
}

fn is_callback(request: &Request) -> bool {
    let query = request.uri().query().unwrap_or_default();
    let mut names = form_urlencoded::parse(query.as_bytes());
    *request.method() == Method::GET && names.any(|(name, _)| name == "state")
}

fn header_token(headers: &HeaderMap) -> Option<String> {
    let token = headers.get(CSRF_HEADER)?.to_str().ok()?;
    Some(token.to_owned())
}

fn form_token(octets: &Bytes) -> Option<String> {
    let mut fields = form_urlencoded::parse(octets);
    fields.find_map(|(name, value)| (name == CSRF_FIELD).then(|| value.into_owned()))
}

fn to_login(request: &Request, is_live: bool) -> Response {
    if is_live || request.uri().path() == super::super::live::PATH {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let here = request
        .uri()
        .path_and_query()
        .map_or("/", |here| here.as_str());
    let is_get = *request.method() == Method::GET;
    if is_get && origin::is_foreign(request.headers()) {
        return onward(here);
    }
    if !is_get || here == "/" {
        return redirect("/login");
    }
    let next: String = form_urlencoded::byte_serialize(here.as_bytes()).collect();
    redirect(&format!("/login?next={next}"))
}

fn refuse(status: StatusCode, text: &str) -> Response {
    Failed(Problem::new(status, text)).into_response()
}

fn unauthorized() -> Response {
    let problem = Problem::new(
        StatusCode::UNAUTHORIZED,
        "the API needs a session or a key here",
    )
    .remedy(
        "make a key in the console (Settings) and send it as Authorization: Bearer KEY, or use the \
         command line on this machine: it speaks through the control socket; a session's changes \
         need its token in X-CSRF-Token",
    );
    ([(header::WWW_AUTHENTICATE, "Bearer")], problem).into_response()
}

impl Shared {
    /// Whether a request that changes something comes from a page of this very session.
    fn is_own(&self, headers: &HeaderMap, visitor: &Visitor, token: Option<&str>) -> bool {
        let settings = self.access.settings();
        origin::is_ours(headers, settings.public_url.as_ref())
            && token.is_some_and(|token| random::equal(token, visitor.csrf()))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Visitor {
    type Rejection = Failed;

    async fn from_request_parts(parts: &mut request::Parts, _: &S) -> Result<Self, Failed> {
        let visitor = parts.extensions.get::<Self>();
        // Only a page that was put outside the gate could come here without one.
        visitor
            .cloned()
            .ok_or_else(|| Failed(Problem::new(StatusCode::FORBIDDEN, "Log in first.")))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use axum::{Router, middleware, routing::post};
    use hyper::service::Service as _;
    use hyper_util::service::TowerToHyperService;
    use tokio::sync::Notify;

    use super::*;

    /// A change without its line in the audit log would be nobody's.
    #[tokio::test]
    async fn a_change_runs_to_its_end_when_its_client_leaves() {
        let tasks = Tasks::new();
        let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (says, waits) = (Arc::clone(&begun), Arc::clone(&go_on));
        let done = Arc::new(AtomicBool::new(false));
        let is_done = Arc::clone(&done);
        let change = move || async move {
            says.notify_one();
            waits.notified().await;
            is_done.store(true, Ordering::SeqCst);
        };
        let owner = tasks.clone();
        let gate = middleware::from_fn(move |request: Request, next: Next| {
            let tasks = owner.clone();
            async move { audited(&tasks, Who("somebody".into()), request, next).await }
        });
        let router = Router::new().route("/x", post(change)).layer(gate);
        let service = TowerToHyperService::new(router);
        let request = Request::post("/x").body(Body::empty()).unwrap();
        tokio::select! {
            _ = service.call(request) => panic!("it waits"),
            () = begun.notified() => {}
        }
        go_on.notify_one();
        tasks.stop();
        tasks.drained().await;
        assert!(done.load(Ordering::SeqCst));
    }

    #[test]
    fn a_key_is_what_follows_bearer() {
        for (field, wanted) in [
            ("Bearer abc", Some("abc")),
            ("bearer  abc ", Some("abc")),
            ("Bearer ", None),
            ("Bearer", None),
            ("Basic abc", None),
            ("", None),
        ] {
            assert_eq!(bearer_key(field), wanted, "{field:?}");
        }
    }

    #[test]
    fn the_token_is_found_in_a_form() {
        let form = Bytes::from_static(b"name=x&csrf=a%2Bb&csrf=other");
        assert_eq!(form_token(&form).as_deref(), Some("a+b"));
        assert_eq!(form_token(&Bytes::from_static(b"{\"csrf\":1}")), None);
    }
}
