//! How many recipients one transaction may have: what is configured, and what the server has shown
//! since. Pure; time comes in.

use std::time::Duration;

use tokio::time::Instant;

/// Recipients a transaction may have.
#[derive(Debug)]
pub(crate) struct Width {
    configured: usize,
    /// Less, as a reply to too many has shown, until then.
    learned: Option<(usize, Instant)>,
}

impl Width {
    pub(crate) fn new(configured: usize) -> Self {
        Self {
            configured: configured.max(1),
            learned: None,
        }
    }

    /// How many may go now.
    pub(crate) fn now(&self, now: Instant) -> usize {
        match self.learned {
            Some((width, until)) if now < until => width.min(self.configured),
            Some(_) | None => self.configured,
        }
    }

    /// The server takes no more than so many.
    pub(crate) fn learn(&mut self, width: usize, now: Instant) {
        self.learned = Some((width.max(1), now + LEARNED_FOR));
    }
}

/// A limit may have been the moment's, or an administrator may have raised it.
const LEARNED_FOR: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_showed_holds_for_a_while_and_never_widens() {
        let start = Instant::now();
        let mut width = Width::new(100);
        width.learn(50, start);
        assert_eq!(width.now(start), 50);
        width.learn(0, start);
        assert_eq!(width.now(start), 1, "one recipient can always be tried");
        width.learn(500, start);
        assert_eq!(width.now(start), 100);
        width.learn(50, start);
        assert_eq!(width.now(start + LEARNED_FOR), 100);
    }
}
