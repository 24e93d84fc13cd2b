//! Who signed in (issue: the account that consented is the mailbox configured; reliability row 46).

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::*;

const GUID: &str = "11111111-2222-3333-4444-555555555555";

/// An id token in a token response.
fn id_token(claims: &Value) -> Answer {
    let payload = URL_SAFE_NO_PAD.encode(claims.to_string());
    Answer::With(json!({ "id_token": format!("e30.{payload}.c2ln") }))
}

/// What a good provider says at noon to a sign-in with this nonce, changed by `change`.
fn claims(nonce: &str, change: &Value) -> Value {
    let noon: Timestamp = NOON.parse().unwrap();
    let mut claims = json!({
        "iss": "https://login.microsoftonline.com/tenant/v2.0",
        "sub": "subject",
        "aud": "the client",
        "exp": noon.as_second() + 3600,
        "nonce": nonce,
        "preferred_username": "alerts@contoso.com",
    });
    for (name, value) in change.as_object().unwrap() {
        claims[name.as_str()] = value.clone();
    }
    claims
}

/// A house of Microsoft's, whose profile is for the tenant [`GUID`].
async fn house(change: impl FnOnce(&mut Config)) -> House {
    let played = Played::start().await;
    let mut config = config(&played, Grant::AuthorizationCode);
    let provider = config.providers.get_mut("contoso").unwrap();
    provider.kind = Kind::Microsoft;
    provider.scope = "offline_access https://outlook.office.com/SMTP.Send".to_owned();
    provider.tenant_id = Some(GUID.to_owned());
    let account = config.accounts.get_mut(&alerts()).unwrap();
    let scope = "offline_access https://outlook.office.com/SMTP.Send".to_owned();
    account.services = BTreeMap::from([(Service::Smtp, scope)]);
    change(&mut config);
    House::furnished(played, Arc::default(), config).await
}

impl House {
    /// Signs in by browser; the id token says `change`.
    async fn sign_in_as(&self, change: Value) -> Result<AccountName, Diagnosis> {
        let asked = self.ask().await;
        let nonce = asked.get("nonce").map_or("", String::as_str);
        self.played.next([id_token(&claims(nonce, &change))]);
        let query = format!("code=good&state={}", asked["state"]);
        self.oauth.callback(&query).await
    }
}

#[tokio::test(start_paused = true)]
async fn the_mailbox_itself_is_taken_by_any_of_its_names() {
    for change in [
        json!({}),
        json!({ "preferred_username": "ALERTS@Contoso.COM" }),
        json!({ "preferred_username": "a@contoso.onmicrosoft.com", "email": "alerts@contoso.com" }),
        json!({ "preferred_username": "a@contoso.onmicrosoft.com", "upn": "alerts@contoso.com" }),
        json!({ "preferred_username": "x", "sub": "alerts@contoso.com" }),
        json!({ "tid": GUID.to_uppercase() }),
        json!({ "aud": ["other", "the client"] }),
    ] {
        let house = house(|_| {}).await;
        assert_eq!(
            house.sign_in_as(change.clone()).await,
            Ok(alerts()),
            "{change}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_authorization_request_asks_who_signs_in_and_hints_at_whom_it_wants() {
    let house = house(|config| {
        let account = config.accounts.get_mut(&alerts()).unwrap();
        account.sign_in_user = Some("bob@contoso.com".to_owned());
    })
    .await;
    let asked = house.ask().await;
    let scope = "offline_access https://outlook.office.com/SMTP.Send openid profile";
    assert_eq!(asked["scope"], scope);
    assert_eq!(asked["login_hint"], "bob@contoso.com");
    assert!(asked["nonce"].len() >= 22 && asked["nonce"] != house.ask().await["nonce"]);
}

#[tokio::test(start_paused = true)]
async fn somebody_else_is_refused_and_told_and_nothing_is_stored() {
    let house = house(|_| {}).await;
    let stranger = json!({ "preferred_username": "Bob@contoso.com" });
    let refused = house.sign_in_as(stranger.clone()).await.unwrap_err();
    for word in [
        "Bob@contoso.com signed in",
        "mailbox of the account is alerts@contoso.com",
        "gatepost login alerts",
        "enter Bob@contoso.com as who signs in",
        "UPN",
    ] {
        assert!(refused.to_string().contains(word), "{word}: {refused}");
    }
    assert!(house.memory.tokens().is_empty());
    // `gatepost accounts` says the same.
    assert_eq!(house.state(), State::SignInNeeded);
    assert_eq!(house.reason(), refused.to_string());

    // The right user mends it, and an account that works does not stop for a later mistake.
    assert_eq!(house.sign_in_as(json!({})).await, Ok(alerts()));
    let before = house.memory.tokens();
    assert!(house.sign_in_as(stranger).await.is_err());
    assert_eq!(house.memory.tokens(), before);
    assert_eq!(
        (house.state(), house.reason()),
        (State::Ready, String::new())
    );
}

#[tokio::test(start_paused = true)]
async fn a_delegate_is_taken_when_the_account_names_one_and_the_mailbox_then_is_not() {
    let house = house(|config| {
        let account = config.accounts.get_mut(&alerts()).unwrap();
        account.sign_in_user = Some("bob@contoso.com".to_owned());
    })
    .await;
    let refused = house.sign_in_as(json!({})).await.unwrap_err();
    assert!(
        refused
            .reason
            .contains("sign_in_user of the account is bob@contoso.com")
    );
    let bob = json!({ "preferred_username": "bob@contoso.com" });
    assert_eq!(house.sign_in_as(bob).await, Ok(alerts()));
}

#[tokio::test(start_paused = true)]
async fn a_user_of_another_tenant_is_refused_even_under_the_right_name() {
    let house = house(|_| {}).await;
    let other = "99999999-2222-3333-4444-555555555555";
    let refused = house.sign_in_as(json!({ "tid": other })).await.unwrap_err();
    assert!(
        refused.reason.contains(other) && refused.reason.contains(GUID),
        "{refused}"
    );
    assert!(house.memory.tokens().is_empty());
    assert_eq!(house.reason(), refused.to_string());
}

#[tokio::test(start_paused = true)]
async fn an_id_token_that_is_not_of_this_sign_in_is_refused() {
    let noon = NOON.parse::<Timestamp>().unwrap().as_second();
    for (change, said) in [
        (json!({ "aud": "another client" }), "for another client"),
        (json!({ "aud": [] }), "for another client"),
        (json!({ "aud": null }), "for another client"),
        (json!({ "exp": noon - 301 }), "has expired"),
        (json!({ "exp": null }), "has expired"),
        (json!({ "nonce": "of yesterday" }), "of another sign-in"),
        (json!({ "nonce": null }), "of another sign-in"),
        (json!({ "aud": 7 }), "cannot be read"),
    ] {
        let house = house(|_| {}).await;
        let refused = house.sign_in_as(change.clone()).await.unwrap_err();
        assert!(refused.reason.contains(said), "{change}: {refused}");
        assert!(house.memory.tokens().is_empty(), "{change}");
    }
    let house = house(|config| {
        let provider = config.providers.get_mut("contoso").unwrap();
        provider.kind = Kind::Google;
        provider.scope = "https://mail.google.com/".to_owned();
        provider.issuer = Some("https://accounts.google.com".to_owned());
    })
    .await;
    let refused = house.sign_in_as(json!({})).await.unwrap_err();
    assert!(refused.reason.contains("another issuer's"), "{refused}");
    let google = json!({ "iss": "accounts.google.com" });
    assert_eq!(house.sign_in_as(google).await, Ok(alerts()));
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_says_nobodys_name_leaves_it_to_the_first_auth() {
    for change in [
        json!({ "preferred_username": null }),
        json!({ "preferred_username": "alerts" }),
        json!({ "preferred_username": null, "email": "bob@contoso.com", "email_verified": false }),
    ] {
        let house = house(|_| {}).await;
        assert_eq!(
            house.sign_in_as(change.clone()).await,
            Ok(alerts()),
            "{change}"
        );
    }
    // Encrypted to somebody, and none at all.
    for answer in [
        Answer::With(json!({ "id_token": "a.b.c.d.e" })),
        Answer::Good,
    ] {
        let house = house(|_| {}).await;
        house.played.next([answer]);
        let query = format!("code=good&state={}", house.begin().await);
        assert_eq!(house.oauth.callback(&query).await, Ok(alerts()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_device_sign_in_by_somebody_else_is_refused_too() {
    let house = house(|_| {}).await;
    let mut stranger = claims("", &json!({ "preferred_username": "bob@contoso.com" }));
    stranger["nonce"] = Value::Null;
    house.played.next([id_token(&stranger)]);
    let begun = house.oauth.begin_sign_in(&alerts(), true).await.unwrap();
    let SignIn::Device { id, .. } = begun else {
        panic!("a device is wanted, not {begun:?}");
    };
    let refused = house.oauth.sign_in_result(&id).await.unwrap_err();
    assert!(
        refused.reason.starts_with("bob@contoso.com signed in"),
        "{refused}"
    );
    assert!(house.memory.tokens().is_empty());
    assert_eq!(house.reason(), refused.to_string());
}

#[tokio::test(start_paused = true)]
async fn a_refresh_never_brings_somebody_elses_token() {
    let house = house(|_| {}).await;
    assert_eq!(house.sign_in_as(json!({})).await, Ok(alerts()));
    let before = house.memory.tokens();
    let same = claims("", &json!({}));
    let other = claims("", &json!({ "sub": "another subject" }));
    house.played.next([id_token(&same), id_token(&other)]);
    house.pass(50 * MINUTE).await;
    assert_eq!(
        house.token().await.unwrap().token.expose(),
        "canary-access-2"
    );
    assert_ne!(house.memory.tokens(), before);
    let before = house.memory.tokens();
    house.pass(50 * MINUTE).await;
    let refused = house.token().await;
    assert!(
        matches!(&refused, Err(TokenError::SignInNeeded(d)) if d.reason.contains("somebody else")),
        "{refused:?}"
    );
    assert_eq!(house.memory.tokens(), before, "and is not kept");
}

/// A provider by its issuer alone, which offers OpenID Connect with a userinfo endpoint.
async fn discovered(scopes: &Value) -> House {
    let played = Played::start().await;
    let issuer = played.issuer();
    let document = json!({
        "issuer": issuer,
        "authorization_endpoint": format!("{issuer}/authorize"),
        "token_endpoint": format!("{issuer}/token"),
        "userinfo_endpoint": format!("{issuer}/.well-known/userinfo"),
        "scopes_supported": scopes,
    });
    played.publish("openid-configuration", 200, &document);
    let mut config = config(&played, Grant::AuthorizationCode);
    let provider = config.providers.get_mut("contoso").unwrap();
    provider.issuer = Some(issuer);
    provider.authorization_url = None;
    provider.token_url = None;
    House::furnished(played, Arc::default(), config).await
}

#[tokio::test(start_paused = true)]
async fn the_userinfo_endpoint_is_asked_where_the_id_token_names_nobody() {
    let bob = json!({ "sub": "subject", "email": "bob@contoso.com" });
    let alice = json!({ "sub": "subject", "email": "Alerts@contoso.com" });
    let unlike = json!({ "sub": "another", "email": "bob@contoso.com" });
    for (status, answer, taken) in [
        (200, &alice, true),
        (200, &bob, false),
        // Not about the one who signed in, or no answer: the first AUTH decides.
        (200, &unlike, true),
        (200, &json!([]), true),
        (401, &bob, true),
        (307, &bob, true),
    ] {
        let house = discovered(&json!(["openid", "email", "mail"])).await;
        house.played.publish("userinfo", status, answer);
        let asked = house.ask().await;
        assert_eq!(asked["scope"], "offline_access mail openid email");
        let change = json!({ "iss": house.played.issuer(), "preferred_username": null });
        let told = claims(&asked["nonce"], &change);
        house.played.next([id_token(&told)]);
        let query = format!("code=good&state={}", asked["state"]);
        let result = house.oauth.callback(&query).await;
        assert_eq!(result.is_ok(), taken, "{status} {answer}: {result:?}");
        let bearer = house.played.last_authorization();
        assert_eq!(bearer.as_deref(), Some("Bearer canary-access-1"));
        assert_eq!(house.memory.tokens().is_empty(), !taken);
        assert_eq!(house.played.seen.trapped.load(Ordering::SeqCst), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn an_issuer_without_openid_is_asked_for_nothing_more() {
    let house = discovered(&json!(["mail", "email"])).await;
    house
        .played
        .publish("userinfo", 200, &json!({ "email": "bob@contoso.com" }));
    let asked = house.ask().await;
    assert_eq!(asked["scope"], "offline_access mail");
    assert!(!asked.contains_key("nonce"));
    let query = format!("code=good&state={}", asked["state"]);
    assert_eq!(house.oauth.callback(&query).await, Ok(alerts()));
    assert_eq!(house.played.last_authorization(), None);
}
