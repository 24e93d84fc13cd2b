//! Sessions of the console: a random id in a cookie, of which only the hash is kept, in memory alone.
//!
//! A restart ends them all. Time comes in as an argument; the table is bounded.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::random::{self, Hashed};

/// A working day with its breaks. A page that only watches does not count as use.
const IDLE_MAX: Duration = Duration::from_secs(12 * 60 * 60);
/// However much it is used: a cookie that was copied is worthless then.
const LIFE_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Operators with a few browsers each; beyond, the one unused for longest gives way.
const SESSIONS_MAX: usize = 64;

/// Every session.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<HashMap<Hashed, Session>>);

#[derive(Debug)]
struct Session {
    visitor: Visitor,
    begun: Instant,
    used: Instant,
    flash: Option<Flash>,
}

/// Who is asking: a session, as pages see it.
#[derive(Debug, Clone)]
pub(in crate::admin) struct Visitor {
    session: Hashed,
    /// What each of its forms must bring.
    csrf: Arc<str>,
    /// For the audit log: how the session began, and where.
    who: Arc<str>,
    /// Whether it is the script that asks, to renew a page.
    is_live: bool,
}

/// What the next page says once: how the form before it went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::admin) struct Flash {
    /// Whether it is bad news.
    pub(in crate::admin) is_problem: bool,
    /// In a sentence.
    pub(in crate::admin) text: String,
}

impl Visitor {
    /// The token of its forms.
    pub(in crate::admin) fn csrf(&self) -> &str {
        &self.csrf
    }

    /// Who it is, for the audit log.
    pub(in crate::admin) fn who(&self) -> &str {
        &self.who
    }

    /// Whether it is the script that asks, to renew a page: nobody may be looking.
    pub(in crate::admin) fn is_live(&self) -> bool {
        self.is_live
    }
}

impl Sessions {
    /// Begins a session; the id for the cookie. `None`: the system gives no randomness.
    pub(super) fn begin(&self, who: String, now: Instant) -> Option<String> {
        let id = random::token()?;
        let visitor = Visitor {
            session: random::hash(&id),
            csrf: random::token()?.into(),
            who: who.into(),
            is_live: false,
        };
        let mut sessions = self.lock();
        sessions.retain(|_, session| session.lives(now));
        if sessions.len() >= SESSIONS_MAX {
            let unused = sessions.iter().min_by_key(|(_, session)| session.used);
            if let Some(unused) = unused.map(|(key, _)| *key) {
                sessions.remove(&unused);
            }
        }
        let session = Session {
            visitor: visitor.clone(),
            begun: now,
            used: now,
            flash: None,
        };
        sessions.insert(visitor.session, session);
        Some(id)
    }

    /// The session of a cookie. `uses`: a person did something, so that it stays alive.
    pub(super) fn find(&self, id: &str, uses: bool, now: Instant) -> Option<Visitor> {
        let mut sessions = self.lock();
        let session = sessions.get_mut(&random::hash(id))?;
        if !session.lives(now) {
            return None;
        }
        if uses {
            session.used = now;
        }
        Some(Visitor {
            is_live: !uses,
            ..session.visitor.clone()
        })
    }

    /// Whether a session found before still lives.
    pub(super) fn is_alive(&self, visitor: &Visitor, now: Instant) -> bool {
        let sessions = self.lock();
        let session = sessions.get(&visitor.session);
        session.is_some_and(|session| session.lives(now))
    }

    /// Ends one.
    pub(super) fn end(&self, visitor: &Visitor) {
        self.lock().remove(&visitor.session);
    }

    /// Ends all: the way to log in has changed.
    pub(super) fn end_all(&self) {
        self.lock().clear();
    }

    /// Leaves a word for the session's next page.
    pub(super) fn leave_flash(&self, visitor: &Visitor, flash: Flash) {
        if let Some(session) = self.lock().get_mut(&visitor.session) {
            session.flash = Some(flash);
        }
    }

    /// Takes the word that was left.
    pub(super) fn take_flash(&self, visitor: &Visitor) -> Option<Flash> {
        self.lock().get_mut(&visitor.session)?.flash.take()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Hashed, Session>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    fn lives(&self, now: Instant) -> bool {
        now.duration_since(self.used) < IDLE_MAX && now.duration_since(self.begun) < LIFE_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(sessions: &Sessions, now: Instant) -> String {
        sessions.begin("a test".into(), now).unwrap()
    }

    /// It ends when nobody used it for long, and in any case; watching is not using.
    #[test]
    fn a_session_ends_idle_and_at_last() {
        let (sessions, start) = (Sessions::default(), Instant::now());
        let id = begin(&sessions, start);
        assert!(sessions.find(&id, false, start + IDLE_MAX / 2).is_some());
        assert!(sessions.find(&id, true, start + IDLE_MAX).is_none());

        let id = begin(&sessions, start);
        let mut now = start;
        while now < start + LIFE_MAX {
            assert!(sessions.find(&id, true, now).is_some());
            now += IDLE_MAX / 2;
        }
        assert!(sessions.find(&id, true, now).is_none());
    }

    /// What is kept is not what the cookie holds, and no two are alike.
    #[test]
    fn ids_are_kept_as_hashes_only() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let (one, two) = (begin(&sessions, now), begin(&sessions, now));
        assert_ne!(one, two);
        let visitor = sessions.find(&one, true, now).unwrap();
        assert_ne!(visitor.csrf(), one);
        assert!(!format!("{sessions:?}").contains(&one));
        assert!(sessions.find(visitor.csrf(), true, now).is_none());
    }

    /// One more than there is room for ends the one that was unused for longest, and no other.
    #[test]
    fn there_is_a_bound_to_their_number() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let first = begin(&sessions, now);
        let second = begin(&sessions, now);
        let later = now + Duration::from_secs(1);
        assert!(sessions.find(&first, true, later).is_some());
        for _ in 0..SESSIONS_MAX - 1 {
            begin(&sessions, later);
        }
        assert!(sessions.find(&second, true, later).is_none());
        assert!(sessions.find(&first, true, later).is_some());
        assert_eq!(sessions.lock().len(), SESSIONS_MAX);
    }

    /// A flash message is seen once, and dies with its session.
    #[test]
    fn a_flash_is_seen_once() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let id = begin(&sessions, now);
        let visitor = sessions.find(&id, true, now).unwrap();
        let flash = Flash {
            is_problem: false,
            text: "done".into(),
        };
        sessions.leave_flash(&visitor, flash.clone());
        assert_eq!(sessions.take_flash(&visitor), Some(flash.clone()));
        assert_eq!(sessions.take_flash(&visitor), None);
        sessions.end(&visitor);
        sessions.leave_flash(&visitor, flash);
        assert!(!sessions.is_alive(&visitor, now));
        assert_eq!(sessions.take_flash(&visitor), None);
    }
}
