//! What is known of each provider, as data: URLs, scopes, smarthost, limits.
//!
//! Vendors change these; nothing here is logic, and every field can be overridden in the
//! configuration.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use url::Url;

use super::{ClientAuthentication, Grant, Kind, Service};

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
    /// What the provider calls itself (`iss`), where it is always the same.
    pub issuer: Option<&'static str>,
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
    /// Microsoft Graph, as resource and as root of its API.
    graph: &'static str,
    smtp: &'static str,
}

const CLOUDS: [Cloud; 4] = [
    Cloud::Global,
    Cloud::UsGovHigh,
    Cloud::UsGovDod,
    Cloud::China,
];

const fn hosts(cloud: Cloud) -> CloudHosts {
    match cloud {
        Cloud::Global => CloudHosts {
            login: "https://login.microsoftonline.com",
            outlook: "https://outlook.office.com",
            outlook_app: "https://outlook.office365.com",
            graph: "https://graph.microsoft.com",
            smtp: "smtp.office365.com",
        },
        Cloud::UsGovHigh => CloudHosts {
            login: "https://login.microsoftonline.us",
            outlook: "https://outlook.office365.us",
            outlook_app: "https://outlook.office365.us",
            graph: "https://graph.microsoft.us",
            smtp: "smtp.office365.us",
        },
        Cloud::UsGovDod => CloudHosts {
            login: "https://login.microsoftonline.us",
            outlook: "https://outlook.office365.us",
            outlook_app: "https://outlook.office365.us",
            graph: "https://dod-graph.microsoft.us",
            smtp: "outlook-dod.office365.us",
        },
        Cloud::China => CloudHosts {
            login: "https://login.partner.microsoftonline.cn",
            outlook: "https://partner.outlook.cn",
            outlook_app: "https://partner.outlook.cn",
            graph: "https://microsoftgraph.chinacloudapi.cn",
            smtp: "smtp.partner.outlook.cn",
        },
    }
}

/// The cloud that a login host belongs to, as `AZURE_AUTHORITY_HOST` names it; `None`: unknown.
#[must_use]
pub fn cloud_of(login: &str) -> Option<Cloud> {
    let login = login.trim_end_matches('/');
    let clouds = CLOUDS.iter().copied();
    clouds
        .into_iter()
        .find(|cloud| hosts(*cloud).login == login)
}

/// Google's one scope for SMTP; it covers the Gmail API as well.
const GOOGLE_MAIL: &str = "https://mail.google.com/";

/// Sending by the Gmail API alone.
const GMAIL_SEND: &str = "https://www.googleapis.com/auth/gmail.send";

/// The root of the Gmail API.
const GMAIL_API: &str = "https://gmail.googleapis.com";

/// Scopes of OpenID Connect: they belong to no resource.
const OIDC_SCOPES: [&str; 4] = ["openid", "profile", "email", "offline_access"];

/// Microsoft: 3 connections, 30 messages a minute, 10 000 recipients a day. No minute sees more than
/// the limit, so that 27 make 25 in the long run.
const MICROSOFT_LIMITS: Limits = Limits {
    connections: 2,
    messages_per_minute: Some(27),
    recipients_per_day: Some(9_500),
};

/// Google Workspace: 2 000 messages a day; nothing published about connections or pace.
const GOOGLE_LIMITS: Limits = Limits {
    connections: 2,
    messages_per_minute: None,
    recipients_per_day: Some(2_000),
};

/// Graph: 4 requests at once for one mailbox and 10 000 in ten minutes; Exchange's own limits hold for
/// it as well.
const GRAPH_LIMITS: Limits = Limits {
    connections: 4,
    messages_per_minute: Some(25),
    recipients_per_day: Some(9_500),
};

/// The Gmail API: 15 000 units a user and minute, of which a message takes 100; and Gmail's daily limit.
const GMAIL_LIMITS: Limits = Limits {
    connections: 4,
    messages_per_minute: Some(120),
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
            issuer: None,
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

/// The pace for mail that goes by an API alone; `None`: as by SMTP.
#[must_use]
pub fn api_limits(kind: Kind, service: Service) -> Option<Limits> {
    match (kind, service) {
        (Kind::Custom, _) | (_, Service::Smtp) => None,
        (Kind::Microsoft | Kind::Google, Service::Graph) => Some(GRAPH_LIMITS),
        (Kind::Microsoft | Kind::Google, Service::Gmail) => Some(GMAIL_LIMITS),
    }
}

/// Where the URLs of a provider's API begin; `None`: the configuration must say.
#[must_use]
pub fn api_url(kind: Kind, cloud: Cloud) -> Option<Url> {
    match kind {
        Kind::Microsoft => Url::parse(hosts(cloud).graph).ok(),
        Kind::Google => Url::parse(GMAIL_API).ok(),
        Kind::Custom => None,
    }
}

/// What is asked for at sign-in when accounts need tokens for `services` and the configuration does
/// not say otherwise. `None`: as the preset has it.
#[must_use]
pub fn scope_for(kind: Kind, cloud: Cloud, services: &BTreeSet<Service>) -> Option<String> {
    let hosts = hosts(cloud);
    let needs = |service| services.contains(&service);
    match kind {
        Kind::Microsoft if needs(Service::Graph) => {
            let smtp = format!("{}/SMTP.Send ", hosts.outlook);
            let smtp = if needs(Service::Smtp) {
                smtp.as_str()
            } else {
                ""
            };
            Some(format!("offline_access {smtp}{}/Mail.Send", hosts.graph))
        }
        Kind::Google if needs(Service::Gmail) && !needs(Service::Smtp) => {
            Some(GMAIL_SEND.to_owned())
        }
        Kind::Microsoft | Kind::Google | Kind::Custom => None,
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
        // It names the tenant of whoever signs in, and answers in the browser do not carry it.
        issuer: None,
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
        issuer: Some("https://accounts.google.com"),
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

/// What is asked for at sign-in: the profile's `scope`, and what makes the provider say who signed
/// in. `offered`: what a discovered issuer lists.
///
/// Microsoft names people in `profile` (what its own libraries always ask for; `email` would be one
/// more consent), Google in `email`. At others a scope with `openid` is taken as it is, and an empty
/// one means the client's own scopes there: asking for more would ask for less.
pub(super) fn sign_in_scope(kind: Kind, scope: &str, offered: &[String]) -> String {
    let known: &[&str] = match kind {
        Kind::Microsoft => &["openid", "profile"],
        Kind::Google => &["openid", "email"],
        Kind::Custom if scope.is_empty() || asks_openid(scope) => &[],
        Kind::Custom => &["openid", "email", "profile"],
    };
    let is_offered = |name: &str| offered.iter().any(|one| one == name);
    let asked: Vec<&str> = scope.split_ascii_whitespace().collect();
    let is_oidc = kind != Kind::Custom || is_offered("openid");
    let more = known.iter().filter(|name| {
        is_oidc && (kind != Kind::Custom || is_offered(name)) && !asked.contains(name)
    });
    let parts: Vec<&str> = asked.iter().chain(more).copied().collect();
    parts.join(" ")
}

/// Whether a request with this scope is one of OpenID Connect.
pub(super) fn asks_openid(scope: &str) -> bool {
    scope.split_ascii_whitespace().any(|part| part == "openid")
}

/// The scope sent when a token for `service` is asked for without a person: with each refresh, or by
/// an application. Empty: none is sent. `scope` is the profile's, asked for at sign-in.
///
/// Microsoft issues a token for one resource, and one for Graph opens no SMTP session. Whatever was
/// consented to at sign-in, this names the resource of the service and no other; a refresh token
/// serves every resource its owner consented to.
#[must_use]
pub fn service_scope(
    kind: Kind,
    cloud: Cloud,
    scope: &str,
    grant: Grant,
    service: Service,
) -> String {
    match (kind, grant.is_unattended()) {
        (Kind::Microsoft, true) => app_scope(scope, cloud, service),
        (Kind::Microsoft, false) => person_scope(scope, cloud, service),
        (Kind::Google, true) => match service {
            Service::Gmail => GMAIL_SEND.to_owned(),
            Service::Smtp | Service::Graph => GOOGLE_MAIL.to_owned(),
        },
        (Kind::Custom, true) => scope.to_owned(),
        // RFC 6749 §6: without a scope, what was granted stays granted.
        (Kind::Google | Kind::Custom, false) => String::new(),
    }
}

/// The parts of `scope` that name the service's resource, else its one permission.
fn person_scope(scope: &str, cloud: Cloud, service: Service) -> String {
    let mut parts = vec!["offline_access".to_owned()];
    let named: Vec<&str> = scope
        .split_ascii_whitespace()
        .filter(|part| resource(part).is_some_and(|resource| belongs(&resource, service)))
        .collect();
    // One service under two names: those of the first that is named.
    let first = named.first().and_then(|part| resource(part));
    let of_it = named.iter().filter(|part| resource(part) == first);
    parts.extend(of_it.map(ToString::to_string));
    if first.is_none() {
        let hosts = hosts(cloud);
        parts.push(match service {
            Service::Graph => format!("{}/Mail.Send", hosts.graph),
            Service::Smtp | Service::Gmail => format!("{}/SMTP.Send", hosts.outlook),
        });
    }
    parts.join(" ")
}

/// Microsoft takes nothing but `{resource}/.default` from an application (AADSTS1002012).
fn app_scope(scope: &str, cloud: Cloud, service: Service) -> String {
    let given = scope.split_ascii_whitespace().find(|part| {
        let fits = resource(part).is_some_and(|resource| belongs(&resource, service));
        part.ends_with("/.default") && fits
    });
    let hosts = hosts(cloud);
    let resource = match service {
        Service::Graph => hosts.graph,
        Service::Smtp | Service::Gmail => hosts.outlook_app,
    };
    given.map_or_else(|| format!("{resource}/.default"), str::to_owned)
}

/// Whether a token for `resource` opens `service`.
fn belongs(resource: &str, service: Service) -> bool {
    is_graph(resource) == (service == Service::Graph)
}

/// Whether the token that a sign-in with the scope `asked` yields opens the service whose scope is
/// `wanted`. If not, it is worth nothing there and another one must be got.
pub(super) fn opens(kind: Kind, asked: &str, wanted: &str) -> bool {
    kind != Kind::Microsoft
        || wanted.is_empty()
        || match (first_resource(asked), first_resource(wanted)) {
            (Some(asked), Some(wanted)) => {
                asked == wanted || (is_graph(&asked) && is_graph(&wanted))
            }
            (None, _) | (_, None) => false,
        }
}

/// Whether redeeming a code must name `wanted`, because the consent spans several resources and its
/// first is another.
pub(super) fn redeems_part(kind: Kind, asked: &str, wanted: &str) -> bool {
    let all: Vec<&str> = asked.split_ascii_whitespace().collect();
    let mut parts = wanted.split_ascii_whitespace();
    kind == Kind::Microsoft && !opens(kind, asked, wanted) && parts.all(|part| all.contains(&part))
}

/// The resource that Microsoft's token is for: the first in the scope.
fn first_resource(scope: &str) -> Option<String> {
    let mut parts = scope.split_ascii_whitespace();
    let first = parts.find(|part| !OIDC_SCOPES.contains(part))?;
    // Short names are Graph's.
    Some(resource(first).unwrap_or_else(|| hosts(Cloud::Global).graph.to_owned()))
}

/// `https://outlook.office.com` of `https://outlook.office.com/SMTP.Send`; short names such as
/// Graph's `Mail.Send` have none.
fn resource(scope: &str) -> Option<String> {
    let url = Url::parse(scope).ok()?;
    url.has_host().then(|| url.origin().ascii_serialization())
}

fn is_graph(resource: &str) -> bool {
    CLOUDS.iter().any(|cloud| hosts(*cloud).graph == resource)
}

/// A permission that a service needs, and where it is given.
#[derive(Debug, Clone, Copy)]
pub(super) struct Permission {
    pub(super) name: &'static str,
    /// `ACCOUNT` stands for the account's name.
    pub(super) remedy: &'static str,
}

/// The permission without which a provider gives no token for `service`.
pub(super) fn permission(kind: Kind, service: Service, unattended: bool) -> Option<Permission> {
    let (name, remedy) = match (kind, service, unattended) {
        (Kind::Microsoft, Service::Smtp, false) => (
            "SMTP.Send",
            "in the Azure portal add it to the application (API permissions, Microsoft Graph, Delegated \
             permissions, SMTP.Send) and click Grant admin consent; then: gatepost login ACCOUNT",
        ),
        (Kind::Microsoft, Service::Graph, false) => (
            "Mail.Send",
            "in the Azure portal add it to the application (API permissions, Microsoft Graph, Delegated \
             permissions, Mail.Send) and click Grant admin consent; then: gatepost login ACCOUNT",
        ),
        (Kind::Microsoft, Service::Smtp, true) => (
            "SMTP.SendAsApp",
            "in the Azure portal add it to the application (API permissions, APIs my organization uses, \
             Office 365 Exchange Online, Application permissions, SMTP.SendAsApp) and click Grant admin \
             consent",
        ),
        (Kind::Microsoft, Service::Graph, true) => (
            "Mail.Send",
            "in the Azure portal add it to the application (API permissions, Microsoft Graph, \
             Application permissions, Mail.Send) and click Grant admin consent",
        ),
        (Kind::Microsoft, Service::Gmail, _) | (Kind::Google | Kind::Custom, _, _) => return None,
    };
    Some(Permission { name, remedy })
}

/// Whether `granted` lacks a permission that Google lets a person untick (its granular consent).
pub(super) fn lacks_google_mail(kind: Kind, asked: &str, granted: Option<&str>) -> bool {
    let has = |scope: &str| scope.split_ascii_whitespace().any(|s| s == GOOGLE_MAIL);
    kind == Kind::Google && has(asked) && granted.is_some_and(|granted| !has(granted))
}

/// How a person ends an application's access where the provider does not do it for us (RFC 7009).
#[must_use]
pub fn revocation_by_hand(kind: Kind) -> &'static str {
    match kind {
        Kind::Microsoft => {
            "to end the access there, open the user in the Entra admin center and choose Revoke sessions \
             (PowerShell: Revoke-MgUserSignInSession); an access token that is out lasts up to 90 minutes"
        }
        Kind::Google => {
            "to end the access there, remove the application at https://myaccount.google.com/connections"
        }
        Kind::Custom => {
            "to end the access there, remove the application's access in the account's settings at the provider"
        }
    }
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

    const OUTLOOK: &str = "https://outlook.office.com/SMTP.Send";
    const SEED: &str = "offline_access https://graph.microsoft.com/.default";

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table")]
    fn a_token_is_asked_for_with_one_resource_the_services_own() {
        use Grant::{AuthorizationCode as Person, ClientCredentials as App};
        let both =
            "https://graph.microsoft.com/Mail.Send https://outlook.office365.com/SMTP.Send openid";
        for (cloud, scope, grant, smtp, graph) in [
            (
                Cloud::Global,
                SEED,
                Person,
                "https://outlook.office.com/SMTP.Send",
                "https://graph.microsoft.com/.default",
            ),
            (
                Cloud::Global,
                "",
                Person,
                OUTLOOK,
                "https://graph.microsoft.com/Mail.Send",
            ),
            (
                Cloud::Global,
                "offline_access Mail.Send SMTP.Send",
                Person,
                OUTLOOK,
                "https://graph.microsoft.com/Mail.Send",
            ),
            (
                Cloud::Global,
                both,
                Person,
                "https://outlook.office365.com/SMTP.Send",
                "https://graph.microsoft.com/Mail.Send",
            ),
            (
                Cloud::China,
                "https://partner.outlook.cn/.default",
                Person,
                "https://partner.outlook.cn/.default",
                "https://microsoftgraph.chinacloudapi.cn/Mail.Send",
            ),
            (
                Cloud::UsGovDod,
                "",
                Person,
                "https://outlook.office365.us/SMTP.Send",
                "https://dod-graph.microsoft.us/Mail.Send",
            ),
            (
                Cloud::Global,
                SEED,
                App,
                "https://outlook.office365.com/.default",
                "https://graph.microsoft.com/.default",
            ),
            (
                Cloud::UsGovHigh,
                "",
                App,
                "https://outlook.office365.us/.default",
                "https://graph.microsoft.us/.default",
            ),
            (
                Cloud::Global,
                "https://outlook.office.com/.default",
                App,
                "https://outlook.office.com/.default",
                "https://graph.microsoft.com/.default",
            ),
        ] {
            let offline = if grant == Person {
                "offline_access "
            } else {
                ""
            };
            for (service, wanted) in [(Service::Smtp, smtp), (Service::Graph, graph)] {
                let made = service_scope(Kind::Microsoft, cloud, scope, grant, service);
                assert_eq!(
                    made,
                    format!("{offline}{wanted}"),
                    "{cloud:?} {scope} {service}"
                );
            }
        }
        let other =
            |kind, scope, grant, service| service_scope(kind, Cloud::Global, scope, grant, service);
        assert_eq!(other(Kind::Google, GOOGLE_MAIL, Person, Service::Smtp), "");
        assert_eq!(
            other(Kind::Google, GOOGLE_MAIL, App, Service::Smtp),
            GOOGLE_MAIL
        );
        assert_eq!(
            other(Kind::Google, GOOGLE_MAIL, App, Service::Gmail),
            GMAIL_SEND
        );
        assert_eq!(other(Kind::Custom, "mail", App, Service::Smtp), "mail");
        assert_eq!(other(Kind::Custom, "mail", Person, Service::Smtp), "");
    }

    #[test]
    fn a_sign_in_asks_who_signs_in_where_that_is_known_to_work() {
        let offered = |list: &str| list.split(' ').map(str::to_owned).collect::<Vec<_>>();
        for (kind, scope, offers, expected) in [
            (
                Kind::Microsoft,
                SEED,
                "",
                &*format!("{SEED} openid profile"),
            ),
            (
                Kind::Microsoft,
                "openid User.Read",
                "",
                "openid User.Read profile",
            ),
            (
                Kind::Google,
                GOOGLE_MAIL,
                "",
                "https://mail.google.com/ openid email",
            ),
            (Kind::Custom, "mail", "", "mail"),
            (Kind::Custom, "mail", "email profile", "mail"),
            (Kind::Custom, "mail", "openid mail", "mail openid"),
            (
                Kind::Custom,
                "mail",
                "profile openid email",
                "mail openid email profile",
            ),
            (Kind::Custom, "openid mail", "openid email", "openid mail"),
            (Kind::Custom, "", "openid email", ""),
        ] {
            assert_eq!(
                sign_in_scope(kind, scope, &offered(offers)),
                expected,
                "{scope} {offers}"
            );
        }
    }

    #[test]
    fn a_sign_in_opens_the_first_resource_it_names() {
        let smtp = format!("offline_access {OUTLOOK}");
        let graph = "offline_access https://graph.microsoft.com/Mail.Send";
        for (asked, opens_smtp, opens_graph) in [
            (SEED, false, true),
            ("openid profile offline_access Mail.Send", false, true),
            (smtp.as_str(), true, false),
            ("offline_access", false, false),
        ] {
            assert_eq!(opens(Kind::Microsoft, asked, &smtp), opens_smtp, "{asked}");
            assert_eq!(opens(Kind::Microsoft, asked, graph), opens_graph, "{asked}");
        }
        assert!(opens(Kind::Custom, "mail", "") && opens(Kind::Google, GOOGLE_MAIL, ""));
        // Consent to both: the code is redeemed for the part that is wanted.
        let both = format!("{graph} {OUTLOOK}");
        assert!(redeems_part(Kind::Microsoft, &both, &smtp));
        assert!(!redeems_part(Kind::Microsoft, SEED, &smtp));
        assert!(!redeems_part(Kind::Microsoft, &smtp, &smtp));
    }

    #[test]
    fn every_permission_of_microsoft_has_its_place() {
        for (service, unattended, name) in [
            (Service::Smtp, false, "SMTP.Send"),
            (Service::Smtp, true, "SMTP.SendAsApp"),
            (Service::Graph, false, "Mail.Send"),
            (Service::Graph, true, "Mail.Send"),
        ] {
            let permission = permission(Kind::Microsoft, service, unattended).unwrap();
            assert_eq!(permission.name, name);
            assert!(permission.remedy.contains(name));
            assert_eq!(
                permission.remedy.contains("Application permissions"),
                unattended
            );
        }
    }
}
