//! The envelope: reverse-path, recipients and their ESMTP parameters (RFC 5321 §2.3.1).

use serde::{Deserialize, Serialize};

use super::{Address, ReversePath};

/// Who a message is from and for, with the parameters that travel beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// Where failures are reported to.
    pub reverse_path: ReversePath,
    /// The forward-paths, in the order given; never empty in an accepted message.
    pub recipients: Vec<Recipient>,
    /// `BODY=` (RFC 6152).
    #[serde(default)]
    pub body: BodyType,
    /// `SMTPUTF8` (RFC 6531).
    #[serde(default)]
    pub smtputf8: bool,
    /// `RET=` (RFC 3461 §4.3).
    #[serde(default)]
    pub ret: Option<Ret>,
    /// `ENVID=`, still in xtext (RFC 3461 §4.4).
    #[serde(default)]
    pub envid: Option<String>,
}

/// One forward-path with its DSN parameters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipient {
    /// The mailbox.
    pub address: Address,
    /// `NOTIFY=` (RFC 3461 §4.1).
    #[serde(default)]
    pub notify: Notify,
    /// `ORCPT=` with its type, still in xtext: `rfc822;user+40example.com` (RFC 3461 §4.2).
    #[serde(default)]
    pub orcpt: Option<String>,
}

impl Recipient {
    /// A recipient without DSN parameters.
    #[must_use]
    pub fn new(address: Address) -> Self {
        Self {
            address,
            notify: Notify::default(),
            orcpt: None,
        }
    }
}

/// The declared body type (RFC 6152).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BodyType {
    /// Seven-bit lines, or nothing declared.
    #[default]
    SevenBit,
    /// Octets above 127 may occur.
    EightBitMime,
}

/// How much of the message a DSN returns (RFC 3461 §4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ret {
    /// The whole message.
    Full,
    /// Its header section.
    Headers,
}

/// When the sender wants a DSN for a recipient (RFC 3461 §4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Notify {
    /// Nothing said: on failure (and on delay, by our own rule).
    #[default]
    Unspecified,
    /// `NEVER`.
    Never,
    /// A list of events.
    On {
        /// `SUCCESS`
        success: bool,
        /// `FAILURE`
        failure: bool,
        /// `DELAY`
        delay: bool,
    },
}

impl Notify {
    /// Whether a failure is to be reported.
    #[must_use]
    pub fn on_failure(self) -> bool {
        match self {
            Self::Unspecified => true,
            Self::Never => false,
            Self::On { failure, .. } => failure,
        }
    }
}
