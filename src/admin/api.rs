//! The values of the API: what server and client exchange as JSON, and how they are made.
//!
//! Field names are a contract (`openapi.json` describes them). Nothing here can hold a secret: the
//! types it is made from ([`oauth::Status`], [`delivery::LaneStatus`], [`store::Entry`]) hold none.

use std::{net::SocketAddr, path::PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    delivery::{self, ProbeStep},
    mail::{AccountName, BodyType, Notify, QueueId, Ret},
    oauth::{self, Diagnosis, Grant},
    queue::Operation,
    store::{self, EntryState, RecipientState},
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
}

/// An account and how it stands: one object of `gatepost accounts --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Its name.
    pub name: AccountName,
    /// The mailbox.
    pub mailbox: String,
    /// The provider profile; none: a plain smarthost.
    pub provider: Option<String>,
    /// How consent is obtained.
    pub grant: Option<Grant>,
    /// How mail travels upstream.
    pub transport: Transport,
    /// Where it stands.
    pub state: AccountState,
    /// What is wrong, in plain words.
    pub reason: Option<String>,
    /// What to do about it.
    pub remedy: Option<String>,
    /// When the access token expires.
    pub token_expires_at: Option<Timestamp>,
    /// When it was last refreshed.
    pub last_refresh_at: Option<Timestamp>,
    /// Messages that wait for delivery.
    pub queued: u64,
}

/// How mail travels upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// SMTP submission.
    Smtp,
}

/// Where an account stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccountState {
    /// Mail flows.
    Ready,
    /// The first token is being fetched.
    Refreshing,
    /// Transient trouble with the token; an old one may still serve.
    Retrying,
    /// A person must sign in or mend the provider's settings.
    SignInNeeded,
    /// The provider refuses the account: mail waits, nothing bounces.
    Held,
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
        let (token_state, token_trouble, token_expires_at, last_refresh_at) = match token {
            Some(token) => (
                Some(token.state),
                token.diagnosis,
                token.token_expires_at,
                token.last_refresh_at,
            ),
            None => (None, None, None, None),
        };
        let (state, trouble) = match (token_state, held) {
            (Some(oauth::State::SignInNeeded), _) => (AccountState::SignInNeeded, token_trouble),
            (_, Some(held)) => (AccountState::Held, Some(held)),
            (Some(oauth::State::Retrying), None) => (AccountState::Retrying, token_trouble),
            (Some(oauth::State::Refreshing), None) => (AccountState::Refreshing, token_trouble),
            (Some(oauth::State::Ready) | None, None) => (AccountState::Ready, pause(lane, now)),
        };
        let (reason, remedy) = trouble.map_or((None, None), |trouble| {
            (Some(trouble.reason), Some(trouble.remedy))
        });
        Self {
            name: facts.name.clone(),
            mailbox: facts.mailbox.clone(),
            provider: facts.provider.clone(),
            grant: facts.grant,
            transport: Transport::Smtp,
            state,
            reason,
            remedy,
            token_expires_at,
            last_refresh_at,
            queued,
        }
    }

    /// Whether a message accepted now could be sent now.
    #[must_use]
    pub fn can_send(&self, now: Timestamp) -> bool {
        match self.state {
            AccountState::Ready => true,
            AccountState::Retrying => self.token_expires_at.is_some_and(|at| at > now),
            AccountState::Refreshing | AccountState::SignInNeeded | AccountState::Held => false,
        }
    }
}

/// A lane that waits is ready all the same, but the reader wants to know why nothing moves.
fn pause(lane: Option<delivery::LaneStatus>, now: Timestamp) -> Option<Diagnosis> {
    let until = lane?.paused_until.filter(|until| *until > now)?;
    Some(Diagnosis {
        reason: format!("delivery pauses until {until} (throttled, or the smarthost is away)"),
        remedy: "nothing to do: it goes on by itself; `gatepost queue retry --account` goes on now"
            .into(),
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
    fn of(entry: &store::Entry, delivering: bool) -> Self {
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
    pub fn new(entry: &store::Entry, delivering: bool) -> Self {
        let recipients = entry.recipients.iter();
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
            entry: QueueEntry::new(entry, delivering),
        }
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
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct SignedOut {
    /// Whether the provider confirmed that the tokens are revoked.
    pub revoked: bool,
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
}

impl Problem {
    /// For a person at a terminal.
    fn text(&self) -> String {
        let mut text = self.detail.clone();
        if let Some(remedy) = &self.remedy {
            text.push_str("; ");
            text.push_str(remedy);
        }
        for problem in &self.problems {
            text.push('\n');
            text.push_str(problem);
        }
        text
    }
}
