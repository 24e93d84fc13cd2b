//! OAuth provider profiles: presets fill what the file leaves out.

use std::{collections::BTreeMap, path::PathBuf};

use url::Url;

use super::{
    Checker,
    api::services,
    client::{Azure, Client, Refusal},
};
use crate::{
    admin,
    config::{field::Field, file, secret_source::ProxySource},
    net::{http, proxy::Proxy},
    oauth::{
        Grant, Kind, Provider, Service,
        preset::{self, Cloud, Preset},
    },
    registry::Section,
};

/// Tenants that are no organisation: an application cannot have a token of its own there.
pub(super) const SHARED_TENANTS: [&str; 3] = ["common", "organizations", "consumers"];

const IN_CLEAR: &str = "would send secrets over the network in clear";
const HTTPS_ONLY: &str = "use https:// (http:// only on this machine)";

/// Paths that the console answers itself.
const CONSOLE_PATHS: [&str; 15] = [
    "/accounts",
    "/api/",
    "/assets/",
    "/clients",
    "/events",
    "/healthz",
    "/login",
    "/logout",
    "/metrics",
    "/providers",
    "/queue",
    "/readyz",
    "/settings",
    "/sign-ins",
    "/trace",
];

/// A profile with what accounts need to know of it.
pub(super) struct Profile {
    /// `None`: something is wrong with it, and told.
    provider: Option<Provider>,
    pub(super) kind: Kind,
    cloud: Cloud,
    pub(super) preset: Preset,
    refusals: Vec<Refusal>,
}

impl Profile {
    /// Why an account cannot get tokens in this way.
    pub(super) fn refuses(&self, grant: Grant) -> Option<&Refusal> {
        let mut refusals = self.refusals.iter();
        refusals.find(|refusal| refusal.grant == grant)
    }
}

impl Profile {
    /// Where the URLs of its API begin.
    pub(super) fn api_url(&self) -> Option<Url> {
        preset::api_url(self.kind, self.cloud)
    }

    /// How its hosts are reached: trust anchors and a proxy.
    pub(super) fn way(&self) -> (Option<PathBuf>, Option<Proxy>) {
        let provider = self.provider.as_ref();
        provider.map_or((None, None), |provider| {
            (provider.ca_file.clone(), provider.proxy.clone())
        })
    }

    /// The scope of an account's tokens for `service`.
    pub(super) fn scope(&self, grant: Grant, service: Service) -> String {
        let scope = self.provider.as_ref().map_or("", |p| p.scope.as_str());
        preset::service_scope(self.kind, self.cloud, scope, grant, service)
    }
}

/// Every profile of the file, by name.
pub(super) struct Profiles(pub(super) BTreeMap<String, Profile>);

impl Profiles {
    pub(super) fn into_providers(self) -> BTreeMap<String, Provider> {
        let good = self.0.into_iter();
        good.filter_map(|(name, profile)| Some((name, profile.provider?)))
            .collect()
    }
}

impl Checker<'_> {
    pub(super) fn providers(&mut self, file: &file::File, admin: &admin::Config) -> Profiles {
        let profiles = file.provider.0.iter().map(|(name, section)| {
            let users = file.account.0.values();
            let users = users.filter(|account| account.provider.get() == Some(name));
            let grants = users.map(|account| {
                let grant = account.grant.copied();
                grant.unwrap_or(Grant::AuthorizationCode)
            });
            let client = Client {
                section,
                grants: grants.collect(),
                azure: Azure::of(self.variables, section),
            };
            self.sends_no_file(name, section);
            let mut profile = self.profile(&client, admin);
            let users = file.account.0.values();
            let users = users.filter(|account| account.provider.get() == Some(name));
            let needed = users
                .flat_map(|account| services(account, profile.kind))
                .collect();
            let scope = preset::scope_for(profile.kind, profile.cloud, &needed);
            if let (Some(provider), Some(scope), true) =
                (&mut profile.provider, scope, section.scope.is_absent())
            {
                provider.scope = scope;
            }
            (name.clone(), profile)
        });
        Profiles(profiles.collect())
    }

    /// What is in that file is sent to the provider: whoever may use the console could have any file
    /// that the daemon can read sent anywhere.
    fn sends_no_file(&mut self, name: &str, section: &file::Provider) {
        let mut made = self.made.used_of(Section::Provider);
        if made.any(|(made, _)| made == name) && !section.federated_token_file.is_absent() {
            let what = "cannot be set in the console: what is in it is sent to the provider";
            let remedy = "set it in the configuration file";
            let field = &section.federated_token_file;
            field.refuse(&mut self.report, what, remedy);
        }
    }

    fn profile(&mut self, client: &Client<'_>, admin: &admin::Config) -> Profile {
        let section = client.section;
        let kind = section.kind.required(
            &mut self.report,
            "use \"microsoft\", \"google\" or \"custom\"",
        );
        // Without a kind nothing more is asked for than what stands in the file.
        let known_kind = kind.unwrap_or(Kind::Custom);
        let azure = &client.azure;
        let tenant = section.tenant.copied().or_else(|| azure.tenant.clone());
        let tenant = tenant.unwrap_or_else(|| "common".to_owned());
        let cloud = section.cloud.copied().or(azure.cloud).unwrap_or_default();
        let preset = preset::preset(known_kind, cloud, &tenant);
        self.of_one_kind(section, kind);
        let is_wrong = |tenant: &String| kind == Some(Kind::Microsoft) && !is_tenant(tenant);
        if section.tenant.get().is_some_and(is_wrong) {
            let remedy = "write your organisation's id (Directory ID), one of its domains, as \
                          \"contoso.onmicrosoft.com\", or \"common\", \"organizations\" or \"consumers\"";
            let what = "is not a tenant";
            section.tenant.refuse(&mut self.report, what, remedy);
        }
        let provider = self.provider(client, kind, &preset, admin);
        Profile {
            refusals: client.refusals(known_kind, &preset),
            provider,
            kind: known_kind,
            cloud,
            preset,
        }
    }

    fn provider(
        &mut self,
        client: &Client<'_>,
        kind: Option<Kind>,
        preset: &Preset,
        admin: &admin::Config,
    ) -> Option<Provider> {
        let section = client.section;
        let client_id = self.client_id(client);
        let client_secret = self.secret(&section.client_secret);
        let issuer = self.issuer(&section.issuer);
        let client_key = self.client_key(section);
        let service_account = self.service_account(&section.service_account_file);
        let authorization_url = self.url(&section.authorization_url);
        let token_url = self
            .url(&section.token_url)
            .or_else(|| preset.token_url.clone());
        let is_silent = section.token_url.is_absent() && section.issuer.is_absent();
        if token_url.is_none() && kind.is_some() && is_silent {
            let remedy = "copy it from the provider's documentation, or set issuer";
            section
                .token_url
                .refuse(&mut self.report, "is needed", remedy);
        }
        let is_preset = section.token_url.is_absent() && section.authorization_url.is_absent();
        let device_authorization_url = self.url(&section.device_authorization_url);
        let redirect_url = self.redirect_url(&section.redirect_url, admin);
        self.readable(&section.ca_file);
        let proxy = self.proxy(&section.proxy);
        let scope = section
            .scope
            .copied()
            .unwrap_or_else(|| preset.scope.clone());
        Some(Provider {
            kind: kind?,
            description: section.description.copied().unwrap_or_default(),
            client_id: client_id?,
            client_authentication: self.client_authentication(section, preset),
            client_secret,
            tenant_id: section.tenant.get().filter(|tenant| is_id(tenant)).cloned(),
            // Other URLs than the preset's are another provider's, which calls itself otherwise.
            issuer: issuer.or_else(|| preset.issuer.filter(|_| is_preset).map(str::to_owned)),
            client_secret_expires_at: self.client_secret_expires_at(section),
            certificate_expires_at: client_key
                .as_ref()
                .and_then(|key| key.expires_at().ok().flatten()),
            client_key,
            service_account,
            federated_token_file: client.federated_token_file(),
            managed_identity: client.managed_identity(self.variables),
            authorization_url: authorization_url.or_else(|| preset.authorization_url.clone()),
            token_url,
            device_authorization_url: device_authorization_url
                .or_else(|| preset.device_authorization_url.clone()),
            // Another token endpoint has tokens that the preset's host knows nothing about.
            revocation_url: preset
                .revocation_url
                .clone()
                .filter(|_| section.token_url.is_absent()),
            redirect_url: redirect_url?,
            scope,
            ca_file: section.ca_file.copied(),
            proxy,
        })
    }

    /// A tenant, cloud or issuer elsewhere would silently mean nothing.
    fn of_one_kind(&mut self, section: &file::Provider, kind: Option<Kind>) {
        let what = "means nothing to this kind of provider";
        if matches!(kind, Some(Kind::Microsoft | Kind::Google)) && section.issuer.get().is_some() {
            let remedy = "take it out, or use kind = \"custom\"";
            section.issuer.refuse(&mut self.report, what, remedy);
        }
        if !matches!(kind, Some(Kind::Google | Kind::Custom)) {
            return;
        }
        let remedy = "take it out, or use kind = \"microsoft\"";
        if section.tenant.get().is_some() {
            section.tenant.refuse(&mut self.report, what, remedy);
        }
        if section
            .cloud
            .get()
            .is_some_and(|cloud| *cloud != Cloud::Global)
        {
            section.cloud.refuse(&mut self.report, what, remedy);
        }
    }

    /// A URL over which codes, secrets or tokens travel.
    pub(super) fn url(&mut self, field: &Field<Url>) -> Option<Url> {
        let url = field.get()?;
        if url.scheme() == "http" && !http::is_loopback(url) {
            field.refuse(&mut self.report, IN_CLEAR, HTTPS_ONLY);
        }
        if url.fragment().is_some() {
            field.refuse(&mut self.report, "has a fragment (#..)", "take it out");
        }
        Some(url.clone())
    }

    /// Whether the browser that comes back can find the console there.
    fn who_serves(&mut self, field: &Field<Url>, url: &Url, admin: &admin::Config) {
        let is_secure = url.scheme() == "https";
        let has_proxy = admin.public_url.is_some();
        let key = &field.at.shown;
        match (is_secure, admin.certificate.is_some()) {
            (true, false) if !has_proxy => self.report.warning(format!(
                "{key} = \"{url}\" is https and the console has no certificate: set \
                 console.certificate_file and key_file, or put a TLS proxy in front and set \
                 console.public_url"
            )),
            (false, true) => {
                let what = "is http, and the console has a certificate";
                field.refuse(&mut self.report, what, "write https://");
            }
            (true, true) if !has_proxy => {
                let port = admin.address.map(|address| address.port());
                let asked = url.port_or_known_default();
                if port.is_some_and(|port| port != 0 && Some(port) != asked) {
                    self.report.warning(format!(
                        "{key} = \"{url}\" names another port than console.address: nothing will \
                         answer there unless something forwards it"
                    ));
                }
            }
            (true | false, true | false) => {}
        }
    }

    /// The way to the provider.
    fn proxy(&mut self, field: &Field<ProxySource>) -> Option<Proxy> {
        let given = self.secret(field)?;
        let proxy = match Proxy::parse(given.expose()) {
            Ok(proxy) => proxy,
            Err((what, remedy)) => {
                field.refuse(&mut self.report, what, remedy);
                return None;
            }
        };
        if proxy.sends_password_in_clear() {
            let key = &field.at.shown;
            self.report.warning(format!(
                "{key}: the password for {proxy} crosses the network in clear: use https:// if the \
                 proxy speaks TLS"
            ));
        }
        Some(proxy)
    }

    /// The provider's name of itself: a URL (RFC 8414 §2), of which every octet counts.
    fn issuer(&mut self, field: &Field<String>) -> Option<String> {
        let text = field.get()?;
        let url = Url::parse(text).ok();
        let url = url.filter(|url| url.has_host() && url.username().is_empty());
        match url {
            Some(url) if url.scheme() == "http" && !http::is_loopback(&url) => {
                field.refuse(&mut self.report, IN_CLEAR, HTTPS_ONLY);
            }
            Some(url) if url.query().is_some() || url.fragment().is_some() => {
                let what = "has a query (?..) or a fragment (#..)";
                field.refuse(&mut self.report, what, "take it out");
            }
            Some(url) if matches!(url.scheme(), "http" | "https") => {}
            Some(_) | None => {
                let remedy = "write it as \"https://id.example.com/realms/mail\"";
                field.refuse(&mut self.report, "is no https URL", remedy);
            }
        }
        Some(text.clone())
    }

    /// Where the browser comes back to: as registered at the provider, by default the console.
    fn redirect_url(&mut self, field: &Field<Url>, admin: &admin::Config) -> Option<Url> {
        if let Some(url) = self.url(field) {
            if CONSOLE_PATHS
                .iter()
                .any(|path| url.path().starts_with(path))
            {
                let what = "is a path that the console itself answers";
                let remedy = "use the path /authorization/smtp_oauth/";
                field.refuse(&mut self.report, what, remedy);
            }
            self.who_serves(field, &url, admin);
            return Some(url);
        }
        if !field.is_absent() {
            return None;
        }
        let own = admin.redirect_url();
        if own.is_none() {
            let what = "is needed: the console has a certificate";
            let remedy = "write https://NAME:PORT/authorization/smtp_oauth/ with a name in the certificate, or set console.public_url";
            field.refuse(&mut self.report, what, remedy);
        }
        own
    }
}

/// Whether a tenant can be called so: by its id, by a domain, or by a word for those that are shared.
fn is_tenant(tenant: &str) -> bool {
    let is_label = |label: &str| {
        let is_plain = |b: u8| b == b'-' || b.is_ascii_alphanumeric();
        !label.is_empty() && label.len() <= 63 && label.bytes().all(is_plain)
    };
    let is_domain = tenant.contains('.') && tenant.split('.').all(is_label);
    is_domain || is_id(tenant) || SHARED_TENANTS.contains(&tenant)
}

/// Whether a tenant is named by its id (a GUID), not by one of its domains.
fn is_id(tenant: &str) -> bool {
    let parts = tenant.split('-').map(str::len);
    let is_hex = |b: u8| b == b'-' || b.is_ascii_hexdigit();
    parts.eq([8, 4, 4, 4, 12]) && tenant.bytes().all(is_hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_is_an_id_a_domain_or_a_word() {
        for (tenant, is_one) in [
            ("common", true),
            ("organizations", true),
            ("contoso.onmicrosoft.com", true),
            ("72f988bf-86f1-41af-91ab-2d7cd011db47", true),
            ("contoso", false),
            ("72f988bf-86f1-41af-91ab", false),
            ("bad tenant/..", false),
            ("..", false),
            ("contoso.com/", false),
            ("https://contoso.com", false),
        ] {
            assert_eq!(is_tenant(tenant), is_one, "{tenant}");
        }
    }
}
