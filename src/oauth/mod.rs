//! A token's way: grants, refresh in the background, sealing at rest (design: "A token's way").
//!
//! Only this module sees a refresh token. One task an account keeps its access token fresh; a
//! rotated refresh token is sealed and stored before it is used; tokens are never deleted on an
//! error.
//!
//! [`preset`]: what is known of providers · `discovery`: what an issuer says of itself · `grant`: the
//! requests · `response`, `error`: what the answers mean · `identity`: who signed in · `state`: when to
//! refresh (pure) · `refresher`: the task an account · `sign_in`: sign-ins under way · `draft`: those that put a profile in force · `seal`: tokens
//! at rest · `secrets`: what others keep under the same key · `keeper`: all accounts together.

mod assertion;
mod discovery;
mod draft;
mod error;
mod error_table;
mod expiry;
mod grant;
mod identity;
mod inspect;
mod keeper;
pub mod preset;
mod refresher;
mod response;
mod seal;
mod secrets;
mod sign_in;
mod state;
#[cfg(test)]
mod tests;
mod vault;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use url::Url;

pub use assertion::{Algorithm, ClientKey, KeyError, ServiceAccount};
pub use draft::{Applied, Apply, Draft};
pub use expiry::{WARN_BEFORE, Warning};
pub use inspect::{Reached, TokenFacts};
pub use secrets::Seal;
use vault::Vault;

use crate::{
    clock::Clock,
    mail::AccountName,
    net::{http::Way, proxy::Proxy, tasks::Tasks},
    secret::Secret,
    store::Store,
    telemetry::Metrics,
};

/// Providers and accounts, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// By profile name.
    pub providers: BTreeMap<String, Provider>,
    /// By account name; accounts that need no token are not in it.
    pub accounts: BTreeMap<AccountName, Account>,
    /// The key that seals tokens.
    pub key: Key,
}

/// Where the key that seals tokens comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum Key {
    /// A file, made (0600, random) at first start when missing.
    File(PathBuf),
    /// Given (systemd credential, command): 32 octets in hex or base64. Of several, apart by spaces,
    /// the first seals and the others only open.
    Given(Secret),
}

/// What kind of provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Microsoft Entra ID.
    Microsoft,
    /// Google.
    Google,
    /// Anything that speaks RFC 6749.
    Custom,
}

/// How the client authenticates at the token endpoint (RFC 6749 §2.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuthentication {
    /// HTTP Basic.
    Basic,
    /// In the form.
    Post,
    /// A public client: only its id.
    None,
    /// An assertion that the client signs with its own key (RFC 7523 §2.2).
    PrivateKeyJwt,
}

/// An OAuth provider profile, every URL filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct Provider {
    /// Microsoft, Google or custom.
    pub kind: Kind,
    /// Free text.
    pub description: String,
    /// `client_id`.
    pub client_id: String,
    /// `client_secret`, unless a public client.
    pub client_secret: Option<Secret>,
    /// How the client authenticates.
    pub client_authentication: ClientAuthentication,
    /// What the provider calls itself (`iss`), exactly, where that is known. At a custom provider it
    /// stands for discovery: the issuer's own metadata fills in the URLs that are not given here.
    pub issuer: Option<String>,
    /// When the secret expires, if its owner has told: no provider does.
    pub client_secret_expires_at: Option<Timestamp>,
    /// The key of [`ClientAuthentication::PrivateKeyJwt`].
    pub client_key: Option<ClientKey>,
    /// When its certificate expires, as of the last reload.
    pub certificate_expires_at: Option<Timestamp>,
    /// The key of [`Grant::ServiceAccount`].
    pub service_account: Option<ServiceAccount>,
    /// The token that stands for the client with [`Grant::WorkloadIdentity`]; its platform keeps it
    /// fresh, so it is read for each request.
    pub federated_token_file: Option<PathBuf>,
    /// Where [`Grant::ManagedIdentity`] asks.
    pub managed_identity: Option<ManagedIdentity>,
    /// Microsoft: the tenant whose users may sign in, where it is configured by its id.
    pub tenant_id: Option<String>,
    /// Where a person consents. Needed by `authorization_code`.
    pub authorization_url: Option<Url>,
    /// Where tokens come from; none: the issuer says.
    pub token_url: Option<Url>,
    /// RFC 8628. Needed by `device_code`.
    pub device_authorization_url: Option<Url>,
    /// RFC 7009, where the provider has it.
    pub revocation_url: Option<Url>,
    /// Exactly as registered.
    pub redirect_url: Url,
    /// Scope asked for at sign-in, space separated.
    pub scope: String,
    /// Extra trust anchors, PEM.
    pub ca_file: Option<PathBuf>,
    /// Between this machine and the provider.
    pub proxy: Option<Proxy>,
}

impl Provider {
    /// How its endpoints are reached.
    fn way(&self) -> Way<'_> {
        Way {
            ca_file: self.ca_file.as_deref(),
            proxy: self.proxy.as_ref(),
        }
    }

    /// Whether the issuer is asked for what the configuration leaves out.
    fn is_discovered(&self) -> bool {
        self.kind == Kind::Custom && self.issuer.is_some()
    }
}

/// Azure's endpoint on the machine itself, which gives tokens for the identity of that machine.
#[derive(Debug, Clone, PartialEq)]
pub struct ManagedIdentity {
    /// Without query.
    pub url: Url,
    /// App Service's secret header; none: the instance metadata service of a virtual machine.
    pub header: Option<Secret>,
    /// A user-assigned identity; none: the system-assigned one.
    pub client_id: Option<String>,
}

/// How consent is obtained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grant {
    /// RFC 6749 §4.1 with PKCE (RFC 7636).
    AuthorizationCode,
    /// RFC 8628.
    DeviceCode,
    /// RFC 6749 §4.4: no person at all.
    ClientCredentials,
    /// Google's service account acts as the mailbox (RFC 7523 §2.1).
    ServiceAccount,
    /// Client credentials where another identity provider's token stands for the client.
    WorkloadIdentity,
    /// Azure gives tokens to the machine itself.
    ManagedIdentity,
}

impl Grant {
    /// Whether tokens come without a person ever signing in.
    #[must_use]
    pub fn is_unattended(self) -> bool {
        match self {
            Self::AuthorizationCode | Self::DeviceCode => false,
            Self::ClientCredentials
            | Self::ServiceAccount
            | Self::WorkloadIdentity
            | Self::ManagedIdentity => true,
        }
    }
}

/// A mailbox that needs tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct Account {
    /// The provider profile's name.
    pub provider: String,
    /// The mailbox that mail is sent as.
    pub mailbox: String,
    /// Who signs in, when it is not the mailbox itself: a delegate, or the mailbox under a user name
    /// that is not its address.
    pub sign_in_user: Option<String>,
    /// How consent is obtained.
    pub grant: Grant,
    /// What its tokens open, each with the scope that is sent for it without a person (empty: none
    /// is sent). Never empty. See [`preset::service_scope`].
    pub services: BTreeMap<Service, String>,
}

impl Account {
    /// Who signs in; `login_hint` at sign-in.
    fn user(&self) -> &str {
        self.sign_in_user.as_deref().unwrap_or(&self.mailbox)
    }
}

/// What an access token opens. Providers give a token for one resource, and one for another opens
/// nothing: Microsoft's mail servers refuse a token for Graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Service {
    /// SMTP submission.
    Smtp,
    /// Microsoft Graph.
    Graph,
    /// The Gmail API.
    Gmail,
}

impl Service {
    /// The word for logs and diagnoses.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Smtp => "smtp",
            Self::Graph => "graph",
            Self::Gmail => "gmail",
        }
    }
}

impl std::fmt::Display for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// An access token with its generation. Compare generations, never texts.
#[derive(Debug, Clone)]
pub struct AccessToken {
    /// The bearer token; exposed only where an AUTH line or a request is encoded.
    pub token: Secret,
    /// Rises with each new token of the account in this process.
    pub generation: u64,
}

/// Why there is no token now.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TokenError {
    /// A person must act; retrying does not help.
    #[error("{0}")]
    SignInNeeded(Diagnosis),
    /// Transient trouble and the old token is used up: try later.
    #[error("{0}")]
    Retrying(Diagnosis),
    /// A server refuses a token that is new already: it will refuse a newer one.
    #[error("{0}")]
    JustReplaced(Diagnosis),
}

/// What is wrong and what to do, in plain words. Never holds a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnosis {
    /// What is wrong: `the client secret has expired (AADSTS7000222)`.
    pub reason: String,
    /// What to do: `make a new secret in the Azure portal ...`.
    pub remedy: String,
}

impl std::fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}; {}", self.reason, self.remedy)
    }
}

/// State of an account's token, as `gatepost accounts` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// A token that lives.
    Ready,
    /// The first one is being fetched.
    Refreshing,
    /// Transient trouble; an old token may still serve.
    Retrying,
    /// A person must sign in or mend the configuration.
    SignInNeeded,
}

/// A snapshot of an account's token. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Where it stands.
    pub state: State,
    /// What is wrong, if something is.
    pub diagnosis: Option<Diagnosis>,
    /// When the access token expires.
    pub token_expires_at: Option<Timestamp>,
    /// When it was last refreshed.
    pub last_refresh_at: Option<Timestamp>,
    /// Whether there is anything for a sign-out to forget, be it of use or not.
    pub tokens_kept: bool,
    /// What will end by itself, told well before.
    pub warnings: Vec<Warning>,
}

/// A sign-in that has begun.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum SignIn {
    /// A browser must open this URL.
    Browser {
        /// Names this sign-in in [`Oauth::sign_in_result`]. It is not the `state` parameter.
        id: String,
        /// The authorization URL.
        url: String,
        /// Until when the browser's answer is waited for.
        expires_at: Timestamp,
        /// Whether a device code would do as well.
        device: bool,
    },
    /// A person must enter a code.
    Device {
        /// Names this sign-in.
        id: String,
        /// Where.
        verification_uri: String,
        /// With the code filled in, where the provider offers it.
        verification_uri_complete: Option<String>,
        /// The code.
        user_code: String,
        /// When it expires.
        expires_at: Timestamp,
    },
    /// Nobody is needed: the token is being fetched.
    Unattended {
        /// Names this sign-in.
        id: String,
    },
}

impl SignIn {
    /// What names it.
    #[must_use]
    pub fn id(&self) -> &str {
        match self {
            Self::Browser { id, .. } | Self::Device { id, .. } | Self::Unattended { id } => id,
        }
    }
}

/// A sign-in as it stands, for a person who comes back to it.
#[derive(Debug, Clone)]
pub struct SignInStatus {
    /// Whose it is.
    pub account: AccountName,
    /// The account's provider profile.
    pub provider: String,
    /// Whether its success is to put that profile in force.
    pub is_draft: bool,
    /// How far it is.
    pub standing: Standing,
}

/// How far a sign-in is.
#[derive(Debug, Clone)]
pub enum Standing {
    /// A person must go on so; of an unattended one, the provider must answer.
    Waiting(SignIn),
    /// The person has come back; the tokens are being fetched.
    Finishing,
    /// It is over: signed in, or why not.
    Ended(Result<(), Diagnosis>),
}

/// What a rotation of the key came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotated {
    /// Records sealed with the new key.
    pub resealed: usize,
    /// Accounts whose record could not be stored under the new key yet.
    pub waiting: Vec<AccountName>,
    /// Accounts whose record opens with no key; it was left as it is.
    pub locked: Vec<AccountName>,
    /// Whether the old key must stay.
    pub old_key_needed: bool,
}

impl Default for Rotated {
    fn default() -> Self {
        Self {
            resealed: 0,
            waiting: Vec::new(),
            locked: Vec::new(),
            old_key_needed: true,
        }
    }
}

/// All accounts' tokens. Clones share them.
#[derive(Debug, Clone)]
pub struct Oauth {
    keeper: Arc<keeper::Keeper>,
}

/// Why the token keeper could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The key file cannot be read or made.
    #[error("key file {path}: {reason}", path = path.display())]
    Key {
        /// Which.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// The store failed.
    #[error("token store")]
    Store(#[from] crate::store::Error),
    /// No such account, or it needs no token.
    #[error("{0}")]
    Account(String),
    /// The provider refused or could not be reached.
    #[error("{0}")]
    Provider(Diagnosis),
}

impl Oauth {
    /// Loads sealed tokens and starts one refresher task an account. A damaged record or a wrong
    /// key affects its account alone ([`State::SignInNeeded`]) and is never overwritten until a new
    /// sign-in succeeds.
    ///
    /// # Errors
    /// [`Error::Key`], [`Error::Store`]; [`Error::Account`] for one without a provider profile.
    pub async fn start(
        config: Config,
        store: Store,
        clock: Arc<dyn Clock>,
        tasks: Tasks,
        metrics: Arc<Metrics>,
    ) -> Result<Self, Error> {
        Self::start_on(Vault::Store(store), config, clock, tasks, metrics).await
    }

    async fn start_on(
        vault: Vault,
        config: Config,
        clock: Arc<dyn Clock>,
        tasks: Tasks,
        metrics: Arc<Metrics>,
    ) -> Result<Self, Error> {
        let keeper = Arc::new(keeper::Keeper::new(vault, clock, tasks, metrics));
        keeper.configure(config).await?;
        Ok(Self { keeper })
    }

    /// Takes a new configuration: unchanged accounts keep their state and tasks, changed ones
    /// restart with their stored token, removed ones stop.
    ///
    /// # Errors
    /// As [`Oauth::start`]; the old configuration then stays.
    pub async fn reconfigure(&self, config: Config) -> Result<(), Error> {
        self.keeper.configure(config).await
    }

    /// A live access token for `service`; waits for a refresh in flight. Cancel safe.
    ///
    /// # Errors
    /// [`TokenError`], also for accounts and services that are not configured here.
    pub async fn access_token(
        &self,
        account: &AccountName,
        service: Service,
    ) -> Result<AccessToken, TokenError> {
        self.keeper.access_token(account, service).await
    }

    /// A token newer than `stale`, by exactly one refresh however many callers ask: after a 535.
    /// A second forced refresh within five minutes is refused with [`TokenError::JustReplaced`]: what
    /// refuses a new token will refuse a newer one. Cancel safe; the refresh goes on.
    ///
    /// # Errors
    /// [`TokenError`].
    pub async fn refresh_after(
        &self,
        account: &AccountName,
        service: Service,
        stale: u64,
    ) -> Result<AccessToken, TokenError> {
        self.keeper.refresh_after(account, service, stale).await
    }

    /// What a token shows of itself; `None`: it is opaque, as many are.
    #[must_use]
    pub fn facts(token: &AccessToken) -> Option<TokenFacts> {
        TokenFacts::read(&token.token)
    }

    /// Asks the account's token endpoint for nothing, to see whether it is there. `None`: the account
    /// has none. Cancel safe.
    ///
    /// # Errors
    /// Why it cannot be reached.
    pub async fn reach(&self, account: &AccountName) -> Option<Result<Reached, Diagnosis>> {
        self.keeper.reach(account).await
    }

    /// Resolves when the account has a token for `service` of a generation other than `generation`
    /// (0: has any). For lanes on hold. Cancel safe.
    pub async fn changed(&self, account: &AccountName, service: Service, generation: u64) {
        self.keeper.changed(account, service, generation).await;
    }

    /// How the account's token stands; `None` when it needs none or is unknown.
    #[must_use]
    pub fn status(&self, account: &AccountName) -> Option<Status> {
        self.keeper.status(account)
    }

    /// Begins a sign-in. `device`: by device code whatever the account's grant says (except client
    /// credentials, which need no person). A sign-in of the same account that was under way is
    /// cancelled.
    ///
    /// # Errors
    /// [`Error::Account`], [`Error::Provider`].
    pub async fn begin_sign_in(
        &self,
        account: &AccountName,
        device: bool,
    ) -> Result<SignIn, Error> {
        self.keeper.begin_sign_in(account, device).await
    }

    /// Begins a sign-in with a profile that is not in force: a new one, or a change of one. Tokens that
    /// come and are of use are held ready while `apply` puts the profile in force (which must end in
    /// [`Oauth::reconfigure`] with exactly this profile); the account's refresher takes them before it
    /// does anything else, and only then the sign-in's result is told. A refusal, another person, no
    /// answer in time or a failing `apply` leaves the tokens of before as they are. With a grant
    /// without a person the fetch of a token is the proof. One sign-in an account: another one that was
    /// under way is cancelled.
    ///
    /// # Errors
    /// As [`Oauth::begin_sign_in`]; [`Error::Account`] when too many drafts are under way.
    pub async fn begin_draft_sign_in(
        &self,
        draft: Draft,
        device: bool,
        apply: Apply,
    ) -> Result<SignIn, Error> {
        self.keeper.begin_draft(draft, device, apply).await
    }

    /// Ends a sign-in that nobody wants any more; its `state` or code is then worth nothing here.
    /// Whether there was one to end: one that is being put in force goes on.
    #[must_use]
    pub fn cancel_sign_in(&self, id: &str) -> bool {
        self.keeper.cancel_sign_in(id)
    }

    /// How a sign-in stands, and how a person goes on with it. `None`: it is not known, or it was
    /// replaced by another.
    #[must_use]
    pub fn sign_in_status(&self, id: &str) -> Option<SignInStatus> {
        self.keeper.sign_ins().status(id)
    }

    /// The id of the sign-in that the query of a request to the redirect URL belongs to. Nothing is used
    /// up.
    #[must_use]
    pub fn sign_in_named(&self, query: &str) -> Option<String> {
        self.keeper.sign_ins().named(query)
    }

    /// Two numbers that change whenever a sign-in begins or ends.
    #[must_use]
    pub fn sign_in_marks(&self) -> (u64, usize) {
        self.keeper.sign_ins().marks()
    }

    /// Waits until a sign-in has succeeded (token stored), failed or timed out. Cancel safe.
    ///
    /// # Errors
    /// The diagnosis to show.
    pub async fn sign_in_result(&self, id: &str) -> Result<(), Diagnosis> {
        self.keeper.sign_in_result(id).await
    }

    /// The query of a request to the redirect URL (or a pasted redirect address): checks `state`
    /// (single use) and `iss` (RFC 9207), redeems the code, stores the token. Returns the account
    /// that is now signed in. Cancel safe: once the `state` is accepted the rest goes on.
    ///
    /// # Errors
    /// The diagnosis to show on the page; nothing is stored.
    pub async fn callback(&self, query: &str) -> Result<AccountName, Diagnosis> {
        self.keeper.callback(query).await
    }

    /// Forgets the account's tokens, revoking them at the provider where it can (RFC 7009).
    /// `None`: the provider confirmed the revocation; else why it did not, and what is left to do.
    ///
    /// # Errors
    /// The store's; revocation trouble is no error. [`Error::Account`] for one unknown here.
    pub async fn sign_out(&self, account: &AccountName) -> Result<Option<Diagnosis>, Error> {
        self.keeper.sign_out(account).await
    }

    /// Seals every record with another key, and forgets the old one when nothing is sealed with it any
    /// more. A key file gets a new key; where the key is given, its owner has put the new one in front
    /// of the old. A crash at any moment leaves every record openable.
    ///
    /// `others` seals with the new key what is kept beside the tokens; how many records that were.
    ///
    /// # Errors
    /// [`Error::Key`], [`Error::Store`]; what was not sealed anew opens with the old key, which stays.
    ///
    /// # Cancel safety
    /// Cancel safe; the old key then stays beside the new one.
    pub async fn rotate_key<F, R>(&self, others: F) -> Result<Rotated, Error>
    where
        F: FnOnce(Seal) -> R,
        R: Future<Output = Result<usize, crate::store::Error>>,
    {
        self.keeper.rotate_key(others).await
    }

    /// The redirect URLs of all profiles (the console serves their paths).
    #[must_use]
    pub fn redirect_urls(&self) -> Vec<Url> {
        self.keeper.redirect_urls()
    }
}
