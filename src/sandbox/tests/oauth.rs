//! The OAuth server, driven as a relay and a browser would.

use reqwest::{StatusCode, header};
use serde_json::{Value, json};

use super::{CHALLENGE, MAILBOX, REDIRECT, Rig, VERIFIER, location, query, tokens};
use crate::sandbox::Fault;

#[tokio::test]
async fn the_code_flow_gives_tokens_and_says_who_issued_them() {
    let rig = Rig::start().await;
    let page = rig
        .get(
            rig.authorize_url(&[("login_hint", "hint@example.com")])
                .as_str(),
        )
        .await;
    assert_eq!(page.status(), StatusCode::OK);
    let text = page.text().await.unwrap();
    assert!(text.contains("hint@example.com") && text.contains("smtp.send"));

    let back = rig.consent(MAILBOX).await;
    assert!(back.as_str().starts_with(REDIRECT));
    assert_eq!(query(&back, "state").as_deref(), Some("st&te"));
    assert_eq!(query(&back, "iss").as_deref(), Some(rig.sandbox.url()));

    let (status, json) = rig.redeem(&query(&back, "code").unwrap()).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(
        (&json["token_type"], &json["expires_in"]),
        (&json!("Bearer"), &json!(3600))
    );
    let (access, refresh) = tokens(&json);
    assert!(access.len() > 1400 && !refresh.is_empty());
    let seen = rig.introspect(&access).await;
    assert_eq!(
        (&seen["active"], &seen["username"]),
        (&json!(true), &json!(MAILBOX))
    );
}

#[tokio::test]
async fn a_bad_request_goes_back_to_the_application_only_when_that_is_safe() {
    let rig = Rig::start().await;
    let told_to_the_person = [
        ("client_id", "nobody"),
        ("redirect_uri", "https://example.com/"),
        ("redirect_uri", ""),
    ];
    for change in told_to_the_person {
        let response = rig.get(rig.authorize_url(&[change]).as_str()).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{change:?}");
    }
    let told_to_the_application = [
        (("code_challenge", ""), "invalid_request"),
        (("code_challenge_method", "plain"), "invalid_request"),
        (("response_type", "token"), "unsupported_response_type"),
        (("prompt", "none"), "login_required"),
    ];
    for (change, error) in told_to_the_application {
        let response = rig.get(rig.authorize_url(&[change]).as_str()).await;
        let back = location(&response);
        assert_eq!(query(&back, "error").as_deref(), Some(error), "{change:?}");
        assert_eq!(query(&back, "state").as_deref(), Some("st&te"));
    }
    rig.sandbox.register_redirect("https://example.com/");
    let url = rig.authorize_url(&[("redirect_uri", "https://example.com/")]);
    assert_eq!(rig.get(url.as_str()).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_person_may_say_no_or_mistype() {
    let rig = Rig::start().await;
    let url = rig.authorize_url(&[]);
    let denied = rig.post(url.as_str(), &[("decision", "deny")]).await;
    let back = location(&denied);
    assert_eq!(query(&back, "error").as_deref(), Some("access_denied"));
    let form = [("mailbox", "<b>no mailbox"), ("decision", "allow")];
    let again = rig.post(url.as_str(), &form).await;
    assert_eq!(again.status(), StatusCode::OK);
    let text = again.text().await.unwrap();
    assert!(
        text.contains("role=\"alert\"") && !text.contains("<b>no"),
        "{text}"
    );
}

#[tokio::test]
async fn a_wrong_verifier_is_refused() {
    let rig = Rig::start().await;
    let code = query(&rig.consent(MAILBOX).await, "code").unwrap();
    let form = [
        ("grant_type", "authorization_code"),
        ("code", code.as_str()),
        ("redirect_uri", REDIRECT),
        ("code_verifier", CHALLENGE),
    ];
    let (status, json) = rig.post_as_client("/token", &form).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(json["error"], "invalid_grant");
}

#[tokio::test]
async fn refresh_tokens_rotate_and_a_replay_revokes_the_sign_in() {
    let rig = Rig::start().await;
    let (_, first) = rig.sign_in(MAILBOX).await;
    let (status, json) = rig.refresh(&first).await;
    assert_eq!(status, StatusCode::OK);
    let (access, second) = tokens(&json);
    assert_ne!(first, second);
    for replayed in [&first, &second] {
        let (status, json) = rig.refresh(replayed).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert_eq!(json["error"], "invalid_grant");
    }
    assert_eq!(rig.introspect(&access).await, json!({ "active": false }));
}

#[tokio::test]
async fn a_client_authenticates_by_exactly_one_method() {
    let rig = Rig::start().await;
    let (id, secret) = rig.sandbox.client();
    let (secret, public) = (secret.expose(), rig.sandbox.public_client());
    let grant = ("grant_type", "client_credentials");
    let post = vec![grant, ("client_id", &id), ("client_secret", secret)];
    let wrong = vec![grant, ("client_id", &id), ("client_secret", "guess")];
    let bare = vec![grant, ("client_id", &id)];
    let nobody = vec![grant];
    let public = vec![grant, ("client_id", public)];
    let cases = [
        (None, &post, 200, Value::Null),
        (Some(secret), &nobody, 200, Value::Null),
        (Some(secret), &bare, 200, Value::Null),
        (Some("guess"), &nobody, 401, json!("invalid_client")),
        (None, &wrong, 401, json!("invalid_client")),
        (None, &bare, 401, json!("invalid_client")),
        (None, &nobody, 401, json!("invalid_client")),
        (Some(secret), &post, 400, json!("invalid_request")),
        (None, &public, 400, json!("unauthorized_client")),
    ];
    for (basic, form, status, error) in cases {
        let mut request = rig.http.post(rig.url("/token")).form(form);
        if let Some(secret) = basic {
            request = request.basic_auth(&id, Some(secret));
        }
        let response = request.send().await.unwrap();
        let challenged = response.headers().contains_key(header::WWW_AUTHENTICATE);
        assert_eq!(
            (response.status().as_u16(), challenged),
            (status, status == 401)
        );
        let json: Value = response.json().await.unwrap();
        assert_eq!(json["error"], error, "{form:?}");
    }
}

#[tokio::test]
async fn a_public_client_signs_in_without_a_secret() {
    let rig = Rig::start().await;
    let public = rig.sandbox.public_client();
    let url = rig.authorize_url(&[("client_id", public)]);
    let form = [("mailbox", MAILBOX), ("decision", "allow")];
    let back = location(&rig.post(url.as_str(), &form).await);
    let code = query(&back, "code").unwrap();
    let form = [
        ("grant_type", "authorization_code"),
        ("client_id", public),
        ("code", &code),
        ("redirect_uri", REDIRECT),
        ("code_verifier", VERIFIER),
    ];
    let response = rig.post(&rig.url("/token"), &form).await;
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_device_signs_in_by_the_page_a_person_opens() {
    let rig = Rig::start().await;
    let (status, start) = rig
        .post_as_client("/device/code", &[("scope", "mail")])
        .await;
    assert_eq!(status, StatusCode::OK);
    let link = start["verification_uri_complete"].as_str().unwrap();
    let code = start["user_code"].as_str().unwrap();
    let page = rig.get(link).await.text().await.unwrap();
    assert!(page.contains(code), "the code is filled in");
    let poll = [
        ("grant_type", "urn:ietf:params:oauth:grant-type:device_code"),
        ("device_code", start["device_code"].as_str().unwrap()),
    ];
    let (status, json) = rig.post_as_client("/token", &poll).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(json["error"], "authorization_pending");
    let (_, json) = rig.post_as_client("/token", &poll).await;
    assert_eq!(json["error"], "slow_down");

    let unknown = [
        ("user_code", "XXXX"),
        ("mailbox", MAILBOX),
        ("decision", "allow"),
    ];
    let page = rig.post(&rig.url("/device"), &unknown).await;
    assert!(page.text().await.unwrap().contains("role=\"alert\""));
    let form = [
        ("user_code", code),
        ("mailbox", MAILBOX),
        ("decision", "allow"),
    ];
    let page = rig.post(&rig.url("/device"), &form).await;
    assert!(page.text().await.unwrap().contains("Signed in"));
}

#[tokio::test]
async fn client_credentials_give_a_token_for_every_mailbox_and_nothing_to_refresh() {
    let rig = Rig::start().await;
    let form = [("grant_type", "client_credentials"), ("scope", ".default")];
    let (status, json) = rig.post_as_client("/token", &form).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(json.get("refresh_token"), None);
    let seen = rig.introspect(&tokens(&json).0).await;
    assert_eq!(
        (&seen["active"], &seen["username"]),
        (&json!(true), &Value::Null)
    );
}

#[tokio::test]
async fn a_revoked_token_is_dead_and_an_unknown_one_was_dead_before() {
    let rig = Rig::start().await;
    let (access, refresh) = rig.sign_in(MAILBOX).await;
    let (status, _) = rig.post_as_client("/revoke", &[("token", "unknown")]).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(rig.introspect(&access).await["active"], true);
    let (status, _) = rig.post_as_client("/revoke", &[("token", &refresh)]).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(rig.introspect(&access).await["active"], false);
    assert_eq!(rig.refresh(&refresh).await.1["error"], "invalid_grant");
}

#[tokio::test]
async fn the_token_endpoint_answers_as_the_script_says() {
    let rig = Rig::start().await;
    let (_, refresh) = rig.sign_in(MAILBOX).await;
    let body = r#"{"error":"invalid_client","error_codes":[7000222]}"#;
    let fault = json!({ "fault": "token", "status": 401, "body": body, "times": 1 });
    let posted = rig.http.post(rig.url("/faults")).json(&fault).send().await;
    assert_eq!(posted.unwrap().status(), StatusCode::OK);
    let (status, json) = rig.refresh(&refresh).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert_eq!(json["error_codes"], json!([7_000_222]));
    assert_eq!(
        rig.refresh(&refresh).await.0,
        StatusCode::OK,
        "and spent nothing"
    );
}

#[tokio::test]
async fn the_script_is_read_checked_and_cleared_over_http() {
    let rig = Rig::start().await;
    let url = rig.url("/faults");
    let faults = json!([{ "fault": "drop", "phase": "data" }, { "fault": "expire" }]);
    let listed = rig.http.post(&url).json(&faults).send().await.unwrap();
    let listed: Vec<Fault> = listed.json().await.unwrap();
    assert_eq!(listed.len(), 1, "expire is done at once");
    let bad = json!({ "fault": "drop", "phase": "lunch" });
    let refused = rig.http.post(&url).json(&bad).send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    assert!(
        refused.text().await.unwrap().contains("end_of_data"),
        "teaches"
    );
    let cleared = rig.http.delete(&url).send().await.unwrap();
    assert_eq!(cleared.status(), StatusCode::NO_CONTENT);
    assert_eq!(rig.get(&url).await.text().await.unwrap(), "[]");
}

#[tokio::test]
async fn the_metadata_names_the_endpoints_under_the_issuer() {
    let rig = Rig::start().await;
    for name in ["oauth-authorization-server", "openid-configuration"] {
        let url = rig.url(&format!("/.well-known/{name}"));
        let json: Value = rig.get(&url).await.json().await.unwrap();
        assert_eq!(json["issuer"], rig.sandbox.url());
        assert_eq!(json["token_endpoint"], rig.url("/token"));
        assert_eq!(json["authorization_response_iss_parameter_supported"], true);
    }
}

#[tokio::test]
async fn who_signed_in_is_told_in_the_id_token_and_by_userinfo_to_whoever_asked_openid() {
    let rig = Rig::start().await;
    let scope = ("scope", "openid email");
    let url = rig.authorize_url(&[scope, ("nonce", "n-1")]);
    let form = [("mailbox", "bob@example.com"), ("decision", "allow")];
    let back = location(&rig.post(url.as_str(), &form).await);
    let (_, json) = rig.redeem(&query(&back, "code").unwrap()).await;
    let payload = json["id_token"]
        .as_str()
        .unwrap()
        .split('.')
        .nth(1)
        .unwrap();
    let payload =
        base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, payload);
    let told: Value = serde_json::from_slice(&payload.unwrap()).unwrap();
    for (claim, value) in [
        ("iss", rig.sandbox.url()),
        ("aud", &rig.sandbox.client().0),
        ("nonce", "n-1"),
        ("email", "bob@example.com"),
    ] {
        assert_eq!(told[claim], value, "{claim}");
    }

    let userinfo = |token: String| async {
        let request = rig.http.get(rig.url("/userinfo")).bearer_auth(token);
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        (status, response.json::<Value>().await.unwrap())
    };
    let (status, info) = userinfo(tokens(&json).0).await;
    assert_eq!((status, &info["email"]), (200, &json!("bob@example.com")));
    assert_eq!(info["sub"], told["sub"]);
    assert_eq!(userinfo("unknown".to_owned()).await.0, 401);
    let (plain, _) = rig.sign_in(MAILBOX).await;
    assert_eq!(userinfo(plain).await.0, 403);
}
