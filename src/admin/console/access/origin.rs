//! Whether a request comes from a page of our own: what a browser says of it (Origin,
//! Sec-Fetch-Site). Pure.
//!
//! A browser that says neither is none: a program, which no page can make ask for it.

use axum::http::{HeaderMap, Method, header};
use url::Url;

/// Whether a method may change something (RFC 9110 §9.2.1).
pub(super) fn is_unsafe(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// Whether a request that changes something comes from a page of this console. `public_url`: where
/// a proxy makes it reachable, under a Host of its own perhaps.
pub(super) fn is_ours(headers: &HeaderMap, public_url: Option<&Url>) -> bool {
    if let Some(site) = headers.get("sec-fetch-site")
        && site != "same-origin"
        && site != "none"
    {
        return false;
    }
    let mut given = headers.get_all(header::ORIGIN).iter();
    let (origin, second) = (given.next(), given.next());
    let Some(origin) = origin else { return true };
    let Ok(origin) = origin.to_str() else {
        return false;
    };
    // `null` is what a sandboxed page, or one that a redirect led here, says.
    let Ok(origin) = Url::parse(origin) else {
        return false;
    };
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let is_public = public_url.is_some_and(|url| url.origin() == origin.origin());
    second.is_none() && (is_public || host.is_some_and(|host| is_host(&origin, host)))
}

/// Whether a page of another site led here, as a browser says: it then sends no cookie of ours.
pub(super) fn is_foreign(headers: &HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site");
    site.is_some_and(|site| site == "cross-site" || site == "same-site")
}

/// Whether an origin is the host that was asked, port included. The scheme may differ: a proxy that
/// ends TLS speaks plain HTTP with us.
fn is_host(origin: &Url, host: &str) -> bool {
    let Ok(asked) = Url::parse(&format!("{}://{host}/", origin.scheme())) else {
        return false;
    };
    asked.host() == origin.host() && asked.port_or_known_default() == origin.port_or_known_default()
}

/// Whether the browser came over TLS, whoever ended it.
pub(super) fn is_https(headers: &HeaderMap) -> bool {
    let origin = headers.get(header::ORIGIN).and_then(|o| o.to_str().ok());
    origin.is_some_and(|origin| origin.starts_with("https://"))
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    /// A stranger's page is told by either field; a program without them is let through.
    #[test]
    fn only_our_own_pages_may_change_something() {
        let public = Url::parse("https://relay.example.com").unwrap();
        let cases: [(&[(&str, &str)], bool); 14] = [
            (&[], true),
            (&[("origin", "http://localhost:8025")], true),
            (&[("origin", "https://localhost:8025")], true),
            (&[("origin", "https://relay.example.com")], true),
            (&[("origin", "http://relay.example.com")], false),
            (&[("origin", "http://localhost:9999")], false),
            (&[("origin", "http://localhost")], false),
            (&[("origin", "http://evil.example")], false),
            (&[("origin", "http://localhost:8025.evil.example")], false),
            (&[("origin", "null")], false),
            (&[("sec-fetch-site", "same-origin")], true),
            (&[("sec-fetch-site", "cross-site")], false),
            (
                &[
                    ("sec-fetch-site", "same-site"),
                    ("origin", "http://localhost:8025"),
                ],
                false,
            ),
            (
                &[
                    ("origin", "http://localhost:8025"),
                    ("origin", "http://evil.example"),
                ],
                false,
            ),
        ];
        for (fields, wanted) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static("localhost:8025"));
            for (name, value) in fields {
                let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
                headers.append(name, HeaderValue::from_str(value).unwrap());
            }
            assert_eq!(is_ours(&headers, Some(&public)), wanted, "{fields:?}");
        }
    }

    /// The port that a scheme implies is the same whether it is written or not.
    #[test]
    fn the_port_of_the_scheme_may_be_left_out() {
        let origin = Url::parse("https://relay.example.com").unwrap();
        assert!(is_host(&origin, "relay.example.com"));
        assert!(is_host(&origin, "relay.example.com:443"));
        assert!(!is_host(&origin, "relay.example.com:8025"));
    }
}
