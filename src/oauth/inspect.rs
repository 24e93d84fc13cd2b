//! What an access token and its endpoint show of themselves, for a person who looks for the switch
//! that is off. Tokens are opaque to everything else: providers may change them at will, and nothing
//! here is relied on.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use serde_json::Value;

use crate::secret::Secret;

/// Claims of an access token that help a person; nothing that could be used. None: it is opaque.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenFacts {
    /// `aud`: what it opens.
    pub audience: Option<String>,
    /// `scp`: permissions of a person's token.
    pub scopes: Vec<String>,
    /// `roles`: permissions of an application's token.
    pub roles: Vec<String>,
    /// `appid` or `azp`: the application.
    pub application: Option<String>,
    /// `tid`: the tenant.
    pub tenant: Option<String>,
    /// `oid`: the person, or the enterprise application (service principal).
    pub object: Option<String>,
    /// `upn` or `preferred_username`: the person.
    pub user: Option<String>,
    /// `exp`.
    pub expires_at: Option<Timestamp>,
}

impl TokenFacts {
    /// Reads the claims of a JWT without believing its signature; `None`: it is none.
    pub(super) fn read(token: &Secret) -> Option<Self> {
        let mut parts = token.expose().split('.');
        let (_, claims, _) = (parts.next()?, parts.next()?, parts.next()?);
        let claims = URL_SAFE_NO_PAD.decode(claims.trim_end_matches('=')).ok()?;
        let claims: Value = serde_json::from_slice(&claims).ok()?;
        claims.as_object()?;
        let text = |names: &[&str]| {
            let mut found = names.iter().filter_map(|name| claims.get(*name)?.as_str());
            found.next().map(harmless)
        };
        let words = |name: &str| match claims.get(name) {
            Some(Value::String(words)) => words
                .split_whitespace()
                .take(WORDS_MAX)
                .map(harmless)
                .collect(),
            Some(Value::Array(words)) => {
                let words = words.iter().filter_map(Value::as_str);
                words.take(WORDS_MAX).map(harmless).collect()
            }
            _ => Vec::new(),
        };
        let expires_at = claims.get("exp").and_then(Value::as_i64);
        Some(Self {
            audience: text(&["aud"]),
            scopes: words("scp"),
            roles: words("roles"),
            application: text(&["appid", "azp"]),
            tenant: text(&["tid"]),
            object: text(&["oid"]),
            user: text(&["upn", "preferred_username", "unique_name"]),
            expires_at: expires_at.and_then(|seconds| Timestamp::from_second(seconds).ok()),
        })
    }

    /// Whether it opens Microsoft Graph.
    #[must_use]
    pub fn is_for_graph(&self) -> bool {
        let audience = self.audience.as_deref().unwrap_or_default();
        audience == GRAPH_ID
            || audience.contains("graph.microsoft")
            || audience.contains("microsoftgraph.")
    }

    /// Whether it is an application's, without a person.
    #[must_use]
    pub fn is_of_application(&self) -> bool {
        self.user.is_none() && self.scopes.is_empty()
    }
}

impl std::fmt::Display for TokenFacts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let one = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
        let several = |values: &[String]| match values {
            [] => "-".to_owned(),
            values => values.join(" "),
        };
        write!(
            f,
            "aud {}, scp {}, roles {}, appid {}, tid {}, oid {}, upn {}",
            one(&self.audience),
            several(&self.scopes),
            several(&self.roles),
            one(&self.application),
            one(&self.tenant),
            one(&self.object),
            one(&self.user),
        )
    }
}

/// One line of fair length.
fn harmless(text: &str) -> String {
    let chars = text.chars().filter(|char| !char.is_control());
    chars.take(CLAIM_MAX).collect()
}

/// What a token endpoint said to an empty request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reached {
    /// Host and port.
    pub host: String,
    /// HTTP status; any shows that it is there.
    pub status: u16,
    /// The server's clock, if it told.
    pub date: Option<Timestamp>,
}

/// Microsoft Graph's own application id, which tokens for it name as audience.
const GRAPH_ID: &str = "00000003-0000-0000-c000-000000000000";
/// Longer claims are cut.
const CLAIM_MAX: usize = 120;
/// More permissions are not shown.
const WORDS_MAX: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn token(claims: &str) -> Secret {
        Secret::new(format!("e30.{}.canary", URL_SAFE_NO_PAD.encode(claims)))
    }

    #[test]
    fn the_claims_that_help_are_read_and_no_others() {
        let facts = TokenFacts::read(&token(
            r#"{"aud":"https://outlook.office.com","scp":"SMTP.Send Mail.Send","appid":"app-1",
                "tid":"t-1","oid":"o-1","upn":"alerts@contoso.com","exp":1764000000,"uti":"canary"}"#,
        ))
        .unwrap();
        assert_eq!(
            facts.to_string(),
            "aud https://outlook.office.com, scp SMTP.Send Mail.Send, roles -, appid app-1, tid t-1, \
             oid o-1, upn alerts@contoso.com"
        );
        assert!(!facts.is_for_graph() && !facts.is_of_application());
        let facts = TokenFacts::read(&token(&format!(
            r#"{{"aud":"{GRAPH_ID}","roles":["Mail.Send"],"azp":"app-2"}}"#
        )))
        .unwrap();
        assert!(facts.is_for_graph() && facts.is_of_application());
    }

    #[test]
    fn what_is_no_jwt_is_opaque() {
        let deep = format!("e30.{}.x", URL_SAFE_NO_PAD.encode("[".repeat(100_000)));
        for text in [
            "opaque",
            "EwB.b",
            "a.b.c",
            "e30.e30",
            "e30.W10.x",
            &deep,
            "..",
            "e30.bnVsbA.x",
        ] {
            assert_eq!(TokenFacts::read(&Secret::new(text)), None, "{text:.20}");
        }
        let odd = r#"{"aud":["a"],"scp":7,"roles":[1,"ok\u0000\n"],"exp":"soon"}"#;
        let facts = TokenFacts::read(&token(odd)).unwrap();
        assert_eq!(facts.roles, ["ok"]);
        let long = format!(r#"{{"upn":"{}"}}"#, "x".repeat(5000));
        let facts = TokenFacts::read(&token(&long)).unwrap();
        assert_eq!(facts.user.unwrap().len(), CLAIM_MAX);
    }
}
