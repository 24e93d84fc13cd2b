//! Assertions: short JWTs that say who a client is (RFC 7523 §2.2) or for whom a token is wanted
//! (§2.1), signed with RSA (RFC 7515, RFC 7518 §3.3, §3.5).
//!
//! Key files are read anew for each request, which comes once an hour: a renewed certificate needs
//! neither restart nor reload, and no private key stays in memory between requests.

use std::path::{Path, PathBuf};

use aws_lc_rs::{
    digest,
    rand::SystemRandom,
    rsa::KeyPair,
    signature::{RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use p12_keystore::{KeyStore, Pkcs12ImportPolicy};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::{Map, Value, json};
use x509_cert::der::Decode;
use zeroize::Zeroizing;

use super::Diagnosis;
use crate::secret::Secret;

/// How an assertion is signed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// RSASSA-PSS with SHA-256, which Microsoft asks for.
    #[default]
    Ps256,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
}

/// The key that a client signs its assertions with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientKey {
    /// PEM (the client's own certificate first) or PKCS#12; none: the key alone is known to the
    /// provider.
    pub certificate_file: Option<PathBuf>,
    /// PEM; none: the key is in the certificate's file.
    pub key_file: Option<PathBuf>,
    /// Of a PKCS#12 file.
    pub password: Option<Secret>,
    /// How it signs.
    pub algorithm: Algorithm,
}

/// A service account of Google, from its key file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAccount {
    /// Its address: the issuer of its assertions.
    pub client_email: String,
    /// Names the key at Google.
    pub private_key_id: Option<String>,
    /// PEM, PKCS#8.
    pub private_key: Secret,
}

/// Why there is no assertion: what, and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}; {remedy}")]
pub struct KeyError {
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

impl KeyError {
    /// The configuration promised a key and there is none.
    pub(super) fn missing() -> Self {
        Self::new(
            "no key or identity is configured for this grant",
            "run: gatepost check",
        )
    }

    fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            remedy: remedy.into(),
        }
    }
}

impl From<KeyError> for Diagnosis {
    fn from(error: KeyError) -> Self {
        Self {
            reason: error.what,
            remedy: error.remedy,
        }
    }
}

/// Whom an assertion is for and when it is made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Occasion<'a> {
    /// `aud`: the token endpoint.
    pub(super) audience: &'a str,
    pub(super) now: Timestamp,
}

impl ClientKey {
    /// An assertion that `client_id` makes about itself. Blocking: reads files.
    ///
    /// # Errors
    /// [`KeyError`].
    pub(super) fn assertion(
        &self,
        client_id: &str,
        occasion: Occasion<'_>,
    ) -> Result<Secret, KeyError> {
        let loaded = self.load()?;
        let mut header = Map::new();
        if let Some(certificate) = &loaded.certificate {
            let thumbprint =
                |algorithm| URL_SAFE_NO_PAD.encode(digest::digest(algorithm, certificate).as_ref());
            // RFC 7515 §4.1.7 and §4.1.8: Microsoft finds the certificate by either.
            let sha1 = thumbprint(&digest::SHA1_FOR_LEGACY_USE_ONLY);
            header.insert("x5t#S256".to_owned(), thumbprint(&digest::SHA256).into());
            header.insert("x5t".to_owned(), sha1.into());
        }
        let now = occasion.now.as_second();
        let claims = json!({
            "iss": client_id,
            "sub": client_id,
            "aud": occasion.audience,
            "jti": unique()?,
            "iat": now,
            "nbf": now,
            "exp": now + CLIENT_ASSERTION_LIFE_S,
        });
        sign(&loaded.pair, self.algorithm, header, &claims)
    }

    /// When the certificate expires; `None`: there is none. Blocking.
    ///
    /// # Errors
    /// [`KeyError`]; also when certificate or key are not usable.
    pub fn expires_at(&self) -> Result<Option<Timestamp>, KeyError> {
        let loaded = self.load()?;
        let Some(der) = loaded.certificate else {
            return Ok(None);
        };
        let expires_at = not_after(&der);
        expires_at.map(Some).ok_or_else(|| {
            let file = self.certificate_file.as_deref().unwrap_or(Path::new(""));
            KeyError::new(
                format!(
                    "{} holds a certificate without a readable end",
                    file.display()
                ),
                "make a new certificate",
            )
        })
    }

    fn load(&self) -> Result<Loaded, KeyError> {
        let certificate_file = self.certificate_file.as_deref();
        let bytes = certificate_file.map(read).transpose()?;
        if let (Some(file), Some(bytes)) = (certificate_file, &bytes)
            && !is_pem(bytes)
        {
            return self.load_pkcs12(file, bytes);
        }
        let certificate = match (certificate_file, &bytes) {
            (Some(file), Some(pem)) => Some(first_certificate(file, pem)?),
            _ => None,
        };
        let pair = match (&self.key_file, certificate_file, &bytes) {
            (Some(file), ..) => pair_from_pem(&file.display().to_string(), &read(file)?)?,
            (None, Some(file), Some(pem)) => pair_from_pem(&file.display().to_string(), pem)?,
            (None, ..) => return Err(KeyError::new("no key is named", "set client_key_file")),
        };
        Ok(Loaded { pair, certificate })
    }

    fn load_pkcs12(&self, file: &Path, bytes: &[u8]) -> Result<Loaded, KeyError> {
        let password = self.password.as_ref().map_or("", Secret::expose);
        let store = KeyStore::from_pkcs12(bytes, password, Pkcs12ImportPolicy::Relaxed);
        let store = store.map_err(|error| {
            KeyError::new(
                format!(
                    "{} is neither PEM nor PKCS#12 that opens: {error}",
                    file.display()
                ),
                "check client_key_password; or turn it into PEM: openssl pkcs12 -in FILE -nodes",
            )
        })?;
        let chain = store.private_key_chain().map(|(_, chain)| chain);
        let chain = chain.ok_or_else(|| {
            KeyError::new(
                format!("{} holds no private key", file.display()),
                "export it again with its key",
            )
        })?;
        let pair = KeyPair::from_pkcs8(chain.key().as_der());
        Ok(Loaded {
            pair: pair.map_err(|error| not_rsa(&file.display().to_string(), &error))?,
            certificate: chain.certs().first().map(|c| c.as_der().to_vec()),
        })
    }
}

/// A key with its certificate.
struct Loaded {
    pair: KeyPair,
    /// DER.
    certificate: Option<Vec<u8>>,
}

impl ServiceAccount {
    /// Reads Google's key file (JSON).
    ///
    /// # Errors
    /// [`KeyError`]; nothing of the file is quoted.
    pub fn parse(json: &str) -> Result<Self, KeyError> {
        let wrong = |what: &str| {
            KeyError::new(
                what,
                "make a key of type JSON in the Google Cloud console (IAM, Service accounts, Keys)",
            )
        };
        let parsed: Value =
            serde_json::from_str(json).map_err(|_| wrong("is not a JSON key file"))?;
        let text = |key: &str| parsed.get(key).and_then(Value::as_str).map(str::to_owned);
        if text("type").is_some_and(|kind| kind != "service_account") {
            return Err(wrong("is not the key of a service account"));
        }
        let account = Self {
            client_email: text("client_email").ok_or_else(|| wrong("holds no client_email"))?,
            private_key_id: text("private_key_id"),
            private_key: text("private_key")
                .map(Secret::new)
                .ok_or_else(|| wrong("holds no private_key"))?,
        };
        pair_from_pem("private_key", account.private_key.expose().as_bytes())?;
        Ok(account)
    }

    /// An assertion that asks for a token to act as `subject` (domain-wide delegation).
    ///
    /// # Errors
    /// [`KeyError`].
    pub(super) fn assertion(
        &self,
        subject: &str,
        scope: &str,
        occasion: Occasion<'_>,
    ) -> Result<Secret, KeyError> {
        let pair = pair_from_pem("private_key", self.private_key.expose().as_bytes())?;
        let mut header = Map::new();
        if let Some(id) = &self.private_key_id {
            header.insert("kid".to_owned(), id.as_str().into());
        }
        let now = occasion.now.as_second();
        let claims = json!({
            "iss": self.client_email,
            "sub": subject,
            "scope": scope,
            "aud": occasion.audience,
            "iat": now,
            "exp": now + GRANT_ASSERTION_LIFE_S,
        });
        sign(&pair, Algorithm::Rs256, header, &claims)
    }
}

/// The token of another identity provider, which a platform keeps fresh in a file. Blocking.
pub(super) fn federated(path: &Path) -> Result<Secret, KeyError> {
    let bytes = Zeroizing::new(read(path)?.to_vec());
    let text = std::str::from_utf8(&bytes).unwrap_or_default().trim();
    let is_token = |octet: u8| octet.is_ascii_alphanumeric() || b"-_.=".contains(&octet);
    if text.is_empty() || !text.bytes().all(is_token) {
        return Err(KeyError::new(
            format!("{} holds no token", path.display()),
            "check that the platform projects a service account token there",
        ));
    }
    Ok(Secret::new(text))
}

fn sign(
    pair: &KeyPair,
    algorithm: Algorithm,
    mut header: Map<String, Value>,
    claims: &Value,
) -> Result<Secret, KeyError> {
    let (name, encoding): (_, &dyn RsaEncoding) = match algorithm {
        Algorithm::Ps256 => ("PS256", &RSA_PSS_SHA256),
        Algorithm::Rs256 => ("RS256", &RSA_PKCS1_SHA256),
    };
    header.insert("typ".to_owned(), "JWT".into());
    header.insert("alg".to_owned(), name.into());
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let mut jwt = format!("{}.{}", part(&Value::Object(header)), part(claims));
    let mut signature = vec![0; pair.public_modulus_len()];
    pair.sign(
        encoding,
        &SystemRandom::new(),
        jwt.as_bytes(),
        &mut signature,
    )
    .map_err(|_| KeyError::new("the key does not sign", "use an RSA key of 2048 bits"))?;
    jwt.push('.');
    jwt.push_str(&URL_SAFE_NO_PAD.encode(&signature));
    Ok(Secret::new(jwt))
}

/// A fresh `jti`.
fn unique() -> Result<String, KeyError> {
    let mut octets = [0; JTI_LEN];
    let filled = getrandom::fill(&mut octets);
    filled.map_err(|_| KeyError::new("the system gives no randomness", "look at the system"))?;
    Ok(URL_SAFE_NO_PAD.encode(octets))
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let cannot = |error: std::io::Error| {
        KeyError::new(
            format!("{} cannot be read: {error}", path.display()),
            "let the user that gatepost runs as read it",
        )
    };
    let len = std::fs::metadata(path).map_err(cannot)?.len();
    if len > KEY_FILE_MAX {
        return Err(KeyError::new(
            format!("{} is no key file: it is too large", path.display()),
            "name the file with the certificate or key",
        ));
    }
    std::fs::read(path).map(Zeroizing::new).map_err(cannot)
}

fn is_pem(bytes: &[u8]) -> bool {
    memchr::memmem::find(bytes, b"-----BEGIN").is_some()
}

fn first_certificate(file: &Path, pem: &[u8]) -> Result<Vec<u8>, KeyError> {
    let first = CertificateDer::pem_slice_iter(pem).next();
    let der = first.and_then(Result::ok).ok_or_else(|| {
        KeyError::new(
            format!("{} holds no certificate", file.display()),
            "name a file in PEM or PKCS#12 with the certificate that the provider knows",
        )
    })?;
    Ok(der.to_vec())
}

fn pair_from_pem(file: &str, pem: &[u8]) -> Result<KeyPair, KeyError> {
    let encrypted = memchr::memmem::find(pem, b"ENCRYPTED").is_some();
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(|_| {
        let (what, remedy) = if encrypted {
            (
                "holds an encrypted key",
                "write it without a passphrase (openssl pkey), or use PKCS#12",
            )
        } else {
            (
                "holds no private key in PEM",
                "name the file with the key: -----BEGIN PRIVATE KEY-----",
            )
        };
        KeyError::new(format!("{file} {what}"), remedy)
    })?;
    let pair = if let PrivateKeyDer::Pkcs1(der) = &key {
        KeyPair::from_der(der.secret_pkcs1_der())
    } else {
        KeyPair::from_pkcs8(key.secret_der())
    };
    pair.map_err(|error| not_rsa(file, &error))
}

fn not_rsa(file: &str, error: &aws_lc_rs::error::KeyRejected) -> KeyError {
    KeyError::new(
        format!("the private key in {file} is not taken: {error}"),
        "use an RSA key of 2048 bits or more",
    )
}

/// The end of a certificate's validity.
pub(crate) fn not_after(der: &[u8]) -> Option<Timestamp> {
    let certificate = x509_cert::Certificate::from_der(der).ok()?;
    let end = certificate.tbs_certificate().validity().not_after;
    let seconds = end.to_unix_duration().as_secs();
    Timestamp::from_second(i64::try_from(seconds).ok()?).ok()
}

/// Short, because a stolen one is as good as the key for so long; RFC 7523 §3 leaves it to us.
const CLIENT_ASSERTION_LIFE_S: i64 = 300;
/// Google takes an hour at most.
const GRANT_ASSERTION_LIFE_S: i64 = 3600;
/// 128 bits.
const JTI_LEN: usize = 16;
/// A certificate chain with its key is a tenth of this.
const KEY_FILE_MAX: u64 = 256 * 1024;

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{
        KeyPair as _, RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256, UnparsedPublicKey,
        VerificationAlgorithm,
    };

    use super::*;

    /// The key of RFC 7515 appendix A.2, as PKCS#8.
    const RFC_7515_KEY: &str = include_str!("tests/rfc7515_a2.pem");

    fn noon() -> Timestamp {
        "2026-11-24T12:00:00Z".parse().unwrap()
    }

    fn parts(jwt: &Secret) -> (Value, Value, Vec<u8>, String) {
        let text = jwt.expose();
        let (signed, signature) = text.rsplit_once('.').unwrap();
        let (header, claims) = signed.split_once('.').unwrap();
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).unwrap();
        let json = |part: &str| serde_json::from_slice(&decode(part)).unwrap();
        (
            json(header),
            json(claims),
            decode(signature),
            signed.to_owned(),
        )
    }

    #[test]
    fn rs256_signs_as_the_appendix_of_rfc_7515_does() {
        let pair = pair_from_pem("test", RFC_7515_KEY.as_bytes()).unwrap();
        let signed = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
        let mut signature = vec![0; pair.public_modulus_len()];
        let random = SystemRandom::new();
        pair.sign(
            &RSA_PKCS1_SHA256,
            &random,
            signed.as_bytes(),
            &mut signature,
        )
        .unwrap();
        assert_eq!(
            URL_SAFE_NO_PAD.encode(signature),
            "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7\
             AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4\
             BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K\
             0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqv\
             hJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrB\
             p0igcN_IoypGlUPQGe77Rw"
        );
    }

    /// A self-signed certificate with its key, in files.
    struct Files {
        folder: tempfile::TempDir,
        der: Vec<u8>,
    }

    impl Files {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let pem = rcgen::KeyPair::from_pem_and_sign_algo(RFC_7515_KEY, &rcgen::PKCS_RSA_SHA256);
            let mut params = rcgen::CertificateParams::new(vec!["client".to_owned()]).unwrap();
            params.not_after = rcgen::date_time_ymd(2027, 5, 31);
            let certificate = params.self_signed(&pem.unwrap()).unwrap();
            std::fs::write(folder.path().join("key.pem"), RFC_7515_KEY).unwrap();
            std::fs::write(folder.path().join("cert.pem"), certificate.pem()).unwrap();
            let both = format!("{}{RFC_7515_KEY}", certificate.pem());
            std::fs::write(folder.path().join("both.pem"), both).unwrap();
            Self {
                der: certificate.der().to_vec(),
                folder,
            }
        }

        fn key(&self, certificate: Option<&str>, key: Option<&str>) -> ClientKey {
            let path = |name: &str| self.folder.path().join(name);
            ClientKey {
                certificate_file: certificate.map(path),
                key_file: key.map(path),
                password: None,
                algorithm: Algorithm::Ps256,
            }
        }
    }

    #[test]
    fn a_client_says_who_it_is_with_a_fresh_assertion_each_time() {
        let files = Files::new();
        let pair = pair_from_pem("test", RFC_7515_KEY.as_bytes()).unwrap();
        let occasion = Occasion {
            audience: "https://login.example.com/token",
            now: noon(),
        };
        let algorithms: [(Algorithm, &str, &'static dyn VerificationAlgorithm); 2] = [
            (Algorithm::Ps256, "PS256", &RSA_PSS_2048_8192_SHA256),
            (Algorithm::Rs256, "RS256", &RSA_PKCS1_2048_8192_SHA256),
        ];
        for (algorithm, name, verification) in algorithms {
            for (certificate, key) in [
                (Some("cert.pem"), Some("key.pem")),
                (Some("both.pem"), None),
                (None, Some("key.pem")),
            ] {
                let client = ClientKey {
                    algorithm,
                    ..files.key(certificate, key)
                };
                let jwt = client.assertion("client-1", occasion).unwrap();
                let (header, claims, signature, signed) = parts(&jwt);
                assert_eq!(header["alg"], name);
                let thumbprint = |algorithm| {
                    URL_SAFE_NO_PAD.encode(digest::digest(algorithm, &files.der).as_ref())
                };
                let wanted = certificate.map(|_| thumbprint(&digest::SHA256));
                assert_eq!(header["x5t#S256"].as_str(), wanted.as_deref());
                assert_eq!(header["x5t"].is_string(), certificate.is_some());
                assert_eq!(
                    (&claims["iss"], &claims["sub"]),
                    (&"client-1".into(), &"client-1".into())
                );
                assert_eq!(claims["aud"], "https://login.example.com/token");
                assert_eq!(claims["exp"].as_i64(), Some(noon().as_second() + 300));
                let public = UnparsedPublicKey::new(verification, pair.public_key());
                public.verify(signed.as_bytes(), &signature).unwrap();
                let again = client.assertion("client-1", occasion).unwrap();
                assert_ne!(parts(&again).1["jti"], claims["jti"]);
            }
        }
    }

    #[test]
    fn a_certificates_end_is_read() {
        let files = Files::new();
        let end = files.key(Some("both.pem"), None).expires_at().unwrap();
        assert_eq!(end, Some("2027-05-31T00:00:00Z".parse().unwrap()));
        assert_eq!(files.key(None, Some("key.pem")).expires_at(), Ok(None));
    }

    #[test]
    fn what_is_wrong_with_a_key_is_told_without_quoting_it() {
        let files = Files::new();
        let write = |name: &str, text: &str| {
            std::fs::write(files.folder.path().join(name), text).unwrap();
        };
        write(
            "canary.pem",
            "-----BEGIN PRIVATE KEY-----\nY2FuYXJ5\n-----END PRIVATE KEY-----\n",
        );
        write(
            "locked.pem",
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nY2FuYXJ5\n-----END ENCRYPTED PRIVATE KEY-----\n",
        );
        write("canary.pfx", "\u{30}\u{7f}canary");
        for (certificate, key, said) in [
            (None, Some("canary.pem"), "RSA key of 2048 bits"),
            (None, Some("locked.pem"), "encrypted key"),
            (None, Some("absent.pem"), "cannot be read"),
            (Some("key.pem"), None, "holds no certificate"),
            (Some("canary.pfx"), None, "client_key_password"),
            (Some("cert.pem"), None, "holds no private key"),
            (None, None, "client_key_file"),
        ] {
            let error = files
                .key(certificate, key)
                .expires_at()
                .unwrap_err()
                .to_string();
            assert!(error.contains(said), "{error}");
            assert!(!error.contains("Y2FuYXJ5"), "{error}");
        }
    }

    #[test]
    fn a_service_account_asks_to_act_as_a_mailbox() {
        let file = json!({
            "type": "service_account",
            "client_email": "relay@project.iam.gserviceaccount.com",
            "private_key_id": "k1",
            "private_key": RFC_7515_KEY,
        });
        let account = ServiceAccount::parse(&file.to_string()).unwrap();
        let occasion = Occasion {
            audience: "https://oauth2.googleapis.com/token",
            now: noon(),
        };
        let jwt = account.assertion("alerts@contoso.com", "https://mail.google.com/", occasion);
        let (header, claims, ..) = parts(&jwt.unwrap());
        assert_eq!(header, json!({ "typ": "JWT", "alg": "RS256", "kid": "k1" }));
        assert_eq!(
            claims,
            json!({
                "iss": "relay@project.iam.gserviceaccount.com",
                "sub": "alerts@contoso.com",
                "scope": "https://mail.google.com/",
                "aud": "https://oauth2.googleapis.com/token",
                "iat": noon().as_second(),
                "exp": noon().as_second() + 3600,
            })
        );
        for text in [
            "{",
            "{}",
            r#"{"type":"authorized_user"}"#,
            r#"{"client_email":"a","private_key":"canary"}"#,
        ] {
            let error = ServiceAccount::parse(text).unwrap_err().to_string();
            assert!(!error.contains("canary"), "{error}");
        }
    }

    #[test]
    fn a_federated_token_is_read_anew_and_must_be_one() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "ey.ab.cd\n").unwrap();
        assert_eq!(federated(file.path()).unwrap().expose(), "ey.ab.cd");
        std::fs::write(file.path(), "ey.new.cd").unwrap();
        assert_eq!(federated(file.path()).unwrap().expose(), "ey.new.cd");
        for text in ["", "two words", "line\nbreak"] {
            std::fs::write(file.path(), text).unwrap();
            assert!(federated(file.path()).is_err(), "{text:?}");
        }
    }
}
