//! Replies and enhanced status codes (RFC 5321 §4.2, RFC 3463).

use std::fmt;

use serde::{Deserialize, Serialize};

/// An enhanced status code `class.subject.detail`. Sixteen bits each, because Microsoft's
/// `5.7.708` does not fit into eight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EnhancedCode(pub u16, pub u16, pub u16);

impl EnhancedCode {
    /// Parses `5.7.708`, nothing before or after it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.').map(|part| {
            (!part.is_empty() && part.len() <= 3 && part.bytes().all(|b| b.is_ascii_digit()))
                .then(|| part.parse::<u16>().ok())
                .flatten()
        });
        let code = Self(parts.next()??, parts.next()??, parts.next()??);
        (parts.next().is_none() && matches!(code.0, 2 | 4 | 5)).then_some(code)
    }
}

impl fmt::Display for EnhancedCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

impl TryFrom<String> for EnhancedCode {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or("not an enhanced status code")
    }
}

impl From<EnhancedCode> for String {
    fn from(code: EnhancedCode) -> Self {
        code.to_string()
    }
}

/// A reply of an SMTP server: code, enhanced code, text. A value, not an error: only the verdict
/// table says what it means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// Three digits, 200 to 599.
    pub code: u16,
    /// The enhanced status code, if the text began with one of the same class.
    pub enhanced: Option<EnhancedCode>,
    /// The text of all lines, joined by a space, without codes and control characters.
    pub text: String,
}

impl Reply {
    /// A reply made of its parts.
    #[must_use]
    pub fn new(code: u16, enhanced: Option<EnhancedCode>, text: impl Into<String>) -> Self {
        Self {
            code,
            enhanced,
            text: text.into(),
        }
    }

    /// Reads what [`Reply`]'s `Display` writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (code, rest) = text.split_once(' ').unwrap_or((text, ""));
        let code: u16 = code.parse().ok().filter(|code| (200..600).contains(code))?;
        let (word, after) = rest.split_once(' ').unwrap_or((rest, ""));
        let enhanced = EnhancedCode::parse(word).filter(|enhanced| enhanced.0 == code / 100);
        let text = if enhanced.is_some() { after } else { rest };
        Some(Self::new(code, enhanced, sanitise(text)))
    }

    /// 2yz: done.
    #[must_use]
    pub fn is_positive(&self) -> bool {
        (200..300).contains(&self.code)
    }

    /// 4yz: may go well later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        (400..500).contains(&self.code)
    }

    /// 5yz: will not go well unchanged.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        (500..600).contains(&self.code)
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if let Some(enhanced) = self.enhanced {
            write!(f, " {enhanced}")?;
        }
        write!(f, " {}", self.text)
    }
}

/// `text` without control characters: fit for a log line, a page or a header of a report.
#[must_use]
pub fn sanitise(text: &str) -> String {
    text.chars()
        .map(|c| if c == '\t' { ' ' } else { c })
        .filter(|c| !c.is_control() && !matches!(c, '\u{2028}' | '\u{2029}'))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_reads_as_it_is_written() {
        for reply in [
            Reply::new(250, Some(EnhancedCode(2, 0, 0)), "queued as 4711"),
            Reply::new(550, Some(EnhancedCode(5, 7, 708)), ""),
            Reply::new(451, None, "later"),
            Reply::new(421, None, "5.7.1 of another class"),
        ] {
            assert_eq!(Reply::parse(&reply.to_string()), Some(reply));
        }
        for bad in ["", "hello", "99 x", "600 x"] {
            assert_eq!(Reply::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_enhanced_code_keeps_sixteen_bits() {
        assert_eq!(
            EnhancedCode::parse("5.7.708"),
            Some(EnhancedCode(5, 7, 708))
        );
        for bad in ["", "5.7", "5.7.", "6.7.1", "5.7.1.1", "5.7.+1", "5.7.7080"] {
            assert_eq!(EnhancedCode::parse(bad), None, "{bad}");
        }
    }
}
