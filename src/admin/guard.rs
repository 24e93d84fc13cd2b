//! What stands before the TCP address: the Host allow-list and the security headers.
//!
//! The Host check defeats DNS rebinding: a page of a stranger can make a browser connect to a
//! loopback address, but only under the stranger's name. An address that the connection really came
//! in on is no name anyone could have rebound, so it is allowed too (probes of a container).

use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use url::Url;

use super::{api::Problem, connection::LocalAddress};

/// Which names a console answers to; asked at each request, because a reload may change them.
pub(super) type Hosts = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

/// The names that always mean this machine. `url` writes IPv6 hosts in brackets, as `Host` does.
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

/// Answers 421 (RFC 9110 §15.5.20) to a request for another host.
pub(super) async fn host(State(hosts): State<Hosts>, request: Request, next: Next) -> Response {
    let local = request.extensions().get::<LocalAddress>().and_then(|l| l.0);
    let asked = asked_host(request.uri(), request.headers());
    if asked.is_some_and(|asked| is_allowed(&asked, local, &hosts())) {
        return next.run(request).await;
    }
    Problem::new(
        StatusCode::MISDIRECTED_REQUEST,
        "this console does not answer to that host name",
    )
    .remedy("use localhost, the console's address, or set console.public_url")
    .into_response()
}

/// The host that a request is for, in lower case and without its port.
fn asked_host(uri: &Uri, headers: &HeaderMap) -> Option<String> {
    let mut given = headers.get_all(header::HOST).iter();
    let authority = match (uri.authority(), given.next(), given.next()) {
        // An absolute URI overrules the field (RFC 9112 §3.2.2).
        (Some(authority), _, None) => authority.as_str(),
        (None, Some(field), None) => field.to_str().ok()?,
        // None at all, or two that may differ.
        _ => return None,
    };
    let host = match authority.rsplit_once(':') {
        // The colons inside an address literal are not the port's.
        Some((host, port)) if !port.ends_with(']') => host,
        _ => authority,
    };
    Some(host.to_ascii_lowercase())
}

fn is_allowed(asked: &str, local: Option<IpAddr>, hosts: &[String]) -> bool {
    let literal = asked.trim_start_matches('[').trim_end_matches(']');
    let is_local = literal.parse().is_ok_and(|ip: IpAddr| Some(ip) == local);
    is_local || LOOPBACK.contains(&asked) || hosts.iter().any(|host| host == asked)
}

/// The host of a configured URL as it appears in `Host`.
pub(super) fn host_of(url: &Url) -> Option<String> {
    url.host_str().map(str::to_ascii_lowercase)
}

/// Adds the security headers to every answer that has not set its own.
pub(super) async fn security_headers(request: Request, next: Next) -> Response {
    const HEADERS: [(HeaderName, HeaderValue); 4] = [
        (
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"),
        ),
        (
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        ),
        (
            header::REFERRER_POLICY,
            HeaderValue::from_static("no-referrer"),
        ),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    let mut response = next.run(request).await;
    for (name, value) in HEADERS {
        response.headers_mut().entry(name).or_insert(value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stranger's name is refused in every form; our own are taken with and without port.
    #[test]
    fn only_our_own_names_are_answered() {
        let hosts = ["relay.example.com".to_owned()];
        let local = Some(IpAddr::from([10, 0, 0, 5]));
        let cases = [
            ("localhost", true),
            ("LocalHost:8025", true),
            ("127.0.0.1:8025", true),
            ("[::1]:8025", true),
            ("[::1]", true),
            ("relay.example.com", true),
            ("10.0.0.5:8025", true),
            ("10.0.0.6:8025", false),
            ("evil.example", false),
            ("localhost.evil.example", false),
            ("evil.example:127.0.0.1", false),
            ("[::1].evil.example", false),
            ("", false),
        ];
        for (field, allowed) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_str(field).unwrap());
            let asked = asked_host(&Uri::from_static("/healthz"), &headers).unwrap();
            assert_eq!(is_allowed(&asked, local, &hosts), allowed, "{field}");
        }
    }

    /// No Host, or two of them, is no host that could be allowed.
    #[test]
    fn a_missing_or_doubled_host_is_none() {
        let uri = Uri::from_static("/");
        assert_eq!(asked_host(&uri, &HeaderMap::new()), None);
        let mut headers = HeaderMap::new();
        headers.append(header::HOST, HeaderValue::from_static("localhost"));
        headers.append(header::HOST, HeaderValue::from_static("evil.example"));
        assert_eq!(asked_host(&uri, &headers), None);
    }
}
