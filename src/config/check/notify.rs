//! Who is told: each way whole, or not at all.

use url::Url;

use super::Checker;
use crate::{
    config::{field::Field, file, leaf::CommandLine, secret_source::SecretSource},
    mail::AccountName,
    net::http,
    notify::{Config, Mail, Webhook},
};

impl Checker<'_> {
    /// What `[notify]` says.
    pub(super) fn notify(&mut self, file: &file::File, hostname: &str, addresses: bool) -> Config {
        let section = &file.notify;
        self.account_name(&section.account, &file.account);
        Config {
            webhook: self.webhook(&section.webhook),
            command: self.notify_command(&section.command),
            mail: self.notify_mail(section),
            addresses,
            hostname: hostname.to_owned(),
        }
    }

    /// The URL is a secret: no problem shows it, nor the parser's word about it.
    fn webhook(&mut self, field: &Field<SecretSource>) -> Option<Webhook> {
        let secret = self.secret(field)?;
        let wrong = match Url::parse(secret.expose()) {
            Err(_) => Some(("is not a URL", "write a whole URL: \"https://host/path\"")),
            Ok(url) if !url.username().is_empty() || url.password().is_some() => Some((
                "holds a user name or password, which would not be sent",
                "use a URL that needs none, or a command that knows them",
            )),
            Ok(url) if url.scheme() == "https" => None,
            Ok(url) if url.scheme() == "http" && http::is_loopback(&url) => None,
            Ok(_) => Some((
                "would send notices, and what its path holds, over the network in clear",
                "use an https URL, or http to this machine",
            )),
        };
        if let Some((what, remedy)) = wrong {
            field.refuse(&mut self.report, what, remedy);
            return None;
        }
        Some(Webhook::new(secret))
    }

    fn notify_command(&mut self, field: &Field<CommandLine>) -> Vec<String> {
        let words = field.copied().map(|line| line.0).unwrap_or_default();
        if words.first().is_some_and(String::is_empty) {
            let remedy = "name the program first: [\"/usr/local/bin/tell\", \"--urgent\"]";
            field.refuse(&mut self.report, "names no program", remedy);
        }
        words
    }

    fn notify_mail(&mut self, section: &file::Notify) -> Option<Mail> {
        let (account, to) = (&section.account, &section.to);
        match (account.is_absent(), to.is_absent()) {
            (false, true) => {
                let remedy = "write who gets the notices, as \"ops@example.com\"";
                to.refuse(&mut self.report, "is needed with notify.account", remedy);
            }
            (true, false) => {
                let remedy = "name the account that sends the notices";
                account.refuse(&mut self.report, "is needed with notify.to", remedy);
            }
            (true, true) | (false, false) => {}
        }
        Some(Mail {
            account: AccountName::new(account.get()?),
            to: to.copied()?,
        })
    }
}
