//! How a profile's client proves itself, and which grants that allows.

use std::{collections::BTreeSet, fs, path::PathBuf};

use jiff::{Timestamp, tz::TimeZone};
use url::Url;

use super::{Checker, provider::SHARED_TENANTS};
use crate::{
    config::{field::Field, file, layers::Variables},
    oauth::{
        ClientAuthentication, ClientKey, Grant, Kind, ManagedIdentity, ServiceAccount,
        preset::{self, Cloud, Preset},
    },
    secret::Secret,
};

/// Azure's instance metadata service.
const IMDS: &str = "http://169.254.169.254/metadata/identity/oauth2/token";

/// A profile's section with what else tells about its client.
pub(super) struct Client<'a> {
    pub(super) section: &'a file::Provider,
    /// The grants of the accounts that use it.
    pub(super) grants: BTreeSet<Grant>,
    pub(super) azure: Azure,
}

/// What Azure's workload identity webhook puts into a pod's environment. It counts where the section
/// names no client: a section that names one means that and nothing else.
#[derive(Default)]
pub(super) struct Azure {
    client_id: Option<String>,
    pub(super) tenant: Option<String>,
    pub(super) cloud: Option<Cloud>,
    federated_token_file: Option<PathBuf>,
}

impl Azure {
    pub(super) fn of(variables: &Variables, section: &file::Provider) -> Self {
        let is_microsoft = section.kind.get() == Some(&Kind::Microsoft);
        if !is_microsoft || !section.client_id.is_absent() {
            return Self::default();
        }
        let text = |name: &str| variables.get(name).filter(|text| !text.is_empty()).cloned();
        let authority = text("AZURE_AUTHORITY_HOST");
        Self {
            client_id: text("AZURE_CLIENT_ID"),
            tenant: text("AZURE_TENANT_ID"),
            cloud: authority.and_then(|host| preset::cloud_of(&host)),
            federated_token_file: text("AZURE_FEDERATED_TOKEN_FILE").map(PathBuf::from),
        }
    }
}

/// A grant that cannot work with a profile.
pub(super) struct Refusal {
    pub(super) grant: Grant,
    /// The profile's key that would let it work.
    pub(super) lacks: Option<String>,
    pub(super) what: &'static str,
    pub(super) remedy: &'static str,
}

impl Refusal {
    fn lacking<T>(field: &Field<T>, grant: Grant, what: &'static str) -> Self {
        Self {
            grant,
            lacks: Some(field.at.shown.clone()),
            what,
            remedy: "add it to the provider, or use another grant",
        }
    }
}

impl Client<'_> {
    /// Whether a client id is part of every grant in use but these two.
    fn needs_id(&self) -> bool {
        let without = [Grant::ServiceAccount, Grant::ManagedIdentity];
        self.grants.is_empty() || self.grants.iter().any(|grant| !without.contains(grant))
    }

    pub(super) fn federated_token_file(&self) -> Option<PathBuf> {
        let file = self.section.federated_token_file.copied();
        file.or_else(|| self.azure.federated_token_file.clone())
    }

    /// Where the machine's own identity is asked for: App Service says so in its environment.
    pub(super) fn managed_identity(&self, variables: &Variables) -> Option<ManagedIdentity> {
        if !self.grants.contains(&Grant::ManagedIdentity) {
            return None;
        }
        let given = self.section.token_url.copied();
        let told = |name: &str| variables.get(name).filter(|text| !text.is_empty());
        let service = told("IDENTITY_ENDPOINT").and_then(|url| Url::parse(url).ok());
        let header = told("IDENTITY_HEADER").map(|text| Secret::new(text.as_str()));
        let client_id = self.section.client_id.copied();
        let (url, header) = match (given, service, header) {
            (Some(url), _, _) => (url, None),
            (None, Some(url), Some(header)) => (url, Some(header)),
            (None, _, _) => (Url::parse(IMDS).ok()?, None),
        };
        Some(ManagedIdentity {
            url,
            header,
            client_id: client_id.filter(|id| !id.is_empty()),
        })
    }

    /// The grants that cannot work with the profile.
    pub(super) fn refusals(&self, kind: Kind, preset: &Preset) -> Vec<Refusal> {
        let mut refusals = self.of_people(kind, preset);
        refusals.extend(self.of_applications(kind));
        refusals
    }

    fn of_people(&self, kind: Kind, preset: &Preset) -> Vec<Refusal> {
        let section = self.section;
        let mut refusals = Vec::new();
        // What an issuer offers is known when it has been asked.
        let is_asked = !section.issuer.is_absent();
        let asks_people = &section.authorization_url;
        if asks_people.is_absent() && preset.authorization_url.is_none() && !is_asked {
            let what = "needs the provider's authorization_url, or its issuer";
            refusals.push(Refusal::lacking(
                asks_people,
                Grant::AuthorizationCode,
                what,
            ));
        }
        let asks_devices = &section.device_authorization_url;
        if asks_devices.is_absent() && !is_asked {
            match kind {
                Kind::Microsoft => {}
                // It has a device endpoint, but refuses the scope of mail there.
                Kind::Google => refusals.push(Refusal {
                    grant: Grant::DeviceCode,
                    lacks: None,
                    what: "Google offers no device code for mail",
                    remedy: "use \"authorization_code\"; without a browser on this machine, `gatepost login NAME --no-browser`",
                }),
                Kind::Custom => {
                    let what = "needs the provider's device_authorization_url, or its issuer";
                    refusals.push(Refusal::lacking(asks_devices, Grant::DeviceCode, what));
                }
            }
        }
        refusals
    }

    fn of_applications(&self, kind: Kind) -> Vec<Refusal> {
        use Grant::{ClientCredentials, ManagedIdentity, ServiceAccount, WorkloadIdentity};

        let section = self.section;
        let mut refusals = Vec::new();
        let tenant = section.tenant.get().or(self.azure.tenant.as_ref());
        let is_shared = tenant.is_none_or(|tenant| SHARED_TENANTS.contains(&tenant.as_str()));
        let nowhere = kind == Kind::Microsoft && is_shared && section.token_url.is_absent();
        let no_tenant = |grant| Refusal {
            remedy: "set tenant to your organisation's id or domain",
            ..Refusal::lacking(
                &section.tenant,
                grant,
                "needs the provider's tenant: an application has no token of its own in \"common\"",
            )
        };
        let never = |grant, what, remedy| Refusal {
            grant,
            lacks: None,
            what,
            remedy,
        };
        let proof = [
            section.client_secret.is_absent(),
            section.client_certificate_file.is_absent(),
            section.client_key_file.is_absent(),
        ];
        if kind == Kind::Google {
            let what = "Google has no such grant for mailboxes";
            let remedy = "use \"service_account\", or \"authorization_code\" for one mailbox";
            refusals.push(never(ClientCredentials, what, remedy));
            refusals.push(never(WorkloadIdentity, what, remedy));
        } else {
            if proof == [true; 3] {
                let what = "needs the provider's client_secret or client_certificate_file";
                let lacks = &section.client_secret;
                refusals.push(Refusal::lacking(lacks, ClientCredentials, what));
            } else if nowhere {
                refusals.push(no_tenant(ClientCredentials));
            }
            if self.federated_token_file().is_none() {
                let what = "needs the provider's federated_token_file";
                let remedy = "name the file that the platform projects; where Azure's webhook sets AZURE_FEDERATED_TOKEN_FILE, leave client_id out";
                let lacks = &section.federated_token_file;
                refusals.push(Refusal {
                    remedy,
                    ..Refusal::lacking(lacks, WorkloadIdentity, what)
                });
            } else if nowhere {
                refusals.push(no_tenant(WorkloadIdentity));
            }
        }
        let file = &section.service_account_file;
        if kind != Kind::Google {
            let what = "is Google's alone";
            refusals.push(never(ServiceAccount, what, "use kind = \"google\""));
        } else if file.is_absent() {
            let what = "needs the provider's service_account_file";
            refusals.push(Refusal::lacking(file, ServiceAccount, what));
        }
        if kind != Kind::Microsoft {
            let what = "is Azure's alone";
            refusals.push(never(ManagedIdentity, what, "use kind = \"microsoft\""));
        }
        refusals
    }
}

impl Checker<'_> {
    /// The client's id; empty where no grant in use has one.
    pub(super) fn client_id(&mut self, client: &Client<'_>) -> Option<String> {
        let field = &client.section.client_id;
        match (&client.azure.client_id, client.needs_id()) {
            (Some(id), _) if field.is_absent() => Some(id.clone()),
            (_, false) if field.is_absent() => Some(String::new()),
            _ => {
                let remedy = "copy it from the provider's application page";
                field.required(&mut self.report, remedy)
            }
        }
    }

    /// When the client's secret expires.
    pub(super) fn client_secret_expires_at(
        &mut self,
        section: &file::Provider,
    ) -> Option<Timestamp> {
        let field = &section.client_secret_expires;
        let date = field.copied()?;
        if section.client_secret.is_absent() {
            let remedy = "add client_secret, or take it out";
            field.refuse(
                &mut self.report,
                "means nothing without client_secret",
                remedy,
            );
        }
        let midnight = date.to_zoned_datetime(TimeZone::UTC).ok()?;
        Some(midnight.timestamp())
    }

    /// The key that signs assertions; one that cannot sign is told now, not at the first request.
    pub(super) fn client_key(&mut self, section: &file::Provider) -> Option<ClientKey> {
        let (certificate, key) = (&section.client_certificate_file, &section.client_key_file);
        let named = if key.is_absent() { certificate } else { key };
        let password = self.secret(&section.client_key_password);
        if named.is_absent() {
            if !section.client_key_password.is_absent() {
                let remedy = "set client_certificate_file, or take it out";
                let field = &section.client_key_password;
                field.refuse(&mut self.report, "means nothing without a key", remedy);
            }
            return None;
        }
        let client_key = ClientKey {
            certificate_file: certificate.copied(),
            key_file: key.copied(),
            password,
            algorithm: section
                .client_assertion_algorithm
                .copied()
                .unwrap_or_default(),
        };
        // A value that is wrong in itself has been told.
        let is_told = [certificate, key]
            .iter()
            .any(|f| !f.is_absent() && f.get().is_none());
        if let (false, Err(error)) = (is_told, client_key.expires_at()) {
            named.refuse(&mut self.report, error.what, &error.remedy);
        }
        Some(client_key)
    }

    pub(super) fn service_account(&mut self, field: &Field<PathBuf>) -> Option<ServiceAccount> {
        let path = field.get()?;
        let text = fs::read_to_string(path).map_err(|error| {
            let remedy = "name the JSON key file, which the user that gatepost runs as can read";
            (format!("cannot be read: {error}"), remedy.to_owned())
        });
        let parsed = text.and_then(|text| {
            let text = zeroize::Zeroizing::new(text);
            ServiceAccount::parse(&text).map_err(|error| (error.what, error.remedy))
        });
        match parsed {
            Ok(account) => Some(account),
            Err((what, remedy)) => {
                field.refuse(&mut self.report, what, &remedy);
                None
            }
        }
    }

    pub(super) fn client_authentication(
        &mut self,
        section: &file::Provider,
        preset: &Preset,
    ) -> ClientAuthentication {
        use ClientAuthentication::{Basic, None as Public, Post, PrivateKeyJwt};

        let field = &section.client_authentication;
        let has_secret = !section.client_secret.is_absent();
        let has_key =
            !section.client_key_file.is_absent() || !section.client_certificate_file.is_absent();
        let way = match (field.copied(), has_key, has_secret) {
            (Some(way), ..) => way,
            (None, true, false) => PrivateKeyJwt,
            (None, false, true) => preset.client_authentication,
            (None, false, false) => Public,
            (None, true, true) => {
                let what = "is needed where there is both a client_secret and a key";
                let remedy = "use \"private_key_jwt\" for the key, or take one of them out";
                field.refuse(&mut self.report, what, remedy);
                PrivateKeyJwt
            }
        };
        let complaint = match way {
            Basic | Post if !has_secret => Some((
                "needs client_secret",
                "add client_secret, or use \"none\" for a public client",
            )),
            PrivateKeyJwt if !has_key => Some((
                "needs a key",
                "add client_certificate_file or client_key_file",
            )),
            Public if has_secret || has_key => Some((
                "would not use client_secret or key",
                "take them out, or use \"post\", \"basic\" or \"private_key_jwt\"",
            )),
            Basic | Post | PrivateKeyJwt | Public => None,
        };
        if let Some((what, remedy)) = complaint {
            field.refuse(&mut self.report, what, remedy);
        }
        way
    }
}
