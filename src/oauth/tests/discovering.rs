//! Endpoints by discovery (OpenID Connect Discovery 1.0, RFC 8414) and the issuer that answers
//! (RFC 9207; reliability row 47).

use serde_json::{Value, json};

use super::*;

const OIDC: &str = "openid-configuration";
const OAUTH: &str = "oauth-authorization-server";

/// A profile that names its issuer and nothing else.
fn by_issuer(played: &Played, grant: Grant) -> Config {
    let mut config = config(played, grant);
    let provider = config.providers.get_mut("contoso").unwrap();
    provider.issuer = Some(played.issuer());
    provider.authorization_url = None;
    provider.token_url = None;
    provider.device_authorization_url = None;
    provider.revocation_url = None;
    config
}

fn document(played: &Played) -> Value {
    let issuer = played.issuer();
    json!({
        "issuer": issuer,
        "authorization_endpoint": format!("{issuer}/authorize"),
        "token_endpoint": format!("{issuer}/token"),
        "device_authorization_endpoint": format!("{issuer}/device"),
        "revocation_endpoint": format!("{issuer}/revoke"),
        "code_challenge_methods_supported": ["plain", "S256"],
        "authorization_response_iss_parameter_supported": true,
    })
}

type Make = fn(&Played) -> Value;

/// A house whose provider publishes `document`.
async fn house_with(document: impl FnOnce(&Played) -> Value) -> House {
    let played = Played::start().await;
    played.publish(OIDC, 200, &document(&played));
    let config = by_issuer(&played, Grant::AuthorizationCode);
    House::furnished(played, Arc::default(), config).await
}

impl House {
    async fn come_back(&self, more: &str) -> Result<AccountName, Diagnosis> {
        let state = self.begin().await;
        let query = format!("code=good&state={state}{more}");
        self.oauth.callback(&query).await
    }

    async fn sign_in_by_issuer(&self) {
        let iss = format!("&iss={}", self.played.issuer());
        assert_eq!(self.come_back(&iss).await, Ok(alerts()));
    }

    async fn begin_refused(&self) -> Diagnosis {
        match self.oauth.begin_sign_in(&alerts(), false).await {
            Err(Error::Provider(diagnosis)) => diagnosis,
            other => panic!("refused is wanted, not {other:?}"),
        }
    }

    fn fetched(&self) -> usize {
        self.played.seen.fetched.load(Ordering::SeqCst)
    }
}

#[tokio::test(start_paused = true)]
async fn an_issuer_is_enough_and_is_asked_once_an_hour() {
    let house = house_with(document).await;
    house.sign_in_by_issuer().await;
    assert_eq!(house.fetched(), 1);
    house.pass(50 * MINUTE).await;
    assert_eq!(
        house.token().await.unwrap().token.expose(),
        "canary-access-2"
    );
    house.pass(23 * HOUR).await;
    // Refreshed every 42 to 48 minutes: at every second refresh the document is over an hour old.
    assert!((12..=25).contains(&house.fetched()), "{}", house.fetched());
    let unrevoked = house.oauth.sign_out(&alerts()).await.unwrap();
    assert_eq!(unrevoked, None, "revoked there");
}

#[tokio::test(start_paused = true)]
async fn a_device_sign_in_and_an_application_find_their_endpoints_too() {
    let house = house_with(document).await;
    let begun = house.oauth.begin_sign_in(&alerts(), true).await.unwrap();
    let SignIn::Device { id, .. } = begun else {
        panic!("a device is wanted, not {begun:?}");
    };
    assert_eq!(house.oauth.sign_in_result(&id).await, Ok(()));

    let (played, _, _) = house.end().await;
    let config = by_issuer(&played, Grant::ClientCredentials);
    let house = House::furnished(played, Arc::default(), config).await;
    assert!(house.token().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_answer_must_name_the_issuer_that_promised_to_name_itself() {
    let house = house_with(document).await;
    let port = house.played.address.port();
    for (iss, said) in [
        (String::new(), "does not say who issued it"),
        ("&iss=".to_owned(), "another issuer"),
        (
            "&iss=https%3A%2F%2Fevil.example".to_owned(),
            "another issuer",
        ),
        // The same server by another name, and with a slash: not octet by octet the same.
        (format!("&iss=http://localhost:{port}"), "another issuer"),
        (format!("&iss={}/", house.played.issuer()), "another issuer"),
        (
            format!("&iss={0}&iss={0}", house.played.issuer()),
            "parameters",
        ),
    ] {
        let refused = house.come_back(&iss).await.unwrap_err();
        assert!(refused.reason.contains(said), "{iss}: {refused}");
        assert!(house.memory.tokens().is_empty());
    }
    assert_eq!(house.played.asked(), 0, "no code was shown to anybody");
    house.sign_in_by_issuer().await;

    // One that promised nothing may stay silent, and may still not name another.
    let house = house_with(|played| {
        let mut document = document(played);
        document["authorization_response_iss_parameter_supported"] = false.into();
        document
    })
    .await;
    assert!(house.come_back("&iss=https://evil.example").await.is_err());
    assert_eq!(house.come_back("").await, Ok(alerts()));
}

#[tokio::test(start_paused = true)]
async fn the_old_document_serves_while_a_new_one_cannot_be_had() {
    let house = house_with(document).await;
    house.sign_in_by_issuer().await;
    house.played.publish(OIDC, 500, &"{}");
    let before = house.fetched();
    house.pass(6 * HOUR).await;
    assert_eq!(house.state(), State::Ready);
    assert!(house.fetched() > before && house.played.asked() > 6);
    // One that turns into somebody else's is not believed either.
    let evil =
        json!({ "issuer": "https://evil.example", "token_endpoint": "https://evil.example/" });
    house.played.publish(OIDC, 200, &evil);
    house.pass(6 * HOUR).await;
    assert_eq!(house.state(), State::Ready);
}

#[tokio::test(start_paused = true)]
async fn without_a_document_it_is_tried_again_and_mends_by_itself() {
    let played = Played::start().await;
    played.publish(OIDC, 503, &"{}");
    let config = by_issuer(&played, Grant::ClientCredentials);
    let house = House::furnished(played, Arc::default(), config).await;
    assert!(matches!(house.token().await, Err(TokenError::Retrying(_))));
    assert!(house.reason().contains("HTTP 503"), "{}", house.reason());
    for _ in 0..20 {
        house.pass(Duration::from_secs(10)).await;
    }
    assert!(house.fetched() <= 5, "{} in 200 seconds", house.fetched());
    house.played.publish(OIDC, 200, &document(&house.played));
    house.pass(6 * MINUTE).await;
    assert!(house.token().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn one_that_knows_only_the_name_of_rfc_8414_is_found() {
    let played = Played::start().await;
    played.publish(OAUTH, 200, &document(&played));
    let config = by_issuer(&played, Grant::AuthorizationCode);
    let house = House::furnished(played, Arc::default(), config).await;
    house.sign_in_by_issuer().await;
    assert_eq!(house.fetched(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_url_in_the_configuration_wins_over_the_issuers() {
    let house = house_with(|played| {
        let mut document = document(played);
        document["token_endpoint"] = format!("{}/trap", played.issuer()).into();
        document
    })
    .await;
    let mut config = house.config.clone();
    let provider = config.providers.get_mut("contoso").unwrap();
    provider.token_url = Some(format!("{}/token", house.played.issuer()).parse().unwrap());
    house.oauth.reconfigure(config).await.unwrap();
    house.sign_in_by_issuer().await;
    assert_eq!(house.played.seen.trapped.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn a_hostile_document_is_refused_and_nothing_is_sent() {
    let big = json!({ "issuer": "x", "fill": "x".repeat(100 * 1024) });
    let cases: [(u16, Make, &str); 9] = [
        (200, |_| json!([]), "no metadata document"),
        (
            200,
            |_| json!({ "token_endpoint": "https://x/" }),
            "no metadata document",
        ),
        (200, |_| json!({ "issuer": 7 }), "no metadata document"),
        (
            200,
            |_| json!({ "issuer": "https://evil.example" }),
            "https://evil.example",
        ),
        (
            200,
            |p| json!({ "issuer": p.issuer(), "token_endpoint": "http://192.0.2.1/t" }),
            "no https URL",
        ),
        (200, |p| json!({ "issuer": p.issuer() }), "token endpoint"),
        (307, document, "HTTP 307"),
        (404, document, "HTTP 404"),
        (429, document, "HTTP 429"),
    ];
    for (status, document, said) in cases {
        let played = Played::start().await;
        played.publish(OIDC, status, &document(&played));
        let config = by_issuer(&played, Grant::AuthorizationCode);
        let house = House::furnished(played, Arc::default(), config).await;
        let refused = house.begin_refused().await;
        assert!(refused.reason.contains(said), "{said}: {refused}");
        assert_eq!(house.played.seen.trapped.load(Ordering::SeqCst), 0);
    }
    let house = house_with(|_| big).await;
    assert!(house.begin_refused().await.reason.contains("longer than"));
}

#[tokio::test(start_paused = true)]
async fn one_that_takes_no_s256_is_not_signed_in_at() {
    let house = house_with(|played| {
        let mut document = document(played);
        document["code_challenge_methods_supported"] = json!(["plain"]);
        document
    })
    .await;
    assert!(house.begin_refused().await.reason.contains("S256"));
}

#[tokio::test(start_paused = true)]
async fn a_refresh_token_goes_where_its_issuer_says_and_to_no_other_issuer() {
    let house = house_with(document).await;
    house.sign_in_by_issuer().await;
    let (played, memory, config) = house.end().await;

    // Another issuer, whatever it says, gets nothing.
    let other = Played::start().await;
    other.publish(OIDC, 200, &document(&other));
    let moved = by_issuer(&other, Grant::AuthorizationCode);
    let house = House::furnished(other, Arc::clone(&memory), moved).await;
    assert!(matches!(
        house.token().await,
        Err(TokenError::SignInNeeded(_))
    ));
    assert!(
        house.reason().contains("another provider"),
        "{}",
        house.reason()
    );
    let (other, memory, _) = house.end().await;
    assert_eq!(other.asked(), 0);

    // The issuer moved its token endpoint: that is its own word.
    let mut document = document(&played);
    document["token_endpoint"] = format!("{}/token", other.issuer()).into();
    played.publish(OIDC, 200, &document);
    let house = House::furnished(played, memory, config).await;
    house.pass(2 * HOUR).await;
    assert_eq!(house.played.asked(), 1);
    assert!(other.asked() >= 1);
    assert_eq!(other.forms()[0]["refresh_token"], "canary-refresh-1");
}
