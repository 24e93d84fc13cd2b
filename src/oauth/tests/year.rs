//! A thousand accounts for a month (a year in a release build) and fifty for a year, in simulated time:
//! the keeper whole, the provider a function that takes no time, forgets a refresh token once it was
//! used, is away now and then, asks to come later, and revokes a few.

use std::sync::{
    Mutex,
    atomic::{AtomicU64, AtomicUsize},
};

use reqwest::{Request, StatusCode};
use tokio::time::Instant;

use super::*;
use crate::{
    net::http::{Clients, Response, RetryAfter, Way},
    store::SealedToken,
};

/// The longest life that is believed; Microsoft's are about as long where access is evaluated continuously.
const LIFE: Duration = Duration::from_secs(24 * 3600);
/// Between two looks: an outage begins and ends, load is counted.
const STEP: Duration = Duration::from_secs(30 * 60);
/// An outage lasts so long: nearly as long as what is left of a token that is due.
const OUTAGE: Duration = Duration::from_secs(4 * 3600);
/// One begins every so many days.
const OUTAGE_EVERY_DAYS: u64 = 10;
/// One request in so many is asked to come later.
const BUSY_EVERY: u64 = 50;
/// So many accounts are revoked, spread over the span.
const REVOCATIONS: u64 = 4;
/// How many mean loads one step may see, an outage's own aftermath apart, and this many more: what
/// chance gives to independent events is far below.
const LOAD_MAX: (usize, usize) = (4, 20);

/// The provider.
#[derive(Debug)]
pub(in crate::oauth) struct World {
    start: Instant,
    accounts: Mutex<Vec<Account>>,
    away: Mutex<Option<Instant>>,
    asked: AtomicUsize,
    draws: AtomicU64,
}

/// What it knows of an account.
#[derive(Debug)]
struct Account {
    rotations: u64,
    /// When the newest access token expires.
    ends: Instant,
    revoked: bool,
    /// Requests after it was revoked.
    knocked: usize,
}

impl World {
    /// One answer of the token endpoint.
    pub(in crate::oauth) fn answer(&self, request: &Request) -> Response {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let form = request.body().and_then(reqwest::Body::as_bytes).unwrap();
        let form: BTreeMap<String, String> =
            url::form_urlencoded::parse(form).into_owned().collect();
        let (index, rotation) = form["refresh_token"].split_once('-').unwrap();
        let (index, rotation): (usize, u64) = (index.parse().unwrap(), rotation.parse().unwrap());
        if self.away.lock().unwrap().is_some() {
            return said(503, None, "<html>away</html>".to_owned());
        }
        let draw = self.draws.fetch_add(1, Ordering::Relaxed);
        if draw.is_multiple_of(BUSY_EVERY) {
            let later = Some(RetryAfter::Delay(Duration::from_secs(90)));
            return said(
                429,
                later,
                r#"{"error":"temporarily_unavailable"}"#.to_owned(),
            );
        }
        let account = &mut self.accounts.lock().unwrap()[index];
        if account.revoked {
            account.knocked += 1;
            return said(400, None, r#"{"error":"invalid_grant"}"#.to_owned());
        }
        assert_eq!(
            rotation, account.rotations,
            "a refresh token was used twice"
        );
        account.rotations += 1;
        account.ends = Instant::now() + LIFE;
        let body = format!(
            r#"{{"access_token":"{index}.{r}","token_type":"Bearer","expires_in":{},"refresh_token":"{index}-{r}"}}"#,
            LIFE.as_secs(),
            r = account.rotations
        );
        said(200, None, body)
    }

    /// Whether the provider would take this access token now.
    fn takes(&self, index: usize, token: &str) -> bool {
        let account = &self.accounts.lock().unwrap()[index];
        token == format!("{index}.{}", account.rotations) && Instant::now() < account.ends
    }
}

fn said(status: u16, retry_after: Option<RetryAfter>, body: String) -> Response {
    Response {
        status: StatusCode::from_u16(status).unwrap(),
        media_type: Some("application/json".to_owned()),
        retry_after,
        date: None,
        request_id: None,
        challenge: None,
        body: body.into_bytes(),
    }
}

fn name(index: usize) -> AccountName {
    AccountName::new(&format!("account-{index}"))
}

/// Signed in at some time of the day before.
fn stored(config: &Config, index: usize, now: Timestamp) -> (SealedToken, Duration) {
    let accounts = u32::try_from(config.accounts.len()).unwrap();
    let age = LIFE.mul_f64(0.7) / accounts * u32::try_from(index).unwrap();
    let at = |span: Duration| SignedDuration::try_from(span).unwrap();
    let obtained_at = now - at(age);
    let access = seal::Access {
        token: Secret::new(format!("{index}.0")),
        obtained_at,
        expires_at: obtained_at + at(LIFE),
        scope: None,
        asked_scope: "mail".to_owned(),
    };
    let record = seal::Record {
        refresh_token: Some(Secret::new(format!("{index}-0"))),
        token_url: config.providers["contoso"]
            .token_url
            .as_ref()
            .unwrap()
            .to_string(),
        client_id: "the client".to_owned(),
        subject: None,
        consented_at: Some(obtained_at),
        consent_ends_at: None,
        access: BTreeMap::from([(Service::Smtp, access)]),
    };
    let sealer = seal::Sealer::from_key(&config.key).unwrap();
    let sealed = SealedToken {
        account: name(index),
        version: 1,
        record: sealer.seal(&name(index), 1, &record).unwrap(),
        previous: None,
    };
    (sealed, LIFE - age)
}

struct Simulation {
    oauth: Oauth,
    world: Arc<World>,
    clock: Arc<ManualClock>,
    memory: Arc<Memory>,
}

impl Simulation {
    async fn new(accounts: usize) -> Self {
        let mut config = config_at(([127, 0, 0, 1], 9).into(), Grant::AuthorizationCode);
        let one = config.accounts.remove(&alerts()).unwrap();
        config.accounts = (0..accounts).map(|n| (name(n), one.clone())).collect();
        let clock = ManualClock::new(NOON.parse().unwrap());
        let memory = Arc::<Memory>::default();
        let start = Instant::now();
        let accounts = (0..accounts).map(|index| {
            let (sealed, left) = stored(&config, index, clock.now());
            memory.put(sealed).unwrap();
            Account {
                rotations: 0,
                ends: start + left,
                revoked: false,
                knocked: 0,
            }
        });
        let world = Arc::new(World {
            start,
            accounts: Mutex::new(accounts.collect()),
            away: Mutex::default(),
            asked: AtomicUsize::new(0),
            draws: AtomicU64::new(1),
        });
        let shared: Arc<dyn Clock> = Arc::<ManualClock>::clone(&clock);
        let vault = Vault::Memory(Arc::clone(&memory));
        let mut keeper = keeper::Keeper::new(vault, shared, Tasks::new(), Arc::new(Metrics::new()));
        keeper.parts.grants.played = Some(Arc::clone(&world));
        keeper.configure(config).await.unwrap();
        let keeper = Arc::new(keeper);
        Self {
            oauth: Oauth { keeper },
            world,
            clock,
            memory,
        }
    }

    /// Requests in one step of time.
    async fn pass(&self) -> usize {
        let before = self.world.asked.load(Ordering::Relaxed);
        tokio::time::sleep(STEP).await;
        self.clock.advance(SignedDuration::try_from(STEP).unwrap());
        self.world.asked.load(Ordering::Relaxed) - before
    }

    /// Every account that nobody revoked has a token that its provider takes.
    async fn every_account_can_send(&self) {
        let accounts = self.world.accounts.lock().unwrap().len();
        for index in 0..accounts {
            let revoked = self.world.accounts.lock().unwrap()[index].revoked;
            let token = self.oauth.access_token(&name(index), Service::Smtp).await;
            match token {
                Ok(token) => assert!(
                    revoked || self.world.takes(index, token.token.expose()),
                    "account {index} was given a dead token"
                ),
                Err(error) => assert!(revoked, "account {index}: {error}"),
            }
        }
    }
}

/// Lets so many accounts live so many days.
async fn live(accounts: usize, days: u64) {
    let simulation = Simulation::new(accounts).await;
    let world = &simulation.world;
    // Making a client anew for each request would be most of the work.
    let url = Url::parse("http://127.0.0.1:9/").unwrap();
    let clients: &Clients = &simulation.oauth.keeper.parts.grants.clients;
    let kept = clients.client(&url, Way::default()).await.unwrap();
    let steps_a_day = 24 * 3600 / STEP.as_secs();
    let revoked_every = days / (REVOCATIONS + 2);
    let mut loads = Vec::new();
    let mut calm_since = Instant::now();
    for step in 0..days * steps_a_day {
        let (day, is_midnight) = (step / steps_a_day, step % steps_a_day == 0);
        if is_midnight {
            simulation.every_account_can_send().await;
            if day % OUTAGE_EVERY_DAYS == OUTAGE_EVERY_DAYS / 2 {
                *world.away.lock().unwrap() = Some(Instant::now() + OUTAGE);
            }
            let nth = day / revoked_every;
            if day.is_multiple_of(revoked_every) && (1..=REVOCATIONS).contains(&nth) {
                let index = accounts - usize::try_from(nth).unwrap();
                world.accounts.lock().unwrap()[index].revoked = true;
            }
        }
        let load = simulation.pass().await;
        let mut away = world.away.lock().unwrap();
        if away.is_some_and(|end| end <= Instant::now()) {
            *away = None;
        }
        if away.is_some() {
            calm_since = Instant::now() + 2 * STEP;
        } else if Instant::now() > calm_since {
            loads.push(load);
        }
    }
    simulation.every_account_can_send().await;
    drop(kept);

    let mean = loads.iter().sum::<usize>() / loads.len();
    let peak = *loads.iter().max().unwrap();
    let (times, more) = LOAD_MAX;
    assert!(
        peak <= times * mean + more,
        "{peak} in a step, {mean} on average"
    );
    assert!(Instant::now() - world.start >= Duration::from_secs(days * 24 * 3600));
    let known = world.accounts.lock().unwrap();
    let (revoked, kept): (Vec<_>, Vec<_>) = known.iter().partition(|account| account.revoked);
    assert_eq!(u64::try_from(revoked.len()), Ok(REVOCATIONS));
    assert!(
        revoked.iter().all(|account| account.knocked == 1),
        "{revoked:?}"
    );
    assert!(kept.iter().all(|account| account.rotations > days));
    let stored = simulation.memory.tokens().len();
    assert_eq!(stored, accounts, "nothing is thrown away");
}

/// Seconds of work either way: a refresh costs half a millisecond in a debug build.
const DAYS_OF_A_THOUSAND: u64 = if cfg!(debug_assertions) { 30 } else { 365 };

#[tokio::test(start_paused = true)]
async fn a_thousand_accounts_lack_no_token_but_revoked_ones() {
    live(1000, DAYS_OF_A_THOUSAND).await;
}

#[tokio::test(start_paused = true)]
async fn fifty_accounts_lack_no_token_for_a_year_but_revoked_ones() {
    live(50, 365).await;
}
