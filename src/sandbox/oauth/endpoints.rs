//! What programs speak to: `/token`, `/userinfo`, `/device/code`, `/revoke`, `/introspect`, and what
//! the server says of itself.

use std::sync::Arc;

use axum::{
    Json,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use jiff::SignedDuration;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    NO_STORE, Refusal,
    grants::{Consent, DEVICE_INTERVAL, DEVICE_LIFETIME, Tokens},
    identity,
    params::{Client, Params},
    service_account,
};
use crate::sandbox::{Shared, faults::Deed};

/// RFC 8628 §3.4.
const DEVICE_GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// RFC 7523 §2.1.
const ASSERTION_GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

/// `POST /token` (RFC 6749 §3.2).
pub(in crate::sandbox) async fn token(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let play = shared.script.take("token");
    if let Some(delay) = play.delay {
        tokio::time::sleep(delay).await;
    }
    if let Some(Deed::Http { status, body, .. }) = play.deed {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let json = [(header::CONTENT_TYPE, "application/json")];
        return (status, NO_STORE, json, body).into_response();
    }
    let answer = Params::parse(&body).and_then(|params| {
        let grant_type = params.need("grant_type")?;
        let (client, tokens) = if grant_type == ASSERTION_GRANT {
            // The assertion says who asks.
            (SERVICE_ACCOUNT, asserted(&shared, &params)?)
        } else {
            let client = params.client(&shared.provider, &headers)?;
            (client, grant(&shared, client, grant_type, &params)?)
        };
        tracing::debug!(event = "token_issued", client = client.id, grant_type);
        tokens.json(&shared, client)
    });
    match answer {
        Ok(json) => (NO_STORE, Json(json)).into_response(),
        Err(refusal) => {
            tracing::debug!(event = "token_refused", error = refusal.error);
            refusal.into_response()
        }
    }
}

/// Whoever holds the service account's key.
const SERVICE_ACCOUNT: Client = Client {
    id: service_account::ADDRESS,
    confidential: true,
};

/// An access token for the mailbox that an assertion names.
fn asserted(shared: &Shared, params: &Params) -> Result<Tokens, Refusal> {
    let provider = &shared.provider;
    let (assertion, now) = (params.need("assertion")?, shared.clock.now());
    let asked = provider
        .service_account
        .asked(assertion, &provider.token_url(), now)?;
    let consent = Consent {
        client_id: SERVICE_ACCOUNT.id.to_owned(),
        mailbox: Some(asked.mailbox),
        scope: asked.scope,
        nonce: None,
    };
    provider.grants().unattended(consent, Instant::now())
}

fn grant(
    shared: &Shared,
    client: Client,
    grant_type: &str,
    params: &Params,
) -> Result<Tokens, Refusal> {
    let mut grants = shared.provider.grants();
    let now = Instant::now();
    match grant_type {
        "authorization_code" => grants.redeem(
            client.id,
            params.need("code")?,
            params.need("redirect_uri")?,
            params.need("code_verifier")?,
            now,
        ),
        "refresh_token" => grants.refresh(
            client.id,
            params.need("refresh_token")?,
            params.get("scope"),
            now,
        ),
        DEVICE_GRANT => grants.poll_device(client.id, params.need("device_code")?, now),
        "client_credentials" if !client.confidential => Err(Refusal::PUBLIC_CLIENT),
        "client_credentials" => {
            grants.client_credentials(client.id, params.get("scope").unwrap_or_default(), now)
        }
        _ => Err(Refusal::GRANT_TYPE),
    }
}

impl Tokens {
    /// RFC 6749 §5.1, OpenID Connect Core 1.0 §3.1.3.3.
    fn json(&self, shared: &Shared, client: Client) -> Result<Value, Refusal> {
        let mut json = json!({
            "token_type": "Bearer",
            "access_token": self.access_token.expose(),
            "expires_in": self.expires_in.as_secs(),
            "scope": self.scope,
        });
        if let (Some(token), Some(object)) = (&self.refresh_token, json.as_object_mut()) {
            object.insert("refresh_token".to_owned(), token.expose().into());
        }
        if let (Some(person), Some(object)) = (&self.person, json.as_object_mut()) {
            let provider = &shared.provider;
            let now = shared.clock.now();
            let token = provider
                .signer
                .id_token(&provider.issuer, client.id, person, now)?;
            object.insert("id_token".to_owned(), token.expose().into());
        }
        Ok(json)
    }
}

/// `GET` and `POST /userinfo` (OpenID Connect Core 1.0 §5.3), with the access token in the header.
pub(in crate::sandbox) async fn userinfo(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let bearer = headers.get(header::AUTHORIZATION);
    let token = bearer
        .and_then(|value| value.to_str().ok()?.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim());
    let live = token.and_then(|token| shared.provider.grants().live(token, Instant::now()));
    let consent = live.ok_or(Refusal::BEARER)?.consent;
    let person = consent.person(&consent.scope).ok_or(Refusal::NO_OPENID)?;
    Ok((NO_STORE, Json(identity::claims(&person))).into_response())
}

/// `GET /jwks`: the key that signs id tokens.
pub(in crate::sandbox) async fn jwks(State(shared): State<Arc<Shared>>) -> Json<Value> {
    Json(shared.provider.signer.jwks())
}

/// `POST /device/code` (RFC 8628 §3.1).
pub(in crate::sandbox) async fn device_code(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    let params = Params::parse(&body)?;
    let client = params.client(&shared.provider, &headers)?;
    let scope = params.get("scope").unwrap_or_default();
    let start = shared
        .provider
        .grants()
        .begin_device(client.id, scope, Instant::now())?;
    let uri = format!("{}/device", shared.provider.issuer);
    let json = json!({
        "device_code": start.device_code.expose(),
        "user_code": start.user_code,
        "verification_uri_complete": format!("{uri}?user_code={}", start.user_code),
        "verification_uri": uri,
        "expires_in": DEVICE_LIFETIME.as_secs(),
        "interval": DEVICE_INTERVAL.as_secs(),
    });
    Ok((NO_STORE, Json(json)).into_response())
}

/// `POST /revoke` (RFC 7009).
pub(in crate::sandbox) async fn revoke(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<StatusCode, Refusal> {
    let params = Params::parse(&body)?;
    let client = params.client(&shared.provider, &headers)?;
    let token = params.need("token")?;
    shared.provider.grants().revoke(client.id, token)?;
    Ok(StatusCode::OK)
}

/// `POST /introspect` (RFC 7662), for access tokens. `username` and `email` name the mailbox, as
/// mail servers that check tokens here expect.
pub(in crate::sandbox) async fn introspect(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    let params = Params::parse(&body)?;
    if !params.client(&shared.provider, &headers)?.confidential {
        return Err(Refusal::PUBLIC_CLIENT);
    }
    let token = params.need("token")?;
    let live = shared.provider.grants().live(token, Instant::now());
    let json = live.map_or_else(
        || json!({ "active": false }),
        |live| {
            let remaining = SignedDuration::try_from(live.remaining).unwrap_or_default();
            let now = shared.clock.now();
            let expires_at = now.saturating_add(remaining).unwrap_or(now);
            json!({
                "active": true,
                "client_id": live.consent.client_id,
                "username": live.consent.mailbox,
                "email": live.consent.mailbox,
                "scope": live.consent.scope,
                "token_type": "Bearer",
                "exp": expires_at.as_second(),
                "iss": shared.provider.issuer,
            })
        },
    );
    Ok((NO_STORE, Json(json)).into_response())
}

/// `GET /.well-known/openid-configuration` (OpenID Connect Discovery 1.0), and the same under the name
/// of RFC 8414.
pub(in crate::sandbox) async fn metadata(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let issuer = &shared.provider.issuer;
    let methods = ["client_secret_basic", "client_secret_post", "none"];
    Json(json!({
        "issuer": issuer,
        "authorization_endpoint": format!("{issuer}/authorize"),
        "token_endpoint": shared.provider.token_url(),
        "device_authorization_endpoint": format!("{issuer}/device/code"),
        "revocation_endpoint": format!("{issuer}/revoke"),
        "introspection_endpoint": format!("{issuer}/introspect"),
        "userinfo_endpoint": format!("{issuer}/userinfo"),
        "jwks_uri": format!("{issuer}/jwks"),
        "scopes_supported": ["openid", "email", "profile", "offline_access", "smtp.send"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported":
            ["authorization_code", "refresh_token", "client_credentials", DEVICE_GRANT, ASSERTION_GRANT],
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": methods,
        "authorization_response_iss_parameter_supported": true,
    }))
}
