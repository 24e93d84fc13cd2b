//! Operations on all messages that a search finds: they go on by themselves, in parts, while pages
//! show how far they are.
//!
//! They live in memory: a restart ends them, and what was done is done. One who has a run under way
//! begins no second; what is kept is bounded.

use std::{
    collections::VecDeque,
    fmt,
    hash::{Hash, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::http::StatusCode;
use jiff::Timestamp;

use crate::{
    admin::{Shared, api::Problem, made::Who, problem::chain, search::Search, text},
    queue::Operation,
    store::{self, Filter},
};

/// Runs that are kept, the ended ones for people who look later.
const RUNS_MAX: usize = 8;
/// Messages found and operated on at once; each part is one commit.
const PART: usize = 500;

/// The runs, newest last.
#[derive(Default)]
pub(in crate::admin) struct Runs(Mutex<Kept>);

impl fmt::Debug for Runs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Runs(..)")
    }
}

#[derive(Default)]
struct Kept {
    last: u64,
    runs: VecDeque<Run>,
}

/// A run, as it is at this moment.
#[derive(Debug, Clone, Hash)]
pub(in crate::admin) struct Run {
    /// Its name.
    pub(in crate::admin) number: u64,
    /// What is done.
    pub(in crate::admin) operation: Operation,
    /// To which messages, in words.
    pub(in crate::admin) what: String,
    /// Who began it.
    pub(in crate::admin) who: Arc<str>,
    /// When.
    pub(in crate::admin) begun: Timestamp,
    /// Messages that were in the queue then.
    pub(in crate::admin) total: u64,
    /// Of these looked at.
    pub(in crate::admin) looked: u64,
    /// Of these found by the search.
    pub(in crate::admin) found: u64,
    /// Of these operated on; the others were gone, in another state, or just being delivered.
    pub(in crate::admin) done: u64,
    /// Whether a person wants it to end.
    is_stopping: bool,
    /// How it ended; none: it goes on.
    pub(in crate::admin) end: Option<End>,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::admin) enum End {
    /// Everything was looked at.
    Whole,
    /// A person, or the daemon's stop, ended it.
    Stopped,
    /// Something went wrong.
    Failed(String),
}

impl Run {
    /// How far it is, in words.
    pub(in crate::admin) fn said(&self) -> String {
        let done = format!(
            "{} {}",
            text::messages(self.done),
            text::done(self.operation)
        );
        let left = self.found.saturating_sub(self.done);
        let left = match left {
            0 => String::new(),
            1 => "; 1 was gone, in another state, or just being delivered".to_owned(),
            left => format!("; {left} were gone, in another state, or just being delivered"),
        };
        match &self.end {
            None => format!("{done} so far; {} of {} looked at", self.looked, self.total),
            Some(End::Whole) => format!("{done}{left}"),
            Some(End::Stopped) => format!(
                "stopped after {} of {}: {done}{left}",
                self.looked, self.total
            ),
            Some(End::Failed(why)) => format!("{why}; {done} before"),
        }
    }
}

impl Hash for Runs {
    /// Changes with every step of a run.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.lock().runs.hash(state);
    }
}

impl Runs {
    /// Every run, newest first.
    pub(in crate::admin) fn all(&self) -> Vec<Run> {
        self.lock().runs.iter().rev().cloned().collect()
    }

    /// Asks a run to end; it does after the part under way.
    pub(in crate::admin) fn stop(&self, number: u64) -> bool {
        let is_found = self.change(number, |run| run.is_stopping = true);
        is_found.is_some()
    }

    /// A place for a new run; the oldest ended one gives way.
    fn begin(&self, mut run: Run) -> Result<u64, Problem> {
        let mut kept = self.lock();
        let is_under_way = |run: &Run| run.end.is_none();
        let own = kept
            .runs
            .iter()
            .any(|r| is_under_way(r) && r.who == run.who);
        let all_busy = kept.runs.len() >= RUNS_MAX && kept.runs.iter().all(is_under_way);
        if own || all_busy {
            let text = "An operation on many messages is still under way";
            return Err(Problem::new(StatusCode::CONFLICT, text)
                .remedy("wait until it has ended, or stop it"));
        }
        if kept.runs.len() >= RUNS_MAX
            && let Some(at) = kept.runs.iter().position(|run| !is_under_way(run))
        {
            kept.runs.remove(at);
        }
        kept.last += 1;
        run.number = kept.last;
        kept.runs.push_back(run);
        Ok(kept.last)
    }

    fn change<T>(&self, number: u64, change: impl FnOnce(&mut Run) -> T) -> Option<T> {
        let mut kept = self.lock();
        let run = kept.runs.iter_mut().find(|run| run.number == number)?;
        Some(change(run))
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// Begins an operation on all that `search` finds, which is told in words by `what`.
    ///
    /// # Errors
    /// Another run of this person is under way, or the store's.
    pub(in crate::admin) async fn begin_run(
        self: &Arc<Self>,
        operation: Operation,
        search: Search,
        what: String,
        who: &Who,
    ) -> Result<(), Problem> {
        let total = self.count(&search).await?;
        let number = self.runs.begin(Run {
            number: 0,
            operation,
            what,
            who: Arc::clone(&who.0),
            begun: self.parts.clock.now(),
            total,
            looked: 0,
            found: 0,
            done: 0,
            is_stopping: false,
            end: None,
        })?;
        let shared = Arc::clone(self);
        self.parts.tasks.spawn("queue_run", async move {
            let ending = Ending {
                shared: &shared,
                number,
            };
            let end = match shared.run(number, operation, &search).await {
                Ok(end) => end,
                Err(error) => End::Failed(chain(&error)),
            };
            ending.end(end);
        });
        Ok(())
    }

    /// How many messages a run looks at. Grouped by the store, however many there are.
    pub(in crate::admin) async fn count(&self, search: &Search) -> Result<u64, store::Error> {
        if search.id.is_some() {
            return Ok(1);
        }
        let counts = self.parts.queue.counts().await?;
        let wanted = counts.iter().filter(|(account, _)| {
            search
                .account
                .as_ref()
                .is_none_or(|wanted| wanted == account)
        });
        Ok(wanted.map(|(_, counts)| counts.queued + counts.held).sum())
    }

    async fn run(
        &self,
        number: u64,
        operation: Operation,
        search: &Search,
    ) -> Result<End, store::Error> {
        let mut after = None;
        loop {
            let stops = self.runs.change(number, |run| run.is_stopping);
            if stops.unwrap_or(true) || self.parts.tasks.is_stopped() {
                return Ok(End::Stopped);
            }
            let part = self.search_queue(search, after, PART).await?;
            let ids: Vec<_> = part.entries.iter().map(|(entry, _)| entry.id).collect();
            let found = u64::try_from(ids.len()).unwrap_or(u64::MAX);
            let done = match ids.as_slice() {
                // No id would mean every message.
                [] => 0,
                [..] => {
                    let these = Filter {
                        ids,
                        ..Filter::default()
                    };
                    self.parts.queue.operate(these, operation).await?
                }
            };
            self.runs.change(number, |run| {
                run.looked += u64::try_from(part.looked).unwrap_or(u64::MAX);
                run.total = run.total.max(run.looked);
                run.found += found;
                run.done += done;
            });
            after = part.next;
            if after.is_none() {
                break;
            }
        }
        for account in self.woken(
            operation,
            search.account.as_ref().filter(|_| search.is_of_account()),
            search.is_open(),
        ) {
            self.parts.delivery.wake(&account);
        }
        Ok(End::Whole)
    }
}

/// Ends a run in any case: one that panicked must not look as if it went on.
struct Ending<'a> {
    shared: &'a Shared,
    number: u64,
}

impl Ending<'_> {
    fn end(&self, end: End) {
        let run = self.shared.runs.change(self.number, |run| {
            run.end.get_or_insert(end);
            run.clone()
        });
        if let Some(run) = run {
            tracing::info!(
                event = "queue_run", operation = ?run.operation, who = &*run.who,
                looked = run.looked, found = run.found, count = run.done, end = ?run.end,
            );
        }
    }
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        let is_open = self
            .shared
            .runs
            .change(self.number, |run| run.end.is_none());
        if is_open == Some(true) {
            self.end(End::Failed(
                "it broke off; the log has the reason".to_owned(),
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(who: &str) -> Run {
        Run {
            number: 0,
            operation: Operation::Hold,
            what: "every message".into(),
            who: who.into(),
            begun: Timestamp::UNIX_EPOCH,
            total: 10,
            looked: 0,
            found: 0,
            done: 0,
            is_stopping: false,
            end: None,
        }
    }

    /// One at a time a person; the oldest ended one gives way; when all go on, nobody begins.
    #[test]
    fn runs_are_bounded() {
        let runs = Runs::default();
        let first = runs.begin(run("a")).unwrap();
        assert_eq!(runs.begin(run("a")).unwrap_err().status, 409);
        runs.change(first, |run| run.end = Some(End::Whole));
        for number in 0..RUNS_MAX {
            runs.begin(run(&format!("p{number}"))).unwrap();
        }
        assert!(runs.all().iter().all(|run| run.number != first));
        assert_eq!(runs.all().len(), RUNS_MAX);
        assert_eq!(runs.begin(run("b")).unwrap_err().status, 409);
        assert!(runs.stop(runs.all()[0].number) && !runs.stop(first));
    }

    /// What pages are told by changes with each step.
    #[test]
    fn a_step_is_seen() {
        use std::hash::DefaultHasher;
        let print = |runs: &Runs| {
            let mut hasher = DefaultHasher::new();
            runs.hash(&mut hasher);
            hasher.finish()
        };
        let runs = Runs::default();
        let number = runs.begin(run("a")).unwrap();
        let before = print(&runs);
        runs.change(number, |run| run.looked += 1);
        assert_ne!(print(&runs), before);
    }

    #[test]
    fn progress_is_said_in_words() {
        let mut run = run("a");
        (run.looked, run.found, run.done) = (5, 4, 3);
        assert_eq!(run.said(), "3 messages held so far; 5 of 10 looked at");
        run.end = Some(End::Whole);
        let wanted = "3 messages held; 1 was gone, in another state, or just being delivered";
        assert_eq!(run.said(), wanted);
        run.end = Some(End::Failed("the disk is full".into()));
        assert_eq!(run.said(), "the disk is full; 3 messages held before");
    }
}
