//! The values of the API: what server and client exchange as JSON, and how they are made.
//!
//! Field names are a contract (`openapi.json` describes them). Nothing here can hold a secret: the
//! types it is made from ([`oauth::Status`], [`delivery::LaneStatus`], [`store::Entry`]) hold none.

use std::{net::SocketAddr, path::PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use url::Url;

use super::made::FieldProblem;
use crate::{
    delivery::{self, ProbeStep},
    mail::{
        AccountName, Address, BodyType, Digest, Notify, QueueId, Recipient, Reply, Ret, ReversePath,
    },
    notify::Tried,
    oauth::{self, Diagnosis, Grant, Service, Warning},
    queue::{Operation, trace::Story},
    store::{self, EntryState, RecipientEntry, RecipientState, TraceAt},
};

/// What the configuration says about an account, as listings need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountFacts {
    /// Its name.
    pub name: AccountName,
    /// The mailbox.
    pub mailbox: String,
    /// The provider profile; none: a plain smarthost.
    pub provider: Option<String>,
    /// How consent is obtained; none without provider.
    pub grant: Option<Grant>,
    /// By which way mail goes, as configured.
    pub transport: Transport,
}

/// An account and how it stands: one object of `gatepost accounts --json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Account {
    /// Its name.
    pub name: AccountName,
    /// The mailbox.
    pub mailbox: String,
    /// The provider profile; none: a plain smarthost.
    pub provider: Option<String>,
    /// How consent is obtained.
    pub grant: Option<Grant>,
    /// How mail travels upstream, as configured.
    pub transport: Transport,
    /// How it travels now; with `auto` this is not the same.
    pub sends_by: Transport,
    /// Where it stands.
    pub state: AccountState,
    /// What is wrong, in plain words.
    pub reason: Option<String>,
    /// What to do about it.
    pub remedy: Option<String>,
    /// When the access token expires; none while somebody has to sign in.
    pub token_expires_at: Option<Timestamp>,
    /// When it was last refreshed.
    pub last_refresh_at: Option<Timestamp>,
    /// Whether there is anything for a sign-out to forget, be it of use or not.
    pub tokens_kept: bool,
    /// What will end by itself, told well before.
    pub warnings: Vec<Warning>,
    /// Messages that wait for delivery.
    pub queued: u64,
    /// Its pace, as configured and now; none: it has no lane.
    pub limits: Option<AccountLimits>,
}

/// An account's pace. A throttling reply lowers it; it recovers by itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AccountLimits {
    /// Connections at once, at best.
    pub connections: usize,
    /// Connections at once now.
    pub connections_now: usize,
    /// Messages in a minute, at best; none: no limit.
    pub messages_per_minute: Option<u32>,
    /// Messages in a minute now; none: no limit.
    pub messages_per_minute_now: Option<f64>,
    /// Recipients in 24 hours; none: no limit.
    pub recipients_per_day: Option<u32>,
    /// Recipients of the last 24 hours, kept across restarts; none: not counted without a limit.
    pub recipients_last_day: Option<u32>,
    /// Whether the provider has slowed the account down.
    pub throttled: bool,
    /// Nothing is sent before then.
    pub paused_until: Option<Timestamp>,
}

impl AccountLimits {
    fn new(lane: &delivery::LaneStatus, now: Timestamp) -> Self {
        Self {
            connections: lane.limits.connections,
            connections_now: lane.pace.connections_now,
            messages_per_minute: lane.limits.messages_per_minute,
            messages_per_minute_now: lane.pace.messages_per_minute_now,
            recipients_per_day: lane.limits.recipients_per_day,
            recipients_last_day: lane.pace.recipients_last_day,
            throttled: lane.pace.throttled,
            paused_until: lane.paused_until.filter(|until| *until > now),
        }
    }
}

/// How mail travels upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// SMTP submission.
    Smtp,
    /// Microsoft Graph.
    Graph,
    /// The Gmail API.
    Gmail,
    /// SMTP, and the provider's API while SMTP is switched off.
    Auto,
}

impl From<Service> for Transport {
    fn from(service: Service) -> Self {
        match service {
            Service::Smtp => Self::Smtp,
            Service::Graph => Self::Graph,
            Service::Gmail => Self::Gmail,
        }
    }
}

impl From<&delivery::Transport> for Transport {
    fn from(transport: &delivery::Transport) -> Self {
        match transport {
            delivery::Transport::Smtp => Self::Smtp,
            delivery::Transport::Api(api) => api.service.into(),
            delivery::Transport::Auto(_) => Self::Auto,
        }
    }
}

/// Where an account stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccountState {
    /// Mail flows.
    Ready,
    /// The first token is being fetched.
    Refreshing,
    /// Transient trouble with the token (an old one may still serve) or the server.
    Retrying,
    /// A person must sign in or mend the provider's settings.
    SignInNeeded,
    /// The provider refuses the account: mail waits, nothing bounces.
    Held,
}

impl AccountState {
    /// Every state.
    pub const ALL: [Self; 5] = [
        Self::Ready,
        Self::Refreshing,
        Self::Retrying,
        Self::SignInNeeded,
        Self::Held,
    ];

    /// The word for it, as in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Refreshing => "refreshing",
            Self::Retrying => "retrying",
            Self::SignInNeeded => "sign_in_needed",
            Self::Held => "held",
        }
    }
}

impl Account {
    /// Merges what configuration, token keeper and lane say. A missing sign-in comes before a hold,
    /// because the hold ends by itself once the account is signed in.
    #[must_use]
    pub fn new(
        facts: &AccountFacts,
        token: Option<oauth::Status>,
        lane: Option<delivery::LaneStatus>,
        queued: u64,
        now: Timestamp,
    ) -> Self {
        let held = lane.as_ref().and_then(|lane| lane.held.clone());
        let limits = lane.as_ref().map(|lane| AccountLimits::new(lane, now));
        let switched = lane.as_ref().and_then(|lane| lane.switched.clone());
        let sends_by = match (&switched, facts.transport) {
            (Some(switched), _) => switched.to.into(),
            (None, Transport::Auto) => Transport::Smtp,
            (None, configured) => configured,
        };
        let warnings = token.as_ref().map(|token| token.warnings.clone());
        let tokens_kept = token.as_ref().is_some_and(|token| token.tokens_kept);
        let (token_state, token_trouble, token_expires_at, last_refresh_at) = match token {
            Some(token) => (
                Some(token.state),
                token.diagnosis,
                // One that the provider takes no more says nothing, however long it would have lived.
                token
                    .token_expires_at
                    .filter(|_| token.state != oauth::State::SignInNeeded),
                token.last_refresh_at,
            ),
            None => (None, None, None, None),
        };
        let (state, trouble) = match (token_state, held) {
            (Some(oauth::State::SignInNeeded), _) => (AccountState::SignInNeeded, token_trouble),
            (_, Some(held)) => (AccountState::Held, Some(held)),
            (Some(oauth::State::Retrying), None) => (AccountState::Retrying, token_trouble),
            (Some(oauth::State::Refreshing), None) => (AccountState::Refreshing, token_trouble),
            (Some(oauth::State::Ready) | None, None) => {
                let failing = lane.as_ref().is_some_and(|lane| lane.failing);
                let trouble = lane.and_then(|lane| pause(&facts.name, &lane, now));
                let state = match failing {
                    true => AccountState::Retrying,
                    false => AccountState::Ready,
                };
                (state, trouble.or_else(|| switched.map(|way| way.told())))
            }
        };
        let (reason, remedy) = trouble.map_or((None, None), |trouble| {
            (Some(trouble.reason), Some(trouble.remedy))
        });
        Self {
            name: facts.name.clone(),
            mailbox: facts.mailbox.clone(),
            provider: facts.provider.clone(),
            grant: facts.grant,
            transport: facts.transport,
            sends_by,
            state,
            reason,
            remedy,
            token_expires_at,
            last_refresh_at,
            tokens_kept,
            warnings: warnings.unwrap_or_default(),
            queued,
            limits,
        }
    }

    /// Whether a message accepted now needs nobody's help to be sent. A server that is away does not
    /// count: the queue is there for that, and a balancer that took the relay out for it would turn
    /// an outage of the provider into one of the relay.
    #[must_use]
    pub fn can_send(&self, now: Timestamp) -> bool {
        match self.state {
            AccountState::Ready => true,
            // One without a provider has no token that could be missing.
            AccountState::Retrying => {
                self.provider.is_none() || self.token_expires_at.is_some_and(|at| at > now)
            }
            AccountState::Refreshing | AccountState::SignInNeeded | AccountState::Held => false,
        }
    }
}

/// Why nothing moves, if nothing does: a lane that waits, or whose next attempt shows whether the
/// trouble is over.
fn pause(account: &AccountName, lane: &delivery::LaneStatus, now: Timestamp) -> Option<Diagnosis> {
    let reason = match lane.paused_until.filter(|until| *until > now) {
        Some(until) => format!("delivery pauses until {until:.0}: {}", lane.trouble),
        None if lane.failing => format!("the last attempt failed: {}", lane.trouble),
        None => return None,
    };
    Some(Diagnosis {
        reason,
        remedy: format!(
            "nothing to do: it goes on by itself; `gatepost queue retry --account {account}` goes on now"
        ),
    })
}

/// A message in the queue: one object of `gatepost queue list --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueEntry {
    /// Its name for ever.
    pub id: QueueId,
    /// The account that sends it.
    pub account: AccountName,
    /// Where it stands.
    pub state: QueueState,
    /// The reverse-path; empty: the null path.
    pub sender: String,
    /// Who gets it.
    pub recipients: Vec<QueueRecipient>,
    /// Octets.
    pub size: u64,
    /// When it was accepted.
    pub received_at: Timestamp,
    /// When it is due again.
    pub next_attempt_at: Timestamp,
    /// Attempts made.
    pub attempts: u32,
    /// Why it is where it is.
    pub reason: Option<String>,
}

/// A recipient of a [`QueueEntry`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueRecipient {
    /// The mailbox.
    pub address: String,
    /// How far it has come.
    pub state: RecipientState,
    /// The provider's last reply about it.
    pub last_reply: Option<String>,
}

impl QueueRecipient {
    fn into_entry(self, dsn: DsnParameters) -> Result<RecipientEntry, String> {
        let unreadable = |reply: &str| format!("last_reply {reply:?} is no reply");
        let reply = self.last_reply;
        Ok(RecipientEntry {
            recipient: Recipient {
                address: address(&self.address)?,
                notify: dsn.notify,
                orcpt: dsn.orcpt,
            },
            state: self.state,
            reply: reply
                .map(|reply| Reply::parse(&reply).ok_or_else(|| unreadable(&reply)))
                .transpose()?,
        })
    }
}

fn address(text: &str) -> Result<Address, String> {
    Address::parse(text).map_err(|error| format!("address {text:?}: {error}"))
}

/// Where a message stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QueueState {
    /// Waits for its first attempt.
    Queued,
    /// Is being delivered at this moment.
    Delivering,
    /// Was tried, will be tried again.
    Deferred,
    /// Waits for a person.
    Held,
    /// Its last attempt lost the final reply: it may have been delivered.
    Uncertain,
}

impl QueueEntry {
    /// The entry as listings show it. `delivering`: whether a lane has it at this moment.
    #[must_use]
    pub fn new(entry: &store::Entry, delivering: bool) -> Self {
        let recipients = entry.recipients.iter();
        let recipients = recipients.map(|recipient| QueueRecipient {
            address: recipient.recipient.address.to_string(),
            state: recipient.state,
            last_reply: recipient.reply.as_ref().map(ToString::to_string),
        });
        Self {
            id: entry.id,
            account: entry.account.clone(),
            state: QueueState::of(entry, delivering),
            sender: entry.reverse_path.to_string(),
            recipients: recipients.collect(),
            size: entry.size,
            received_at: entry.received_at,
            next_attempt_at: entry.next_attempt_at,
            attempts: entry.attempts,
            reason: entry.reason.clone(),
        }
    }
}

impl QueueState {
    /// The one word for an entry: what happens now, else what blocks it, else what happened last.
    pub(super) fn of(entry: &store::Entry, delivering: bool) -> Self {
        let tried = entry.attempts > 0
            || (entry.recipients.iter()).any(|r| r.state == RecipientState::Deferred);
        match entry.state {
            EntryState::Held | EntryState::Quarantined => Self::Held,
            EntryState::Queued if delivering => Self::Delivering,
            EntryState::Queued if entry.uncertain => Self::Uncertain,
            EntryState::Queued if tried => Self::Deferred,
            EntryState::Queued => Self::Queued,
        }
    }
}

/// A message with the whole of its envelope: `gatepost queue show`, and the JSON beside an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueDetail {
    /// As in listings.
    #[serde(flatten)]
    pub entry: QueueEntry,
    /// Login name of the client that submitted it.
    pub client: Option<String>,
    /// `BODY=`.
    pub body: BodyType,
    /// `SMTPUTF8`.
    pub smtputf8: bool,
    /// `RET=`.
    pub ret: Option<Ret>,
    /// `ENVID=`, in xtext.
    pub envid: Option<String>,
    /// `NOTIFY=` and `ORCPT=` of each recipient, in the order of `recipients`.
    pub dsn: Vec<DsnParameters>,
    /// Whether its octets no longer match their digest.
    pub quarantined: bool,
    /// SHA-256 of its octets when they were accepted, in hexadecimal.
    #[serde(default)]
    pub digest: String,
    /// What has happened to it that the state does not show.
    #[serde(default)]
    pub marks: Vec<Mark>,
    /// What a person does about the reason; none: nothing. An import does not read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// What has happened to a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mark {
    /// An attempt lost its final reply: it may have been delivered.
    Uncertain,
    /// Its sender was told that it is late.
    DelayWarned,
}

/// A message that came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    /// Its name, as before.
    pub id: QueueId,
}

/// The DSN parameters of a recipient (RFC 3461).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DsnParameters {
    /// `NOTIFY=`.
    pub notify: Notify,
    /// `ORCPT=`, in xtext.
    pub orcpt: Option<String>,
}

impl QueueDetail {
    /// The entry with its envelope.
    #[must_use]
    pub fn new(entry: &store::Entry, digest: Digest, delivering: bool) -> Self {
        let recipients = entry.recipients.iter();
        let marks = [
            entry.uncertain.then_some(Mark::Uncertain),
            entry.delay_warned.then_some(Mark::DelayWarned),
        ];
        let dsn = recipients.map(|recipient| DsnParameters {
            notify: recipient.recipient.notify,
            orcpt: recipient.recipient.orcpt.clone(),
        });
        Self {
            client: entry.client.clone(),
            body: entry.body,
            smtputf8: entry.smtputf8,
            ret: entry.ret,
            envid: entry.envid.clone(),
            dsn: dsn.collect(),
            quarantined: entry.state == EntryState::Quarantined,
            digest: digest.to_string(),
            marks: marks.into_iter().flatten().collect(),
            remedy: None,
            entry: QueueEntry::new(entry, delivering),
        }
    }

    /// The entry it was made of; what was held, or damaged, is held.
    ///
    /// # Errors
    /// What makes no sense in it, in plain words.
    pub fn into_entry(self) -> Result<store::Entry, String> {
        let entry = self.entry;
        if entry.recipients.len() != self.dsn.len() {
            return Err("the envelope has not as many dsn as recipients".into());
        }
        let recipients = entry.recipients.into_iter().zip(self.dsn);
        let recipients = recipients
            .map(|(recipient, dsn)| recipient.into_entry(dsn))
            .collect::<Result<Vec<_>, _>>()?;
        if !recipients.iter().any(|recipient| recipient.state.is_open()) {
            return Err("every recipient has its outcome: there is nothing left to send".into());
        }
        let is_held = self.quarantined || entry.state == QueueState::Held;
        Ok(store::Entry {
            id: entry.id,
            account: entry.account,
            reverse_path: match entry.sender.as_str() {
                "" => ReversePath::Null,
                sender => ReversePath::Address(address(sender)?),
            },
            recipients,
            body: self.body,
            smtputf8: self.smtputf8,
            ret: self.ret,
            envid: self.envid,
            size: entry.size,
            received_at: entry.received_at,
            client: self.client,
            state: if is_held {
                EntryState::Held
            } else {
                EntryState::Queued
            },
            next_attempt_at: entry.next_attempt_at,
            attempts: entry.attempts,
            uncertain: self.marks.contains(&Mark::Uncertain),
            delay_warned: self.marks.contains(&Mark::DelayWarned),
            reason: entry.reason,
        })
    }
}

/// One page of the queue.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct QueuePage {
    /// Oldest first.
    pub entries: Vec<QueueEntry>,
    /// What to give as `after` for the next page; none: this was the last.
    pub next: Option<QueueId>,
}

/// Which page of the queue is wanted.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueQuery {
    /// This account only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<AccountName>,
    /// Pattern for the reverse-path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender: Option<String>,
    /// Pattern for the recipients: one must match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipient: Option<String>,
    /// In this state only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<QueueState>,
    /// Ids greater than this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<QueueId>,
    /// At most so many are looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// Messages that the trace knows, newest first, each with what happened to it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TracePage {
    /// The messages.
    pub messages: Vec<Story>,
    /// What to give as `before` for the next page, which may be an empty one; none: this was the
    /// last.
    pub next: Option<TraceAt>,
}

/// Which messages of the trace are wanted. All given conditions hold.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceQuery {
    /// A queue id, a Message-ID, a sender or a recipient; `*` stands for anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// Received for this account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<AccountName>,
    /// Pattern for the reverse-path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender: Option<String>,
    /// Pattern for a recipient.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipient: Option<String>,
    /// Received then or later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Received before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<TraceAt>,
    /// At most so many messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// Which messages an operation is for. At least one condition must be given; all given ones hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Selector {
    /// These.
    pub ids: Vec<QueueId>,
    /// All of this account.
    pub account: Option<AccountName>,
    /// All whose reverse-path matches this pattern.
    pub sender: Option<String>,
    /// Every message.
    pub all: bool,
}

impl Selector {
    /// Whether nothing is selected: an operation on everything must be asked for by name.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty() && self.account.is_none() && self.sender.is_none() && !self.all
    }
}

impl From<Selector> for store::Filter {
    fn from(selector: Selector) -> Self {
        Self {
            ids: selector.ids,
            account: selector.account,
            sender: selector.sender,
            ..Self::default()
        }
    }
}

/// How many messages an operation touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operated {
    /// What was done.
    pub operation: Operation,
    /// To how many.
    pub count: u64,
}

/// How a sign-in is to begin.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SignInRequest {
    /// By device code, whatever the account's grant says.
    pub device: bool,
}

/// How a sign-in stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum SignInState {
    /// Nobody has answered yet.
    Pending,
    /// The token is stored.
    SignedIn,
    /// It came to nothing.
    Refused(Diagnosis),
}

/// How long a question about a sign-in may wait for its answer.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SignInQuery {
    /// Seconds.
    pub wait: u64,
}

/// A redirect address as a person pasted it.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PastedAddress {
    /// `http://localhost:8025/authorization/smtp_oauth/?code=...&state=...`.
    pub address: String,
}

impl std::fmt::Debug for PastedAddress {
    /// Shows nothing: the address holds an authorization code.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PastedAddress(..)")
    }
}

/// Who is signed in after a pasted address was taken.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SignedIn {
    /// The account.
    pub account: AccountName,
}

/// How a sign-out went.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SignedOut {
    /// Whether the provider confirmed that the tokens are revoked.
    pub revoked: bool,
    /// Why it did not.
    pub reason: Option<String>,
    /// What is left to do.
    pub remedy: Option<String>,
}

/// Who gets the test message.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TestRequest {
    /// A mail address.
    pub to: String,
}

/// How the test message went.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Tested {
    /// In the order they happened; the last says how it ended.
    pub steps: Vec<ProbeStep>,
}

/// What became of a test notice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notified {
    /// One for each way that is set.
    pub channels: Vec<Tried>,
}

/// What a reload came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Changed keys that take effect only at the next start.
    pub restart_needed: Vec<String>,
}

/// The daemon at a glance.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// Of the program.
    pub version: String,
    /// Its state directory.
    pub state_dir: PathBuf,
    /// The configuration file it read.
    pub config_file: Option<PathBuf>,
    /// The listeners that are bound.
    pub listeners: Vec<Listener>,
    /// The console's address.
    pub console: Option<SocketAddr>,
    /// Why it is not ready; empty: it is.
    pub not_ready: Vec<String>,
}

/// A listener that is bound.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Listener {
    /// As written in the configuration.
    pub name: String,
    /// Its TCP address, if it has one.
    pub address: Option<SocketAddr>,
}

/// A key of the configuration and its value in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// Dotted; the n-th section of a list is `listener#n`.
    pub key: String,
    /// As it was written; of a default the value in force, in words where that cannot be known; of a
    /// secret only whether it is set.
    pub value: String,
    /// Where it comes from.
    pub source: SettingSource,
}

/// Where a value comes from; later ones win.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SettingSource {
    /// Nobody has set it.
    Default,
    /// It was made in the console.
    Console,
    /// The configuration file.
    File,
    /// A `GATEPOST_` variable.
    Environment,
}

/// How to get into the console: what `gatepost console` prints.
#[derive(Clone, Serialize, Deserialize)]
pub struct Invitation {
    /// By what.
    pub way: LoginWay,
    /// Where; with a one-time code in it where that is the way. None: there is no way in.
    pub url: Option<Url>,
    /// For how many seconds the code is good.
    pub expires_in: Option<u64>,
    /// What to do when there is no way in.
    pub remedy: Option<String>,
}

impl std::fmt::Debug for Invitation {
    /// Leaves the address out: it may hold a code.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Invitation")
            .field("way", &self.way)
            .finish()
    }
}

/// The way to log in to the console.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoginWay {
    /// `console.password_hash` is set.
    Password,
    /// A one-time code.
    Code,
    /// None: it is reachable from other machines and has no password.
    Closed,
}

/// What went wrong (RFC 9457, `application/problem+json`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{}", self.text())]
pub struct Problem {
    /// In a word or three.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What went wrong, in plain words.
    pub detail: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// One line each, where there are many.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// What is wrong with the fields of what was sent.
    #[serde(default, skip_serializing_if = "<[_]>::is_empty")]
    pub fields: Box<[FieldProblem]>,
}

impl Problem {
    /// For a person at a terminal.
    fn text(&self) -> String {
        let mut text = self.detail.clone();
        if let Some(remedy) = &self.remedy {
            text.push_str("; ");
            text.push_str(remedy);
        }
        for problem in self.lines() {
            text.push('\n');
            text.push_str(&problem);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{delivery::LaneStatus, mail::EnhancedCode, oauth::State, store::Entry};

    fn diagnosis(reason: &str) -> Diagnosis {
        Diagnosis {
            reason: reason.into(),
            remedy: "do it".into(),
        }
    }

    fn account(
        state: Option<State>,
        held: Option<Diagnosis>,
        paused_until: Option<Timestamp>,
    ) -> Account {
        failing(state, held, paused_until, false)
    }

    fn failing(
        state: Option<State>,
        held: Option<Diagnosis>,
        paused_until: Option<Timestamp>,
        failing: bool,
    ) -> Account {
        let facts = AccountFacts {
            name: AccountName::new("alerts"),
            mailbox: "alerts@contoso.com".into(),
            provider: state.map(|_| "contoso".into()),
            grant: state.map(|_| Grant::AuthorizationCode),
            transport: Transport::Smtp,
        };
        let token = state.map(|state| oauth::Status {
            state,
            diagnosis: (state != State::Ready).then(|| diagnosis("token")),
            token_expires_at: Some(at(3600)),
            last_refresh_at: None,
            tokens_kept: true,
            warnings: Vec::new(),
        });
        let lane = LaneStatus {
            held,
            awaits_release: false,
            paused_until,
            failing,
            trouble: "connection refused".into(),
            last_delivery_at: None,
            limits: delivery::Limits {
                connections: 2,
                messages_per_minute: Some(27),
                recipients_per_day: Some(9500),
                recipients_per_message: 500,
            },
            pace: delivery::PaceStatus {
                connections_now: 1,
                messages_per_minute_now: Some(13.5),
                throttled: true,
                recipients_last_day: Some(120),
            },
            switched: None,
        };
        Account::new(&facts, token, Some(lane), 3, at(0))
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn entry() -> Entry {
        let address = Address::parse("ops@example.com").unwrap();
        Entry {
            id: QueueId::from_i64(42),
            account: AccountName::new("alerts"),
            reverse_path: ReversePath::Null,
            recipients: vec![RecipientEntry {
                recipient: Recipient::new(address),
                state: RecipientState::Queued,
                reply: Some(Reply::new(451, None, "later")),
            }],
            body: BodyType::SevenBit,
            smtputf8: false,
            ret: None,
            envid: None,
            size: 1000,
            received_at: at(0),
            client: None,
            state: EntryState::Queued,
            next_attempt_at: at(60),
            attempts: 0,
            uncertain: false,
            delay_warned: false,
            reason: None,
        }
    }

    /// Programs rely on these names: `gatepost accounts --json`.
    #[test]
    fn an_account_has_exactly_the_promised_fields() {
        let json = serde_json::to_value(account(Some(State::Ready), None, None)).unwrap();
        let wanted = json!({
            "name": "alerts", "mailbox": "alerts@contoso.com", "provider": "contoso",
            "grant": "authorization_code", "transport": "smtp", "sends_by": "smtp", "state": "ready",
            "reason": null, "remedy": null, "token_expires_at": "1970-01-01T01:00:00Z",
            "last_refresh_at": null, "tokens_kept": true, "warnings": [], "queued": 3,
            "limits": {
                "connections": 2, "connections_now": 1,
                "messages_per_minute": 27, "messages_per_minute_now": 13.5,
                "recipients_per_day": 9500, "recipients_last_day": 120,
                "throttled": true, "paused_until": null,
            },
        });
        assert_eq!(json, wanted);
    }

    /// Programs rely on these names: `gatepost queue list --json`.
    #[test]
    fn a_queue_entry_has_exactly_the_promised_fields() {
        let json = serde_json::to_value(QueueEntry::new(&entry(), false)).unwrap();
        let wanted = json!({
            "id": "000000000001a", "account": "alerts", "state": "queued", "sender": "",
            "recipients": [
                {"address": "ops@example.com", "state": "queued", "last_reply": "451 later"},
            ],
            "size": 1000, "received_at": "1970-01-01T00:00:00Z",
            "next_attempt_at": "1970-01-01T00:01:00Z", "attempts": 0, "reason": null,
        });
        assert_eq!(json, wanted);
        let detail = QueueDetail::new(&entry(), Digest([7; 32]), true);
        let json = serde_json::to_value(&detail).unwrap();
        assert_eq!(json["state"], Value::from("delivering"), "flattened");
        assert_eq!(serde_json::from_value::<QueueDetail>(json).unwrap(), detail);
    }

    /// What is exported comes back as it was, whatever had happened to it.
    #[test]
    fn an_envelope_comes_back_as_it_was() {
        let mut entry = entry();
        let given = |text: &str| Some(text.to_owned());
        entry.reverse_path = ReversePath::Address(Address::parse("\"a b\"@x.example").unwrap());
        (entry.ret, entry.envid, entry.client) = (Some(Ret::Full), given("a+2Bb"), given("erp"));
        (entry.attempts, entry.uncertain, entry.delay_warned) = (7, true, true);
        (entry.smtputf8, entry.body) = (true, BodyType::EightBitMime);
        (entry.state, entry.reason) = (EntryState::Held, given("why"));
        entry.recipients.push(RecipientEntry {
            recipient: Recipient {
                address: Address::parse("j\u{fc}rgen@x.example").unwrap(),
                notify: Notify::On {
                    success: true,
                    failure: false,
                    delay: true,
                },
                orcpt: given("rfc822;a+40b"),
            },
            state: RecipientState::Delivered,
            reply: Some(Reply::new(250, EnhancedCode::parse("2.6.0"), "ok")),
        });
        let detail = QueueDetail::new(&entry, Digest([7; 32]), false);
        let json = serde_json::to_string(&detail).unwrap();
        let back: QueueDetail = serde_json::from_str(&json).unwrap();
        assert_eq!(back.into_entry(), Ok(entry.clone()));

        let mut closed = entry.clone();
        closed.recipients.remove(0);
        let detail = QueueDetail::new(&closed, Digest([7; 32]), false);
        assert!(detail.into_entry().is_err(), "nobody is left to send it to");
        let mut detail = QueueDetail::new(&entry, Digest([7; 32]), false);
        detail.entry.recipients[0].address = "a@b\r\nRCPT TO:<c@d>".into();
        assert!(detail.into_entry().is_err());
    }

    type Change<'a> = &'a dyn Fn(&mut Entry);

    /// One word of five, and each can be reached.
    #[test]
    fn the_state_of_an_entry_is_one_word() {
        let deferred = |entry: &mut Entry| entry.attempts = 1;
        let throttled = |entry: &mut Entry| {
            entry.recipients[0].state = RecipientState::Deferred;
        };
        let uncertain = |entry: &mut Entry| (entry.attempts, entry.uncertain) = (1, true);
        let held = |entry: &mut Entry| entry.state = EntryState::Held;
        let broken = |entry: &mut Entry| entry.state = EntryState::Quarantined;
        let cases: [(Change<'_>, bool, QueueState); 7] = [
            (&|_| (), false, QueueState::Queued),
            (&|_| (), true, QueueState::Delivering),
            (&deferred, false, QueueState::Deferred),
            (&throttled, false, QueueState::Deferred),
            (&uncertain, false, QueueState::Uncertain),
            (&held, false, QueueState::Held),
            (&broken, false, QueueState::Held),
        ];
        for (change, delivering, wanted) in cases {
            let mut entry = entry();
            change(&mut entry);
            assert_eq!(QueueEntry::new(&entry, delivering).state, wanted);
        }
    }

    /// What a person must mend first is what the listing shows.
    #[test]
    fn token_and_lane_become_one_state() {
        let hold = || Some(diagnosis("lane"));
        let cases = [
            (None, None, AccountState::Ready, None),
            (None, hold(), AccountState::Held, Some("lane")),
            (Some(State::Ready), None, AccountState::Ready, None),
            (Some(State::Ready), hold(), AccountState::Held, Some("lane")),
            (
                Some(State::Refreshing),
                None,
                AccountState::Refreshing,
                Some("token"),
            ),
            (
                Some(State::Retrying),
                None,
                AccountState::Retrying,
                Some("token"),
            ),
            (
                Some(State::SignInNeeded),
                None,
                AccountState::SignInNeeded,
                Some("token"),
            ),
            (
                Some(State::SignInNeeded),
                hold(),
                AccountState::SignInNeeded,
                Some("token"),
            ),
        ];
        for (token, held, state, reason) in cases {
            let account = account(token, held, None);
            assert_eq!((account.state, account.reason.as_deref()), (state, reason));
        }
        let paused = account(Some(State::Ready), None, Some(at(30)));
        assert_eq!(paused.state, AccountState::Ready);
        assert!(
            paused
                .reason
                .unwrap()
                .ends_with("00:00:30Z: connection refused")
        );
    }

    /// A server that is away is told as such for as long as nothing has passed, and makes nobody wait
    /// outside: mail is still accepted.
    #[test]
    fn an_account_whose_server_is_away_is_retrying_and_takes_mail() {
        for token in [Some(State::Ready), None] {
            let away = failing(token, None, Some(at(30)), true);
            assert_eq!(away.state, AccountState::Retrying);
            let reason = away.reason.as_deref().unwrap();
            assert!(
                reason.ends_with("00:00:30Z: connection refused"),
                "{reason}"
            );
            assert!(away.can_send(at(0)));
            let trying = failing(token, None, None, true);
            assert_eq!(trying.state, AccountState::Retrying);
            let reason = trying.reason.as_deref().unwrap();
            assert!(reason.ends_with("failed: connection refused"), "{reason}");
        }
        let held = failing(Some(State::Ready), Some(diagnosis("lane")), None, true);
        assert_eq!(held.state, AccountState::Held, "a person comes first");
        let none = failing(Some(State::Refreshing), None, Some(at(30)), true);
        assert!(!none.can_send(at(0)), "no token, no mail");
    }

    /// An account that retries can send while its old token lives.
    #[test]
    fn an_old_token_still_sends() {
        let retrying = account(Some(State::Retrying), None, None);
        assert!(retrying.can_send(at(0)));
        assert!(!retrying.can_send(at(3600)));
        assert!(!account(Some(State::SignInNeeded), None, None).can_send(at(0)));
    }
}
