//! What a token endpoint says, read leniently where providers differ and strictly where it matters.
//!
//! Nothing of a body is ever quoted but fields made harmless here: no token can reach a log.

use std::{fmt, time::Duration};

use oauth2::{AccessToken, RefreshToken, Scope, TokenResponse, TokenType};
use serde::{Deserialize, Deserializer, Serialize};
use zeroize::Zeroizing;

use crate::secret::Secret;

/// An access token beyond this fits no SASL exchange (RFC 4954 §4: 12 288 octets of base64).
const ACCESS_TOKEN_MAX: usize = 8 * 1024;

/// Longest remark of a provider that is shown to the operator.
const REMARK_MAX: usize = 240;

/// A longer run without a space may be a token that the provider echoes, and is not shown.
const WORD_MAX: usize = 38;

/// Shorter texts are no secrets and may stand in a remark by chance.
const SECRET_MIN: usize = 4;

/// A successful response (RFC 6749 §5.1).
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Granted {
    access_token: AccessToken,
    #[serde(default)]
    token_type: Type,
    #[serde(default, deserialize_with = "seconds")]
    pub(super) expires_in: Option<u64>,
    #[serde(default)]
    refresh_token: Option<RefreshToken>,
    #[serde(default, deserialize_with = "text")]
    pub(super) scope: Option<String>,
    /// Who signed in (OpenID Connect Core 1.0 §3.1.3.3). Personal data: shown nowhere whole.
    #[serde(default, deserialize_with = "secret", skip_serializing)]
    pub(super) id_token: Option<Secret>,
    /// Google, where the consent itself has an end (time-limited access).
    #[serde(default, deserialize_with = "seconds")]
    pub(super) refresh_token_expires_in: Option<u64>,
}

/// `token_type`, in whatever case; servers that leave it out mean bearer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Type(String);

impl Default for Type {
    fn default() -> Self {
        Self("bearer".to_owned())
    }
}

impl TokenType for Type {}

/// Why a successful response is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unusable {
    #[error("its token type is not bearer")]
    Type,
    #[error("its access token holds characters that no token may hold")]
    Characters,
    #[error("its access token is too long")]
    Length,
}

impl Granted {
    /// Checks what a SASL exchange relies on: a bearer token of visible ASCII and fair length. A
    /// control octet in it would end a line or a field of the AUTH exchange.
    pub(super) fn check(&self) -> Result<(), Unusable> {
        let token = self.access_token.secret();
        if !self.token_type.0.eq_ignore_ascii_case("bearer") {
            Err(Unusable::Type)
        } else if token.len() > ACCESS_TOKEN_MAX {
            Err(Unusable::Length)
        } else if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
            Err(Unusable::Characters)
        } else {
            Ok(())
        }
    }

    /// The refresh token, where there is one (some servers send an empty one).
    pub(super) fn refresh(&self) -> Option<&str> {
        let token = self.refresh_token.as_ref()?.secret();
        (!token.is_empty()).then_some(token)
    }
}

impl TokenResponse for Granted {
    type TokenType = Type;

    fn access_token(&self) -> &AccessToken {
        &self.access_token
    }

    fn token_type(&self) -> &Type {
        &self.token_type
    }

    fn expires_in(&self) -> Option<Duration> {
        self.expires_in.map(Duration::from_secs)
    }

    fn refresh_token(&self) -> Option<&RefreshToken> {
        self.refresh_token.as_ref()
    }

    /// Never told: the crate's type wants a list, and only the text is of use here.
    fn scopes(&self) -> Option<&Vec<Scope>> {
        None
    }
}

/// An error response (RFC 6749 §5.2) with what Microsoft and Google add to it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Refusal {
    pub(super) error: String,
    #[serde(default, deserialize_with = "text")]
    error_description: Option<String>,
    /// AADSTS numbers.
    #[serde(default, deserialize_with = "numbers")]
    pub(super) error_codes: Vec<u32>,
    #[serde(default, deserialize_with = "text")]
    pub(super) suberror: Option<String>,
    /// Google's counterpart of `suberror`.
    #[serde(default, deserialize_with = "text")]
    pub(super) error_subtype: Option<String>,
    /// A conditional access challenge: only a person can answer it.
    #[serde(default, deserialize_with = "text")]
    pub(super) claims: Option<String>,
    #[serde(default, deserialize_with = "text")]
    trace_id: Option<String>,
    #[serde(default, deserialize_with = "text")]
    correlation_id: Option<String>,
}

impl Refusal {
    /// A refusal by its code and text, as the redirect of an authorization request brings them.
    pub(super) fn new(error: &str, description: Option<&str>) -> Self {
        Self {
            error: error.to_owned(),
            error_description: description.map(str::to_owned),
            ..Self::default()
        }
    }

    /// Blots out what we sent in confidence, should the provider echo it.
    pub(super) fn blot(&mut self, secrets: &[Zeroizing<String>]) {
        let optional = [
            &mut self.error_description,
            &mut self.suberror,
            &mut self.error_subtype,
            &mut self.trace_id,
            &mut self.correlation_id,
        ];
        let fields = optional.into_iter().flatten().chain([&mut self.error]);
        for field in fields {
            for secret in secrets.iter().filter(|secret| secret.len() >= SECRET_MIN) {
                *field = field.replace(secret.as_str(), "[...]");
            }
        }
    }

    /// The error code, harmless to print.
    pub(super) fn code(&self) -> String {
        identifier(&self.error)
    }

    /// The AADSTS number: told as such, or read from the description's beginning.
    pub(super) fn aadsts(&self) -> Option<u32> {
        let told = self.error_codes.first().copied();
        told.or_else(|| {
            let text = self.error_description.as_deref()?;
            let digits = text.strip_prefix("AADSTS")?;
            digits
                .split(|c: char| !c.is_ascii_digit())
                .next()?
                .parse()
                .ok()
        })
    }

    /// What the provider remarked, harmless to print: one line, no run that could be a token.
    pub(super) fn remark(&self) -> Option<String> {
        let text = self.error_description.as_deref()?;
        // Microsoft goes on with trace id, correlation id and time in lines of their own.
        let line = text.lines().next()?;
        // No markup either: some page may show this.
        let harmless = |c: &char| !c.is_control() && !matches!(c, '<' | '>');
        let mut remark = String::new();
        for word in line.split_whitespace() {
            let word: String = word.chars().filter(harmless).collect();
            if remark.len() + word.len() > REMARK_MAX {
                remark.push_str(" ...");
                break;
            }
            if !remark.is_empty() {
                remark.push(' ');
            }
            remark.push_str(if word.len() > WORD_MAX {
                "[...]"
            } else {
                &word
            });
        }
        (!remark.is_empty()).then_some(remark)
    }

    /// What support at Microsoft asks for.
    pub(super) fn trace(&self) -> Option<String> {
        let id = self
            .trace_id
            .as_deref()
            .or(self.correlation_id.as_deref())?;
        Some(identifier(id))
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.code())
    }
}

impl oauth2::ErrorResponse for Refusal {}

/// Letters, digits, `_`, `-`, `.` and `:` of an identifier, at most 64.
fn identifier(text: &str) -> String {
    let harmless = |c: &char| c.is_ascii_alphanumeric() || "_-.:".contains(*c);
    text.chars().filter(harmless).take(64).collect()
}

/// Seconds as a number or as a numeric text; anything else counts as not told.
pub(super) fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    Ok(match serde_json::Value::deserialize(deserializer)? {
        serde_json::Value::Number(number) => number.as_u64().or_else(|| {
            // 3599.0: some servers count in floating point.
            let whole = number.to_string();
            whole.split('.').next()?.parse().ok()
        }),
        serde_json::Value::String(text) => text.trim().parse().ok(),
        serde_json::Value::Null
        | serde_json::Value::Bool(_)
        | serde_json::Value::Array(_)
        | serde_json::Value::Object(_) => None,
    })
}

/// A text; a list of texts joined by spaces; anything else counts as not told.
pub(super) fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(match serde_json::Value::deserialize(deserializer)? {
        serde_json::Value::String(text) => Some(text),
        serde_json::Value::Array(parts) => {
            let texts: Vec<&str> = parts.iter().filter_map(|part| part.as_str()).collect();
            Some(texts.join(" "))
        }
        serde_json::Value::Null
        | serde_json::Value::Bool(_)
        | serde_json::Value::Number(_)
        | serde_json::Value::Object(_) => None,
    })
}

/// A text that is not to be shown; anything else counts as not told.
fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Secret>, D::Error> {
    Ok(text(deserializer)?.map(Secret::new))
}

/// A list of numbers; what is none of them is left out.
fn numbers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u32>, D::Error> {
    let serde_json::Value::Array(parts) = serde_json::Value::deserialize(deserializer)? else {
        return Ok(Vec::new());
    };
    let number = |part: &serde_json::Value| part.as_u64().and_then(|n| u32::try_from(n).ok());
    Ok(parts.iter().filter_map(number).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(json: &str) -> Granted {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_life_is_read_from_a_number_or_a_text() {
        for (value, expected) in [
            ("3599", Some(3599)),
            ("\"3599\"", Some(3599)),
            ("3599.0", Some(3599)),
            ("null", None),
            ("-1", None),
            ("\"soon\"", None),
            ("[]", None),
        ] {
            let json = format!(r#"{{"access_token":"a","expires_in":{value}}}"#);
            assert_eq!(granted(&json).expires_in, expected, "{value}");
        }
        assert_eq!(granted(r#"{"access_token":"a"}"#).expires_in, None);
    }

    #[test]
    fn a_token_that_could_break_an_auth_exchange_is_refused() {
        for (token, kind, expected) in [
            ("ya29.a-b_c~d+e/f=", "Bearer", Ok(())),
            ("a", "BEARER", Ok(())),
            ("a", "mac", Err(Unusable::Type)),
            ("", "bearer", Err(Unusable::Characters)),
            ("a\\r\\nMAIL", "bearer", Err(Unusable::Characters)),
            ("a\\u0001", "bearer", Err(Unusable::Characters)),
            ("a b", "bearer", Err(Unusable::Characters)),
            ("\u{e9}", "bearer", Err(Unusable::Characters)),
        ] {
            let json = format!(r#"{{"access_token":"{token}","token_type":"{kind}"}}"#);
            assert_eq!(granted(&json).check(), expected, "{token}");
        }
        let long = format!(r#"{{"access_token":"{}"}}"#, "x".repeat(9000));
        assert_eq!(granted(&long).check(), Err(Unusable::Length));
    }

    #[test]
    fn a_refusal_keeps_what_microsoft_adds() {
        let refusal: Refusal = serde_json::from_str(
            r#"{"error":"invalid_client","error_description":"AADSTS7000222: The provided client secret keys for app 'x' are expired.\r\nTrace ID: y",
                "error_codes":[7000222],"trace_id":"1-2","claims":"{}","suberror":"bad"}"#,
        )
        .unwrap();
        assert_eq!(refusal.aadsts(), Some(7_000_222));
        assert_eq!(refusal.trace().as_deref(), Some("1-2"));
        let remark = "AADSTS7000222: The provided client secret keys for app 'x' are expired.";
        assert_eq!(refusal.remark().as_deref(), Some(remark));
        let bare = Refusal::new("invalid_grant", Some("AADSTS70008: expired"));
        assert_eq!(bare.aadsts(), Some(70008));
    }

    #[test]
    fn what_we_sent_is_blotted_out_of_every_field() {
        let mut refusal = Refusal::new("no canary", Some("bad token: canary"));
        refusal.suberror = Some("canary".to_owned());
        refusal.blot(&[Zeroizing::new("canary".to_owned()), Zeroizing::default()]);
        assert!(!format!("{refusal:?}").contains("canary"));
        assert_eq!(refusal.remark().as_deref(), Some("bad token: [...]"));
    }

    #[test]
    fn a_token_echoed_by_a_provider_is_not_shown() {
        let canary = "canary".repeat(8);
        let refusal = Refusal::new(
            &format!("bad\r\n {canary}{canary}"),
            Some(&format!("no such token: {canary} \u{7}ok\nsecond {canary}")),
        );
        assert_eq!(refusal.remark().as_deref(), Some("no such token: [...] ok"));
        assert!(refusal.code().len() <= 64 && !refusal.code().contains(['\r', '\n', ' ']));
    }
}
