//! Test messages and examinations under way, with their steps as they happen.
//!
//! A trial goes on whether somebody looks or not; what came of it is kept until others are begun. A
//! restart forgets it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::http::StatusCode;
use jiff::Timestamp;
use tokio::sync::watch;

use crate::{
    admin::{Shared, api::Problem},
    delivery::ProbeStep,
    mail::{AccountName, Address},
};

/// Trials that are kept: a few for each of the accounts that a person looks at.
const KEPT_MAX: usize = 32;
/// Trials under way at once: each has a connection of its own to a provider that counts them.
const UNDER_WAY_MAX: usize = 4;

/// What is tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::admin) enum TrialKind {
    /// A test message to this address.
    Test(Address),
    /// Each step of the way but the message.
    Doctor,
}

/// A trial, under way or over.
#[derive(Debug, Clone)]
pub(in crate::admin) struct Trial {
    /// Counts from the start of the daemon.
    pub(in crate::admin) id: u64,
    pub(in crate::admin) account: AccountName,
    pub(in crate::admin) kind: TrialKind,
    pub(in crate::admin) began_at: Timestamp,
    /// Its sender is gone when the trial is over.
    steps: watch::Receiver<Vec<ProbeStep>>,
}

impl Trial {
    /// What has happened so far.
    pub(in crate::admin) fn steps(&self) -> Vec<ProbeStep> {
        self.steps.borrow().clone()
    }

    /// Whether nothing more will happen.
    pub(in crate::admin) fn is_over(&self) -> bool {
        let mut steps = self.steps.clone();
        steps.mark_unchanged();
        steps.has_changed().is_err()
    }

    /// Whether it has gone well. (A new token may have mended what was wrong at first.)
    pub(in crate::admin) fn is_good(&self) -> bool {
        self.steps.borrow().last().is_some_and(|step| step.ok)
    }
}

/// The latest trials.
#[derive(Debug, Default)]
pub(in crate::admin) struct Trials(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    begun: u64,
    trials: VecDeque<Trial>,
}

impl Trials {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes room for another; none: too many are under way.
    fn begin(
        &self,
        account: &AccountName,
        kind: TrialKind,
        now: Timestamp,
    ) -> Option<(u64, watch::Sender<Vec<ProbeStep>>)> {
        let mut kept = self.lock();
        if kept.trials.iter().filter(|trial| !trial.is_over()).count() >= UNDER_WAY_MAX {
            return None;
        }
        if kept.trials.len() >= KEPT_MAX {
            // One under way stays: there are fewer of those than places.
            let over = kept.trials.iter().position(Trial::is_over);
            over.and_then(|over| kept.trials.remove(over));
        }
        let (told, steps) = watch::channel(Vec::new());
        kept.begun += 1;
        let trial = Trial {
            id: kept.begun,
            account: account.clone(),
            kind,
            began_at: now,
            steps,
        };
        let id = trial.id;
        kept.trials.push_back(trial);
        Some((id, told))
    }

    /// One of an account.
    pub(in crate::admin) fn find(&self, account: &AccountName, id: u64) -> Option<Trial> {
        let kept = self.lock();
        let mut trials = kept.trials.iter();
        let found = trials.find(|trial| trial.id == id && trial.account == *account);
        found.cloned()
    }

    /// Those of an account, the latest first.
    pub(in crate::admin) fn of(&self, account: &AccountName) -> Vec<Trial> {
        let kept = self.lock();
        let of = kept
            .trials
            .iter()
            .rev()
            .filter(|trial| trial.account == *account);
        of.cloned().collect()
    }

    /// Changes with every step and every end.
    pub(super) fn marks(&self) -> Vec<(u64, usize, bool)> {
        let kept = self.lock();
        let trials = kept.trials.iter();
        trials
            .map(|trial| (trial.id, trial.steps.borrow().len(), trial.is_over()))
            .collect()
    }
}

impl Shared {
    /// Begins a trial of an account; its id.
    ///
    /// # Errors
    /// There is no such account; too many trials are under way.
    pub(in crate::admin) fn begin_trial(
        self: &Arc<Self>,
        account: &AccountName,
        kind: TrialKind,
    ) -> Result<u64, Problem> {
        self.known(account)?;
        let now = self.parts.clock.now();
        let Some((id, told)) = self.trials.begin(account, kind.clone(), now) else {
            let what = "too many tests are under way";
            return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, what)
                .remedy("wait until one of them is over"));
        };
        let (delivery, account) = (self.parts.delivery.clone(), account.clone());
        self.parts.tasks.spawn("console_trial", async move {
            match kind {
                TrialKind::Test(to) => delivery.probe_telling(&account, to, &told).await,
                TrialKind::Doctor => delivery.examine_telling(&account, &told).await,
            }
        });
        Ok(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(trials: &Trials) -> Option<(u64, watch::Sender<Vec<ProbeStep>>)> {
        trials.begin(
            &AccountName::new("a"),
            TrialKind::Doctor,
            Timestamp::UNIX_EPOCH,
        )
    }

    /// Steps are seen as they come, and so is the end, whatever it was.
    #[test]
    fn a_trial_is_over_when_its_task_is() {
        let trials = Trials::default();
        let (id, told) = begin(&trials).unwrap();
        let trial = trials.find(&AccountName::new("a"), id).unwrap();
        assert!(!trial.is_over() && !trial.is_good() && trial.steps().is_empty());
        let marks = trials.marks();
        told.send_modify(|steps| {
            steps.push(ProbeStep {
                step: "connect".into(),
                ok: true,
                detail: String::new(),
                elapsed_ms: 1,
            });
        });
        assert!(!trial.is_over() && trial.steps().len() == 1);
        assert_ne!(trials.marks(), marks);
        let marks = trials.marks();
        drop(told);
        assert!(trial.is_over() && trial.is_good());
        assert_ne!(trials.marks(), marks);
        assert!(trials.find(&AccountName::new("b"), id).is_none());
    }

    /// No more than some at once, no more than some at all; one under way is not forgotten.
    #[test]
    fn trials_are_bounded() {
        let trials = Trials::default();
        let mut under_way: Vec<_> = (0..UNDER_WAY_MAX)
            .map(|_| begin(&trials).unwrap())
            .collect();
        assert!(begin(&trials).is_none());
        under_way.truncate(1);
        for _ in 0..2 * KEPT_MAX {
            drop(begin(&trials).unwrap());
        }
        assert_eq!(trials.marks().len(), KEPT_MAX);
        let (first, _told) = under_way.pop().unwrap();
        assert!(trials.find(&AccountName::new("a"), first).is_some());
        assert!(trials.find(&AccountName::new("a"), first + 1).is_none());
    }
}
