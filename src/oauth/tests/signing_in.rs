//! Browser and device sign-in (reliability row 47, RFC 6749, 7636, 8628, 9207).

use oauth2::{PkceCodeChallenge, PkceCodeVerifier};

use super::*;

fn pending(error: &str) -> Answer {
    Answer::Raw(400, "application/json", format!(r#"{{"error":"{error}"}}"#))
}

#[test]
fn the_challenge_is_that_of_rfc_7636() {
    let verifier = PkceCodeVerifier::new("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk".to_owned());
    let challenge = PkceCodeChallenge::from_code_verifier_sha256(&verifier);
    assert_eq!(
        challenge.as_str(),
        "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
    );
}

#[tokio::test(start_paused = true)]
async fn the_authorization_url_carries_what_it_must() {
    let house = House::new(Grant::AuthorizationCode).await;
    assert_eq!(house.state(), State::SignInNeeded);
    let begun = house.oauth.begin_sign_in(&alerts(), false).await.unwrap();
    let SignIn::Browser { url, id, .. } = begun else {
        panic!("a browser is wanted, not {begun:?}");
    };
    let url = Url::parse(&url).unwrap();
    let asked: BTreeMap<String, String> = url.query_pairs().into_owned().collect();
    for (name, value) in [
        ("response_type", "code"),
        ("client_id", "the client"),
        (
            "redirect_uri",
            "http://localhost:8025/authorization/smtp_oauth/",
        ),
        ("scope", "offline_access mail"),
        ("code_challenge_method", "S256"),
        ("login_hint", "alerts@contoso.com"),
    ] {
        assert_eq!(asked.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert!(asked["state"].len() >= 22, "128 bits at least");
    assert_ne!(asked["state"], id);
    assert!(!url.as_str().contains("cret"));
}

#[tokio::test(start_paused = true)]
async fn a_browser_sign_in_is_redeemed_with_its_verifier_and_told_to_whoever_waits() {
    let house = House::new(Grant::AuthorizationCode).await;
    let begun = house.oauth.begin_sign_in(&alerts(), false).await.unwrap();
    let SignIn::Browser { url, id, .. } = begun else {
        panic!("a browser is wanted, not {begun:?}");
    };
    let url = Url::parse(&url).unwrap();
    let asked: BTreeMap<String, String> = url.query_pairs().into_owned().collect();
    // As a person pastes it.
    let pasted = format!(
        " http://localhost:8025/authorization/smtp_oauth/?code=good&session_state=x&state={}#_\n",
        asked["state"]
    );
    let (waited, called) = tokio::join!(
        house.oauth.sign_in_result(&id),
        house.oauth.callback(&pasted)
    );
    assert_eq!((waited, called), (Ok(()), Ok(alerts())));
    let form = house.played.last_form();
    assert_eq!(form["grant_type"], "authorization_code");
    assert_eq!(
        form["redirect_uri"],
        "http://localhost:8025/authorization/smtp_oauth/"
    );
    let verifier = PkceCodeVerifier::new(form["code_verifier"].clone());
    let challenge = PkceCodeChallenge::from_code_verifier_sha256(&verifier);
    assert_eq!(challenge.as_str(), asked["code_challenge"]);
    assert_eq!(house.state(), State::Ready);
}

#[tokio::test(start_paused = true)]
async fn a_callback_that_is_wrong_in_any_way_stores_nothing() {
    let house = House::new(Grant::AuthorizationCode).await;
    let issuer = format!("iss=http%3A%2F%2F{}", house.played.address);
    for (query, said) in [
        ("code=good".to_owned(), "parameters"),
        ("code=good&state=".to_owned(), "parameters"),
        ("code=good&state=guessed".to_owned(), "not known"),
        ("code=good&state=STATE&state=STATE".to_owned(), "parameters"),
        ("code=good&code=good&state=STATE".to_owned(), "parameters"),
        ("state=STATE".to_owned(), "parameters"),
        ("code=bad&state=STATE".to_owned(), "no longer accepts"),
        (
            "code=good&state=STATE&iss=https%3A%2F%2Fevil.example".to_owned(),
            "another issuer",
        ),
        (
            format!("error=access_denied&state=STATE&{issuer}"),
            "access was denied",
        ),
        (
            "error=%3Cscript%3E&error_description=%3Cscript%3Ealert(1)&state=STATE".to_owned(),
            "cannot answer",
        ),
    ] {
        let state = house.begin().await;
        let refused = house
            .oauth
            .callback(&query.replace("STATE", &state))
            .await
            .unwrap_err();
        assert!(refused.reason.contains(said), "{query}: {refused}");
        assert!(!refused.to_string().contains('<'), "{refused}");
        assert!(house.memory.tokens().is_empty());
    }
    let state = house.begin().await;
    let good = format!("code=good&state={state}&{issuer}");
    assert_eq!(house.oauth.callback(&good).await, Ok(alerts()));
    let again = house.oauth.callback(&good).await.unwrap_err();
    assert!(again.reason.contains("not known"), "a state serves once");
}

#[tokio::test(start_paused = true)]
async fn a_state_is_good_for_ten_minutes_and_until_the_next_sign_in() {
    let house = House::new(Grant::AuthorizationCode).await;
    let first = house.begin().await;
    let state = house.begin().await;
    let replaced = house
        .oauth
        .callback(&format!("code=good&state={first}"))
        .await;
    assert!(replaced.is_err());
    house.pass(11 * MINUTE).await;
    let late = house
        .oauth
        .callback(&format!("code=good&state={state}"))
        .await
        .unwrap_err();
    assert!(late.reason.contains("in time"));
    assert_eq!(house.played.asked(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_sign_in_nobody_completes_ends_by_itself() {
    let house = House::new(Grant::AuthorizationCode).await;
    let begun = house.oauth.begin_sign_in(&alerts(), false).await.unwrap();
    let SignIn::Browser { id, .. } = begun else {
        panic!("a browser is wanted, not {begun:?}");
    };
    let ended = house.oauth.sign_in_result(&id).await.unwrap_err();
    assert!(ended.reason.contains("in time"));
    assert!(house.oauth.sign_in_result("no such id").await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_sign_in_without_a_refresh_token_is_refused_with_the_remedy() {
    let house = House::new(Grant::AuthorizationCode).await;
    house
        .played
        .next([Answer::Body(r#"{"access_token":"a","expires_in":3600}"#)]);
    let state = house.begin().await;
    let refused = house
        .oauth
        .callback(&format!("code=good&state={state}"))
        .await
        .unwrap_err();
    assert!(refused.reason.contains("no refresh token"));
    assert!(house.memory.tokens().is_empty());
}

/// A house of the seed's profile: its scope signs in for Graph.
async fn microsoft(services: &[Service]) -> House {
    let played = Played::start().await;
    let mut config = config(&played, Grant::AuthorizationCode);
    let provider = config.providers.get_mut("contoso").unwrap();
    provider.kind = Kind::Microsoft;
    provider.scope = "offline_access https://graph.microsoft.com/.default".to_owned();
    let scope = |service: &Service| {
        let (grant, cloud) = (Grant::AuthorizationCode, preset::Cloud::Global);
        let kind = Kind::Microsoft;
        preset::service_scope(kind, cloud, &provider.scope, grant, *service)
    };
    let services = services.iter().map(|service| (*service, scope(service)));
    let services = services.collect();
    config.accounts.get_mut(&alerts()).unwrap().services = services;
    House::furnished(played, Arc::default(), config).await
}

async fn sign_in(house: &House) -> Result<AccountName, Diagnosis> {
    let state = house.begin().await;
    let query = format!("code=good&state={state}");
    house.oauth.callback(&query).await
}

/// Microsoft's answer where consent is missing.
fn not_consented() -> Answer {
    let missing =
        r#"{"error":"invalid_grant","error_codes":[65001],"suberror":"consent_required"}"#;
    Answer::Raw(400, "application/json", missing.to_owned())
}

#[tokio::test(start_paused = true)]
async fn a_graph_sign_in_at_microsoft_fetches_the_outlook_token_at_once() {
    let house = microsoft(&[Service::Smtp]).await;
    assert_eq!(sign_in(&house).await, Ok(alerts()));
    assert_eq!(house.played.asked(), 2);
    let scope = &house.played.last_form()["scope"];
    assert_eq!(scope, "offline_access https://outlook.office.com/SMTP.Send");
    assert_eq!(
        house.token().await.unwrap().token.expose(),
        "canary-access-2"
    );
    let stored = house.stored();
    assert_eq!(stored.refresh_token.unwrap().expose(), "canary-refresh-2");
    assert!(stored.consented_at.is_some());

    // Without consent to Outlook nothing replaces what was there.
    house.played.next([Answer::Good, not_consented()]);
    let refused = sign_in(&house).await.unwrap_err();
    assert!(
        refused.reason.contains("AADSTS65001, consent_required")
            && refused
                .reason
                .contains("the permission SMTP.Send is missing"),
        "{refused}"
    );
    assert!(refused.remedy.contains("Grant admin consent"), "{refused}");
    assert_eq!(
        house.token().await.unwrap().token.expose(),
        "canary-access-2"
    );
}

#[tokio::test(start_paused = true)]
async fn one_sign_in_gives_a_token_for_each_service_and_each_lives_its_own_life() {
    let house = microsoft(&[Service::Smtp, Service::Graph]).await;
    assert_eq!(sign_in(&house).await, Ok(alerts()));
    let token = |service| {
        let oauth = house.oauth.clone();
        async move { oauth.access_token(&alerts(), service).await }
    };
    // The sign-in's own token is for Graph; the other was got with the rotated refresh token.
    let graph = token(Service::Graph).await.unwrap();
    let smtp = token(Service::Smtp).await.unwrap();
    assert_eq!(graph.token.expose(), "canary-access-1");
    assert_eq!(smtp.token.expose(), "canary-access-2");
    assert_eq!(
        house.played.last_form()["refresh_token"],
        "canary-refresh-1"
    );
    house.pass(50 * MINUTE).await;
    let forms = house.played.forms();
    assert_eq!(house.played.asked(), 4);
    let scopes: std::collections::BTreeSet<_> = forms[2..]
        .iter()
        .map(|form| form["scope"].as_str())
        .collect();
    assert_eq!(
        scopes.into_iter().collect::<Vec<_>>(),
        [
            "offline_access https://graph.microsoft.com/.default",
            "offline_access https://outlook.office.com/SMTP.Send",
        ],
        "one resource a request"
    );
    let forced = house
        .oauth
        .refresh_after(&alerts(), Service::Graph, 0)
        .await;
    assert_eq!(
        forced.unwrap().generation,
        token(Service::Graph).await.unwrap().generation
    );
    let gmail = token(Service::Gmail).await;
    assert!(matches!(gmail, Err(TokenError::SignInNeeded(_))));
}

#[tokio::test(start_paused = true)]
async fn the_tokens_of_all_services_are_there_after_a_restart() {
    let house = microsoft(&[Service::Smtp, Service::Graph]).await;
    assert_eq!(sign_in(&house).await, Ok(alerts()));
    let (played, memory, config) = house.end().await;
    let house = House::furnished(played, memory, config).await;
    for (service, token) in [
        (Service::Graph, "canary-access-1"),
        (Service::Smtp, "canary-access-2"),
    ] {
        let served = house.oauth.access_token(&alerts(), service).await;
        assert_eq!(served.unwrap().token.expose(), token);
    }
    assert_eq!(house.played.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn consent_that_is_missing_for_one_service_leaves_the_other_alone() {
    let house = microsoft(&[Service::Smtp, Service::Graph]).await;
    house.played.next([Answer::Good, not_consented()]);
    assert_eq!(sign_in(&house).await, Ok(alerts()));
    assert!(
        house
            .reason()
            .contains("the permission SMTP.Send is missing")
    );
    assert_eq!(house.state(), State::Ready, "Graph works");
    let smtp = house.oauth.access_token(&alerts(), Service::Smtp).await;
    assert!(matches!(smtp, Err(TokenError::SignInNeeded(_))));
    house.pass(HOUR).await;
    let graph = house.oauth.access_token(&alerts(), Service::Graph).await;
    assert_eq!(graph.unwrap().token.expose(), "canary-access-2");
    assert_eq!(
        house.played.asked(),
        3,
        "what needs a person is not asked again"
    );

    // A refresh token that is dead is dead for both.
    let dead = r#"{"error":"invalid_grant","error_codes":[70008]}"#.to_owned();
    house
        .played
        .next([Answer::Raw(400, "application/json", dead)]);
    house.pass(HOUR).await;
    for service in [Service::Smtp, Service::Graph] {
        let token = house.oauth.access_token(&alerts(), service).await;
        assert!(matches!(token, Err(TokenError::SignInNeeded(d)) if d.reason.contains("70008")));
    }
}

#[tokio::test(start_paused = true)]
async fn a_device_sign_in_polls_at_the_pace_it_is_told() {
    let house = House::new(Grant::AuthorizationCode).await;
    house.played.next([
        pending("authorization_pending"),
        pending("slow_down"),
        Answer::Raw(502, "text/html", "<html>".to_owned()),
        pending("authorization_pending"),
    ]);
    let started = tokio::time::Instant::now();
    let begun = house.oauth.begin_sign_in(&alerts(), true).await.unwrap();
    let SignIn::Device {
        id,
        verification_uri,
        user_code,
        expires_at,
        ..
    } = begun
    else {
        panic!("a device is wanted, not {begun:?}");
    };
    assert_eq!(verification_uri, "https://example.com/device");
    assert_eq!(user_code, "ABCD-EFGH");
    let end: Timestamp = "2026-11-24T12:15:00Z".parse().unwrap();
    assert_eq!(expires_at, end);
    assert_eq!(house.oauth.sign_in_result(&id).await, Ok(()));
    // 5, then 5 + 5, then doubled for the trouble, then the same again.
    assert_eq!(started.elapsed().as_secs(), 5 + 10 + 20 + 20);
    assert_eq!(house.played.asked(), 5);
    assert_eq!(house.played.last_form()["device_code"], "canary-device");
    assert_eq!(house.state(), State::Ready);
}

#[tokio::test(start_paused = true)]
async fn a_device_sign_in_that_is_declined_or_forgotten_ends() {
    let house = House::new(Grant::DeviceCode).await;
    let many = (0..400).map(|_| pending("authorization_pending"));
    let cases: [(Vec<Answer>, &str); 4] = [
        (vec![pending("access_denied")], "access was denied"),
        (vec![pending("authorization_declined")], "declined"),
        (vec![pending("expired_token")], "in time"),
        (many.collect(), "in time"),
    ];
    for (answers, said) in cases {
        house.played.next(answers);
        let begun = house.oauth.begin_sign_in(&alerts(), false).await.unwrap();
        let SignIn::Device { id, .. } = begun else {
            panic!("a device is wanted, not {begun:?}");
        };
        let ended = house.oauth.sign_in_result(&id).await.unwrap_err();
        assert!(ended.reason.contains(said), "{ended}");
    }
    assert!(house.memory.tokens().is_empty());
}

/// Who comes back to a sign-in finds how to go on with it while it waits, and how it ended after; what
/// is used up is not shown any more.
#[tokio::test(start_paused = true)]
async fn a_sign_in_is_found_again() {
    let house = House::new(Grant::AuthorizationCode).await;
    let oauth = &house.oauth;
    let begin = async || match oauth.begin_sign_in(&alerts(), false).await.unwrap() {
        SignIn::Browser { id, url, .. } => (id, Url::parse(&url).unwrap()),
        other @ (SignIn::Device { .. } | SignIn::Unattended { .. }) => {
            panic!("a browser is wanted, not {other:?}")
        }
    };
    let standing = |id: &str| oauth.sign_in_status(id).map(|status| status.standing);
    let marks = oauth.sign_in_marks();
    let (id, url) = begin().await;
    let status = oauth.sign_in_status(&id).unwrap();
    assert_eq!((status.account, status.is_draft), (alerts(), false));
    let Standing::Waiting(SignIn::Browser { url: again, .. }) = status.standing else {
        panic!("it waits for a browser");
    };
    assert_eq!(again, url.as_str());
    assert_ne!(oauth.sign_in_marks(), marks);
    let state = url.query_pairs().find(|(name, _)| name == "state").unwrap();
    let refusal = format!("error=access_denied&state={}", state.1);
    assert_eq!(oauth.sign_in_named(&refusal), Some(id.clone()));
    assert_eq!(oauth.sign_in_named("state=other"), None);
    let marks = oauth.sign_in_marks();
    oauth.callback(&refusal).await.unwrap_err();
    assert!(matches!(standing(&id), Some(Standing::Ended(Err(_)))));
    assert_eq!(oauth.sign_in_named(&refusal), None, "used up");
    assert_ne!(oauth.sign_in_marks(), marks);

    let (late, _) = begin().await;
    assert!(standing(&id).is_none(), "replaced");
    let marks = oauth.sign_in_marks();
    tokio::time::advance(Duration::from_secs(601)).await;
    assert!(matches!(standing(&late), Some(Standing::Ended(Err(_)))));
    assert_ne!(oauth.sign_in_marks(), marks, "time has ended it");

    let (cancelled, _) = begin().await;
    assert!(oauth.cancel_sign_in(&cancelled));
    assert!(matches!(
        standing(&cancelled),
        Some(Standing::Ended(Err(_)))
    ));
}

/// Also one that is cancelled while the provider is being asked for its tokens.
#[tokio::test(start_paused = true)]
async fn a_sign_in_that_was_cancelled_brings_nothing() {
    let house = House::new(Grant::AuthorizationCode).await;
    let oauth = &house.oauth;
    let begun = oauth.begin_sign_in(&alerts(), false).await.unwrap();
    let SignIn::Browser { url, id, .. } = begun else {
        panic!("a browser is wanted, not {begun:?}");
    };
    let url = Url::parse(&url).unwrap();
    let state = url.query_pairs().find(|(name, _)| name == "state").unwrap();
    let query = format!("code=good&state={}", state.1);
    let cancel = async { assert!(oauth.cancel_sign_in(&id)) };
    let (called, ()) = tokio::join!(oauth.callback(&query), cancel);
    called.unwrap_err();
    let told = oauth.sign_in_result(&id).await.unwrap_err();
    assert!(told.reason.contains("cancelled"), "{told}");
    assert_eq!(house.state(), State::SignInNeeded);
    assert!(house.memory.tokens().is_empty());
}
