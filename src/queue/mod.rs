//! Who is due when: accept, lease, settle, hold, release. Knows neither SMTP nor OAuth.
//!
//! `accept` makes a message durable and hands it, still in memory, to its account's lane when the
//! lane has room; `lease` gives the lane what is due; `settle` records outcomes durably before
//! anything is forgotten. A backlog costs disk, not memory.

mod import;
mod lanes;
mod offer;
pub mod retry;
pub mod trace;
mod turns;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use tokio::sync::Notify;

pub use self::{
    import::{ImportError, Place},
    offer::{Offer, Outcome, Remainder},
};
use self::{
    lanes::{Hands, Lanes, Turn},
    offer::Seat,
};
pub use crate::store::Spill;
use crate::{
    clock::Clock,
    mail::{AccountName, Digest, Envelope, Message, QueueId, Reply},
    store::{
        self, Due, Entry, EntryState, Filter, Located, RecipientEntry, RecipientState, Store,
        StoredBody,
    },
    telemetry::Metrics,
};

/// Random bits of a queue id, below 44 of milliseconds.
const ID_RANDOM_BITS: u32 = 19;
/// A lane looks at the clock at least so often, because the wall clock may jump.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Messages that an operation takes into its hands at once.
const OPERATED_MAX: u32 = 500;
/// Between tries while the store refuses.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);

/// What the queue needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// When a deferred message is tried again, and when it is given up.
    pub retry: retry::Policy,
}

/// A message to take responsibility for.
#[derive(Debug, Clone)]
pub struct NewEntry {
    /// From [`Queue::next_id`].
    pub id: QueueId,
    /// The account that sends it.
    pub account: AccountName,
    /// Sender and recipients.
    pub envelope: Envelope,
    /// The octets.
    pub message: Message,
    /// Login name of the client, if it had one.
    pub client: Option<String>,
}

/// What an attempt came to.
#[derive(Debug, Clone)]
pub struct Settlement {
    /// By index into `entry.recipients`; recipients not named keep their state.
    pub outcomes: Vec<(usize, RecipientState, Option<Reply>)>,
    /// What happens to recipients still open. Ignored when none is.
    pub next: Next,
    /// Why, in plain words.
    pub reason: Option<String>,
    /// Whether this counts as an attempt (throttling does not).
    pub counted: bool,
    /// Whether the final reply was lost.
    pub uncertain: bool,
    /// DSNs that this settlement owes; accepted in the same commit.
    pub reports: Vec<NewEntry>,
    /// Whether one of them tells the sender that the message is late.
    pub delay_warned: bool,
    /// The way it took, for the trace; none: it was told before.
    pub way: Option<trace::Way>,
}

/// What happens to the recipients that an attempt left open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Tried again then.
    RetryAt(Timestamp),
    /// Waits for a person.
    Hold,
}

/// How many messages of an account wait where.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Will be delivered.
    pub queued: u64,
    /// Wait for a person (held or quarantined).
    pub held: u64,
    /// When the oldest of those that will be delivered came; none: there is none.
    pub oldest_at: Option<Timestamp>,
}

/// What an operator does with messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// Due now.
    Retry,
    /// Waits for a person.
    Hold,
    /// No longer waits; due now.
    Release,
    /// Forgotten, without a DSN.
    Delete,
}

/// The queue. Clones share it.
#[derive(Debug, Clone)]
pub struct Queue {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    retry: retry::Policy,
    store: Store,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    lanes: Mutex<Lanes>,
    trace: Mutex<trace::Config>,
    last_id: AtomicI64,
}

/// A message leased to a lane. Dropping it without [`Queue::settle`] gives it back unchanged: it is
/// due again at once (shutdown, or the account went on hold before the attempt began).
#[derive(Debug)]
pub struct Lease {
    /// Everything about the message.
    pub entry: Entry,
    /// Its octets, verified.
    pub message: Message,
    // Before the seat: a client that hears of it may store it at once, and hold it anew.
    _hold: Hold,
    /// Where its client waits, while nothing is stored.
    seat: Option<Seat>,
}

impl Lease {
    /// Whether the trace tells of it: not of a message that is never stored.
    #[must_use]
    pub fn leaves_traces(&self) -> bool {
        self.seat.as_ref().is_none_or(Seat::leaves_traces)
    }
}

impl Queue {
    /// A queue over `store`. Messages found there are due when their time comes.
    #[must_use]
    pub fn new(config: Config, store: Store, clock: Arc<dyn Clock>, metrics: Arc<Metrics>) -> Self {
        let inner = Inner {
            retry: config.retry,
            store,
            clock,
            metrics,
            lanes: Mutex::default(),
            trace: Mutex::default(),
            last_id: AtomicI64::new(0),
        };
        let queue = Self {
            inner: Arc::new(inner),
        };
        queue.keep_traces(trace::Config::default());
        queue
    }

    /// A fresh queue id: later than every one before it in this process, whatever the clock does.
    #[must_use]
    pub fn next_id(&self) -> QueueId {
        let millis = self.inner.clock.now().as_millisecond().max(0);
        let random = i64::from(getrandom::u32().unwrap_or(0) >> (32 - ID_RANDOM_BITS));
        let fresh = (millis << ID_RANDOM_BITS) | random;
        let next = |last: i64| Some(fresh.max(last + 1));
        let last = self
            .inner
            .last_id
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        QueueId::from_i64(fresh.max(last.unwrap_or(0) + 1))
    }

    /// Starts a body file for a message above [`store::INLINE_BODY_MAX`].
    ///
    /// # Errors
    /// [`store::Error::Full`] or [`store::Error::Broken`].
    pub fn spill(&self, id: QueueId) -> Result<Spill, store::Error> {
        self.inner.store.spill(id)
    }

    /// Takes responsibility for a message: when this returns `Ok`, it survives a power loss. The
    /// caller may then, and only then, reply 250 (RFC 5321 §4.2.5, §6.1).
    ///
    /// # Errors
    /// [`store::Error::Full`] (452) or another (451); nothing is left behind.
    ///
    /// # Cancel safety
    /// Not cancel safe: dropping the future may leave an unacknowledged message that will still be
    /// delivered.
    pub async fn accept(&self, new: NewEntry) -> Result<(), store::Error> {
        self.accept_from(new, None).await
    }

    /// As [`Queue::accept`], and the trace tells who handed the message over.
    ///
    /// # Errors
    /// As [`Queue::accept`].
    ///
    /// # Cancel safety
    /// As [`Queue::accept`].
    pub async fn accept_from(
        &self,
        new: NewEntry,
        origin: Option<trace::Origin>,
    ) -> Result<(), store::Error> {
        let size = new.message.size;
        self.insert(new, origin).await?;
        self.inner.metrics.messages_accepted.inc();
        self.inner.metrics.message_bytes_accepted.inc_by(size);
        Ok(())
    }

    async fn insert(
        &self,
        new: NewEntry,
        origin: Option<trace::Origin>,
    ) -> Result<(), store::Error> {
        let (entry, message) = self.entry(new);
        // Known before it is in the store, so that no lane finds it there while we still hold it.
        let hold = Hold::new(&self.inner, &entry);
        let size = message.size;
        self.trace_received(&entry, &message, origin, None);
        let inserted = self.inner.store.insert(entry.clone(), message.clone());
        if let Err(error) = inserted.await {
            let reason = error.to_string();
            self.trace(entry.id, &trace::Event::Refused { reason });
            return Err(error);
        }
        tracing::info!(
            event = "queued", queue_id = %entry.id, account = %entry.account, size,
            recipients = entry.recipients.len(),
        );
        self.hand_over(entry, message, hold);
        Ok(())
    }

    fn entry(&self, new: NewEntry) -> (Entry, Message) {
        let now = self.inner.clock.now();
        let recipients = new
            .envelope
            .recipients
            .into_iter()
            .map(|recipient| RecipientEntry {
                recipient,
                state: RecipientState::Queued,
                reply: None,
            });
        let entry = Entry {
            id: new.id,
            account: new.account,
            reverse_path: new.envelope.reverse_path,
            recipients: recipients.collect(),
            body: new.envelope.body,
            smtputf8: new.envelope.smtputf8,
            ret: new.envelope.ret,
            envid: new.envelope.envid,
            size: new.message.size,
            received_at: now,
            client: new.client,
            state: EntryState::Queued,
            next_attempt_at: now,
            attempts: 0,
            uncertain: false,
            delay_warned: false,
            reason: None,
        };
        (entry, new.message)
    }

    /// Gives a message just stored to its lane from memory if there is room; else the lane finds it
    /// in the store.
    fn hand_over(&self, entry: Entry, message: Message, hold: Hold) {
        let mut lanes = self.inner.lanes();
        if lanes.has_room(&entry, &message) {
            hold.keep();
            lanes.push_fresh(entry, message, None);
        } else {
            drop(lanes);
            // Dropping the hold tells the lane to look into the store.
            drop(hold);
        }
    }

    /// Whether the store still takes messages; `Err` says why not, for 451 and `/readyz`.
    ///
    /// # Errors
    /// What [`Queue::accept`] would answer.
    pub fn ready(&self) -> Result<(), store::Error> {
        self.inner.store.ready()
    }

    /// The space under the state directory; `None`: the system does not say.
    #[must_use]
    pub fn space(&self) -> Option<store::FreeSpace> {
        self.inner.store.space()
    }

    /// Before the process ends, in order: the journal goes back into the database.
    ///
    /// # Errors
    /// The store's; nothing is lost by it.
    pub async fn close(&self) -> Result<(), store::Error> {
        self.inner.store.fold().await
    }

    /// Resolves when the store has failed for good: the process must stop accepting and restart.
    pub async fn failed(&self) -> store::Error {
        self.inner.store.failed().await
    }

    /// The next due message of `account`; waits until there is one. Fresh messages come from
    /// memory, in turn with due ones from the store. Messages that fail their digest are
    /// quarantined here and never returned. Cancel safe.
    pub async fn lease(&self, account: &AccountName) -> Lease {
        loop {
            let now = self.inner.clock.now();
            let next = self.inner.lanes().next(account, now);
            match next {
                Turn::Fresh(fresh) => {
                    let hold = Hold::adopt(&self.inner, &fresh.entry);
                    return Lease {
                        entry: fresh.entry,
                        message: fresh.message,
                        _hold: hold,
                        seat: fresh.desk.map(Seat),
                    };
                }
                Turn::Stored(located) => {
                    let hold = Hold::adopt(&self.inner, &located.entry);
                    if let Some(message) = self.load(&located).await {
                        return Lease {
                            entry: located.entry,
                            message,
                            _hold: hold,
                            seat: None,
                        };
                    }
                }
                Turn::Fetch => self.fetch(account, now).await,
                Turn::Wait(until, notify) => wait(until, now, &notify).await,
            }
        }
    }

    /// The octets of a stored message; `None` when it had to be quarantined or cannot be read now.
    async fn load(&self, located: &Located) -> Option<Message> {
        let entry = &located.entry;
        match self.inner.store.body(located).await {
            Ok(StoredBody::Intact(message)) => return Some(message),
            Ok(StoredBody::Damaged(reason, _)) => {
                tracing::error!(
                    event = "quarantined", queue_id = %entry.id, account = %entry.account, reason,
                    "export it, then delete it or ask its sender to send again",
                );
                self.inner.metrics.quarantined.inc();
                let told = trace::Event::Quarantined {
                    reason: reason.clone(),
                };
                self.trace(entry.id, &told);
                let ids = vec![entry.id];
                let state = EntryState::Quarantined;
                let altered =
                    self.inner
                        .store
                        .alter(ids, state, entry.next_attempt_at, Some(reason));
                if let Err(error) = altered.await {
                    tracing::error!(event = "store_refused", queue_id = %entry.id, %error);
                    tokio::time::sleep(REFUSED_PAUSE).await;
                }
            }
            Err(error) => {
                tracing::error!(event = "store_refused", queue_id = %entry.id, %error);
                tokio::time::sleep(REFUSED_PAUSE).await;
            }
        }
        None
    }

    /// Fills the lane's window from the store.
    async fn fetch(&self, account: &AccountName, now: Timestamp) {
        let mut fetching = Fetching {
            inner: &self.inner,
            account,
            found: None,
        };
        let wanted = self.inner.lanes().wanted(account);
        let found = async {
            let due = self.inner.store.due(account.clone(), now, wanted).await?;
            let next = self.inner.store.next_due(account.clone(), now).await?;
            Ok::<_, store::Error>((due, next))
        };
        match found.await {
            Ok(found) => fetching.found = Some(found),
            Err(error) => {
                tracing::error!(event = "store_refused", account = %account, %error);
                tokio::time::sleep(REFUSED_PAUSE).await;
            }
        }
    }

    /// Records what an attempt came to. When it returns `Ok`, the outcome survives a power loss;
    /// a message with no open recipient is gone.
    ///
    /// # Errors
    /// The store's. The lease is then given back.
    ///
    /// # Cancel safety
    /// Not cancel safe: the outcome may be recorded or not.
    pub async fn settle(
        &self,
        lease: Lease,
        mut settlement: Settlement,
    ) -> Result<(), store::Error> {
        if let Some(way) = settlement.way.take()
            && lease.leaves_traces()
        {
            self.trace_attempt(&lease.entry, &settlement, way);
        }
        let lease = if lease.seat.is_some() {
            match self.settle_offer(lease, &settlement).await {
                Some(lease) => lease,
                None => return Ok(()),
            }
        } else {
            lease
        };
        let mut entry = lease.entry.clone();
        for (index, state, reply) in settlement.outcomes {
            if let Some(recipient) = entry.recipients.get_mut(index) {
                recipient.state = state;
                recipient.reply = reply.or(recipient.reply.take());
            }
        }
        entry.attempts += u32::from(settlement.counted);
        entry.uncertain |= settlement.uncertain;
        entry.delay_warned |= settlement.delay_warned;
        entry.reason = settlement.reason;
        match settlement.next {
            Next::RetryAt(due) => entry.next_attempt_at = due,
            Next::Hold => entry.state = EntryState::Held,
        }
        let reports: Vec<_> = settlement
            .reports
            .into_iter()
            .map(|r| self.entry(r))
            .collect();
        for (report, message) in &reports {
            self.trace_received(report, message, None, Some(entry.id));
        }
        let holds: Vec<_> = reports
            .iter()
            .map(|(e, _)| Hold::new(&self.inner, e))
            .collect();
        let due = entry.next_attempt_at;
        let account = entry.account.clone();
        self.inner
            .store
            .settle(entry, &lease.message.body, reports.clone())
            .await?;
        self.inner.lanes().settled(&account, lease.entry.id, due);
        lease._hold.keep();
        for ((entry, message), hold) in reports.into_iter().zip(holds) {
            self.hand_over(entry, message, hold);
        }
        Ok(())
    }

    /// When a message whose attempt has just come to nothing is tried again; `None`: its lifetime
    /// is over. The attempt under way is counted here.
    #[must_use]
    pub fn next_attempt(&self, entry: &Entry) -> Option<Timestamp> {
        let chance = f64::from(getrandom::u32().unwrap_or(u32::MAX / 2)) / f64::from(u32::MAX);
        let now = self.inner.clock.now();
        self.inner
            .retry
            .next_attempt(entry.received_at, entry.attempts + 1, now, chance)
    }

    /// Entries that match, oldest first.
    ///
    /// # Errors
    /// The store's.
    pub async fn list(&self, filter: Filter) -> Result<Vec<Entry>, store::Error> {
        self.inner.store.list(filter).await
    }

    /// One entry, and the digest its octets had when they were accepted.
    ///
    /// # Errors
    /// The store's.
    pub async fn find(&self, id: QueueId) -> Result<Option<(Entry, Digest)>, store::Error> {
        let located = self.inner.store.find(id).await?;
        Ok(located.map(|located| (located.entry.clone(), located.digest())))
    }

    /// One entry with its octets (also when held; of a quarantined one, as they are now).
    ///
    /// # Errors
    /// The store's; [`store::Error::Refused`] when the body is gone.
    pub async fn read(&self, id: QueueId) -> Result<Option<(Entry, Message)>, store::Error> {
        let Some(located) = self.inner.store.find(id).await? else {
            return Ok(None);
        };
        match self.inner.store.body(&located).await? {
            StoredBody::Intact(message) => Ok(Some((located.entry, message))),
            // A person looks at what is left of it.
            StoredBody::Damaged(_, Some(message)) => Ok(Some((located.entry, message))),
            StoredBody::Damaged(reason, None) => Err(store::Error::Refused {
                operation: "reading a damaged body",
                source: Arc::new(std::io::Error::other(reason)),
            }),
        }
    }

    /// Applies `operation` to every matching entry; how many there were. A message that is being
    /// delivered at this moment is not touched, and not counted. `Retry` leaves held ones held.
    ///
    /// Goes through the queue in parts of 500, each of its own commit: memory is bounded
    /// whatever the number. Interrupted, the parts before it are done.
    ///
    /// # Errors
    /// The store's.
    pub async fn operate(&self, mut filter: Filter, op: Operation) -> Result<u64, store::Error> {
        filter.limit = Some(OPERATED_MAX);
        let mut count = 0;
        loop {
            let found = self.inner.store.list(filter.clone()).await?;
            let full = u32::try_from(found.len()).is_ok_and(|found| found >= OPERATED_MAX);
            filter.after = found.last().map(|entry| entry.id);
            count += self.operate_on(found, op).await?;
            if !full {
                break;
            }
        }
        tracing::info!(event = "queue_operation", operation = ?op, count);
        Ok(count)
    }

    async fn operate_on(&self, found: Vec<Entry>, op: Operation) -> Result<u64, store::Error> {
        let fits = |e: &Entry| match op {
            Operation::Retry | Operation::Hold => e.state == EntryState::Queued,
            Operation::Release => e.state == EntryState::Held,
            Operation::Delete => true,
        };
        let taken: Vec<(Entry, Hold)> = {
            let mut lanes = self.inner.lanes();
            let free = found
                .into_iter()
                .filter(|e| fits(e) && lanes.take_back(&e.account, e.id));
            free.collect::<Vec<_>>()
        }
        .into_iter()
        .map(|entry| {
            let hold = Hold::adopt(&self.inner, &entry);
            (entry, hold)
        })
        .collect();
        let ids: Vec<QueueId> = taken.iter().map(|(e, _)| e.id).collect();
        for id in &ids {
            self.trace(*id, &trace::Event::Operated { operation: op });
        }
        let now = self.inner.clock.now();
        let count = u64::try_from(ids.len()).unwrap_or(u64::MAX);
        let held = Some("held by an operator".to_owned());
        match op {
            Operation::Retry | Operation::Release => {
                self.inner
                    .store
                    .alter(ids, EntryState::Queued, now, None)
                    .await?;
            }
            Operation::Hold => {
                self.inner
                    .store
                    .alter(ids, EntryState::Held, now, held)
                    .await?
            }
            Operation::Delete => self.inner.store.delete(ids).await?,
        }
        Ok(count)
    }

    /// What an account has sent within the last day, as [`Queue::note_usage`] was told.
    ///
    /// # Errors
    /// The store's.
    pub async fn usage(&self, account: &AccountName) -> Result<store::Slots, store::Error> {
        self.inner.store.usage(account.clone()).await
    }

    /// Notes what an account has sent. It is committed with the settlement that follows, and costs
    /// no sync of its own.
    pub fn note_usage(&self, account: &AccountName, slots: store::Slots) {
        self.inner.store.note_usage(account.clone(), slots);
    }

    /// What waits, by account.
    ///
    /// # Errors
    /// The store's.
    pub async fn counts(&self) -> Result<Vec<(AccountName, Counts)>, store::Error> {
        let mut by_account = BTreeMap::<AccountName, Counts>::new();
        for (account, state, count, oldest) in self.inner.store.counts().await? {
            let counts = by_account.entry(account).or_default();
            match state {
                EntryState::Queued => {
                    counts.queued += count;
                    // An id begins with when it was given.
                    let millis = oldest.as_i64() >> ID_RANDOM_BITS;
                    counts.oldest_at = Timestamp::from_millisecond(millis).ok();
                }
                EntryState::Held | EntryState::Quarantined => counts.held += count,
            }
        }
        Ok(by_account.into_iter().collect())
    }

    /// Ids leased at this moment (state `delivering` in listings).
    #[must_use]
    pub fn leased(&self) -> Vec<QueueId> {
        self.inner.lanes().leased()
    }
}

impl Inner {
    fn trace_config(&self) -> MutexGuard<'_, trace::Config> {
        self.trace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for news of the lane, or until its next message is due; never long on the wall clock's
/// word alone, because that clock may jump.
async fn wait(until: Option<Timestamp>, now: Timestamp, notify: &Notify) {
    let wait = until.map_or(WAIT_MAX, |until| {
        Duration::try_from(until.duration_since(now))
            .unwrap_or_default()
            .min(WAIT_MAX)
    });
    // A deadline that passed without news is news too.
    drop(tokio::time::timeout(wait, notify.notified()).await);
}

/// Marks a message as being in somebody's hands. Dropped without [`Hold::keep`], the message is
/// looked for in the store again, where it stands unchanged.
#[derive(Debug)]
struct Hold {
    inner: Option<Arc<Inner>>,
    account: AccountName,
    id: QueueId,
}

impl Hold {
    /// Takes a message that nobody knows yet.
    fn new(inner: &Arc<Inner>, entry: &Entry) -> Self {
        inner.lanes().known.insert(entry.id, Hands::Leased);
        Self::adopt(inner, entry)
    }

    /// Answers for a message that is marked already.
    fn adopt(inner: &Arc<Inner>, entry: &Entry) -> Self {
        Self {
            inner: Some(Arc::clone(inner)),
            account: entry.account.clone(),
            id: entry.id,
        }
    }

    /// Somebody else answers for it now.
    fn keep(mut self) {
        self.inner = None;
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.take() {
            inner.lanes().give_back(&self.account, self.id);
        }
    }
}

/// A look into the store under way; dropped, it ends, with or without what was found.
struct Fetching<'a> {
    inner: &'a Inner,
    account: &'a AccountName,
    found: Option<(Due, Option<Timestamp>)>,
}

impl Drop for Fetching<'_> {
    fn drop(&mut self) {
        self.inner.lanes().fetched(self.account, self.found.take());
    }
}

#[cfg(test)]
mod tests;
