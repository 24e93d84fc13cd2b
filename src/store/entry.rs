//! The values the store keeps: entries with their recipients, filters over them, sealed tokens.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    mail::{AccountName, BodyType, QueueId, Recipient, Reply, Ret, ReversePath},
    route,
};

/// A message with everything known about it but its octets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name for ever.
    pub id: QueueId,
    /// The account that sends it.
    pub account: AccountName,
    /// Where failures go.
    pub reverse_path: ReversePath,
    /// Who gets it, and how far each has come.
    pub recipients: Vec<RecipientEntry>,
    /// `BODY=`.
    pub body: BodyType,
    /// `SMTPUTF8`.
    pub smtputf8: bool,
    /// `RET=`.
    pub ret: Option<Ret>,
    /// `ENVID=`, in xtext.
    pub envid: Option<String>,
    /// Octets.
    pub size: u64,
    /// When we said 250.
    pub received_at: Timestamp,
    /// Login name of the client, if it had one.
    pub client: Option<String>,
    /// Queued, held or quarantined.
    pub state: EntryState,
    /// When it is due again.
    pub next_attempt_at: Timestamp,
    /// Attempts made (those that throttling cut short are not counted).
    pub attempts: u32,
    /// Whether an attempt lost its final reply.
    pub uncertain: bool,
    /// Whether the sender was told that it is late.
    #[serde(default)]
    pub delay_warned: bool,
    /// Why it is where it is, in plain words.
    pub reason: Option<String>,
}

impl Entry {
    /// Whose turn it is when the account's senders take turns: the client that logged in, else the
    /// reverse-path, without case and without what follows `+` or `=` in front of the `@`, because
    /// lists write each recipient's name there (VERP) and would stand in the queue as thousands.
    #[must_use]
    pub fn turn(&self) -> String {
        if let Some(client) = &self.client {
            return format!("client {client}");
        }
        let Some(address) = self.reverse_path.address() else {
            return "<>".to_owned();
        };
        let text = address.to_string().to_lowercase();
        match text.rsplit_once('@') {
            Some((local, domain)) => {
                let end = local.find(['+', '=']).filter(|end| *end > 0);
                let local = end.and_then(|end| local.get(..end)).unwrap_or(local);
                format!("{local}@{domain}")
            }
            None => text,
        }
    }
}

/// One recipient of an [`Entry`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipientEntry {
    /// Address and DSN parameters.
    #[serde(flatten)]
    pub recipient: Recipient,
    /// How far it has come.
    pub state: RecipientState,
    /// The provider's last reply about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<Reply>,
}

/// How far a recipient has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecipientState {
    /// Not tried yet.
    Queued,
    /// Tried, will be tried again.
    Deferred,
    /// The provider took it.
    Delivered,
    /// Refused for good; the sender was told if there is one.
    Bounced,
    /// Given up after the lifetime; the sender was told if there is one.
    Expired,
}

impl RecipientState {
    /// Whether this recipient still waits for its outcome.
    #[must_use]
    pub fn is_open(self) -> bool {
        matches!(self, Self::Queued | Self::Deferred)
    }
}

/// What the queue does with an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryState {
    /// Delivered when due.
    Queued,
    /// Waits for a person.
    Held,
    /// Its body no longer matches its digest; waits for a person.
    Quarantined,
}

impl EntryState {
    pub(super) fn as_i64(self) -> i64 {
        match self {
            Self::Queued => 0,
            Self::Held => 1,
            Self::Quarantined => 2,
        }
    }

    /// A state that is not known waits for a person.
    pub(super) fn from_i64(value: i64) -> Self {
        match value {
            0 => Self::Queued,
            2 => Self::Quarantined,
            _ => Self::Held,
        }
    }
}

/// What [`super::Store::list`] selects. All given conditions must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Filter {
    /// These ids only.
    pub ids: Vec<QueueId>,
    /// This account only.
    pub account: Option<AccountName>,
    /// Pattern for the reverse-path (`*` matches any run).
    pub sender: Option<String>,
    /// Pattern for the recipients: one must match.
    pub recipient: Option<String>,
    /// In this state only.
    pub state: Option<EntryState>,
    /// Ids greater than this one (paging).
    pub after: Option<QueueId>,
    /// At most so many; none: all.
    pub limit: Option<u32>,
}

/// A sealed record: the store sees ciphertext only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedToken {
    /// Whose.
    pub account: AccountName,
    /// Rises with each write; part of what the seal protects.
    pub version: i64,
    /// The sealed record.
    pub record: Vec<u8>,
    /// The record before it, one generation.
    pub previous: Option<Vec<u8>>,
}

impl Filter {
    /// Whether `entry` fulfils every condition; paging (`after`, `limit`) is the caller's.
    #[must_use]
    pub fn matches(&self, entry: &Entry) -> bool {
        (self.ids.is_empty() || self.ids.contains(&entry.id)) && self.matches_but_ids(entry)
    }

    /// As [`Filter::matches`] for an entry that was found by its id.
    pub(super) fn matches_but_ids(&self, entry: &Entry) -> bool {
        self.account.as_ref().is_none_or(|a| *a == entry.account)
            && self.state.is_none_or(|s| s == entry.state)
            && self
                .sender
                .as_ref()
                .is_none_or(|pattern| sender_matches(pattern, &entry.reverse_path))
            && self
                .recipient
                .as_ref()
                .is_none_or(|pattern| recipient_matches(pattern, &entry.recipients))
    }
}

/// `*` matches any run of characters; letters compare without case; `<>` is the null path.
fn sender_matches(pattern: &str, reverse_path: &ReversePath) -> bool {
    match reverse_path.address() {
        None => pattern == "<>" || route::matches(pattern, ""),
        Some(address) => route::matches(pattern, &address.to_string()),
    }
}

/// Whether a recipient matches; `*` and letters as in [`sender_matches`].
fn recipient_matches(pattern: &str, recipients: &[RecipientEntry]) -> bool {
    let mut addresses = recipients.iter().map(|r| r.recipient.address.as_str());
    addresses.any(|address| route::matches(pattern, address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::Address;

    #[test]
    fn a_sender_pattern_matches_runs_without_case() {
        let path = |text: &str| match text {
            "" => ReversePath::Null,
            text => ReversePath::Address(Address::parse(text).unwrap()),
        };
        for (pattern, sender, matches) in [
            ("*", "a@example.com", true),
            ("*@example.com", "a@Example.com", true),
            ("A@*", "a@example.com", true),
            ("*@example.org", "a@example.com", false),
            ("a*c@*.com", "abbbc@example.com", true),
            ("a*c@*.com", "abbb@example.com", false),
            ("a@example.com", "a@example.com", true),
            ("a@example.co", "a@example.com", false),
            ("", "a@example.com", false),
            ("<>", "", true),
            ("*", "", true),
            ("<>", "a@example.com", false),
        ] {
            assert_eq!(
                sender_matches(pattern, &path(sender)),
                matches,
                "{pattern} {sender}"
            );
        }
    }

    /// One of many recipients is enough, whatever has become of it.
    #[test]
    fn a_recipient_pattern_finds_one_of_many() {
        let recipient = |address: &str| RecipientEntry {
            recipient: Recipient::new(Address::parse(address).unwrap()),
            state: RecipientState::Delivered,
            reply: None,
        };
        let recipients = ["a@x.example", "b@y.example"].map(recipient);
        assert!(recipient_matches("B@Y.example", &recipients));
        assert!(recipient_matches("*@x.*", &recipients));
        assert!(!recipient_matches("y.example", &recipients));
        assert!(!recipient_matches("*", &[]));
    }
}
