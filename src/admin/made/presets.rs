//! What a provider's form is filled with, so that nobody types a URL that is known.

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::{
    admin::{Shared, handlers::AppState, problem::Queried},
    oauth::{
        ClientAuthentication, Kind,
        preset::{self, Cloud},
    },
};

/// What is known of a provider.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Preset {
    /// Where a person consents.
    pub authorization_url: Option<Url>,
    /// Where tokens come from.
    pub token_url: Option<Url>,
    /// Where device codes come from.
    pub device_authorization_url: Option<Url>,
    /// Where the browser comes back to; none: the console's certificate is for a name, which must be
    /// given.
    pub redirect_url: Option<Url>,
    /// What is asked for at sign-in where mail goes by SMTP.
    pub scope: String,
    /// The same where it goes by the provider's API; none: there is none.
    pub api_scope: Option<String>,
    /// How the client authenticates.
    pub client_authentication: ClientAuthentication,
    /// The mail server.
    pub smtp_host: Option<String>,
    /// Its port.
    pub smtp_port: Option<u16>,
}

/// Which provider is meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PresetQuery {
    /// Microsoft, Google or custom.
    pub kind: Kind,
    /// Microsoft's tenant: an id, a domain, or `common`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Microsoft's cloud.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud: Option<Cloud>,
}

impl Shared {
    /// What a form is filled with.
    pub(in crate::admin) fn preset(&self, query: &PresetQuery) -> Preset {
        let cloud = query.cloud.unwrap_or_default();
        let tenant = query.tenant.as_deref().map(str::trim);
        let tenant = tenant
            .filter(|tenant| !tenant.is_empty())
            .unwrap_or("common");
        let known = preset::preset(query.kind, cloud, tenant);
        let service = match query.kind {
            Kind::Microsoft => Some(crate::oauth::Service::Graph),
            Kind::Google => Some(crate::oauth::Service::Gmail),
            Kind::Custom => None,
        };
        let services = service.into_iter().collect();
        let api_scope = preset::scope_for(query.kind, cloud, &services);
        Preset {
            authorization_url: known.authorization_url,
            token_url: known.token_url,
            device_authorization_url: known.device_authorization_url,
            redirect_url: self.view().redirect_url.clone(),
            scope: known.scope,
            api_scope: api_scope.filter(|_| service.is_some()),
            client_authentication: known.client_authentication,
            smtp_host: known.smtp.map(|smtp| smtp.host.to_owned()),
            smtp_port: known.smtp.map(|smtp| smtp.port),
        }
    }
}

pub(in crate::admin) async fn show(
    State(shared): AppState,
    Queried(query): Queried<PresetQuery>,
) -> Json<Preset> {
    Json(shared.preset(&query))
}
