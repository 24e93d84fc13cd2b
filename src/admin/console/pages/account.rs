//! An account: where it stands, what is wrong, and what can be done with it.

use std::sync::Arc;

use askama::Template;
use axum::{extract::State, http::StatusCode, response::Response};
use jiff::Timestamp;

use super::{
    segment,
    sign_in::{self, Ways},
};
use crate::{
    admin::{
        Shared,
        api::{Account, AccountLimits, Problem, SignedOut, Transport},
        console::{
            Confirm, Frame, Page, Visitor, confirm, done, failed,
            form::Posted,
            redirect, render, told,
            trials::{Trial, TrialKind},
            view::{Badge, Moment},
        },
        handlers::{self, AppState, to_its_end},
        made::{Who, accounts::AccountSettings},
        problem::Named,
    },
    mail::{AccountName, Address},
    oauth::Grant,
};

const HERE: &str = "/accounts";

#[derive(Template)]
#[template(path = "admin/console/pages/account.html")]
struct AccountPage {
    frame: Frame,
    name: String,
    /// `/accounts/NAME`
    path: String,
    written: AccountSettings,
    /// None: it is left out.
    account: Option<Shown>,
    ways: Ways,
    /// Which account is the default.
    default_account: Option<AccountName>,
    /// The one that the file names, as it stands there.
    named_default: Option<String>,
    trials: Vec<TrialRow>,
    /// Where the address of the last test went.
    test_to: String,
}

/// An account in force, as the page says it.
struct Shown {
    account: Account,
    badge: Badge,
    token: Option<Moment>,
    refreshed: Option<Moment>,
    grant: &'static str,
    transport: String,
    limits: Vec<(&'static str, String)>,
    warnings: Vec<(String, String, Moment)>,
    provider_page: Option<String>,
    queue_page: String,
}

/// A trial of the list.
struct TrialRow {
    path: String,
    what: String,
    began: Moment,
    badge: Badge,
}

impl TrialRow {
    fn new(trial: &Trial, path: &str, now: Timestamp) -> Self {
        Self {
            path: format!("{path}/trials/{}", trial.id),
            what: match &trial.kind {
                TrialKind::Test(to) => format!("Test message to {to}"),
                TrialKind::Doctor => "Doctor".to_owned(),
            },
            began: Moment::new(trial.began_at, now),
            badge: super::trial::badge(trial),
        }
    }
}

/// The path of an account's page.
pub(super) fn path(name: &str) -> String {
    format!("{HERE}/{}", segment(name))
}

pub(in crate::admin::console) async fn show(
    State(shared): AppState,
    Named(name): Named<AccountName>,
    visitor: Visitor,
) -> Page {
    let now = shared.parts.clock.now();
    let written = shared.account_setting(name.as_str())?;
    let mut accounts = shared.accounts().await?.into_iter();
    let account = accounts.find(|account| account.name == name);
    let trials = shared.trials.of(&name);
    let tested = trials.iter().find_map(|trial| match &trial.kind {
        TrialKind::Test(to) => Some(to.to_string()),
        TrialKind::Doctor => None,
    });
    let path = path(name.as_str());
    let page = AccountPage {
        frame: Frame::new(&shared, &visitor, HERE),
        ways: shared.ways(&name),
        default_account: shared.view().default_account.clone(),
        named_default: shared.named_default(),
        trials: trials
            .iter()
            .map(|trial| TrialRow::new(trial, &path, now))
            .collect(),
        account: account.map(|account| Shown::new(account, now)),
        test_to: tested.unwrap_or_default(),
        name: name.to_string(),
        path,
        written,
    };
    Ok(render(StatusCode::OK, &page))
}

impl Shown {
    fn new(account: Account, now: Timestamp) -> Self {
        let warnings = account.warnings.iter().map(|warning| {
            let when = Moment::new(warning.expires_at, now);
            (warning.reason.clone(), warning.remedy.clone(), when)
        });
        let provider = account.provider.as_deref();
        let provider_page = provider.map(super::providers::path);
        let queue_page = format!("/queue?account={}", segment(account.name.as_str()));
        Self {
            badge: account.state.into(),
            token: account.token_expires_at.map(|at| Moment::new(at, now)),
            refreshed: account.last_refresh_at.map(|at| Moment::new(at, now)),
            grant: account.grant.map_or("none: a plain mail server", grant),
            transport: transport(&account),
            limits: account
                .limits
                .as_ref()
                .map(|it| limits(it, now))
                .unwrap_or_default(),
            warnings: warnings.collect(),
            provider_page,
            queue_page,
            account,
        }
    }
}

fn grant(grant: Grant) -> &'static str {
    match grant {
        Grant::AuthorizationCode => "a person signs in with a browser (authorization_code)",
        Grant::DeviceCode => "a person enters a code (device_code)",
        Grant::ClientCredentials => "the application itself (client_credentials)",
        Grant::ServiceAccount => "a service account (service_account)",
        Grant::WorkloadIdentity => "the platform's identity (workload_identity)",
        Grant::ManagedIdentity => "the machine's identity (managed_identity)",
    }
}

fn transport(account: &Account) -> String {
    let name = |transport| match transport {
        Transport::Smtp => "SMTP",
        Transport::Graph => "Microsoft Graph",
        Transport::Gmail => "the Gmail API",
        Transport::Auto => "whatever works",
    };
    match account.transport {
        Transport::Auto => format!("{}, chosen automatically", name(account.sends_by)),
        Transport::Smtp | Transport::Graph | Transport::Gmail => name(account.transport).to_owned(),
    }
}

/// The account's pace, now and at best.
fn limits(limits: &AccountLimits, now: Timestamp) -> Vec<(&'static str, String)> {
    let none = || "no limit".to_owned();
    let connections = format!("{} of {}", limits.connections_now, limits.connections);
    let minute = match (limits.messages_per_minute_now, limits.messages_per_minute) {
        (Some(pace), Some(best)) => format!("{pace:.0} of {best}"),
        (Some(pace), None) => format!("{pace:.0}"),
        (None, Some(best)) => best.to_string(),
        (None, None) => none(),
    };
    let day = match (limits.recipients_last_day, limits.recipients_per_day) {
        (Some(used), Some(limit)) => format!("{used} of {limit} used"),
        (None, Some(limit)) => limit.to_string(),
        (_, None) => none(),
    };
    let mut told = vec![
        ("Connections at once", connections),
        ("Messages a minute", minute),
        ("Recipients in 24 hours", day),
    ];
    if limits.throttled {
        let slowed = "the provider asked for a slower pace; it grows back by itself";
        told.push(("Slowed down", slowed.to_owned()));
    }
    if let Some(until) = limits.paused_until {
        let until = Moment::new(until, now);
        told.push((
            "Paused until",
            format!("{} ({})", until.said, until.relative),
        ));
    }
    told
}

/// Begins a sign-in, and leads to its page.
pub(in crate::admin::console) async fn sign_in(
    State(shared): AppState,
    Named(name): Named<AccountName>,
    visitor: Visitor,
    posted: Posted,
) -> Response {
    let device = posted.raw("device") == "yes";
    let begun = match shared.known(&name) {
        Ok(()) => {
            let begun = shared.parts.oauth.begin_sign_in(&name, device).await;
            begun.map_err(Problem::from)
        }
        Err(problem) => Err(problem),
    };
    match begun {
        Ok(begun) => redirect(&sign_in::path(begun.id())),
        Err(problem) => failed(&shared, &visitor, &path(name.as_str()), &problem),
    }
}

/// Forgets the tokens, when a person is sure.
pub(in crate::admin::console) async fn sign_out(
    State(shared): AppState,
    Named(name): Named<AccountName>,
    visitor: Visitor,
    posted: Posted,
) -> Response {
    let page = path(name.as_str());
    if !posted.is_confirmed() {
        let ask = Confirm {
            title: format!("Sign {name} out?"),
            text: "Its tokens are revoked where the provider does that, and forgotten. Mail for it is taken \
                   and waits until somebody signs in again."
                .into(),
            action: format!("{page}/sign-out"),
            button: "Sign out",
            back: page,
            ..Confirm::default()
        };
        return confirm(Frame::new(&shared, &visitor, HERE), &ask);
    }
    let answer = handlers::sign_out(State(Arc::clone(&shared)), Named(name)).await;
    let signed_out = answer.map(|answer| signed_out_text(&answer));
    told(&shared, &visitor, &page, signed_out)
}

fn signed_out_text(answer: &SignedOut) -> String {
    let left = [&answer.reason, &answer.remedy];
    let left: Vec<&str> = left.into_iter().flatten().map(String::as_str).collect();
    if left.is_empty() {
        return "Signed out; the provider has revoked the tokens.".to_owned();
    }
    format!(
        "Signed out: the tokens are forgotten here. They were not revoked: {}.",
        left.join("; ")
    )
}

pub(in crate::admin::console) async fn make_default(
    State(shared): AppState,
    Named(name): Named<AccountName>,
    visitor: Visitor,
    who: Who,
) -> Response {
    let page = path(name.as_str());
    let made = shared.make_default(&name, &who).await;
    let made = made.map(|()| "It is the default account now.");
    told(&shared, &visitor, &page, made)
}

pub(in crate::admin::console) async fn hold(
    State(shared): AppState,
    Named(name): Named<AccountName>,
    visitor: Visitor,
    who: Who,
) -> Response {
    let page = path(name.as_str());
    let held = shared.hold_account(&name, &who).await;
    let held = held.map(|()| "On hold: mail for this account is taken and waits.");
    told(&shared, &visitor, &page, held)
}

pub(in crate::admin::console) async fn release(
    State(shared): AppState,
    Named(name): Named<AccountName>,
    visitor: Visitor,
    who: Who,
) -> Response {
    let page = path(name.as_str());
    let released = shared.release_account(&name, &who).await;
    let released = released.map(|()| "Released: what waits is tried now.");
    told(&shared, &visitor, &page, released)
}

/// Removes it, when a person is sure.
pub(in crate::admin::console) async fn remove(
    State(shared): AppState,
    Named(name): Named<AccountName>,
    visitor: Visitor,
    who: Who,
    posted: Posted,
) -> Response {
    let page = path(name.as_str());
    if let Err(problem) = shared.may_remove_account(name.as_str()).await {
        return failed(&shared, &visitor, &page, &problem);
    }
    if !posted.is_confirmed() {
        let ask = Confirm {
            title: format!("Remove {name}?"),
            text: "Its tokens are revoked where the provider does that, and forgotten, and so are its settings."
                .into(),
            action: format!("{page}/remove"),
            button: "Remove",
            back: page,
            ..Confirm::default()
        };
        return confirm(Frame::new(&shared, &visitor, HERE), &ask);
    }
    let task = Arc::clone(&shared);
    let owned = name.clone();
    let removed = to_its_end(&shared.parts.tasks, "remove_account", async move {
        task.remove_account(owned.as_str(), &who).await
    });
    match removed.await.ok_or_else(Problem::lost).flatten() {
        Ok(()) => done(
            &shared,
            &visitor,
            HERE,
            format!("The account {name} is removed."),
        ),
        Err(problem) => failed(&shared, &visitor, &page, &problem),
    }
}

/// Begins a test message, and leads to where its steps are seen.
pub(in crate::admin::console) async fn test(
    State(shared): AppState,
    Named(name): Named<AccountName>,
    visitor: Visitor,
    posted: Posted,
) -> Response {
    let to = Address::parse(posted.text("to"));
    let begun = to
        .map_err(|error| {
            Problem::new(StatusCode::BAD_REQUEST, error.to_string())
                .remedy("write an address that you can read mail of")
        })
        .and_then(|to| shared.begin_trial(&name, TrialKind::Test(to)));
    began(&shared, &visitor, &name, begun)
}

/// Begins an examination, and leads to where its steps are seen.
pub(in crate::admin::console) async fn doctor(
    State(shared): AppState,
    Named(name): Named<AccountName>,
    visitor: Visitor,
) -> Response {
    let begun = shared.begin_trial(&name, TrialKind::Doctor);
    began(&shared, &visitor, &name, begun)
}

fn began(
    shared: &Shared,
    visitor: &Visitor,
    name: &AccountName,
    begun: Result<u64, Problem>,
) -> Response {
    let page = path(name.as_str());
    match begun {
        Ok(id) => redirect(&format!("{page}/trials/{id}")),
        Err(problem) => failed(shared, visitor, &page, &problem),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_is_said_now_and_at_best() {
        let slow = AccountLimits {
            connections: 2,
            connections_now: 1,
            messages_per_minute: Some(27),
            messages_per_minute_now: Some(13.5),
            recipients_per_day: Some(9500),
            recipients_last_day: Some(12),
            throttled: true,
            paused_until: Timestamp::from_second(90).ok(),
        };
        let told = limits(&slow, Timestamp::UNIX_EPOCH);
        let values: Vec<&str> = told.iter().map(|(_, value)| value.as_str()).collect();
        assert_eq!(
            values.first_chunk(),
            Some(&["1 of 2", "14 of 27", "12 of 9500 used"])
        );
        assert_eq!(values.last(), Some(&"1970-01-01 00:01 UTC (in 1m)"));
        let free = AccountLimits {
            messages_per_minute: None,
            messages_per_minute_now: None,
            recipients_per_day: None,
            recipients_last_day: None,
            throttled: false,
            paused_until: None,
            ..slow
        };
        let told = limits(&free, Timestamp::UNIX_EPOCH);
        assert_eq!(told.len(), 3);
        assert_eq!(
            told.last().map(|(_, value)| value.as_str()),
            Some("no limit")
        );
    }
}
