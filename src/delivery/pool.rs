//! Authenticated connections between two messages.
//!
//! The one used last is taken first, so that under little load few stay open; the others are closed
//! after a while. No NOOP before reuse: a connection that died shows it at MAIL, before anything is
//! lost, and the message goes on a fresh one at once. None lives for long, however busy it is: a name
//! that has moved to another address is followed, and a server that is being drained gets rid of us.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::oneshot, time::Instant};

use super::transport::Link;

/// A connection with what belongs to it.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) connection: Link,
    /// The token it authenticated with.
    pub(crate) generation: u64,
    /// Whether it has carried a message before.
    pub(crate) reused: bool,
    /// Resolves when the outcome of its last message is stored. Until then it may carry everything
    /// of the next message but its end: a crash repeats at most one message a connection.
    pub(crate) settled: Option<oneshot::Receiver<()>>,
    /// When it was made.
    pub(crate) since: Instant,
}

impl Live {
    /// One that has carried nothing yet.
    pub(crate) fn new(connection: Link) -> Self {
        Self {
            connection,
            generation: 0,
            reused: false,
            settled: None,
            since: Instant::now(),
        }
    }

    /// Whether it has carried mail for so long that another one is due.
    pub(crate) fn is_old(&self, now: Instant) -> bool {
        now.duration_since(self.since) >= AGE_MAX
    }

    /// Closes it. One whose last outcome did not get stored goes without a word, as after a crash:
    /// that message may come again. Takes at most as long as a commit and a goodbye.
    pub(crate) async fn retire(self) {
        let is_settled = match self.settled {
            Some(settled) => settled.await.is_ok(),
            None => true,
        };
        if is_settled {
            self.connection.quit().await;
        }
    }
}

/// Idle connections of one account.
#[derive(Debug, Default)]
pub(crate) struct Pool(Mutex<Vec<(Live, Instant)>>);

impl Pool {
    /// The connection used last.
    pub(crate) fn take(&self) -> Option<Live> {
        let (live, _) = self.lock().pop()?;
        Some(live)
    }

    /// Gives a connection back.
    pub(crate) fn put(&self, live: Live, now: Instant) {
        let live = Live {
            reused: true,
            ..live
        };
        self.lock().push((live, now));
    }

    /// Takes out what was idle for too long.
    pub(crate) fn sweep(&self, now: Instant) -> Vec<Link> {
        let mut idle = self.lock();
        // The oldest lie at the front.
        let old = idle.partition_point(|(_, since)| now.duration_since(*since) >= IDLE_MAX);
        idle.drain(..old).map(|(live, _)| live.connection).collect()
    }

    /// Takes out all.
    pub(crate) fn drain(&self) -> Vec<Link> {
        let all = std::mem::take(&mut *self.lock());
        all.into_iter().map(|(live, _)| live.connection).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(Live, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A burst of mail ends well within it, and no server closes earlier.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// As Postfix has it (`smtp_connection_reuse_time_limit`); a handshake more in so long costs nothing,
/// and Exchange closes at twenty minutes.
const AGE_MAX: Duration = Duration::from_secs(300);
