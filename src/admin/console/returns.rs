//! The way from the callback's page back into the console.
//!
//! The provider sends the browser to the redirect URL, which may be under another name than the
//! console was opened at (`localhost`, `127.0.0.1`), and the session's cookie belongs to that name. So
//! where a sign-in's page was seen is kept until others are seen.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use url::Url;

use crate::admin::Shared;

/// As many as there can be drafts under way; nobody has more pages of sign-ins open.
const KEPT_MAX: usize = 32;

/// Where pages of sign-ins were seen, the latest last.
#[derive(Debug, Default)]
pub(in crate::admin) struct Returns(Mutex<VecDeque<(String, Url)>>);

impl Returns {
    /// Keeps where the page of a sign-in was seen.
    pub(super) fn note(&self, id: &str, page: Url) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(known, _)| known != id);
        kept.push_back((id.to_owned(), page));
        if kept.len() > KEPT_MAX {
            kept.pop_front();
        }
    }

    fn find(&self, id: &str) -> Option<Url> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = kept.iter().find(|(known, _)| known == id);
        found.map(|(_, page)| page.clone())
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
    use super::*;

    #[test]
    fn the_latest_are_kept() {
        let returns = Returns::default();
        let page = |n: usize| Url::parse(&format!("http://localhost:8025/sign-ins/{n}")).unwrap();
        for n in 0..=KEPT_MAX {
            returns.note(&n.to_string(), page(n));
        }
        assert_eq!(returns.find("0"), None);
        assert_eq!(returns.find("1"), Some(page(1)));
        returns.note("1", page(99));
        assert_eq!(returns.find("1"), Some(page(99)), "as last seen");
        assert_eq!(returns.find("2"), Some(page(2)));
    }
}
