//! Sign-ins with a profile that is not in force yet.

use std::sync::atomic::AtomicUsize;

use tokio::sync::Notify;

use super::*;

/// A house, a draft, and how often the draft was applied.
struct Draftsman {
    house: House,
    wanted: Config,
    applied: Arc<AtomicUsize>,
}

impl Draftsman {
    /// `change` makes of the configuration in force the one that is wanted.
    fn new(house: House, change: impl FnOnce(&mut Config)) -> Self {
        let mut wanted = house.config.clone();
        change(&mut wanted);
        Self {
            house,
            wanted,
            applied: Arc::default(),
        }
    }

    fn apply(&self, refuses: bool) -> Apply {
        let (oauth, wanted) = (self.house.oauth.clone(), self.wanted.clone());
        let applied = Arc::clone(&self.applied);
        Apply::new(move || -> Applied {
            Box::pin(async move {
                if refuses {
                    return Err(Diagnosis {
                        reason: "disk full".to_owned(),
                        remedy: "free space".to_owned(),
                    });
                }
                oauth.reconfigure(wanted).await.unwrap();
                applied.fetch_add(1, Ordering::SeqCst);
                Ok(())
            })
        })
    }

    /// Begins with an apply that says when it has begun, and waits to be let go on.
    async fn begin_slowly(&self, name: &AccountName) -> (SignIn, Arc<Notify>, Arc<Notify>) {
        let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (says, waits) = (Arc::clone(&begun), Arc::clone(&go_on));
        let (oauth, wanted) = (self.house.oauth.clone(), self.wanted.clone());
        let apply = Apply::new(move || -> Applied {
            Box::pin(async move {
                says.notify_one();
                waits.notified().await;
                oauth.reconfigure(wanted).await.unwrap();
                Ok(())
            })
        });
        let draft = Draft::of(&self.wanted, name).unwrap();
        let sign_in = self.house.oauth.begin_draft_sign_in(draft, false, apply);
        (sign_in.await.unwrap(), begun, go_on)
    }

    async fn begin(&self, name: &AccountName, device: bool) -> SignIn {
        let draft = Draft::of(&self.wanted, name).unwrap();
        let apply = self.apply(false);
        let begun = self.house.oauth.begin_draft_sign_in(draft, device, apply);
        begun.await.unwrap()
    }

    /// Begins by browser: the id, and what the provider answers with.
    async fn ask(&self, name: &AccountName) -> (String, String) {
        asked(&self.begin(name, false).await)
    }

    fn applied(&self) -> usize {
        self.applied.load(Ordering::SeqCst)
    }

    /// The token that mail goes out with.
    async fn token_of(&self, name: &AccountName) -> Result<String, TokenError> {
        let token = self.house.oauth.access_token(name, Service::Smtp).await?;
        Ok(token.token.expose().to_owned())
    }
}

fn asked(begun: &SignIn) -> (String, String) {
    let SignIn::Browser { id, url, .. } = begun else {
        panic!("a browser is wanted, not {begun:?}");
    };
    let url = Url::parse(url).unwrap();
    let state = url
        .query_pairs()
        .find(|(name, _)| name == "state")
        .unwrap()
        .1;
    (id.clone(), state.into_owned())
}

fn second() -> AccountName {
    AccountName::new("second")
}

/// A second provider with its first account.
fn add(config: &mut Config) {
    let mut provider = config.providers["contoso"].clone();
    provider.client_id = "the second client".to_owned();
    provider.redirect_url = "http://localhost:8025/second/".parse().unwrap();
    config.providers.insert("second".to_owned(), provider);
    let account = Account {
        provider: "second".to_owned(),
        mailbox: "second@contoso.com".to_owned(),
        ..config.accounts[&alerts()].clone()
    };
    config.accounts.insert(second(), account);
}

/// The same provider with another client.
fn alter(config: &mut Config) {
    let provider = config.providers.get_mut("contoso").unwrap();
    provider.client_id = "another client".to_owned();
}

#[tokio::test(start_paused = true)]
async fn a_new_profile_is_in_force_with_its_tokens_when_the_result_is_told() {
    let work = Draftsman::new(House::signed_in().await, add);
    let (id, state) = work.ask(&second()).await;
    let urls = work.house.oauth.redirect_urls();
    assert!(urls.iter().any(|url| url.path() == "/second/"), "{urls:?}");
    assert_eq!(work.applied(), 0);
    assert!(work.house.oauth.status(&second()).is_none());

    let query = format!("code=good&state={state}");
    let oauth = &work.house.oauth;
    let (told, called) = tokio::join!(oauth.sign_in_result(&id), oauth.callback(&query));
    assert_eq!((told, called), (Ok(()), Ok(second())));
    assert_eq!(work.applied(), 1);
    assert_eq!(work.token_of(&second()).await.unwrap(), "canary-access-2");
    assert_eq!(work.token_of(&alerts()).await.unwrap(), "canary-access-1");
    assert_eq!(work.house.memory.tokens().len(), 2);
    assert_eq!(
        work.house.played.asked(),
        2,
        "one code a sign-in and nothing else"
    );
}

/// Of the account that signed in: nobody shows the refresh token of before to the new client.
#[tokio::test(start_paused = true)]
async fn a_changed_profile_replaces_the_tokens_of_the_account_that_signed_in() {
    let work = Draftsman::new(House::signed_in().await, alter);
    let (_, state) = work.ask(&alerts()).await;
    assert_eq!(work.token_of(&alerts()).await.unwrap(), "canary-access-1");
    let query = format!("code=good&state={state}");
    assert_eq!(work.house.oauth.callback(&query).await, Ok(alerts()));
    assert_eq!(work.token_of(&alerts()).await.unwrap(), "canary-access-2");
    let forms = work.house.played.forms();
    let grants: Vec<&str> = forms
        .iter()
        .map(|form| form["grant_type"].as_str())
        .collect();
    assert_eq!(grants, ["authorization_code", "authorization_code"]);
    assert_eq!(forms[1]["client_id"], "another client");
    assert_eq!(work.house.stored().client_id, "another client");
    work.house.pass(HOUR).await;
    assert_eq!(work.token_of(&alerts()).await.unwrap(), "canary-access-3");
}

type Ending<'a> = (&'a str, &'a str, Option<Answer>);

/// Whatever goes wrong: nothing is applied, and mail goes on with the tokens of before.
#[tokio::test(start_paused = true)]
async fn a_draft_that_fails_leaves_what_was_before() {
    let body = |body: &str| Answer::Raw(400, "application/json", body.to_owned());
    let endings: [Ending<'_>; 5] = [
        ("error=access_denied&state=STATE", "access was denied", None),
        ("code=bad&state=STATE", "no longer accepts", None),
        (
            "code=good&state=STATE",
            "client",
            Some(body(r#"{"error":"invalid_client"}"#)),
        ),
        (
            "code=good&state=STATE",
            "no refresh token",
            Some(Answer::Body(r#"{"access_token":"a","expires_in":3600}"#)),
        ),
        (
            "code=good&state=STATE&iss=https%3A%2F%2Fevil.example",
            "another issuer",
            None,
        ),
    ];
    let work = Draftsman::new(House::signed_in().await, alter);
    let before = work.house.memory.tokens();
    for (query, said, answer) in endings {
        let (id, state) = work.ask(&alerts()).await;
        work.house.played.next(answer);
        let query = query.replace("STATE", &state);
        let refused = work.house.oauth.callback(&query).await.unwrap_err();
        assert!(refused.reason.contains(said), "{query}: {refused}");
        assert_eq!(work.house.oauth.sign_in_result(&id).await, Err(refused));
        assert_eq!(work.applied(), 0);
        assert_eq!(work.house.memory.tokens(), before);
        assert_eq!(work.token_of(&alerts()).await.unwrap(), "canary-access-1");
        assert_eq!(work.house.state(), State::Ready);
    }
}

/// The tokens are of no use for mail: found out before anything is changed.
#[tokio::test(start_paused = true)]
async fn a_draft_whose_tokens_are_of_no_use_is_not_applied() {
    let work = Draftsman::new(House::signed_in().await, |config| {
        let provider = config.providers.get_mut("contoso").unwrap();
        provider.kind = Kind::Microsoft;
        provider.scope = "offline_access https://graph.microsoft.com/.default".to_owned();
        let scope = "offline_access https://outlook.office.com/SMTP.Send".to_owned();
        let account = config.accounts.get_mut(&alerts()).unwrap();
        account.services = BTreeMap::from([(Service::Smtp, scope)]);
    });
    let missing =
        r#"{"error":"invalid_grant","error_codes":[65001],"suberror":"consent_required"}"#;
    let missing = Answer::Raw(400, "application/json", missing.to_owned());
    work.house.played.next([Answer::Good, missing]);
    let (_, state) = work.ask(&alerts()).await;
    let query = format!("code=good&state={state}");
    let refused = work.house.oauth.callback(&query).await.unwrap_err();
    assert!(refused.reason.contains("SMTP.Send is missing"), "{refused}");
    assert_eq!(work.applied(), 0);
    assert_eq!(work.token_of(&alerts()).await.unwrap(), "canary-access-1");
}

#[tokio::test(start_paused = true)]
async fn a_change_that_cannot_be_made_keeps_the_tokens_of_before() {
    let work = Draftsman::new(House::signed_in().await, alter);
    let draft = Draft::of(&work.wanted, &alerts()).unwrap();
    let begun = work
        .house
        .oauth
        .begin_draft_sign_in(draft, false, work.apply(true));
    let (id, state) = asked(&begun.await.unwrap());
    let query = format!("code=good&state={state}");
    let refused = work.house.oauth.callback(&query).await.unwrap_err();
    assert_eq!(refused.reason, "disk full");
    assert_eq!(work.house.oauth.sign_in_result(&id).await, Err(refused));
    assert_eq!(work.token_of(&alerts()).await.unwrap(), "canary-access-1");
    // What had come is not taken later by a change that happens to fit.
    work.house
        .oauth
        .reconfigure(work.wanted.clone())
        .await
        .unwrap();
    work.house.pass(MINUTE).await;
    let taken = work.token_of(&alerts()).await;
    assert!(
        !matches!(taken.as_deref(), Ok("canary-access-2")),
        "{taken:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_draft_ends_by_time_by_cancelling_and_by_another_one() {
    let work = Draftsman::new(House::signed_in().await, add);
    let oauth = &work.house.oauth;
    let (first, replaced) = work.ask(&second()).await;
    let (cancelled, dropped) = work.ask(&second()).await;
    assert!(oauth.sign_in_result(&first).await.is_err());
    assert!(oauth.cancel_sign_in(&cancelled));
    assert!(!oauth.cancel_sign_in(&cancelled), "once");
    let told = oauth.sign_in_result(&cancelled).await.unwrap_err();
    assert!(told.reason.contains("cancelled"), "{told}");
    let (late, state) = work.ask(&second()).await;
    let told = oauth.sign_in_result(&late).await.unwrap_err();
    assert!(told.reason.contains("in time"), "{told}");
    work.house.pass(MINUTE).await;
    for state in [replaced, dropped, state] {
        let query = format!("code=good&state={state}");
        assert!(oauth.callback(&query).await.is_err());
    }
    assert_eq!(work.applied(), 0);
    assert!(oauth.status(&second()).is_none());
}

/// A reload that changes something else does not end a draft; each account has one at a time, and all
/// together are bounded.
#[tokio::test(start_paused = true)]
async fn drafts_outlive_a_reload_and_are_bounded() {
    let work = Draftsman::new(House::signed_in().await, add);
    let (_, state) = work.ask(&second()).await;
    let mut reloaded = work.house.config.clone();
    let account = reloaded.accounts.get_mut(&alerts()).unwrap();
    account.sign_in_user = Some("other@contoso.com".to_owned());
    work.house.oauth.reconfigure(reloaded).await.unwrap();
    let mut last = String::new();
    for number in 0..100 {
        let mut draft = Draft::of(&work.wanted, &second()).unwrap();
        draft.account = AccountName::new(&format!("account-{number}"));
        let apply = work.apply(false);
        let begun = work
            .house
            .oauth
            .begin_draft_sign_in(draft, false, apply)
            .await;
        assert_eq!(begun.is_ok(), number < 31, "{number}");
        last = begun.map_or(last, |begun| begun.id().to_owned());
    }
    // One that has ended makes room.
    assert!(work.house.oauth.cancel_sign_in(&last));
    let mut draft = Draft::of(&work.wanted, &second()).unwrap();
    draft.account = AccountName::new("one-more");
    let begun = work
        .house
        .oauth
        .begin_draft_sign_in(draft, false, work.apply(false));
    assert!(begun.await.is_ok());
    let query = format!("code=good&state={state}");
    assert_eq!(work.house.oauth.callback(&query).await, Ok(second()));
    work.house.pass(11 * MINUTE).await;
    let begun = work.begin(&second(), false).await;
    assert!(matches!(begun, SignIn::Browser { .. }));
}

/// Another sign-in of the account would take the tokens that are on their way, and tell whoever waits
/// that nothing has come of it.
#[tokio::test(start_paused = true)]
async fn nobody_comes_between_a_draft_and_its_tokens() {
    let work = Draftsman::new(House::signed_in().await, add);
    let (begun, applying, go_on) = work.begin_slowly(&second()).await;
    let (id, state) = asked(&begun);
    let oauth = &work.house.oauth;
    let query = format!("code=good&state={state}");
    let between = async {
        applying.notified().await;
        let draft = Draft::of(&work.wanted, &second()).unwrap();
        let other = oauth.begin_draft_sign_in(draft, false, work.apply(false));
        let refused = other.await.unwrap_err().to_string();
        assert!(refused.contains("in a moment"), "{refused}");
        work.house.pass(11 * MINUTE).await;
        go_on.notify_one();
    };
    let ends = oauth.sign_in_result(&id);
    let (told, called, ()) = tokio::join!(ends, oauth.callback(&query), between);
    assert_eq!((told, called), (Ok(()), Ok(second())));
    assert!(work.token_of(&second()).await.is_ok());
    let again = work.begin(&second(), false).await;
    assert!(matches!(again, SignIn::Browser { .. }), "now there is room");
}

#[tokio::test(start_paused = true)]
async fn a_device_code_serves_a_draft_as_well() {
    let work = Draftsman::new(House::signed_in().await, add);
    let pending = r#"{"error":"authorization_pending"}"#;
    let pending = Answer::Raw(400, "application/json", pending.to_owned());
    work.house.played.next([pending]);
    let begun = work.begin(&second(), true).await;
    let SignIn::Device { id, user_code, .. } = begun else {
        panic!("a code is wanted, not {begun:?}");
    };
    assert_eq!(user_code, "ABCD-EFGH");
    assert_eq!(work.house.oauth.sign_in_result(&id).await, Ok(()));
    assert_eq!(work.applied(), 1);
    assert_eq!(work.token_of(&second()).await.unwrap(), "canary-access-2");
}

/// Without a person the fetch of a token is the proof.
#[tokio::test(start_paused = true)]
async fn a_profile_without_a_person_is_proved_by_a_token() {
    let work = Draftsman::new(House::signed_in().await, |config| {
        add(config);
        config.accounts.get_mut(&second()).unwrap().grant = Grant::ClientCredentials;
    });
    let wrong = r#"{"error":"invalid_client","error_codes":[7000215]}"#;
    work.house
        .played
        .next([Answer::Raw(401, "application/json", wrong.to_owned())]);
    let unattended = |begun: SignIn| match begun {
        SignIn::Unattended { id } => id,
        SignIn::Browser { .. } | SignIn::Device { .. } => panic!("nobody is needed"),
    };
    let id = unattended(work.begin(&second(), false).await);
    let refused = work.house.oauth.sign_in_result(&id).await.unwrap_err();
    assert!(refused.reason.contains("7000215"), "{refused}");
    assert_eq!(work.applied(), 0);
    assert!(work.house.oauth.status(&second()).is_none());

    let id = unattended(work.begin(&second(), false).await);
    assert_eq!(work.house.oauth.sign_in_result(&id).await, Ok(()));
    assert_eq!(work.applied(), 1);
    assert!(work.token_of(&second()).await.is_ok());
}

/// What people read is not what tokens come by.
#[test]
fn profiles_are_alike_if_only_words_and_dates_differ() {
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], 9));
    let provider = config_at(address, Grant::AuthorizationCode).providers["contoso"].clone();
    let mut other = provider.clone();
    other.description = "the tenant of Contoso".to_owned();
    other.client_secret_expires_at = Some(Timestamp::UNIX_EPOCH);
    assert!(provider.is_alike(&other));
    other.client_secret = Some(Secret::new("another"));
    assert!(!provider.is_alike(&other));
}

/// Another path is another page of the same server; another host, or another way to it, is not.
#[test]
fn secrets_go_alike_to_the_same_servers_alone() {
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], 9));
    let provider = config_at(address, Grant::AuthorizationCode).providers["contoso"].clone();
    let with = |change: &dyn Fn(&mut Provider)| {
        let mut other = provider.clone();
        change(&mut other);
        provider.sends_secrets_like(&other)
    };
    let url = |text: &str| Some(Url::parse(text).unwrap());
    assert!(with(
        &|it| it.token_url = url("http://127.0.0.1:9/tenant/token")
    ));
    assert!(with(&|it| it.scope = "other".to_owned()));
    assert!(!with(&|it| it.token_url = url("http://127.0.0.1:10/token")));
    assert!(!with(
        &|it| it.device_authorization_url = url("https://evil.example/")
    ));
    assert!(!with(&|it| it.ca_file = Some("/ca.pem".into())));
    assert!(!with(
        &|it| (it.token_url, it.issuer) = (None, Some("https://evil.example".into()))
    ));
}
