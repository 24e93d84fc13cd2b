//! Settings: what is in force and where it comes from, reading it again, and ending sessions.

use std::sync::Arc;

use askama::Template;
use axum::{extract::State, http::StatusCode, response::Response};

use super::{keys, notices};
use crate::admin::{
    Shared,
    api::{Reloaded, Setting, SettingSource},
    console::{
        Confirm, Frame, Page, Visitor, confirm,
        form::{Field, Posted},
        redirect, render, told,
    },
    handlers::{self, AppState},
};

pub(super) const HERE: &str = "/settings";

#[derive(Template)]
#[template(path = "admin/console/pages/settings.html")]
struct Settings {
    frame: Frame,
    file: Option<String>,
    groups: Vec<Group>,
    keys: Vec<keys::Row>,
    new_key: Field,
    notices: Vec<notices::Row>,
}

/// The settings of one section.
struct Group {
    /// `account.alerts`; empty: the top of the file.
    section: String,
    rows: Vec<Row>,
}

impl Group {
    /// Whether somebody has set something in it.
    fn has_own(&self) -> bool {
        self.rows.iter().any(|row| !row.is_default)
    }
}

struct Row {
    key: String,
    value: String,
    source: &'static str,
    is_default: bool,
}

pub(in crate::admin::console) async fn show(State(shared): AppState, visitor: Visitor) -> Page {
    let new_key = keys::field("", None);
    Ok(answer(&shared, &visitor, StatusCode::OK, new_key))
}

/// The page, with the form for a key as it was sent.
pub(super) fn answer(
    shared: &Shared,
    visitor: &Visitor,
    status: StatusCode,
    new_key: Field,
) -> Response {
    let now = shared.parts.clock.now();
    let view = shared.view();
    let ways = shared.parts.notify.ways().into_iter();
    let page = Settings {
        frame: Frame::new(shared, visitor, HERE),
        keys: shared
            .keys()
            .into_iter()
            .map(|key| keys::Row::new(key, now))
            .collect(),
        new_key,
        notices: ways
            .map(|(channel, set_to)| notices::Row::new(channel, set_to))
            .collect(),
        file: view
            .config_file
            .as_ref()
            .map(|file| file.display().to_string()),
        groups: groups(&view.settings),
    };
    render(status, &page)
}

/// The settings by section, each in the order of the reference file.
fn groups(settings: &[Setting]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for setting in settings {
        let (section, key) = setting.key.rsplit_once('.').unwrap_or(("", &setting.key));
        let row = Row {
            key: key.to_owned(),
            value: setting.value.clone(),
            source: source(setting.source),
            is_default: setting.source == SettingSource::Default,
        };
        match groups.iter_mut().find(|group| group.section == section) {
            Some(group) => group.rows.push(row),
            None => groups.push(Group {
                section: section.to_owned(),
                rows: vec![row],
            }),
        }
    }
    groups
}

fn source(source: SettingSource) -> &'static str {
    match source {
        SettingSource::Default => "default",
        SettingSource::Console => "console",
        SettingSource::File => "file",
        SettingSource::Environment => "environment",
    }
}

pub(in crate::admin::console) async fn reload(
    State(shared): AppState,
    visitor: Visitor,
) -> Response {
    let reloaded = handlers::reload(State(Arc::clone(&shared))).await;
    let reloaded = reloaded.map(|reloaded| reloaded_text(&reloaded));
    told(&shared, &visitor, HERE, reloaded)
}

fn reloaded_text(reloaded: &Reloaded) -> String {
    let mut text = String::from("The configuration was read again and is in force.");
    for key in &reloaded.restart_needed {
        text.push_str(&format!(
            "\n{key} has changed: it takes effect when the daemon is restarted."
        ));
    }
    text
}

/// Ends every session, this one too.
pub(in crate::admin::console) async fn log_out_all(
    State(shared): AppState,
    visitor: Visitor,
    posted: Posted,
) -> Response {
    if posted.is_confirmed() {
        shared.access.end_all();
        return redirect("/login");
    }
    let ask = Confirm {
        title: "Log out everywhere?".into(),
        text: "Every browser that is logged in to this console must log in again, this one too."
            .into(),
        action: "/settings/log-out-all".into(),
        button: "Log out everywhere",
        back: HERE.into(),
        ..Confirm::default()
    };
    confirm(Frame::new(&shared, &visitor, HERE), &ask)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sections stay together, also where the list comes back to one.
    #[test]
    fn settings_are_grouped_by_section() {
        let keys = [
            "hostname",
            "account.a.mailbox",
            "account.a.smtp.host",
            "account.a.grant",
        ];
        let settings = keys.map(|key| Setting {
            key: key.into(),
            value: String::new(),
            source: SettingSource::File,
        });
        let groups = groups(&settings);
        let shown: Vec<_> = groups
            .iter()
            .map(|group| (group.section.as_str(), group.rows.len()))
            .collect();
        assert_eq!(shown, [("", 1), ("account.a", 2), ("account.a.smtp", 1)]);
    }
}
