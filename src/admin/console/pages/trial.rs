//! A test message or an examination of an account, step by step.

use askama::Template;
use axum::{extract::State, http::StatusCode};

use super::account;
use crate::{
    admin::{
        api::Problem,
        console::{
            Frame, Page, Visitor, render,
            trials::{Trial, TrialKind},
            view::{Badge, Moment},
        },
        handlers::AppState,
        problem::Named,
    },
    delivery::ProbeStep,
    mail::AccountName,
};

#[derive(Template)]
#[template(path = "admin/console/pages/trial.html")]
struct TrialPage {
    frame: Frame,
    name: String,
    /// `/accounts/NAME`
    account: String,
    /// Where a test message goes; none: it is an examination.
    to: Option<String>,
    began: Moment,
    is_over: bool,
    is_good: bool,
    steps: Vec<Step>,
}

struct Step {
    name: String,
    badge: Badge,
    detail: String,
    took: String,
}

impl Step {
    fn new(step: &ProbeStep) -> Self {
        let (tone, word) = match (step.step.as_str(), step.ok) {
            ("switch", _) => ("warn", "to do"),
            (_, true) => ("good", "ok"),
            (_, false) => ("bad", "failed"),
        };
        Self {
            name: name(&step.step).to_owned(),
            badge: Badge { tone, word },
            detail: step.detail.clone(),
            took: format!("{} ms", step.elapsed_ms),
        }
    }
}

/// A step in words; one that is not known here keeps its own.
fn name(step: &str) -> &str {
    match step {
        "endpoint" => "The provider's token address",
        "token" => "Token",
        "connect" => "Connection",
        "tls" => "Encryption (TLS)",
        "ehlo" => "Greeting",
        "offers" => "What the server offers",
        "auth" => "Sign-in at the mail server",
        "mail" => "Sender",
        "rcpt" => "Recipient",
        "data" => "Message",
        "switch" => "What to do",
        other => other,
    }
}

/// How a trial stands.
pub(super) fn badge(trial: &Trial) -> Badge {
    let (tone, word) = match (trial.is_over(), trial.is_good()) {
        (false, _) => ("busy", "under way"),
        (true, true) => ("good", "passed"),
        (true, false) => ("bad", "failed"),
    };
    Badge { tone, word }
}

pub(in crate::admin::console) async fn show(
    State(shared): AppState,
    Named((name, id)): Named<(AccountName, u64)>,
    visitor: Visitor,
) -> Page {
    let trial = shared.trials.find(&name, id);
    let trial = trial.ok_or_else(|| {
        let what = "This test is not known any more: others were begun, or Gatepost was restarted.";
        Problem::new(StatusCode::NOT_FOUND, what).remedy("begin another on the account's page")
    })?;
    // Asked before the steps: none can come after them then.
    let is_over = trial.is_over();
    let page = TrialPage {
        frame: Frame::new(&shared, &visitor, "/accounts"),
        account: account::path(name.as_str()),
        name: name.to_string(),
        to: match &trial.kind {
            TrialKind::Test(to) => Some(to.to_string()),
            TrialKind::Doctor => None,
        },
        began: Moment::new(trial.began_at, shared.parts.clock.now()),
        is_over,
        is_good: trial.is_good(),
        steps: trial.steps().iter().map(Step::new).collect(),
    };
    Ok(render(StatusCode::OK, &page))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Advice is nothing that has failed.
    #[test]
    fn a_step_is_said_in_words() {
        let step = |step: &str, ok| {
            let shown = Step::new(&ProbeStep {
                step: step.into(),
                ok,
                detail: String::new(),
                elapsed_ms: 7,
            });
            (shown.name, shown.badge.word)
        };
        assert_eq!(step("tls", true), ("Encryption (TLS)".to_owned(), "ok"));
        assert_eq!(step("data", false), ("Message".to_owned(), "failed"));
        assert_eq!(step("switch", false), ("What to do".to_owned(), "to do"));
        assert_eq!(step("new", true), ("new".to_owned(), "ok"));
    }
}
