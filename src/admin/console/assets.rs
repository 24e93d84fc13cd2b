//! Style sheet, script and icon: embedded, without a build step. Browsers ask each time whether they
//! have changed, so that an update is seen at once.

use aws_lc_rs::digest::{SHA256, digest};
use axum::{
    extract::Path,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};

use crate::admin::api::Problem;

const STYLE: &str = include_str!("assets/style.css");
const SCRIPT: &str = include_str!("assets/console.js");
const ICON: &str = include_str!("assets/icon.svg");

pub(super) async fn asset(Path(name): Path<String>, headers: HeaderMap) -> Response {
    const CACHE: HeaderValue = HeaderValue::from_static("no-cache");
    let (kind, text) = match name.as_str() {
        "style.css" => ("text/css; charset=utf-8", STYLE),
        "console.js" => ("text/javascript; charset=utf-8", SCRIPT),
        "icon.svg" => ("image/svg+xml", ICON),
        _ => return Problem::new(StatusCode::NOT_FOUND, "nothing is here").into_response(),
    };
    let tag = digest(&SHA256, text.as_bytes());
    let tag = format!("\"{}\"", BASE64_URL_SAFE_NO_PAD.encode(tag));
    let known = headers.get(header::IF_NONE_MATCH);
    let is_known = known.is_some_and(|known| known.as_bytes() == tag.as_bytes());
    let Ok(tag) = HeaderValue::from_str(&tag) else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let fields = [(header::ETAG, tag), (header::CACHE_CONTROL, CACHE)];
    if is_known {
        return (StatusCode::NOT_MODIFIED, fields).into_response();
    }
    let kind = HeaderValue::from_static(kind);
    (fields, [(header::CONTENT_TYPE, kind)], text).into_response()
}
