//! What is made and changed through the console and the API: providers, accounts, logins of devices,
//! API keys, allowed networks.
//!
//! The functions of `Shared` in here are what both the API's routes and the pages
//! call. Each change is judged with the whole configuration and taken as a whole or not at all; what
//! is wrong is told field by field. What the file or the environment has is read-only here. Each
//! change that is made leaves a line in the audit log, without any value.

pub mod accounts;
pub mod allowed;
pub mod keys;
pub mod logins;
pub mod presets;
pub mod providers;
#[cfg(test)]
mod tests;
mod who;
mod wish;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use axum::http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub(super) use self::who::Who;
use self::wish::request;
pub use self::wish::{ChangeRequest, Changed, How, Refused, Wish};
use super::{Shared, api::Problem};
use crate::{
    registry::{Change, Entries, Section, Settings},
    secret::Secret,
};

/// What is wrong with one field of a form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldProblem {
    /// The key, dotted: within what was sent where it is one of its keys, else in the configuration.
    pub key: String,
    /// The value as given; never a secret's. Empty: the problem is not one value's.
    pub value: String,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub remedy: String,
    /// The key of another section that is missing: a form that has it shows the problem there.
    #[serde(skip)]
    pub lacks: Option<String>,
}

impl FieldProblem {
    /// About a field of the form itself.
    pub(super) fn new(
        key: impl Into<String>,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            key: key.into(),
            value: String::new(),
            what: what.into(),
            remedy: remedy.into(),
            lacks: None,
        }
    }
}

impl fmt::Display for FieldProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let equals = if self.value.is_empty() { "" } else { " = " };
        let Self {
            key,
            value,
            what,
            remedy,
            lacks: _,
        } = self;
        write!(f, "{key}{equals}{value}: {what}; {remedy}")
    }
}

/// Something of the configuration as it was written, with whether it may be changed here.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    /// What it is.
    pub section: Section,
    /// Its name.
    pub name: String,
    /// Its keys and values; no secrets.
    pub settings: Settings,
    /// The dotted keys that hold a secret.
    pub secrets: BTreeSet<String>,
    /// It is the file's or the environment's.
    pub read_only: bool,
    /// Why it is left out; empty: it is in force.
    pub problems: Vec<FieldProblem>,
}

/// What a form says about a secret.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Given {
    /// Nothing: the one that is there stays.
    #[default]
    Keep,
    /// There is none any more.
    Clear,
    /// This one.
    Set(Secret),
}

/// Keys and values as a form sends them, its secrets apart.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Input {
    /// Keys and values as the file would have them; no secrets.
    pub settings: Settings,
    /// Secrets by their dotted key; one that is not named stays.
    pub secrets: BTreeMap<String, Given>,
}

impl Input {
    /// Takes the secrets out of what was sent, whatever else is in it: the rest is judged with the
    /// whole configuration. `null` and an empty text mean that there is none.
    ///
    /// # Errors
    /// The key of a secret that is no text: the console makes no secret that is read from a file or
    /// that a command prints.
    fn of(mut sent: Settings, secrets: &[&str]) -> Result<Self, FieldProblem> {
        let mut input = Self::default();
        for key in secrets {
            let given = match take(&mut sent, &key.split('.').collect::<Vec<_>>()) {
                None => continue,
                Some(Value::Null) => Given::Clear,
                Some(Value::String(text)) if text.is_empty() => Given::Clear,
                Some(Value::String(text)) => Given::Set(Secret::new(text)),
                Some(Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
                    let remedy = "write the secret itself, in double quotes; a file or a command that \
                                  gives it can be named in the configuration file alone";
                    return Err(FieldProblem::new(*key, "is not text", remedy));
                }
            };
            input.secrets.insert((*key).to_owned(), given);
        }
        without_nulls(&mut sent);
        input.settings = sent;
        Ok(input)
    }
}

fn take(settings: &mut Settings, path: &[&str]) -> Option<Value> {
    match path {
        [] => None,
        [key] => settings.remove(*key),
        [section, rest @ ..] => take(settings.get_mut(*section)?.as_object_mut()?, rest),
    }
}

/// A key without a value is not written.
fn without_nulls(settings: &mut Settings) {
    settings.retain(|_, value| !value.is_null());
    for value in settings.values_mut() {
        if let Some(inner) = value.as_object_mut() {
            without_nulls(inner);
        }
    }
    settings.retain(|_, value| value.as_object().is_none_or(|inner| !inner.is_empty()));
}

impl Problem {
    /// Something that is not taken, with what is wrong field by field.
    pub(super) fn fields(fields: Vec<FieldProblem>) -> Self {
        Self {
            fields: fields.into(),
            ..Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "this is not taken; what was before stays in force",
            )
        }
    }

    pub(super) fn read_only(section: Section, name: &str) -> Self {
        Self::new(
            StatusCode::CONFLICT,
            format!("{section} {name} stands in the configuration file or the environment"),
        )
        .remedy("change it there, then: gatepost reload")
    }

    fn none(section: Section, name: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            format!("there is no {} called {name}", called(section)),
        )
        .remedy("look at the list of them")
    }

    fn taken(section: Section, name: &str) -> Self {
        Self::new(
            StatusCode::CONFLICT,
            format!("{} {name} is there already", called(section)),
        )
        .remedy("use another name, or change that one")
    }
}

/// What an entry of a section is called where people meet it; in the file some have another name.
fn called(section: Section) -> &'static str {
    match section {
        Section::Client => "login",
        Section::Key => "API key",
        Section::Allow => "allowed network",
        Section::Provider | Section::Account | Section::Hold | Section::Default => section.name(),
    }
}

/// What was sent, as an answer shows it.
fn shown(text: &str) -> String {
    /// Enough to recognise it by.
    const SHOWN_LEN_MAX: usize = 80;
    format!("{:?}", text.chars().take(SHOWN_LEN_MAX).collect::<String>())
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let problem = Self::fields(refused.fields);
        let status = match refused.is_stale {
            true => StatusCode::CONFLICT,
            false => StatusCode::UNPROCESSABLE_ENTITY,
        };
        Self {
            problems: refused.problems,
            fields: problem.fields,
            ..Self::new(status, problem.detail)
        }
    }
}

/// Whose keys in a problem are the form's own.
struct Form<'a> {
    section: Section,
    name: &'a str,
    /// What stands before them in the form: nothing, or `account.`.
    before: &'a str,
}

impl Form<'_> {
    /// The keys of the form as the form knows them.
    fn place(&self, fields: &mut [FieldProblem]) {
        let (section, name, before) = (self.section, self.name, self.before);
        let prefix = format!("{section}.{name}.");
        for field in fields {
            // What is missing here mends it here, whosever key it was told at.
            if let Some(lacks) = field.lacks.take_if(|lacks| lacks.starts_with(&prefix)) {
                field.key = lacks;
                field.value.clear();
            }
            if let Some(key) = field.key.strip_prefix(&prefix) {
                field.key = format!("{before}{key}");
            } else if field.key == section.name() || field.key == format!("{section}.{name}") {
                field.key = format!("{before}name");
            }
        }
    }
}

impl Shared {
    /// What a wish is made up from: taken before anything is looked at.
    fn entries(&self) -> Arc<Entries> {
        self.parts.registry.entries()
    }

    /// Asks the daemon for a change.
    async fn change(&self, wish: Wish, how: How) -> Result<Changed, Refused> {
        request(&self.parts.changes, wish, how).await
    }

    /// Makes a change; what is wrong is told in the keys of these forms.
    async fn apply(&self, wish: Wish, forms: &[Form<'_>]) -> Result<Changed, Problem> {
        let changed = self.change(wish, How::Apply).await;
        changed.map_err(|refused| placed(refused, forms))
    }

    /// Whether the name is taken, in force or not yet shown.
    fn is_taken(&self, based_on: &Entries, section: Section, name: &str) -> bool {
        based_on.get(section, name).is_some() || self.written(section, name).is_some()
    }

    /// One thing as it was written.
    fn written(&self, section: Section, name: &str) -> Option<Written> {
        let view = self.view();
        let mut all = view.written.iter();
        let found = all.find(|one| one.section == section && one.name == name);
        found.cloned()
    }

    /// All of a section as they were written, by name.
    fn all_written(&self, section: Section) -> Vec<Written> {
        let view = self.view();
        let of = view.written.iter().filter(|one| one.section == section);
        let mut of: Vec<Written> = of.cloned().collect();
        of.sort_by(|a, b| a.name.cmp(&b.name));
        of
    }

    /// When it was last changed here; none: it stands elsewhere.
    fn changed_at(&self, section: Section, name: &str) -> Option<Timestamp> {
        let entries = self.parts.registry.entries();
        entries.get(section, name).map(|entry| entry.changed_at)
    }

    /// Whether a form was made up from what is still there. `seen`: when the entry was last changed, as
    /// the form had it; empty: the form does not tell.
    ///
    /// # Errors
    /// Somebody else was faster.
    pub(in crate::admin) fn is_as_seen(
        &self,
        section: Section,
        name: &str,
        seen: &str,
    ) -> Result<(), Problem> {
        let now = self.changed_at(section, name).map(|at| at.to_string());
        match seen.is_empty() || now.as_deref() == Some(seen) {
            true => Ok(()),
            false => Err(Refused::stale(section, name).into()),
        }
    }

    /// Whether it may be changed here.
    fn may_change(&self, section: Section, name: &str) -> Result<Option<Written>, Problem> {
        let written = self.written(section, name);
        match written {
            Some(written) if written.read_only => Err(Problem::read_only(section, name)),
            written => Ok(written),
        }
    }

    /// Something that was made here; an error is told for anything else.
    fn made(&self, section: Section, name: &str) -> Result<Written, Problem> {
        let written = self.may_change(section, name)?;
        written.ok_or_else(|| Problem::none(section, name))
    }

    /// The secrets as they are to be: those that are there, changed by what a form says.
    ///
    /// # Errors
    /// One that is to stay does not open.
    fn secrets(
        based_on: &Entries,
        (section, name): (Section, &str),
        given: BTreeMap<String, Given>,
    ) -> Result<BTreeMap<String, Secret>, Problem> {
        let before = based_on.get(section, name);
        let mut secrets = before.map_or_else(BTreeMap::new, |entry| entry.secrets.clone());
        if let Some(damage) = before.and_then(|entry| entry.damage)
            && given.is_empty()
        {
            let text = damage.to_string();
            let (what, remedy) = text.split_once("; ").unwrap_or((&text, "enter it again"));
            let key = match section {
                Section::Account => "smtp.password",
                Section::Provider
                | Section::Client
                | Section::Key
                | Section::Allow
                | Section::Hold
                | Section::Default => "client_secret",
            };
            return Err(Problem::fields(vec![FieldProblem::new(key, what, remedy)]));
        }
        for (key, given) in given {
            match given {
                Given::Keep => {}
                Given::Clear => {
                    secrets.remove(&key);
                }
                Given::Set(secret) => {
                    secrets.insert(key, secret);
                }
            }
        }
        Ok(secrets)
    }

    /// Removes something that was made here.
    async fn remove(&self, section: Section, name: &str, who: &Who) -> Result<(), Problem> {
        let based_on = self.entries();
        self.made(section, name)?;
        let change = Change::Remove {
            section,
            name: name.to_owned(),
        };
        self.apply(Wish::of(change, based_on), &[]).await?;
        who.changed("remove", section, name);
        Ok(())
    }
}

fn placed(mut refused: Refused, forms: &[Form<'_>]) -> Problem {
    for form in forms {
        form.place(&mut refused.fields);
    }
    refused.into()
}

fn put(
    section: Section,
    name: &str,
    settings: Settings,
    secrets: BTreeMap<String, Secret>,
) -> Change {
    Change::Put {
        section,
        name: name.to_owned(),
        settings,
        secrets,
    }
}
