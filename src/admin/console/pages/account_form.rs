//! The form of an account: a new one, or one that was made here.
//!
//! It has the keys that people need; others that were written stay as they are.

use std::{collections::BTreeMap, sync::Arc};

use askama::Template;
use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;

use super::{
    account::path,
    account_keys::{self, GROUPS, Key, Kind, PASSWORD},
};
use crate::{
    admin::{
        Shared,
        api::Problem,
        console::{
            Failed, Frame, Page, Visitor, done,
            form::{Field, Posted},
            render,
        },
        handlers::{AppState, to_its_end},
        made::{FieldProblem, Given, Input, Who, accounts::AccountSettings},
        problem::{Named, Queried},
    },
    mail::AccountName,
    registry::{Section, Settings},
    secret::Secret,
};

/// Said instead of a value: the password that is there is forgotten.
const CLEAR: &str = "smtp.password.clear";

#[derive(Template)]
#[template(path = "admin/console/pages/account_form.html")]
struct FormPage {
    frame: Frame,
    title: String,
    action: String,
    back: String,
    /// What is wrong: the field's id, if it has one, and the text.
    wrong: Vec<(String, String)>,
    groups: Vec<Group>,
    /// Whether there is a password that can be forgotten.
    has_password: bool,
    seen: String,
}

struct Group {
    title: &'static str,
    /// Whether it is shown at once.
    is_open: bool,
    entries: Vec<Entry>,
}

struct Entry {
    field: Field,
    /// Names to choose from, beside none.
    names: Option<Vec<String>>,
}

/// What a new account begins with.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::admin::console) struct Begin {
    provider: String,
}

/// What is in the form, and what is wrong with it.
#[derive(Default)]
struct Filled {
    /// None: a new account.
    name: Option<AccountName>,
    values: BTreeMap<&'static str, String>,
    has_password: bool,
    /// When the account was last changed.
    seen: String,
    wrong: Vec<FieldProblem>,
    problems: Vec<String>,
}

impl Filled {
    /// From the keys as they were written.
    fn written(written: &AccountSettings) -> Self {
        let values = account_keys::all().map(|key| (key.name, key.shown(&written.settings)));
        let changed_at = written.changed_at;
        Self {
            name: Some(written.name.clone()),
            values: values.collect(),
            has_password: written.smtp_password_set,
            seen: changed_at.map(|at| at.to_string()).unwrap_or_default(),
            ..Self::default()
        }
    }

    /// From what was typed; secrets are typed again.
    fn typed(name: Option<AccountName>, posted: &Posted) -> Self {
        let open = account_keys::all().filter(|key| key.kind != Kind::Secret);
        let values = open.map(|key| (key.name, posted.text(key.name).to_owned()));
        Self {
            name,
            values: values.collect(),
            seen: posted.text("seen").to_owned(),
            ..Self::default()
        }
    }

    fn refused(&mut self, problem: &Problem) {
        let is_of_form =
            |field: &&FieldProblem| account_keys::all().any(|key| key.name == field.key);
        let (of_form, others): (Vec<_>, Vec<_>) = problem.fields.iter().partition(is_of_form);
        self.wrong.extend(of_form.into_iter().cloned());
        let others = others.iter().map(ToString::to_string);
        self.problems
            .extend(others.chain(problem.problems.iter().cloned()));
        if problem.fields.is_empty() && problem.problems.is_empty() {
            self.problems.push(problem.to_string());
        }
    }

    fn entry(&self, key: &Key, shared: &Shared) -> Option<Entry> {
        let is_edit = self.name.is_some();
        if key.name == "name" && is_edit {
            return None;
        }
        let names = match key.kind {
            Kind::Provider => Some(shared.providers().into_iter().map(|it| it.name).collect()),
            Kind::Account => {
                let all = shared.account_settings().into_iter().map(|it| it.name);
                let others = all.filter(|name| Some(name) != self.name.as_ref());
                Some(others.map(|name| name.to_string()).collect())
            }
            Kind::Text | Kind::Number | Kind::Flag | Kind::List | Kind::Secret => None,
        };
        let wrong = self.wrong.iter().filter(|problem| problem.key == key.name);
        let wrong: Vec<String> = wrong
            .map(|problem| format!("{}; {}", problem.what, problem.remedy))
            .collect();
        let kept = "One is set and is not shown; leave this empty to keep it. ";
        let kept = if key.kind == Kind::Secret && self.has_password {
            kept
        } else {
            ""
        };
        Some(Entry {
            field: Field {
                name: key.name,
                label: key.label,
                value: self.values.get(key.name).cloned().unwrap_or_default(),
                help: format!("{kept}{}", key.help),
                error: (!wrong.is_empty()).then(|| wrong.join("; ")),
                kind: key.input(),
                autocomplete: if key.kind == Kind::Secret {
                    "new-password"
                } else {
                    "off"
                },
                choices: key.choices.to_vec(),
                // A choice is always made.
                is_required: key.name == "name" || !key.choices.is_empty(),
                ..Field::default()
            },
            names,
        })
    }

    fn render(&self, shared: &Shared, visitor: &Visitor, status: StatusCode) -> Response {
        let groups = GROUPS.iter().map(|(title, keys)| {
            let entries: Vec<Entry> = keys
                .iter()
                .filter_map(|key| self.entry(key, shared))
                .collect();
            let is_used =
                |entry: &Entry| entry.field.error.is_some() || !entry.field.value.is_empty();
            Group {
                title,
                is_open: entries.iter().any(is_used),
                entries,
            }
        });
        let groups: Vec<Group> = groups.collect();
        let of_form = self
            .problems
            .iter()
            .map(|text| (String::new(), text.clone()));
        let entries = groups.iter().flat_map(|group| &group.entries);
        let of_fields = entries.filter_map(|Entry { field, .. }| {
            let error = field.error.as_ref()?;
            Some((field.name.to_owned(), format!("{}: {error}", field.label)))
        });
        let page = FormPage {
            wrong: of_form.chain(of_fields).collect(),
            frame: Frame::new(shared, visitor, "/accounts"),
            title: self.name.as_ref().map_or_else(
                || "Add account".to_owned(),
                |name| format!("Edit account {name}"),
            ),
            action: self.action(),
            back: match &self.name {
                Some(name) => path(name.as_str()),
                None => "/accounts".to_owned(),
            },
            groups,
            has_password: self.has_password,
            seen: self.seen.clone(),
        };
        render(status, &page)
    }

    fn action(&self) -> String {
        match &self.name {
            Some(name) => format!("{}/edit", path(name.as_str())),
            None => "/accounts/new".to_owned(),
        }
    }
}

pub(in crate::admin::console) async fn new(
    State(shared): AppState,
    Queried(begin): Queried<Begin>,
    visitor: Visitor,
) -> Response {
    let filled = Filled {
        values: BTreeMap::from([("provider", begin.provider)]),
        ..Filled::default()
    };
    filled.render(&shared, &visitor, StatusCode::OK)
}

pub(in crate::admin::console) async fn edit(
    State(shared): AppState,
    Named(name): Named<AccountName>,
    visitor: Visitor,
) -> Page {
    let written = shared.account_setting(name.as_str())?;
    if written.read_only {
        let what = "This account stands in the configuration file or in the environment.";
        return Err(Failed(
            Problem::new(StatusCode::CONFLICT, what).remedy("change it there, then reload"),
        ));
    }
    let filled = Filled::written(&written);
    Ok(filled.render(&shared, &visitor, StatusCode::OK))
}

pub(in crate::admin::console) async fn create(
    State(shared): AppState,
    visitor: Visitor,
    who: Who,
    posted: Posted,
) -> Response {
    let name = posted.text("name").to_owned();
    let mut filled = Filled::typed(None, &posted);
    // `new` is this page's own address. A name that none can have is told with all the rest.
    let taken = match name.as_str() {
        "new" => Some("is a word of the console's own"),
        name if shared.account_setting(name).is_ok() => Some("is another account's"),
        _ => None,
    };
    filled.wrong.extend(taken.map(|what| FieldProblem {
        value: name.clone(),
        ..FieldProblem::new("name", what, "use another name")
    }));
    save(
        &shared,
        &visitor,
        (&name, &who),
        (filled, Settings::new()),
        &posted,
    )
    .await
}

pub(in crate::admin::console) async fn change(
    State(shared): AppState,
    Named(name): Named<AccountName>,
    visitor: Visitor,
    who: Who,
    posted: Posted,
) -> Response {
    let written = match shared.account_setting(name.as_str()) {
        Ok(written) => written,
        Err(problem) => return Failed(problem).into_response(),
    };
    let mut filled = Filled::typed(Some(name.clone()), &posted);
    filled.has_password = written.smtp_password_set;
    let seen = shared.is_as_seen(Section::Account, name.as_str(), &filled.seen);
    if let Err(problem) = seen {
        filled.refused(&problem);
        return filled.render(&shared, &visitor, StatusCode::CONFLICT);
    }
    let before = written.settings;
    save(
        &shared,
        &visitor,
        (name.as_str(), &who),
        (filled, before),
        &posted,
    )
    .await
}

async fn save(
    shared: &Arc<Shared>,
    visitor: &Visitor,
    (name, who): (&str, &Who),
    (mut filled, before): (Filled, Settings),
    posted: &Posted,
) -> Response {
    let settings = match account_keys::merged(before, posted) {
        Ok(settings) => settings,
        Err(wrong) => {
            filled.wrong.extend(wrong);
            Settings::new()
        }
    };
    if !filled.wrong.is_empty() {
        return filled.render(shared, visitor, StatusCode::UNPROCESSABLE_ENTITY);
    }
    let input = Input {
        settings,
        secrets: secrets(posted),
    };
    let (task, owned, by) = (Arc::clone(shared), name.to_owned(), who.clone());
    let saved = to_its_end(&shared.parts.tasks, "save_account", async move {
        task.save_account(&owned, input, &by).await
    });
    match saved.await.ok_or_else(Problem::lost).flatten() {
        Ok(saved) => {
            let token = shared.parts.oauth.status(&saved.name);
            let is_new = token.is_some_and(|status| status.last_refresh_at.is_none());
            let text = match is_new && shared.ways(&saved.name).needs_person() {
                true => "Saved. Sign in to let mail flow.",
                false => "Saved, and in force.",
            };
            done(shared, visitor, &path(name), text)
        }
        Err(problem) => {
            filled.refused(&problem);
            let status = StatusCode::from_u16(problem.status);
            let status = status.unwrap_or(StatusCode::UNPROCESSABLE_ENTITY);
            filled.render(shared, visitor, status)
        }
    }
}

/// What is said about the password; nothing: the one that is there stays.
fn secrets(posted: &Posted) -> BTreeMap<String, Given> {
    let typed = posted.raw(PASSWORD);
    let given = match (typed, posted.raw(CLEAR)) {
        ("", "yes") => Given::Clear,
        ("", _) => return BTreeMap::new(),
        (typed, _) => Given::Set(Secret::new(typed.to_owned())),
    };
    BTreeMap::from([(PASSWORD.to_owned(), given)])
}
