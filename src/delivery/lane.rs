//! One account's lane: as many workers as there is mail for, never more transactions than the
//! account has connections.
//!
//! Exactly one worker waits for the next message; when it gets one and nobody else waits, it starts
//! the next. So an idle lane is one small task without connection or buffer, and a busy one has
//! workers that store outcomes while others send. Everything they share is in [`State`], behind one
//! short lock.

use std::{
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use tokio::{
    sync::{Notify, Semaphore, watch},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    Account, Auth, BounceTo, Inner, LaneStatus, OnUncertain, Parts,
    gate::{Gate, Pass},
    limits::Pace,
    over::Over,
    pool::Pool,
    transport::Link,
    width::Width,
};
use crate::{
    net::{tasks::Tasks, tls::client::Connectors},
    oauth::Diagnosis,
    queue::Lease,
    store,
};

/// What all lanes share.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Common {
    pub(crate) hostname: String,
    pub(crate) bounce_to: BounceTo,
    pub(crate) bounces_per_hour: Option<NonZeroU32>,
    pub(crate) delay_warning: Duration,
    pub(crate) on_uncertain: OnUncertain,
}

/// A lane.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) account: Account,
    pub(crate) common: Common,
    pub(crate) parts: Parts,
    /// All lanes, to find the one that steps in for this.
    pub(super) all: Weak<Inner>,
    pub(crate) connectors: Connectors,
    /// This lane's own: stopped when the lane is replaced.
    tasks: Tasks,
    state: Mutex<State>,
    /// Rises when the gate opens or closes.
    changed: watch::Sender<u64>,
    /// A transaction is over.
    slot: Notify,
    pub(crate) pool: Pool,
    /// By which way mail goes.
    pub(crate) over: Over,
    /// One AUTH at a time: bad credentials are shown to the provider once, not once a connection.
    pub(crate) sign_in: Semaphore,
    /// Cancelled when the last worker has ended after a stop.
    drained: CancellationToken,
}

/// What the workers of a lane share.
#[derive(Debug)]
pub(crate) struct State {
    /// Whether the lane before this one has drained.
    started: bool,
    pub(crate) gate: Gate,
    pub(crate) pace: Pace,
    pub(crate) width: Width,
    workers: usize,
    /// Workers that wait for a message.
    waiting: usize,
    /// The generation of the token used last.
    pub(crate) generation: u64,
    /// A refused token that was already replaced once; forgotten when mail is taken.
    pub(crate) forced: Option<u64>,
    /// When a new token last opened the gate.
    tried_at: Option<Instant>,
    pub(crate) last_delivery_at: Option<Timestamp>,
    /// Whether the provider takes no null reverse-path from this account.
    pub(crate) null_sender_refused: bool,
    /// What last kept the account from sending, for the trace.
    pub(crate) trouble: String,
    /// Until when the provider asked to be left alone with the trouble that is being told.
    pub(crate) asked_until: Option<Instant>,
}

impl Lane {
    /// Starts the lane once `after` is over (the lane it replaces has drained).
    pub(super) fn start(
        account: Account,
        common: Common,
        all: &Arc<Inner>,
        after: Option<CancellationToken>,
    ) -> Arc<Self> {
        let parts = all.parts.clone();
        let now = Instant::now();
        let mut gate = Gate::new(account.limits.connections, now);
        if account.is_stopped {
            gate.stop(account.name.as_str(), now);
            tracing::warn!(event = "held", account = %account.name, reason = "stopped by an operator");
        }
        let lane = Arc::new(Self {
            state: Mutex::new(State {
                gate,
                pace: Pace::new(&account.limits, now),
                width: Width::new(account.limits.recipients_per_message),
                started: false,
                workers: 0,
                waiting: 0,
                generation: 0,
                forced: None,
                tried_at: None,
                last_delivery_at: None,
                null_sender_refused: false,
                trouble: String::new(),
                asked_until: None,
            }),
            all: Arc::downgrade(all),
            tasks: parts.tasks.child(),
            connectors: Connectors::new(),
            changed: watch::Sender::new(0),
            slot: Notify::new(),
            pool: Pool::default(),
            over: Over::default(),
            sign_in: Semaphore::new(1),
            drained: CancellationToken::new(),
            account,
            common,
            parts,
        });
        let first = Arc::clone(&lane);
        lane.tasks.spawn("lane", async move {
            // Also when stopped meanwhile: who waits for this lane waits for that one too.
            if let Some(after) = after {
                after.cancelled().await;
            }
            first.remember().await;
            first.state().started = true;
            first.ensure_worker();
            if first.state().workers == 0 {
                first.drained.cancel();
            }
        });
        lane
    }

    /// Takes over what the account had sent before.
    async fn remember(&self) {
        let name = &self.account.name;
        if self.account.limits.recipients_per_day.is_none() {
            return;
        }
        let slots = self.parts.queue.usage(name).await.unwrap_or_else(|error| {
            // The provider counts as well, and the verdict table waits at its word.
            tracing::warn!(event = "usage_unknown", account = %name, %error);
            store::Slots::new()
        });
        let (wall, now) = (self.parts.clock.now(), Instant::now());
        self.state().pace.restore(&slots, wall, now);
        self.note_usage();
    }

    /// Has what the account has sent stored with the next commit.
    pub(crate) fn note_usage(&self) {
        let (wall, now) = (self.parts.clock.now(), Instant::now());
        let news = self.state().pace.news(wall, now);
        if let Some(slots) = news {
            self.parts.queue.note_usage(&self.account.name, slots);
        }
    }

    /// Tells the lane to finish; the token is cancelled when it has.
    pub(crate) fn stop(&self) -> CancellationToken {
        self.tasks.stop();
        self.drained.clone()
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.tasks.is_stopped()
    }

    pub(crate) async fn stopped(&self) {
        self.tasks.stopped().await;
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the lane stands.
    pub(crate) fn status(&self) -> LaneStatus {
        let mut state = self.state();
        let now = Instant::now();
        let standing = state.pace.standing(now);
        let pace = super::PaceStatus {
            connections_now: state.gate.width(now),
            messages_per_minute_now: standing.messages_per_minute,
            throttled: standing.throttled
                || state.gate.width(now) < self.account.limits.connections,
            recipients_last_day: standing.recipients_last_day,
        };
        let paused_until = state.gate.paused_until(now).map(|until| {
            let wait = SignedDuration::try_from(until - now).unwrap_or(SignedDuration::ZERO);
            let at = self.parts.clock.now().saturating_add(wait);
            at.unwrap_or(Timestamp::MAX)
        });
        LaneStatus {
            held: state.gate.held().cloned(),
            awaits_release: self.account.is_stopped && self.account.fallback.is_none(),
            paused_until,
            failing: state.gate.is_failing(),
            trouble: state.trouble.clone(),
            last_delivery_at: state.last_delivery_at,
            limits: self.account.limits.clone(),
            pace,
            switched: self.over.switched(),
        }
    }

    /// What the account does instead of sending at full pace, as a metric says it.
    pub(super) fn slowed(&self) -> Option<&'static str> {
        let now = Instant::now();
        let mut state = self.state();
        let throttled = state.pace.standing(now).throttled;
        let at_gate = state.gate.state(now);
        at_gate.or(throttled.then_some("throttled"))
    }

    /// Tries now, whatever the gate waits for.
    pub(crate) fn wake(&self) {
        self.state().gate.try_now(Instant::now());
        self.tell();
    }

    /// Regular housekeeping: closes idle connections, and replaces workers that panicked.
    pub(crate) fn tend(self: &Arc<Self>) {
        self.part_with(self.pool.sweep(Instant::now()));
        self.ensure_worker();
    }

    /// Says goodbye on connections nobody needs.
    pub(crate) fn part_with(&self, connections: Vec<Link>) {
        if !connections.is_empty() {
            self.tasks.spawn("quit", async move {
                for connection in connections {
                    connection.quit().await;
                }
            });
        }
    }

    /// Puts the account on hold; tells it once.
    pub(crate) fn hold(&self, diagnosis: &Diagnosis) {
        let news = {
            let mut state = self.state();
            state.trouble.clone_from(&diagnosis.reason);
            state.gate.hold(diagnosis.clone(), Instant::now())
        };
        self.tell();
        self.part_with(self.pool.drain());
        if news {
            tracing::warn!(
                event = "held",
                account = %self.account.name,
                smarthost = %self.smarthost(),
                reason = %diagnosis.reason,
                remedy = %diagnosis.remedy,
            );
        }
    }

    /// The gate changed: whoever waits for it looks again.
    pub(crate) fn tell(&self) {
        self.changed
            .send_modify(|changes| *changes = changes.wrapping_add(1));
    }

    fn ensure_worker(self: &Arc<Self>) {
        {
            let mut state = self.state();
            // One stores while another sends: twice the connections keeps those busy.
            let workers_max = self.account.limits.connections.max(1) * 2;
            let enough = state.waiting > 0 || state.workers >= workers_max;
            if enough || !state.started || self.is_stopped() {
                return;
            }
            state.workers += 1;
            // Counted at once, or two messages in a row would start two workers for one place.
            state.waiting += 1;
        }
        let worker = Worker {
            lane: Arc::clone(self),
            waiting: true,
        };
        self.tasks.spawn("lane_worker", worker.run());
    }
}

/// One worker; its count is given back also when it panics.
struct Worker {
    lane: Arc<Lane>,
    waiting: bool,
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.set_waiting(false);
        let last = {
            let mut state = self.lane.state();
            state.workers -= 1;
            state.workers == 0
        };
        if last && self.lane.is_stopped() {
            self.lane.part_with(self.lane.pool.drain());
            self.lane.drained.cancel();
        }
    }
}

/// A place among the transactions of an account; given back when dropped.
#[derive(Debug)]
pub(crate) struct Ticket {
    lane: Arc<Lane>,
    /// Recipients set aside of the day's limit.
    recipients: usize,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let closed = {
            let mut state = self.lane.state();
            state.gate.leave();
            state.pace.done(self.recipients);
            state.gate.is_closed()
        };
        // Behind a closed gate anybody may be the next to find out.
        if closed {
            self.lane.tell();
        } else {
            self.lane.slot.notify_one();
        }
    }
}

impl Worker {
    async fn run(mut self) {
        let mut changed = self.lane.changed.subscribe();
        while let Some((lease, sender)) = self.next(&mut changed).await {
            let own = Arc::ptr_eq(&sender, &self.lane);
            let admitted = if own {
                sender.admit(lease, &mut changed).await
            } else {
                self.admit_elsewhere(&sender, lease).await
            };
            let Some((lease, ticket)) = admitted else {
                continue;
            };
            sender.attempt(lease, ticket).await;
        }
    }

    /// The next message, and the lane whose account sends it; `None`: this worker is not needed any
    /// more.
    async fn next(&mut self, changed: &mut watch::Receiver<u64>) -> Option<(Lease, Arc<Lane>)> {
        self.set_waiting(true);
        let lane = Arc::clone(&self.lane);
        loop {
            let sender = lane.opens(changed).await?;
            tokio::select! {
                biased;
                () = lane.stopped() => return None,
                _ = changed.changed() => {}
                lease = lane.parts.queue.lease(&lane.account.name) => {
                    self.set_waiting(false);
                    lane.ensure_worker();
                    return Some((lease, sender));
                }
                () = sleep(WORKER_IDLE) => {
                    if lane.state().waiting > 1 {
                        return None;
                    }
                }
            }
        }
    }

    /// As [`Lane::admit`], by the account that steps in.
    async fn admit_elsewhere(&self, sender: &Arc<Lane>, lease: Lease) -> Option<(Lease, Ticket)> {
        tracing::info!(
            event = "falls_back",
            queue_id = %lease.entry.id,
            account = %self.lane.account.name,
            fallback = %sender.account.name,
        );
        let mut changed = sender.changed.subscribe();
        tokio::select! {
            biased;
            () = self.lane.stopped() => None,
            admitted = sender.admit(lease, &mut changed) => admitted,
        }
    }

    fn set_waiting(&mut self, waiting: bool) {
        if self.waiting != waiting {
            self.waiting = waiting;
            let mut state = self.lane.state();
            if waiting {
                state.waiting += 1;
            } else {
                state.waiting -= 1;
            }
        }
    }
}

impl Lane {
    /// Waits for a place and for the pace. `None`: the account may not send after all; the message
    /// is given back.
    async fn admit(
        self: &Arc<Self>,
        lease: Lease,
        changed: &mut watch::Receiver<u64>,
    ) -> Option<(Lease, Ticket)> {
        let mut ticket = loop {
            let freed = self.slot.notified();
            changed.mark_unchanged();
            let pass = self.state().gate.enter(Instant::now());
            match pass {
                Pass::Go => {
                    break Ticket {
                        lane: Arc::clone(self),
                        recipients: 0,
                    };
                }
                Pass::Closed { .. } => return None,
                Pass::Busy => tokio::select! {
                    () = freed => {}
                    _ = changed.changed() => {}
                    () = self.stopped() => return None,
                },
            }
        };
        let recipients = self.next_recipients(&lease).len();
        let mut waited = false;
        loop {
            let now = Instant::now();
            let pause = {
                let mut state = self.state();
                // Closed while this one waited for the pace: what the provider asked for comes first.
                if state.gate.is_shut(now) {
                    return None;
                }
                state.pace.take(recipients, now)
            };
            let Some(pause) = pause else {
                ticket.recipients = recipients;
                return Some((lease, ticket));
            };
            if !waited || pause.day {
                self.count_wait(pause.day);
            }
            waited = true;
            if pause.day {
                self.day_is_full(pause.until, now);
                return None;
            }
            tokio::select! {
                () = sleep_until(pause.until) => {}
                () = self.stopped() => return None,
            }
        }
    }

    fn count_wait(&self, day: bool) {
        let limit = match day {
            true => "recipients_per_day",
            false => "messages_per_minute",
        };
        let waits = &self.parts.metrics.limit_waits;
        waits.get_or_create(&[("limit", limit)]).inc();
    }

    /// The lane that sends for this one while its account is on hold or over its daily limit. One
    /// step: the fallback of a fallback is not asked, or two accounts could not stand in for each
    /// other.
    fn stand_in(&self) -> Option<Arc<Self>> {
        let name = self.account.fallback.as_ref()?;
        let lane = self.all.upgrade()?.lane(name)?;
        (!lane.is_stopped()).then_some(lane)
    }

    /// Waits until somebody may send, and says who; `None`: the lane stops.
    async fn opens(self: &Arc<Self>, changed: &mut watch::Receiver<u64>) -> Option<Arc<Self>> {
        loop {
            if self.is_stopped() {
                return None;
            }
            changed.mark_unchanged();
            let (pass, generation, gives_way) = {
                let state = self.state();
                let (gate, now) = (&state.gate, Instant::now());
                (gate.peek(now), state.generation, gate.gives_way(now))
            };
            let stand_in = if gives_way { self.stand_in() } else { None };
            // Subscribed before it is looked at, so that no change is missed.
            let mut theirs = stand_in.as_ref().map(|lane| lane.changed.subscribe());
            if let Some(lane) = stand_in
                && !matches!(lane.state().gate.peek(Instant::now()), Pass::Closed { .. })
            {
                return Some(lane);
            }
            let they_change = async {
                match &mut theirs {
                    // An end is news as well: another lane has taken its place.
                    Some(changes) => drop(changes.changed().await),
                    None => std::future::pending().await,
                }
            };
            let (until, token) = match pass {
                Pass::Go => return Some(Arc::clone(self)),
                Pass::Busy => (None, false),
                Pass::Closed { until, token } => (Some(until), token && self.wants_token()),
            };
            let due = async {
                match until {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.stopped() => return None,
                _ = changed.changed() => {}
                () = they_change => {}
                () = due => {}
                // Behind a closed gate a client that waits is told so.
                () = self.parts.queue.decline_offers(&self.account.name), if until.is_some() => {}
                () = self.new_token(generation), if token => self.wake(),
            }
        }
    }

    /// Resolves when a token other than `generation` is there, but not again and again.
    async fn new_token(&self, generation: u64) {
        self.parts
            .oauth
            .changed(&self.account.name, self.service(), generation)
            .await;
        let earliest = self.state().tried_at.map(|at| at + TOKEN_TRY_EVERY);
        if let Some(earliest) = earliest {
            sleep_until(earliest).await;
        }
        self.state().tried_at = Some(Instant::now());
    }

    /// Whether the account authenticates with a token.
    pub(crate) fn wants_token(&self) -> bool {
        match self.account.smtp.auth {
            Auth::Xoauth2 { .. } | Auth::OauthBearer { .. } => true,
            Auth::Password { .. } | Auth::None => self.api().is_some(),
        }
    }

    fn day_is_full(&self, until: Instant, now: Instant) {
        const FULL: &str = "limits.recipients_per_day is reached";
        {
            let mut state = self.state();
            state.gate.slow(until - now, false, now);
            FULL.clone_into(&mut state.trouble);
        }
        self.tell();
        let limit = self.account.limits.recipients_per_day;
        tracing::warn!(
            event = "paused",
            account = %self.account.name,
            reason = FULL,
            limit,
            wait_ms = millis(until - now),
        );
    }
}

/// A duration for a log field.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// From 0 to 1, by chance.
pub(crate) fn jitter() -> f64 {
    // Without randomness lanes back off in step, which is no worse than that.
    getrandom::u32().map_or(0.5, |n| f64::from(n) / f64::from(u32::MAX))
}

/// A worker without mail ends after this, unless it is the one that waits.
const WORKER_IDLE: Duration = Duration::from_secs(30);
/// A new token opens a closed gate no more often than this: three failed sign-ins within ten
/// minutes are enough for any provider.
const TOKEN_TRY_EVERY: Duration = Duration::from_secs(10);
