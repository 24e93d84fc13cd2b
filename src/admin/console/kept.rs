//! What the console keeps in memory for the latest sign-ins, by their ids.
//!
//! The way back: the provider sends the browser to the redirect URL, which may be under another name
//! than the console was opened at (`localhost`, `127.0.0.1`), and the session's cookie belongs to that
//! name. So where a sign-in's page was seen is kept.
//!
//! The form: a profile is in force only after its sign-in. What was typed is kept until then, without
//! its secrets, so that one mistake does not cost the whole form.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use crate::admin::Shared;

/// As many as there can be drafts under way; nobody has more pages of sign-ins open.
const KEPT_MAX: usize = 32;

/// Something for each of the latest sign-ins, the latest last.
#[derive(Debug)]
pub(in crate::admin) struct Kept<T>(Mutex<VecDeque<(String, T)>>);

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone> Kept<T> {
    /// Keeps this for the sign-in, instead of what was kept for it before.
    pub(super) fn keep(&self, id: &str, what: T) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(known, _)| known != id);
        kept.push_back((id.to_owned(), what));
        if kept.len() > KEPT_MAX {
            kept.pop_front();
        }
    }

    pub(super) fn find(&self, id: &str) -> Option<T> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = kept.iter().find(|(known, _)| known == id);
        found.map(|(_, what)| what.clone())
    }
}

impl Shared {
    /// Where a browser that comes back with this query goes on: to the page of its sign-in where that
    /// was seen, else to the overview.
    pub(in crate::admin) fn way_back(&self, query: &str) -> String {
        let id = self.parts.oauth.sign_in_named(query);
        let page = id.and_then(|id| self.returns.find(&id));
        page.map_or_else(|| "/".to_owned(), String::from)
    }
}

#[cfg(test)]
mod tests {
    use url::Url;

    use super::*;

    #[test]
    fn the_latest_are_kept() {
        let returns = Kept::default();
        let page = |n: usize| Url::parse(&format!("http://localhost:8025/sign-ins/{n}")).unwrap();
        for n in 0..=KEPT_MAX {
            returns.keep(&n.to_string(), page(n));
        }
        assert_eq!(returns.find("0"), None);
        assert_eq!(returns.find("1"), Some(page(1)));
        returns.keep("1", page(99));
        assert_eq!(returns.find("1"), Some(page(99)), "as last seen");
        assert_eq!(returns.find("2"), Some(page(2)));
    }
}
