//! Provider profiles: the list, a form for one with a guide beside it, and removing one. Saving leads
//! to the provider's sign-in; what was before stays until that has succeeded.

mod fields;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use askama::Template;
use axum::{
    extract::{RawQuery, State},
    http::StatusCode,
    response::Response,
};
use jiff::Timestamp;
use serde_json::Value;
use url::Url;

use self::fields::{Part, Shown};
use crate::{
    admin::{
        Shared,
        api::Problem,
        console::{
            Confirm, Frame, Page, Visitor, confirm, done, failed,
            form::{Field, Posted},
            redirect, render,
            view::{Badge, Moment},
        },
        handlers::AppState,
        made::{
            FieldProblem, Who,
            presets::{Preset, PresetQuery},
            providers::{Provider, Saved},
        },
        problem::Named,
    },
    oauth::{Kind, WARN_BEFORE},
    registry::{Section, Settings},
};

const HERE: &str = "/providers";
const NEW: &str = "/providers/new";
/// In a query: the sign-in whose form is to be filled in again as it was typed.
pub(super) const AGAIN: &str = "again";

#[derive(Template)]
#[template(path = "admin/console/pages/providers/list.html")]
struct List {
    frame: Frame,
    rows: Vec<Row>,
}

/// A profile of the list.
struct Row {
    provider: Provider,
    path: String,
    kind: &'static str,
    description: String,
    badge: Badge,
    expires: Option<Expires>,
    changed: Option<Moment>,
}

/// When a client secret ends.
struct Expires {
    at: Moment,
    /// Where it needs attention.
    badge: Option<Badge>,
}

#[derive(Template)]
#[template(path = "admin/console/pages/providers/edit.html")]
struct Edit {
    frame: Frame,
    /// None: it is to be added.
    provider: Option<Provider>,
    kind: Kind,
    preset: Preset,
    title: String,
    action: String,
    /// What was sent is not taken; else what is wrong is wrong with what is written.
    is_refused: bool,
    /// What is wrong: the field's id, if it has one, and the text.
    wrong: Vec<(String, String)>,
    profile: Vec<Field>,
    more: Vec<Field>,
    is_more_open: bool,
    /// When what it changes was last changed.
    seen: String,
    /// Empty: it has accounts.
    account: Vec<Field>,
    /// Which account signs in.
    sign_in_as: String,
    device: bool,
}

impl Edit {
    fn is_client_secret_set(&self) -> bool {
        let provider = self.provider.as_ref();
        provider.is_some_and(|provider| provider.secrets.client_secret_set)
    }

    /// What to register at the provider.
    fn redirect_url(&self) -> String {
        let mut fields = self.profile.iter();
        let field = fields.find(|field| field.name == "redirect_url");
        let typed = field.map(|field| field.value.clone());
        let typed = typed.filter(|value| !value.is_empty());
        let known = self.preset.redirect_url.as_ref().map(Url::to_string);
        typed
            .or(known)
            .unwrap_or_else(|| "https://NAME:PORT/authorization/smtp_oauth/".to_owned())
    }

    fn known_scope(&self) -> &str {
        &self.preset.scope
    }

    fn api_scope(&self) -> &str {
        self.preset.api_scope.as_deref().unwrap_or_default()
    }

    fn tabs(&self) -> [(&'static str, &'static str, bool); 3] {
        let tab = |kind, word, name| (word, name, self.kind == kind);
        [
            tab(Kind::Microsoft, "microsoft", "Microsoft"),
            tab(Kind::Google, "google", "Google"),
            tab(Kind::Custom, "custom", "Custom"),
        ]
    }

    fn is_microsoft(&self) -> bool {
        self.kind == Kind::Microsoft
    }

    fn is_google(&self) -> bool {
        self.kind == Kind::Google
    }
}

#[derive(Template)]
#[template(path = "admin/console/pages/providers/read_only.html")]
struct ReadOnly {
    frame: Frame,
    provider: Provider,
    kind: &'static str,
    rows: Vec<(&'static str, String)>,
    file: Option<String>,
}

/// What a kind is called.
fn called(kind: Kind) -> &'static str {
    match kind {
        Kind::Microsoft => "Microsoft",
        Kind::Google => "Google",
        Kind::Custom => "Custom",
    }
}

/// The page of a profile.
pub(super) fn path(name: &str) -> String {
    format!("{HERE}/{}", super::segment(name))
}

pub(in crate::admin::console) async fn list(State(shared): AppState, visitor: Visitor) -> Page {
    let now = shared.parts.clock.now();
    let providers = shared.providers().into_iter();
    let page = List {
        frame: Frame::new(&shared, &visitor, HERE),
        rows: providers.map(|one| Row::new(one, now)).collect(),
    };
    Ok(render(StatusCode::OK, &page))
}

impl Row {
    fn new(provider: Provider, now: Timestamp) -> Self {
        let expires_at = provider
            .effective
            .as_ref()
            .and_then(|it| it.client_secret_expires_at);
        Self {
            path: path(&provider.name),
            kind: called(kind_of(&provider.settings)),
            description: fields::written(&provider.settings, "description"),
            badge: if provider.effective.is_some() {
                Badge {
                    tone: "good",
                    word: "in force",
                }
            } else {
                Badge {
                    tone: "bad",
                    word: "left out",
                }
            },
            expires: expires_at.map(|at| Expires::new(at, now)),
            changed: provider.changed_at.map(|at| Moment::new(at, now)),
            provider,
        }
    }
}

impl Expires {
    fn new(at: Timestamp, now: Timestamp) -> Self {
        let left = at.duration_since(now);
        let badge = |tone, word| Some(Badge { tone, word });
        Self {
            at: Moment::new(at, now),
            badge: match left {
                left if left.is_negative() => badge("bad", "expired"),
                left if left <= WARN_BEFORE => badge("warn", "soon"),
                _ => None,
            },
        }
    }
}

/// The kind that settings name; any provider can be described as a custom one.
fn kind_of(settings: &Settings) -> Kind {
    let kind = settings.get("kind").cloned().unwrap_or_default();
    serde_json::from_value(kind).unwrap_or(Kind::Custom)
}

/// The kind that a link or a form names; most people come with a mailbox of Microsoft's.
fn kind_named(name: &str) -> Kind {
    serde_json::from_value(Value::from(name)).unwrap_or(Kind::Microsoft)
}

/// What is known of the provider that a form describes.
fn preset(shared: &Shared, kind: Kind, value: &dyn Fn(&str) -> String) -> Preset {
    let given = |key| Some(value(key)).filter(|text| kind == Kind::Microsoft && !text.is_empty());
    shared.preset(&PresetQuery {
        kind,
        tenant: given("tenant"),
        cloud: given("cloud").and_then(|cloud| serde_json::from_value(cloud.into()).ok()),
    })
}

/// The form for a new profile, of the kind in the query.
pub(in crate::admin::console) async fn new(
    State(shared): AppState,
    visitor: Visitor,
    RawQuery(query): RawQuery,
) -> Page {
    let query = Posted::parse(query.unwrap_or_default().as_bytes());
    let typed = shared.typed.find(query.text(AGAIN));
    let draft = Draft {
        provider: None,
        kind: kind_named(typed.as_deref().unwrap_or(&query).text("kind")),
        posted: typed.as_deref(),
        problem: None,
    };
    Ok(draft.page(&shared, &visitor))
}

pub(in crate::admin::console) async fn show(
    State(shared): AppState,
    Named(name): Named<String>,
    visitor: Visitor,
    RawQuery(query): RawQuery,
) -> Page {
    let provider = shared.provider(&name)?;
    if provider.read_only {
        return Ok(read_only(&shared, &visitor, provider));
    }
    let query = Posted::parse(query.unwrap_or_default().as_bytes());
    let typed = shared.typed.find(query.text(AGAIN));
    let draft = Draft {
        kind: kind_of(&provider.settings),
        provider: Some(provider),
        posted: typed.as_deref(),
        problem: None,
    };
    Ok(draft.page(&shared, &visitor))
}

/// What the file has, with what follows from it.
fn read_only(shared: &Shared, visitor: &Visitor, provider: Provider) -> Response {
    let kind = kind_of(&provider.settings);
    let specs = fields::profile(kind);
    let rows = specs.filter_map(|spec| Some((spec.label, told(&provider, spec.key)?)));
    let page = ReadOnly {
        frame: Frame::new(shared, visitor, HERE),
        kind: called(kind),
        rows: rows.collect(),
        file: shared
            .view()
            .config_file
            .as_ref()
            .map(|file| file.display().to_string()),
        provider,
    };
    render(StatusCode::OK, &page)
}

/// What holds for a key; of a secret whether there is one. None: nothing does.
fn told(provider: &Provider, key: &str) -> Option<String> {
    if fields::is_set(key, Some(provider.secrets)) {
        return Some("set; it is never shown".to_owned());
    }
    let known = provider.effective.as_ref().and_then(|effective| match key {
        "authorization_url" => effective
            .authorization_url
            .as_ref()
            .map(ToString::to_string),
        "token_url" => effective.token_url.as_ref().map(ToString::to_string),
        "device_authorization_url" => {
            let url = effective.device_authorization_url.as_ref();
            url.map(ToString::to_string)
        }
        "redirect_url" => Some(effective.redirect_url.to_string()),
        "scope" => Some(effective.scope.clone()),
        "client_secret_expires" => {
            let at = effective.client_secret_expires_at?;
            Some(at.strftime("%Y-%m-%d").to_string())
        }
        _ => None,
    });
    let written = || fields::written(&provider.settings, key);
    let text = known.unwrap_or_else(written);
    (!text.is_empty()).then_some(text)
}

pub(in crate::admin::console) async fn add(
    State(shared): AppState,
    visitor: Visitor,
    who: Who,
    posted: Posted,
) -> Page {
    let kind = kind_named(posted.text("kind"));
    let name = posted.text("name");
    // Without a name it is judged with all the rest, and refused for that.
    let is_taken = shared.provider(name).is_ok();
    let draft = Draft {
        provider: None,
        kind,
        posted: Some(&posted),
        problem: is_taken.then(|| {
            Problem::fields(vec![FieldProblem {
                value: name.to_owned(),
                ..FieldProblem::new(
                    "name",
                    "is another profile's",
                    "use another name, or change that one",
                )
            }])
        }),
    };
    Ok(draft.save(&shared, &visitor, &who, name).await)
}

pub(in crate::admin::console) async fn save(
    State(shared): AppState,
    Named(name): Named<String>,
    visitor: Visitor,
    who: Who,
    posted: Posted,
) -> Page {
    let provider = shared.provider(&name)?;
    if provider.read_only {
        let problem = Problem::read_only(Section::Provider, &name);
        return Ok(failed(&shared, &visitor, &path(&name), &problem));
    }
    let seen = shared.is_as_seen(Section::Provider, &name, posted.text("seen"));
    let draft = Draft {
        kind: kind_of(&provider.settings),
        provider: Some(provider),
        posted: Some(&posted),
        problem: seen.err(),
    };
    Ok(draft.save(&shared, &visitor, &who, &name).await)
}

/// A profile as it is being written.
struct Draft<'a> {
    /// What is there already.
    provider: Option<Provider>,
    kind: Kind,
    /// What was typed.
    posted: Option<&'a Posted>,
    /// Why that is not taken.
    problem: Option<Problem>,
}

impl Draft<'_> {
    /// Saves it, if nothing is known to be wrong with it, and leads on to the sign-in.
    async fn save(mut self, shared: &Shared, visitor: &Visitor, who: &Who, name: &str) -> Response {
        let Some(posted) = self.posted.filter(|_| self.problem.is_none()) else {
            return self.page(shared, visitor);
        };
        let preset = preset(shared, self.kind, &|key| posted.text(key).to_owned());
        let before = self.provider.as_ref().map(|it| it.settings.clone());
        let sent = fields::input(
            posted,
            (self.kind, &preset),
            before.unwrap_or_default(),
            self.asks_for_account(),
        );
        match shared.save_provider(name, sent, who).await {
            Ok(Saved::SignIn(sign_in)) => {
                let id = sign_in.id();
                let is_secret = |name: &str| {
                    let mut specs = fields::specs(self.kind);
                    name == "csrf" || specs.any(|spec| spec.key == name && spec.is_secret())
                };
                shared.typed.keep(id, Arc::new(posted.without(is_secret)));
                redirect(&super::sign_in::path(id))
            }
            Ok(Saved::InForce(_)) => {
                let text = format!("Provider {name} is saved and in force.");
                done(shared, visitor, HERE, text)
            }
            Err(problem) => {
                self.problem = Some(problem);
                self.page(shared, visitor)
            }
        }
    }

    /// The tokens of a sign-in are an account's: where there is none, one is added with it.
    fn asks_for_account(&self) -> bool {
        let provider = self.provider.as_ref();
        provider.is_none_or(|provider| provider.accounts.is_empty())
    }

    /// What stands in a field: what was typed, else what is written.
    fn value(&self, key: &str) -> String {
        if let Some(posted) = self.posted {
            return match (key, &self.provider) {
                ("name", Some(provider)) => provider.name.clone(),
                _ => posted.text(key).to_owned(),
            };
        }
        let Some(provider) = &self.provider else {
            return String::new();
        };
        match key {
            "name" => provider.name.clone(),
            key => fields::written(&provider.settings, key),
        }
    }

    /// What is wrong, field by field: with what was sent, or with what is written and left out.
    fn problems(&self) -> Vec<FieldProblem> {
        match (&self.problem, &self.provider) {
            (Some(problem), _) => problem.fields.to_vec(),
            (None, Some(provider)) => {
                let prefix = format!("provider.{}.", provider.name);
                let problems = provider.problems.iter().cloned();
                problems
                    .map(|problem| FieldProblem {
                        key: match problem.key.strip_prefix(&prefix) {
                            Some(key) => key.to_owned(),
                            None => problem.key,
                        },
                        ..problem
                    })
                    .collect()
            }
            (None, None) => Vec::new(),
        }
    }

    /// The form. A status of an error where there is one.
    fn page(self, shared: &Shared, visitor: &Visitor) -> Response {
        let value = |key: &str| self.value(key);
        let mut preset = preset(shared, self.kind, &value);
        let effective = self.provider.as_ref().and_then(|it| it.effective.as_ref());
        if let Some(effective) = effective.filter(|_| value("scope").is_empty()) {
            // What the accounts need counts in.
            effective.scope.clone_into(&mut preset.scope);
        }
        let problems = self.problems();
        let shown = Shown {
            kind: self.kind,
            preset: &preset,
            problems: &problems,
            secrets: self.provider.as_ref().map(|it| it.secrets),
            value: &value,
        };
        let more = shown.fields(Part::More);
        let secrets = self.provider.as_ref().map(|it| it.secrets);
        let is_used = |field: &Field| {
            !field.value.is_empty() || field.error.is_some() || fields::is_set(field.name, secrets)
        };
        let text = |key| self.posted.map_or("", |posted| posted.text(key));
        let changed_at = self.provider.as_ref().and_then(|it| it.changed_at);
        let status = self.problem.as_ref().map_or(200, |problem| problem.status);
        let page = Edit {
            frame: Frame::new(shared, visitor, HERE),
            is_refused: self.problem.is_some(),
            wrong: wrong(self.kind, self.problem.as_ref(), &problems),
            profile: shown.fields(Part::Profile),
            is_more_open: more.iter().any(is_used),
            account: if self.asks_for_account() {
                shown.fields(Part::Account)
            } else {
                Vec::new()
            },
            seen: match text("seen") {
                "" => changed_at.map(|at| at.to_string()).unwrap_or_default(),
                seen => seen.to_owned(),
            },
            sign_in_as: text("sign_in_as").to_owned(),
            device: text("device") == "yes",
            title: self.provider.as_ref().map_or_else(
                || "Add OAuth provider".to_owned(),
                |provider| format!("Provider {}", provider.name),
            ),
            action: self
                .provider
                .as_ref()
                .map_or_else(|| NEW.to_owned(), |provider| path(&provider.name)),
            kind: self.kind,
            more,
            preset,
            provider: self.provider,
        };
        let status = StatusCode::from_u16(status);
        render(status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), &page)
    }
}

/// What is wrong, for the top of the page: each with the id of its field, if it has one.
fn wrong(
    kind: Kind,
    problem: Option<&Problem>,
    problems: &[FieldProblem],
) -> Vec<(String, String)> {
    let mut wrong = Vec::new();
    if let Some(problem) = problem {
        if problems.is_empty() && problem.problems.is_empty() {
            wrong.push((String::new(), problem.detail.clone()));
        }
        wrong.extend(
            problem
                .problems
                .iter()
                .map(|line| (String::new(), line.clone())),
        );
        wrong.extend(
            problem
                .remedy
                .iter()
                .map(|line| (String::new(), line.clone())),
        );
    }
    wrong.extend(problems.iter().map(|problem| {
        let key = fields::field_of(&problem.key);
        let spec = fields::specs(kind).find(|spec| spec.key == key);
        match spec {
            Some(spec) => (key.to_owned(), format!("{}: {}", spec.label, problem.what)),
            None => (String::new(), problem.to_string()),
        }
    }));
    wrong
}

/// Removes a profile that no account uses, when a person has said yes.
pub(in crate::admin::console) async fn remove(
    State(shared): AppState,
    Named(name): Named<String>,
    visitor: Visitor,
    who: Who,
    posted: Posted,
) -> Page {
    let here = path(&name);
    let provider = shared.provider(&name)?;
    // One that cannot be removed is told so before anybody is asked.
    if !posted.is_confirmed() && provider.accounts.is_empty() && !provider.read_only {
        let ask = Confirm {
            title: format!("Remove provider {name}?"),
            text: "The profile and its client secret are forgotten here. The application stays \
                   registered at the provider: remove it there too, if nothing else uses it."
                .into(),
            action: format!("{here}/remove"),
            button: "Remove",
            back: here,
            ..Confirm::default()
        };
        return Ok(confirm(Frame::new(&shared, &visitor, HERE), &ask));
    }
    Ok(match shared.remove_provider(&name, &who).await {
        Ok(()) => done(
            &shared,
            &visitor,
            HERE,
            format!("Provider {name} is removed."),
        ),
        Err(problem) => failed(&shared, &visitor, &here, &problem),
    })
}
