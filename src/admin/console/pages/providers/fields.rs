//! The fields of a provider's form: which there are for a kind of provider, what is in them, and what a
//! form that was sent says. A field's name is its key in the configuration, so that a problem finds its
//! field. Pure.

use serde_json::Value;
use url::Url;

use super::super::account_keys::{
    APPLICATION, AUTO, BROWSER, CA_FILE, CODE, GMAIL, GRAPH, IMPLICIT, MACHINE, SERVICE, SMTP,
    WHO_SIGNS_IN,
};
use crate::{
    admin::{
        console::form::{Field, Posted},
        made::{
            FieldProblem, Given, Input,
            presets::Preset,
            providers::{NewAccount, ProviderInput, SecretsSet},
        },
    },
    mail::AccountName,
    oauth::Kind,
    registry::Settings,
    secret::Secret,
};

/// Where a field stands on the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// What every profile needs.
    Profile,
    /// What few profiles need.
    More,
    /// The first account.
    Account,
}

/// A field of the form.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spec {
    /// Its key in the configuration; those of the first account begin with `account.`.
    pub(super) key: &'static str,
    pub(super) label: &'static str,
    part: Part,
    /// As [`Field::kind`].
    input: &'static str,
    /// Which kinds of provider have it.
    kinds: &'static [Kind],
    pub(super) choices: &'static [(&'static str, &'static str)],
    is_required: bool,
    help: &'static str,
}

const ALL: &[Kind] = &[Kind::Microsoft, Kind::Google, Kind::Custom];
const MICROSOFT: &[Kind] = &[Kind::Microsoft];
const GOOGLE: &[Kind] = &[Kind::Google];
const CUSTOM: &[Kind] = &[Kind::Custom];
const NOT_GOOGLE: &[Kind] = &[Kind::Microsoft, Kind::Custom];

const fn text(key: &'static str, label: &'static str, help: &'static str) -> Spec {
    Spec {
        key,
        label,
        part: Part::Profile,
        input: "text",
        kinds: ALL,
        choices: &[],
        is_required: false,
        help,
    }
}

impl Spec {
    const fn of(self, kinds: &'static [Kind]) -> Self {
        Self { kinds, ..self }
    }

    const fn input(self, input: &'static str) -> Self {
        Self { input, ..self }
    }

    const fn part(self, part: Part) -> Self {
        Self { part, ..self }
    }

    const fn required(self) -> Self {
        Self {
            is_required: true,
            ..self
        }
    }

    const fn choices(self, choices: &'static [(&'static str, &'static str)]) -> Self {
        Self { choices, ..self }
    }

    pub(super) fn is_secret(&self) -> bool {
        self.input == "password"
    }
}

const CLOUDS: &[(&str, &str)] = &[
    ("", "Worldwide (also US Government GCC)"),
    ("us-gov-high", "US Government GCC High"),
    ("us-gov-dod", "US Government DoD"),
    ("china", "China (21Vianet)"),
];
const AUTHENTICATIONS: &[(&str, &str)] = &[
    ("", "As usual for this provider"),
    ("post", "In the form (post)"),
    ("basic", "In an HTTP header (basic)"),
    ("private_key_jwt", "Signed with a key (private_key_jwt)"),
    ("none", "Not at all: a public client (none)"),
];
const ALGORITHMS: &[(&str, &str)] = &[("", "PS256"), ("RS256", "RS256")];
const STARTTLS: &[(&str, &str)] = &[
    ("", "STARTTLS, port 587"),
    IMPLICIT,
    // With a token it must be this machine's.
    ("none", "None (only to this machine)"),
];

/// Every field, in the order of the page.
const SPECS: &[Spec] = &[
    text(
        "name",
        "Name",
        "Yours to choose, as contoso: up to 64 letters, digits and any of . - _ @ +",
    )
    .required(),
    text("description", "Description", "For people: what it is for."),
    text(
        "tenant",
        "Tenant",
        "Your organisation's id (Directory ID) or domain, as contoso.onmicrosoft.com: it fills in the \
         URLs below. Empty: common, for people of any organisation.",
    )
    .of(MICROSOFT),
    text(
        "client_id",
        "Client ID",
        "The application's id, as the provider shows it.",
    )
    .required(),
    text(
        "client_secret",
        "Client Secret",
        "Its value, not its id. A public client has none.",
    )
    .input("password"),
    text(
        "client_secret_expires",
        "Client secret expires",
        "The day the provider shows beside the secret. You are told 30 days before; no provider tells \
         it otherwise.",
    )
    .input("date"),
    text(
        "issuer",
        "Issuer",
        "What the provider calls itself, as https://id.example.com/realms/mail. If it publishes its \
         endpoints (OpenID Connect discovery), the URLs below can stay empty.",
    )
    .of(CUSTOM)
    .input("url"),
    text(
        "authorization_url",
        "Authentication URL",
        "Where a person signs in and consents.",
    )
    .input("url"),
    text("token_url", "Token URL", "Where tokens come from.").input("url"),
    text(
        "redirect_url",
        "Redirect URL",
        "Where the provider sends the browser back to, octet by octet as registered there: \
         http://localhost:PORT/authorization/smtp_oauth/, or https with a certificate for a real name \
         or address.",
    )
    .input("url"),
    text(
        "scope",
        "Scope",
        "What is asked for at sign-in. \"offline_access https://graph.microsoft.com/.default\" is \
         taken as well: the right token for SMTP is then asked for by itself.",
    )
    .of(MICROSOFT),
    text(
        "scope",
        "Scope",
        "What is asked for at sign-in, separated by blanks.",
    )
    .of(GOOGLE),
    text(
        "scope",
        "Scope",
        "What is asked for at sign-in, separated by blanks: the provider's word for sending by SMTP, \
         and often offline_access.",
    )
    .of(CUSTOM),
    text(
        "cloud",
        "Cloud",
        "Applications and mailboxes of one do not work in another.",
    )
    .of(MICROSOFT)
    .part(Part::More)
    .choices(CLOUDS),
    text(
        "device_authorization_url",
        "Device authorization URL",
        "Where device codes come from.",
    )
    .of(NOT_GOOGLE)
    .part(Part::More)
    .input("url"),
    text(
        "client_authentication",
        "Client authentication",
        "How the application proves itself at the token URL.",
    )
    .part(Part::More)
    .choices(AUTHENTICATIONS),
    text(
        "client_certificate_file",
        "Client certificate file",
        "In place of a secret: a certificate (PEM) or a PKCS#12 file, by its path on the relay's machine.",
    )
    .part(Part::More),
    text(
        "client_key_file",
        "Client key file",
        "Its private key (PEM), if it is not in the same file.",
    )
    .part(Part::More),
    text(
        "client_key_password",
        "Client key password",
        "Opens a PKCS#12 file.",
    )
    .part(Part::More)
    .input("password"),
    text(
        "client_assertion_algorithm",
        "Client assertion algorithm",
        "How the key signs.",
    )
    .part(Part::More)
    .choices(ALGORITHMS),
    text(
        "service_account_file",
        "Service account file",
        "Google's JSON key of a service account with domain-wide delegation, by its path on the \
         relay's machine.",
    )
    .of(GOOGLE)
    .part(Part::More),
    text(
        "ca_file",
        "CA file",
        "Certificates (PEM) trusted for the provider besides the system's, by path.",
    )
    .part(Part::More),
    text(
        "proxy",
        "Proxy",
        "The HTTP proxy to the provider, as http://proxy.example.com:3128. Kept like a secret: it may \
         hold a password.",
    )
    .part(Part::More)
    .input("password"),
    text(
        "account.name",
        "Account name",
        "Yours to choose, as alerts: up to 64 letters, digits and any of . - _ @ +",
    )
    .part(Part::Account)
    .required(),
    text(
        "account.mailbox",
        "Mailbox",
        "The address that mail is sent as. Sign in as this mailbox.",
    )
    .part(Part::Account)
    .input("email")
    .required(),
    text(
        "account.sign_in_user",
        "Who signs in",
        WHO_SIGNS_IN,
    )
    .part(Part::Account),
    text(
        "account.grant",
        "Sign in with",
        "A browser must reach the redirect URL; a code is entered on any device, as a phone. Nobody: \
         no person, but your organisation's administrator must allow it.",
    )
    .of(MICROSOFT)
    .part(Part::Account)
    .choices(&[BROWSER, CODE, APPLICATION, MACHINE]),
    text(
        "account.grant",
        "Sign in with",
        "A browser must reach the redirect URL. Google gives no device codes for mail.",
    )
    .of(GOOGLE)
    .part(Part::Account)
    .choices(&[BROWSER, SERVICE]),
    text(
        "account.grant",
        "Sign in with",
        "A browser must reach the redirect URL; a code is entered on any device, as a phone.",
    )
    .of(CUSTOM)
    .part(Part::Account)
    .choices(&[BROWSER, CODE, APPLICATION]),
    text(
        "account.transport",
        "Sends by",
        "Where SMTP AUTH is switched off for the mailbox, mail goes by Microsoft Graph.",
    )
    .of(MICROSOFT)
    .part(Part::Account)
    .choices(&[SMTP, GRAPH, AUTO]),
    text("account.transport", "Sends by", "How mail leaves.")
        .of(GOOGLE)
        .part(Part::Account)
        .choices(&[SMTP, GMAIL, AUTO]),
    text(
        "account.smtp.host",
        "SMTP host",
        "The provider's submission server, as smtp.example.com.",
    )
    .of(CUSTOM)
    .part(Part::Account)
    .required(),
    text(
        "account.smtp.port",
        "SMTP port",
        "Empty: 587, or 465 where TLS begins with the first byte.",
    )
    .of(CUSTOM)
    .part(Part::Account)
    .input("number"),
    text(
        "account.smtp.tls",
        "SMTP TLS",
        "How the connection is protected; the server's certificate is always verified.",
    )
    .of(CUSTOM)
    .part(Part::Account)
    .choices(STARTTLS),
    text(
        "account.smtp.ca_file",
        "SMTP CA file",
        CA_FILE,
    )
    .of(CUSTOM)
    .part(Part::Account),
];

/// The fields of a kind of provider.
pub(super) fn specs(kind: Kind) -> impl Iterator<Item = &'static Spec> {
    SPECS.iter().filter(move |spec| spec.kinds.contains(&kind))
}

/// Those of the profile itself, without its name.
pub(super) fn profile(kind: Kind) -> impl Iterator<Item = &'static Spec> {
    specs(kind).filter(|spec| spec.part != Part::Account && spec.key != "name")
}

/// What a form shows.
pub(super) struct Shown<'a> {
    pub(super) kind: Kind,
    pub(super) preset: &'a Preset,
    pub(super) problems: &'a [FieldProblem],
    pub(super) secrets: Option<SecretsSet>,
    /// What stands in a field.
    pub(super) value: &'a dyn Fn(&str) -> String,
}

impl Shown<'_> {
    /// The fields of a part of the page.
    pub(super) fn fields(&self, part: Part) -> Vec<Field> {
        let of_part = specs(self.kind).filter(|spec| spec.part == part);
        of_part.map(|spec| self.field(spec)).collect()
    }

    fn field(&self, spec: &Spec) -> Field {
        let problem = self.problems.iter().find(|p| field_of(&p.key) == spec.key);
        let placeholder = placeholder(spec.key, self.preset);
        let is_secret = spec.is_secret();
        let mut help = spec.help.to_owned();
        if placeholder.is_some() {
            help.push_str(" Empty: what is shown in grey.");
        }
        if is_secret {
            help.push(' ');
            help.push_str(if is_set(spec.key, self.secrets) {
                "One is set; it is never shown. Empty: it stays."
            } else {
                "None is set."
            });
        }
        let is_name = spec.key == "name";
        Field {
            name: spec.key,
            label: spec.label,
            value: if is_secret {
                String::new()
            } else {
                (self.value)(spec.key)
            },
            help,
            error: problem.map(|problem| format!("{}; {}", problem.what, problem.remedy)),
            kind: spec.input,
            autocomplete: if is_secret { "new-password" } else { "off" },
            choices: spec.choices.to_vec(),
            // A choice is always made. Without a preset nobody else knows the redirect URL.
            is_required: spec.is_required
                || !spec.choices.is_empty()
                || (spec.key == "redirect_url" && self.preset.redirect_url.is_none()),
            is_first: false,
            is_read_only: is_name && self.secrets.is_some(),
            placeholder: placeholder.unwrap_or_default(),
        }
    }
}

/// Which field a problem is shown at.
pub(super) fn field_of(key: &str) -> &str {
    match key {
        "account" => "account.name",
        key => key,
    }
}

/// What holds where a field is empty.
fn placeholder(key: &str, preset: &Preset) -> Option<String> {
    let url = |url: &Option<Url>| url.as_ref().map(Url::to_string);
    match key {
        "authorization_url" => url(&preset.authorization_url),
        "token_url" => url(&preset.token_url),
        "device_authorization_url" => url(&preset.device_authorization_url),
        "redirect_url" => url(&preset.redirect_url),
        "scope" => Some(preset.scope.clone()).filter(|scope| !scope.is_empty()),
        _ => None,
    }
}

/// Whether there is this secret.
pub(super) fn is_set(key: &str, secrets: Option<SecretsSet>) -> bool {
    secrets.is_some_and(|secrets| match key {
        "client_secret" => secrets.client_secret_set,
        "client_key_password" => secrets.client_key_password_set,
        "proxy" => secrets.proxy_set,
        _ => false,
    })
}

/// The text of a key of settings, dotted; empty: there is none.
pub(super) fn written(settings: &Settings, key: &str) -> String {
    let mut parts = key.split('.');
    let first = parts.next().and_then(|part| settings.get(part));
    let value = parts.fold(first, |value, part| value?.get(part));
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(value @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_))) => {
            value.to_string()
        }
    }
}

/// What a form that was sent says. `before`: the keys of the profile as they are; those that the form
/// does not have stay. `with_account`: the form also had the first account's fields.
pub(super) fn input(
    posted: &Posted,
    (kind, preset): (Kind, &Preset),
    before: Settings,
    with_account: bool,
) -> ProviderInput {
    let mut sent = ProviderInput {
        input: Input {
            settings: before,
            ..Input::default()
        },
        account: with_account.then(NewAccount::default),
        sign_in_as: Some(posted.text("sign_in_as"))
            .filter(|name| !name.is_empty())
            .map(AccountName::new),
        device: posted.text("device") == "yes",
    };
    for spec in specs(kind) {
        let text = posted.text(spec.key);
        match (spec.part, spec.key.strip_prefix("account.")) {
            (Part::Account, Some(key)) => {
                if let Some(account) = &mut sent.account {
                    put_account(account, key, text);
                }
            }
            (Part::Profile | Part::More, _) if spec.is_secret() => {
                let given = if !text.is_empty() {
                    Given::Set(Secret::new(text))
                } else if posted.text("forget") == spec.key {
                    Given::Clear
                } else {
                    continue;
                };
                sent.input.secrets.insert(spec.key.to_owned(), given);
            }
            (Part::Profile | Part::More | Part::Account, _) if spec.key != "name" => {
                sent.input.settings.remove(spec.key);
                if !text.is_empty() && !is_preset(spec.key, text, preset) {
                    sent.input.settings.insert(spec.key.to_owned(), text.into());
                }
            }
            (Part::Profile | Part::More | Part::Account, _) => {}
        }
    }
    let word = serde_json::to_value(kind).unwrap_or_default();
    sent.input.settings.insert("kind".to_owned(), word);
    sent
}

/// A URL that is known anyway is not written: the profile then follows its tenant, and all that is
/// known of the provider beside its URLs goes on holding.
fn is_preset(key: &str, text: &str, preset: &Preset) -> bool {
    let known = match key {
        "authorization_url" => &preset.authorization_url,
        "token_url" => &preset.token_url,
        "device_authorization_url" => &preset.device_authorization_url,
        _ => return false,
    };
    known.is_some() && Url::parse(text).ok() == *known
}

fn put_account(account: &mut NewAccount, key: &str, text: &str) {
    if key == "name" {
        text.clone_into(&mut account.name);
    } else if !text.is_empty() {
        // What is no number is told as such, with the rest.
        let number = text.parse::<u64>().ok().filter(|_| key == "smtp.port");
        let value = number.map_or_else(|| Value::from(text), Value::from);
        match key.split_once('.') {
            None => {
                account.settings.insert(key.to_owned(), value);
            }
            Some((section, key)) => {
                let inner = account.settings.entry(section);
                let inner = inner.or_insert_with(|| Value::Object(Settings::new()));
                if let Some(inner) = inner.as_object_mut() {
                    inner.insert(key.to_owned(), value);
                }
            }
        }
    }
}
