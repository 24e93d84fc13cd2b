//! Identities: queue ids and account names.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// Names an accepted message for ever.
///
/// 44 bits of milliseconds since the Unix epoch and 19 of chance, so that ids sort by age and stay
/// unique after the message is gone. Shown as 13 characters of base 32 (Crockford's alphabet).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct QueueId(i64);

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const TEXT_LEN: usize = 13;

/// A text that names no queue id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a queue id (13 letters and digits, as `gatepost queue list` shows)")]
pub struct ParseQueueIdError;

impl QueueId {
    /// The id as the store keeps it. Never negative.
    #[must_use]
    pub fn as_i64(self) -> i64 {
        self.0
    }

    /// An id from the store; the sign bit is dropped.
    #[must_use]
    pub fn from_i64(value: i64) -> Self {
        Self(value & i64::MAX)
    }
}

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [b'0'; TEXT_LEN];
        let mut rest = self.0;
        for slot in text.iter_mut().rev() {
            let digit = usize::try_from(rest & 31).unwrap_or(0);
            *slot = ALPHABET.get(digit).copied().unwrap_or(b'0');
            rest >>= 5;
        }
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl FromStr for QueueId {
    type Err = ParseQueueIdError;

    fn from_str(text: &str) -> Result<Self, ParseQueueIdError> {
        if text.len() != TEXT_LEN {
            return Err(ParseQueueIdError);
        }
        let mut value: i64 = 0;
        for byte in text.bytes() {
            let digit = ALPHABET
                .iter()
                .position(|a| *a == byte.to_ascii_lowercase());
            let digit = digit
                .and_then(|d| i64::try_from(d).ok())
                .ok_or(ParseQueueIdError)?;
            value = value
                .checked_mul(32)
                .and_then(|v| v.checked_add(digit))
                .ok_or(ParseQueueIdError)?;
        }
        Ok(Self(value))
    }
}

impl TryFrom<String> for QueueId {
    type Error = ParseQueueIdError;

    fn try_from(text: String) -> Result<Self, ParseQueueIdError> {
        text.parse()
    }
}

impl From<QueueId> for String {
    fn from(id: QueueId) -> Self {
        id.to_string()
    }
}

/// The name of an account in the configuration: `alerts` in `[account.alerts]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AccountName(Arc<str>);

impl AccountName {
    /// Takes the name as configured.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// The name as configured.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_id_reads_back_as_it_was_shown() {
        for value in [0, 1, 31, 32, 1_700_000_000_000 << 19, i64::MAX] {
            let id = QueueId::from_i64(value);
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        assert!(
            "zzzzzzzzzzzzz".parse::<QueueId>().is_err(),
            "65 bits do not fit"
        );
        assert!("".parse::<QueueId>().is_err());
    }
}
