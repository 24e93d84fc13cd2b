//! The pages people see, rendered from the templates beside this file. Whatever came from outside is
//! escaped by the template engine; scripts are not used at all, and forbidden.

use askama::Template;
use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{Html, IntoResponse, Response},
};

use super::mailbox::Received;

/// The one stylesheet.
pub(super) const STYLE: &str = include_str!("style.css");

/// No scripts, nothing from elsewhere, no frames. `form-action` stays open: browsers apply it to the
/// redirect that follows the consent form, which must leave for the application.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'self'; base-uri 'none'; frame-ancestors 'none'",
);

#[derive(Template)]
#[template(path = "sandbox/pages/consent.html")]
struct Consent<'a> {
    scopes: Vec<&'a str>,
    client_id: &'a str,
    mailbox: &'a str,
    problem: Option<&'a str>,
}

#[derive(Template)]
#[template(path = "sandbox/pages/device.html")]
struct Device<'a> {
    user_code: &'a str,
    mailbox: &'a str,
    problem: Option<&'a str>,
}

#[derive(Template)]
#[template(path = "sandbox/pages/notice.html")]
struct Notice<'a> {
    title: &'a str,
    text: &'a str,
}

#[derive(Template)]
#[template(path = "sandbox/pages/mailbox.html")]
struct Mailbox {
    taken: usize,
    rows: Vec<Row>,
}

struct Row {
    number: usize,
    at: String,
    sender: String,
    recipients: String,
    subject: String,
    size: usize,
}

#[derive(Template)]
#[template(path = "sandbox/pages/message.html")]
struct Message {
    row: Row,
    mailbox: String,
    text: String,
    cut: bool,
}

/// Octets of a message that its page shows; the whole is behind the .eml link.
const SHOWN_LEN_MAX: usize = 64 * 1024;

/// Who asks for what, and in whose name.
pub(super) fn consent(
    scope: &str,
    client_id: &str,
    mailbox: &str,
    problem: Option<&str>,
) -> Response {
    render(
        StatusCode::OK,
        &Consent {
            scopes: scope.split_ascii_whitespace().collect(),
            client_id,
            mailbox,
            problem,
        },
    )
}

/// Where a device's code is typed in.
pub(super) fn device(user_code: &str, mailbox: &str, problem: Option<&str>) -> Response {
    render(
        StatusCode::OK,
        &Device {
            user_code,
            mailbox,
            problem,
        },
    )
}

/// One thing to say.
pub(super) fn notice(status: StatusCode, title: &str, text: &str) -> Response {
    render(status, &Notice { title, text })
}

/// The list of messages.
pub(super) fn mailbox(taken: usize, messages: &[Received]) -> Response {
    let rows = messages.iter().map(Row::new).collect();
    render(StatusCode::OK, &Mailbox { taken, rows })
}

/// One message.
pub(super) fn message(received: &Received) -> Response {
    let shown = received
        .octets
        .get(..SHOWN_LEN_MAX)
        .unwrap_or(&received.octets);
    render(
        StatusCode::OK,
        &Message {
            row: Row::new(received),
            mailbox: received.mailbox.clone(),
            text: String::from_utf8_lossy(shown).into_owned(),
            cut: shown.len() < received.octets.len(),
        },
    )
}

impl Row {
    fn new(received: &Received) -> Self {
        Self {
            number: received.number,
            at: format!("{:.0}", received.at),
            sender: if received.sender.is_empty() {
                "<>".to_owned()
            } else {
                received.sender.clone()
            },
            recipients: received.recipients.join(", "),
            subject: received.header("subject"),
            size: received.octets.len(),
        }
    }
}

fn render(status: StatusCode, page: &impl Template) -> Response {
    match page.render() {
        Ok(text) => {
            let policy = [(header::CONTENT_SECURITY_POLICY, POLICY)];
            (status, policy, Html(text)).into_response()
        }
        Err(error) => {
            tracing::error!(event = "page_failed", %error);
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
