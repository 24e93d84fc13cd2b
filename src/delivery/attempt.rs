//! From replies to outcomes: what one attempt comes to, and what is done about it. No socket.

use super::{
    BounceTo, Parts, bounce, lane,
    transport::Answers,
    verdict::{Action, judge},
};
use crate::{
    mail::{Message, Reply},
    oauth::Diagnosis,
    queue::{Next, Settlement},
    store::{Entry, RecipientState},
};

/// What an attempt means beyond its message.
#[derive(Debug)]
pub(super) enum Upshot {
    /// Go on.
    Fine,
    /// The account pauses.
    SlowDown,
    /// The account goes on hold.
    Hold(Diagnosis),
    /// The credentials are not believed any more.
    Reauthorise(Diagnosis),
}

/// Which recipients an attempt is for.
pub(super) fn open(entry: &Entry) -> Vec<usize> {
    let open = entry
        .recipients
        .iter()
        .enumerate()
        .filter(|(_, r)| r.state.is_open());
    open.map(|(index, _)| index).collect()
}

/// Judges every answer. `indexes` are those of [`open`], in the order of the answers.
pub(super) fn settle(
    config: &lane::Config,
    parts: &Parts,
    entry: &Entry,
    message: &Message,
    (indexes, answers): (&[usize], Answers),
) -> (Settlement, Upshot) {
    let mut settlement = blank(parts, entry);
    let mut upshot = Upshot::Fine;
    let mut failed = Vec::new();
    let mut throttled = 0;
    let expired = parts.queue.next_attempt(entry).is_none();
    for (index, (phase, reply)) in indexes.iter().zip(answers) {
        let verdict = judge(config.account.kind, phase, &reply);
        if verdict.unknown {
            tracing::info!(event = "reply_unknown", queue_id = %entry.id, account = %entry.account, %reply);
        }
        let reason = verdict.diagnosis.to_string();
        let state = match verdict.action {
            Action::Delivered => RecipientState::Delivered,
            Action::Bounce => RecipientState::Bounced,
            Action::Retry if expired => RecipientState::Expired,
            Action::Retry => RecipientState::Deferred,
            Action::SlowDown | Action::Hold | Action::Reauthorise => {
                throttled += 1;
                upshot = match verdict.action {
                    Action::Hold => Upshot::Hold(verdict.diagnosis),
                    Action::Reauthorise => Upshot::Reauthorise(verdict.diagnosis),
                    _ => Upshot::SlowDown,
                };
                RecipientState::Deferred
            }
        };
        told(parts, entry, state, &reply);
        if matches!(state, RecipientState::Bounced | RecipientState::Expired) {
            failed.push((*index, Some(reply.clone()), reason.clone()));
        }
        if state != RecipientState::Delivered {
            settlement.reason = Some(reason);
        }
        settlement.outcomes.push((*index, state, Some(reply)));
    }
    // No attempt is burned by throttling.
    settlement.counted = throttled == 0;
    if throttled > 0 {
        // The lane's own pause decides when; the message itself is due at once.
        settlement.next = Next::RetryAt(parts.clock.now());
    }
    owe(config, parts, entry, message, &mut settlement, &failed);
    (settlement, upshot)
}

/// An attempt whose final reply was lost: tried again by the schedule, counted.
pub(super) fn uncertain(parts: &Parts, entry: &Entry, error: &str) -> Settlement {
    parts.metrics.possible_duplicates.inc();
    let mut settlement = blank(parts, entry);
    settlement.uncertain = true;
    settlement.reason = Some(format!(
        "{error}; the message may have been taken: it is sent again with the same Message-ID"
    ));
    settlement
}

/// An attempt that broke off before the end of the data, or found the lifetime over.
pub(super) fn deferred(
    config: &lane::Config,
    parts: &Parts,
    entry: &Entry,
    message: &Message,
    error: &str,
) -> Settlement {
    let mut settlement = blank(parts, entry);
    settlement.reason = Some(error.to_owned());
    let expired = parts.queue.next_attempt(entry).is_none();
    let mut failed = Vec::new();
    for index in open(entry) {
        let state = if expired {
            RecipientState::Expired
        } else {
            RecipientState::Deferred
        };
        settlement.outcomes.push((index, state, None));
        if expired {
            failed.push((index, None, error.to_owned()));
        }
    }
    owe(config, parts, entry, message, &mut settlement, &failed);
    settlement
}

fn blank(parts: &Parts, entry: &Entry) -> Settlement {
    let due = parts.queue.next_attempt(entry);
    Settlement {
        outcomes: Vec::new(),
        next: due.map_or(Next::RetryAt(parts.clock.now()), Next::RetryAt),
        reason: None,
        counted: true,
        uncertain: false,
        reports: Vec::new(),
    }
}

/// Adds the report for `failed`. Where nobody can be told, the message is held instead: never
/// silence.
fn owe(
    config: &lane::Config,
    parts: &Parts,
    entry: &Entry,
    message: &Message,
    settlement: &mut Settlement,
    failed: &[(usize, Option<Reply>, String)],
) {
    if failed.is_empty() {
        return;
    }
    let silent_by_wish = failed.iter().all(|(index, _, _)| {
        entry
            .recipients
            .get(*index)
            .is_some_and(|r| !r.recipient.notify.on_failure())
    });
    if let Some(report) = bounce::report(config, parts, entry, message, failed) {
        settlement.reports.push(report);
    } else if config.bounce_to == BounceTo::None || !silent_by_wish {
        for (index, state, _) in &mut settlement.outcomes {
            if failed.iter().any(|(i, _, _)| i == index) {
                *state = RecipientState::Deferred;
            }
        }
        settlement.next = Next::Hold;
        tracing::warn!(
            event = "held", queue_id = %entry.id, account = %entry.account,
            reason = settlement.reason, "nobody can be told of the failure",
        );
    }
}

fn told(parts: &Parts, entry: &Entry, state: RecipientState, reply: &Reply) {
    let outcome = match state {
        RecipientState::Delivered => "delivered",
        RecipientState::Bounced => "bounced",
        RecipientState::Expired => "expired",
        RecipientState::Queued | RecipientState::Deferred => "deferred",
    };
    parts
        .metrics
        .recipients_settled
        .get_or_create(&[("outcome", outcome)])
        .inc();
    if state == RecipientState::Delivered {
        tracing::info!(event = "delivered", queue_id = %entry.id, account = %entry.account, %reply);
    } else {
        tracing::warn!(event = outcome, queue_id = %entry.id, account = %entry.account, %reply);
    }
}
