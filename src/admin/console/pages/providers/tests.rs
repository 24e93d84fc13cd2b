use serde_json::json;

use jiff::SignedDuration;

use super::*;
use crate::{
    admin::made::{Given, providers::SecretsSet},
    oauth::preset,
    secret::Secret,
};

const REDIRECT: &str = "http://localhost:8025/authorization/smtp_oauth/";

fn known(kind: Kind) -> Preset {
    let known = preset::preset(kind, preset::Cloud::Global, "contoso.com");
    Preset {
        authorization_url: known.authorization_url,
        token_url: known.token_url,
        device_authorization_url: known.device_authorization_url,
        redirect_url: Url::parse(REDIRECT).ok(),
        scope: known.scope,
        api_scope: None,
        client_authentication: known.client_authentication,
        smtp_host: None,
        smtp_port: None,
    }
}

fn settings(value: &Value) -> Settings {
    value.as_object().unwrap().clone()
}

fn field<'f>(fields: &'f [Field], name: &str) -> &'f Field {
    fields.iter().find(|field| field.name == name).unwrap()
}

/// What a form says is what the API would be sent; a URL that follows from the tenant is not written.
#[test]
fn a_form_is_read_as_the_keys_of_the_configuration() {
    let posted = Posted::of(&[
        ("name", "contoso"),
        ("tenant", " contoso.com "),
        ("client_id", "id"),
        ("client_secret", "canary"),
        (
            "token_url",
            "https://login.microsoftonline.com/contoso.com/oauth2/v2.0/token",
        ),
        ("authorization_url", "https://login.example/authorize"),
        ("redirect_url", REDIRECT),
        ("scope", ""),
        ("issuer", "https://of.another.kind.example"),
        ("account.name", "alerts"),
        ("account.mailbox", "alerts@contoso.com"),
        ("account.grant", "device_code"),
        ("account.smtp.host", "of.another.kind.example"),
    ]);
    let preset = known(Kind::Microsoft);
    let of = (Kind::Microsoft, &preset);
    let sent = fields::input(&posted, of, Settings::new(), true);
    let wanted = json!({"kind": "microsoft", "tenant": "contoso.com", "client_id": "id",
        "authorization_url": "https://login.example/authorize", "redirect_url": REDIRECT});
    assert_eq!(sent.input.settings, settings(&wanted));
    let secret = (
        "client_secret".to_owned(),
        Given::Set(Secret::new("canary")),
    );
    assert_eq!(sent.input.secrets, [secret].into());
    let account = sent.account.unwrap();
    assert_eq!(account.name, "alerts");
    let wanted = json!({"mailbox": "alerts@contoso.com", "grant": "device_code"});
    assert_eq!(account.settings, settings(&wanted));
}

#[test]
fn the_server_of_a_custom_provider_is_the_accounts() {
    let posted = Posted::of(&[
        ("account.name", "alerts"),
        ("account.smtp.host", "mail.example"),
        ("account.smtp.port", "2587"),
    ]);
    let preset = known(Kind::Custom);
    let read = |posted: &Posted| {
        let sent = fields::input(posted, (Kind::Custom, &preset), Settings::new(), true);
        Value::Object(sent.account.unwrap().settings)
    };
    let wanted = json!({"smtp": {"host": "mail.example", "port": 2587}});
    assert_eq!(read(&posted), wanted);
    let posted = Posted::of(&[("account.smtp.port", "many")]);
    assert_eq!(read(&posted), json!({"smtp": {"port": "many"}}));
}

/// An empty secret stays, one is forgotten only when that is said, and what the form does not have is
/// kept.
#[test]
fn what_a_form_does_not_say_stays() {
    let before = json!({"kind": "custom", "client_id": "old", "scope": "s", "extra": 1});
    let preset = known(Kind::Custom);
    let read = |fields: &[(&str, &str)]| {
        let posted = Posted::of(fields);
        fields::input(&posted, (Kind::Custom, &preset), settings(&before), false)
    };
    let sent = read(&[("client_id", "new"), ("account.name", "nobody asked")]);
    let wanted = json!({"kind": "custom", "client_id": "new", "extra": 1});
    assert_eq!(sent.input.settings, settings(&wanted));
    assert!(sent.input.secrets.is_empty() && sent.account.is_none());
    let sent = read(&[("forget", "client_secret"), ("device", "yes")]);
    assert_eq!(sent.input.secrets["client_secret"], Given::Clear);
    assert!(sent.device);
    let sent = read(&[("forget", "client_secret"), ("client_secret", "canary")]);
    assert_ne!(sent.input.secrets["client_secret"], Given::Clear);
}

#[test]
fn fields_show_what_was_typed_but_no_secret_and_what_is_wrong() {
    let problem = FieldProblem::new("account", "is needed", "add one");
    let preset = known(Kind::Microsoft);
    let mut shown = Shown {
        kind: Kind::Microsoft,
        preset: &preset,
        problems: &[problem],
        secrets: None,
        value: &|key| format!("typed {key}"),
    };
    let profile = shown.fields(Part::Profile);
    assert_eq!(field(&profile, "client_id").value, "typed client_id");
    let secret = field(&profile, "client_secret");
    assert_eq!((secret.value.as_str(), secret.kind), ("", "password"));
    assert!(secret.help.ends_with("None is set."), "{}", secret.help);
    let url = field(&profile, "token_url");
    assert!(
        url.placeholder.contains("contoso.com"),
        "{}",
        url.placeholder
    );
    let account = shown.fields(Part::Account);
    let wrong = field(&account, "account.name").error.as_deref();
    assert_eq!(wrong, Some("is needed; add one"));
    assert!(!profile.iter().any(|field| field.is_read_only));

    shown.secrets = Some(SecretsSet {
        client_secret_set: true,
        client_key_password_set: false,
        proxy_set: false,
    });
    let profile = shown.fields(Part::Profile);
    let secret = field(&profile, "client_secret");
    assert!(secret.help.contains("One is set"), "{}", secret.help);
    assert!(field(&profile, "name").is_read_only);
}

/// Each kind has each field once, and what a person is asked for has words that help.
#[test]
fn every_field_has_its_place_and_help() {
    for kind in [Kind::Microsoft, Kind::Google, Kind::Custom] {
        let mut seen = std::collections::BTreeSet::new();
        for spec in fields::specs(kind) {
            assert!(seen.insert(spec.key), "{} twice for {kind:?}", spec.key);
        }
        let preset = known(kind);
        let shown = Shown {
            kind,
            preset: &preset,
            problems: &[],
            secrets: None,
            value: &|_| String::new(),
        };
        for part in [Part::Profile, Part::More, Part::Account] {
            for field in shown.fields(part) {
                assert!(
                    !field.help.is_empty() && !field.label.is_empty(),
                    "{}",
                    field.name
                );
            }
        }
    }
}

#[test]
fn a_profile_has_a_page_whatever_it_is_called() {
    assert_eq!(path("contoso"), "/providers/contoso");
    assert_eq!(path("a+b@c.d"), "/providers/a+b@c.d");
    assert_eq!(path("new"), "/providers/%6Eew");
}

#[test]
fn a_secret_that_ends_soon_is_marked() {
    let now = Timestamp::UNIX_EPOCH;
    let in_hours = |hours| Expires::new(now + SignedDuration::from_hours(hours), now).badge;
    let word = |hours| in_hours(hours).map(|badge| badge.word);
    assert_eq!(word(-1), Some("expired"));
    assert_eq!(word(24 * 12), Some("soon"));
    assert_eq!(word(24 * 31), None);
}

/// What both forms ask of an account is called the same in both, and each choice is one of both.
#[test]
fn an_account_is_asked_for_in_the_same_words() {
    use super::super::account_keys;

    for kind in [Kind::Microsoft, Kind::Google, Kind::Custom] {
        for spec in fields::specs(kind) {
            let Some(name) = spec.key.strip_prefix("account.") else {
                continue;
            };
            let key = account_keys::all().find(|key| key.name == name).unwrap();
            assert_eq!(spec.label, key.label, "{name}");
            if matches!(name, "grant" | "transport") {
                let is_there = |choice| key.choices.contains(choice);
                assert!(spec.choices.iter().all(is_there), "{kind:?} {name}");
            }
        }
    }
}
