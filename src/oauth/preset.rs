//! What is known of each provider, as data: URLs, scopes, smarthost, limits.
//!
//! Vendors change these; nothing here is logic, and every field can be overridden in the
//! configuration.

use serde::{Deserialize, Serialize};
use url::Url;

use super::{ClientAuthentication, Grant, Kind};

/// Microsoft's separate clouds; applications, tokens and users do not cross them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cloud {
    /// Worldwide, and US Government GCC.
    #[default]
    Global,
    /// US Government GCC High.
    UsGovHigh,
    /// US Government DoD.
    UsGovDod,
    /// China, operated by 21Vianet.
    China,
}

/// When TLS begins at a preset smarthost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SmtpTls {
    /// After STARTTLS.
    Starttls,
    /// At once.
    Implicit,
}

/// A provider's submission server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Smtp {
    /// Host name.
    pub host: &'static str,
    /// Port.
    pub port: u16,
    /// When TLS begins.
    pub tls: SmtpTls,
    /// SASL mechanism, as the configuration names it.
    pub auth: &'static str,
}

/// A pace that stays under the provider's published limits for one mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// Messages a minute; none published: none.
    pub messages_per_minute: Option<u32>,
    /// Recipients in 24 hours; none published: none.
    pub recipients_per_day: Option<u32>,
}

/// What a profile and its accounts are filled with where the configuration is silent.
#[derive(Debug, Clone, PartialEq)]
pub struct Preset {
    /// Where a person consents.
    pub authorization_url: Option<Url>,
    /// Where tokens come from; none: the configuration must say.
    pub token_url: Option<Url>,
    /// RFC 8628.
    pub device_authorization_url: Option<Url>,
    /// RFC 7009.
    pub revocation_url: Option<Url>,
    /// Scope asked for at sign-in.
    pub scope: String,
    /// How the client authenticates.
    pub client_authentication: ClientAuthentication,
    /// The smarthost; none: the configuration must say.
    pub smtp: Option<Smtp>,
    /// Pace.
    pub limits: Limits,
}

/// A Microsoft cloud's hosts.
struct CloudHosts {
    login: &'static str,
    /// Resource that delegated SMTP scopes name.
    outlook: &'static str,
    /// Resource that app-only scopes name.
    outlook_app: &'static str,
    smtp: &'static str,
}

const fn hosts(cloud: Cloud) -> CloudHosts {
    match cloud {
        Cloud::Global => CloudHosts {
            login: "https://login.microsoftonline.com",
            outlook: "https://outlook.office.com",
            outlook_app: "https://outlook.office365.com",
            smtp: "smtp.office365.com",
        },
        Cloud::UsGovHigh => CloudHosts {
            login: "https://login.microsoftonline.us",
            outlook: "https://outlook.office365.us",
            outlook_app: "https://outlook.office365.us",
            smtp: "smtp.office365.us",
        },
        Cloud::UsGovDod => CloudHosts {
            login: "https://login.microsoftonline.us",
            outlook: "https://outlook.office365.us",
            outlook_app: "https://outlook.office365.us",
            smtp: "outlook-dod.office365.us",
        },
        Cloud::China => CloudHosts {
            login: "https://login.partner.microsoftonline.cn",
            outlook: "https://partner.outlook.cn",
            outlook_app: "https://partner.outlook.cn",
            smtp: "smtp.partner.outlook.cn",
        },
    }
}

/// Hosts of Microsoft Graph: a token for one of them opens no SMTP session.
const GRAPH_HOSTS: [&str; 4] = [
    "graph.microsoft.com",
    "graph.microsoft.us",
    "dod-graph.microsoft.us",
    "microsoftgraph.chinacloudapi.cn",
];

/// Google's one scope for SMTP.
const GOOGLE_MAIL: &str = "https://mail.google.com/";

/// Microsoft: 3 connections, 30 messages a minute, 10 000 recipients a day.
const MICROSOFT_LIMITS: Limits = Limits {
    connections: 2,
    messages_per_minute: Some(25),
    recipients_per_day: Some(9_500),
};

/// Google Workspace: 2 000 messages a day; nothing published about connections or pace.
const GOOGLE_LIMITS: Limits = Limits {
    connections: 2,
    messages_per_minute: None,
    recipients_per_day: Some(2_000),
};

/// A server nobody described: gentle, but no quota invented.
const CUSTOM_LIMITS: Limits = Limits {
    connections: 2,
    messages_per_minute: None,
    recipients_per_day: None,
};

/// What is known of a provider. `cloud` and `tenant` matter to Microsoft alone; a tenant is a
/// GUID, a domain, or `common`, `organizations`, `consumers`.
#[must_use]
pub fn preset(kind: Kind, cloud: Cloud, tenant: &str) -> Preset {
    match kind {
        Kind::Microsoft => microsoft(&hosts(cloud), tenant),
        Kind::Google => google(),
        Kind::Custom => Preset {
            authorization_url: None,
            token_url: None,
            device_authorization_url: None,
            revocation_url: None,
            scope: String::new(),
            client_authentication: ClientAuthentication::Basic,
            smtp: None,
            limits: CUSTOM_LIMITS,
        },
    }
}

fn microsoft(hosts: &CloudHosts, tenant: &str) -> Preset {
    let endpoint = |name: &str| {
        let mut url = Url::parse(hosts.login).ok()?;
        // Segment by segment: a tenant cannot leave its place in the path.
        url.path_segments_mut()
            .ok()?
            .extend([tenant, "oauth2", "v2.0", name]);
        Some(url)
    };
    Preset {
        authorization_url: endpoint("authorize"),
        token_url: endpoint("token"),
        device_authorization_url: endpoint("devicecode"),
        // Entra ID has no RFC 7009 endpoint.
        revocation_url: None,
        scope: format!("offline_access {}/SMTP.Send", hosts.outlook),
        client_authentication: ClientAuthentication::Post,
        smtp: Some(Smtp {
            host: hosts.smtp,
            port: 587,
            tls: SmtpTls::Starttls,
            auth: "xoauth2",
        }),
        limits: MICROSOFT_LIMITS,
    }
}

fn google() -> Preset {
    let url = |text: &str| Url::parse(text).ok();
    Preset {
        authorization_url: url("https://accounts.google.com/o/oauth2/v2/auth"),
        token_url: url("https://oauth2.googleapis.com/token"),
        device_authorization_url: url("https://oauth2.googleapis.com/device/code"),
        revocation_url: url("https://oauth2.googleapis.com/revoke"),
        scope: GOOGLE_MAIL.to_owned(),
        client_authentication: ClientAuthentication::Post,
        smtp: Some(Smtp {
            host: "smtp.gmail.com",
            port: 465,
            tls: SmtpTls::Implicit,
            auth: "xoauth2",
        }),
        limits: GOOGLE_LIMITS,
    }
}

/// What else the authorization request carries. Google gives a refresh token only when asked for
/// offline access, and again only when consent is asked again; Microsoft silently takes whoever is
/// signed in to the browser unless told to let the person choose.
pub(super) fn authorize_parameters(kind: Kind) -> &'static [(&'static str, &'static str)] {
    match kind {
        Kind::Microsoft => &[("prompt", "select_account")],
        Kind::Google => &[("access_type", "offline"), ("prompt", "consent")],
        Kind::Custom => &[],
    }
}

/// The scope sent when a token is asked for without a person: with each refresh, or by client
/// credentials. Empty: none is sent.
///
/// Microsoft issues a token for one resource, and one for Graph opens no SMTP session. Whatever was
/// consented to at sign-in, this names the Outlook resource and no other; a refresh token serves
/// every resource its owner consented to.
#[must_use]
pub fn refresh_scope(kind: Kind, cloud: Cloud, scope: &str, grant: Grant) -> String {
    match (kind, grant) {
        (Kind::Microsoft, Grant::ClientCredentials) => app_scope(scope, hosts(cloud).outlook_app),
        (Kind::Microsoft, Grant::AuthorizationCode | Grant::DeviceCode) => {
            let outlook = hosts(cloud).outlook;
            let Some(wanted) = mail_resource(scope) else {
                return format!("offline_access {outlook}/SMTP.Send");
            };
            let of_it = scope
                .split_ascii_whitespace()
                .filter(|s| resource(s).as_deref() == Some(wanted.as_str()));
            let parts: Vec<&str> = std::iter::once("offline_access").chain(of_it).collect();
            parts.join(" ")
        }
        (_, Grant::ClientCredentials) => scope.to_owned(),
        // RFC 6749 §6: without a scope, what was granted stays granted.
        (Kind::Google | Kind::Custom, Grant::AuthorizationCode | Grant::DeviceCode) => {
            String::new()
        }
    }
}

/// The scope of a client credentials request, from a profile whose `refresh_scope` may have been
/// written for people: Microsoft takes nothing but `{resource}/.default` there (AADSTS1002012).
pub(super) fn credentials_scope(kind: Kind, scope: &str, refresh_scope: &str) -> String {
    if kind != Kind::Microsoft {
        let first = [refresh_scope, scope];
        return first
            .iter()
            .find(|s| !s.is_empty())
            .map_or_else(String::new, ToString::to_string);
    }
    let wanted = mail_resource(refresh_scope).or_else(|| mail_resource(scope));
    let global = hosts(Cloud::Global);
    match wanted {
        // One service under two names; app-only tokens are documented under the second.
        Some(name) if name == global.outlook => format!("{}/.default", global.outlook_app),
        Some(name) => format!("{name}/.default"),
        None => format!("{}/.default", global.outlook_app),
    }
}

fn app_scope(scope: &str, default_resource: &str) -> String {
    let given = scope
        .split_ascii_whitespace()
        .find(|s| s.ends_with("/.default") && resource(s).is_some_and(|name| !is_graph(&name)));
    given.map_or_else(|| format!("{default_resource}/.default"), str::to_owned)
}

/// Whether the token that a sign-in with `scope` yields opens another resource than
/// `refresh_scope` names, so that it is worth nothing and one for the right resource must be got.
pub(super) fn needs_other_resource(kind: Kind, scope: &str, refresh_scope: &str) -> bool {
    let first = scope.split_ascii_whitespace().find_map(resource);
    kind == Kind::Microsoft && !refresh_scope.is_empty() && first != mail_resource(refresh_scope)
}

/// Whether redeeming the code must name which part of the consent the first token is for: consent
/// may span several resources, a token may not.
pub(super) fn redeems_part(kind: Kind, scope: &str, refresh_scope: &str) -> bool {
    let asked: Vec<&str> = scope.split_ascii_whitespace().collect();
    let mut wanted = refresh_scope.split_ascii_whitespace();
    kind == Kind::Microsoft
        && needs_other_resource(kind, scope, refresh_scope)
        && wanted.all(|part| asked.contains(&part))
}

/// The first resource in a scope that is not Graph.
fn mail_resource(scope: &str) -> Option<String> {
    let mut resources = scope.split_ascii_whitespace().filter_map(resource);
    resources.find(|name| !is_graph(name))
}

/// `https://outlook.office.com` of `https://outlook.office.com/SMTP.Send`; short names such as
/// `offline_access` or Graph's `Mail.Send` have none.
fn resource(scope: &str) -> Option<String> {
    let url = Url::parse(scope).ok()?;
    url.has_host().then(|| url.origin().ascii_serialization())
}

fn is_graph(resource: &str) -> bool {
    GRAPH_HOSTS
        .iter()
        .any(|host| resource.strip_prefix("https://") == Some(host))
}

/// Whether `granted` lacks a permission that Google lets a person untick (its granular consent).
pub(super) fn lacks_google_mail(kind: Kind, asked: &str, granted: Option<&str>) -> bool {
    let has = |scope: &str| scope.split_ascii_whitespace().any(|s| s == GOOGLE_MAIL);
    kind == Kind::Google && has(asked) && granted.is_some_and(|granted| !has(granted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn microsoft_urls_follow_cloud_and_tenant() {
        for (cloud, tenant, token_url) in [
            (
                Cloud::Global,
                "common",
                "https://login.microsoftonline.com/common/oauth2/v2.0/token",
            ),
            (
                Cloud::UsGovDod,
                "t",
                "https://login.microsoftonline.us/t/oauth2/v2.0/token",
            ),
            (
                Cloud::China,
                "t",
                "https://login.partner.microsoftonline.cn/t/oauth2/v2.0/token",
            ),
            (
                Cloud::Global,
                "../x",
                "https://login.microsoftonline.com/..%2Fx/oauth2/v2.0/token",
            ),
        ] {
            let made = preset(Kind::Microsoft, cloud, tenant);
            assert_eq!(made.token_url.unwrap().as_str(), token_url);
        }
    }

    #[test]
    fn every_preset_url_parses() {
        let made = preset(Kind::Google, Cloud::Global, "");
        assert!(made.authorization_url.is_some() && made.token_url.is_some());
        assert!(made.device_authorization_url.is_some() && made.revocation_url.is_some());
    }

    #[test]
    fn a_refresh_names_one_resource_and_never_graph() {
        use Grant::{AuthorizationCode as Person, ClientCredentials as App};
        let outlook = "https://outlook.office.com/SMTP.Send";
        for (cloud, scope, grant, expected) in [
            // The seed's scope signs in for Graph; SMTP needs Outlook.
            (
                Cloud::Global,
                "offline_access https://graph.microsoft.com/.default",
                Person,
                format!("offline_access {outlook}"),
            ),
            (
                Cloud::Global,
                "",
                Person,
                format!("offline_access {outlook}"),
            ),
            (
                Cloud::Global,
                "offline_access Mail.Send SMTP.Send",
                Person,
                format!("offline_access {outlook}"),
            ),
            (
                Cloud::Global,
                "https://graph.microsoft.com/Mail.Send https://outlook.office365.com/SMTP.Send",
                Person,
                "offline_access https://outlook.office365.com/SMTP.Send".to_owned(),
            ),
            (
                Cloud::China,
                "offline_access https://partner.outlook.cn/.default",
                Person,
                "offline_access https://partner.outlook.cn/.default".to_owned(),
            ),
            (
                Cloud::China,
                "",
                Person,
                "offline_access https://partner.outlook.cn/SMTP.Send".to_owned(),
            ),
            (
                Cloud::Global,
                "offline_access https://graph.microsoft.com/.default",
                App,
                "https://outlook.office365.com/.default".to_owned(),
            ),
            (
                Cloud::UsGovHigh,
                "",
                App,
                "https://outlook.office365.us/.default".to_owned(),
            ),
            (
                Cloud::Global,
                "https://outlook.office.com/.default",
                App,
                "https://outlook.office.com/.default".to_owned(),
            ),
        ] {
            let made = refresh_scope(Kind::Microsoft, cloud, scope, grant);
            assert_eq!(made, expected, "{cloud:?} {scope}");
        }
        assert_eq!(
            refresh_scope(Kind::Google, Cloud::Global, GOOGLE_MAIL, Person),
            ""
        );
        assert_eq!(
            refresh_scope(Kind::Custom, Cloud::Global, "mail", App),
            "mail"
        );
    }

    #[test]
    fn client_credentials_ask_for_the_default_of_the_mail_resource() {
        for (scope, refresh, expected) in [
            (
                "",
                "offline_access https://outlook.office.com/SMTP.Send",
                "https://outlook.office365.com/.default",
            ),
            (
                "",
                "https://partner.outlook.cn/.default",
                "https://partner.outlook.cn/.default",
            ),
            (
                "https://graph.microsoft.com/.default",
                "",
                "https://outlook.office365.com/.default",
            ),
        ] {
            assert_eq!(credentials_scope(Kind::Microsoft, scope, refresh), expected);
        }
        assert_eq!(credentials_scope(Kind::Custom, "mail", ""), "mail");
    }

    #[test]
    fn a_graph_sign_in_calls_for_an_outlook_token() {
        let outlook = "offline_access https://outlook.office.com/SMTP.Send";
        let graph = "offline_access https://graph.microsoft.com/.default";
        assert!(needs_other_resource(Kind::Microsoft, graph, outlook));
        assert!(!needs_other_resource(Kind::Microsoft, outlook, outlook));
        assert!(!needs_other_resource(Kind::Custom, "mail", ""));
        // Consent to both: the code is redeemed for the part that sends mail.
        let both = "offline_access https://graph.microsoft.com/Mail.Send \
                    https://outlook.office.com/SMTP.Send";
        assert!(redeems_part(Kind::Microsoft, both, outlook));
        assert!(!redeems_part(Kind::Microsoft, graph, outlook));
        assert!(!redeems_part(Kind::Microsoft, outlook, outlook));
    }
}
