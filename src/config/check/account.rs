//! Accounts: a mailbox, how it gets tokens, where its mail goes and how fast.

use std::collections::BTreeMap;

use super::{
    Checker,
    api::{kind, services, unused},
    positive,
    provider::Profile,
    upstream::Upstream,
};
use crate::{
    config::{
        Problem,
        field::Named,
        file,
        leaf::{Mechanism, Way},
    },
    delivery::{self, Limits, Rewrite, SenderRule, Transport},
    mail::AccountName,
    oauth::{self, Grant, Kind, preset},
    registry::Section,
};

/// A plain smarthost publishes no limit and is made for bulk: as many as Postfix opens to one
/// destination.
const SMARTHOST_CONNECTIONS: usize = 20;

/// Recipients of one transaction or request. Gmail takes 100 by SMTP and by its API. Exchange's default for a mailbox is 500;
/// where an administrator set less, its 452 teaches us. Every server takes 100 (RFC 5321
/// §4.5.3.1.8), most a thousand.
fn recipients_per_message(kind: Kind) -> usize {
    match kind {
        Kind::Google => 100,
        Kind::Microsoft => 500,
        Kind::Custom => 1000,
    }
}

/// Every account, as each part sees it.
#[derive(Default)]
pub(super) struct Accounts {
    pub(super) delivery: Vec<delivery::Account>,
    pub(super) oauth: BTreeMap<AccountName, oauth::Account>,
}

impl Checker<'_> {
    pub(super) fn accounts(
        &mut self,
        sections: &Named<file::Account>,
        upstream: &Upstream<'_>,
    ) -> Accounts {
        let mut accounts = Accounts::default();
        for (name, section) in &sections.0 {
            let name = AccountName::new(name);
            let known = sections.0.keys().map(String::as_str);
            let known = known.filter(|other| *other != name.as_str());
            self.unknown_name(
                &section.fallback,
                "other account",
                "an [account.NAME]",
                known,
            );
            if let Some(provider) = self.provider_left_out(section) {
                self.report.warning(format!(
                    "account {name} sends nothing until its provider {provider} is mended in the console: \
                     its mail waits"
                ));
                continue;
            }
            self.account(&name, section, upstream, &mut accounts);
        }
        let is_none_left_out = self.made.out_of(Section::Account).next().is_none();
        if sections.0.is_empty() && is_none_left_out {
            let text = "there is no [account.NAME]: all mail is refused until one is added";
            self.report.warning(text);
        }
        accounts
    }

    /// The provider of an account, if it was made in the console and is left out.
    fn provider_left_out<'f>(&self, section: &'f file::Account) -> Option<&'f str> {
        let name = section.provider.get()?;
        let is_out = self.made.is_left_out(Section::Provider, name);
        is_out.then_some(name.as_str())
    }

    /// Whether an operator has stopped the account.
    fn is_stopped(&self, name: &AccountName) -> bool {
        let mut held = self.made.used_of(Section::Hold);
        held.any(|(held, _)| held == name.as_str())
    }

    fn account(
        &mut self,
        name: &AccountName,
        section: &file::Account,
        upstream: &Upstream<'_>,
        accounts: &mut Accounts,
    ) {
        let profiles = &upstream.profiles.0;
        let known = profiles.keys().map(String::as_str);
        self.unknown_name(&section.provider, "provider", "a [provider.NAME]", known);
        let profile = section.provider.get().and_then(|name| profiles.get(name));
        let mechanism = self.mechanism(section);
        let way = section.transport.copied().unwrap_or_default();
        let needs_token = is_by_token(mechanism) || way != Way::Smtp;
        let mailbox = self.mailbox(section, needs_token, upstream.hostname);
        let login = mailbox.as_deref().filter(|_| !section.mailbox.is_absent());
        let auth = self.upstream_auth(&section.smtp, mechanism, login);
        let preset = profile.map(|profile| &profile.preset);
        let smtp_preset = preset.and_then(|preset| preset.smtp);
        // The provider that is missing would have named the host: that one problem is enough.
        let is_told = profile.is_none() && (needs_token || !section.provider.is_absent());
        let grant = section.grant.copied().unwrap_or(Grant::AuthorizationCode);
        let transport = self.transport(section, profile, grant);
        let smtp = match &transport {
            Some(Transport::Api(api)) if !api.large_by_smtp => Some(unused(api)),
            _ if is_told && section.smtp.host.is_absent() => None,
            Some(_) | None => self.smarthost(&section.smtp, smtp_preset, auth, upstream),
        };
        let limits = self.limits(&section.limits, profile, transport.as_ref());
        let is_grant_good = section.grant.is_absent() || section.grant.get().is_some();
        let profile_used = profile.filter(|_| needs_token && is_grant_good);
        if let Some(refusal) = profile_used.and_then(|profile| profile.refuses(grant)) {
            self.report.add(Problem {
                key: section.grant.at.shown.clone(),
                value: section.grant.shown.clone(),
                what: refusal.what.to_owned(),
                remedy: refusal.remedy.to_owned(),
                lacks: refusal.lacks.clone(),
            });
        }
        if section.sign_in_user.get().is_some() && (!needs_token || grant.is_unattended()) {
            let what = "means nothing: nobody signs in for this account";
            let remedy = "take it out";
            section.sign_in_user.refuse(&mut self.report, what, remedy);
        }
        let (Some(mailbox), Some(smtp), Some(transport)) = (mailbox, smtp, transport) else {
            return;
        };
        if let Some(provider) = section.provider.copied().filter(|_| needs_token) {
            let account = oauth::Account {
                provider,
                mailbox: mailbox.clone(),
                sign_in_user: section.sign_in_user.copied(),
                grant,
                services: profile
                    .map(|profile| services(section, profile.kind))
                    .unwrap_or_default()
                    .into_iter()
                    .map(|service| {
                        let scope = profile.map(|profile| profile.scope(grant, service));
                        (service, scope.unwrap_or_default())
                    })
                    .collect(),
            };
            accounts.oauth.insert(name.clone(), account);
        }
        accounts.delivery.push(delivery::Account {
            name: name.clone(),
            mailbox,
            kind: kind(&transport, profile),
            transport,
            smtp,
            limits,
            sender: self.sender(&section.sender),
            fallback: section.fallback.get().map(|name| AccountName::new(name)),
            is_stopped: self.is_stopped(name),
        });
    }

    /// As whom mail leaves.
    fn sender(&mut self, section: &file::Sender) -> SenderRule {
        let rewrite = section.rewrite.copied().unwrap_or_default();
        if rewrite == Rewrite::Never {
            let is_idle = section
                .display_name
                .get()
                .is_some_and(|name| !name.is_empty());
            if is_idle {
                let what = "means nothing while nothing is rewritten";
                let remedy = "set rewrite to \"header\" or \"both\", or take it out";
                section.display_name.refuse(&mut self.report, what, remedy);
            }
        }
        self.patterns(&section.keep, |keep| keep);
        SenderRule {
            rewrite,
            display_name: section
                .display_name
                .copied()
                .filter(|name| !name.is_empty()),
            reply_to_original: section.reply_to_original.copied().unwrap_or(true),
            keep: section.keep.copied().unwrap_or_default(),
        }
    }

    fn mechanism(&mut self, section: &file::Account) -> Mechanism {
        let auth = &section.smtp.auth;
        let mechanism = auth.copied().unwrap_or(Mechanism::Xoauth2);
        let needs_token = is_by_token(mechanism);
        if section.provider.is_absent() && needs_token {
            let remedy = "name a [provider.NAME], or set smtp.auth = \"password\" or \"none\" for a plain smarthost";
            if auth.is_absent() {
                section
                    .provider
                    .refuse(&mut self.report, "is needed", remedy);
            } else if auth.get().is_some() {
                auth.refuse(&mut self.report, "needs a provider", remedy);
            }
        }
        mechanism
    }

    /// The mailbox; one that needs no token may do without.
    fn mailbox(
        &mut self,
        section: &file::Account,
        needs_token: bool,
        hostname: &str,
    ) -> Option<String> {
        if section.mailbox.is_absent() && !needs_token {
            return Some(format!("postmaster@{hostname}"));
        }
        section
            .mailbox
            .required(&mut self.report, "write the address that mail is sent as")
            .map(String::from)
    }

    fn limits(
        &mut self,
        section: &file::Limits,
        profile: Option<&Profile>,
        transport: Option<&Transport>,
    ) -> Limits {
        let by_api = profile
            .zip(transport)
            .and_then(|(profile, transport)| match transport {
                Transport::Api(api) => preset::api_limits(profile.kind, api.service),
                Transport::Smtp | Transport::Auto(_) => None,
            });
        let preset = by_api.or_else(|| profile.map(|profile| profile.preset.limits));
        self.above_graph(section, transport);
        let connections = preset.map_or(SMARTHOST_CONNECTIONS, |limits| limits.connections);
        let recipients = match transport {
            Some(transport) => kind(transport, profile),
            None => Kind::Custom,
        };
        let recipients = recipients_per_message(recipients);
        // Zero lifts a preset's limit.
        let or = |given: Option<u32>, preset: Option<u32>| match given {
            Some(0) => None,
            Some(number) => Some(number),
            None => preset,
        };
        Limits {
            connections: positive(&section.connections, connections, &mut self.report),
            messages_per_minute: or(
                section.messages_per_minute.copied(),
                preset.and_then(|limits| limits.messages_per_minute),
            ),
            recipients_per_day: or(
                section.recipients_per_day.copied(),
                preset.and_then(|limits| limits.recipients_per_day),
            ),
            recipients_per_message: positive(
                &section.recipients_per_message,
                recipients,
                &mut self.report,
            ),
        }
    }
}

/// Whether SMTP logs in with a token.
pub(super) fn is_by_token(mechanism: Mechanism) -> bool {
    matches!(mechanism, Mechanism::Xoauth2 | Mechanism::OauthBearer)
}
