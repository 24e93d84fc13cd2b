//! Logging in and out, and the invitation that `gatepost console` prints.

use askama::Template;
use axum::{
    Json,
    extract::{Extension, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use tokio::time::Instant;

use super::{Access, Outcome, Visitor, Way, code, code::OneTimeCode, origin};
use crate::admin::{
    Shared,
    api::{self, Problem},
    connection::{LocalAddress, PeerAddress},
    console::{
        Failed, Frame, Page,
        form::{Field, Posted},
        redirect, render,
    },
    handlers::{Answer, AppState},
    problem::Queried,
};

/// What a closed console says, and what to do.
const CLOSED: &str = "This console can be reached from other machines and has no password, so its \
                      pages are closed. Set console.password_hash (make one with `gatepost \
                      hash-password`) and run `gatepost reload`, or give console.address a loopback \
                      address.";

#[derive(Template)]
#[template(path = "admin/console/pages/login.html")]
struct Login<'a> {
    frame: Frame,
    /// None: the console is closed.
    field: Option<Field>,
    next: &'a str,
    problem: Option<&'a str>,
    closed: &'static str,
}

/// What the address of the login page may bring.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::admin) struct LoginQuery {
    /// The one-time code, from the printed address. It is only filled in: a login is a POST.
    code: String,
    /// Where to go then.
    next: String,
}

pub(in crate::admin) async fn show(
    State(shared): AppState,
    headers: HeaderMap,
    Queried(query): Queried<LoginQuery>,
) -> Response {
    let next = local(&query.next);
    if shared.access.visitor(&headers, true).is_some() {
        return redirect(next);
    }
    page(&shared, StatusCode::OK, (&query.code, next), None)
}

pub(in crate::admin) async fn submit(
    State(shared): AppState,
    Extension(PeerAddress(peer)): Extension<PeerAddress>,
    headers: HeaderMap,
    posted: Posted,
) -> Response {
    let access = &shared.access;
    let next = local(posted.text("next"));
    if !origin::is_ours(&headers, access.settings().public_url.as_ref()) {
        let text = "This form comes from another site.";
        return Failed(Problem::new(StatusCode::FORBIDDEN, text)).into_response();
    }
    let given = match access.way() {
        Way::Password => posted.raw("password"),
        Way::Code => posted.text("code"),
        Way::Closed => return page(&shared, StatusCode::FORBIDDEN, ("", next), None),
    };
    let (status, problem) = match access.log_in(given.to_owned(), peer).await {
        Outcome::In(id) => return enter(access, &headers, &id, next),
        Outcome::Wrong => (StatusCode::FORBIDDEN, wrong(access.way()).to_owned()),
        Outcome::TooSoon(wait) => {
            let status = StatusCode::TOO_MANY_REQUESTS;
            let seconds = wait.as_secs().saturating_add(1);
            let text = format!("Too many wrong logins. Try again in {seconds} seconds.");
            let page = page(&shared, status, ("", next), Some(&text));
            return ([(header::RETRY_AFTER, seconds.to_string())], page).into_response();
        }
        Outcome::Busy => {
            let text = "The login could not be checked just now. Try again.";
            (StatusCode::SERVICE_UNAVAILABLE, text.to_owned())
        }
    };
    page(&shared, status, ("", next), Some(&problem))
}

fn page(
    shared: &Shared,
    status: StatusCode,
    (code, next): (&str, &str),
    problem: Option<&str>,
) -> Response {
    let login = Login {
        frame: Frame::bare(),
        field: field(shared.access.way(), code),
        next,
        problem,
        closed: CLOSED,
    };
    render(status, &login)
}

/// What is asked for; the code may come with the address of the page.
fn field(way: Way, code: &str) -> Option<Field> {
    let asked = Field {
        is_required: true,
        is_first: true,
        ..Field::default()
    };
    match way {
        Way::Closed => None,
        Way::Password => Some(Field {
            name: "password",
            label: "Password",
            kind: "password",
            autocomplete: "current-password",
            help: "The one that console.password_hash was made of.".into(),
            ..asked
        }),
        Way::Code => Some(Field {
            name: "code",
            label: "One-time code",
            kind: "text",
            autocomplete: "off",
            value: code.into(),
            help: "It was shown when Gatepost started, with the address of this page, and works \
                   once. For a new one run gatepost console on this machine."
                .into(),
            ..asked
        }),
    }
}

fn wrong(way: Way) -> &'static str {
    match way {
        Way::Password | Way::Closed => "The password is wrong.",
        Way::Code => {
            "The code is wrong, used or too old. Run gatepost console on this machine for a new one."
        }
    }
}

/// Ends the session that the browser had, and gives it the new one.
fn enter(access: &Access, headers: &HeaderMap, id: &str, next: &str) -> Response {
    if let Some(before) = access.visitor(headers, false) {
        access.sessions.end(&before);
    }
    with_cookie(redirect(next), &access.cookie(id, headers, ""))
}

pub(in crate::admin) async fn log_out(
    State(shared): AppState,
    visitor: Visitor,
    headers: HeaderMap,
) -> Page {
    let access = &shared.access;
    access.sessions.end(&visitor);
    let gone = access.cookie("", &headers, "; Max-Age=0");
    Ok(with_cookie(redirect("/login"), &gone))
}

fn with_cookie(mut response: Response, cookie: &str) -> Response {
    if let Ok(cookie) = HeaderValue::from_str(cookie) {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    response
}

/// A path of this console, never another site's address (`//evil.example`, `/\evil.example`).
fn local(next: &str) -> &str {
    let is_plain = next.bytes().all(|b| b.is_ascii_graphic() && b != b'\\');
    if is_plain && next.starts_with('/') && !next.starts_with("//") {
        next
    } else {
        "/"
    }
}

impl Access {
    pub(super) fn cookie(&self, id: &str, headers: &HeaderMap, end: &str) -> String {
        let secure = if self.tls || origin::is_https(headers) {
            "; Secure"
        } else {
            ""
        };
        let name = self.cookie_name();
        format!("{name}={id}; Path=/; HttpOnly; SameSite=Strict{secure}{end}")
    }

    /// Where the console is and how to get in; a new one-time code where that is the way.
    pub(in crate::admin) fn invite(&self) -> api::Invitation {
        self.invitation(OneTimeCode::renew)
    }

    /// As [`Self::invite`] for whoever starts the daemon; it takes the place of no code that somebody
    /// was given meanwhile.
    pub(in crate::admin) fn invite_first(&self) -> api::Invitation {
        self.invitation(OneTimeCode::first)
    }

    fn invitation(
        &self,
        code: impl Fn(&OneTimeCode, Instant) -> Option<String>,
    ) -> api::Invitation {
        let (way, path) = match self.way() {
            Way::Password => (api::LoginWay::Password, Some("/".to_owned())),
            Way::Closed => (api::LoginWay::Closed, None),
            Way::Code => {
                let code = code(&self.code, Instant::now());
                let path = code.map(|code| format!("/login?code={code}"));
                (api::LoginWay::Code, path)
            }
        };
        api::Invitation {
            way,
            url: path.and_then(|path| self.url(&path)),
            expires_in: (way == api::LoginWay::Code).then(|| code::LIFE.as_secs()),
            remedy: (way == api::LoginWay::Closed).then(|| CLOSED.to_owned()),
        }
    }
}

/// For the control socket alone: who may open it may do everything anyway. A key or a session must
/// not make further ways in.
pub(in crate::admin) async fn invite(
    State(shared): AppState,
    Extension(LocalAddress(local)): Extension<LocalAddress>,
) -> Answer<api::Invitation> {
    if local.is_some() {
        let text = "a way into the console is given on the control socket only";
        return Err(Problem::new(StatusCode::FORBIDDEN, text)
            .remedy("run `gatepost console` on the machine"));
    }
    if shared.console.get().is_none() {
        return Err(Problem::new(StatusCode::NOT_FOUND, "there is no console")
            .remedy("console.address is \"none\": give it an address, and restart"));
    }
    Ok(Json(shared.access.invite()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where a login leads to is a path here, whatever a link says.
    #[test]
    fn a_login_leads_nowhere_else() {
        for (next, wanted) in [
            ("/queue?state=held", "/queue?state=held"),
            ("/", "/"),
            ("", "/"),
            ("//evil.example", "/"),
            ("/\\evil.example", "/"),
            ("https://evil.example", "/"),
            ("/a\r\nSet-Cookie: x", "/"),
            ("javascript:alert(1)", "/"),
        ] {
            assert_eq!(local(next), wanted, "{next:?}");
        }
    }
}
