//! One attempt: a leased message on a connection, its outcomes judged, stored and told.
//!
//! Order matters: outcomes are stored before the lease is forgotten, and before the connection ends
//! its next message.

use jiff::{SignedDuration, Timestamp};
use std::sync::Arc;

use tokio::{sync::oneshot, time::Instant};

use super::{
    OnUncertain,
    bounce::{Owed, Reporter},
    lane::{Lane, Ticket, millis},
    limits,
    plan::{self, Next, Plan},
    pool::Live,
    sender,
    sign_in::{Trouble, chain},
    storm::Leave,
    transport::{Answers, Cause, Failure, Head, Job, Phase, smtp::CLOSING},
    verdict::Action,
};
use crate::{
    mail::{Address, Reply, ReversePath},
    oauth::{Diagnosis, Service},
    queue::{self, Lease, Settlement, trace::Way},
    store::{Entry, RecipientState},
};

/// As whom a message leaves.
struct Guise {
    /// The account's mailbox, where it is a mail address.
    mailbox: Option<ReversePath>,
    head: Option<Head>,
}

/// What the server that had the message can do.
#[derive(Clone, Copy)]
struct Server {
    /// DSN (RFC 3461).
    reports_itself: bool,
    /// 8BITMIME.
    eight_bit: bool,
}

/// What the connection did with a message.
struct Carried {
    live: Live,
    result: Result<Answers, Failure>,
}

impl Lane {
    /// Attempts one message and stores what it came to. The place is given back before storing, so
    /// that the connection can carry the next message meanwhile.
    pub(crate) async fn attempt(self: Arc<Self>, lease: Lease, ticket: Ticket) {
        let started = Instant::now();
        if !lease.is_wanted() {
            return;
        }
        if let Some(settlement) = self.unsettled(&lease) {
            drop(ticket);
            return self.settle(lease, settlement, None).await;
        }
        let tried = self.next_recipients(&lease);
        let mailbox = sender::mailbox(&self.account.mailbox);
        let head = self.account.sender.head(&lease.message, mailbox.as_ref());
        let guise = Guise {
            head: match head.await {
                Ok(head) => head,
                Err(error) => {
                    tracing::error!(event = "store_refused", queue_id = %lease.entry.id, %error);
                    return;
                }
            },
            mailbox,
        };
        let carried = self.carry(&lease, &tried, &guise).await;
        let Carried { mut live, result } = match carried {
            Ok(carried) => carried,
            Err(trouble) => {
                // Nothing was said about this message: it is due again when the gate opens.
                self.suffer(trouble);
                self.trace_not_sent(&lease);
                return;
            }
        };
        let kind = self.account.kind;
        let plan = match result {
            Ok(answers) => Plan::from_answers(kind, &lease.entry, &tried, answers),
            Err(Failure {
                cause: Cause::Unsettled,
                ..
            }) => return,
            Err(failure) => {
                self.session_ended(&lease.entry, &failure);
                let mut plan = Plan::from_failure(kind, &tried, &failure);
                if failure.uncertain && self.common.on_uncertain == OnUncertain::Hold {
                    plan.hold_failed("it may have been delivered, and queue.uncertain is \"hold\"");
                }
                plan
            }
        };
        let server = Server {
            reports_itself: live.connection.reports_itself(),
            eight_bit: live.connection.eight_bit(),
        };
        let way = self.way(&mut live, started);
        let barrier = self.after_transaction(&plan, live).await;
        let mut settlement = self.settlement(&lease, plan, server, started).await;
        settlement.way = Some(way);
        drop(ticket);
        self.settle(lease, settlement, barrier).await;
    }

    /// The way of an attempt, for the trace.
    fn way(&self, live: &mut Live, started: Instant) -> Way {
        let times = live.connection.take_times().into_iter();
        let smtp = &self.account.smtp;
        // By nothing at all: what the account would have taken had it been smaller.
        let service = live.connection.service().unwrap_or_else(|| self.service());
        Way {
            account: self.account.name.clone(),
            smarthost: match service {
                Service::Smtp => format!("{}:{}", smtp.host, smtp.port),
                Service::Graph | Service::Gmail => self.smarthost().to_owned(),
            },
            transport: service.name().to_owned(),
            reused: live.reused,
            phases_ms: times
                .map(|(phase, time)| (phase.to_owned(), millis(time)))
                .collect(),
            elapsed_ms: millis(started.elapsed()),
        }
    }

    /// The account could not send after all, and the trace says why.
    fn trace_not_sent(&self, lease: &Lease) {
        let reason = self.state().trouble.clone();
        if !reason.is_empty() && !self.is_stopped() && lease.leaves_traces() {
            let queue = &self.parts.queue;
            queue.trace_not_sent(lease.entry.id, &self.account.name, reason);
        }
    }

    /// Says the message on a connection; on a fresh one when an idle one turns out to be dead.
    async fn carry(
        &self,
        lease: &Lease,
        tried: &[usize],
        guise: &Guise,
    ) -> Result<Carried, Trouble> {
        let rule = &self.account.sender;
        let path = rule.reverse_path(&lease.entry.reverse_path, guise.mailbox.as_ref());
        // Where the null reverse-path is refused, a report goes out as the mailbox.
        let null = *path == ReversePath::Null;
        let mailbox = guise.mailbox.as_ref().filter(|_| null);
        let head = guise.head.as_ref();
        let mut fresh = false;
        loop {
            let mut live = self.link(lease.message.size, fresh).await?;
            let mut sender = path;
            if let Some(mailbox) = mailbox
                && self.state().null_sender_refused
            {
                sender = mailbox;
            }
            let mut result = say(&mut live, lease, tried, (sender, head)).await;
            match &result {
                // An API says yes or no to the account and to the message in one answer.
                Err(failure) if failure.phase.is_login() => return Err(self.trouble(failure)),
                Ok(answers) if self.token_again(&live, answers).await? => continue,
                Ok(_) | Err(_) => {}
            }
            if !fresh && (broke_early(&result) || live.reused && was_closed(&result)) {
                fresh = true;
                continue;
            }
            // Some providers take no null reverse-path from a mailbox. The report goes out as the
            // mailbox then; it is marked Auto-Submitted, and is never answered with a report.
            if let Some(mailbox) = mailbox
                && *sender == ReversePath::Null
                && live.connection.is_usable()
                && null_sender_refused(&result)
            {
                self.state().null_sender_refused = true;
                result = say(&mut live, lease, tried, (mailbox, head)).await;
            }
            return Ok(Carried { live, result });
        }
    }

    /// Learns about the account from a transaction, and gives the connection back. What must be
    /// done when the outcome is stored.
    async fn after_transaction(&self, plan: &Plan, mut live: Live) -> Option<oneshot::Sender<()>> {
        for (phase, reply) in &plan.unknown {
            self.unknown(phase.name(), reply);
        }
        plan.verdicts
            .iter()
            .for_each(|verdict| self.judged(*verdict));
        let now = Instant::now();
        if let Some(width) = plan.width {
            self.state().width.learn(width, now);
        }
        // Where the final reply was lost, the provider may have counted everybody.
        let sent = match plan.uncertain {
            true => plan.outcomes.len(),
            false => plan.delivered.len(),
        };
        if sent > 0 {
            self.state().pace.sent(sent, now);
        }
        if !plan.delivered.is_empty() {
            let mut state = self.state();
            state.last_delivery_at = Some(self.parts.clock.now());
        }
        let Some((verdict, reply)) = &plan.account else {
            // Whatever came of the message, the provider talks to this account.
            if live.connection.is_usable() {
                self.account_works();
                let (done, settled) = oneshot::channel();
                live.settled = Some(settled);
                self.pool.put(live, now);
                return Some(done);
            }
            return None;
        };
        let diagnosis = Diagnosis {
            reason: format!("{}: {reply}", verdict.reason),
            remedy: self.remedy(verdict),
        };
        if verdict.action == Action::Relogin && self.wants_token() {
            self.part_with(self.pool.drain());
            match self.replace_token(live.generation, diagnosis).await {
                Ok(()) => {}
                Err(trouble) => self.suffer(trouble),
            }
        } else {
            let trouble = self.account_trouble(*verdict, diagnosis, Some(reply));
            self.suffer(trouble);
        }
        None
    }

    /// Whom the next transaction is for. What goes to all or none is never parted: its client gets
    /// one answer, and would send the part that has gone a second time.
    pub(crate) fn next_recipients(&self, lease: &Lease) -> Vec<usize> {
        let width = match lease.is_all_or_none() {
            true => usize::MAX,
            false => self.width(),
        };
        plan::next_recipients(width, &lease.entry)
    }

    /// How many recipients a transaction may have now.
    pub(crate) fn width(&self) -> usize {
        self.state().width.now(Instant::now())
    }

    fn account_works(&self) {
        let (was_closed, was_held) = {
            let mut state = self.state();
            state.forced = None;
            let was_closed = state.gate.is_closed();
            (was_closed, state.gate.works())
        };
        if was_closed {
            self.tell();
        }
        if was_held {
            tracing::info!(event = "released", account = %self.account.name);
        }
    }

    /// A session that ended in the middle of a message.
    fn session_ended(&self, entry: &Entry, failure: &Failure) {
        if failure.uncertain {
            self.parts.metrics.possible_duplicates.inc();
            tracing::warn!(
                event = "possible_duplicate",
                queue_id = %entry.id,
                account = %self.account.name,
                smarthost = %self.smarthost(),
                error = %chain(failure),
            );
        }
    }

    /// Turns a plan into what is stored: when it is tried again, who is told.
    async fn settlement(
        &self,
        lease: &Lease,
        mut plan: Plan,
        server: Server,
        started: Instant,
    ) -> Settlement {
        let entry = &lease.entry;
        let now = self.parts.clock.now();
        let mut next = queue::Next::Hold;
        match plan.next {
            Next::Schedule => match self.next_attempt(entry, &plan) {
                Some(at) => next = queue::Next::RetryAt(at),
                None => plan.expire(entry),
            },
            Next::After(wait) => {
                let wait = SignedDuration::try_from(wait).unwrap_or(SignedDuration::ZERO);
                next = queue::Next::RetryAt(now.saturating_add(wait).unwrap_or(now));
            }
            Next::Hold => {}
        }
        if let queue::Next::RetryAt(at) = &mut next {
            *at = (*at).max(asked_until(&plan, now));
        }
        let reporter = Reporter {
            hostname: &self.common.hostname,
            bounce_to: &self.common.bounce_to,
            account: &self.account,
            entry,
            message: &lease.message,
            now,
            eight_bit: server.eight_bit,
        };
        let mut reports = Vec::new();
        match reporter.owed(&plan) {
            Owed::Nothing => {}
            Owed::Report(to) if self.may_report(&to) => {
                let id = self.parts.queue.next_id();
                reports.push(reporter.failed(id, &to, &plan).await);
            }
            Owed::Report(_) => {
                plan.hold_failed(STORM);
                next = queue::Next::Hold;
            }
            Owed::Hold(why) => {
                plan.hold_failed(why);
                next = queue::Next::Hold;
            }
        }
        let mut delay_warned = false;
        if plan.next == Next::Schedule {
            let late = reporter.late(&plan, self.common.delay_warning);
            // Too many at once: told at a later attempt.
            if !late.is_empty()
                && let Some(to) = reporter.delay_goes_to().filter(|to| self.may_report(to))
            {
                let id = self.parts.queue.next_id();
                reports.push(reporter.delayed(id, to, &late, &plan).await);
                delay_warned = true;
            }
        }
        if !server.reports_itself {
            let id = || self.parts.queue.next_id();
            reports.extend(reporter.relayed(id, &plan).await);
        }
        self.tell_outcomes(entry, &plan, &next, started);
        Settlement {
            outcomes: plan.outcomes,
            next,
            reason: plan.reason,
            counted: plan.counted,
            uncertain: plan.uncertain,
            reports,
            delay_warned,
            way: None,
        }
    }

    /// When recipients still open are tried again; `None`: their time is over.
    fn next_attempt(&self, entry: &Entry, plan: &Plan) -> Option<Timestamp> {
        let is_closed = |index: &usize| {
            let mut outcomes = plan.outcomes.iter();
            outcomes.any(|(at, state, _)| at == index && !state.is_open())
        };
        if plan::open_recipients(entry).all(|index| is_closed(&index)) {
            return Some(self.parts.clock.now());
        }
        self.parts.queue.next_attempt(entry)
    }

    /// Whether this address may have another report within the hour; tells the first refusal.
    fn may_report(&self, to: &Address) -> bool {
        let Some(all) = self.all.upgrade() else {
            return true;
        };
        let limit = self.common.bounces_per_hour;
        let leave = all.reports().ask(to, limit, Instant::now());
        if leave == (Leave::Refused { news: true }) {
            tracing::error!(
                event = "bounces_capped",
                account = %self.account.name,
                limit,
                "one address has had as many reports within an hour as queue.bounces_per_hour allows: \
                 messages that fail are held now; look at `gatepost queue list --state held`",
            );
        }
        leave == Leave::Granted
    }

    /// An outcome that the store did not take last time: the message is not sent again.
    fn unsettled(&self, lease: &Lease) -> Option<Settlement> {
        self.all.upgrade()?.unsettled().remove(&lease.entry.id)
    }

    async fn settle(
        &self,
        lease: Lease,
        settlement: Settlement,
        barrier: Option<oneshot::Sender<()>>,
    ) {
        let id = lease.entry.id;
        let kept = Settlement {
            // The trace tells it once.
            way: None,
            ..settlement.clone()
        };
        self.note_usage();
        match self.parts.queue.settle(lease, settlement).await {
            Ok(()) => {
                if let Some(barrier) = barrier {
                    // Nobody waits for it any more when the connection was closed.
                    barrier.send(()).unwrap_or_default();
                }
            }
            Err(error) => {
                // Without the record a message would go out again and again: remember it, and send
                // nothing until the store takes outcomes again.
                if let Some(all) = self.all.upgrade() {
                    all.unsettled().insert(id, kept);
                }
                tracing::error!(event = "settle_failed", queue_id = %id, %error);
                self.suffer(Trouble::Fails("outcomes cannot be stored".to_owned()));
            }
        }
    }

    /// One event a fact.
    fn tell_outcomes(&self, entry: &Entry, plan: &Plan, next: &queue::Next, started: Instant) {
        let elapsed_ms = millis(started.elapsed());
        let (account, smarthost) = (&self.account.name, self.smarthost());
        let (queue_id, attempt) = (entry.id, entry.attempts + 1);
        let last_reply = |wanted: RecipientState| -> Option<(usize, Option<&Reply>)> {
            let mut matching = plan
                .outcomes
                .iter()
                .filter(|(_, state, _)| *state == wanted);
            let recipients = matching.clone().count();
            let (_, _, reply) = matching.next_back()?;
            Some((recipients, reply.as_ref()))
        };
        let attempts = &self.parts.metrics.attempts;
        let settled = &self.parts.metrics.recipients_settled;
        let counted = |result| {
            attempts.get_or_create(&[("result", result)]).inc();
        };
        let closed = |outcome, recipients: usize| {
            let recipients = u64::try_from(recipients).unwrap_or(u64::MAX);
            settled
                .get_or_create(&[("outcome", outcome)])
                .inc_by(recipients);
        };
        if let Some((recipients, Some(reply))) = last_reply(RecipientState::Delivered) {
            counted("delivered");
            closed("delivered", recipients);
            tracing::info!(event = "delivered", %queue_id, %account, %smarthost, recipients, %reply, attempt, elapsed_ms);
        }
        if let Some((recipients, Some(reply))) = last_reply(RecipientState::Bounced) {
            counted("bounced");
            closed("bounced", recipients);
            let reason = plan.bounce.map(|verdict| verdict.reason);
            let remedy = plan.bounce.map(|verdict| self.remedy(&verdict));
            let remedy = remedy.as_deref().filter(|remedy| !remedy.is_empty());
            tracing::info!(event = "bounced", %queue_id, %account, %smarthost, recipients, reason, remedy, %reply, attempt, elapsed_ms);
        }
        if let Some((recipients, _)) = last_reply(RecipientState::Expired) {
            counted("expired");
            closed("expired", recipients);
            tracing::info!(event = "expired", %queue_id, %account, %smarthost, recipients, attempt);
        }
        if let Some((recipients, _)) = last_reply(RecipientState::Deferred) {
            let reason = plan.reason.as_deref().unwrap_or_default();
            if let queue::Next::RetryAt(at) = next {
                counted("deferred");
                tracing::info!(event = "deferred", %queue_id, %account, %smarthost, recipients, reason, attempt, next_attempt_at = %at, elapsed_ms);
            } else {
                counted("held");
                tracing::warn!(event = "held", %queue_id, %account, %smarthost, recipients, reason);
            }
        }
    }
}

async fn say(
    live: &mut Live,
    lease: &Lease,
    tried: &[usize],
    (sender, head): (&ReversePath, Option<&Head>),
) -> Result<Answers, Failure> {
    let entry = &lease.entry;
    let recipients = tried
        .iter()
        .filter_map(|index| entry.recipients.get(*index));
    let job = Job {
        id: entry.id,
        sender,
        recipients: recipients.map(|r| &r.recipient).collect(),
        body: entry.body,
        smtputf8: entry.smtputf8,
        ret: entry.ret,
        envid: entry.envid.as_deref(),
        message: &lease.message,
        head,
        all_or_none: lease.is_all_or_none(),
    };
    let settled = &mut live.settled;
    let ready = async {
        match settled {
            Some(waiting) => waiting.await.is_ok() && lease.commit(),
            None => lease.commit(),
        }
    };
    live.connection.transact(&job, ready).await
}

/// Until when replies ask to leave open recipients alone; at least `now`.
fn asked_until(plan: &Plan, now: Timestamp) -> Timestamp {
    let open = plan.outcomes.iter().filter(|(_, state, _)| state.is_open());
    let asked = open.filter_map(|(_, _, reply)| limits::retry_after(reply.as_ref()?));
    let longest = asked.max().unwrap_or_default();
    let wait = SignedDuration::try_from(longest).unwrap_or(SignedDuration::ZERO);
    now.saturating_add(wait).unwrap_or(now)
}

/// Why a failed message is held when its sender has had enough reports.
const STORM: &str = "failed, and its sender has had queue.bounces_per_hour reports within the hour: \
                     release it to try again, or delete it";

/// Whether the connection broke before the end of the data was sent: nothing was taken.
fn broke_early(result: &Result<Answers, Failure>) -> bool {
    let early = |failure: &Failure| !failure.uncertain && failure.cause.is_disconnect();
    result.as_ref().is_err_and(early)
}

/// Whether the server says goodbye to a connection that was idle or has lived long enough for it.
fn was_closed(result: &Result<Answers, Failure>) -> bool {
    result.as_ref().is_ok_and(|answers| {
        let mut answers = answers.iter();
        answers.all(|(phase, reply)| *phase == Phase::Mail && reply.code == CLOSING)
    })
}

fn null_sender_refused(result: &Result<Answers, Failure>) -> bool {
    result.as_ref().is_ok_and(|answers| {
        answers
            .iter()
            .all(|(phase, reply)| *phase == Phase::Mail && reply.is_permanent())
    })
}
