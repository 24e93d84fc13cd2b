//! The token keeper against a token endpoint played here: real HTTP on a free port, time paused.

mod discovering;
mod drafting;
mod grants;
mod identifying;
mod keys;
mod provider;
mod refreshing;
mod signing_in;
mod year;

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use provider::{Answer, Provider as Played};

use super::*;
use crate::{clock::ManualClock, oauth::vault::memory::Memory};
pub(super) use year::World;

const NOON: &str = "2026-11-24T12:00:00Z";
const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// A keeper with one account, `alerts`, its provider and its memory of a store.
struct House {
    played: Played,
    memory: Arc<Memory>,
    clock: Arc<ManualClock>,
    oauth: Oauth,
    config: Config,
    tasks: Tasks,
}

fn alerts() -> AccountName {
    AccountName::new("alerts")
}

fn config(played: &Played, grant: Grant) -> Config {
    config_at(played.address, grant)
}

fn config_at(address: std::net::SocketAddr, grant: Grant) -> Config {
    let url = |path: &str| Url::parse(&format!("http://{address}{path}")).unwrap();
    let provider = Provider {
        kind: Kind::Custom,
        description: String::new(),
        client_id: "the client".to_owned(),
        client_secret: Some(Secret::new("s&cret")),
        client_authentication: ClientAuthentication::Post,
        issuer: None,
        client_secret_expires_at: None,
        client_key: None,
        certificate_expires_at: None,
        service_account: None,
        federated_token_file: None,
        managed_identity: None,
        tenant_id: None,
        authorization_url: Some(url("/authorize")),
        token_url: Some(url("/token")),
        device_authorization_url: Some(url("/device")),
        revocation_url: Some(url("/revoke")),
        redirect_url: "http://localhost:8025/authorization/smtp_oauth/"
            .parse()
            .unwrap(),
        scope: "offline_access mail".to_owned(),
        ca_file: None,
        proxy: None,
    };
    let account = Account {
        provider: "contoso".to_owned(),
        mailbox: "alerts@contoso.com".to_owned(),
        sign_in_user: None,
        grant,
        services: BTreeMap::from([(Service::Smtp, "mail".to_owned())]),
    };
    Config {
        providers: BTreeMap::from([("contoso".to_owned(), provider)]),
        accounts: BTreeMap::from([(alerts(), account)]),
        key: Key::Given(Secret::new(KEY)),
    }
}

/// A profile for tests of pure functions.
pub(super) fn bare_profile(name: AccountName, grant: Grant) -> grant::Profile {
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], 9));
    let config = config_at(address, grant);
    grant::Profile {
        name,
        provider_name: "contoso".to_owned(),
        provider: config.providers["contoso"].clone(),
        account: config.accounts[&alerts()].clone(),
    }
}

impl House {
    async fn new(grant: Grant) -> Self {
        let played = Played::start().await;
        let config = config(&played, grant);
        Self::furnished(played, Arc::default(), config).await
    }

    /// As after a restart: same provider, same store.
    async fn furnished(played: Played, memory: Arc<Memory>, config: Config) -> Self {
        let clock = ManualClock::new(NOON.parse().unwrap());
        let shared: Arc<dyn Clock> = Arc::<ManualClock>::clone(&clock);
        let tasks = Tasks::new();
        let oauth = Oauth::start_on(
            Vault::Memory(Arc::clone(&memory)),
            config.clone(),
            shared,
            tasks.clone(),
            Arc::new(Metrics::new()),
        );
        let oauth = oauth.await.unwrap();
        Self {
            played,
            memory,
            clock,
            oauth,
            config,
            tasks,
        }
    }

    /// A house whose account is signed in by browser; the provider rotates refresh tokens.
    async fn signed_in() -> Self {
        let house = Self::new(Grant::AuthorizationCode).await;
        let state = house.begin().await;
        let query = format!("code=good&state={state}");
        assert_eq!(house.oauth.callback(&query).await, Ok(alerts()));
        house
    }

    /// Begins a browser sign-in; returns its `state`.
    async fn begin(&self) -> String {
        self.ask().await["state"].clone()
    }

    /// Begins a browser sign-in; returns the parameters of the authorization request.
    async fn ask(&self) -> BTreeMap<String, String> {
        let begun = self.oauth.begin_sign_in(&alerts(), false).await.unwrap();
        let SignIn::Browser { url, .. } = begun else {
            panic!("a browser is wanted, not {begun:?}");
        };
        let url = Url::parse(&url).unwrap();
        url.query_pairs().into_owned().collect()
    }

    async fn token(&self) -> Result<AccessToken, TokenError> {
        self.oauth.access_token(&alerts(), Service::Smtp).await
    }

    fn state(&self) -> State {
        self.oauth.status(&alerts()).unwrap().state
    }

    fn reason(&self) -> String {
        let diagnosis = self.oauth.status(&alerts()).unwrap().diagnosis;
        diagnosis.map(|d| d.to_string()).unwrap_or_default()
    }

    /// Lets both clocks go on together, as they do when nothing jumps.
    async fn pass(&self, span: Duration) {
        self.clock.advance(SignedDuration::try_from(span).unwrap());
        tokio::time::sleep(span).await;
    }

    /// Ends this process's part; what is stored stays.
    async fn end(self) -> (Played, Arc<Memory>, Config) {
        self.tasks.stop();
        self.tasks.drained().await;
        (self.played, self.memory, self.config)
    }

    /// The stored record, opened.
    fn stored(&self) -> seal::Record {
        let sealer = seal::Sealer::from_key(&self.config.key).unwrap();
        let tokens = self.memory.tokens();
        sealer.open(&tokens[0]).unwrap().record
    }
}

const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);
