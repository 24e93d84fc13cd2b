//! Accounts: mailboxes and smarthosts, as they are written, and stopping them by hand.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Json, extract::State, http::StatusCode};
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::{FieldProblem, Form, How, Input, Who, Wish, Written, placed, put};
use crate::{
    admin::{
        Shared,
        api::{Problem, SettingSource},
        handlers::{Answer, AppState, to_its_end},
        problem::{Input as Body, Named},
        text,
    },
    mail::AccountName,
    registry::{Change, Entries, Section, Settings},
};

/// The keys that hold a secret.
pub(super) const SECRETS: [&str; 1] = ["smtp.password"];

/// An account as it was written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a field of the API")]
pub struct AccountSettings {
    /// Its name.
    pub name: AccountName,
    /// Its keys, `smtp`, `limits` and the like as objects in it; what is missing has its default.
    pub settings: Settings,
    /// Whether there is a password for its server.
    pub smtp_password_set: bool,
    /// It stands in the file or the environment.
    pub read_only: bool,
    /// An operator has stopped it.
    pub stopped: bool,
    /// Mail that neither a client nor a route leads elsewhere goes by it.
    pub default: bool,
    /// Why it is left out; empty: it is in force.
    pub problems: Vec<FieldProblem>,
    /// When it was last changed here.
    pub changed_at: Option<Timestamp>,
}

/// What a form sends, or what is wrong with it.
#[derive(Debug)]
pub(in crate::admin) struct Sent(Result<Input, FieldProblem>);

impl<'de> Deserialize<'de> for Sent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Settings::deserialize(deserializer).map(|sent| Self(Input::of(sent, &SECRETS)))
    }
}

impl Shared {
    /// Every account as it was written, those left out as well.
    pub(in crate::admin) fn account_settings(&self) -> Vec<AccountSettings> {
        let all = self.all_written(Section::Account);
        all.into_iter().map(|one| self.account_shown(one)).collect()
    }

    /// One account as it was written.
    ///
    /// # Errors
    /// There is none of that name.
    pub(in crate::admin) fn account_setting(&self, name: &str) -> Result<AccountSettings, Problem> {
        let written = self.written(Section::Account, name);
        let written = written.ok_or_else(|| Problem::none(Section::Account, name))?;
        Ok(self.account_shown(written))
    }

    fn account_shown(&self, written: Written) -> AccountSettings {
        let name = written.name;
        let entries = self.parts.registry.entries();
        AccountSettings {
            settings: written.settings,
            smtp_password_set: written.secrets.contains("smtp.password"),
            read_only: written.read_only,
            stopped: entries.get(Section::Hold, &name).is_some(),
            default: (self.view().default_account.as_ref())
                .is_some_and(|default| default.as_str() == name),
            problems: written.problems,
            changed_at: self.changed_at(Section::Account, &name),
            name: AccountName::new(&name),
        }
    }

    /// Saves an account: a new one, or another form of one that was made here. One with a provider
    /// then asks for a sign-in, if its tokens do not fit any more. Where mail goes to another server
    /// than before, what was entered for the old one does not go along: a password is entered again,
    /// and tokens are revoked, so that a person signs in anew.
    ///
    /// # Errors
    /// What is wrong, field by field; nothing has changed then.
    pub(in crate::admin) async fn save_account(
        &self,
        name: &str,
        input: Input,
        who: &Who,
    ) -> Result<AccountSettings, Problem> {
        let section = Section::Account;
        let based_on = self.entries();
        let before = self.may_change(section, name)?;
        let is_given = input.secrets.contains_key("smtp.password");
        let secrets = Self::secrets(&based_on, (section, name), input.secrets)?;
        let goes_elsewhere =
            before.is_some_and(|before| goes_elsewhere(&before.settings, &input.settings));
        if goes_elsewhere && !is_given && secrets.contains_key("smtp.password") {
            let what =
                "is needed again: it would go to another server than the one it was entered for";
            let remedy = "enter it, or leave host, port, tls and ca_file as they are";
            let problem = FieldProblem::new("smtp.password", what, remedy);
            return Err(Problem::fields(vec![problem]));
        }
        self.stays_with_its_provider(name, &input.settings)?;
        let account = AccountName::new(name);
        let is_signed_in = self.parts.oauth.status(&account).is_some();
        let mut changes = vec![put(section, name, input.settings, secrets)];
        changes.extend(self.default_stays(&based_on, name));
        let wish = Wish::all(changes, based_on);
        let form = Form {
            section,
            name,
            before: "",
        };
        if goes_elsewhere && is_signed_in {
            let judged = self.change(wish.clone(), How::Preview).await;
            judged.map_err(|refused| placed(refused, std::slice::from_ref(&form)))?;
            self.parts.oauth.sign_out(&AccountName::new(name)).await?;
        }
        self.apply(wish, &[form]).await?;
        who.changed("save", section, name);
        self.account_setting(name)
    }

    /// A token that nobody has to sign in for goes where tokens of the same profile go already: the
    /// profile's secret was not entered for any other server.
    ///
    /// # Errors
    /// It would go elsewhere.
    pub(super) fn stays_with_its_provider(
        &self,
        name: &str,
        settings: &Settings,
    ) -> Result<(), Problem> {
        let text = |key: &str| settings.get(key).and_then(Value::as_str);
        let is_unattended = text("grant").is_some_and(|grant| UNATTENDED.contains(&grant));
        let Some(provider) = text("provider").filter(|_| is_unattended) else {
            return Ok(());
        };
        // Where nothing is named it goes to the provider's own server.
        let Some((section, key)) = PLACES
            .into_iter()
            .find(|place| at(settings, *place).is_some())
        else {
            return Ok(());
        };
        let all = self.all_written(Section::Account);
        let mut others = all.iter().filter(|other| {
            let named = other.settings.get("provider").and_then(Value::as_str);
            named == Some(provider)
        });
        if others.any(|other| !goes_elsewhere(&other.settings, settings)) {
            return Ok(());
        }
        let what = format!("no account of provider {provider} has this server");
        let remedy = format!(
            "leave it empty, use the server of another of its accounts, or write [account.{name}] into \
             the configuration file"
        );
        let problem = FieldProblem::new(format!("{section}.{key}"), &what, &remedy);
        Err(Problem::fields(vec![problem]))
    }

    /// Whether [`Self::remove_account`] would.
    ///
    /// # Errors
    /// As there.
    pub(in crate::admin) async fn may_remove_account(&self, name: &str) -> Result<(), Problem> {
        self.made(Section::Account, name)?;
        let account = AccountName::new(name);
        let counts = self.parts.queue.counts().await?;
        let waiting = counts.iter().find(|(of, _)| *of == account);
        let waiting = waiting.map_or(0, |(_, counts)| counts.queued + counts.held);
        if waiting == 0 {
            return Ok(());
        }
        let verb = if waiting == 1 { "waits" } else { "wait" };
        let what = format!("{} {verb} for this account", text::messages(waiting));
        let problem = Problem::new(StatusCode::CONFLICT, what);
        Err(problem.remedy("let it go out, or delete it in the queue"))
    }

    /// Removes an account that was made here: its tokens are revoked where the provider does that, and
    /// forgotten.
    ///
    /// # Errors
    /// Mail waits for it, something names it, or it was not made here. Nothing has changed then.
    pub(in crate::admin) async fn remove_account(
        &self,
        name: &str,
        who: &Who,
    ) -> Result<(), Problem> {
        let section = Section::Account;
        let based_on = self.entries();
        self.may_remove_account(name).await?;
        let owned = || name.to_owned();
        let changes = vec![
            Change::Remove {
                section,
                name: owned(),
            },
            Change::Remove {
                section: Section::Hold,
                name: owned(),
            },
            Change::Remove {
                section: Section::Default,
                name: owned(),
            },
        ];
        let wish = Wish::all(changes, based_on);
        // Judged first: an account that stays keeps its tokens.
        let judged = self.change(wish.clone(), How::Preview).await;
        judged.map_err(|refused| placed(refused, &[]))?;
        let account = AccountName::new(name);
        if self.parts.oauth.status(&account).is_some() {
            self.parts.oauth.sign_out(&account).await?;
        }
        self.apply(wish, &[]).await?;
        who.changed("remove", section, name);
        Ok(())
    }

    /// What keeps an account the default that was it for being the only one: with another one beside it
    /// mail that names none would be refused from one moment to the next.
    pub(super) fn default_stays(&self, based_on: &Entries, added: &str) -> Option<Change> {
        let is_new = self.written(Section::Account, added).is_none();
        let is_chosen = based_on.of(Section::Default).next().is_some();
        let only = self.view().default_account.clone();
        let only = only.filter(|_| is_new && !is_chosen && self.named_default().is_none());
        only.map(|only| mark(Section::Default, only.as_str()))
    }

    /// The account that the file or the environment makes the default.
    pub(in crate::admin) fn named_default(&self) -> Option<String> {
        let view = self.view();
        let mut settings = view.settings.iter();
        let found = settings.find(|it| it.key == "default_account")?;
        let is_named = matches!(
            found.source,
            SettingSource::File | SettingSource::Environment
        );
        is_named.then(|| found.value.clone())
    }

    /// Makes an account the one that mail goes by which neither a client nor a route leads elsewhere.
    ///
    /// # Errors
    /// There is no such account; the file names one.
    pub(in crate::admin) async fn make_default(
        &self,
        name: &AccountName,
        who: &Who,
    ) -> Result<(), Problem> {
        let based_on = self.entries();
        self.known(name)?;
        if let Some(named) = self.named_default() {
            let what = format!("default_account = {named} stands in the configuration");
            return Err(Problem::new(StatusCode::CONFLICT, what)
                .remedy("change it there, then: gatepost reload"));
        }
        let others = based_on.of(Section::Default).map(|(other, _)| other);
        let others = others.filter(|other| *other != name.as_str());
        let mut changes: Vec<Change> = others
            .map(|other| Change::Remove {
                section: Section::Default,
                name: other.to_owned(),
            })
            .collect();
        changes.push(mark(Section::Default, name.as_str()));
        self.apply(Wish::all(changes, based_on), &[]).await?;
        who.changed("make default", Section::Account, name.as_str());
        Ok(())
    }

    /// Stops an account, whoever has made it: mail for it is taken and waits, over restarts too.
    ///
    /// # Errors
    /// There is no such account.
    pub(in crate::admin) async fn hold_account(
        &self,
        name: &AccountName,
        who: &Who,
    ) -> Result<(), Problem> {
        let based_on = self.entries();
        self.known(name)?;
        let change = mark(Section::Hold, name.as_str());
        self.apply(Wish::of(change, based_on), &[]).await?;
        who.changed("hold", Section::Account, name.as_str());
        Ok(())
    }

    /// Lets an account go on: one that an operator has stopped, and one that waits for anything else.
    ///
    /// # Errors
    /// There is no such account.
    pub(in crate::admin) async fn release_account(
        &self,
        name: &AccountName,
        who: &Who,
    ) -> Result<(), Problem> {
        self.known(name)?;
        let based_on = self.entries();
        if based_on.get(Section::Hold, name.as_str()).is_some() {
            let change = Change::Remove {
                section: Section::Hold,
                name: name.to_string(),
            };
            self.apply(Wish::of(change, based_on), &[]).await?;
        }
        self.parts.delivery.wake(name);
        who.changed("release", Section::Account, name.as_str());
        Ok(())
    }
}

/// An entry that says all it has to say by being there.
fn mark(section: Section, name: &str) -> Change {
    put(section, name, Settings::new(), BTreeMap::new())
}

/// Grants that get a token without a person.
const UNATTENDED: [&str; 4] = [
    "client_credentials",
    "service_account",
    "workload_identity",
    "managed_identity",
];

/// The keys that say which server an account has, and on which way.
const PLACES: [(&str, &str); 6] = [
    ("smtp", "host"),
    ("smtp", "port"),
    ("smtp", "tls"),
    ("smtp", "ca_file"),
    ("graph", "url"),
    ("gmail", "url"),
];

fn at(settings: &Settings, (section, key): (&str, &str)) -> Option<String> {
    let value = settings.get(section)?.get(key)?;
    let text = value.as_str().map(str::to_ascii_lowercase);
    Some(text.unwrap_or_else(|| value.to_string()))
}

/// Whether what opens the account's server would be shown to another one, or on another way.
fn goes_elsewhere(before: &Settings, after: &Settings) -> bool {
    let mut places = PLACES.into_iter();
    places.any(|place| at(before, place) != at(after, place))
}

pub(in crate::admin) async fn list(State(shared): AppState) -> Json<Vec<AccountSettings>> {
    Json(shared.account_settings())
}

pub(in crate::admin) async fn show(
    State(shared): AppState,
    Named(name): Named<String>,
) -> Answer<AccountSettings> {
    shared.account_setting(&name).map(Json)
}

pub(in crate::admin) async fn save(
    State(shared): AppState,
    Named(name): Named<String>,
    who: Who,
    Body(Sent(sent)): Body<Sent>,
) -> Answer<AccountSettings> {
    let sent = sent.map_err(|problem| Problem::fields(vec![problem]))?;
    shared.save_account(&name, sent, &who).await.map(Json)
}

pub(in crate::admin) async fn remove(
    State(shared): AppState,
    Named(name): Named<String>,
    who: Who,
) -> Result<StatusCode, Problem> {
    let task = Arc::clone(&shared);
    let removed = to_its_end(&shared.parts.tasks, "remove_account", async move {
        task.remove_account(&name, &who).await
    });
    removed.await.ok_or_else(Problem::lost)??;
    Ok(StatusCode::NO_CONTENT)
}

pub(in crate::admin) async fn hold(
    State(shared): AppState,
    Named(name): Named<AccountName>,
    who: Who,
) -> Result<StatusCode, Problem> {
    shared.hold_account(&name, &who).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(in crate::admin) async fn make_default(
    State(shared): AppState,
    Named(name): Named<AccountName>,
    who: Who,
) -> Result<StatusCode, Problem> {
    shared.make_default(&name, &who).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(in crate::admin) async fn release(
    State(shared): AppState,
    Named(name): Named<AccountName>,
    who: Who,
) -> Result<StatusCode, Problem> {
    shared.release_account(&name, &who).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn another_server_is_elsewhere_and_another_pace_is_not() {
        let before = json!({"smtp": {"host": "Mail.example", "port": 587}, "limits": {}});
        let case = |after: Value| {
            let settings = |value: &Value| value.as_object().unwrap().clone();
            goes_elsewhere(&settings(&before), &settings(&after))
        };
        assert!(!case(
            json!({"smtp": {"host": "mail.example", "port": 587}, "fallback": "x"})
        ));
        assert!(case(json!({"smtp": {"host": "evil.example", "port": 587}})));
        assert!(case(json!({"smtp": {"host": "mail.example", "port": 588}})));
        assert!(case(
            json!({"smtp": {"host": "mail.example", "tls": "none"}})
        ));
        assert!(case(
            json!({"smtp": {"host": "mail.example", "ca_file": "/x"}})
        ));
        assert!(case(
            json!({"smtp": {"host": "mail.example"}, "graph": {"url": "https://x"}})
        ));
        assert!(case(json!({})));
    }
}
