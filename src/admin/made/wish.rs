//! A change on its way to whoever makes changes, and what comes back.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::FieldProblem;
use crate::{
    admin::problem::chain,
    oauth::{self, Draft},
    registry::{Change, Entries, Section},
    store,
};

/// A wish to change what was made in the console, with the place for the answer.
#[derive(Debug)]
pub struct ChangeRequest {
    /// What is to change.
    pub wish: Wish,
    /// How far to go.
    pub how: How,
    /// The answer.
    pub answer: oneshot::Sender<Result<Changed, Refused>>,
}

/// Changes, and what they were made from.
#[derive(Debug, Clone)]
pub struct Wish {
    /// All of them, or none.
    pub changes: Vec<Change>,
    /// What was there when the wish was made up. What has changed since is not written over: two
    /// changes at once would each undo the other's.
    pub based_on: Arc<Entries>,
    /// What somebody has just signed in with: nothing is done unless it still means that.
    pub signed_in: Option<Box<Draft>>,
}

/// How far to go with a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Only judge it.
    Preview,
    /// Make it.
    Apply,
}

impl Wish {
    /// One change.
    pub(super) fn of(change: Change, based_on: Arc<Entries>) -> Self {
        Self::all(vec![change], based_on)
    }

    /// All of these changes, or none.
    pub(super) fn all(changes: Vec<Change>, based_on: Arc<Entries>) -> Self {
        Self {
            changes,
            based_on,
            signed_in: None,
        }
    }
}

/// What a change comes to.
#[derive(Debug)]
pub struct Changed {
    /// Providers and accounts before it.
    pub before: oauth::Config,
    /// Providers and accounts with it.
    pub after: oauth::Config,
    /// Keys that the file has changed and that take effect only at the next start.
    pub restart_needed: Vec<String>,
}

/// Why a change is not made; nothing has changed.
#[derive(Debug, Default)]
pub struct Refused {
    /// What is wrong, key by key.
    pub fields: Vec<FieldProblem>,
    /// What else went wrong.
    pub problems: Vec<String>,
    /// Somebody else was faster.
    pub is_stale: bool,
}

impl Refused {
    /// For a reason that is no field's.
    #[must_use]
    pub fn plain(what: impl Into<String>, remedy: &str) -> Self {
        Self {
            problems: vec![format!("{}; {remedy}", what.into())],
            ..Self::default()
        }
    }

    /// For something that has changed since the wish was made up.
    #[must_use]
    pub fn stale(section: Section, name: &str) -> Self {
        let what = format!("{section} {name} was changed by somebody else meanwhile");
        Self {
            is_stale: true,
            ..Self::plain(what, "look at it as it is now, and do it again")
        }
    }
}

impl From<store::Error> for Refused {
    fn from(error: store::Error) -> Self {
        let remedy = "look at the disk of state_dir";
        Self::plain(chain(&error), remedy)
    }
}

/// Asks whoever makes changes; it lives above this module, so it is a channel.
pub(super) async fn request(
    to: &mpsc::Sender<ChangeRequest>,
    wish: Wish,
    how: How,
) -> Result<Changed, Refused> {
    let (answer, answered) = oneshot::channel();
    let request = ChangeRequest { wish, how, answer };
    let stopping = || Refused::plain("the daemon is stopping", "try again when it is up");
    to.send(request).await.map_err(|_| stopping())?;
    answered.await.unwrap_or_else(|_| Err(stopping()))
}
