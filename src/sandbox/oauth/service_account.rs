//! The one service account (RFC 7523 §2.1, as Google has it): whoever holds its key file acts as any
//! mailbox.
//!
//! The key is made when its file is first asked for, and is gone with the process: an assertion signed
//! with anything else is refused, so a rehearsal shows whether the relay signs with the file it names.

use std::{io, sync::OnceLock};

use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use rcgen::{KeyPair, PKCS_RSA_SHA256};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;

use super::Refusal;
use crate::secret::Secret;

/// `iss` of its assertions.
pub(super) const ADDRESS: &str = "relay@practice.iam.gserviceaccount.com";

/// `kid` of its only key.
const KEY_ID: &str = "practice";

/// Google takes no assertion that lives longer.
const LIFE_MAX_S: i64 = 3600;

/// Clocks differ by this much.
const SKEW_S: i64 = 300;

/// The account; without a key until somebody wants the file.
#[derive(Default)]
pub(super) struct ServiceAccount(OnceLock<KeyPair>);

impl std::fmt::Debug for ServiceAccount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServiceAccount(..)")
    }
}

/// What an assertion asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// The mailbox to act as.
    pub(super) mailbox: String,
    pub(super) scope: String,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: Option<String>,
    scope: String,
    aud: String,
    iat: i64,
    exp: i64,
}

impl ServiceAccount {
    /// The key file (JSON) as Google writes it; the same at every call.
    ///
    /// # Errors
    /// When no key can be made.
    pub(super) fn key_file(&self, token_uri: &str) -> io::Result<Secret> {
        let key = match self.0.get() {
            Some(key) => key,
            None => {
                let made = KeyPair::generate_for(&PKCS_RSA_SHA256).map_err(io::Error::other)?;
                self.0.get_or_init(|| made)
            }
        };
        let file = json!({
            "type": "service_account",
            "project_id": "practice",
            "private_key_id": KEY_ID,
            "private_key": key.serialize_pem(),
            "client_email": ADDRESS,
            "client_id": "100000000000000000000",
            "token_uri": token_uri,
        });
        Ok(Secret::new(file.to_string()))
    }

    /// What an assertion asks for, if the key of this run signed it for `audience` and it is fresh.
    pub(super) fn asked(
        &self,
        assertion: &str,
        audience: &str,
        now: Timestamp,
    ) -> Result<Asked, Refusal> {
        let (signed, signature) = assertion.rsplit_once('.').ok_or(Refusal::ASSERTION)?;
        let (header, claims) = signed.split_once('.').ok_or(Refusal::ASSERTION)?;
        let header: Header = part(header)?;
        let claims: Claims = part(claims)?;
        let is_known = header.alg == "RS256" && header.kid.is_none_or(|id| id == KEY_ID);
        let key = self.0.get().filter(|_| is_known && claims.iss == ADDRESS);
        let key = key.ok_or(Refusal::ASSERTION_SIGNATURE)?.public_key_raw();
        let signature = URL_SAFE_NO_PAD.decode(signature);
        let signature = signature.map_err(|_| Refusal::ASSERTION)?;
        UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key)
            .verify(signed.as_bytes(), &signature)
            .map_err(|_| Refusal::ASSERTION_SIGNATURE)?;
        let now = now.as_second();
        let is_fresh = claims.iat <= now.saturating_add(SKEW_S)
            && claims.exp > now
            && claims.exp.saturating_sub(claims.iat) <= LIFE_MAX_S;
        if claims.aud != audience || !is_fresh {
            return Err(Refusal::ASSERTION_CLAIMS);
        }
        Ok(Asked {
            // Without a subject it acts as itself.
            mailbox: claims.sub.unwrap_or_else(|| ADDRESS.to_owned()),
            scope: claims.scope,
        })
    }
}

fn part<T: DeserializeOwned>(encoded: &str) -> Result<T, Refusal> {
    let octets = URL_SAFE_NO_PAD.decode(encoded);
    let octets = octets.map_err(|_| Refusal::ASSERTION)?;
    serde_json::from_slice(&octets).map_err(|_| Refusal::ASSERTION)
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::{rand::SystemRandom, rsa, signature::RSA_PKCS1_SHA256};
    use serde_json::Value;

    use super::*;

    const AUDIENCE: &str = "http://127.0.0.1:8026/token";
    const NOW: i64 = 1_800_000_000;

    /// An assertion of these claims by this account's key.
    fn assertion(account: &ServiceAccount, claims: &Value) -> String {
        let der = account.0.get().unwrap().serialize_der();
        let key = rsa::KeyPair::from_pkcs8(&der).unwrap();
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let header = json!({"alg": "RS256", "typ": "JWT", "kid": KEY_ID});
        let signed = format!("{}.{}", part(&header), part(claims));
        let mut signature = vec![0; key.public_modulus_len()];
        let chance = SystemRandom::new();
        key.sign(
            &RSA_PKCS1_SHA256,
            &chance,
            signed.as_bytes(),
            &mut signature,
        )
        .unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    #[test]
    fn only_a_fresh_assertion_of_the_key_of_this_run_is_believed() {
        let account = ServiceAccount::default();
        let now = Timestamp::from_second(NOW).unwrap();
        let good = json!({
            "iss": ADDRESS, "sub": "a@b.example", "scope": "s", "aud": AUDIENCE,
            "iat": NOW, "exp": NOW + 3600,
        });
        let other = ServiceAccount::default();
        other.key_file(AUDIENCE).unwrap();
        let foreign = assertion(&other, &good);
        let nobody = account.asked(&foreign, AUDIENCE, now);
        assert_eq!(nobody, Err(Refusal::ASSERTION_SIGNATURE), "no key yet");
        let file = account.key_file(AUDIENCE).unwrap();
        assert_eq!(account.key_file(AUDIENCE).unwrap().expose(), file.expose());
        let stolen = account.asked(&foreign, AUDIENCE, now);
        assert_eq!(stolen, Err(Refusal::ASSERTION_SIGNATURE));
        assert!(crate::oauth::ServiceAccount::parse(file.expose()).is_ok());

        let asked = account.asked(&assertion(&account, &good), AUDIENCE, now);
        let wanted = Asked {
            mailbox: "a@b.example".to_owned(),
            scope: "s".to_owned(),
        };
        assert_eq!(asked, Ok(wanted));
        for (claim, value, refusal) in [
            (
                "iss",
                json!("other@x.example"),
                Refusal::ASSERTION_SIGNATURE,
            ),
            (
                "aud",
                json!("https://oauth2.googleapis.com/token"),
                Refusal::ASSERTION_CLAIMS,
            ),
            ("exp", json!(NOW + 3601), Refusal::ASSERTION_CLAIMS),
            ("exp", json!(NOW), Refusal::ASSERTION_CLAIMS),
            ("iat", json!(NOW + 301), Refusal::ASSERTION_CLAIMS),
            ("scope", Value::Null, Refusal::ASSERTION),
        ] {
            let mut bad = good.clone();
            bad[claim] = value;
            let asked = account.asked(&assertion(&account, &bad), AUDIENCE, now);
            assert_eq!(asked, Err(refusal), "{claim}");
        }
        for garbage in ["", ".", "a.b.c", "e30.e30.e30"] {
            assert!(account.asked(garbage, AUDIENCE, now).is_err());
        }
    }
}
