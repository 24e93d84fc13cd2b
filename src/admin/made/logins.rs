//! Logins of devices: made with a password that is shown once and kept as a hash alone.

use std::{collections::BTreeMap, fmt, sync::Arc};

use axum::{Json, extract::State, http::StatusCode};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{FieldProblem, Form, Who, Wish, put};
use crate::{
    admin::{
        Shared,
        api::Problem,
        handlers::{Answer, AppState},
        problem::{Input as Body, Named},
    },
    registry::{Entries, Section, Settings},
    secret::Secret,
    submission,
};

/// Letters and digits that nobody takes for another one, on a printer's little screen either.
const LETTERS: &[u8; 32] = b"abcdefghjkmnpqrstuvwxyz23456789A";
/// 100 bits: more than anybody guesses, and short enough for devices that take no long ones.
const PASSWORD_LEN: usize = 20;

/// A login as listings show it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Login {
    /// The name that the device logs in with.
    pub name: String,
    /// Its mail goes by this account; none: by the routes.
    pub account: Option<String>,
    /// Which senders it may use; empty: any.
    pub senders: Vec<String>,
    /// Whether it may log in at all.
    pub enabled: bool,
    /// It stands in the file.
    pub read_only: bool,
    /// Why it is left out; empty: it is in force.
    pub problems: Vec<FieldProblem>,
    /// When it was last changed here.
    pub changed_at: Option<Timestamp>,
}

/// A login to make.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewLogin {
    /// The name that the device logs in with.
    pub name: String,
    /// Its mail goes by this account; none: by the routes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// Which senders it may use; empty: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub senders: Vec<String>,
}

/// What of a login can be changed: everything else is left as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangedLogin {
    /// Its mail goes by this account; none: by the routes.
    #[serde(default)]
    pub account: Option<String>,
    /// Which senders it may use; empty: any.
    #[serde(default)]
    pub senders: Vec<String>,
}

impl ChangedLogin {
    fn written(self) -> impl Iterator<Item = (String, Value)> {
        let account = self.account.filter(|account| !account.is_empty());
        let account = account.map(|account| ("account".to_owned(), account.into()));
        let senders = (!self.senders.is_empty()).then(|| self.senders.into());
        let senders = senders.map(|senders| ("senders".to_owned(), senders));
        account.into_iter().chain(senders)
    }
}

/// A login with its password, which is told this once.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoginPassword {
    /// The name.
    pub name: String,
    /// The password.
    pub password: String,
}

impl fmt::Debug for LoginPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LoginPassword({})", self.name)
    }
}

/// A login as it is to be, and what that was made up from.
struct Drawn {
    name: String,
    settings: Settings,
    based_on: Arc<Entries>,
}

impl Shared {
    /// Every login.
    pub(in crate::admin) fn logins(&self) -> Vec<Login> {
        let all = self.all_written(Section::Client).into_iter();
        let logins = all.map(|written| {
            let text = |key: &str| written.settings.get(key).and_then(Value::as_str);
            let senders = written.settings.get("senders").and_then(Value::as_array);
            let senders = senders.into_iter().flatten().filter_map(Value::as_str);
            let disabled = written.settings.get("disabled").and_then(Value::as_bool);
            Login {
                account: text("account").map(str::to_owned),
                senders: senders.map(str::to_owned).collect(),
                enabled: disabled != Some(true),
                read_only: written.read_only,
                problems: written.problems,
                changed_at: self.changed_at(Section::Client, &written.name),
                name: written.name,
            }
        });
        logins.collect()
    }

    /// A login that can be changed here.
    ///
    /// # Errors
    /// There is none of that name, or it was not made here.
    pub(in crate::admin) fn made_login(&self, name: &str) -> Result<Login, Problem> {
        self.made(Section::Client, name)?;
        let login = self.logins().into_iter().find(|login| login.name == name);
        login.ok_or_else(|| Problem::none(Section::Client, name))
    }

    /// Makes a login; its password is told this once.
    ///
    /// # Errors
    /// What is wrong, field by field; there is one of that name.
    pub(in crate::admin) async fn add_login(
        &self,
        new: NewLogin,
        who: &Who,
    ) -> Result<LoginPassword, Problem> {
        let name = new.name.trim().to_owned();
        if name.is_empty() {
            let remedy = "write the name that the device logs in with";
            let problem = FieldProblem::new("name", "is needed", remedy);
            return Err(Problem::fields(vec![problem]));
        }
        let based_on = self.entries();
        if self.is_taken(&based_on, Section::Client, &name) {
            return Err(Problem::taken(Section::Client, &name));
        }
        let NewLogin {
            account, senders, ..
        } = new;
        let login = Drawn {
            name,
            settings: ChangedLogin { account, senders }.written().collect(),
            based_on,
        };
        self.with_password(login, ("add", who)).await
    }

    /// Gives a login another password, told this once; the old one is good no more.
    ///
    /// # Errors
    /// It was not made here.
    pub(in crate::admin) async fn rotate_login(
        &self,
        name: &str,
        who: &Who,
    ) -> Result<LoginPassword, Problem> {
        let login = self.drawn(name)?;
        self.with_password(login, ("rotate", who)).await
    }

    /// Changes whom a login sends as and by which account; it is as it was beside that.
    ///
    /// # Errors
    /// What is wrong, field by field; it was not made here.
    pub(in crate::admin) async fn change_login(
        &self,
        name: &str,
        changed: ChangedLogin,
        who: &Who,
    ) -> Result<(), Problem> {
        let mut login = self.drawn(name)?;
        for key in ["account", "senders"] {
            login.settings.remove(key);
        }
        login.settings.extend(changed.written());
        self.put_login(login).await?;
        who.changed("save", Section::Client, name);
        Ok(())
    }

    /// Lets a login in again, or in no more.
    ///
    /// # Errors
    /// It was not made here.
    pub(in crate::admin) async fn enable_login(
        &self,
        name: &str,
        enabled: bool,
        who: &Who,
    ) -> Result<(), Problem> {
        let mut login = self.drawn(name)?;
        match enabled {
            true => login.settings.remove("disabled"),
            false => login.settings.insert("disabled".to_owned(), true.into()),
        };
        self.put_login(login).await?;
        let what = if enabled { "enable" } else { "disable" };
        who.changed(what, Section::Client, name);
        Ok(())
    }

    /// Removes a login.
    ///
    /// # Errors
    /// It was not made here, or a route names it.
    pub(in crate::admin) async fn remove_login(
        &self,
        name: &str,
        who: &Who,
    ) -> Result<(), Problem> {
        self.remove(Section::Client, name, who).await
    }

    /// What is kept of a login that was made here, its hash included.
    fn drawn(&self, name: &str) -> Result<Drawn, Problem> {
        let based_on = self.entries();
        self.made(Section::Client, name)?;
        let entry = based_on.get(Section::Client, name);
        let entry = entry.ok_or_else(|| Problem::none(Section::Client, name))?;
        Ok(Drawn {
            name: name.to_owned(),
            settings: entry.settings.clone(),
            based_on,
        })
    }

    /// Takes its time: a change of the login meanwhile is not undone by it.
    async fn with_password(
        &self,
        mut login: Drawn,
        (what, who): (&str, &Who),
    ) -> Result<LoginPassword, Problem> {
        // argon2id takes its time.
        let made = tokio::task::spawn_blocking(|| {
            let password = new_password()?;
            let hash = submission::hash_password(&Secret::new(password.as_str())).ok()?;
            Some((password, hash))
        });
        let made = made.await.ok().flatten();
        let (password, hash) = made.ok_or_else(no_randomness)?;
        let name = login.name.clone();
        let hash = hash.into();
        login.settings.insert("password_hash".to_owned(), hash);
        self.put_login(login).await?;
        who.changed(what, Section::Client, &name);
        Ok(LoginPassword { name, password })
    }

    async fn put_login(&self, login: Drawn) -> Result<(), Problem> {
        let name = &login.name;
        let change = put(Section::Client, name, login.settings, BTreeMap::new());
        let form = Form {
            section: Section::Client,
            name,
            before: "",
        };
        let wish = Wish::of(change, login.based_on);
        self.apply(wish, &[form]).await.map(drop)
    }
}

/// A password that can be typed. `None`: the system gives no randomness.
fn new_password() -> Option<String> {
    let mut octets = zeroize::Zeroizing::new([0; PASSWORD_LEN]);
    getrandom::fill(octets.as_mut()).ok()?;
    // 32 letters: each octet gives five even bits.
    let letters = octets
        .iter()
        .map(|octet| LETTERS.get(usize::from(octet % 32)));
    letters
        .map(|letter| letter.copied().map(char::from))
        .collect()
}

pub(super) fn no_randomness() -> Problem {
    Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "the system gives no randomness",
    )
    .remedy("try again; if it stays, restart the machine")
}

pub(in crate::admin) async fn list(State(shared): AppState) -> Json<Vec<Login>> {
    Json(shared.logins())
}

pub(in crate::admin) async fn add(
    State(shared): AppState,
    who: Who,
    Body(new): Body<NewLogin>,
) -> Result<(StatusCode, Json<LoginPassword>), Problem> {
    let made = shared.add_login(new, &who).await?;
    Ok((StatusCode::CREATED, Json(made)))
}

pub(in crate::admin) async fn change(
    State(shared): AppState,
    Named(name): Named<String>,
    who: Who,
    Body(changed): Body<ChangedLogin>,
) -> Result<StatusCode, Problem> {
    shared.change_login(&name, changed, &who).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(in crate::admin) async fn rotate(
    State(shared): AppState,
    Named(name): Named<String>,
    who: Who,
) -> Answer<LoginPassword> {
    shared.rotate_login(&name, &who).await.map(Json)
}

pub(in crate::admin) async fn enable(
    State(shared): AppState,
    Named(name): Named<String>,
    who: Who,
) -> Result<StatusCode, Problem> {
    shared.enable_login(&name, true, &who).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(in crate::admin) async fn disable(
    State(shared): AppState,
    Named(name): Named<String>,
    who: Who,
) -> Result<StatusCode, Problem> {
    shared.enable_login(&name, false, &who).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(in crate::admin) async fn remove(
    State(shared): AppState,
    Named(name): Named<String>,
    who: Who,
) -> Result<StatusCode, Problem> {
    shared.remove_login(&name, &who).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_can_be_typed_and_is_another_each_time() {
        let letters: std::collections::BTreeSet<u8> = LETTERS.iter().copied().collect();
        assert_eq!(letters.len(), 32, "each letter once");
        assert!(!LETTERS.iter().any(|letter| b"0O1lIio".contains(letter)));
        let (first, second) = (new_password().unwrap(), new_password().unwrap());
        assert_eq!(first.len(), PASSWORD_LEN);
        assert!(first.bytes().all(|letter| letters.contains(&letter)));
        assert_ne!(first, second);
    }
}
