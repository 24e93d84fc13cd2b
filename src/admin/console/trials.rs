//! Test messages and examinations under way, with their steps as they happen.
//!
//! A run goes on whether somebody looks or not; what came of it is kept until others are begun. A
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
pub(in crate::admin) enum Trial {
    /// A test message to this address.
    Test(Address),
    /// Each step of the way but the message.
    Doctor,
}

/// A trial, under way or over.
#[derive(Debug, Clone)]
pub(in crate::admin) struct Run {
    /// Counts from the start of the daemon.
    pub(in crate::admin) id: u64,
    pub(in crate::admin) account: AccountName,
    pub(in crate::admin) trial: Trial,
    pub(in crate::admin) began_at: Timestamp,
    /// Its sender is gone when the run is over.
    steps: watch::Receiver<Vec<ProbeStep>>,
}

impl Run {
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

/// The latest runs.
#[derive(Debug, Default)]
pub(in crate::admin) struct Trials(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    begun: u64,
    runs: VecDeque<Run>,
}

impl Trials {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes room for another; none: too many are under way.
    fn begin(
        &self,
        account: &AccountName,
        trial: Trial,
        now: Timestamp,
    ) -> Option<(u64, watch::Sender<Vec<ProbeStep>>)> {
        let mut kept = self.lock();
        if kept.runs.iter().filter(|run| !run.is_over()).count() >= UNDER_WAY_MAX {
            return None;
        }
        if kept.runs.len() >= KEPT_MAX {
            // One under way stays: there are fewer of those than places.
            let over = kept.runs.iter().position(Run::is_over);
            over.and_then(|over| kept.runs.remove(over));
        }
        let (told, steps) = watch::channel(Vec::new());
        kept.begun += 1;
        let run = Run {
            id: kept.begun,
            account: account.clone(),
            trial,
            began_at: now,
            steps,
        };
        let id = run.id;
        kept.runs.push_back(run);
        Some((id, told))
    }

    /// One of an account.
    pub(in crate::admin) fn find(&self, account: &AccountName, id: u64) -> Option<Run> {
        let kept = self.lock();
        let mut runs = kept.runs.iter();
        let found = runs.find(|run| run.id == id && run.account == *account);
        found.cloned()
    }

    /// Those of an account, the latest first.
    pub(in crate::admin) fn of(&self, account: &AccountName) -> Vec<Run> {
        let kept = self.lock();
        let of = kept.runs.iter().rev().filter(|run| run.account == *account);
        of.cloned().collect()
    }

    /// Changes with every step and every end.
    pub(super) fn marks(&self) -> Vec<(u64, usize, bool)> {
        let kept = self.lock();
        let runs = kept.runs.iter();
        runs.map(|run| (run.id, run.steps.borrow().len(), run.is_over()))
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
        trial: Trial,
    ) -> Result<u64, Problem> {
        self.known(account)?;
        let now = self.parts.clock.now();
        let Some((id, told)) = self.trials.begin(account, trial.clone(), now) else {
            let what = "too many tests are under way";
            return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, what)
                .remedy("wait until one of them is over"));
        };
        let (delivery, account) = (self.parts.delivery.clone(), account.clone());
        self.parts.tasks.spawn("console_trial", async move {
            match trial {
                Trial::Test(to) => delivery.probe_telling(&account, to, &told).await,
                Trial::Doctor => delivery.examine_telling(&account, &told).await,
            }
        });
        Ok(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(runs: &Trials) -> Option<(u64, watch::Sender<Vec<ProbeStep>>)> {
        runs.begin(&AccountName::new("a"), Trial::Doctor, Timestamp::UNIX_EPOCH)
    }

    /// Steps are seen as they come, and so is the end, whatever it was.
    #[test]
    fn a_run_is_over_when_its_task_is() {
        let runs = Trials::default();
        let (id, told) = begin(&runs).unwrap();
        let run = runs.find(&AccountName::new("a"), id).unwrap();
        assert!(!run.is_over() && !run.is_good() && run.steps().is_empty());
        let marks = runs.marks();
        told.send_modify(|steps| {
            steps.push(ProbeStep {
                step: "connect".into(),
                ok: true,
                detail: String::new(),
                elapsed_ms: 1,
            });
        });
        assert!(!run.is_over() && run.steps().len() == 1);
        assert_ne!(runs.marks(), marks);
        let marks = runs.marks();
        drop(told);
        assert!(run.is_over() && run.is_good());
        assert_ne!(runs.marks(), marks);
        assert!(runs.find(&AccountName::new("b"), id).is_none());
    }

    /// No more than some at once, no more than some at all; one under way is not forgotten.
    #[test]
    fn runs_are_bounded() {
        let runs = Trials::default();
        let mut under_way: Vec<_> = (0..UNDER_WAY_MAX).map(|_| begin(&runs).unwrap()).collect();
        assert!(begin(&runs).is_none());
        under_way.truncate(1);
        for _ in 0..2 * KEPT_MAX {
            drop(begin(&runs).unwrap());
        }
        assert_eq!(runs.marks().len(), KEPT_MAX);
        let (first, _told) = under_way.pop().unwrap();
        assert!(runs.find(&AccountName::new("a"), first).is_some());
        assert!(runs.find(&AccountName::new("a"), first + 1).is_none());
    }
}
