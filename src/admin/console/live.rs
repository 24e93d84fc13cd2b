//! The live parts of pages: `/events` tells a page that something has changed (server-sent events),
//! and its script fetches the page again. One mechanism for all pages; no data travels here.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use tokio::{
    io::{AsyncWriteExt, DuplexStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, MissedTickBehavior},
};
use tokio_util::io::ReaderStream;

use super::{Visitor, history::Minute};
use crate::admin::{Shared, api::Problem, handlers::AppState};

/// Where pages listen.
pub(in crate::admin) const PATH: &str = "/events";

/// How often it is looked whether something has changed, while a page listens.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Something is said so often at least, so that both sides learn that the other, or the session, has
/// gone.
const SAY_EVERY: Duration = Duration::from_secs(5);
/// Pages that listen at once: each holds one of the console's connections, and half of these stay
/// free for requests.
const LISTENERS_MAX: usize = 32;
/// A few events fit; a page that reads nothing for longer is given up.
const BUFFER_LEN: usize = 256;

/// Begins a stream; browsers wait so long before they come again.
const HELLO: &[u8] = b"retry: 3000\n\n";
const CHANGED: &[u8] = b"event: changed\ndata:\n\n";
const NOTHING_NEW: &[u8] = b":\n\n";

/// What tells listening pages that something has changed.
#[derive(Debug)]
pub(in crate::admin) struct Pulse {
    /// A fingerprint of everything that pages show.
    seen: watch::Sender<u64>,
    places: Arc<Semaphore>,
}

impl Default for Pulse {
    fn default() -> Self {
        Self {
            seen: watch::Sender::new(0),
            places: Arc::new(Semaphore::new(LISTENERS_MAX)),
        }
    }
}

/// Counts what is delivered in each minute, and looks for changes while somebody listens, until the
/// tasks of `shared` are told to stop.
pub(in crate::admin) async fn watch(shared: Arc<Shared>) {
    let start = Instant::now();
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = looks.tick() => {}
            () = shared.parts.tasks.stopped() => return,
        }
        shared
            .history
            .note(start.elapsed().as_secs() / 60, shared.totals());
        if shared.pulse.seen.receiver_count() > 0 {
            let now = shared.fingerprint();
            shared.pulse.seen.send_if_modified(|seen| {
                let is_new = *seen != now;
                *seen = now;
                is_new
            });
        }
    }
}

/// The stream of a page.
pub(in crate::admin) async fn events(State(shared): AppState, visitor: Visitor) -> Response {
    const STREAM: HeaderValue = HeaderValue::from_static("text/event-stream");
    let Ok(place) = Arc::clone(&shared.pulse.places).try_acquire_owned() else {
        let text = "too many pages listen already";
        let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, text);
        return problem
            .remedy("close pages of the console that nobody looks at")
            .into_response();
    };
    let (write, read) = tokio::io::duplex(BUFFER_LEN);
    let task = Arc::clone(&shared);
    shared.parts.tasks.spawn("console_events", async move {
        task.tell(write, &visitor, place).await;
    });
    let body = Body::from_stream(ReaderStream::new(read));
    ([(header::CONTENT_TYPE, STREAM)], body).into_response()
}

impl Shared {
    /// Tells one page of changes until it leaves, its session ends or the daemon stops.
    async fn tell(&self, mut page: DuplexStream, visitor: &Visitor, _place: OwnedSemaphorePermit) {
        let mut seen = self.pulse.seen.subscribe();
        let mut said = page.write_all(HELLO).await;
        while said.is_ok() && self.access.is_alive(visitor) {
            said = tokio::select! {
                changed = seen.changed() => match changed {
                    Ok(()) => page.write_all(CHANGED).await,
                    Err(_) => return,
                },
                () = tokio::time::sleep(SAY_EVERY) => page.write_all(NOTHING_NEW).await,
                () = self.parts.tasks.stopped() => return,
            };
        }
    }

    /// How many recipients have reached which outcome since the start.
    fn totals(&self) -> Minute {
        let settled = &self.parts.metrics.recipients_settled;
        let count = |outcome| settled.get_or_create(&[("outcome", outcome)]).get();
        Minute {
            delivered: count("delivered"),
            failed: count("bounced") + count("expired"),
        }
    }

    /// Changes whenever something changes that a page shows: counters move with each message, token,
    /// client and commit of the store; what an account says moves with its lane; what was made here is
    /// in the view.
    fn fingerprint(&self) -> u64 {
        use std::hash::{DefaultHasher, Hash, Hasher};

        let mut hasher = DefaultHasher::new();
        self.parts.metrics.encode().hash(&mut hasher);
        let accounts = self.accounts_with(&[]);
        format!("{accounts:?}").hash(&mut hasher);
        let view = self.view();
        format!(
            "{:?}",
            (
                &view.warnings,
                &view.written,
                &view.default_account,
                &view.listeners
            )
        )
        .hash(&mut hasher);
        self.not_ready().hash(&mut hasher);
        self.parts.oauth.sign_in_marks().hash(&mut hasher);
        self.trials.marks().hash(&mut hasher);
        self.runs.hash(&mut hasher);
        hasher.finish()
    }
}
