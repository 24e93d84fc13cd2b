//! `[provider.*]` and `[account.*]`: filled from the presets where silent, checked against each
//! other.

use std::{collections::BTreeMap, path::PathBuf};

use url::Url;

use super::{Problem, refuse, section::Section};
use crate::{
    delivery::{self, Auth, Limits, Smarthost, Tls},
    mail::{AccountName, Address},
    oauth::{
        self, ClientAuthentication, Grant, Kind, Provider,
        preset::{Cloud, Preset, SmtpTls, preset, refresh_scope},
    },
};

const REDIRECT: &str = "http://localhost:8025/authorization/smtp_oauth/";
/// A plain smarthost publishes no limit; so many connections keep a fast one busy.
const SMARTHOST_CONNECTIONS: usize = 20;
const SUBMISSION_PORT: u16 = 587;

struct Profile {
    provider: Provider,
    preset: Preset,
    cloud: Cloud,
    tenant: String,
    scope_given: bool,
}

pub(super) fn read(
    root: &mut Section,
    problems: &mut Vec<Problem>,
    key: oauth::Key,
) -> (oauth::Config, Vec<delivery::Account>) {
    let mut profiles = BTreeMap::new();
    for (name, mut section) in root.named("provider", problems) {
        if let Some(profile) = profile(&mut section, problems) {
            profiles.insert(name, profile);
        }
        section.finish(problems);
    }
    let mut accounts = Vec::new();
    let mut tokens = BTreeMap::new();
    for (name, mut section) in root.named("account", problems) {
        let name = AccountName::new(&name);
        if let Some((account, token)) = account(&name, &mut section, problems, &mut profiles) {
            accounts.push(account);
            tokens.extend(token.map(|t| (name, t)));
        }
        section.finish(problems);
    }
    let providers = profiles
        .into_iter()
        .map(|(name, p)| (name, p.provider))
        .collect();
    (
        oauth::Config {
            providers,
            accounts: tokens,
            key,
        },
        accounts,
    )
}

fn profile(s: &mut Section, problems: &mut Vec<Problem>) -> Option<Profile> {
    let kinds = [
        ("microsoft", Kind::Microsoft),
        ("google", Kind::Google),
        ("custom", Kind::Custom),
    ];
    let kind = s.choice("kind", problems, &kinds);
    let clouds = [
        ("global", Cloud::Global),
        ("us-gov-high", Cloud::UsGovHigh),
        ("us-gov-dod", Cloud::UsGovDod),
        ("china", Cloud::China),
    ];
    let cloud = s.choice("cloud", problems, &clouds).unwrap_or_default();
    let tenant = s
        .text("tenant", problems)
        .unwrap_or_else(|| "common".to_owned());
    let description = s.text("description", problems).unwrap_or_default();
    let client_id = s.text("client_id", problems);
    let client_secret = s.secret("client_secret", problems);
    refuse(s, "client_certificate_file", &[], problems);
    refuse(s, "client_key_file", &[], problems);
    let preset = preset(kind.unwrap_or(Kind::Custom), cloud, &tenant);
    let authorization = url(s, "authorization_url", problems);
    let token = url(s, "token_url", problems).or_else(|| preset.token_url.clone());
    let device = url(s, "device_authorization_url", problems);
    let redirect = url(s, "redirect_url", problems).or_else(|| REDIRECT.parse().ok());
    let scope = s.text("scope", problems);
    let ways = [
        ("basic", ClientAuthentication::Basic),
        ("post", ClientAuthentication::Post),
        ("none", ClientAuthentication::None),
    ];
    let client_authentication = s.choice("client_authentication", problems, &ways);
    let ca_file = s.text("ca_file", problems).map(PathBuf::from);
    for (key, missing) in [
        ("kind", kind.is_none()),
        ("client_id", client_id.is_none()),
        ("token_url", kind == Some(Kind::Custom) && token.is_none()),
    ] {
        if missing {
            problems.push(s.problem(key, "(missing)", "a provider needs it", "set it"));
        }
    }
    let default_way = match client_secret {
        Some(_) => preset.client_authentication,
        None => ClientAuthentication::None,
    };
    let provider = Provider {
        kind: kind?,
        description,
        client_id: client_id?,
        client_secret,
        client_authentication: client_authentication.unwrap_or(default_way),
        authorization_url: authorization.or_else(|| preset.authorization_url.clone()),
        token_url: token?,
        device_authorization_url: device.or_else(|| preset.device_authorization_url.clone()),
        revocation_url: preset.revocation_url.clone(),
        redirect_url: redirect?,
        scope: scope.clone().unwrap_or_else(|| preset.scope.clone()),
        refresh_scope: String::new(),
        ca_file,
    };
    Some(Profile {
        provider,
        preset,
        cloud,
        tenant,
        scope_given: scope.is_some(),
    })
}

/// A URL that secrets may be sent to.
fn url(s: &mut Section, key: &'static str, problems: &mut Vec<Problem>) -> Option<Url> {
    let url: Url = s.parsed(key, problems, |t| t.parse().ok(), "a URL: \"https://..\"")?;
    let safe = url.scheme() == "https"
        || (url.scheme() == "http" && url.host_str().is_some_and(is_loopback));
    if !safe {
        let what = "secrets would cross the network in clear";
        problems.push(s.problem(key, format!("\"{url}\""), what, "use https://"));
    }
    Some(url)
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

fn account(
    name: &AccountName,
    s: &mut Section,
    problems: &mut Vec<Problem>,
    profiles: &mut BTreeMap<String, Profile>,
) -> Option<(delivery::Account, Option<oauth::Account>)> {
    let provider = s.text("provider", problems);
    let mailbox = s.text("mailbox", problems);
    match &mailbox {
        None => problems.push(s.problem(
            "mailbox",
            "(missing)",
            "an account sends as a mailbox",
            "set it: \"alerts@contoso.com\"",
        )),
        Some(text) if Address::parse(text).is_err() => problems.push(s.problem(
            "mailbox",
            format!("{text:?}"),
            "not a mail address",
            "use \"alerts@contoso.com\"",
        )),
        Some(_) => {}
    }
    let mailbox = mailbox.unwrap_or_default();
    let grant = grant(s, problems);
    refuse(s, "transport", &["smtp"], problems);
    refuse(s, "fallback", &[], problems);
    let mut sender = s.section("sender", problems);
    refuse(&mut sender, "rewrite", &["never"], problems);
    refuse(&mut sender, "display_name", &[], problems);
    refuse(&mut sender, "reply_to_original", &["true"], problems);
    sender.finish(problems);
    let profile = provider.as_ref().and_then(|name| profiles.get_mut(name));
    if let (Some(name), None) = (&provider, &profile) {
        let remedy = format!("add [provider.{name}], or mend the name");
        problems.push(s.problem("provider", format!("{name:?}"), "no such provider", &remedy));
    }
    let preset = profile.as_ref().map(|p| p.preset.clone());
    let smtp_section = s.section("smtp", problems);
    let limits_section = s.section("limits", problems);
    let smtp = smarthost(smtp_section, problems, preset.as_ref(), &mailbox);
    let limits = limits(limits_section, problems, preset.as_ref());
    let smtp = smtp?;
    let needs_token = matches!(smtp.auth, Auth::Xoauth2 { .. } | Auth::OauthBearer { .. });
    if needs_token && provider.is_none() {
        let remedy = "set provider, or smtp.auth = \"password\" or \"none\"";
        problems.push(s.problem("provider", "(missing)", "OAuth needs a provider", remedy));
    }
    let kind = profile.as_ref().map_or(Kind::Custom, |p| p.provider.kind);
    if let Some(profile) = profile {
        fit(profile, grant, s, problems);
    }
    let token = provider
        .filter(|_| needs_token)
        .map(|provider| oauth::Account {
            provider,
            mailbox: mailbox.clone(),
            grant,
        });
    let account = delivery::Account {
        name: name.clone(),
        mailbox,
        kind,
        smtp,
        limits,
    };
    Some((account, token))
}

fn grant(s: &mut Section, problems: &mut Vec<Problem>) -> Grant {
    let words = [
        ("authorization_code", Some(Grant::AuthorizationCode)),
        ("device_code", Some(Grant::DeviceCode)),
        ("client_credentials", Some(Grant::ClientCredentials)),
        ("service_account", None),
        ("workload_identity", None),
        ("managed_identity", None),
    ];
    match s.choice("grant", problems, &words) {
        Some(Some(grant)) => grant,
        None => Grant::AuthorizationCode,
        Some(None) => {
            let remedy = "use \"authorization_code\", \"device_code\" or \"client_credentials\"";
            problems.push(s.problem("grant", "..", "not in this version yet", remedy));
            Grant::AuthorizationCode
        }
    }
}

/// What the account's grant asks of its provider.
fn fit(profile: &mut Profile, grant: Grant, s: &Section, problems: &mut Vec<Problem>) {
    let provider = &mut profile.provider;
    let scope = if profile.scope_given {
        provider.scope.as_str()
    } else {
        ""
    };
    if provider.refresh_scope.is_empty() {
        // The preset's own sign-in scope names the resource where the profile says nothing.
        let scope = if scope.is_empty() {
            provider.scope.clone()
        } else {
            scope.to_owned()
        };
        let grant = match grant {
            // A profile serves people and programs; the latter's scope is derived at use.
            Grant::ClientCredentials => Grant::AuthorizationCode,
            other => other,
        };
        provider.refresh_scope = refresh_scope(provider.kind, profile.cloud, &scope, grant);
    }
    let concrete = !["common", "organizations", "consumers"].contains(&profile.tenant.as_str());
    let app_only = grant == Grant::ClientCredentials;
    if app_only && provider.kind == Kind::Microsoft && !concrete {
        let remedy = "set the provider's tenant to its domain or id";
        let value = "\"client_credentials\"";
        problems.push(s.problem("grant", value, "needs a concrete tenant", remedy));
    }
    if grant == Grant::DeviceCode && provider.device_authorization_url.is_none() {
        let remedy = "set the provider's device_authorization_url, or use another grant";
        let what = "the provider offers no device code for mail";
        problems.push(s.problem("grant", "\"device_code\"", what, remedy));
    }
    if grant == Grant::AuthorizationCode && provider.authorization_url.is_none() {
        let remedy = "set the provider's authorization_url";
        let what = "nowhere to sign in";
        problems.push(s.problem("grant", "\"authorization_code\"", what, remedy));
    }
}

fn smarthost(
    mut s: Section,
    problems: &mut Vec<Problem>,
    preset: Option<&Preset>,
    mailbox: &str,
) -> Option<Smarthost> {
    let known = preset.and_then(|p| p.smtp.as_ref());
    let host = s
        .text("host", problems)
        .or_else(|| known.map(|k| k.host.to_owned()));
    if host.is_none() {
        let remedy = "set it to the provider's submission server";
        problems.push(s.problem("host", "(missing)", "no smarthost", remedy));
    }
    let port = s
        .number("port", problems)
        .or(known.map(|k| k.port))
        .unwrap_or(SUBMISSION_PORT);
    let tls = [
        ("starttls", Tls::Starttls),
        ("implicit", Tls::Implicit),
        ("none", Tls::None),
    ];
    let tls = s
        .choice("tls", problems, &tls)
        .unwrap_or(match known.map(|k| k.tls) {
            Some(SmtpTls::Implicit) => Tls::Implicit,
            Some(SmtpTls::Starttls) | None => Tls::Starttls,
        });
    let username = s
        .text("username", problems)
        .unwrap_or_else(|| mailbox.to_owned());
    let password = s.secret("password", problems);
    let words = [
        ("xoauth2", 0),
        ("oauthbearer", 1),
        ("password", 2),
        ("none", 3),
    ];
    let auth = match s.choice("auth", problems, &words).unwrap_or(0) {
        0 => Auth::Xoauth2 { username },
        1 => Auth::OauthBearer { username },
        3 => Auth::None,
        _ => match password {
            Some(password) => Auth::Password { username, password },
            None => {
                let remedy = "set password = { file = \"..\" }";
                problems.push(s.problem("password", "(missing)", "auth needs it", remedy));
                Auth::None
            }
        },
    };
    let ca_file = s.text("ca_file", problems).map(PathBuf::from);
    let clear = tls == Tls::None && auth != Auth::None;
    if clear && !host.as_deref().is_some_and(is_loopback) {
        let what = "credentials would cross the network in clear";
        problems.push(s.problem("tls", "\"none\"", what, "use \"starttls\" or \"implicit\""));
    }
    s.finish(problems);
    Some(Smarthost {
        host: host?,
        port,
        tls,
        auth,
        ca_file,
    })
}

fn limits(mut s: Section, problems: &mut Vec<Problem>, preset: Option<&Preset>) -> Limits {
    let preset = preset.filter(|p| p.smtp.is_some()).map(|p| p.limits);
    let limits = Limits {
        connections: s
            .number("connections", problems)
            .filter(|n| *n > 0)
            .unwrap_or(preset.map_or(SMARTHOST_CONNECTIONS, |p| p.connections)),
        messages_per_minute: s
            .number("messages_per_minute", problems)
            .filter(|n| *n > 0)
            .or(preset.and_then(|p| p.messages_per_minute)),
        recipients_per_day: s
            .number("recipients_per_day", problems)
            .filter(|n| *n > 0)
            .or(preset.and_then(|p| p.recipients_per_day)),
    };
    s.finish(problems);
    limits
}
