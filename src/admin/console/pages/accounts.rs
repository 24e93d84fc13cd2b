//! The list of accounts.

use askama::Template;
use axum::{extract::State, http::StatusCode};
use jiff::Timestamp;

use super::account::path;
use crate::admin::{
    api::{Account, AccountState},
    console::{
        Frame, Page, Visitor, render,
        view::{Badge, Moment},
    },
    handlers::AppState,
    made::accounts::AccountSettings,
};

#[derive(Template)]
#[template(path = "admin/console/pages/accounts.html")]
struct AccountsPage {
    frame: Frame,
    rows: Vec<Row>,
}

/// An account of the table.
struct Row {
    path: String,
    name: String,
    mailbox: String,
    provider: String,
    badge: Badge,
    needs_sign_in: bool,
    /// What else is to be known, in a word or two each.
    remarks: Vec<&'static str>,
    reason: String,
    remedy: String,
    token: Option<Moment>,
    queued: u64,
}

impl Row {
    fn new(written: &AccountSettings, account: Option<&Account>, now: Timestamp) -> Self {
        let key = |key: &str| {
            let value = written
                .settings
                .get(key)
                .and_then(serde_json::Value::as_str);
            value.unwrap_or_default().to_owned()
        };
        let left_out = Badge {
            tone: "bad",
            word: "left out",
        };
        let text =
            |of: fn(&Account) -> Option<&String>| account.and_then(of).cloned().unwrap_or_default();
        // Of one left out the first thing that is wrong; its page has them all.
        let problem = written.problems.first();
        let reason = problem.map(|problem| format!("{}: {}", problem.key, problem.what));
        Self {
            path: path(written.name.as_str()),
            name: written.name.to_string(),
            mailbox: account.map_or_else(|| key("mailbox"), |account| account.mailbox.clone()),
            provider: key("provider"),
            badge: account.map_or(left_out, |account| account.state.into()),
            needs_sign_in: account
                .is_some_and(|account| account.state == AccountState::SignInNeeded),
            remarks: [
                (written.stopped, "held by an operator"),
                (written.default, "default"),
                (written.read_only, "from the file"),
            ]
            .into_iter()
            .filter_map(|(is_so, remark)| is_so.then_some(remark))
            .collect(),
            reason: reason.unwrap_or_else(|| text(|account| account.reason.as_ref())),
            remedy: problem.map_or_else(
                || text(|account| account.remedy.as_ref()),
                |problem| problem.remedy.clone(),
            ),
            token: account
                .and_then(|account| account.token_expires_at)
                .map(|at| Moment::new(at, now)),
            queued: account.map_or(0, |account| account.queued),
        }
    }
}

pub(in crate::admin::console) async fn show(State(shared): AppState, visitor: Visitor) -> Page {
    let now = shared.parts.clock.now();
    let accounts = shared.accounts().await?;
    let written = shared.account_settings();
    let rows = written.iter().map(|written| {
        let account = accounts.iter().find(|account| account.name == written.name);
        Row::new(written, account, now)
    });
    let page = AccountsPage {
        rows: rows.collect(),
        frame: Frame::new(&shared, &visitor, "/accounts"),
    };
    Ok(render(StatusCode::OK, &page))
}
