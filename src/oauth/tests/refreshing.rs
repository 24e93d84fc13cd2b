//! Refreshing, storing, restarts, hostile answers (reliability rows 35 to 45).

use super::*;

fn error(status: u16, error: &str) -> Answer {
    Answer::Raw(
        status,
        "application/json",
        format!(r#"{{"error":"{error}"}}"#),
    )
}

#[tokio::test(start_paused = true)]
async fn a_token_is_refreshed_before_its_end_and_the_rotated_one_is_stored_first() {
    let house = House::signed_in().await;
    let first = house.token().await.unwrap();
    assert_eq!(first.token.expose(), "canary-access-1");
    house.pass(50 * MINUTE).await;
    let second = house.token().await.unwrap();
    assert_eq!(second.token.expose(), "canary-access-2");
    assert!(second.generation > first.generation);
    assert_eq!(house.played.asked(), 2);
    let form = house.played.last_form();
    assert_eq!(form["refresh_token"], "canary-refresh-1");
    assert_eq!(form["scope"], "mail");
    assert_eq!(form["client_secret"], "s&cret");
    let stored = house.stored();
    assert_eq!(stored.refresh_token.unwrap().expose(), "canary-refresh-2");
    assert!(house.memory.tokens()[0].previous.is_some());
    assert_eq!(house.state(), State::Ready);
}

#[tokio::test(start_paused = true)]
async fn two_hundred_callers_with_an_expired_token_cost_one_refresh() {
    let house = House::signed_in().await;
    let (played, memory, config) = house.end().await;
    played.next([Answer::Slow(Duration::from_secs(2))]);
    // A day later the stored access token is long over.
    let house = House::furnished(played, memory, config).await;
    house.clock.advance(SignedDuration::from_hours(24));
    let before = house.played.asked();
    let tasks = Tasks::new();
    for _ in 0..200 {
        let oauth = house.oauth.clone();
        tasks.spawn("caller", async move {
            let token = oauth.access_token(&alerts(), Service::Smtp).await.unwrap();
            assert_eq!(token.token.expose(), "canary-access-2");
        });
    }
    tasks.drained().await;
    assert_eq!(house.played.asked() - before, 1);
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_a_live_token_serves_without_a_request() {
    let house = House::signed_in().await;
    let (played, memory, config) = house.end().await;
    let house = House::furnished(played, memory, config).await;
    assert_eq!(
        house.token().await.unwrap().token.expose(),
        "canary-access-1"
    );
    assert_eq!(house.played.asked(), 1);
    house.pass(50 * MINUTE).await;
    assert_eq!(
        house.token().await.unwrap().token.expose(),
        "canary-access-2"
    );
}

#[tokio::test(start_paused = true)]
async fn a_definite_refusal_asks_once_keeps_the_token_and_needs_a_person() {
    let house = House::signed_in().await;
    house.played.next([error(400, "invalid_grant")]);
    house.pass(50 * MINUTE).await;
    assert!(matches!(
        house.token().await,
        Err(TokenError::SignInNeeded(_))
    ));
    house.pass(24 * HOUR).await;
    assert_eq!(house.played.asked(), 2, "one refusal is enough");
    assert_eq!(house.state(), State::SignInNeeded);
    assert!(house.reason().contains("gatepost login alerts"));
    assert_eq!(
        house.stored().refresh_token.unwrap().expose(),
        "canary-refresh-1"
    );
    // A new sign-in mends it, and whoever waits is told.
    let waiting = house.oauth.clone();
    let state = house.begin().await;
    let query = format!("code=good&state={state}");
    let name = alerts();
    let (_, signed_in) = tokio::join!(
        waiting.changed(&name, Service::Smtp, 0),
        house.oauth.callback(&query)
    );
    assert_eq!(signed_in, Ok(alerts()));
    assert_eq!(house.state(), State::Ready);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_refused_is_looked_at_again_slowly_and_mends_by_itself() {
    let house = House::signed_in().await;
    house
        .played
        .next((0..4).map(|_| error(401, "invalid_client")));
    house.pass(49 * MINUTE).await;
    assert!(matches!(
        house.token().await,
        Err(TokenError::SignInNeeded(_))
    ));
    house.pass(7 * MINUTE).await;
    assert_eq!(house.played.asked(), 2, "no hammering");
    house.pass(HOUR).await;
    assert_eq!(house.state(), State::Ready);
    assert!(house.played.asked() >= 6);
}

#[tokio::test(start_paused = true)]
async fn in_transient_trouble_the_old_token_serves_to_its_end() {
    let house = House::signed_in().await;
    house
        .played
        .next((0..200).map(|_| error(503, "temporarily_unavailable")));
    house.pass(55 * MINUTE).await;
    assert_eq!(house.state(), State::Retrying);
    assert_eq!(
        house.token().await.unwrap().token.expose(),
        "canary-access-1"
    );
    house.pass(6 * MINUTE).await;
    assert!(matches!(house.token().await, Err(TokenError::Retrying(_))));
    let asked = house.played.asked();
    assert!(asked < 20, "{asked} requests in 15 minutes");
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_kept_within_a_tenth() {
    let house = House::signed_in().await;
    let retry = || Answer::Later(429, "slow_down", 600);
    house.played.next([retry(), retry()]);
    let started = tokio::time::Instant::now();
    house.pass(41 * MINUTE).await;
    while house.played.asked() < 2 {
        house.pass(Duration::from_secs(1)).await;
    }
    let refused = started.elapsed();
    while house.played.asked() < 3 {
        house.pass(Duration::from_secs(1)).await;
    }
    let waited = (started.elapsed() - refused).as_secs();
    assert!((598..=665).contains(&waited), "{waited}");
}

#[tokio::test(start_paused = true)]
async fn hostile_answers_are_transient_and_do_no_harm() {
    let json = "application/json";
    let big = format!(r#"{{"access_token":"{}"}}"#, "x".repeat(100 * 1024));
    let hostile = [
        Answer::Raw(200, "text/html", "<html>sign in to the hotel</html>".into()),
        Answer::Raw(400, "text/html", "<html>invalid_grant</html>".into()),
        Answer::Raw(200, json, "{".into()),
        Answer::Raw(200, json, "[]".into()),
        Answer::Raw(200, json, String::new()),
        Answer::Raw(400, json, r#"{"error":7}"#.into()),
        Answer::Raw(200, json, big),
        Answer::Raw(200, json, r#"{"access_token":"a\r\nRCPT TO:<x>"}"#.into()),
        Answer::Raw(
            200,
            json,
            r#"{"access_token":"a\u0001","expires_in":1}"#.into(),
        ),
        Answer::Raw(
            200,
            json,
            r#"{"access_token":"a","token_type":"mac"}"#.into(),
        ),
        Answer::Redirect("/trap"),
        Answer::Slow(Duration::from_secs(600)),
    ];
    for answer in hostile {
        let house = House::signed_in().await;
        house.played.next([answer.clone()]);
        house.pass(41 * MINUTE).await;
        let deadline = tokio::time::Instant::now() + 9 * MINUTE;
        while house.state() == State::Ready && tokio::time::Instant::now() < deadline {
            house.pass(Duration::from_millis(500)).await;
        }
        assert_eq!(house.state(), State::Retrying, "{answer:?}");
        assert!(
            house.token().await.is_ok(),
            "{answer:?}: the old token serves"
        );
        assert_eq!(house.played.seen.trapped.load(Ordering::SeqCst), 0);
        assert!(!house.reason().contains("canary"), "{}", house.reason());
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_replaced_by_one_forced_refresh_however_many_ask() {
    let house = House::signed_in().await;
    let stale = house.token().await.unwrap().generation;
    let tasks = Tasks::new();
    for _ in 0..200 {
        let oauth = house.oauth.clone();
        tasks.spawn("caller", async move {
            let token = oauth
                .refresh_after(&alerts(), Service::Smtp, stale)
                .await
                .unwrap();
            assert!(token.generation > stale);
        });
    }
    tasks.drained().await;
    assert_eq!(house.played.asked(), 2);
    // The new one is refused as well: no second round for five minutes.
    let stale = house.token().await.unwrap().generation;
    let again = house
        .oauth
        .refresh_after(&alerts(), Service::Smtp, stale)
        .await;
    assert!(matches!(again, Err(TokenError::JustReplaced(_))));
    assert_eq!(house.played.asked(), 2);
    house.pass(6 * MINUTE).await;
    assert!(
        house
            .oauth
            .refresh_after(&alerts(), Service::Smtp, stale)
            .await
            .is_ok()
    );
    assert_eq!(house.played.asked(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_at_rotation_keeps_the_stored_record_and_serves_from_memory() {
    let house = House::signed_in().await;
    let before = house.memory.tokens();
    house.memory.full.store(true, Ordering::SeqCst);
    house.pass(50 * MINUTE).await;
    assert_eq!(
        house.token().await.unwrap().token.expose(),
        "canary-access-2"
    );
    assert_eq!(house.memory.tokens(), before, "byte for byte");
    house.memory.full.store(false, Ordering::SeqCst);
    house.pass(10 * MINUTE).await;
    assert_eq!(
        house.stored().refresh_token.unwrap().expose(),
        "canary-refresh-2"
    );
}

#[tokio::test(start_paused = true)]
async fn a_wrong_key_or_a_damaged_record_needs_a_sign_in_and_is_not_overwritten() {
    let house = House::signed_in().await;
    let (played, memory, config) = house.end().await;
    let before = memory.tokens();
    let mut wrong = config.clone();
    wrong.key = Key::Given(Secret::new("ab".repeat(32)));
    let house = House::furnished(played, Arc::clone(&memory), wrong).await;
    let refused = house.token().await;
    assert!(matches!(&refused, Err(TokenError::SignInNeeded(d)) if d.reason.contains("key")));
    house.pass(48 * HOUR).await;
    assert_eq!(memory.tokens(), before);
    assert_eq!(house.played.asked(), 1);
    // The right key comes back: no sign-in is needed after all.
    house.oauth.reconfigure(config).await.unwrap();
    house.oauth.changed(&alerts(), Service::Smtp, 0).await;
    assert_eq!(
        house.token().await.unwrap().token.expose(),
        "canary-access-2"
    );
}

#[tokio::test(start_paused = true)]
async fn a_wall_clock_that_jumps_costs_one_refresh_at_most() {
    for hours in [24, -24, 24 * 3650] {
        let house = House::signed_in().await;
        house.clock.advance(SignedDuration::from_hours(hours));
        for _ in 0..10 {
            assert!(house.token().await.is_ok());
        }
        let asked = house.played.asked();
        assert!(asked <= 2, "{asked} after a jump of {hours} hours");
        assert_eq!(house.state(), State::Ready);
    }
}

#[tokio::test(start_paused = true)]
async fn a_google_app_in_testing_is_warned_of_at_once_and_named_when_its_sign_in_dies() {
    let played = Played::start().await;
    let mut config = config(&played, Grant::AuthorizationCode);
    let provider = config.providers.get_mut("contoso").unwrap();
    provider.kind = Kind::Google;
    let in_ten_days = NOON.parse::<Timestamp>().unwrap() + SignedDuration::from_hours(240);
    provider.client_secret_expires_at = Some(in_ten_days);
    let house = House::furnished(played, Arc::default(), config).await;
    // What Google says of a consent that ends by itself.
    let seven_days = r#"{"access_token":"canary-access","refresh_token":"canary-refresh","token_type":"Bearer",
        "expires_in":3599,"refresh_token_expires_in":604799}"#;
    house.played.next([Answer::Body(seven_days)]);
    let state = house.begin().await;
    let query = format!("code=good&state={state}");
    assert_eq!(house.oauth.callback(&query).await, Ok(alerts()));
    let warnings = house.oauth.status(&alerts()).unwrap().warnings;
    let reasons: Vec<&str> = warnings
        .iter()
        .map(|warning| warning.reason.as_str())
        .collect();
    assert_eq!(reasons[0], "the client secret expires in 10 days");
    assert!(
        reasons[1].contains("consent screen is in testing"),
        "{reasons:?}"
    );
    house.clock.advance(SignedDuration::from_hours(7 * 24));
    house.played.next([error(400, "invalid_grant")]);
    assert!(house.token().await.is_err());
    assert!(
        house
            .reason()
            .contains("after 7 days: the consent screen is in testing"),
        "{}",
        house.reason()
    );
}

/// Killed between the provider's answer and the disk: a provider that rotates has forgotten the token
/// that is stored. That needs a person, and is said so after one request; it is no loop.
#[tokio::test(start_paused = true)]
async fn a_rotation_that_never_reached_the_disk_needs_a_person_and_not_a_loop() {
    let house = House::signed_in().await;
    house.memory.full.store(true, Ordering::SeqCst);
    house.pass(50 * MINUTE).await;
    assert_eq!(house.played.asked(), 2);
    let (played, memory, config) = house.end().await;
    memory.full.store(false, Ordering::SeqCst);
    let house = House::furnished(played, memory, config).await;
    house.clock.advance(SignedDuration::from_hours(1));
    assert!(matches!(
        house.token().await,
        Err(TokenError::SignInNeeded(_))
    ));
    let form = house.played.last_form();
    assert_eq!(
        form["refresh_token"], "canary-refresh-1",
        "what was on disk"
    );
    house.pass(24 * HOUR).await;
    assert_eq!(house.played.asked(), 3, "one request, and no more");
    let stored = house.stored().refresh_token.unwrap();
    assert_eq!(
        stored.expose(),
        "canary-refresh-1",
        "nothing is thrown away"
    );
}

#[tokio::test(start_paused = true)]
async fn client_credentials_need_nobody() {
    let house = House::new(Grant::ClientCredentials).await;
    assert_eq!(
        house.token().await.unwrap().token.expose(),
        "canary-access-1"
    );
    assert_eq!(house.played.last_form()["grant_type"], "client_credentials");
    let begun = house.oauth.begin_sign_in(&alerts(), true).await.unwrap();
    let SignIn::Unattended { id } = begun else {
        panic!("nobody is needed: {begun:?}");
    };
    assert_eq!(house.oauth.sign_in_result(&id).await, Ok(()));
    assert_eq!(house.played.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn basic_authentication_encodes_both_parts_first() {
    let played = Played::start().await;
    let mut config = config(&played, Grant::ClientCredentials);
    let provider = config.providers.get_mut("contoso").unwrap();
    provider.client_authentication = ClientAuthentication::Basic;
    let house = House::furnished(played, Arc::default(), config).await;
    house.token().await.unwrap();
    // the+client:s%26cret
    let sent = house.played.last_authorization();
    assert_eq!(sent.as_deref(), Some("Basic dGhlK2NsaWVudDpzJTI2Y3JldA=="));
    assert!(!house.played.last_form().contains_key("client_secret"));
}

#[tokio::test(start_paused = true)]
async fn reconfiguring_keeps_the_unchanged_retries_the_changed_and_ends_the_removed() {
    let house = House::signed_in().await;
    let first = house.token().await.unwrap();
    house.oauth.reconfigure(house.config.clone()).await.unwrap();
    assert_eq!(house.token().await.unwrap().generation, first.generation);

    house.played.next([error(401, "invalid_client")]);
    house.pass(50 * MINUTE).await;
    assert_eq!(house.state(), State::SignInNeeded);
    let mut mended = house.config.clone();
    let provider = mended.providers.get_mut("contoso").unwrap();
    provider.client_secret = Some(Secret::new("new"));
    let account = mended.accounts.get_mut(&alerts()).unwrap();
    account.services = BTreeMap::from([(Service::Smtp, "mail.send".to_owned())]);
    house.oauth.reconfigure(mended.clone()).await.unwrap();
    house
        .oauth
        .changed(&alerts(), Service::Smtp, first.generation)
        .await;
    assert_eq!(
        house.token().await.unwrap().token.expose(),
        "canary-access-2"
    );
    assert_eq!(house.played.last_form()["client_secret"], "new");

    let mut without = mended.clone();
    without.accounts.clear();
    house.oauth.reconfigure(without).await.unwrap();
    assert_eq!(house.oauth.status(&alerts()), None);
    assert!(house.token().await.is_err());
    house.oauth.reconfigure(mended).await.unwrap();
    assert!(
        house.token().await.is_ok(),
        "it comes back with its stored token"
    );
}

#[tokio::test(start_paused = true)]
async fn a_refresh_token_is_shown_to_no_other_host() {
    let house = House::signed_in().await;
    let (_, memory, config) = house.end().await;
    let elsewhere = Played::start().await;
    let mut moved = config.clone();
    let provider = moved.providers.get_mut("contoso").unwrap();
    let url = format!("http://{}/token", elsewhere.address);
    provider.token_url = Some(url.parse().unwrap());
    let house = House::furnished(elsewhere, memory, moved).await;
    assert!(matches!(
        house.token().await,
        Err(TokenError::SignInNeeded(_))
    ));
    assert_eq!(house.played.asked(), 0);
}

#[tokio::test(start_paused = true)]
async fn signing_out_revokes_and_forgets() {
    let house = House::signed_in().await;
    assert_eq!(house.oauth.sign_out(&alerts()).await.unwrap(), None);
    assert_eq!(house.played.seen.revoked.load(Ordering::SeqCst), 1);
    assert!(house.memory.tokens().is_empty());
    assert!(matches!(
        house.token().await,
        Err(TokenError::SignInNeeded(_))
    ));
}

/// A provider that says no, or is not there, keeps nobody from signing out: it is told, with what is
/// left to do.
#[tokio::test(start_paused = true)]
async fn signing_out_does_not_need_the_provider() {
    for (url, said) in [
        (Some("http://127.0.0.1:1/revoke"), "cannot be reached"),
        (Some("@/trap-less"), "HTTP 404"),
        (None, "offers no revocation of tokens"),
    ] {
        let played = Played::start().await;
        let mut config = config(&played, Grant::AuthorizationCode);
        let provider = config.providers.get_mut("contoso").unwrap();
        let url = url.map(|url| url.replace('@', &format!("http://{}", played.address)));
        provider.revocation_url = url.map(|url| url.parse().unwrap());
        let house = House::furnished(played, Arc::default(), config).await;
        let state = house.begin().await;
        let query = format!("code=good&state={state}");
        assert_eq!(house.oauth.callback(&query).await, Ok(alerts()));
        let left = house.oauth.sign_out(&alerts()).await.unwrap().unwrap();
        assert!(left.reason.contains(said), "{left}");
        assert!(left.remedy.contains("remove the application"), "{left}");
        assert!(house.memory.tokens().is_empty());
    }
}

/// Collects what is logged.
#[derive(Debug, Clone, Default)]
struct Lines(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn no_secret_reaches_a_log_line_or_a_debug_form() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let guard = tracing::subscriber::set_default(subscriber);
    let house = House::signed_in().await;
    // Tests beside this one may have met these events when nobody listened.
    tracing::callsite::rebuild_interest_cache();
    let echo =
        r#"{"error":"invalid_grant","error_description":"canary-refresh-2 is bad, s&cret too"}"#;
    house.played.next([
        Answer::Good,
        Answer::Raw(
            200,
            "application/json",
            r#"{"access_token":["canary"]}"#.to_owned(),
        ),
        Answer::Raw(400, "application/json", echo.to_owned()),
    ]);
    house.pass(4 * HOUR).await;
    assert_eq!(house.state(), State::SignInNeeded);
    let debug = format!("{:?} {:?}", house.oauth, house.token().await);
    drop(guard);
    let log = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("token_refreshed") && log.contains("token_refused"));
    for secret in ["canary", "s&cret", "s%26cret", KEY] {
        assert!(!log.contains(secret), "{secret} in the log");
        assert!(!debug.contains(secret), "{secret} in {debug}");
    }
}
