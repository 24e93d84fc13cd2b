//! Mailbox addresses that keep their quoting (RFC 5321 §4.1.2).
//!
//! An address is kept as it must be written back on the wire: a quoted local part stays quoted, so
//! nothing a client sent can become another command upstream.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

use serde::{Deserialize, Serialize};

/// A mailbox `local-part@domain`, valid by RFC 5321 §4.1.2 (RFC 6531 when not ASCII).
///
/// Never holds a byte below 0x20, 0x7f, or an unquoted special. Compares exactly: the local part is
/// case-sensitive, the domain is kept in lower case.
///
/// One leniency: a domain label may hold `_`, because hosts are named so and mail from `root` there
/// must not be refused.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address {
    /// `local@domain`; the last `@` separates, a domain never holds one.
    text: String,
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
        if text.len() > ADDRESS_LEN_MAX
            || local.len() > LOCAL_LEN_MAX
            || domain.len() > DOMAIN_LEN_MAX
            || !is_local_part(local)
        {
            return Err(AddressError);
        }
        if let Some(literal) = domain.strip_prefix('[') {
            let literal = literal.strip_suffix(']').and_then(canonical_literal);
            let literal = literal.ok_or(AddressError)?;
            let text = format!("{local}@[{literal}]");
            return Ok(Self { text });
        }
        if !is_domain(domain) {
            return Err(AddressError);
        }
        let mut text = text.to_owned();
        if let Some(domain) = text.get_mut(local.len()..) {
            domain.make_ascii_lowercase();
        }
        Ok(Self { text })
    }

    /// The local part as on the wire, quotes included.
    #[must_use]
    pub fn local(&self) -> &str {
        self.text.rsplit_once('@').map_or("", |(local, _)| local)
    }

    /// The domain in lower case, or an address literal in brackets.
    #[must_use]
    pub fn domain(&self) -> &str {
        self.text.rsplit_once('@').map_or("", |(_, domain)| domain)
    }

    /// The whole address as on the wire, without angle brackets.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the address can go upstream without SMTPUTF8.
    #[must_use]
    pub fn is_ascii(&self) -> bool {
        self.text.is_ascii()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
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
        address.text
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

/// A path is at most 256 octets with its angle brackets (RFC 5321 §4.5.3.1.3).
const ADDRESS_LEN_MAX: usize = 254;
/// RFC 5321 §4.5.3.1.1.
const LOCAL_LEN_MAX: usize = 64;
/// RFC 5321 §4.5.3.1.2.
const DOMAIN_LEN_MAX: usize = 255;
/// RFC 1035 §2.3.4.
const LABEL_LEN_MAX: usize = 63;

fn is_local_part(local: &str) -> bool {
    match local.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"').is_some_and(is_quoted_content),
        None => !local.is_empty() && local.split('.').all(is_atom),
    }
}

fn is_atom(atom: &str) -> bool {
    !atom.is_empty() && atom.chars().all(is_atext)
}

/// `atext` of RFC 5322 §3.2.3, and what RFC 6531 §3.3 adds.
fn is_atext(char: char) -> bool {
    char.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(char) || is_utf8_text(char)
}

/// Characters beyond ASCII that may stand in an address: no controls, no invisible separators.
fn is_utf8_text(char: char) -> bool {
    !char.is_ascii() && !char.is_control() && !char.is_whitespace()
}

/// What stands between the quotes: `qtextSMTP` and `quoted-pairSMTP`. A quote before the end would
/// close the string early, so it must be escaped.
fn is_quoted_content(content: &str) -> bool {
    let mut escaped = false;
    for char in content.chars() {
        if !matches!(char, ' '..='~') && !is_utf8_text(char) {
            return false;
        }
        match char {
            _ if escaped && !char.is_ascii() => return false,
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return false,
            _ => (),
        }
    }
    !escaped
}

fn is_domain(domain: &str) -> bool {
    domain.split('.').all(is_label)
}

fn is_label(label: &str) -> bool {
    let letter = |char: char| char.is_ascii_alphanumeric() || char == '_' || is_utf8_text(char);
    (1..=LABEL_LEN_MAX).contains(&label.len())
        && label.chars().all(|char| letter(char) || char == '-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// The inside of an address literal in one spelling; general address literals have no use.
fn canonical_literal(literal: &str) -> Option<String> {
    match literal.split_once(':') {
        Some((tag, address)) if tag.eq_ignore_ascii_case("ipv6") => {
            let address: Ipv6Addr = address.parse().ok()?;
            Some(format!("IPv6:{address}"))
        }
        Some(_) => None,
        None => literal
            .parse::<Ipv4Addr>()
            .ok()
            .map(|address| address.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_rfc_5321_allows_is_kept_as_written() {
        for (text, kept) in [
            ("user@example.com", "user@example.com"),
            ("User.Name+tag@EXAMPLE.Com", "User.Name+tag@example.com"),
            ("root@localhost", "root@localhost"),
            ("root@web_01.lan", "root@web_01.lan"),
            ("\"a>b\"@c.d", "\"a>b\"@c.d"),
            ("\"a b\\\"@\"@c.d", "\"a b\\\"@\"@c.d"),
            ("\"\"@c.d", "\"\"@c.d"),
            ("u@[192.0.2.1]", "u@[192.0.2.1]"),
            ("u@[IPV6:2001:DB8::1]", "u@[IPv6:2001:db8::1]"),
            ("jörg@müller.example", "jörg@müller.example"),
        ] {
            let address = Address::parse(text).unwrap();
            assert_eq!(address.to_string(), kept);
            assert_eq!(format!("{}@{}", address.local(), address.domain()), kept);
            assert_eq!(address.is_ascii(), kept.is_ascii());
        }
    }

    #[test]
    fn what_could_become_another_command_is_no_address() {
        let long_local = format!("{}@a.b", "x".repeat(65));
        let long_label = format!("a@{}.b", "x".repeat(64));
        let long_domain = format!("a@{}b", "x.".repeat(127));
        for text in [
            "",
            "@",
            "a",
            "a@",
            "@b",
            "a@b@c",
            "a b@c",
            "a@b c",
            "<a@b>",
            "a@b>",
            "a>b@c.d",
            "a\r@b",
            "a\n@b",
            "a@b\r\nRCPT",
            "a\0@b",
            "a\u{7f}@b",
            "a\u{80}@b",
            "a\u{2028}@b",
            ".a@b",
            "a.@b",
            "a..b@c",
            "a@.b",
            "a@b.",
            "a@b..c",
            "a@-b",
            "a@b-",
            "a,b@c",
            "a@b,c",
            "\"a@b",
            "a\"@b",
            "\"a\"b\"@c",
            "\"a\\\"@b",
            "\"a\tb\"@c",
            "\"@c",
            "u@[1.2.3]",
            "u@[1.2.3.4",
            "u@1.2.3.4]",
            "u@[IPv6:1]",
            "u@[x:1.2.3.4]",
            "u@[]",
            &long_local,
            &long_label,
            &long_domain,
        ] {
            assert_eq!(Address::parse(text), Err(AddressError), "{text:?}");
        }
    }

    proptest! {
        /// Whatever is accepted reads back as itself and holds nothing that ends a path or line.
        #[test]
        fn an_accepted_address_reads_back(text in r#"["\\<> a-c@.\r\n\[\]0-9:é-]{0,24}"#) {
            if let Ok(address) = Address::parse(&text) {
                prop_assert_eq!(Address::parse(address.as_str()), Ok(address.clone()));
                prop_assert!(address.as_str().bytes().all(|b| b >= 0x20 && b != 0x7f));
                let bare = !address.local().starts_with('"');
                prop_assert!(!bare || !address.as_str().contains(['<', '>', ' ', '"']));
            }
        }
    }
}
