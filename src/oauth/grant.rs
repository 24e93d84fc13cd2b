//! The requests of RFC 6749, 8628 and 7009, as the `oauth2` crate forms them, over our own client.
//!
//! The crate forgets the HTTP status, `Retry-After` and everything Microsoft adds to an error;
//! [`Exchange`] keeps them, and lets nothing but JSON through to the parser.

use std::{
    borrow::Cow,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use oauth2::{
    AsyncHttpClient, AuthType, AuthUrl, AuthorizationCode, ClientId, ClientSecret,
    DeviceAuthorizationUrl, EndpointNotSet, EndpointSet, HttpRequest, HttpResponse,
    PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, RefreshToken, RequestTokenError, Scope,
    StandardDeviceAuthorizationResponse, StandardRevocableToken, TokenUrl,
    basic::{BasicRevocationErrorResponse, BasicTokenIntrospectionResponse},
    http::{Response, header::CONTENT_TYPE},
};
use reqwest::{Method, Request};
use tokio::sync::Semaphore;
use url::{Url, form_urlencoded};
use zeroize::Zeroizing;

use super::{
    Account, ClientAuthentication, Diagnosis, Kind, Provider, Service,
    assertion::{self, KeyError, Occasion},
    discovery::{Endpoints, Issuers},
    error::{self, About, Failure, Severity},
    inspect::Reached,
    preset,
    response::{Granted, Refusal},
    sign_in::Browser,
};
use crate::{
    clock::Clock,
    mail::AccountName,
    net::http::{self, Client, Clients, RetryAfter},
    secret::Secret,
};

/// Token requests in flight over all accounts: a start with a thousand expired tokens must neither
/// flood a provider nor hold a thousand answers in memory.
const REQUESTS_MAX: usize = 16;

/// Waits between device polls grow to this while the provider cannot be reached (RFC 8628 §3.5).
const POLL_BACKOFF_MAX: Duration = Duration::from_secs(60);

/// No poll sooner than this after the one before, whatever interval is asked for.
const POLL_MIN: Duration = Duration::from_secs(1);

/// An account with its provider profile: all that a request needs to know.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Profile {
    pub(super) name: AccountName,
    pub(super) provider_name: String,
    pub(super) provider: Provider,
    pub(super) account: Account,
}

impl Profile {
    /// What a refresh token is bound to: the token endpoint that gave it, or the issuer that named
    /// that endpoint.
    pub(super) fn source(&self) -> &str {
        let url = self.provider.token_url.as_ref().map(Url::as_str);
        url.or(self.provider.issuer.as_deref()).unwrap_or_default()
    }

    /// Whether a refresh token from this source may be shown to the provider configured now: to the
    /// same host, or to wherever the same issuer says.
    pub(super) fn may_show(&self, source: &str) -> bool {
        match &self.provider.token_url {
            Some(url) => Url::parse(source).is_ok_and(|source| source.origin() == url.origin()),
            None => self.source() == source,
        }
    }

    /// The scope of requests for this service without a person; empty: none is sent.
    pub(super) fn scope(&self, service: Service) -> &str {
        self.account
            .services
            .get(&service)
            .map_or("", String::as_str)
    }

    /// What the code of a sign-in is redeemed for, where that must be named: consent may span
    /// several resources, a token may not.
    pub(super) fn redeemed_scope(&self) -> Option<&str> {
        let scopes = self.account.services.values();
        let asked = &self.provider.scope;
        scopes
            .map(String::as_str)
            .find(|scope| preset::redeems_part(self.provider.kind, asked, scope))
    }

    /// The service that the token of a sign-in opens itself; the others need one more request each.
    pub(super) fn opened_by_sign_in(&self) -> Option<Service> {
        let asked = self.redeemed_scope().unwrap_or(&self.provider.scope);
        let kind = self.provider.kind;
        let mut services = self.account.services.iter();
        services.find_map(|(service, scope)| preset::opens(kind, asked, scope).then_some(*service))
    }

    /// The assertion by which the client says who it is; `None`: it does so in another way.
    async fn assertion(&self, audience: &Url, now: Timestamp) -> Result<Option<Secret>, KeyError> {
        let provider = &self.provider;
        let is_signed = provider.client_authentication == ClientAuthentication::PrivateKeyJwt;
        let key = provider.client_key.clone().filter(|_| is_signed);
        let file = provider.federated_token_file.clone();
        let make: Box<dyn FnOnce() -> Result<Secret, KeyError> + Send> =
            match (self.account.grant, key, file) {
                (super::Grant::ServiceAccount | super::Grant::ManagedIdentity, ..) => {
                    return Ok(None);
                }
                (super::Grant::WorkloadIdentity, _, Some(file)) => {
                    Box::new(move || assertion::federated(&file))
                }
                (_, Some(key), _) => {
                    let (client_id, audience) = (provider.client_id.clone(), audience.to_string());
                    Box::new(move || {
                        let audience = audience.as_str();
                        key.assertion(&client_id, Occasion { audience, now })
                    })
                }
                (_, None, _) => return Ok(None),
            };
        // Reads files and signs: a millisecond or two.
        let made = tokio::task::spawn_blocking(make).await;
        made.unwrap_or_else(|_| Err(KeyError::missing())).map(Some)
    }

    /// There is no assertion: nothing was sent.
    fn unsigned(&self, error: &KeyError) -> Box<Failure> {
        let diagnosis = self.diagnosis(error.what.clone(), &error.remedy);
        error::definite(Severity::Mend, "client_key", diagnosis)
    }

    /// A diagnosis about this account.
    pub(super) fn diagnosis(&self, reason: impl Into<String>, remedy: &str) -> Diagnosis {
        Diagnosis {
            reason: reason.into(),
            remedy: remedy.replace("ACCOUNT", self.name.as_str()),
        }
    }

    /// A failure to get a token for this service: what is missing has a name at each of them.
    fn about(&self, service: Service, mut failure: Box<Failure>) -> Box<Failure> {
        let unattended = self.account.grant.is_unattended();
        let permission = preset::permission(self.provider.kind, service, unattended);
        if let (About::Permission, Some(permission)) = (failure.about, permission) {
            let (reason, remedy) = (&failure.diagnosis.reason, permission.remedy);
            failure.diagnosis = Diagnosis {
                reason: format!("the permission {} is missing: {reason}", permission.name),
                remedy: remedy.replace("ACCOUNT", self.name.as_str()),
            };
        }
        failure
    }

    pub(super) fn judge(&self, status: u16, refusal: &Refusal) -> Box<Failure> {
        let mut failure = error::judge(status, refusal, &self.name);
        let delegated = self.account.grant == super::Grant::ServiceAccount;
        if delegated
            && matches!(
                refusal.error.as_str(),
                "unauthorized_client" | "access_denied"
            )
        {
            failure.diagnosis.remedy = "in the Google Admin console open Security, Access and data \
                control, API controls, Domain-wide delegation, and add the service account's client \
                id with the scope https://mail.google.com/, letter by letter; it may take a day"
                .to_owned();
        } else if delegated && refusal.error == "invalid_grant" {
            failure.severity = Severity::Mend;
            failure.diagnosis.remedy = "check that the mailbox exists in this Workspace, that the \
                service account's key was not deleted, and this machine's clock"
                .to_owned();
        } else if self.provider.kind == Kind::Google && refusal.error == "invalid_grant" {
            // Said nowhere in the answer, and the most common cause of a sign-in that dies.
            failure.diagnosis.remedy.push_str(
                "; if it happens every 7 days, publish the consent screen (it is in testing)",
            );
        }
        failure
    }
}

/// A client of the crate with a token endpoint.
type Endpoint = oauth2::Client<
    Refusal,
    Granted,
    BasicTokenIntrospectionResponse,
    StandardRevocableToken,
    BasicRevocationErrorResponse,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointSet,
>;

fn endpoint(provider: &Provider, token_url: &Url) -> Endpoint {
    let client = oauth2::Client::new(ClientId::new(provider.client_id.clone()))
        .set_token_uri(TokenUrl::from_url(token_url.clone()));
    let secret = || provider.client_secret.as_ref().map(Secret::expose);
    let (style, secret) = match provider.client_authentication {
        ClientAuthentication::Basic => (AuthType::BasicAuth, secret()),
        ClientAuthentication::Post => (AuthType::RequestBody, secret()),
        ClientAuthentication::None | ClientAuthentication::PrivateKeyJwt => {
            (AuthType::RequestBody, None)
        }
    };
    let client = client.set_auth_type(style);
    match secret {
        Some(secret) => client.set_client_secret(ClientSecret::new(secret.to_owned())),
        None => client,
    }
}

/// The authorization request (RFC 6749 §4.1.1) with PKCE (RFC 7636), always with S256.
///
/// # Errors
/// The diagnosis, when the provider has no such endpoint or does not take S256.
pub(super) fn authorization_url(
    profile: &Profile,
    endpoints: &Endpoints,
    browser: &Browser,
    challenge: PkceCodeChallenge,
) -> Result<Url, Diagnosis> {
    let provider = &profile.provider;
    let url = endpoints.authorization.clone().ok_or_else(|| {
        profile.diagnosis(
            "the provider has no authorization endpoint",
            "set authorization_url of the provider profile, or choose another grant for the account",
        )
    })?;
    if endpoints.refuses_s256 {
        return Err(profile.diagnosis(
            "the provider takes no PKCE challenge made with S256 (RFC 7636)",
            "have the provider allow S256, or choose another grant for the account",
        ));
    }
    let client = endpoint(provider, &endpoints.token).set_auth_uri(AuthUrl::from_url(url));
    let mut request = client
        .authorize_url(|| browser.state.clone())
        .set_redirect_uri(Cow::Owned(RedirectUrl::from_url(
            provider.redirect_url.clone(),
        )))
        .set_pkce_challenge(challenge);
    if !endpoints.scope.is_empty() {
        request = request.add_scope(Scope::new(endpoints.scope.clone()));
    }
    if !profile.account.user().is_empty() {
        request = request.add_extra_param("login_hint", profile.account.user());
    }
    if let Some(nonce) = &browser.nonce {
        request = request.add_extra_param("nonce", nonce.as_str());
    }
    for (name, value) in preset::authorize_parameters(provider.kind) {
        request = request.add_extra_param(*name, *value);
    }
    Ok(request.url().0)
}

/// Sends requests for all accounts. Clones share clients and the limit on requests in flight.
#[derive(Debug, Clone)]
pub(super) struct Grants {
    pub(super) clients: Clients,
    pub(super) issuers: Issuers,
    clock: Arc<dyn Clock>,
    gate: Arc<Semaphore>,
    /// Answers in place of every provider.
    #[cfg(test)]
    pub(super) played: Option<Arc<super::tests::World>>,
}

impl Grants {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clients: Clients::default(),
            issuers: Issuers::default(),
            clock,
            gate: Arc::new(Semaphore::new(REQUESTS_MAX)),
            #[cfg(test)]
            played: None,
        }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// RFC 6749 §6.
    pub(super) async fn refresh(
        &self,
        profile: &Profile,
        service: Service,
        token: &Secret,
    ) -> Result<Granted, Box<Failure>> {
        let token_url = self.token_url(profile).await?;
        let exchange = self.exchange(profile, &token_url).await?;
        let _permit = self.gate.acquire().await;
        let client = endpoint(&profile.provider, &token_url);
        let token = RefreshToken::new(token.expose().to_owned());
        let mut request = client.exchange_refresh_token(&token);
        let scope = profile.scope(service);
        if !scope.is_empty() {
            request = request.add_scope(Scope::new(scope.to_owned()));
        }
        let answer = request.request_async(&exchange).await;
        let granted = exchange.usable(answer);
        granted.map_err(|failure| profile.about(service, failure))
    }

    /// A token without a person: by whichever of those grants the account has.
    pub(super) async fn unattended(
        &self,
        profile: &Profile,
        service: Service,
    ) -> Result<Granted, Box<Failure>> {
        let granted = match profile.account.grant {
            super::Grant::ServiceAccount => self.service_account(profile, service).await,
            super::Grant::ManagedIdentity => self.managed_identity(profile, service).await,
            super::Grant::ClientCredentials
            | super::Grant::WorkloadIdentity
            | super::Grant::AuthorizationCode
            | super::Grant::DeviceCode => self.client_credentials(profile, service).await,
        };
        granted.map_err(|failure| profile.about(service, failure))
    }

    /// RFC 6749 §4.4.
    async fn client_credentials(
        &self,
        profile: &Profile,
        service: Service,
    ) -> Result<Granted, Box<Failure>> {
        let token_url = self.token_url(profile).await?;
        let exchange = self.exchange(profile, &token_url).await?;
        let _permit = self.gate.acquire().await;
        let client = endpoint(&profile.provider, &token_url);
        let mut request = client.exchange_client_credentials();
        let scope = profile.scope(service);
        if !scope.is_empty() {
            request = request.add_scope(Scope::new(scope.to_owned()));
        }
        let answer = request.request_async(&exchange).await;
        exchange.usable(answer)
    }

    /// RFC 7523 §2.1, as Google has it.
    async fn service_account(
        &self,
        profile: &Profile,
        service: Service,
    ) -> Result<Granted, Box<Failure>> {
        let url = self.token_url(profile).await?;
        let exchange = self.exchange(profile, &url).await?;
        let _permit = self.gate.acquire().await;
        let key = profile.provider.service_account.as_ref();
        let key = key.ok_or_else(|| profile.unsigned(&KeyError::missing()))?;
        let occasion = Occasion {
            audience: url.as_str(),
            now: self.clock.now(),
        };
        let (mailbox, scope) = (&profile.account.mailbox, profile.scope(service));
        let assertion = key.assertion(mailbox, scope, occasion);
        let assertion = assertion.map_err(|error| profile.unsigned(&error))?;
        let form = Zeroizing::new(
            form_urlencoded::Serializer::new(String::new())
                .append_pair("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer")
                .append_pair("assertion", assertion.expose())
                .finish(),
        );
        let request = oauth2::http::Request::post(url.as_str())
            .header(CONTENT_TYPE, FORM)
            .body(form.as_bytes().to_vec());
        exchange.raw(request).await
    }

    /// Azure's endpoint on this machine; no proxy is ever between.
    async fn managed_identity(
        &self,
        profile: &Profile,
        service: Service,
    ) -> Result<Granted, Box<Failure>> {
        let missing = || profile.unsigned(&KeyError::missing());
        let identity = profile.provider.managed_identity.as_ref();
        let identity = identity.ok_or_else(missing)?;
        let client = self.clients.on_this_machine(&identity.url).await;
        let exchange = self.exchange_by(profile, client)?;
        let _permit = self.gate.acquire().await;
        let mut url = identity.url.clone();
        let resource = profile.scope(service).trim_end_matches("/.default");
        let version = match identity.header {
            Some(_) => "2019-08-01",
            None => "2018-02-01",
        };
        url.query_pairs_mut()
            .append_pair("api-version", version)
            .append_pair("resource", resource)
            .extend_pairs(identity.client_id.iter().map(|id| ("client_id", id)));
        let request = oauth2::http::Request::get(url.as_str());
        let request = match &identity.header {
            Some(secret) => request.header("X-IDENTITY-HEADER", secret.expose()),
            // It proves that the request was not forwarded from elsewhere.
            None => request.header("Metadata", "true"),
        };
        exchange.raw(request.body(Vec::new())).await
    }

    /// RFC 6749 §4.1.3 with the verifier of RFC 7636.
    pub(super) async fn redeem(
        &self,
        profile: &Profile,
        code: String,
        verifier: PkceCodeVerifier,
    ) -> Result<Granted, Box<Failure>> {
        let provider = &profile.provider;
        let token_url = self.token_url(profile).await?;
        let exchange = self.exchange(profile, &token_url).await?;
        let client = endpoint(provider, &token_url);
        let mut request = client
            .exchange_code(AuthorizationCode::new(code))
            .set_redirect_uri(Cow::Owned(RedirectUrl::from_url(
                provider.redirect_url.clone(),
            )))
            .set_pkce_verifier(verifier);
        if let Some(scope) = profile.redeemed_scope() {
            let scope = preset::sign_in_scope(provider.kind, scope, &[]);
            request = request.add_extra_param("scope", scope);
        }
        let answer = request.request_async(&exchange).await;
        exchange.usable(answer)
    }

    /// RFC 8628 §3.1.
    pub(super) async fn begin_device(
        &self,
        profile: &Profile,
    ) -> Result<StandardDeviceAuthorizationResponse, Box<Failure>> {
        let provider = &profile.provider;
        let endpoints = self.endpoints(profile).await?;
        let url = endpoints.device_authorization.ok_or_else(|| {
            let diagnosis = profile.diagnosis(
                "the provider has no device authorization endpoint",
                "sign in by browser instead: gatepost login ACCOUNT --no-browser",
            );
            error::definite(Severity::Mend, "no_device_endpoint", diagnosis)
        })?;
        let mut exchange = self.exchange(profile, &url).await?;
        exchange.audience = Some(endpoints.token.clone());
        let client = endpoint(provider, &endpoints.token)
            .set_device_authorization_url(DeviceAuthorizationUrl::from_url(url));
        let mut request = client.exchange_device_code();
        if !endpoints.scope.is_empty() {
            request = request.add_scope(Scope::new(endpoints.scope));
        }
        let answer = request.request_async(&exchange).await;
        answer.map_err(|error| exchange.failure(error))
    }

    /// RFC 8628 §3.4: asks until the person has decided or `patience` is over.
    pub(super) async fn poll_device(
        &self,
        profile: &Profile,
        begun: &StandardDeviceAuthorizationResponse,
        patience: Duration,
    ) -> Result<Granted, Box<Failure>> {
        let token_url = self.token_url(profile).await?;
        let mut exchange = self.exchange(profile, &token_url).await?;
        exchange.polling = true;
        let client = endpoint(&profile.provider, &token_url);
        let request = client
            .exchange_device_access_token(begun)
            .set_max_backoff_interval(POLL_BACKOFF_MAX)
            .request_async(
                &exchange,
                |pause: Duration| tokio::time::sleep(pause.max(POLL_MIN)),
                Some(patience),
            );
        // The crate judges by the wall clock, which may jump.
        let Ok(answer) = tokio::time::timeout(patience, request).await else {
            return Err(profile.judge(400, &Refusal::new("expired_token", None)));
        };
        exchange.usable(answer)
    }

    /// Asks the token endpoint for nothing: whatever it answers, it is there. Nothing secret is sent.
    pub(super) async fn reach(&self, profile: &Profile) -> Result<Reached, Box<Failure>> {
        let (url, client) = match &profile.provider.managed_identity {
            Some(identity) if profile.account.grant == super::Grant::ManagedIdentity => {
                let url = identity.url.clone();
                let client = self.clients.on_this_machine(&url).await;
                (url, client)
            }
            Some(_) | None => {
                let url = self.token_url(profile).await?;
                let client = self.clients.client(&url, profile.provider.way()).await;
                (url, client)
            }
        };
        let trouble = |error: http::Error| {
            let host = url.host_str().unwrap_or_default();
            error::trouble("unreachable", format!("{host} cannot be reached: {error}"))
        };
        let client = client.map_err(trouble)?;
        let mut request = Request::new(Method::POST, url.clone());
        let form = reqwest::header::HeaderValue::from_static(FORM);
        request.headers_mut().insert(CONTENT_TYPE, form);
        let answer = client.exchange(request).await.map_err(trouble)?;
        Ok(Reached {
            host: url.host_str().unwrap_or_default().to_owned(),
            status: answer.status.as_u16(),
            date: answer.date,
        })
    }

    /// RFC 7009.
    ///
    /// # Errors
    /// Why the provider did not confirm it, and what is left to do.
    pub(super) async fn revoke(&self, profile: &Profile, token: &Secret) -> Result<(), Diagnosis> {
        let provider = &profile.provider;
        let left = |reason: String| Diagnosis {
            reason,
            remedy: preset::revocation_by_hand(provider.kind).to_owned(),
        };
        let endpoints = self.endpoints(profile).await;
        let endpoints = endpoints.map_err(|failure| left(failure.diagnosis.reason))?;
        let url = endpoints.revocation;
        let url =
            url.ok_or_else(|| left("the provider offers no revocation of tokens".to_owned()))?;
        let unreachable = |error: http::Error| {
            left(format!(
                "the provider cannot be reached to revoke its tokens: {error}"
            ))
        };
        let client = self.clients.client(&url, provider.way()).await;
        let client = client.map_err(unreachable)?;
        // The crate refuses a plain URL even on this machine.
        let mut request = revocation(provider, &url, token);
        let assertion = profile.assertion(&endpoints.token, self.clock.now()).await;
        if let Ok(Some(assertion)) = assertion
            && let Some(body) = request.body().and_then(reqwest::Body::as_bytes)
        {
            let form = with_assertion(body, &assertion);
            *request.body_mut() = Some(form.into());
        }
        let answer = client.exchange(request).await.map_err(unreachable)?;
        if answer.status.is_success() {
            return Ok(());
        }
        let status = answer.status.as_u16();
        Err(left(format!(
            "the provider answered HTTP {status} when asked to revoke its tokens"
        )))
    }

    async fn exchange<'p>(
        &self,
        profile: &'p Profile,
        url: &Url,
    ) -> Result<Exchange<'p>, Box<Failure>> {
        let client = self.clients.client(url, profile.provider.way()).await;
        let mut exchange = self.exchange_by(profile, client)?;
        exchange.audience = Some(url.clone());
        Ok(exchange)
    }

    fn exchange_by<'p>(
        &self,
        profile: &'p Profile,
        client: Result<Client, http::Error>,
    ) -> Result<Exchange<'p>, Box<Failure>> {
        let client =
            client.map_err(|error| error::unreachable("no request can be made", &error))?;
        Ok(Exchange {
            profile,
            client,
            clock: Arc::clone(&self.clock),
            polling: false,
            audience: None,
            seen: Mutex::default(),
            #[cfg(test)]
            played: self.played.clone(),
        })
    }
}

fn revocation(provider: &Provider, url: &Url, token: &Secret) -> Request {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("token", token.expose());
    let mut request = Request::new(Method::POST, url.clone());
    let secret = provider.client_secret.as_ref().map(Secret::expose);
    match (provider.client_authentication, secret) {
        (ClientAuthentication::Basic, Some(secret)) => {
            // RFC 6749 §2.3.1: both parts are form-encoded first.
            let encoded = |text: &str| -> String {
                form_urlencoded::byte_serialize(text.as_bytes()).collect()
            };
            let pair = format!("{}:{}", encoded(&provider.client_id), encoded(secret));
            let value = format!("Basic {}", base64::Engine::encode(&BASE64, pair));
            if let Ok(value) = value.parse() {
                request
                    .headers_mut()
                    .insert(reqwest::header::AUTHORIZATION, value);
            }
        }
        (ClientAuthentication::Post, Some(secret)) => {
            form.append_pair("client_id", &provider.client_id);
            form.append_pair("client_secret", secret);
        }
        (ClientAuthentication::None | ClientAuthentication::PrivateKeyJwt, _) | (_, None) => {
            form.append_pair("client_id", &provider.client_id);
        }
    }
    let form_type = reqwest::header::HeaderValue::from_static(FORM);
    request.headers_mut().insert(CONTENT_TYPE, form_type);
    *request.body_mut() = Some(form.finish().into());
    request
}

/// A form with the client's assertion (RFC 7523 §2.2).
fn with_assertion(form: &[u8], assertion: &Secret) -> Vec<u8> {
    let mut form = form.to_vec();
    if !form.is_empty() {
        form.push(b'&');
    }
    let added = form_urlencoded::Serializer::new(String::new())
        .append_pair(
            "client_assertion_type",
            "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        )
        .append_pair("client_assertion", assertion.expose())
        .finish();
    form.extend_from_slice(added.as_bytes());
    form
}

const FORM: &str = "application/x-www-form-urlencoded";

/// Form fields that no log may show.
const SECRET_FIELDS: [&str; 7] = [
    "assertion",
    "client_assertion",
    "refresh_token",
    "code",
    "code_verifier",
    "device_code",
    "client_secret",
];

const BASE64: base64::engine::GeneralPurpose = base64::engine::general_purpose::STANDARD;

/// The crate's HTTP client for one grant, which remembers what the crate forgets.
#[derive(Debug)]
struct Exchange<'p> {
    profile: &'p Profile,
    client: Client,
    clock: Arc<dyn Clock>,
    /// Polling for a device: transient refusals are trouble on the way, so that polling goes on.
    polling: bool,
    /// The token endpoint, for which assertions are made; none: the grant has none.
    audience: Option<Url>,
    seen: Mutex<Seen>,
    #[cfg(test)]
    played: Option<Arc<super::tests::World>>,
}

/// What the last answer said besides its body.
#[derive(Debug, Clone, Default)]
struct Seen {
    status: u16,
    retry_after: Option<RetryAfter>,
    refusal: Option<Refusal>,
}

/// Why the crate gets no answer to parse.
#[derive(Debug, thiserror::Error)]
enum Unanswered {
    #[error(transparent)]
    Http(#[from] http::Error),
    #[error("the provider answered HTTP {status} with something other than JSON{through}")]
    Form { status: u16, through: String },
    #[error("the provider answered HTTP {0}")]
    Busy(u16),
    #[error("{0}")]
    Key(KeyError),
    #[error("request")]
    Request(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl<'c> AsyncHttpClient<'c> for Exchange<'_> {
    type Error = Unanswered;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, Unanswered>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(self.ask(request))
    }
}

impl Exchange<'_> {
    async fn ask(&self, request: HttpRequest) -> Result<HttpResponse, Unanswered> {
        self.remember(Seen::default());
        let request = self.signed(request).await?;
        let secrets = self.secrets(request.body());
        let request = Request::try_from(request).map_err(|e| Unanswered::Request(Box::new(e)))?;
        let answer = self.answer(request).await?;
        let status = answer.status.as_u16();
        let mut seen = Seen {
            status,
            retry_after: answer.retry_after,
            refusal: None,
        };
        let read = self.read(&answer, &mut seen, &secrets);
        self.remember(seen);
        read?;
        Response::builder()
            .status(answer.status)
            .header(CONTENT_TYPE, "application/json")
            .body(answer.body)
            .map_err(|e| Unanswered::Request(Box::new(e)))
    }

    async fn answer(&self, request: Request) -> Result<http::Response, http::Error> {
        #[cfg(test)]
        if let Some(played) = &self.played {
            return Ok(played.answer(&request));
        }
        self.client.exchange(request).await
    }

    /// The request with the client's assertion, a fresh one each time: polling sends the same form
    /// again, and a provider takes no `jti` twice.
    async fn signed(&self, mut request: HttpRequest) -> Result<HttpRequest, Unanswered> {
        let Some(url) = &self.audience else {
            return Ok(request);
        };
        let assertion = self.profile.assertion(url, self.clock.now()).await;
        if let Some(assertion) = assertion.map_err(Unanswered::Key)? {
            *request.body_mut() = with_assertion(request.body(), &assertion);
        }
        Ok(request)
    }

    /// An exchange that the crate has no form for.
    async fn raw(
        &self,
        request: Result<HttpRequest, oauth2::http::Error>,
    ) -> Result<Granted, Box<Failure>> {
        let request = request.map_err(|error| Unanswered::Request(Box::new(error)));
        let answer = async { self.ask(request?).await };
        let answer = match answer.await {
            Ok(answer) if answer.status().as_u16() == 200 => {
                serde_json::from_slice(answer.body()).map_err(|_| {
                    // What the crate says of such an answer; it holds no body.
                    RequestTokenError::<Unanswered, Refusal>::Other(String::new())
                })
            }
            Ok(_) => Err(RequestTokenError::Other(String::new())),
            Err(error) => Err(RequestTokenError::Request(error)),
        };
        self.usable(answer)
    }

    /// What a request carries in confidence.
    fn secrets(&self, form: &[u8]) -> Vec<Zeroizing<String>> {
        let provider = &self.profile.provider;
        let header = provider
            .managed_identity
            .as_ref()
            .and_then(|m| m.header.as_ref());
        let known = provider.client_secret.iter().chain(header);
        let known = known.map(|secret| Zeroizing::new(secret.expose().to_owned()));
        let sent = form_urlencoded::parse(form)
            .filter(|(name, _)| SECRET_FIELDS.contains(&name.as_ref()))
            .map(|(_, value)| Zeroizing::new(value.into_owned()));
        known.chain(sent).collect()
    }

    fn read(
        &self,
        answer: &http::Response,
        seen: &mut Seen,
        secrets: &[Zeroizing<String>],
    ) -> Result<(), Unanswered> {
        let status = seen.status;
        if !answer.is_json() {
            return Err(self.malformed(status));
        }
        if status == 200 {
            return Ok(());
        }
        let mut refusal: Refusal =
            serde_json::from_slice(&answer.body).map_err(|_| self.malformed(status))?;
        refusal.blot(secrets);
        let severity = self.profile.judge(status, &refusal).severity;
        let asked_to_wait = matches!(
            refusal.error.as_str(),
            "authorization_pending" | "slow_down"
        );
        let busy = self.polling && severity == Severity::Transient && !asked_to_wait;
        seen.refusal = Some(refusal);
        if busy {
            Err(Unanswered::Busy(status))
        } else {
            Ok(())
        }
    }

    /// A proxy that reads TLS may have answered in the provider's place.
    fn malformed(&self, status: u16) -> Unanswered {
        let proxy = self.client.through();
        let through =
            proxy.map(|proxy| format!(", through the proxy {proxy}, which may have said it"));
        Unanswered::Form {
            status,
            through: through.unwrap_or_default(),
        }
    }

    fn remember(&self, seen: Seen) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = seen;
    }

    /// The answer, if it is of use.
    fn usable<E: oauth2::ErrorResponse + 'static>(
        &self,
        answer: Result<Granted, RequestTokenError<Unanswered, E>>,
    ) -> Result<Granted, Box<Failure>> {
        let granted = answer.map_err(|error| self.failure(error))?;
        granted.check().map_err(|unusable| {
            error::trouble(
                "unusable",
                format!("the provider's answer cannot be used: {unusable}"),
            )
        })?;
        Ok(granted)
    }

    fn failure<E: oauth2::ErrorResponse + 'static>(
        &self,
        error: RequestTokenError<Unanswered, E>,
    ) -> Box<Failure> {
        let seen = self
            .seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let mut failure = match (error, &seen.refusal) {
            (_, Some(refusal)) => self.profile.judge(seen.status, refusal),
            (RequestTokenError::Request(Unanswered::Http(error)), None) => {
                error::unreachable("the provider cannot be reached", &error)
            }
            (RequestTokenError::Request(Unanswered::Key(error)), None) => {
                self.profile.unsigned(&error)
            }
            (RequestTokenError::Request(error), None) => {
                error::trouble(&format!("http_{}", seen.status), error.to_string())
            }
            // The crate's texts may quote the body, and a body may hold a token.
            (
                RequestTokenError::ServerResponse(_)
                | RequestTokenError::Parse(..)
                | RequestTokenError::Other(_),
                None,
            ) => error::trouble(
                "unreadable",
                format!(
                    "the provider's answer (HTTP {}) is not a token response",
                    seen.status
                ),
            ),
        };
        failure.retry_after = seen.retry_after.map(|wish| wish.wait(self.clock.now()));
        failure
    }
}
