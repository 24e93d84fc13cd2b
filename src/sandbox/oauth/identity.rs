//! Who signed in: id tokens (OpenID Connect Core 1.0 §2), signed with a key that lives as long as the
//! sandbox, and the claims of the userinfo endpoint (§5.3).

use std::{io, time::Duration};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{Refusal, grants::Person, random};
use crate::secret::Secret;

/// The life of an id token: it is looked at once, on receipt.
const LIFETIME: Duration = Duration::from_secs(3600);

/// Octets of an uncompressed point of P-256: a mark and two coordinates.
const POINT_LEN: usize = 65;

/// The one key, `ES256` (RFC 7518 §3.4).
pub(super) struct Signer(EcdsaKeyPair);

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer(..)")
    }
}

impl Signer {
    /// A fresh key.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub(super) fn new() -> io::Result<Self> {
        EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
            .map(Self)
            .map_err(|_| io::Error::other("the system gives no randomness for a key"))
    }

    /// The id token of a sign-in, for `client_id`.
    pub(super) fn id_token(
        &self,
        issuer: &str,
        client_id: &str,
        person: &Person,
        now: Timestamp,
    ) -> Result<Secret, Refusal> {
        let mut claims = claims(person);
        let ends = now.checked_add(LIFETIME).unwrap_or(now);
        let of_token: [(&str, Value); 4] = [
            ("iss", issuer.into()),
            ("aud", client_id.into()),
            ("iat", now.as_second().into()),
            ("exp", ends.as_second().into()),
        ];
        let nonce = person.nonce.as_deref();
        let nonce = nonce.map(|nonce| ("nonce", nonce.into()));
        claims.extend(of_token.into_iter().chain(nonce).map(named));
        let claims = Value::Object(claims);
        let header = json!({ "alg": "ES256", "typ": "JWT", "kid": self.kid() });
        let encoded = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let signed = format!("{}.{}", encoded(&header), encoded(&claims));
        let signature = self.0.sign(&SystemRandom::new(), signed.as_bytes());
        let signature = signature.map_err(|_| Refusal::NO_CHANCE)?;
        let signature = URL_SAFE_NO_PAD.encode(signature.as_ref());
        Ok(Secret::new(format!("{signed}.{signature}")))
    }

    /// The public key (RFC 7517), for those who check signatures.
    pub(super) fn jwks(&self) -> Value {
        let point = self.0.public_key().as_ref();
        let coordinate = |range| {
            let octets: Option<&[u8]> = point.get::<std::ops::Range<usize>>(range);
            octets.map(|octets| URL_SAFE_NO_PAD.encode(octets))
        };
        let middle = POINT_LEN / 2 + 1;
        json!({ "keys": [{
            "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.kid(),
            "x": coordinate(1..middle), "y": coordinate(middle..POINT_LEN),
        }] })
    }

    fn kid(&self) -> String {
        let digest =
            aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, self.0.public_key().as_ref());
        URL_SAFE_NO_PAD.encode(digest.as_ref())
    }
}

/// What is told of a person, as the scope asks (§5.4). The subject is the same at every sign-in.
pub(super) fn claims(person: &Person) -> Map<String, Value> {
    let mailbox = &person.mailbox;
    let subject = random::fingerprint(&mailbox.to_lowercase());
    let told: [(&str, &str, Value); 4] = [
        ("openid", "sub", URL_SAFE_NO_PAD.encode(subject).into()),
        ("email", "email", mailbox.as_str().into()),
        ("email", "email_verified", true.into()),
        ("profile", "preferred_username", mailbox.as_str().into()),
    ];
    let asked = told.into_iter().filter(|told| has(&person.scope, told.0));
    asked.map(|(_, name, value)| named((name, value))).collect()
}

fn named((name, value): (&str, Value)) -> (String, Value) {
    (name.to_owned(), value)
}

/// Whether a scope has a part.
pub(super) fn has(scope: &str, part: &str) -> bool {
    scope.split_ascii_whitespace().any(|one| one == part)
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

    use super::*;

    fn person(scope: &str) -> Person {
        Person {
            mailbox: "Alerts@example.com".to_owned(),
            scope: scope.to_owned(),
            nonce: Some("n".to_owned()),
        }
    }

    #[test]
    fn a_token_is_signed_by_the_key_that_is_published() {
        let signer = Signer::new().unwrap();
        let now: Timestamp = "2026-11-24T12:00:00Z".parse().unwrap();
        let token = signer.id_token("http://127.0.0.1:1", "app", &person("openid email"), now);
        let token = token.unwrap();
        let (signed, signature) = token.expose().rsplit_once('.').unwrap();
        let decoded = |text: &str| URL_SAFE_NO_PAD.decode(text).unwrap();
        let key = &signer.jwks()["keys"][0];
        let mut point = vec![4];
        point.extend(decoded(key["x"].as_str().unwrap()));
        point.extend(decoded(key["y"].as_str().unwrap()));
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
        key.verify(signed.as_bytes(), &decoded(signature)).unwrap();
        let (_, claims) = signed.split_once('.').unwrap();
        let claims: Value = serde_json::from_slice(&decoded(claims)).unwrap();
        assert_eq!(
            (&claims["aud"], &claims["nonce"]),
            (&json!("app"), &json!("n"))
        );
        let life = claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap();
        assert_eq!(life, 3600);
    }

    #[test]
    fn a_person_is_told_as_the_scope_asks_under_one_subject() {
        let bare = claims(&person("openid"));
        assert_eq!(bare.len(), 1);
        let all = claims(&person("openid email profile"));
        assert_eq!(all["email"], "Alerts@example.com");
        assert_eq!(all["preferred_username"], "Alerts@example.com");
        assert_eq!(all["sub"], bare["sub"]);
        let mut other = person("openid");
        other.mailbox = "other@example.com".to_owned();
        assert_ne!(claims(&other)["sub"], bare["sub"]);
    }
}
