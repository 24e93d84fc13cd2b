//! The console: pages rendered here, from what the JSON API answers with.
//!
//! A page is `pages/NAME.rs` with `pages/NAME.html` beside it (askama: checked when compiled, all
//! text escaped), extending `layout.html` and using the macros of `ui.html`. It works without
//! script: each change is a form with method POST and [`Visitor::csrf`] in it, answered with
//! [`done`] or [`failed`] (303 and a word on the next page); what destroys something asks with
//! [`confirm`] first. With script, elements with `data-live` and an `id` are renewed when something
//! changes (`live`).
//!
//! The policy allows nothing inline: no `style` attribute, no `<script>` with text. `form-action`
//! also holds for where a form's answer redirects to: a form that leads to another site must answer
//! with a page that has a link.

mod access;
mod assets;
pub(super) mod form;
pub(super) mod history;
pub(super) mod kept;
pub(super) mod live;
mod pages;
mod qr;
pub(super) mod runs;
pub(super) mod trials;
pub(super) mod view;

use std::sync::Arc;

use askama::Template;
use axum::{
    Router,
    http::{HeaderName, HeaderValue, StatusCode, header},
    middleware,
    response::{Html, IntoResponse, Response},
    routing::{get, post},
};

pub(super) use self::access::{
    Access, Flash, Settings, Visitor, api as api_gate, invite, socket as socket_gate,
};

use super::{Shared, api::Problem};
use crate::store;

/// A page, or why there is none.
pub(super) type Page = Result<Response, Failed>;

/// Sent by the script when it renews the live parts of a page: nobody looks, so a session is not
/// used and a flash message not taken.
const LIVE: HeaderName = HeaderName::from_static("x-live");

/// The policy of every page. Chromium applies `form-action` to redirects as well.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
     connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
);

/// With `no-referrer` browsers would send `Origin: null` with our own forms.
const REFERRER: HeaderValue = HeaderValue::from_static("same-origin");

/// The pages in the order of the menu.
const MENU: &[Entry] = &[
    entry("/", "Overview"),
    entry("/queue", "Queue"),
    entry("/trace", "Trace"),
    entry("/accounts", "Accounts"),
    entry("/providers", "Providers"),
    entry("/clients", "Clients"),
    entry("/settings", "Settings"),
];

/// A page of the menu.
#[derive(Debug, Clone, Copy)]
struct Entry {
    path: &'static str,
    name: &'static str,
}

const fn entry(path: &'static str, name: &'static str) -> Entry {
    Entry { path, name }
}

/// Every page, behind the gate, and what the login needs before it.
pub(super) fn router(shared: &Arc<Shared>) -> Router<Arc<Shared>> {
    let gate = middleware::from_fn_with_state(Arc::clone(shared), access::pages);
    let pages = Router::new()
        .route("/", get(pages::overview::show))
        .merge(pages::queue::routes())
        .merge(pages::message::routes())
        .route("/trace", get(pages::trace::show))
        .route("/providers", get(pages::providers::list))
        .route(
            "/providers/new",
            get(pages::providers::new).post(pages::providers::add),
        )
        .route(
            "/providers/{name}",
            get(pages::providers::show).post(pages::providers::save),
        )
        .route("/providers/{name}/remove", post(pages::providers::remove))
        .route("/settings", get(pages::settings::show))
        .route("/settings/reload", post(pages::settings::reload))
        .route("/settings/log-out-all", post(pages::settings::log_out_all))
        .merge(clients())
        .route("/settings/keys", post(pages::keys::add))
        .route("/settings/keys/remove", post(pages::keys::remove))
        .route("/settings/notify/test", post(pages::notices::test))
        .merge(account_pages())
        .route("/sign-ins/{id}", get(pages::sign_in::show))
        .route("/sign-ins/{id}/cancel", post(pages::sign_in::cancel))
        .route("/sign-ins/{id}/address", post(pages::sign_in::pasted))
        .route(live::PATH, get(live::events))
        .route("/logout", post(access::log_out))
        .route_layer(gate);
    Router::new()
        .route("/login", get(access::show).post(access::submit))
        .route("/assets/{name}", get(assets::asset))
        .merge(pages)
}

/// Devices, their logins, and the networks that were let in.
fn clients() -> Router<Arc<Shared>> {
    Router::new()
        .route("/clients", get(pages::clients::show))
        .route(
            "/clients/allow",
            get(pages::allow::show).post(pages::allow::submit),
        )
        .route("/clients/allow/remove", post(pages::allow::remove))
        .route("/clients/logins", post(pages::logins::add))
        .route("/clients/logins/new", get(pages::logins::show))
        .route(
            "/clients/logins/edit",
            get(pages::logins::edit).post(pages::logins::change),
        )
        .route("/clients/logins/rotate", post(pages::logins::rotate))
        .route("/clients/logins/enable", post(pages::logins::enable))
        .route("/clients/logins/disable", post(pages::logins::disable))
        .route("/clients/logins/remove", post(pages::logins::remove))
}

fn account_pages() -> Router<Arc<Shared>> {
    use self::pages::{account, account_form, accounts, trial};

    Router::new()
        .route("/accounts", get(accounts::show))
        .route(
            "/accounts/new",
            get(account_form::new).post(account_form::create),
        )
        .route("/accounts/{name}", get(account::show))
        .route(
            "/accounts/{name}/edit",
            get(account_form::edit).post(account_form::change),
        )
        .route("/accounts/{name}/sign-in", post(account::sign_in))
        .route("/accounts/{name}/sign-out", post(account::sign_out))
        .route("/accounts/{name}/default", post(account::make_default))
        .route("/accounts/{name}/hold", post(account::hold))
        .route("/accounts/{name}/release", post(account::release))
        .route("/accounts/{name}/remove", post(account::remove))
        .route("/accounts/{name}/test", post(account::test))
        .route("/accounts/{name}/doctor", post(account::doctor))
        .route("/accounts/{name}/trials/{id}", get(trial::show))
}

/// What the layout shows around a page.
#[derive(Debug)]
struct Frame {
    /// The path of its entry in the menu.
    here: &'static str,
    /// Empty: nobody has logged in.
    csrf: String,
    flash: Option<Flash>,
}

impl Frame {
    /// Around the page `here`, an entry of the menu. Takes the flash message that was left for it.
    fn new(shared: &Shared, visitor: &Visitor, here: &'static str) -> Self {
        Self {
            here,
            csrf: visitor.csrf().to_owned(),
            flash: (!visitor.is_live())
                .then(|| shared.access.take_flash(visitor))
                .flatten(),
        }
    }

    /// Without session and menu.
    fn bare() -> Self {
        Self {
            here: "",
            csrf: String::new(),
            flash: None,
        }
    }

    fn menu(&self) -> &'static [Entry] {
        if self.csrf.is_empty() { &[] } else { MENU }
    }
}

/// A page as its answer.
fn render(status: StatusCode, page: &impl Template) -> Response {
    match page.render() {
        Ok(html) => {
            let fields = [
                (header::CONTENT_SECURITY_POLICY, POLICY),
                (header::REFERRER_POLICY, REFERRER),
            ];
            (status, fields, Html(html)).into_response()
        }
        Err(error) => {
            tracing::error!(event = "page_failed", %error);
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// 303: the browser gets `path` next, whatever its last method was.
fn redirect(path: &str) -> Response {
    let Ok(location) = HeaderValue::from_str(path) else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    (StatusCode::SEE_OTHER, [(header::LOCATION, location)]).into_response()
}

/// For a browser that another site led here, and that therefore left its cookie out
/// (`SameSite=Strict`): a page that leads to itself, with the cookie.
fn onward(path: &str) -> Response {
    let mut answer = render(
        StatusCode::OK,
        &Onward {
            frame: Frame::bare(),
            path,
        },
    );
    if let Ok(refresh) = HeaderValue::from_str(&format!("0; url={path}")) {
        answer.headers_mut().insert(header::REFRESH, refresh);
    }
    answer
}

#[derive(Template)]
#[template(path = "admin/console/pages/onward.html")]
struct Onward<'a> {
    frame: Frame,
    path: &'a str,
}

/// The change is made: on to `path`, which says so.
fn done(shared: &Shared, visitor: &Visitor, path: &str, text: impl Into<String>) -> Response {
    let flash = Flash {
        is_problem: false,
        text: text.into(),
    };
    shared.access.leave_flash(visitor, flash);
    redirect(path)
}

/// The change is not made: back to `path`, which says why and what to do.
fn failed(shared: &Shared, visitor: &Visitor, path: &str, problem: &Problem) -> Response {
    let flash = Flash {
        is_problem: true,
        text: problem.to_string(),
    };
    shared.access.leave_flash(visitor, flash);
    redirect(path)
}

/// Back to `path`, which says what came of a change.
fn told(
    shared: &Shared,
    visitor: &Visitor,
    path: &str,
    came: Result<impl Into<String>, Problem>,
) -> Response {
    match came {
        Ok(text) => done(shared, visitor, path, text),
        Err(problem) => failed(shared, visitor, path, &problem),
    }
}

/// A question before something is destroyed. The form comes back to `action` with `fields`, and
/// with `confirmed`, which [`form::Posted::is_confirmed`] looks for.
#[derive(Debug, Default)]
pub(super) struct Confirm {
    /// `Delete 3 messages?`
    pub(super) title: String,
    /// What follows from it.
    pub(super) text: String,
    /// The first few of many that it is about.
    pub(super) named: Vec<String>,
    /// Where the answer goes.
    pub(super) action: String,
    /// What the form before had.
    pub(super) fields: Vec<(String, String)>,
    /// `Delete`
    pub(super) button: &'static str,
    /// Where a no leads.
    pub(super) back: String,
}

#[derive(Template)]
#[template(path = "admin/console/pages/confirm.html")]
struct ConfirmPage<'a> {
    frame: Frame,
    ask: &'a Confirm,
}

/// Asks before something is destroyed.
fn confirm(frame: Frame, ask: &Confirm) -> Response {
    render(StatusCode::OK, &ConfirmPage { frame, ask })
}

/// Why there is no page, as a page.
#[derive(Debug)]
pub(super) struct Failed(pub(super) Problem);

#[derive(Template)]
#[template(path = "admin/console/pages/problem.html")]
struct ProblemPage<'a> {
    frame: Frame,
    problem: &'a Problem,
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status);
        let page = ProblemPage {
            frame: Frame::bare(),
            problem: &self.0,
        };
        render(status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), &page)
    }
}

/// For a person who followed a stale link.
pub(super) fn no_page() -> Response {
    let text = "There is no page at this address.";
    Failed(Problem::new(StatusCode::NOT_FOUND, text)).into_response()
}

impl From<Problem> for Failed {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl From<store::Error> for Failed {
    fn from(error: store::Error) -> Self {
        Self(error.into())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    fn templates(dir: &Path, found: &mut Vec<(String, String)>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                templates(&path, found);
            } else if path.extension().is_some_and(|kind| kind == "html") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path.display().to_string(), text));
            }
        }
    }

    /// What the policy forbids would silently not work; what is not escaped would be a hole; a form
    /// without the token would always be refused (the login has no session yet).
    #[test]
    fn templates_keep_the_rules_of_the_house() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/admin/console");
        let mut found = Vec::new();
        templates(&dir, &mut found);
        assert!(found.len() > 5);
        for (path, text) in found {
            for banned in [
                " style=",
                "<style",
                " onclick",
                " onsubmit",
                " onchange",
                "<script>",
            ] {
                assert!(!text.contains(banned), "{path} has {banned}");
            }
            assert!(
                !text.contains("|safe") && !text.contains("| safe"),
                "{path}"
            );
            assert!(!text.contains("{% autoescape"), "{path}");
            let forms = text.matches("method=\"post\"").count();
            let tokens = text.matches("ui::csrf(frame)").count();
            assert!(forms <= tokens || path.ends_with("login.html"), "{path}");
        }
    }

    /// A problem is a page with what to do, and its text is text; a command is told as one.
    #[test]
    fn a_problem_is_said_as_a_page() {
        let problem = Problem::new(StatusCode::NOT_FOUND, "<b>gone</b>")
            .remedy("look elsewhere: `gatepost <i>`");
        let page = ProblemPage {
            frame: Frame::bare(),
            problem: &problem,
        };
        let page = page.render().unwrap();
        assert!(
            page.contains("&#60;b&#62;gone") && !page.contains("<b>"),
            "{page}"
        );
        assert!(
            page.contains("look elsewhere: <code>gatepost &#60;i&#62;</code>")
                && page.contains("role=\"alert\""),
            "{page}"
        );
        assert!(!page.contains("Log out"), "{page}");
    }
}
