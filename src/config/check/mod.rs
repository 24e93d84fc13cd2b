//! Defaults, presets, and what keys mean together: the mirror of the file becomes what each part
//! needs.
//!
//! Every check goes on after a problem with the nearest sensible value, so that all problems are
//! told; what comes out is used only when there are none.

mod account;
mod api;
mod basics;
mod client;
mod listener;
mod notify;
mod provider;
mod rules;
mod upstream;

use std::{fs, num::NonZeroU32, os::unix::fs::PermissionsExt, path::Path};

use super::{
    Config, Foundation, Problems,
    field::{Field, Findings, Report},
    file::File,
    layers::Variables,
    made::Made,
    nearest::nearest,
    secret_source::SecretSource,
};
use crate::{queue, registry::Section, secret::Secret, store, submission};

/// What the checks share.
struct Checker<'a> {
    report: Report,
    variables: &'a Variables,
    /// What was made in the console.
    made: &'a Made<'a>,
}

/// Turns the mirror into the configuration, or tells every problem.
pub(super) fn check(
    file: &File,
    path: Option<&Path>,
    findings: Findings,
    (variables, made): (&Variables, &Made<'_>),
) -> Result<Config, Problems> {
    let mut checker = Checker {
        report: findings.report,
        variables,
        made,
    };
    let state_dir = checker.state_dir(&file.state_dir);
    let hostname = checker.hostname(&file.hostname);
    let admin = checker.admin(file, &state_dir);
    let mut listeners = checker.listeners(&file.listener, &admin);
    checker.allow_made(&mut listeners);
    let profiles = checker.providers(file, &admin);
    let upstream = upstream::Upstream {
        profiles: &profiles,
        hostname: &hostname,
        listeners: &listeners,
    };
    let accounts = checker.accounts(&file.account, &upstream);
    let clients = checker.clients(&file.client, &file.account);
    let router = checker.router(file, &listeners);
    checker.logins(&listeners, clients.len());
    listener::fit_to_accounts(&mut listeners, &accounts.delivery);
    let key = checker.key(&file.store.key, &state_dir);
    let (retry, bounce_to) = checker.queue(&file.queue);
    let trace = checker.trace(&file.trace);
    let log = checker.log(&file.log);
    let notify = checker.notify(file, &hostname, log.addresses);
    if let (Some(path), Some(key)) = (path, &findings.literal_secret) {
        checker.others_may_read(path, key);
    }
    if checker.report.has_problems() {
        return Err(checker.report.into_problems());
    }
    Ok(Config {
        store: store::Config { state_dir },
        listeners,
        rules: submission::Rules {
            hostname: hostname.clone(),
            clients,
            router,
        },
        oauth: crate::oauth::Config {
            providers: profiles.into_providers(),
            accounts: accounts.oauth,
            key,
        },
        delivery: crate::delivery::Config {
            hostname,
            bounce_to,
            bounces_per_hour: NonZeroU32::new(
                file.queue
                    .bounces_per_hour
                    .copied()
                    .unwrap_or(BOUNCES_PER_HOUR),
            ),
            delay_warning: retry.delay_warning,
            on_uncertain: file.queue.uncertain.copied().unwrap_or_default(),
            accounts: accounts.delivery,
        },
        queue: queue::Config { retry },
        trace,
        admin,
        notify,
        log,
        file: path.map(Path::to_owned),
        warnings: checker.report.warnings,
        settings: findings.settings,
        written: Vec::new(),
    })
}

/// What must be known before the store is open, where the rest cannot be judged yet: the file may
/// name what was made in the console.
pub(super) fn foundation(
    file: &File,
    path: Option<&Path>,
    findings: Findings,
    variables: &Variables,
) -> Result<Foundation, Problems> {
    let mut checker = Checker {
        report: findings.report,
        variables,
        made: &Made::default(),
    };
    let state_dir = checker.state_dir(&file.state_dir);
    let key = checker.key(&file.store.key, &state_dir);
    let log = checker.log(&file.log);
    if checker.report.has_problems() {
        return Err(checker.report.into_problems());
    }
    Ok(Foundation {
        store: store::Config { state_dir },
        key,
        log,
        file: path.map(Path::to_owned),
        alone: None,
    })
}

impl Checker<'_> {
    /// Reads a secret; why it cannot be read is reported.
    fn secret(&mut self, field: &Field<impl AsRef<SecretSource>>) -> Option<Secret> {
        match field.get()?.as_ref().resolve(self.variables) {
            Ok(secret) => Some(secret),
            Err((what, remedy)) => {
                field.refuse(&mut self.report, what, remedy);
                None
            }
        }
    }

    /// Whether a file can be read is known only by reading it.
    fn readable(&mut self, field: &Field<std::path::PathBuf>) {
        if let Some(Err(error)) = field.get().map(fs::File::open) {
            let remedy = "name a file that the user that gatepost runs as can read";
            field.refuse(&mut self.report, format!("cannot be read: {error}"), remedy);
        }
    }

    /// Reports a name that is not among the `known`, with the nearest of them.
    fn unknown_name<'k>(
        &mut self,
        field: &Field<String>,
        what: &str,
        section: &str,
        known: impl Iterator<Item = &'k str> + Clone,
    ) {
        let Some(name) = field.get() else { return };
        let is_out = |section| self.made.is_left_out(section, name);
        let is_known = match what {
            "provider" => is_out(Section::Provider),
            "client" => is_out(Section::Client),
            "account" | "other account" => is_out(Section::Account),
            _ => false,
        };
        if is_known || known.clone().any(|k| k == name) {
            return;
        }
        let remedy = match nearest(name, known.clone()) {
            Some(near) => format!("did you mean {near:?}?"),
            None if known.clone().next().is_none() => format!("add {section}"),
            None => {
                let known: Vec<String> = known.map(|k| format!("{k:?}")).collect();
                format!("use one of {}, or add {section}", known.join(", "))
            }
        };
        field.refuse(
            &mut self.report,
            format!("there is no {what} of this name"),
            remedy,
        );
    }

    fn others_may_read(&mut self, path: &Path, key: &str) {
        let mode = fs::metadata(path).map(|m| m.permissions().mode());
        if mode.is_ok_and(|mode| mode & 0o004 != 0) {
            let path = path.display();
            self.report.warning(format!(
                "{path} can be read by every user and holds a secret ({key}): run `chmod o-r {path}`, or \
                 write {{ file = \"..\" }} there"
            ));
        }
    }
}

/// A number that must not be zero.
fn positive(field: &Field<u32>, default: usize, report: &mut Report) -> usize {
    match field.copied().map(usize::try_from) {
        Some(Ok(0)) => {
            field.refuse(report, "nothing would be let through", "use 1 or more");
            default
        }
        Some(Ok(number)) => number,
        Some(Err(_)) | None => default,
    }
}

/// A person reads no more reports in an hour; a program that earns more is broken, or mails a list
/// nobody tends.
const BOUNCES_PER_HOUR: u32 = 100;
