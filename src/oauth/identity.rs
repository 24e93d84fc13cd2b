//! Who signed in, and whether it is the one the account wants: from the id token of the token
//! response (OpenID Connect Core 1.0 §3.1.3), else from the userinfo endpoint (§5.3). A provider
//! that says neither is not asked again: the first AUTH shows whose token it is.
//!
//! The id token came from the token endpoint itself, over TLS, so its signature says nothing more
//! (§3.1.3.7 point 6). It is a check against mistakes of people: the browser had another session.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::{SignedDuration, Timestamp};
use reqwest::{Method, Request, header};
use serde::{Deserialize, Serialize};

use super::{
    Diagnosis,
    grant::{Grants, Profile},
    response::{Granted, seconds, text},
};
use crate::secret::Secret;

/// Clocks may differ by this much.
const SKEW: SignedDuration = SignedDuration::from_mins(5);

/// Longest name that is shown: a mail address is no longer (RFC 5321 §4.5.3.1).
const NAME_MAX: usize = 254;

/// The person behind a sign-in, for ever the same at one issuer (§2: `iss` and `sub` together).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Subject {
    iss: String,
    sub: String,
}

/// What a provider says of a person (§5.1), and of the token that says it (§2).
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Claims {
    #[serde(default, deserialize_with = "text")]
    iss: Option<String>,
    #[serde(default, deserialize_with = "text")]
    sub: Option<String>,
    #[serde(default)]
    aud: Audience,
    #[serde(default, deserialize_with = "seconds")]
    exp: Option<u64>,
    #[serde(default, deserialize_with = "text")]
    nonce: Option<String>,
    #[serde(default, deserialize_with = "text")]
    email: Option<String>,
    #[serde(default)]
    email_verified: serde_json::Value,
    #[serde(default, deserialize_with = "text")]
    preferred_username: Option<String>,
    /// Microsoft's optional claim.
    #[serde(default, deserialize_with = "text")]
    upn: Option<String>,
    /// Microsoft's tenant of the person.
    #[serde(default, deserialize_with = "text")]
    tid: Option<String>,
}

/// One audience or several.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
    #[default]
    None,
}

impl Audience {
    fn has(&self, client_id: &str) -> bool {
        match self {
            Self::One(one) => one == client_id,
            Self::Several(several) => several.iter().any(|one| one == client_id),
            Self::None => false,
        }
    }
}

/// Why a sign-in is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refused {
    /// For a reason that names nobody.
    Told(Diagnosis),
    /// Somebody else signed in.
    Stranger(Box<Stranger>),
}

/// Somebody whom the account does not want.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stranger {
    /// Who signed in, harmless to print.
    pub(super) signed_in_as: String,
    /// Whom the account wants.
    pub(super) expected: String,
    pub(super) diagnosis: Diagnosis,
}

impl From<Diagnosis> for Refused {
    fn from(diagnosis: Diagnosis) -> Self {
        Self::Told(diagnosis)
    }
}

impl Refused {
    pub(super) fn into_diagnosis(self) -> Diagnosis {
        match self {
            Self::Told(diagnosis) => diagnosis,
            Self::Stranger(stranger) => stranger.diagnosis,
        }
    }
}

impl Grants {
    /// Who signed in, if the provider says; then it is whom the account wants.
    ///
    /// # Errors
    /// Somebody else, or an id token that is not of this sign-in.
    pub(super) async fn identify(
        &self,
        profile: &Profile,
        granted: &Granted,
        nonce: Option<&str>,
    ) -> Result<Option<Subject>, Refused> {
        let told = granted.id_token.as_ref().map(|token| read(token.expose()));
        let told = told
            .transpose()
            .map_err(|Unreadable| not_ours(profile, "cannot be read", AGAIN))?;
        let mut claims = Claims::default();
        if let Some(told) = told.flatten() {
            told.check(profile, nonce, self.now())
                .map_err(|(what, remedy)| not_ours(profile, what, remedy))?;
            claims = told;
        }
        if !claims.name_somebody() {
            let more = self.userinfo(profile, granted).await;
            // §5.3.2: what it says about another subject is worth nothing.
            let more = more.filter(|more| claims.sub.is_none() || claims.sub == more.sub);
            claims.learn(more.unwrap_or_default());
        }
        match claims.stranger(profile) {
            Some(stranger) => Err(Refused::Stranger(Box::new(stranger))),
            None => Ok(claims.subject()),
        }
    }

    /// What the userinfo endpoint says of the owner of a fresh token, if there is one that answers.
    async fn userinfo(&self, profile: &Profile, granted: &Granted) -> Option<Claims> {
        let endpoints = self.endpoints(profile).await.ok()?;
        let url = endpoints.userinfo.filter(|_| endpoints.asks_openid)?;
        let client = self
            .clients
            .client(&url, profile.provider.way())
            .await
            .ok()?;
        let mut request = Request::new(Method::GET, url);
        let token = oauth2::TokenResponse::access_token(granted).secret();
        let mut bearer = header::HeaderValue::try_from(format!("Bearer {token}")).ok()?;
        bearer.set_sensitive(true);
        request.headers_mut().insert(header::AUTHORIZATION, bearer);
        let answer = client.exchange(request).await;
        let status = answer.as_ref().map(|answer| answer.status.as_u16());
        match &answer {
            Ok(answer) if answer.status.as_u16() == 200 && answer.is_json() => {
                serde_json::from_slice(&answer.body).ok()
            }
            Ok(_) | Err(_) => {
                tracing::info!(event = "userinfo_missing", account = %profile.name,
                    status = status.unwrap_or_default());
                None
            }
        }
    }
}

/// Whether an id token that came with a refresh is about the person who signed in (§12.2). One that
/// says nothing of a person contradicts nothing.
pub(super) fn is_same(signed_in: &Subject, id_token: &Secret) -> bool {
    let claims = read(id_token.expose()).ok().flatten();
    let subject = claims.and_then(|claims| claims.subject());
    subject.is_none_or(|subject| subject == *signed_in)
}

/// Not a JWT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Unreadable;

/// The claims of a JWT (RFC 7519); none of one that is encrypted to a key we do not have.
fn read(token: &str) -> Result<Option<Claims>, Unreadable> {
    let parts: Vec<&str> = token.split('.').collect();
    let payload = match parts.as_slice() {
        [_, payload, _] => payload,
        [_, _, _, _, _] => return Ok(None),
        _ => return Err(Unreadable),
    };
    let payload = URL_SAFE_NO_PAD.decode(payload).map_err(|_| Unreadable)?;
    serde_json::from_slice(&payload)
        .map(Some)
        .map_err(|_| Unreadable)
}

const AGAIN: &str = "begin again; if it stays, compare client_id and URLs of the provider profile with the registration";

impl Claims {
    /// Whether the token is of this sign-in (§3.1.3.7); else what is wrong with it, and the remedy.
    fn check(
        &self,
        profile: &Profile,
        nonce: Option<&str>,
        now: Timestamp,
    ) -> Result<(), (&'static str, &'static str)> {
        let provider = &profile.provider;
        // Microsoft's issuer carries the person's tenant; that is compared by itself.
        let known = provider.issuer.as_deref();
        let issuer = self.iss.as_deref().map(with_scheme);
        if known.is_some() && issuer.as_deref() != known {
            return Err(("is another issuer's", AGAIN));
        }
        if !self.aud.has(&provider.client_id) {
            return Err(("is for another client", AGAIN));
        }
        let ends = self.exp.and_then(|exp| i64::try_from(exp).ok());
        let ends = ends.and_then(|exp| Timestamp::from_second(exp).ok());
        if ends.is_none_or(|ends| ends < now.saturating_sub(SKEW).unwrap_or(now)) {
            let remedy = "check this machine's clock, then: gatepost login ACCOUNT";
            return Err(("has expired", remedy));
        }
        if nonce.is_some() && self.nonce.as_deref() != nonce {
            return Err(("is of another sign-in (nonce)", AGAIN));
        }
        Ok(())
    }

    /// Takes over what else is known of the same person.
    fn learn(&mut self, more: Self) {
        if more.email.is_some() {
            self.email = more.email;
            self.email_verified = more.email_verified;
        }
        self.preferred_username = more.preferred_username.or(self.preferred_username.take());
    }

    fn subject(&self) -> Option<Subject> {
        let iss = with_scheme(self.iss.as_deref()?);
        let sub = self.sub.clone().filter(|sub| !sub.is_empty())?;
        Some(Subject { iss, sub })
    }

    /// The names people know them by. An address that the provider says it has not verified is
    /// whatever the person typed there.
    fn names(&self) -> impl Iterator<Item = &str> {
        let unverified = self.email_verified == false || self.email_verified == "false";
        let email = self.email.as_deref().filter(|_| !unverified);
        let names = [
            self.preferred_username.as_deref(),
            self.upn.as_deref(),
            email,
        ];
        names.into_iter().flatten().filter(|name| !name.is_empty())
    }

    fn name_somebody(&self) -> bool {
        self.names().any(|name| name.contains('@'))
    }

    /// Somebody else than the account wants, if that can be told.
    fn stranger(&self, profile: &Profile) -> Option<Stranger> {
        let expected = profile.account.user();
        let is_expected = |name: &str| name.to_lowercase() == expected.to_lowercase();
        // An account name can be compared with account names alone, an address with addresses.
        let is_like = |name: &&str| name.contains('@') == expected.contains('@');
        let known = self.names().any(is_expected) || self.sub.as_deref().is_some_and(is_expected);
        let other = self.names().find(is_like).filter(|_| !known);
        let tenant = profile.provider.tenant_id.as_deref();
        let elsewhere = self
            .tid
            .as_deref()
            .filter(|tid| tenant.is_some_and(|tenant| !tenant.eq_ignore_ascii_case(tid)));
        let key = match profile.account.sign_in_user {
            Some(_) => "sign_in_user",
            None => "mailbox",
        };
        let signed_in_as = shown(other.or(self.names().next()).unwrap_or("somebody"));
        let diagnosis = match (elsewhere, other) {
            (Some(tid), _) => profile.diagnosis(
                format!(
                    "{signed_in_as} signed in, of the tenant {}; the provider profile is for the \
                     tenant {}",
                    shown(tid),
                    tenant.unwrap_or_default()
                ),
                "sign in with the right user: gatepost login ACCOUNT; or correct tenant of the \
                 provider profile",
            ),
            (None, Some(_)) => profile.diagnosis(
                format!("{signed_in_as} signed in, but the {key} of the account is {expected}"),
                &format!(
                    "sign in as {expected} (perhaps in a private window): gatepost login ACCOUNT; or, if \
                     {signed_in_as} is that mailbox under its user name (a UPN may differ from the \
                     address) or may send as it (shared mailbox, delegate), enter {signed_in_as} as who signs \
                     in: in the console in the account's form, in the file as sign_in_user in \
                     [account.ACCOUNT]"
                ),
            ),
            (None, None) => return None,
        };
        Some(Stranger {
            signed_in_as,
            expected: expected.to_owned(),
            diagnosis,
        })
    }
}

/// Google names itself with and without its scheme.
fn with_scheme(iss: &str) -> String {
    if iss.contains("://") {
        iss.to_owned()
    } else {
        format!("https://{iss}")
    }
}

/// A name that a provider gave, harmless to print and to paste into a configuration.
fn shown(name: &str) -> String {
    let harmless = |c: &char| !c.is_control() && !c.is_whitespace() && !"<>\"\\".contains(*c);
    name.chars().filter(harmless).take(NAME_MAX).collect()
}

fn not_ours(profile: &Profile, what: &str, remedy: &str) -> Diagnosis {
    profile.diagnosis(format!("the id token that came {what}"), remedy)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn token(claims: &serde_json::Value) -> String {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()))
    }

    #[test]
    fn a_token_is_read_and_what_is_none_is_not() {
        let claims = read(&token(&json!({ "sub": "1", "aud": ["a", "b"] })))
            .unwrap()
            .unwrap();
        assert!(claims.aud.has("b") && !claims.aud.has("c"));
        assert_eq!(read("a.b.c.d.e"), Ok(None), "encrypted to somebody");
        for bad in [
            "",
            "a.b",
            "a.!.c",
            "a.e30=.c",
            "e30.IjEi.x",
            &token(&json!({ "aud": 7 })),
        ] {
            assert_eq!(read(bad), Err(Unreadable), "{bad}");
        }
    }

    #[test]
    fn a_name_is_made_harmless() {
        let shown = shown(&format!("a\r\n<b>\"\\\u{1b}{}", "x".repeat(500)));
        assert!(
            shown.starts_with("abx") && shown.len() == NAME_MAX,
            "{shown}"
        );
    }

    #[test]
    fn an_address_counts_as_a_name_unless_it_is_said_to_be_unverified() {
        let names = |claims: serde_json::Value| -> Vec<String> {
            let claims: Claims = serde_json::from_value(claims).unwrap();
            claims.names().map(str::to_owned).collect()
        };
        assert_eq!(names(json!({ "email": "a@b" })), ["a@b"]);
        assert_eq!(
            names(json!({ "email": "a@b", "email_verified": true })),
            ["a@b"]
        );
        for no in [json!(false), json!("false")] {
            let claims = json!({ "email": "a@b", "email_verified": no, "upn": "u@b" });
            assert_eq!(names(claims), ["u@b"]);
        }
        assert!(names(json!({ "email": "", "preferred_username": null })).is_empty());
    }

    #[test]
    fn a_subject_is_the_same_person_at_the_same_issuer() {
        let google = |iss: &str| token(&json!({ "iss": iss, "sub": "7" }));
        let signed_in = Subject {
            iss: "https://accounts.google.com".to_owned(),
            sub: "7".to_owned(),
        };
        for (id_token, same) in [
            (google("accounts.google.com"), true),
            (google("https://accounts.google.com"), true),
            (google("https://evil.example"), false),
            (
                token(&json!({ "iss": "accounts.google.com", "sub": "8" })),
                false,
            ),
            (token(&json!({})), true),
            ("opaque".to_owned(), true),
        ] {
            let is_same = is_same(&signed_in, &Secret::new(id_token.clone()));
            assert_eq!(is_same, same, "{id_token}");
        }
    }
}
