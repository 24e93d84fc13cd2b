//! Clients and routes: who may log in, and which account sends what.

use std::{collections::BTreeMap, slice};

use argon2::{Params, PasswordHash};

use super::Checker;
use crate::{
    config::{
        field::{Field, Listed, Named},
        file,
        leaf::Hidden,
    },
    mail::{AccountName, Address},
    registry::Section,
    route::{Route, Router},
    submission::{Client, Listener},
};

/// RFC 4616 leaves names unbounded; no device has a longer one.
const NAME_LEN_MAX: usize = 255;

const MAKE_HASH: &str = "make one with `gatepost hash-password`";

impl Checker<'_> {
    pub(super) fn clients(
        &mut self,
        listed: &Listed<file::Client>,
        accounts: &Named<file::Account>,
    ) -> BTreeMap<String, Client> {
        let mut clients = BTreeMap::new();
        for section in listed.0.iter().flatten() {
            let remedy = "write the name that the device logs in with";
            let name = section.name.required(&mut self.report, remedy);
            self.account_name(&section.account, accounts);
            self.patterns(&section.senders, |senders| senders);
            let client = Client {
                password_hash: self.password_hash(section),
                account: section.account.get().map(|name| AccountName::new(name)),
                senders: section.senders.copied().unwrap_or_default(),
                disabled: section.disabled.copied().unwrap_or(false),
            };
            let Some(name) = name else { continue };
            if name.len() > NAME_LEN_MAX {
                section
                    .name
                    .refuse(&mut self.report, "is too long", "use a shorter name");
            }
            if clients.insert(name, client).is_some() {
                let remedy = "give each client its own name";
                section
                    .name
                    .refuse(&mut self.report, "names two clients", remedy);
            }
        }
        clients
    }

    /// A hash that can never match would look like a wrong password for ever.
    fn password_hash(&mut self, section: &file::Client) -> String {
        if section.password_hash.is_absent() {
            section.password_hash.required(&mut self.report, MAKE_HASH);
        }
        self.hash(&section.password_hash).unwrap_or_default()
    }

    /// The hash of a password, where one is given.
    pub(super) fn hash(&mut self, field: &Field<Hidden>) -> Option<String> {
        let hash = field.get()?;
        if !is_argon2id(&hash.0) {
            field.refuse(&mut self.report, "is not an argon2id hash", MAKE_HASH);
        }
        Some(hash.0.clone())
    }

    pub(super) fn router(&mut self, file: &file::File, listeners: &[Listener]) -> Router {
        let sections = file.route.0.iter().flatten();
        let routes = sections.filter_map(|section| self.route(section, file, listeners));
        let routes = routes.collect();
        self.account_name(&file.default_account, &file.account);
        // One that is left out counts: its mail is not the next one's.
        let out = self.made.out_of(Section::Account);
        let mut names: Vec<&str> = file
            .account
            .0
            .keys()
            .map(String::as_str)
            .chain(out)
            .collect();
        names.sort_unstable();
        names.dedup();
        let only = names.first().filter(|_| names.len() == 1).copied();
        let mut chosen = self.made.used_of(Section::Default).map(|(name, _)| name);
        let chosen = chosen.find(|name| names.contains(name));
        let named = file.default_account.get().map(String::as_str);
        let default_account = named.or(chosen).or(only);
        if default_account.is_none() && names.len() > 1 && file.route.0.is_none() {
            self.report.warning(
                "there are several accounts, no [[route]] and no default account: only mail of clients with an \
                 account of their own is taken; set default_account, or make one the default on its \
                 page in the console",
            );
        }
        Router {
            routes,
            default_account: default_account.map(AccountName::new),
        }
    }

    fn route(
        &mut self,
        section: &file::Route,
        file: &file::File,
        listeners: &[Listener],
    ) -> Option<Route> {
        self.account_name(&section.account, &file.account);
        let clients = file.client.0.iter().flatten();
        let names = clients.filter_map(|client| client.name.get().map(String::as_str));
        self.unknown_name(&section.client, "client", "a [[client]]", names);
        let names = listeners.iter().map(|listener| listener.name.as_str());
        self.unknown_name(&section.listener, "listener", "a [[listener]]", names);
        self.patterns(&section.sender, slice::from_ref);
        self.patterns(&section.recipient, slice::from_ref);
        let remedy = "name the account that sends what matches";
        let account = section.account.required(&mut self.report, remedy)?;
        Some(Route {
            sender: section.sender.copied(),
            recipient: section.recipient.copied(),
            client: section.client.copied(),
            listener: section.listener.copied(),
            network: section.network.copied(),
            account: AccountName::new(&account),
        })
    }

    /// A pattern that matches nothing would look like a sender that is refused for ever.
    pub(super) fn patterns<T>(&mut self, field: &Field<T>, of: impl Fn(&T) -> &[String]) {
        let patterns = field.get().map_or(&[][..], of);
        let Some(pattern) = patterns.iter().find(|pattern| is_hopeless(pattern)) else {
            return;
        };
        let domain = pattern.trim_start_matches('@');
        let remedy = match Address::parse(&format!("x@{domain}")) {
            Ok(_) if domain.contains('.') => {
                format!("write \"*@{domain}\" for everybody there, or a whole address")
            }
            _ => "write a whole address, or a pattern as \"*@example.com\"".to_owned(),
        };
        let what = format!("{pattern:?} can match no address");
        field.refuse(&mut self.report, what, remedy);
    }

    pub(super) fn account_name(&mut self, field: &Field<String>, accounts: &Named<file::Account>) {
        let known = accounts.0.keys().map(String::as_str);
        self.unknown_name(field, "account", "an [account.NAME]", known);
    }
}

/// Whether it matches neither an address nor the null path, see [`crate::route::matches_sender`].
fn is_hopeless(pattern: &str) -> bool {
    let is_open = pattern.contains('*') || matches!(pattern, "" | "<>");
    !is_open && Address::parse(pattern).is_err()
}

/// Whether a text is a PHC string of argon2id with parameters that can be computed.
fn is_argon2id(text: &str) -> bool {
    PasswordHash::new(text).is_ok_and(|hash| {
        hash.algorithm.as_str() == "argon2id"
            && hash.hash.is_some()
            && hash.salt.is_some()
            && Params::try_from(&hash).is_ok()
    })
}
