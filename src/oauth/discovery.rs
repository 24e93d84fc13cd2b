//! What an issuer says of itself: OpenID Connect Discovery 1.0, else RFC 8414. And the issuer that an
//! answer in the browser must name (RFC 9207).
//!
//! A document is hostile input: it is believed only under the exact name that was configured, and no
//! URL in it may leave TLS. It is fetched when first needed and kept; one that cannot be fetched
//! again goes on serving.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use reqwest::{Method, Request};
use serde::Deserialize;
use tokio::{sync::Mutex, time::Instant};
use url::{Origin, Url};

use super::{
    Provider,
    error::{self, Failure, Severity},
    grant::{Grants, Profile},
    preset,
};
use crate::net::http::{self, Clients};

/// A document older than this is fetched again: an endpoint that moves costs an hour at most.
const AGE_MAX: Duration = Duration::from_secs(3600);

/// After a failure the next attempt comes no sooner: a thousand accounts of one issuer ask it once.
const RETRY_EVERY: Duration = Duration::from_secs(60);

/// Longest name of an issuer that is shown to the operator.
const NAME_MAX: usize = 200;

/// Where a profile's requests go: as configured, and where the configuration is silent, as the
/// issuer says.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Endpoints {
    pub(super) token: Url,
    pub(super) authorization: Option<Url>,
    pub(super) device_authorization: Option<Url>,
    pub(super) revocation: Option<Url>,
    pub(super) userinfo: Option<Url>,
    /// What is asked for at sign-in: the profile's scope, and what makes the provider say who signed
    /// in.
    pub(super) scope: String,
    /// Whether that is OpenID Connect, so that a nonce goes with it.
    pub(super) asks_openid: bool,
    /// Whom an answer in the browser must name.
    pub(super) answers_as: AnswersAs,
    /// The issuer lists the challenges it takes (RFC 7636), and ours is not among them.
    pub(super) refuses_s256: bool,
}

/// Whom an answer in the browser must name in `iss` (RFC 9207).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum AnswersAs {
    /// Exactly this issuer; one that has `promised` to name itself may not stay silent.
    Issuer { name: String, promised: bool },
    /// A profile made of URLs holds no issuer: its origin is that of the authorization URL, which
    /// only it can serve. It may stay silent.
    Origin(Option<Origin>),
}

impl AnswersAs {
    /// Whether an answer with this `iss` can come from the provider that was asked.
    pub(super) fn fits(&self, iss: Option<&str>) -> bool {
        match (self, iss) {
            (Self::Issuer { promised, .. }, None) => !promised,
            (Self::Issuer { name, .. }, Some(iss)) => name == iss,
            (Self::Origin(_), None) => true,
            (Self::Origin(origin), Some(iss)) => {
                Url::parse(iss).ok().map(|iss| iss.origin()) == *origin
            }
        }
    }
}

impl Grants {
    /// Where the profile's tokens come from.
    pub(super) async fn token_url(&self, profile: &Profile) -> Result<Url, Box<Failure>> {
        match &profile.provider.token_url {
            Some(url) => Ok(url.clone()),
            None => Ok(self.endpoints(profile).await?.token),
        }
    }

    /// Everything a sign-in needs to know.
    pub(super) async fn endpoints(&self, profile: &Profile) -> Result<Endpoints, Box<Failure>> {
        let provider = &profile.provider;
        let metadata = match &provider.issuer {
            Some(issuer) if provider.is_discovered() => {
                let found = self.issuers.metadata(&self.clients, provider, issuer).await;
                Some(found?)
            }
            Some(_) | None => None,
        };
        let metadata = metadata.as_deref();
        let or = |given: &Option<Url>, found: fn(&Metadata) -> &Option<Url>| {
            given.clone().or_else(|| found(metadata?).clone())
        };
        let authorization = or(&provider.authorization_url, |m| &m.authorization);
        let token = or(&provider.token_url, |m| &m.token).ok_or_else(|| {
            let diagnosis = profile.diagnosis(
                "neither the provider profile nor its issuer names a token endpoint",
                "set token_url of the provider profile",
            );
            error::definite(Severity::Mend, "no_token_endpoint", diagnosis)
        })?;
        let answers_as = match &provider.issuer {
            Some(name) => AnswersAs::Issuer {
                name: name.clone(),
                promised: metadata.is_some_and(|m| m.promises_iss),
            },
            None => AnswersAs::Origin(authorization.as_ref().map(Url::origin)),
        };
        let offered = metadata.map_or(&[][..], |m| m.scopes.as_slice());
        let scope = preset::sign_in_scope(provider.kind, &provider.scope, offered);
        Ok(Endpoints {
            token,
            userinfo: metadata.and_then(|m| m.userinfo.clone()),
            asks_openid: preset::asks_openid(&scope),
            scope,
            authorization,
            device_authorization: or(&provider.device_authorization_url, |m| {
                &m.device_authorization
            }),
            revocation: or(&provider.revocation_url, |m| &m.revocation),
            answers_as,
            refuses_s256: metadata.is_some_and(|m| m.refuses_s256),
        })
    }
}

/// What one issuer says.
#[derive(Debug, Clone, PartialEq)]
struct Metadata {
    authorization: Option<Url>,
    token: Option<Url>,
    device_authorization: Option<Url>,
    revocation: Option<Url>,
    userinfo: Option<Url>,
    scopes: Vec<String>,
    promises_iss: bool,
    refuses_s256: bool,
}

/// The documents of all issuers. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Issuers {
    /// By issuer and CA file: what one profile is told through its anchors is not another's.
    kept: Arc<std::sync::Mutex<BTreeMap<Named, Arc<Mutex<Kept>>>>>,
}

type Named = (String, Option<PathBuf>);

/// What is held of one issuer.
#[derive(Debug, Default)]
struct Kept {
    metadata: Option<Arc<Metadata>>,
    /// Why the last attempt failed, if it did.
    failure: Option<Box<Failure>>,
    asked_at: Option<Instant>,
}

impl Kept {
    fn is_due(&self) -> bool {
        let rest = if self.failure.is_some() {
            RETRY_EVERY
        } else {
            AGE_MAX
        };
        self.asked_at.is_none_or(|at| at.elapsed() >= rest)
    }
}

impl Issuers {
    /// The issuer's document, however many ask for it at once fetched once. Cancel safe.
    async fn metadata(
        &self,
        clients: &Clients,
        provider: &Provider,
        issuer: &str,
    ) -> Result<Arc<Metadata>, Box<Failure>> {
        let named = (issuer.to_owned(), provider.ca_file.clone());
        let kept = {
            let mut all = self
                .kept
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            Arc::clone(all.entry(named).or_default())
        };
        let mut kept = kept.lock().await;
        if kept.is_due() {
            let asked_at = Instant::now();
            match fetch(clients, provider, issuer).await {
                Ok(metadata) => {
                    kept.metadata = Some(Arc::new(metadata));
                    kept.failure = None;
                }
                Err(failure) => {
                    tracing::warn!(event = "discovery_failed", issuer, error = %failure.code,
                        serves_old = kept.metadata.is_some(), reason = %failure.diagnosis);
                    kept.failure = Some(failure);
                }
            }
            kept.asked_at = Some(asked_at);
        }
        match (&kept.metadata, &kept.failure) {
            (Some(metadata), _) => Ok(Arc::clone(metadata)),
            (None, Some(failure)) => Err(failure.clone()),
            (None, None) => Err(error::trouble("undiscovered", "not yet asked".to_owned())),
        }
    }
}

/// Asks under OpenID's name, then under that of RFC 8414.
async fn fetch(
    clients: &Clients,
    provider: &Provider,
    issuer: &str,
) -> Result<Metadata, Box<Failure>> {
    let named = Url::parse(issuer).map_err(|_| refused(issuer, "is no URL"))?;
    let mut missing = None;
    for url in well_known(&named) {
        let trouble = |error: http::Error| {
            let what = format!("the provider's metadata at {url} cannot be fetched");
            error::unreachable(&what, &error)
        };
        let client = clients.client(&url, provider.way()).await;
        let request = Request::new(Method::GET, url.clone());
        let answer = client.map_err(trouble)?.exchange(request).await;
        let answer = answer.map_err(trouble)?;
        let status = answer.status;
        if status.is_client_error() && status.as_u16() != 429 {
            missing.get_or_insert((url, status));
            continue;
        }
        if status.as_u16() != 200 {
            let reason = format!("the provider's metadata at {url} answered HTTP {status}");
            return Err(error::trouble(&format!("http_{}", status.as_u16()), reason));
        }
        let document = answer.is_json().then_some(answer.body.as_slice());
        let document = document.and_then(|body| serde_json::from_slice::<Document>(body).ok());
        let document = document.ok_or_else(|| {
            let reason = format!("what {url} answered is no metadata document (JSON)");
            error::trouble("unreadable", reason)
        })?;
        return document.read(issuer, &named);
    }
    Err(missing.map_or_else(
        || error::trouble("undiscovered", "not asked".to_owned()),
        |(url, status)| {
            let reason = format!("the provider has no metadata at {url} (HTTP {status})");
            error::trouble("no_metadata", reason)
        },
    ))
}

/// OpenID Connect Discovery 1.0 §4 goes on after the issuer's path, RFC 8414 §3.1 goes before it.
fn well_known(issuer: &Url) -> Vec<Url> {
    let path = issuer.path().trim_end_matches('/');
    let paths = [
        format!("{path}/.well-known/openid-configuration"),
        format!("/.well-known/oauth-authorization-server{path}"),
    ];
    let at = |path: String| {
        let mut url = issuer.clone();
        url.set_path(&path);
        url
    };
    paths.map(at).into()
}

/// The fields of a document that matter here.
#[derive(Debug, Deserialize)]
struct Document {
    issuer: String,
    authorization_endpoint: Option<String>,
    token_endpoint: Option<String>,
    device_authorization_endpoint: Option<String>,
    revocation_endpoint: Option<String>,
    userinfo_endpoint: Option<String>,
    #[serde(default)]
    scopes_supported: Vec<String>,
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
    code_challenge_methods_supported: Option<Vec<String>>,
}

impl Document {
    fn read(self, issuer: &str, named: &Url) -> Result<Metadata, Box<Failure>> {
        // RFC 8414 §3.3: identical, octet by octet.
        if self.issuer != issuer {
            let reason = format!(
                "the provider's metadata is that of {}, not of {issuer}",
                shown(&self.issuer)
            );
            return Err(definite(
                "issuer_mismatch",
                reason,
                "set issuer of the provider profile to the provider's own name, octet by octet (a \
                 slash at the end counts); Microsoft's needs kind = \"microsoft\" instead",
            ));
        }
        let on_this_machine = http::is_loopback(named);
        let endpoint = |name: &str, text: Option<String>| {
            let Some(text) = text else { return Ok(None) };
            let url = Url::parse(&text)
                .ok()
                .filter(|url| is_safe(url, on_this_machine));
            url.map(Some)
                .ok_or_else(|| refused(issuer, &format!("names a {name} that is no https URL")))
        };
        Ok(Metadata {
            authorization: endpoint("authorization_endpoint", self.authorization_endpoint)?,
            token: endpoint("token_endpoint", self.token_endpoint)?,
            device_authorization: endpoint(
                "device_authorization_endpoint",
                self.device_authorization_endpoint,
            )?,
            revocation: endpoint("revocation_endpoint", self.revocation_endpoint)?,
            userinfo: endpoint("userinfo_endpoint", self.userinfo_endpoint)?,
            scopes: self.scopes_supported,
            promises_iss: self.authorization_response_iss_parameter_supported,
            refuses_s256: self
                .code_challenge_methods_supported
                .is_some_and(|methods| !methods.iter().any(|method| method == "S256")),
        })
    }
}

/// Whether codes and tokens may travel to a URL that an issuer names: over TLS, or, when the issuer
/// itself is on this machine, in the clear on this machine.
fn is_safe(url: &Url, on_this_machine: bool) -> bool {
    let channel = match url.scheme() {
        "https" => url.has_host(),
        "http" => on_this_machine && http::is_loopback(url),
        _ => false,
    };
    channel && url.fragment().is_none() && url.username().is_empty() && url.password().is_none()
}

/// A name from a document, harmless to print.
fn shown(name: &str) -> String {
    match Url::parse(name) {
        Ok(url) if url.has_host() && url.as_str().len() <= NAME_MAX => name
            .chars()
            .filter(|c| c.is_ascii_graphic() && !matches!(c, '<' | '>'))
            .collect(),
        Ok(_) | Err(_) => "something that is no https URL".to_owned(),
    }
}

fn refused(issuer: &str, what: &str) -> Box<Failure> {
    let reason = format!("the metadata of {issuer} {what}");
    let remedy = "set the URLs of the provider profile instead of issuer";
    definite("metadata_refused", reason, remedy)
}

fn definite(code: &str, reason: String, remedy: &str) -> Box<Failure> {
    let diagnosis = super::Diagnosis {
        reason,
        remedy: remedy.to_owned(),
    };
    error::definite(Severity::Mend, code, diagnosis)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ISSUER: &str = "https://id.example.com/realms/mail";

    fn read(issuer: &str, json: &str) -> Result<Metadata, Box<Failure>> {
        let document: Document = serde_json::from_str(json).unwrap();
        document.read(issuer, &Url::parse(issuer).unwrap())
    }

    fn with_token_endpoint(issuer: &str, url: &str) -> Result<Metadata, Box<Failure>> {
        let json = serde_json::json!({ "issuer": issuer, "token_endpoint": url });
        read(issuer, &json.to_string())
    }

    #[test]
    fn the_document_is_where_the_two_standards_put_it() {
        for (issuer, oidc, oauth) in [
            (
                "https://id.example.com",
                "https://id.example.com/.well-known/openid-configuration",
                "https://id.example.com/.well-known/oauth-authorization-server",
            ),
            (
                "https://id.example.com/realms/mail/",
                "https://id.example.com/realms/mail/.well-known/openid-configuration",
                "https://id.example.com/.well-known/oauth-authorization-server/realms/mail",
            ),
        ] {
            let urls = well_known(&Url::parse(issuer).unwrap());
            let urls: Vec<&str> = urls.iter().map(Url::as_str).collect();
            assert_eq!(urls, [oidc, oauth]);
        }
    }

    #[test]
    fn a_document_is_believed_under_the_exact_name_alone() {
        for name in [
            "https://id.example.com/realms/mail/",
            "https://ID.example.com/realms/mail",
            "https://evil.example/realms/mail",
            "",
        ] {
            let json = serde_json::json!({ "issuer": name }).to_string();
            let failure = read(ISSUER, &json).unwrap_err();
            assert_eq!(failure.code, "issuer_mismatch", "{name}");
        }
        let json = serde_json::json!({ "issuer": "https://x/\u{1b}<script>" }).to_string();
        let said = read(ISSUER, &json).unwrap_err().diagnosis.to_string();
        assert!(!said.contains(['<', '\u{1b}']), "{said}");
        assert!(read(ISSUER, &format!(r#"{{"issuer":"{ISSUER}"}}"#)).is_ok());
    }

    #[test]
    fn no_endpoint_leaves_tls_but_on_this_machine() {
        for (issuer, url, good) in [
            (ISSUER, "https://tokens.example.net/t?x=1", true),
            (ISSUER, "http://id.example.com/token", false),
            (ISSUER, "http://127.0.0.1/token", false),
            (ISSUER, "https://user@id.example.com/token", false),
            (ISSUER, "https://id.example.com/token#x", false),
            (ISSUER, "file:///etc/passwd", false),
            (ISSUER, "/token", false),
            ("http://127.0.0.1:9400", "http://127.0.0.1:9400/token", true),
            (
                "http://localhost:9400",
                "http://id.example.com/token",
                false,
            ),
        ] {
            let made = with_token_endpoint(issuer, url);
            assert_eq!(made.is_ok(), good, "{issuer} {url}: {made:?}");
        }
    }

    #[test]
    fn what_an_issuer_takes_and_promises_is_read() {
        let read = |more: &str| read(ISSUER, &format!(r#"{{"issuer":"{ISSUER}"{more}}}"#)).unwrap();
        assert!(!read("").promises_iss && !read("").refuses_s256);
        assert!(read(r#","authorization_response_iss_parameter_supported":true"#).promises_iss);
        let methods = |list: &str| read(&format!(r#","code_challenge_methods_supported":{list}"#));
        assert!(methods(r#"["plain"]"#).refuses_s256);
        assert!(!methods(r#"["plain","S256"]"#).refuses_s256);
    }

    #[test]
    fn an_answer_names_the_issuer_that_was_asked() {
        let issuer = |promised| AnswersAs::Issuer {
            name: ISSUER.to_owned(),
            promised,
        };
        let origin = AnswersAs::Origin(Some(Url::parse(ISSUER).unwrap().origin()));
        for (expected, iss, fits) in [
            (issuer(true), Some(ISSUER), true),
            (issuer(true), None, false),
            (issuer(true), Some("https://id.example.com"), false),
            (issuer(false), None, true),
            (issuer(false), Some("https://evil.example"), false),
            (issuer(false), Some(""), false),
            (origin.clone(), None, true),
            (origin.clone(), Some("https://id.example.com"), true),
            (origin.clone(), Some("http://id.example.com"), false),
            (origin, Some("null"), false),
        ] {
            assert_eq!(expected.fits(iss), fits, "{expected:?} {iss:?}");
        }
    }
}
