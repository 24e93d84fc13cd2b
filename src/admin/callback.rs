//! The OAuth callback: where the provider sends the browser back to, and the page it then shows.
//!
//! The page is static HTML with what [`Oauth::callback`] says; nothing of the query is shown
//! unescaped, nothing of it is logged, and no script can run on it.

use std::{net::SocketAddr, sync::Arc};

use askama::Template;
use axum::{
    Router,
    http::{HeaderValue, Method, StatusCode, Uri, header},
    middleware,
    response::{Html, IntoResponse, Response},
};
use tokio::net::TcpListener;
use url::Url;

use super::{
    Certificate, Error,
    api::Problem,
    connection,
    guard::{self, Hosts},
};
use crate::{
    mail::AccountName,
    net::tasks::Tasks,
    oauth::{Diagnosis, Oauth},
};

/// Where the callback is unless a profile's redirect URL says otherwise.
pub(super) const DEFAULT_PATH: &str = "/authorization/smtp_oauth";
/// The same as redirect URLs have it.
pub(super) const DEFAULT_URL_PATH: &str = "/authorization/smtp_oauth/";

/// The policy of the page: its one style sheet, by its SHA-256, and nothing else.
const PAGE_POLICY: HeaderValue = HeaderValue::from_static(concat!(
    "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; ",
    "style-src 'sha256-",
    "AZMrqCB4Qc3Tcesx2gfN4gmOlJ5/XDWlxpkpFjGMESk=",
    "'"
));

/// What a person sees after the provider has sent the browser back.
#[derive(Template)]
#[template(
    ext = "html",
    source = r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }} - Gatepost</title>
<style>body{font:1.1rem/1.5 system-ui,sans-serif;max-width:34rem;margin:15vh auto;padding:0 1rem;color:#1c2733;background:#fff}h1{font-size:1.5rem}@media(prefers-color-scheme:dark){body{color:#dde5ee;background:#12181f}}</style>
</head>
<body>
<main>
<h1>{{ title }}</h1>
<p>{{ text }}</p>
<p><strong>{{ next }}</strong></p>
{% if let Some(back) = back %}<p><a href="{{ back }}">Back to the console</a></p>
{% endif %}</main>
</body>
</html>
"#
)]
struct Page<'a> {
    title: &'a str,
    text: &'a str,
    next: &'a str,
    /// Where the console goes on; none: there is no console.
    back: Option<&'a str>,
}

/// Whether `path` is the callback of one of `urls` (or the default), with or without its last slash.
pub(super) fn is_callback(path: &str, urls: &[Url]) -> bool {
    let path = path.trim_end_matches('/');
    // A profile whose redirect URL has no path gets its answer at `/`; the empty path is then right.
    path == DEFAULT_PATH
        || urls
            .iter()
            .any(|url| url.path().trim_end_matches('/') == path)
}

/// Answers a request to the callback; the page leads on to `back`. (A browser that leaves does not stop the redemption.)
pub(super) async fn answer(
    oauth: &Oauth,
    method: Method,
    uri: &Uri,
    back: Option<&str>,
) -> Response {
    // HEAD would use up the code without anybody seeing the page.
    if method != Method::GET {
        return Problem::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "the callback takes GET only",
        )
        .into_response();
    }
    let outcome = oauth.callback(uri.query().unwrap_or_default()).await;
    page(&outcome, back)
}

fn page(outcome: &Result<AccountName, Diagnosis>, back: Option<&str>) -> Response {
    let signed_in;
    let (status, page) = match outcome {
        Ok(account) => {
            signed_in = format!("Gatepost can now send mail through the account {account}.");
            let page = Page {
                title: "Signed in",
                text: &signed_in,
                next: "You can close this window.",
                back,
            };
            (StatusCode::OK, page)
        }
        Err(diagnosis) => {
            let page = Page {
                title: "Not signed in",
                text: &diagnosis.reason,
                next: &diagnosis.remedy,
                back,
            };
            (StatusCode::BAD_REQUEST, page)
        }
    };
    let html = match page.render() {
        Ok(html) => html,
        Err(error) => {
            return Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
                .into_response();
        }
    };
    let mut response = (status, Html(html)).into_response();
    response
        .headers_mut()
        .insert(header::CONTENT_SECURITY_POLICY, PAGE_POLICY);
    response
}

/// A server of nothing but the callback: for a sign-in while no daemon runs.
#[derive(Debug)]
pub struct CallbackServer {
    tasks: Tasks,
    address: SocketAddr,
}

impl CallbackServer {
    /// Binds `address` and answers the callback there until [`CallbackServer::stop`], over TLS with
    /// a certificate.
    ///
    /// # Errors
    /// [`Error::Bind`], [`Error::Certificate`].
    pub async fn start(
        address: SocketAddr,
        certificate: Option<Certificate>,
        oauth: Oauth,
    ) -> Result<Self, Error> {
        let certificate = certificate.as_ref().map(Certificate::open).transpose()?;
        let bind = |source| Error::Bind {
            what: "console",
            address,
            source,
        };
        let listener = TcpListener::bind(address).await.map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        let tasks = Tasks::new();
        let router = router(oauth);
        tasks.spawn(
            "callback_server",
            connection::serve_with(listener, certificate, router, tasks.clone()),
        );
        Ok(Self { tasks, address })
    }

    /// Where it listens (port 0 resolved).
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Finishes the answers under way and ends.
    pub async fn stop(self) {
        self.tasks.stop();
        self.tasks.drained().await;
    }
}

fn router(oauth: Oauth) -> Router {
    let asked = oauth.clone();
    let hosts: Hosts = Arc::new(move || {
        let urls = asked.redirect_urls();
        urls.iter().filter_map(guard::host_of).collect()
    });
    let callback = move |method: Method, uri: Uri| async move {
        if is_callback(uri.path(), &oauth.redirect_urls()) {
            answer(&oauth, method, &uri, None).await
        } else {
            Problem::new(StatusCode::NOT_FOUND, "nothing is here").into_response()
        }
    };
    Router::new()
        .fallback(callback)
        .layer(middleware::from_fn_with_state(hosts, guard::host))
        .layer(middleware::from_fn(guard::security_headers))
}

#[cfg(test)]
mod tests {
    use base64::prelude::{BASE64_STANDARD, Engine};

    use super::*;

    fn body(diagnosis: &Diagnosis) -> String {
        let page = Page {
            title: "Not signed in",
            text: &diagnosis.reason,
            next: &diagnosis.remedy,
            back: Some("/"),
        };
        page.render().unwrap()
    }

    /// What a provider (or an attacker's link) says is shown as text, never as markup.
    #[test]
    fn a_strange_text_is_escaped() {
        let html = body(&Diagnosis {
            reason: "<script>alert(1)</script>".into(),
            remedy: "\"><img src=x>".into(),
        });
        assert!(!html.contains("<script"), "{html}");
        assert!(!html.contains("<img"), "{html}");
    }

    /// The policy names the style that the page really has; else browsers would drop it.
    #[test]
    fn the_policy_allows_exactly_the_pages_style() {
        let html = body(&Diagnosis {
            reason: String::new(),
            remedy: String::new(),
        });
        let style = html.split_once("<style>").unwrap().1;
        let style = style.split_once("</style>").unwrap().0;
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, style.as_bytes());
        let wanted = format!("'sha256-{}'", BASE64_STANDARD.encode(digest));
        let policy = PAGE_POLICY;
        assert!(policy.to_str().unwrap().ends_with(&wanted), "{wanted}");
    }

    /// The default path and each profile's own, with and without the last slash, and nothing else.
    #[test]
    fn the_callback_is_at_the_redirect_urls() {
        let urls = [Url::parse("http://localhost:8025/oauth/done").unwrap()];
        for path in [
            "/authorization/smtp_oauth/",
            "/authorization/smtp_oauth",
            "/oauth/done",
            "/oauth/done/",
        ] {
            assert!(is_callback(path, &urls), "{path}");
        }
        for path in ["/", "/oauth", "/oauth/done/x", "/authorization"] {
            assert!(!is_callback(path, &urls), "{path}");
        }
    }
}
