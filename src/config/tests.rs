//! What a configuration comes to, and what its errors teach.

use super::*;

fn load(text: &str) -> Result<Config, Vec<String>> {
    let sources = Sources {
        text: Some(text.to_owned()),
        ..Sources::default()
    };
    Config::load(&sources).map_err(|p| p.0.iter().map(ToString::to_string).collect())
}

#[test]
fn without_anything_it_listens_on_loopback() {
    let config = load("").unwrap();
    assert_eq!(config.listeners[0].name, "127.0.0.1:2525");
    assert_eq!(config.admin.address.unwrap().to_string(), "127.0.0.1:8025");
    assert_eq!(config.listeners[0].max_message_size, 35 << 20);
}

#[test]
fn the_manual_is_a_valid_configuration() {
    load(include_str!("../../config/gatepost.toml")).unwrap();
}

#[test]
fn the_profile_of_the_seed_signs_in_for_graph_and_refreshes_for_outlook() {
    let config = load(
        r#"
        [provider.contoso]
        kind = "microsoft"
        tenant = "contoso.onmicrosoft.com"
        client_id = "id"
        client_secret = "secret"
        scope = "offline_access https://graph.microsoft.com/.default"
        [account.alerts]
        provider = "contoso"
        mailbox = "alerts@contoso.com"
        "#,
    )
    .unwrap();
    let provider = &config.oauth.providers["contoso"];
    assert_eq!(
        provider.scope,
        "offline_access https://graph.microsoft.com/.default"
    );
    assert!(
        provider
            .refresh_scope
            .contains("https://outlook.office.com/SMTP.Send")
    );
    assert_eq!(config.delivery.accounts[0].smtp.host, "smtp.office365.com");
    assert_eq!(
        config
            .rules
            .router
            .default_account
            .as_ref()
            .unwrap()
            .as_str(),
        "alerts"
    );
}

#[test]
fn every_problem_is_told_at_once_with_its_remedy() {
    let problems = load(
        r#"
        hostnam = "x"
        [[listener]]
        address = "0.0.0.0:25"
        tls = "startls"
        [[listener]]
        address = "10.0.0.1:25"
        allow = ["0.0.0.0/0"]
        [provider.p]
        kind = "custom"
        token_url = "http://example.com/token"
        client_secret = { file = "/nonexistent" }
        [account.a]
        provider = "q"
        mailbox = "nobody"
        transport = "graph"
        [account.a.smtp]
        host = "mail.example.com"
        tls = "none"
        auth = "password"
        password = "canary"
        [queue]
        lifetime = "5 weeks"
        "#,
    )
    .unwrap_err();
    for (key, word) in [
        ("hostnam", "did you mean \"hostname\""),
        ("listener[0].tls = \"startls\"", "\"starttls\""),
        ("listener[0].allow", "auth = \"required\""),
        ("listener[1].allow = \"0.0.0.0/0\"", "open relay"),
        ("provider.p.client_id", "set it"),
        ("provider.p.token_url", "https://"),
        ("provider.p.client_secret = (secret)", "/nonexistent"),
        ("account.a.provider = \"q\"", "no such provider"),
        ("account.a.mailbox = \"nobody\"", "not a mail address"),
        ("account.a.transport = \"graph\"", "not in this version yet"),
        ("account.a.smtp.tls", "in clear"),
        ("queue.lifetime", "duration"),
    ] {
        let told = problems
            .iter()
            .any(|p| p.starts_with(key) && p.contains(word));
        assert!(told, "{key}: {word} is missing in {problems:#?}");
    }
    assert!(!problems.concat().contains("canary"), "a secret was shown");
}
