use serde_json::json;

use super::*;

fn settings(value: &Value) -> Settings {
    value.as_object().unwrap().clone()
}

fn input(value: &Value, secrets: &[&str]) -> Result<Input, FieldProblem> {
    Input::of(settings(value), secrets)
}

#[test]
fn secrets_are_taken_out_of_what_was_sent_and_empty_keys_fall_away() {
    let sent = json!({"kind": "google", "scope": null, "client_secret": "canary",
        "smtp": {"host": "h", "password": "canary"}, "limits": {"connections": null}});
    let read = input(&sent, &["client_secret", "smtp.password", "proxy"]).unwrap();
    let wanted = json!({"kind": "google", "smtp": {"host": "h"}});
    assert_eq!(read.settings, settings(&wanted));
    let set = || Given::Set(Secret::new("canary"));
    let secrets = [
        ("client_secret".to_owned(), set()),
        ("smtp.password".to_owned(), set()),
    ];
    assert_eq!(read.secrets, BTreeMap::from(secrets));
    assert!(!format!("{read:?}").contains("canary"));
    for cleared in [json!({"client_secret": null}), json!({"client_secret": ""})] {
        let read = input(&cleared, &["client_secret"]).unwrap();
        assert_eq!(read.secrets["client_secret"], Given::Clear);
        assert!(read.settings.is_empty());
    }
}

/// Whoever may use the console may not thereby run commands or read files here.
#[test]
fn a_secret_is_text_and_no_source_of_one() {
    for source in [
        json!({"client_secret": {"command": ["id"]}}),
        json!({"client_secret": {"file": "/etc/shadow"}}),
        json!({"client_secret": ["a"]}),
        json!({"client_secret": 5}),
    ] {
        let refused = input(&source, &["client_secret"]).unwrap_err();
        assert_eq!(refused.key, "client_secret", "{source}");
        assert!(refused.value.is_empty(), "no value of a secret is shown");
    }
}

#[test]
fn problems_are_told_in_the_keys_of_the_form() {
    let problem = |key: &str| FieldProblem::new(key, "is wrong", "mend it");
    let refused = Refused {
        fields: [
            "provider.a.b.client_id",
            "account.x.limits.connections",
            "provider",
            "listener#1",
        ]
        .map(problem)
        .to_vec(),
        ..Refused::default()
    };
    let form = |section, name, before| Form {
        section,
        name,
        before,
    };
    let forms = [
        form(Section::Provider, "a.b", ""),
        form(Section::Account, "x", "account."),
    ];
    let told = placed(refused, &forms);
    let keys: Vec<&str> = told.fields.iter().map(|field| field.key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "client_id",
            "account.limits.connections",
            "name",
            "listener#1"
        ]
    );
    assert_eq!(told.status, 422);
    assert!(told.to_string().contains("client_id: is wrong; mend it"));
}
