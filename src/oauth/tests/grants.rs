//! Grants without a person, and clients that prove themselves by a key.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use super::*;

const RSA_KEY: &str = include_str!("rfc7515_a2.pem");

fn key_file() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), RSA_KEY).unwrap();
    file
}

/// A house whose configuration is changed before it is furnished.
async fn house(grant: Grant, change: impl FnOnce(&mut Provider, &mut Account, &Played)) -> House {
    let played = Played::start().await;
    let mut config = config(&played, grant);
    let provider = config.providers.get_mut("contoso").unwrap();
    let account = config.accounts.get_mut(&alerts()).unwrap();
    change(provider, account, &played);
    House::furnished(played, Arc::default(), config).await
}

fn claims(jwt: &str) -> serde_json::Value {
    let claims = jwt.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap()
}

fn signs_with(provider: &mut Provider, file: &tempfile::NamedTempFile) {
    provider.client_secret = None;
    provider.client_authentication = ClientAuthentication::PrivateKeyJwt;
    provider.client_key = Some(ClientKey {
        certificate_file: None,
        key_file: Some(file.path().to_owned()),
        password: None,
        algorithm: Algorithm::Rs256,
    });
}

#[tokio::test(start_paused = true)]
async fn a_key_proves_the_client_anew_in_every_request() {
    let file = key_file();
    let house = house(Grant::AuthorizationCode, |provider, _, _| {
        signs_with(provider, &file);
    })
    .await;
    let state = house.begin().await;
    let query = format!("code=good&state={state}");
    assert_eq!(house.oauth.callback(&query).await, Ok(alerts()));
    house.pass(50 * MINUTE).await;
    let forms = house.played.forms();
    let mut seen = std::collections::BTreeSet::new();
    for form in &forms {
        assert!(!form.contains_key("client_secret"));
        assert_eq!(
            form["client_assertion_type"],
            "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        );
        let claims = claims(&form["client_assertion"]);
        assert_eq!(claims["iss"], "the client");
        let endpoint = format!("http://{}/token", house.played.address);
        assert_eq!(claims["aud"], endpoint.as_str());
        assert!(
            seen.insert(claims["jti"].to_string()),
            "a fresh one each time"
        );
    }
    assert_eq!(forms.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn polling_for_a_device_proves_the_client_anew_each_time() {
    let file = key_file();
    let house = house(Grant::DeviceCode, |provider, _, _| {
        signs_with(provider, &file)
    })
    .await;
    let pending = r#"{"error":"authorization_pending"}"#.to_owned();
    let pending = Answer::Raw(400, "application/json", pending);
    house.played.next([pending.clone(), pending]);
    let SignIn::Device { id, .. } = house.oauth.begin_sign_in(&alerts(), true).await.unwrap()
    else {
        panic!("a device sign-in is wanted");
    };
    assert_eq!(house.oauth.sign_in_result(&id).await, Ok(()));
    let forms = house.played.forms();
    let assertions: std::collections::BTreeSet<_> =
        forms.iter().map(|form| &form["client_assertion"]).collect();
    assert_eq!((forms.len(), assertions.len()), (3, 3));
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_gone_is_named_and_mends_by_itself_when_it_is_back() {
    let file = key_file();
    let house = house(Grant::ClientCredentials, |provider, _, _| {
        signs_with(provider, &file);
    })
    .await;
    assert!(house.token().await.is_ok());
    std::fs::write(file.path(), "").unwrap();
    house.pass(50 * MINUTE).await;
    assert_eq!(house.state(), State::SignInNeeded);
    assert!(
        house.reason().contains("holds no private key"),
        "{}",
        house.reason()
    );
    assert_eq!(house.played.asked(), 1, "nothing is sent without proof");
    std::fs::write(file.path(), RSA_KEY).unwrap();
    house.pass(20 * MINUTE).await;
    assert_eq!(house.state(), State::Ready);
}

#[tokio::test(start_paused = true)]
async fn a_service_account_acts_as_the_mailbox() {
    let house = house(Grant::ServiceAccount, |provider, account, _| {
        let key = serde_json::json!({
            "type": "service_account",
            "client_email": "relay@p.iam.gserviceaccount.com",
            "private_key": RSA_KEY,
        });
        provider.kind = Kind::Google;
        provider.client_id = String::new();
        provider.client_secret = None;
        provider.client_authentication = ClientAuthentication::None;
        provider.service_account = Some(ServiceAccount::parse(&key.to_string()).unwrap());
        let scope = "https://mail.google.com/".to_owned();
        account.services = BTreeMap::from([(Service::Smtp, scope)]);
    })
    .await;
    assert_eq!(
        house.token().await.unwrap().token.expose(),
        "canary-access-1"
    );
    let form = house.played.last_form();
    assert_eq!(
        form["grant_type"],
        "urn:ietf:params:oauth:grant-type:jwt-bearer"
    );
    assert!(!form.contains_key("client_assertion"));
    let claims = claims(&form["assertion"]);
    assert_eq!(claims["sub"], "alerts@contoso.com");
    assert_eq!(claims["scope"], "https://mail.google.com/");
    house.pass(50 * MINUTE).await;
    assert_eq!(
        house.played.asked(),
        2,
        "signed again, nothing to refresh with"
    );

    let refused = r#"{"error":"unauthorized_client","error_description":"Client is unauthorized"}"#;
    let refused = Answer::Raw(401, "application/json", refused.to_owned());
    // It may be looked at again a quarter of an hour later, within this span.
    house.played.next([refused.clone(), refused]);
    house.pass(50 * MINUTE).await;
    assert!(
        house.reason().contains("Domain-wide delegation"),
        "{}",
        house.reason()
    );
}

#[tokio::test(start_paused = true)]
async fn the_platforms_token_stands_for_the_client_and_is_read_each_time() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "canary.first.token\n").unwrap();
    let house = house(Grant::WorkloadIdentity, |provider, _, _| {
        provider.client_secret = None;
        provider.client_authentication = ClientAuthentication::None;
        provider.federated_token_file = Some(file.path().to_owned());
    })
    .await;
    assert!(house.token().await.is_ok());
    let form = house.played.last_form();
    assert_eq!(form["grant_type"], "client_credentials");
    assert_eq!(form["client_assertion"], "canary.first.token");
    assert_eq!(form["client_id"], "the client");
    std::fs::write(file.path(), "canary.second.token").unwrap();
    house.pass(50 * MINUTE).await;
    assert_eq!(
        house.played.last_form()["client_assertion"],
        "canary.second.token"
    );

    let refused = r#"{"error":"invalid_client","error_description":"AADSTS700213: No matching federated identity record found for presented assertion subject 'canary.second.token'."}"#;
    let refused = Answer::Raw(401, "application/json", refused.to_owned());
    // It may be looked at again a quarter of an hour later, within this span.
    house.played.next([refused.clone(), refused]);
    house.pass(50 * MINUTE).await;
    assert!(
        house.reason().contains("federated credential"),
        "{}",
        house.reason()
    );
    assert!(!house.reason().contains("canary"), "{}", house.reason());
}

#[tokio::test(start_paused = true)]
async fn azure_gives_tokens_to_the_machine_itself() {
    for header in [None, Some("canary-header")] {
        let house = house(Grant::ManagedIdentity, |provider, account, played| {
            provider.kind = Kind::Microsoft;
            provider.managed_identity = Some(ManagedIdentity {
                url: format!("http://{}/identity", played.address)
                    .parse()
                    .unwrap(),
                header: header.map(Secret::new),
                client_id: Some("user-assigned".to_owned()),
            });
            let scope = "https://outlook.office365.com/.default".to_owned();
            account.services = BTreeMap::from([(Service::Smtp, scope)]);
        })
        .await;
        assert_eq!(
            house.token().await.unwrap().token.expose(),
            "canary-access-1"
        );
        let form = house.played.last_form();
        assert_eq!(form["resource"], "https://outlook.office365.com");
        assert_eq!(form["client_id"], "user-assigned");
        assert_eq!(form.get("X-IDENTITY-HEADER").map(String::as_str), header);
        assert_eq!(form.contains_key("Metadata"), header.is_none());
        // The endpoint is being updated, then knows no such identity.
        let gone = Answer::Raw(410, "text/html", "<p>updating".to_owned());
        let unknown = r#"{"error":"invalid_request","error_description":"Identity not found"}"#;
        let unknown = Answer::Raw(400, "application/json", unknown.to_owned());
        house.played.next([gone.clone(), gone, unknown]);
        house.pass(50 * MINUTE).await;
        assert_eq!(
            house.played.asked(),
            4,
            "two passing troubles, then a definite one"
        );
        assert!(
            house.reason().contains("Identity not found"),
            "{}",
            house.reason()
        );
        assert!(!house.reason().contains("canary"));
    }
}
