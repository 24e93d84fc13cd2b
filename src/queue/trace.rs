//! The trace: what happened to a message, told later to whoever asks.
//!
//! A fact is handed to the store without waiting and committed with what it tells of, so it costs no
//! sync and never fails or delays mail. It holds addresses, because they are what people ask for,
//! and stays where the queue is, with the queue's protection. It never holds a subject, a body or a
//! secret.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Next, Operation, Queue, Settlement};
use crate::{
    mail::{AccountName, Body, Message, QueueId, header},
    route,
    store::{self, Entry, RecipientState, TraceAt, TraceLimits, TraceRow},
};

/// How much of the trace is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Facts older than this are given up; zero: none is kept at all.
    pub keep: Duration,
    /// Octets; beyond, the oldest facts are given up.
    pub size_max: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            keep: Duration::from_secs(14 * 24 * 3600),
            size_max: 256 * 1024 * 1024,
        }
    }
}

/// Who handed a message over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Address and port; of a Unix socket, its peer.
    pub peer: String,
    /// The listener, as configured.
    pub listener: String,
    /// What the client called itself.
    pub helo: String,
    /// `ESMTPSA` and the like (RFC 3848): with S there was TLS, with A a login.
    pub protocol: String,
    /// The Message-ID, which is not read from a message in a file of its own a second time.
    #[serde(skip)]
    pub message_id: Option<String>,
}

/// A fact about a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// We said 250 to it, or made it ourselves (a DSN).
    Received(Box<Received>),
    /// The disk refused it after all: the client was told to try again later.
    Refused {
        /// Why.
        reason: String,
    },
    /// It was said to the provider.
    Attempted(Box<Attempted>),
    /// It was to be sent, but the account could not: no attempt was burnt.
    NotSent {
        /// The account.
        account: AccountName,
        /// Why.
        reason: String,
    },
    /// A person did something with it.
    Operated {
        /// What.
        operation: Operation,
    },
    /// Its octets no longer match their digest.
    Quarantined {
        /// What was found.
        reason: String,
    },
}

/// How a message came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    /// The account that sends it.
    pub account: AccountName,
    /// The reverse-path; empty: the null path.
    pub sender: String,
    /// Every recipient; of a list of more than a thousand, the first thousand.
    pub recipients: Vec<String>,
    /// Without the angle brackets.
    pub message_id: Option<String>,
    /// Octets.
    pub size: u64,
    /// The login name.
    pub client: Option<String>,
    /// Who handed it over; none: we made it.
    pub origin: Option<Origin>,
    /// The message that it reports on, if it is a DSN.
    pub report_on: Option<QueueId>,
}

/// One attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempted {
    /// Its way.
    #[serde(flatten)]
    pub way: Way,
    /// What each recipient came to; those with the same outcome together.
    pub outcomes: Vec<Outcome>,
    /// The verdict in plain words, when it did not simply go through.
    pub reason: Option<String>,
    /// Whether it counts as an attempt (throttling does not).
    pub counted: bool,
    /// Whether the final reply was lost: the message may have been taken.
    pub uncertain: bool,
    /// When open recipients are tried again; none: never, or at a person's word.
    pub next_attempt_at: Option<Timestamp>,
    /// Whether it waits for a person now.
    pub held: bool,
    /// DSNs made for it.
    pub reports: Vec<QueueId>,
}

/// The way an attempt took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Way {
    /// The account that sent; another than the message's own: its fallback.
    pub account: AccountName,
    /// The server.
    pub smarthost: String,
    /// `smtp`.
    pub transport: String,
    /// Whether the connection had carried a message before.
    pub reused: bool,
    /// Milliseconds that each phase took; connecting and signing in only on a new connection.
    pub phases_ms: Vec<(String, u64)>,
    /// Milliseconds from the lease to the outcome.
    pub elapsed_ms: u64,
}

/// What some recipients came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Delivered, deferred, bounced or expired.
    pub state: RecipientState,
    /// The provider's reply, with its queue id where it names one.
    pub reply: Option<String>,
    /// Who.
    pub recipients: Vec<String>,
}

/// A fact with its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// When.
    pub at: Timestamp,
    /// What.
    #[serde(flatten)]
    pub event: Event,
}

/// A message and what happened to it, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Story {
    /// The message.
    pub id: QueueId,
    /// What happened.
    pub facts: Vec<Fact>,
}

/// Which messages are looked for. All given conditions hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Search {
    /// A queue id, a Message-ID, a sender or a recipient; `*` stands for anything.
    pub text: Option<String>,
    /// The account that it was received for.
    pub account: Option<AccountName>,
    /// A sender pattern; `<>`: the null path.
    pub sender: Option<String>,
    /// A recipient pattern.
    pub recipient: Option<String>,
    /// Received then or later.
    pub since: Option<Timestamp>,
    /// Received before.
    pub until: Option<Timestamp>,
}

/// A page of what was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Newest message first.
    pub found: Vec<Story>,
    /// Where to go on; none: this was all.
    pub next: Option<TraceAt>,
}

impl Queue {
    /// How much of the trace is kept from now on.
    pub fn keep_traces(&self, config: Config) {
        *self.inner.trace_config() = config;
        let since = self.traces_since();
        self.inner.store.limit_traces(TraceLimits {
            bytes_max: config.size_max,
            since,
        });
    }

    /// Regular housekeeping, a few times an hour or more: commits what waits to be, and gives up
    /// facts that are too old, a bounded number a call. Delays nobody.
    pub async fn tend(&self) {
        let config = *self.inner.trace_config();
        self.keep_traces(config);
        if let Err(error) = self.inner.store.tidy().await {
            tracing::warn!(event = "trace_kept_back", %error);
        }
    }

    /// An account could not send a message that it had.
    pub fn trace_not_sent(&self, id: QueueId, account: &AccountName, reason: String) {
        let account = account.clone();
        self.trace(id, &Event::NotSent { account, reason });
    }

    /// Messages that were found, newest first, each with all that is known of it.
    ///
    /// # Errors
    /// The store's.
    pub async fn search_trace(
        &self,
        search: Search,
        before: Option<TraceAt>,
        limit: usize,
    ) -> Result<Page, store::Error> {
        let since = self.traces_since();
        let id = search.text.as_deref().and_then(|text| text.parse().ok());
        if let Some(id) = id {
            let rows = self.inner.store.trace_of(id).await?;
            let facts = facts(rows, since);
            let fits = !facts.is_empty();
            return Ok(Page {
                found: fits.then_some(Story { id, facts }).into_iter().collect(),
                next: None,
            });
        }
        let fits = move |row: &TraceRow| row.at >= since && search.fits(row);
        let page = self.inner.store.search_trace(before, limit, fits).await?;
        let found = page.found.into_iter().map(|(id, rows)| Story {
            id,
            facts: facts(rows, since),
        });
        Ok(Page {
            found: found.collect(),
            next: page.next,
        })
    }

    fn traces_since(&self) -> Timestamp {
        let keep = self.inner.trace_config().keep;
        let keep = SignedDuration::try_from(keep).unwrap_or(SignedDuration::MAX);
        let since = self.inner.clock.now().saturating_sub(keep);
        since.unwrap_or(Timestamp::MIN)
    }

    pub(super) fn trace(&self, id: QueueId, event: &Event) {
        if self.inner.trace_config().keep.is_zero() {
            return;
        }
        // A fact is text and numbers: it can always be said.
        let Ok(text) = serde_json::to_string(event) else {
            return;
        };
        self.inner.store.trace(TraceRow {
            id,
            at: self.inner.clock.now(),
            received: matches!(event, Event::Received(_)),
            event: text,
        });
    }

    pub(super) fn trace_received(
        &self,
        entry: &Entry,
        message: &Message,
        origin: Option<Origin>,
        report_on: Option<QueueId>,
    ) {
        let recipients = entry.recipients.iter().take(RECIPIENTS_MAX);
        let received = Received {
            account: entry.account.clone(),
            sender: entry.reverse_path.to_string(),
            recipients: recipients
                .map(|r| r.recipient.address.to_string())
                .collect(),
            message_id: message_id(message, origin.as_ref()),
            size: entry.size,
            client: entry.client.clone(),
            origin,
            report_on,
        };
        self.trace(entry.id, &Event::Received(Box::new(received)));
    }

    pub(super) fn trace_attempt(&self, entry: &Entry, settlement: &Settlement, way: Way) {
        let (next_attempt_at, held) = match settlement.next {
            Next::RetryAt(at) => (Some(at), false),
            Next::Hold => (None, true),
        };
        let open = is_open_after(entry, settlement);
        let attempted = Attempted {
            way,
            outcomes: outcomes(entry, settlement),
            reason: settlement.reason.clone(),
            counted: settlement.counted,
            uncertain: settlement.uncertain,
            next_attempt_at: next_attempt_at.filter(|_| open),
            held: held && open,
            reports: settlement.reports.iter().map(|report| report.id).collect(),
        };
        self.trace(entry.id, &Event::Attempted(Box::new(attempted)));
    }
}

/// Whether a recipient still waits when the settlement is recorded.
fn is_open_after(entry: &Entry, settlement: &Settlement) -> bool {
    entry.recipients.iter().enumerate().any(|(index, r)| {
        let outcome = settlement.outcomes.iter().find(|(at, ..)| *at == index);
        outcome.map_or(r.state, |(_, state, _)| *state).is_open()
    })
}

fn outcomes(entry: &Entry, settlement: &Settlement) -> Vec<Outcome> {
    let mut outcomes: Vec<Outcome> = Vec::new();
    for (index, state, reply) in settlement.outcomes.iter().take(RECIPIENTS_MAX) {
        let Some(recipient) = entry.recipients.get(*index) else {
            continue;
        };
        let address = recipient.recipient.address.to_string();
        let reply = reply.as_ref().map(ToString::to_string);
        let same = |outcome: &&mut Outcome| outcome.state == *state && outcome.reply == reply;
        match outcomes.iter_mut().find(same) {
            Some(outcome) => outcome.recipients.push(address),
            None => outcomes.push(Outcome {
                state: *state,
                reply,
                recipients: vec![address],
            }),
        }
    }
    outcomes
}

fn message_id(message: &Message, origin: Option<&Origin>) -> Option<String> {
    match (&message.body, origin) {
        (_, Some(origin)) => origin.message_id.clone(),
        (Body::Memory(octets), None) => header::message_id(octets),
        (Body::File(_), None) => None,
    }
}

impl Search {
    fn fits(&self, row: &TraceRow) -> bool {
        if self.since.is_some_and(|since| row.at < since)
            || self.until.is_some_and(|until| row.at >= until)
        {
            return false;
        }
        let Ok(Event::Received(received)) = serde_json::from_str(&row.event) else {
            return false;
        };
        let is_sender = |pattern: &str| match received.sender.as_str() {
            "" => pattern == "<>" || pattern == "*",
            sender => route::matches(pattern, sender),
        };
        let is_recipient = |pattern: &str| {
            let mut recipients = received.recipients.iter();
            recipients.any(|recipient| route::matches(pattern, recipient))
        };
        let is_message_id = |pattern: &str| {
            let pattern = pattern.trim_start_matches('<').trim_end_matches('>');
            let id = received.message_id.as_deref();
            id.is_some_and(|id| !pattern.is_empty() && route::matches(pattern, id))
        };
        let text = self.text.as_deref();
        let account = self.account.as_ref();
        account.is_none_or(|account| *account == received.account)
            && self.sender.as_deref().is_none_or(is_sender)
            && self.recipient.as_deref().is_none_or(is_recipient)
            && text.is_none_or(|text| is_sender(text) || is_recipient(text) || is_message_id(text))
    }
}

fn facts(rows: Vec<TraceRow>, since: Timestamp) -> Vec<Fact> {
    let kept = rows.into_iter().filter(|row| row.at >= since);
    // One that another version has written in another form is passed over.
    kept.filter_map(|row| {
        let event = serde_json::from_str(&row.event).ok()?;
        Some(Fact { at: row.at, event })
    })
    .collect()
}

/// Recipients told of a message; a list of more is an exception, and a row stays below 64 KiB.
const RECIPIENTS_MAX: usize = 1000;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        clock::Clock,
        mail::{Reply, ReversePath},
        queue::{
            Remainder,
            tests::{Rig, account, delivered, new_entry, settlement},
        },
        store::Filter,
    };

    fn origin() -> Origin {
        Origin {
            peer: "192.0.2.7:4711".into(),
            listener: "127.0.0.1:2525".into(),
            helo: "erp".into(),
            protocol: "ESMTP".into(),
            message_id: Some("1@erp".into()),
        }
    }

    fn way() -> Way {
        Way {
            account: account(),
            smarthost: "smtp.example:587".into(),
            transport: "smtp".into(),
            reused: true,
            phases_ms: vec![("mail".into(), 1)],
            elapsed_ms: 2,
        }
    }

    async fn found(queue: &Queue, search: Search) -> Vec<Story> {
        queue.search_trace(search, None, 100).await.unwrap().found
    }

    /// Of a message that is never stored nothing is kept; one that may be queued has its story also
    /// when it was delivered at once.
    #[tokio::test]
    async fn a_message_its_client_waits_for_has_a_story_unless_nothing_is_stored() {
        let rig = Rig::new();
        let queue = rig.open();
        for (remainder, wanted) in [
            (Remainder::Refused, vec![]),
            (Remainder::Stored, vec![["received", "attempted"]]),
        ] {
            let new = new_entry(&queue);
            let id = new.id;
            let _offer = queue.offer(new, Some(origin()), remainder).unwrap();
            let lease = queue.lease(&account()).await;
            assert!(lease.commit());
            let mut settlement = delivered(rig.clock.now());
            settlement.way = Some(way());
            queue.settle(lease, settlement).await.unwrap();
            queue.tend().await;
            let stories = found(&queue, text(&id.to_string())).await;
            assert_eq!(stories.iter().map(names).collect::<Vec<_>>(), wanted);
        }
    }

    fn text(text: &str) -> Search {
        Search {
            text: Some(text.into()),
            ..Search::default()
        }
    }

    fn names(story: &Story) -> Vec<String> {
        let facts = story.facts.iter();
        let json = facts.map(|fact| serde_json::to_value(fact).unwrap());
        json.map(|fact| fact["event"].as_str().unwrap().to_owned())
            .collect()
    }

    /// A message that was deferred to one and bounced for another, held, released, kept back and
    /// delivered; its id and that of the report.
    async fn lived(rig: &Rig, queue: &Queue) -> (QueueId, QueueId) {
        let new = new_entry(queue);
        let id = new.id;
        queue.accept_from(new, Some(origin())).await.unwrap();
        let lease = queue.lease(&account()).await;
        let deferred = RecipientState::Deferred;
        let busy = Some(Reply::new(450, None, "busy"));
        let bounced = Some(Reply::new(550, None, "unknown"));
        let mut first = settlement(
            vec![(0, deferred, busy), (1, RecipientState::Bounced, bounced)],
            Next::RetryAt(rig.clock.now()),
        );
        let mut report = new_entry(queue);
        report.envelope.reverse_path = ReversePath::Null;
        let report_id = report.id;
        first.reports.push(report);
        first.way = Some(way());
        queue.settle(lease, first).await.unwrap();
        let filter = Filter {
            ids: vec![id],
            ..Filter::default()
        };
        for op in [Operation::Hold, Operation::Release] {
            assert_eq!(queue.operate(filter.clone(), op).await.unwrap(), 1);
        }
        queue.trace_not_sent(id, &account(), "no token".into());
        // The report is leased too, and given back when all is over.
        let mut others = Vec::new();
        let lease = loop {
            let lease = queue.lease(&account()).await;
            if lease.entry.id == id {
                break lease;
            }
            others.push(lease);
        };
        let mut last = delivered(Timestamp::MIN);
        last.way = Some(way());
        queue.settle(lease, last).await.unwrap();
        (id, report_id)
    }

    #[tokio::test]
    async fn a_story_holds_all_that_happened_in_its_order() {
        let rig = Rig::new();
        let queue = rig.open();
        let (id, report_id) = lived(&rig, &queue).await;
        let stories = found(&queue, text(&id.to_string())).await;
        let [story] = stories.as_slice() else {
            panic!("one story")
        };
        assert_eq!(
            names(story),
            [
                "received",
                "attempted",
                "operated",
                "operated",
                "not_sent",
                "attempted"
            ]
        );
        let json = serde_json::to_value(&story.facts).unwrap();
        assert_eq!(json[0]["origin"]["peer"], "192.0.2.7:4711");
        assert_eq!(json[1]["outcomes"][0]["reply"], "450 busy");
        assert_eq!(json[1]["outcomes"][1]["recipients"][0], "c@example.net");
        assert_eq!(json[1]["reports"][0], report_id.to_string());
        assert_eq!(
            json[5]["next_attempt_at"],
            serde_json::Value::Null,
            "all are done"
        );

        let report = found(&queue, text(&report_id.to_string())).await;
        let json = serde_json::to_value(&report[0].facts).unwrap();
        assert_eq!(json[0]["report_on"], id.to_string());
    }

    #[tokio::test]
    async fn a_message_is_found_by_each_of_its_names() {
        let rig = Rig::new();
        let queue = rig.open();
        lived(&rig, &queue).await;
        let now = rig.clock.now();
        let second = SignedDuration::from_secs(1);
        for (search, count) in [
            (text("<1@erp>"), 1),
            (text("1@ERP"), 1),
            (text("a@example.com"), 1),
            (text("*@example.net"), 2),
            (text("c@example.net"), 2),
            (text("<>"), 1),
            (text("nobody@example.net"), 0),
            (
                Search {
                    sender: Some("*@example.com".into()),
                    ..text("b@*")
                },
                1,
            ),
            (
                Search {
                    recipient: Some("z@*".into()),
                    ..Search::default()
                },
                0,
            ),
            (
                Search {
                    since: Some(now),
                    ..Search::default()
                },
                2,
            ),
            (
                Search {
                    since: Some(now + second),
                    ..Search::default()
                },
                0,
            ),
            (
                Search {
                    until: Some(now),
                    ..Search::default()
                },
                0,
            ),
        ] {
            let stories = found(&queue, search.clone()).await;
            assert_eq!(stories.len(), count, "{search:?}");
        }
    }

    #[tokio::test]
    async fn pages_hold_every_message_once_newest_first() {
        let rig = Rig::new();
        let queue = rig.open();
        let mut ids = Vec::new();
        for _ in 0..25 {
            let new = new_entry(&queue);
            ids.push(new.id);
            queue.accept(new).await.unwrap();
        }
        ids.reverse();
        let (mut seen, mut before) = (Vec::new(), None);
        loop {
            let search = text("b@example.net");
            let page = queue.search_trace(search, before, 10).await.unwrap();
            assert!(page.found.len() <= 10);
            seen.extend(page.found.iter().map(|story| story.id));
            before = page.next;
            if before.is_none() {
                break;
            }
        }
        assert_eq!(seen, ids);
    }

    #[tokio::test]
    async fn what_is_too_old_is_neither_told_nor_kept() {
        let rig = Rig::new();
        let queue = rig.open();
        queue.keep_traces(Config {
            keep: Duration::from_secs(3600),
            ..Config::default()
        });
        queue.accept(new_entry(&queue)).await.unwrap();
        assert_eq!(found(&queue, text("a@*")).await.len(), 1);
        rig.clock.advance(SignedDuration::from_hours(2));
        assert_eq!(found(&queue, text("a@*")).await.len(), 0, "not told");
        queue.tend().await;
        // Whoever keeps more from now on does not find it again.
        queue.keep_traces(Config::default());
        assert_eq!(found(&queue, text("a@*")).await.len(), 0, "not kept");
        queue.keep_traces(Config {
            keep: Duration::ZERO,
            ..Config::default()
        });
        queue.accept(new_entry(&queue)).await.unwrap();
        queue.keep_traces(Config::default());
        assert_eq!(found(&queue, text("a@*")).await.len(), 0, "never written");
    }

    /// No commit of its own: as many as without it.
    #[tokio::test]
    async fn it_costs_no_commit() {
        let rig = Rig::new();
        let queue = rig.open();
        let metrics = Arc::clone(&queue.inner.metrics);
        let before = metrics.store_commits.get();
        for _ in 0..10 {
            queue.accept(new_entry(&queue)).await.unwrap();
            let lease = queue.lease(&account()).await;
            queue.note_usage(&account(), vec![(0, 1)]);
            let mut settlement = delivered(Timestamp::MIN);
            settlement.way = Some(way());
            queue.settle(lease, settlement).await.unwrap();
        }
        assert_eq!(metrics.store_commits.get() - before, 20);
        assert_eq!(metrics.trace_events_lost.get(), 0);
        assert_eq!(found(&queue, text("a@*")).await.len(), 10);
        assert_eq!(queue.usage(&account()).await.unwrap(), [(0, 1)]);
    }

    /// A trace that cannot be written loses its events, and mail does not notice.
    #[tokio::test]
    async fn mail_goes_on_without_it() {
        let rig = Rig::new();
        let queue = rig.open();
        rig.execute("DROP TABLE traces; DROP TABLE usage;");
        queue.note_usage(&account(), vec![(0, 1)]);
        queue.accept(new_entry(&queue)).await.unwrap();
        let lease = queue.lease(&account()).await;
        queue
            .settle(lease, delivered(Timestamp::MIN))
            .await
            .unwrap();
        assert_eq!(queue.list(Filter::default()).await.unwrap(), []);
        assert_eq!(queue.inner.metrics.trace_events_lost.get(), 1);
        assert!(queue.ready().is_ok());
    }
}
