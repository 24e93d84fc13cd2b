//! What a key that nobody has set comes to, where its default depends on others: on the provider, on
//! the transport, on the machine. The reference file can only describe that; the checked
//! configuration knows it.

use std::{collections::BTreeMap, fmt::Display};

use super::{Config, field::NOT_SET};
use crate::{
    admin::api::SettingSource,
    delivery::{Account, Api, Auth, Smarthost, Tls, Transport},
    oauth::{ClientAuthentication, Provider},
};

/// Puts the value in force in the place of a default's description.
pub(super) fn fill(config: &mut Config) {
    let known = Effective::of(config).0;
    let settings = config.settings.iter_mut();
    for setting in settings.filter(|setting| setting.source == SettingSource::Default) {
        if let Some(value) = known.get(&setting.key) {
            setting.value.clone_from(value);
        }
    }
}

/// Values by key, as they would stand in the file.
#[derive(Default)]
struct Effective(BTreeMap<String, String>);

impl Effective {
    fn of(config: &Config) -> Self {
        let mut known = Self::default();
        let state_dir = config.store.state_dir.display();
        known.text("state_dir".into(), Some(state_dir));
        known.text("hostname".into(), Some(&config.rules.hostname));
        let default_account = config.rules.router.default_account.as_ref();
        known.text("default_account".into(), default_account);
        for (name, provider) in &config.oauth.providers {
            known.provider(&format!("provider.{name}"), provider);
        }
        for account in &config.delivery.accounts {
            let section = format!("account.{}", account.name);
            known.account(&section, account);
            if let Some(by_token) = config.oauth.accounts.get(&account.name) {
                let key = format!("{section}.sign_in_user");
                let user = by_token.sign_in_user.as_ref().unwrap_or(&by_token.mailbox);
                if by_token.grant.is_unattended() {
                    known.0.insert(key, NOT_SET.to_owned());
                } else {
                    known.text(key, Some(user));
                }
            }
        }
        known
    }

    fn provider(&mut self, section: &str, provider: &Provider) {
        let key = |key| format!("{section}.{key}");
        self.text(key("client_id"), Some(&provider.client_id));
        self.text(key("issuer"), provider.issuer.as_ref());
        let (consent, token) = (&provider.authorization_url, &provider.token_url);
        self.text(key("authorization_url"), consent.as_ref());
        self.text(key("token_url"), token.as_ref());
        let device = provider.device_authorization_url.as_ref();
        self.text(key("device_authorization_url"), device);
        self.text(key("redirect_url"), Some(&provider.redirect_url));
        self.text(key("scope"), Some(&provider.scope));
        let by = match provider.client_authentication {
            ClientAuthentication::Basic => "basic",
            ClientAuthentication::Post => "post",
            ClientAuthentication::None => "none",
            ClientAuthentication::PrivateKeyJwt => "private_key_jwt",
        };
        self.text(key("client_authentication"), Some(by));
    }

    fn account(&mut self, section: &str, account: &Account) {
        let key = |key| format!("{section}.{key}");
        self.text(key("mailbox"), Some(&account.mailbox));
        let limits = &account.limits;
        self.number(key("limits.connections"), limits.connections);
        let a_minute = limits.messages_per_minute.unwrap_or_default();
        self.number(key("limits.messages_per_minute"), a_minute);
        let a_day = limits.recipients_per_day.unwrap_or_default();
        self.number(key("limits.recipients_per_day"), a_day);
        let at_once = limits.recipients_per_message;
        self.number(key("limits.recipients_per_message"), at_once);
        match &account.transport {
            Transport::Smtp => self.smtp(section, &account.smtp),
            Transport::Auto(api) => {
                self.smtp(section, &account.smtp);
                self.api(section, api);
            }
            Transport::Api(api) => self.api(section, api),
        }
    }

    fn smtp(&mut self, section: &str, smtp: &Smarthost) {
        let key = |key| format!("{section}.smtp.{key}");
        self.text(key("host"), Some(&smtp.host));
        self.number(key("port"), smtp.port);
        let tls = match smtp.tls {
            Tls::Starttls => "starttls",
            Tls::Implicit => "implicit",
            Tls::None => "none",
        };
        self.text(key("tls"), Some(tls));
        let username = match &smtp.auth {
            Auth::Xoauth2 { username }
            | Auth::OauthBearer { username }
            | Auth::Password { username, .. } => Some(username),
            Auth::None => None,
        };
        self.text(key("username"), username);
    }

    /// The section of the other API says nothing for this account.
    fn api(&mut self, section: &str, api: &Api) {
        let key = |key| format!("{section}.{}.{key}", api.service.name());
        self.text(key("url"), Some(&api.url));
        self.text(key("user"), Some(api.user.as_deref().unwrap_or("me")));
        let above = match api.large_by_smtp {
            true => "smtp",
            false => "return",
        };
        self.text(key("above_mime_max"), Some(above));
    }

    fn text(&mut self, key: String, value: Option<impl Display>) {
        let value = value.map(|value| value.to_string());
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            self.0.insert(key, format!("{value:?}"));
        }
    }

    fn number(&mut self, key: String, value: impl Display) {
        self.0.insert(key, value.to_string());
    }
}
