//! The practice OAuth server: RFC 6749 with PKCE (7636), device code (8628), revocation (7009),
//! introspection (7662), metadata (8414) and `iss` in the answer (9207); OpenID Connect as far as it
//! says who signed in.
//!
//! [`grants`] knows what was granted and touches no socket; [`endpoints`] speaks to programs,
//! [`consent`] to people. One practice application with a secret and one public one are registered.

pub(super) mod consent;
pub(super) mod endpoints;
pub(super) mod grants;
mod identity;
mod params;
pub(super) mod random;
mod service_account;

use std::{
    io,
    sync::{Mutex, MutexGuard, PoisonError},
};

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use grants::Grants;
use identity::Signer;
use serde_json::json;
use service_account::ServiceAccount;
use url::Url;

use crate::secret::Secret;

/// The application that keeps a secret, as a relay on a server does.
pub(super) const CLIENT_ID: &str = "gatepost-practice";

/// The application that cannot keep one (`client_authentication = "none"`).
pub(super) const PUBLIC_CLIENT_ID: &str = "gatepost-practice-public";

/// What the OAuth endpoints share.
#[derive(Debug)]
pub(super) struct Provider {
    /// Names this server in metadata and answers; no slash at its end.
    pub(super) issuer: String,
    /// Of [`CLIENT_ID`].
    pub(super) client_secret: Secret,
    /// Redirect URIs beyond loopback, exactly as registered.
    redirect_uris: Mutex<Vec<String>>,
    signer: Signer,
    service_account: ServiceAccount,
    grants: Mutex<Grants>,
}

impl Provider {
    /// # Errors
    /// When the system gives no randomness.
    pub(super) fn new(issuer: String, client_secret: Secret, grants: Grants) -> io::Result<Self> {
        Ok(Self {
            issuer,
            client_secret,
            redirect_uris: Mutex::default(),
            signer: Signer::new()?,
            service_account: ServiceAccount::default(),
            grants: Mutex::new(grants),
        })
    }

    /// Google's key file (JSON) for the service account; the same at every call.
    ///
    /// # Errors
    /// When no key can be made.
    pub(super) fn service_account_key(&self) -> io::Result<Secret> {
        self.service_account.key_file(&self.token_url())
    }

    fn token_url(&self) -> String {
        format!("{}/token", self.issuer)
    }

    /// What was granted. Held for the length of one look or one change.
    pub(super) fn grants(&self) -> MutexGuard<'_, Grants> {
        self.grants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets answers go to `uri` as well.
    pub(super) fn register(&self, uri: &str) {
        let mut uris = self
            .redirect_uris
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        uris.push(uri.to_owned());
    }

    /// Whether answers may go to `uri`: registered exactly so, or on this machine, whatever the port
    /// (RFC 8252 §7.3).
    fn may_redirect(&self, uri: &str) -> bool {
        let uris = self
            .redirect_uris
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        uris.iter().any(|registered| registered == uri) || is_loopback(uri)
    }
}

fn is_loopback(uri: &str) -> bool {
    Url::parse(uri).is_ok_and(|url| {
        url.scheme() == "http"
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none()
            && matches!(
                url.host_str(),
                Some("localhost" | "127.0.0.1" | "[::1]" | "::1")
            )
    })
}

/// A refusal in the words of the RFCs. A constant: it never depends on what the client sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{error}: {description}")]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) error: &'static str,
    pub(super) description: &'static str,
}

macro_rules! refusals {
    ($($name:ident = $status:literal $error:literal $description:literal;)*) => {
        impl Refusal {
            $(pub(super) const $name: Self = Self {
                status: $status, error: $error, description: $description,
            };)*
        }
    };
}

refusals! {
    CODE = 400 "invalid_grant" "the code is unknown or has expired";
    CODE_REPLAYED = 400 "invalid_grant" "the code was redeemed before; what it gave is revoked";
    REDIRECT_URI = 400 "invalid_grant" "redirect_uri is not the one the code was asked for with";
    VERIFIER = 400 "invalid_grant" "code_verifier does not prove the code_challenge";
    REFRESH_TOKEN = 400 "invalid_grant" "the refresh token is unknown or was revoked";
    REFRESH_REPLAYED = 400 "invalid_grant" "the refresh token was used before; the sign-in is revoked";
    DEVICE_CODE = 400 "invalid_grant" "the device code is unknown or was used";
    AUTHORIZATION_PENDING = 400 "authorization_pending" "the person has not decided yet";
    SLOW_DOWN = 400 "slow_down" "polled too soon; the interval is 5 seconds longer now";
    EXPIRED_TOKEN = 400 "expired_token" "the code was not entered in time";
    ACCESS_DENIED = 400 "access_denied" "the person said no";
    ASSERTION = 400 "invalid_grant" "the assertion cannot be read, or a claim is missing";
    ASSERTION_SIGNATURE = 400 "invalid_grant" "Invalid JWT Signature: not the service account's key of this run";
    ASSERTION_CLAIMS = 400 "invalid_grant" "Invalid JWT: aud must be this endpoint, and iat to exp an hour at most around now";
    CLIENT = 401 "invalid_client" "unknown client, or its secret is wrong or missing";
    TWO_METHODS = 400 "invalid_request" "client authentication was given twice, choose one method";
    PARAMETERS = 400 "invalid_request" "a parameter is given twice, or the form cannot be read";
    MISSING = 400 "invalid_request" "a required parameter is missing";
    GRANT_TYPE = 400 "unsupported_grant_type" "no such grant here";
    PUBLIC_CLIENT = 400 "unauthorized_client" "this grant is for a client with a secret";
    NOT_YOURS = 400 "unauthorized_client" "the token was issued to another client";
    BEARER = 401 "invalid_token" "the access token is missing, unknown or has ended";
    NO_OPENID = 403 "insufficient_scope" "the sign-in did not ask for openid";
    BUSY = 503 "temporarily_unavailable" "too many codes or tokens are alive, try again later";
    NO_CHANCE = 500 "server_error" "the system gave no random octets";
}

impl IntoResponse for Refusal {
    /// RFC 6749 §5.2.
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = json!({ "error": self.error, "error_description": self.description });
        let mut response = (status, NO_STORE, Json(body)).into_response();
        if status == StatusCode::UNAUTHORIZED {
            let challenge = if self == Self::BEARER {
                HeaderValue::from_static("Bearer error=\"invalid_token\"")
            } else {
                HeaderValue::from_static("Basic realm=\"gatepost sandbox\"")
            };
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

/// RFC 6749 §5.1: what holds tokens is never cached.
const NO_STORE: [(header::HeaderName, &str); 1] = [(header::CACHE_CONTROL, "no-store")];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_go_to_this_machine_or_where_registered_and_nowhere_else() {
        let provider = Provider::new(
            "http://127.0.0.1:1".to_owned(),
            Secret::new("s"),
            Grants::new(std::time::Duration::ZERO),
        )
        .unwrap();
        provider.register("https://relay.example.com/authorization/smtp_oauth/");
        let good = [
            "http://localhost:8025/authorization/smtp_oauth/",
            "http://127.0.0.1:1/x?y=z",
            "http://[::1]:7/",
            "https://relay.example.com/authorization/smtp_oauth/",
        ];
        for uri in good {
            assert!(provider.may_redirect(uri), "{uri}");
        }
        let bad = [
            "",
            "https://relay.example.com/authorization/smtp_oauth",
            "https://localhost/",
            "http://localhost.example.com/",
            "http://localhost@example.com/",
            "http://user@localhost/",
            "http://127.0.0.2/",
            "http://localhost/#x",
            "javascript:alert(1)",
        ];
        for uri in bad {
            assert!(!provider.may_redirect(uri), "{uri}");
        }
    }
}
