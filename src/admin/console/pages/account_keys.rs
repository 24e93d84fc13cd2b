//! The keys of an account that its form has, and their way from text to the configuration's values and
//! back. Pure.

use serde_json::Value;

use crate::{
    admin::{console::form::Posted, made::FieldProblem},
    registry::Settings,
};

/// The only secret.
pub(super) const PASSWORD: &str = "smtp.password";

/// What a key's value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Number,
    /// `true` or `false`.
    Flag,
    /// Apart by commas or blanks.
    List,
    /// Goes in, and does not come out.
    Secret,
    /// The name of a provider.
    Provider,
    /// The name of an account.
    Account,
}

/// A key of the form.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key {
    /// Dotted, as in the configuration; `name` is the account's own.
    pub(super) name: &'static str,
    pub(super) label: &'static str,
    pub(super) help: &'static str,
    pub(super) kind: Kind,
    /// Values and labels; empty: free text.
    pub(super) choices: &'static [(&'static str, &'static str)],
}

const fn key(kind: Kind, name: &'static str, label: &'static str, help: &'static str) -> Key {
    Key {
        name,
        label,
        help,
        kind,
        choices: &[],
    }
}

const fn choice(
    name: &'static str,
    label: &'static str,
    help: &'static str,
    choices: &'static [(&'static str, &'static str)],
) -> Key {
    Key {
        choices,
        ..key(Kind::Text, name, label, help)
    }
}

// What a provider's form asks of its first account as well is worded once.
pub(super) const BROWSER: (&str, &str) = ("", "A browser (authorization_code)");
pub(super) const CODE: (&str, &str) = ("device_code", "A code typed on any device (device_code)");
pub(super) const APPLICATION: (&str, &str) = (
    "client_credentials",
    "Nobody: the application itself (client_credentials)",
);
pub(super) const SERVICE: (&str, &str) = (
    "service_account",
    "Nobody: a service account (service_account)",
);
const WORKLOAD: (&str, &str) = (
    "workload_identity",
    "Nobody: the platform's identity (workload_identity)",
);
pub(super) const MACHINE: (&str, &str) = (
    "managed_identity",
    "Nobody: this Azure machine (managed_identity)",
);
pub(super) const SMTP: (&str, &str) = ("", "SMTP (smtp)");
pub(super) const GRAPH: (&str, &str) = ("graph", "Microsoft Graph (graph)");
pub(super) const GMAIL: (&str, &str) = ("gmail", "The Gmail API (gmail)");
pub(super) const AUTO: (&str, &str) = ("auto", "SMTP, and the API while SMTP is off (auto)");
pub(super) const WHO_SIGNS_IN: &str =
    "Only if it is not the mailbox itself: a person who may send as it, or its user name.";
pub(super) const CA_FILE: &str =
    "Certificates (PEM) trusted for this server besides the system's, by path.";
pub(super) const IMPLICIT: (&str, &str) = ("implicit", "From the first byte, port 465");

/// The form, part by part.
pub(super) const GROUPS: &[(&str, &[Key])] = &[
    (
        "Mailbox",
        &[
            key(
                Kind::Text,
                "name",
                "Account name",
                "Yours to choose, as alerts: up to 64 letters, digits and any of . - _ @ +",
            ),
            key(
                Kind::Text,
                "mailbox",
                "Mailbox",
                "The address that mail is sent as. Needed with a provider.",
            ),
            key(
                Kind::Provider,
                "provider",
                "Provider",
                "The OAuth provider that gives its tokens; none: a plain mail server, with or without a password.",
            ),
            choice(
                "grant",
                "Sign in with",
                "How tokens are obtained from the provider.",
                &[BROWSER, CODE, APPLICATION, SERVICE, WORKLOAD, MACHINE],
            ),
            key(Kind::Text, "sign_in_user", "Who signs in", WHO_SIGNS_IN),
            choice(
                "transport",
                "Sends by",
                "Where the provider has switched SMTP off for the mailbox, mail goes by its API.",
                &[SMTP, GRAPH, GMAIL, AUTO],
            ),
            key(
                Kind::Account,
                "fallback",
                "Fallback",
                "Another account that sends this one's mail while this one cannot.",
            ),
        ],
    ),
    (
        "Mail server",
        &[
            key(
                Kind::Text,
                "smtp.host",
                "SMTP host",
                "The submission server. Microsoft's and Google's are known; needed for others.",
            ),
            key(
                Kind::Number,
                "smtp.port",
                "SMTP port",
                "Empty: 587, or 465 where TLS begins with the first byte, or 25 without it.",
            ),
            choice(
                "smtp.tls",
                "SMTP TLS",
                "How the connection is protected; the server's certificate is always verified.",
                &[
                    ("", "The provider's, else STARTTLS"),
                    ("starttls", "STARTTLS, port 587"),
                    IMPLICIT,
                    ("none", "None"),
                ],
            ),
            choice(
                "smtp.auth",
                "Log-in",
                "With a provider by token; a plain server takes a password, or nothing.",
                &[
                    ("", "Token, XOAUTH2 (the default)"),
                    ("oauthbearer", "Token, OAUTHBEARER"),
                    ("password", "Password"),
                    ("none", "None"),
                ],
            ),
            key(
                Kind::Text,
                "smtp.username",
                "User name",
                "The name to log in with. Default: the mailbox.",
            ),
            key(
                Kind::Secret,
                PASSWORD,
                "Password",
                "For log-in by password only. It is stored encrypted and shown nowhere.",
            ),
            key(Kind::Text, "smtp.ca_file", "SMTP CA file", CA_FILE),
        ],
    ),
    (
        "Senders that are not its own",
        &[
            choice(
                "sender.rewrite",
                "Replace by the mailbox",
                "Choose both for programs and printers that send as root@host.",
                &[
                    ("", "Never (the default)"),
                    ("envelope", "The reverse-path"),
                    ("header", "The author (From)"),
                    ("both", "Both"),
                ],
            ),
            key(
                Kind::Text,
                "sender.display_name",
                "Display name",
                "The name shown with a replaced From.",
            ),
            Key {
                kind: Kind::Flag,
                ..choice(
                    "sender.reply_to_original",
                    "Answers",
                    "Whether answers go to the author who was replaced (Reply-To).",
                    &[
                        ("", "To the original author (the default)"),
                        ("false", "To the mailbox"),
                        ("true", "To the original author"),
                    ],
                )
            },
            key(
                Kind::List,
                "sender.keep",
                "Never replaced",
                "Addresses that the mailbox may send as, apart by commas; * stands for anything.",
            ),
        ],
    ),
    (
        "Pace",
        &[
            key(
                Kind::Number,
                "limits.connections",
                "Connections at once",
                "Default: 2 with a provider, 4 with an API, else 20.",
            ),
            key(
                Kind::Number,
                "limits.messages_per_minute",
                "Messages a minute",
                "0: no limit. Default: Microsoft 27, Gmail API 120, others none.",
            ),
            key(
                Kind::Number,
                "limits.recipients_per_day",
                "Recipients in 24 hours",
                "0: no limit. Default: Microsoft 9500, Google 2000, others none.",
            ),
            key(
                Kind::Number,
                "limits.recipients_per_message",
                "Recipients in one message",
                "Default: Google 100, Microsoft 500, others 1000.",
            ),
        ],
    ),
];

/// Every key of the form.
pub(super) fn all() -> impl Iterator<Item = &'static Key> {
    GROUPS.iter().flat_map(|(_, keys)| keys.iter())
}

impl Key {
    /// The type of its input.
    pub(super) fn input(&self) -> &'static str {
        match self.kind {
            Kind::Number => "number",
            Kind::Secret => "password",
            Kind::Text | Kind::Flag | Kind::List | Kind::Provider | Kind::Account => "text",
        }
    }

    /// Its value as a person types it; empty: not written.
    pub(super) fn shown(&self, settings: &Settings) -> String {
        let value = match self.name.split_once('.') {
            None => settings.get(self.name),
            Some((section, key)) => settings.get(section).and_then(|inner| inner.get(key)),
        };
        match value {
            None | Some(Value::Null | Value::Object(_)) => String::new(),
            Some(_) if self.kind == Kind::Secret => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(Value::Array(list)) => {
                let texts = list.iter().filter_map(Value::as_str);
                texts.collect::<Vec<_>>().join(", ")
            }
            Some(other @ (Value::Bool(_) | Value::Number(_))) => other.to_string(),
        }
    }

    /// What was typed as a value of the configuration; none: there is none.
    fn value(&self, typed: &str) -> Result<Option<Value>, FieldProblem> {
        if typed.is_empty() {
            return Ok(None);
        }
        Ok(Some(match self.kind {
            Kind::Flag => Value::from(typed == "true"),
            Kind::Number => {
                let number: Result<u32, _> = typed.parse();
                Value::from(number.map_err(|_| FieldProblem {
                    value: typed.to_owned(),
                    ..FieldProblem::new(
                        self.name,
                        "is no whole number",
                        "write digits alone, or nothing for the default",
                    )
                })?)
            }
            Kind::List => {
                let parts = typed.split([',', ' ', ';']).map(str::trim);
                parts.filter(|part| !part.is_empty()).collect()
            }
            Kind::Text | Kind::Secret | Kind::Provider | Kind::Account => Value::from(typed),
        }))
    }
}

/// The settings of before with what the form says; keys that the form does not have stay.
///
/// # Errors
/// What is wrong, field by field.
pub(super) fn merged(before: Settings, posted: &Posted) -> Result<Settings, Vec<FieldProblem>> {
    let mut settings = before;
    let mut wrong = Vec::new();
    let written = all().filter(|key| key.kind != Kind::Secret && key.name != "name");
    for key in written {
        match key.value(posted.text(key.name)) {
            Ok(value) => put(&mut settings, key.name, value),
            Err(problem) => wrong.push(problem),
        }
    }
    if wrong.is_empty() {
        Ok(settings)
    } else {
        Err(wrong)
    }
}

/// Sets or takes away one key; a section without keys is none.
fn put(settings: &mut Settings, name: &str, value: Option<Value>) {
    let Some((section, key)) = name.split_once('.') else {
        match value {
            Some(value) => settings.insert(name.to_owned(), value),
            None => settings.remove(name),
        };
        return;
    };
    let inner = settings
        .entry(section.to_owned())
        .or_insert_with(|| Value::Object(Settings::new()));
    if let Some(inner) = inner.as_object_mut() {
        match value {
            Some(value) => inner.insert(key.to_owned(), value),
            None => inner.remove(key),
        };
        if inner.is_empty() {
            settings.remove(section);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;

    fn posted(fields: &[(&str, &str)]) -> Posted {
        Posted::of(fields)
    }

    fn settings(value: &Value) -> Settings {
        value.as_object().unwrap().clone()
    }

    /// What was written comes back as it was, with what the form does not have.
    #[test]
    fn a_form_sent_back_changes_nothing() {
        let before = settings(&json!({
            "mailbox": "alerts@contoso.com", "provider": "contoso", "transport": "auto",
            "smtp": {"host": "mail.example", "port": 25},
            "graph": {"url": "https://graph.example"},
            "sender": {"rewrite": "both", "reply_to_original": false, "keep": ["a@b.example", "*@c.example"]},
            "limits": {"messages_per_minute": 0},
        }));
        let typed: Vec<(&str, String)> = all().map(|key| (key.name, key.shown(&before))).collect();
        let typed: Vec<(&str, &str)> = typed
            .iter()
            .map(|(key, value)| (*key, value.as_str()))
            .collect();
        assert_eq!(merged(before.clone(), &posted(&typed)).unwrap(), before);
        let emptied = merged(before, &posted(&[("mailbox", "x@y.example")])).unwrap();
        let left = json!({"mailbox": "x@y.example", "graph": {"url": "https://graph.example"}});
        assert_eq!(emptied, settings(&left));
    }

    #[test]
    fn a_number_that_is_none_is_told_at_its_field() {
        let wrong = merged(Settings::new(), &posted(&[("smtp.port", "many")])).unwrap_err();
        assert_eq!(
            wrong.first().map(|problem| problem.key.as_str()),
            Some("smtp.port")
        );
    }

    /// A password never comes out, and the form's keys are the configuration's.
    #[test]
    fn keys_are_those_of_the_configuration() {
        let secret = settings(&json!({"smtp": {"password": "hunter2"}}));
        assert!(all().all(|key| key.shown(&secret).is_empty()));
        let reference = include_str!("../../../../config/gatepost.toml");
        let names: BTreeSet<&str> = all().map(|key| key.name).collect();
        assert_eq!(names.len(), all().count(), "each once");
        for name in names.into_iter().filter(|name| *name != "name") {
            let key = name.rsplit('.').next().unwrap();
            assert!(reference.contains(&format!("#{key} = ")), "{name}");
        }
    }
}
