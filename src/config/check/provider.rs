//! OAuth provider profiles: presets fill what the file leaves out.

use std::collections::BTreeMap;

use url::{Host, Url};

use super::{Checker, missing};
use crate::{
    admin,
    config::{
        field::{Field, Named},
        file,
    },
    oauth::{
        ClientAuthentication, Grant, Kind, Provider, Service,
        preset::{self, Cloud, Preset},
    },
};

/// The console's port when it has none that can be known beforehand.
const CONSOLE_PORT: u16 = 8025;

/// Tenants that are no organisation: an application cannot have a token of its own there.
const SHARED_TENANTS: [&str; 3] = ["common", "organizations", "consumers"];

const IN_CLEAR: &str = "would send secrets over the network in clear";
const HTTPS_ONLY: &str = "use https:// (http:// only on this machine)";

/// Paths that the console answers itself.
const CONSOLE_PATHS: [&str; 4] = ["/api/", "/healthz", "/readyz", "/metrics"];

/// A profile with what accounts need to know of it.
pub(super) struct Profile {
    /// `None`: something is wrong with it, and told.
    provider: Option<Provider>,
    pub(super) kind: Kind,
    cloud: Cloud,
    pub(super) preset: Preset,
    /// Grants that cannot work with it: which, why not, and the remedy.
    refusals: Vec<(Grant, &'static str, &'static str)>,
}

impl Profile {
    /// Why an account cannot get tokens in this way, and the remedy.
    pub(super) fn refuses(&self, grant: Grant) -> Option<(&'static str, &'static str)> {
        let mut refusals = self.refusals.iter();
        refusals.find_map(|(refused, what, remedy)| (*refused == grant).then_some((*what, *remedy)))
    }
}

impl Profile {
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
    pub(super) fn providers(
        &mut self,
        sections: &Named<file::Provider>,
        admin: &admin::Config,
    ) -> Profiles {
        let profiles = sections
            .0
            .iter()
            .map(|(name, section)| (name.clone(), self.profile(section, admin)));
        Profiles(profiles.collect())
    }

    fn profile(&mut self, section: &file::Provider, admin: &admin::Config) -> Profile {
        let kind = section.kind.required(
            &mut self.report,
            "use \"microsoft\", \"google\" or \"custom\"",
        );
        // Without a kind nothing more is asked for than what stands in the file.
        let known_kind = kind.unwrap_or(Kind::Custom);
        let tenant = section
            .tenant
            .copied()
            .unwrap_or_else(|| "common".to_owned());
        let cloud = section.cloud.copied().unwrap_or_default();
        let preset = preset::preset(known_kind, cloud, &tenant);
        self.of_one_kind(section, kind);
        let provider = self.provider(section, kind, &preset, admin);
        Profile {
            refusals: refusals(section, known_kind, &preset),
            provider,
            kind: known_kind,
            cloud,
            preset,
        }
    }

    fn provider(
        &mut self,
        section: &file::Provider,
        kind: Option<Kind>,
        preset: &Preset,
        admin: &admin::Config,
    ) -> Option<Provider> {
        let client_id = section.client_id.required(
            &mut self.report,
            "copy it from the provider's application page",
        );
        let client_secret = self.secret(&section.client_secret);
        let issuer = self.issuer(&section.issuer);
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
            // Other URLs than the preset's are another provider's, which calls itself otherwise.
            issuer: issuer.or_else(|| preset.issuer.filter(|_| is_preset).map(str::to_owned)),
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

    fn client_authentication(
        &mut self,
        section: &file::Provider,
        preset: &Preset,
    ) -> ClientAuthentication {
        use ClientAuthentication::{Basic, None as Public, Post};

        let field = &section.client_authentication;
        let has_secret = !section.client_secret.is_absent();
        match field.copied() {
            None if has_secret => preset.client_authentication,
            None => Public,
            Some(way @ (Basic | Post)) => {
                if !has_secret {
                    let remedy = "add client_secret, or use \"none\" for a public client";
                    field.refuse(&mut self.report, "needs client_secret", remedy);
                }
                way
            }
            Some(Public) => {
                if has_secret {
                    let remedy = "take client_secret out, or use \"post\" or \"basic\"";
                    field.refuse(&mut self.report, "would not use client_secret", remedy);
                }
                Public
            }
        }
    }

    /// A URL over which codes, secrets or tokens travel.
    fn url(&mut self, field: &Field<Url>) -> Option<Url> {
        let url = field.get()?;
        if url.scheme() == "http" && !is_loopback(url) {
            field.refuse(&mut self.report, IN_CLEAR, HTTPS_ONLY);
        }
        if url.fragment().is_some() {
            field.refuse(&mut self.report, "has a fragment (#..)", "take it out");
        }
        Some(url.clone())
    }

    /// The provider's name of itself: a URL (RFC 8414 §2), of which every octet counts.
    fn issuer(&mut self, field: &Field<String>) -> Option<String> {
        let text = field.get()?;
        let url = Url::parse(text).ok();
        let url = url.filter(|url| url.has_host() && url.username().is_empty());
        match url {
            Some(url) if url.scheme() == "http" && !is_loopback(&url) => {
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
            return Some(url);
        }
        if !field.is_absent() {
            return None;
        }
        let port = admin
            .address
            .map(|address| address.port())
            .filter(|port| *port != 0);
        let port = port.unwrap_or(CONSOLE_PORT);
        let url = Url::parse(&format!(
            "http://localhost:{port}/authorization/smtp_oauth/"
        ));
        if url.is_err() {
            missing(
                &mut self.report,
                field.at.shown.clone(),
                "is needed",
                "write the URL",
            );
        }
        url.ok()
    }
}

/// The grants that cannot work with a profile.
fn refusals(
    section: &file::Provider,
    kind: Kind,
    preset: &Preset,
) -> Vec<(Grant, &'static str, &'static str)> {
    let mut refusals = Vec::new();
    let mut refuse = |grant, what, remedy| refusals.push((grant, what, remedy));
    let add = "add it to the provider, or use another grant";
    // What an issuer offers is known when it has been asked.
    let is_asked = !section.issuer.is_absent();
    if section.authorization_url.is_absent() && preset.authorization_url.is_none() && !is_asked {
        refuse(
            Grant::AuthorizationCode,
            "needs the provider's authorization_url, or its issuer",
            add,
        );
    }
    if section.device_authorization_url.is_absent() && !is_asked {
        match kind {
            Kind::Microsoft => {}
            // It has a device endpoint, but refuses the scope of mail there.
            Kind::Google => refuse(
                Grant::DeviceCode,
                "Google offers no device code for mail",
                "use \"authorization_code\"; without a browser on this machine, `gatepost login NAME --no-browser`",
            ),
            Kind::Custom => {
                refuse(
                    Grant::DeviceCode,
                    "needs the provider's device_authorization_url, or its issuer",
                    add,
                );
            }
        }
    }
    let app = Grant::ClientCredentials;
    let tenant = section.tenant.get().map(String::as_str);
    let is_shared = tenant.is_none_or(|tenant| SHARED_TENANTS.contains(&tenant));
    if kind == Kind::Google {
        refuse(
            app,
            "Google has no such grant for mailboxes",
            "use \"authorization_code\"",
        );
    } else if section.client_secret.is_absent() {
        refuse(app, "needs the provider's client_secret", add);
    } else if kind == Kind::Microsoft && is_shared && section.token_url.is_absent() {
        refuse(
            app,
            "needs the provider's tenant: an application has no token of its own in \"common\"",
            "set tenant to your organisation's id or domain",
        );
    }
    refusals
}

/// Whether a URL stays on this machine.
fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => super::upstream::is_loopback(name),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}
