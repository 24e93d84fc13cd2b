//! Form and query parameters, and who the client is (RFC 6749 §2.3.1, §3.2).

use std::collections::BTreeMap;

use axum::http::{HeaderMap, header};
use base64::{Engine, engine::general_purpose::STANDARD};
use url::form_urlencoded;

use super::{CLIENT_ID, PUBLIC_CLIENT_ID, Provider, Refusal};

/// Parameters by name. An empty value counts as left out; none is given twice (RFC 6749 §3.1).
#[derive(Default)]
pub(super) struct Params(BTreeMap<String, String>);

/// A client that has authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Client {
    pub(super) id: &'static str,
    /// Whether it showed a secret.
    pub(super) confidential: bool,
}

impl Params {
    /// Reads a form body or a query.
    pub(super) fn parse(text: &[u8]) -> Result<Self, Refusal> {
        let mut params = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(text) {
            if value.is_empty() {
                continue;
            }
            if params
                .insert(name.into_owned(), value.into_owned())
                .is_some()
            {
                return Err(Refusal::PARAMETERS);
            }
        }
        Ok(Self(params))
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub(super) fn need(&self, name: &str) -> Result<&str, Refusal> {
        self.get(name).ok_or(Refusal::MISSING)
    }

    /// Who asks: Basic, form or, for the public client, its bare id.
    pub(super) fn client(
        &self,
        provider: &Provider,
        headers: &HeaderMap,
    ) -> Result<Client, Refusal> {
        let (id, secret) = match (basic(headers)?, self.get("client_secret")) {
            (Some(_), Some(_)) => return Err(Refusal::TWO_METHODS),
            (Some((id, secret)), None) => (id, Some(secret)),
            (None, secret) => (
                self.get("client_id").ok_or(Refusal::CLIENT)?.to_owned(),
                secret.map(str::to_owned),
            ),
        };
        match (id.as_str(), secret) {
            // The id may be repeated in the form beside Basic, but it must be the same.
            _ if self.get("client_id").is_some_and(|form| form != id) => Err(Refusal::CLIENT),
            (CLIENT_ID, Some(secret)) if secret == provider.client_secret.expose() => Ok(Client {
                id: CLIENT_ID,
                confidential: true,
            }),
            (PUBLIC_CLIENT_ID, None) => Ok(Client {
                id: PUBLIC_CLIENT_ID,
                confidential: false,
            }),
            _ => Err(Refusal::CLIENT),
        }
    }
}

/// Id and secret of a Basic header, each form-encoded before base64 (RFC 6749 §2.3.1).
fn basic(headers: &HeaderMap) -> Result<Option<(String, String)>, Refusal> {
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return Ok(None);
    };
    let decoded = value
        .to_str()
        .ok()
        .and_then(|text| text.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"))
        .and_then(|(_, text)| STANDARD.decode(text.trim()).ok())
        .and_then(|octets| String::from_utf8(octets).ok());
    let (id, secret) = decoded
        .as_deref()
        .and_then(|text| text.split_once(':'))
        .ok_or(Refusal::CLIENT)?;
    Ok(Some((form_decoded(id), form_decoded(secret))))
}

fn form_decoded(text: &str) -> String {
    // `&` and `=` cannot stand in encoded text, so the whole is one name.
    form_urlencoded::parse(text.as_bytes())
        .next()
        .map_or_else(String::new, |(name, _)| name.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_given_twice_is_refused_and_an_empty_one_is_left_out() {
        assert!(Params::parse(b"a=1&a=2").is_err());
        let params = Params::parse(b"a=&b=%20x+y").unwrap();
        assert_eq!((params.get("a"), params.get("b")), (None, Some(" x y")));
    }

    #[test]
    fn basic_credentials_are_form_encoded() {
        let mut headers = HeaderMap::new();
        let value = format!("Basic {}", STANDARD.encode("my+id:a%2Bb%3A"));
        headers.insert(header::AUTHORIZATION, value.parse().unwrap());
        let want = ("my id".to_owned(), "a+b:".to_owned());
        assert_eq!(basic(&headers), Ok(Some(want)));
        headers.insert(header::AUTHORIZATION, "Bearer x".parse().unwrap());
        assert_eq!(basic(&headers), Err(Refusal::CLIENT));
    }
}
