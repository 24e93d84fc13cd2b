//! Looking through the queue for what a person seeks: a bounded number of rows at a time, whatever its
//! length and however little matches.

use super::{Shared, api::QueueState, handlers::stored_state};
use crate::{
    mail::{AccountName, QueueId},
    store::{self, Entry, Filter},
};

/// Rows looked at for one answer: a person waits a fraction of a second for it, and a page that is live
/// asks again and again.
const ROWS_MAX: usize = 10_000;
/// Rows in memory at once.
const WINDOW: u32 = 500;

/// What is looked for. All given conditions hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Search {
    /// This message.
    pub(super) id: Option<QueueId>,
    /// Pattern for the sender or a recipient.
    pub(super) text: Option<String>,
    /// This account only.
    pub(super) account: Option<AccountName>,
    /// Pattern for the reverse-path; `<>`: the null path.
    pub(super) sender: Option<String>,
    /// Pattern for the recipients: one must match.
    pub(super) recipient: Option<String>,
    /// In this state only.
    pub(super) state: Option<QueueState>,
    /// No message that came later than this one.
    pub(super) until: Option<QueueId>,
}

/// What was found, oldest first.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Each with whether a lane has it at this moment.
    pub(super) entries: Vec<(Entry, bool)>,
    /// How many were looked at.
    pub(super) looked: usize,
    /// What to give as `after` to go on, which may find nothing; none: this was all.
    pub(super) next: Option<QueueId>,
}

impl Search {
    /// Whether every message fits.
    pub(super) fn is_open(&self) -> bool {
        let all = Self {
            until: self.until,
            ..Self::default()
        };
        *self == all
    }

    /// Whether every message of one account fits.
    pub(super) fn is_of_account(&self) -> bool {
        let all = Self {
            account: None,
            ..self.clone()
        };
        self.account.is_some() && all.is_open()
    }

    fn filter(&self, after: Option<QueueId>) -> Filter {
        Filter {
            ids: self.id.into_iter().collect(),
            account: self.account.clone(),
            state: self.state.and_then(stored_state),
            after,
            limit: Some(WINDOW),
            ..Filter::default()
        }
    }

    /// What the store does not pick by itself.
    fn fits(&self, entry: &Entry, delivering: bool) -> bool {
        let patterns = |sender: Option<&String>, recipient: Option<&String>| {
            let filter = Filter {
                sender: sender.cloned(),
                recipient: recipient.cloned(),
                ..Filter::default()
            };
            filter.matches(entry)
        };
        let text = self.text.as_ref();
        patterns(self.sender.as_ref(), self.recipient.as_ref())
            && text.is_none_or(|text| patterns(Some(text), None) || patterns(None, Some(text)))
            && self
                .state
                .is_none_or(|state| state == QueueState::of(entry, delivering))
    }
}

/// A pattern as a person types it: without a star a part of an address is enough, and a whole
/// address is meant as it stands. `None`: nothing was typed.
pub(super) fn pattern(typed: &str) -> Option<String> {
    let typed = typed.trim();
    let is_whole = typed
        .split_once('@')
        .is_some_and(|(local, domain)| !local.is_empty() && !domain.is_empty());
    match typed {
        "" => None,
        "<>" => Some(typed.to_owned()),
        _ if is_whole || typed.contains('*') => Some(typed.to_owned()),
        _ => Some(format!("*{typed}*")),
    }
}

impl Shared {
    /// Messages after `after` that fit, at most `limit`, after a look at some 10 000 at most.
    ///
    /// # Errors
    /// The store's.
    pub(super) async fn search_queue(
        &self,
        search: &Search,
        after: Option<QueueId>,
        limit: usize,
    ) -> Result<Found, store::Error> {
        let mut found = Found::default();
        let mut after = after;
        loop {
            let window = self.parts.queue.list(search.filter(after)).await?;
            let is_last = u32::try_from(window.len()).is_ok_and(|len| len < WINDOW);
            let leased = self.leased();
            for entry in window {
                if search.until.is_some_and(|until| entry.id > until) {
                    return Ok(found);
                }
                let delivering = leased.contains(&entry.id);
                let fits = search.fits(&entry, delivering);
                if fits && found.entries.len() >= limit {
                    found.next = after;
                    return Ok(found);
                }
                after = Some(entry.id);
                found.looked += 1;
                if fits {
                    found.entries.push((entry, delivering));
                }
            }
            if is_last {
                return Ok(found);
            }
            if found.looked >= ROWS_MAX {
                found.next = after;
                return Ok(found);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route;

    /// A part is enough, a whole address is no part of another, and a star is a star.
    #[test]
    fn what_is_typed_becomes_a_pattern() {
        for (typed, wanted) in [
            ("  ", None),
            ("contoso", Some("*contoso*")),
            ("@contoso.com", Some("*@contoso.com*")),
            (" a@contoso.com ", Some("a@contoso.com")),
            ("*@contoso.com", Some("*@contoso.com")),
            ("<>", Some("<>")),
        ] {
            assert_eq!(pattern(typed).as_deref(), wanted, "{typed:?}");
        }
        assert!(!route::matches("a@contoso.com", "ba@contoso.com"));
    }

    /// What opens a paused account is an operation on all that it has, and nothing narrower.
    #[test]
    fn a_search_for_all_of_an_account_is_told_apart() {
        let account = Some(AccountName::new("alerts"));
        let until = Some(QueueId::from_i64(7));
        let all = Search {
            until,
            ..Search::default()
        };
        assert!(all.is_open() && !all.is_of_account());
        let of_account = Search {
            account,
            ..all.clone()
        };
        assert!(of_account.is_of_account() && !of_account.is_open());
        let narrower = Search {
            text: Some("*x*".into()),
            ..of_account
        };
        assert!(!narrower.is_of_account() && !narrower.is_open());
    }
}
