//! Who a message says it is from, and putting a mailbox in that place (RFC 5322 §3.6.2).
//!
//! Providers send only as the mailbox that authenticated. The edit touches as little as can be: the
//! display name, its encoded words and comments stay the very octets they were; the author who was
//! there goes into Reply-To, groups and lists included.

use std::ops::Range;

use base64::Engine as _;

use super::Address;

/// What stands for the author.
#[derive(Debug, Clone, Copy)]
pub struct Stand<'a> {
    /// The mailbox.
    pub mailbox: &'a Address,
    /// The name shown with it; none: the name that was there.
    pub display_name: Option<&'a str>,
    /// Whether answers still go to the author who was there.
    pub reply_to_original: bool,
}

/// The header section `section` (whole lines, without the empty one) with `stand` as its author.
///
/// `Sender` is taken out: the mailbox is author and sender in one. A `Reply-To` that is there stays.
/// `None`: nothing is to be changed, because `is_own` says so of the first author's address (an empty
/// text where none can be read).
#[must_use]
pub fn replace(
    section: &[u8],
    stand: &Stand<'_>,
    is_own: impl Fn(&str) -> bool,
) -> Option<Vec<u8>> {
    let fields: Vec<(&[u8], &[u8])> = fields(section);
    let is = |name: &[u8], wanted: &str| name.eq_ignore_ascii_case(wanted.as_bytes());
    let from = fields.iter().position(|(name, _)| is(name, "From"))?;
    let (_, line) = fields.get(from)?;
    let value = value_of(line);
    let author = Author::read(value);
    let address = author.address.clone().and_then(|at| value.get(at));
    let address = String::from_utf8_lossy(address.unwrap_or_default()).into_owned();
    if is_own(&address) {
        return None;
    }
    let answers = fields.iter().any(|(name, _)| is(name, "Reply-To"));
    let mut out = Vec::with_capacity(section.len() + 2 * LINE_LEN);
    for (at, (name, line)) in fields.iter().enumerate() {
        if at == from {
            author.write(value, stand, &mut out);
            let answerable = Address::parse(&address).is_ok();
            if stand.reply_to_original && !answers && answerable {
                out.extend_from_slice(b"Reply-To:");
                out.extend_from_slice(value);
            }
        } else if !is(name, "From") && !is(name, "Sender") {
            out.extend_from_slice(line);
        }
    }
    Some(out)
}

/// Name and lines of each field. A line without a name belongs to what is before it.
pub(super) fn fields(section: &[u8]) -> Vec<(&[u8], &[u8])> {
    let mut starts = vec![0];
    let ends = memchr::memchr_iter(b'\n', section).map(|at| at + 1);
    starts.extend(ends.filter(|at| !matches!(section.get(*at), None | Some(b' ' | b'\t'))));
    let ends = starts.iter().skip(1).copied().chain([section.len()]);
    let lines = starts.iter().zip(ends);
    lines
        .filter_map(|(start, end)| {
            let line = section.get(*start..end)?;
            let name = line.split(|octet| *octet == b':').next()?;
            Some((name.trim_ascii_end(), line))
        })
        .collect()
}

/// What follows the colon, line ends included.
pub(super) fn value_of(line: &[u8]) -> &[u8] {
    let colon = memchr::memchr(b':', line).map_or(line.len(), |at| at + 1);
    line.get(colon..).unwrap_or_default()
}

/// The first author in a value, as ranges of it.
#[derive(Debug, Default)]
pub(super) struct Author {
    /// `addr-spec`, white space and brackets apart.
    pub(super) address: Option<Range<usize>>,
    /// The display name in front of angle brackets, or the name of the group; white space apart.
    name: Option<Range<usize>>,
    /// A comment behind a bare address: the old way to write a name.
    comment: Option<Range<usize>>,
}

impl Author {
    pub(super) fn read(value: &[u8]) -> Self {
        let mut author = Self::default();
        let mut start = 0;
        let mut at = 0;
        while let Some(octet) = value.get(at) {
            let len = match octet {
                b'"' => quoted(value, at, b'"', b'"'),
                b'[' => quoted(value, at, b'[', b']'),
                b'(' => {
                    let len = quoted(value, at, b'(', b')');
                    author.comment.get_or_insert(at..at + len);
                    // A comment before anything else is no part of the address behind it.
                    if trimmed(value, start..at).is_none() {
                        start = at + len;
                    }
                    len
                }
                b':' => {
                    author.name = trimmed(value, start..at);
                    start = at + 1;
                    1
                }
                b'<' => {
                    let len = quoted(value, at, b'<', b'>');
                    let inside = at + 1..(at + len).saturating_sub(1).max(at + 1);
                    author.address = trimmed(value, without_route(value, inside));
                    author.name = trimmed(value, start..at).or(author.name);
                    author.comment = None;
                    return author;
                }
                b',' | b';' => match trimmed(value, start..at) {
                    Some(_) => break,
                    None => {
                        start = at + 1;
                        1
                    }
                },
                _ => 1,
            };
            at += len;
        }
        let behind = author.comment.as_ref().filter(|c| c.start >= start);
        let end = behind.map_or(at, |comment| comment.start);
        author.address = trimmed(value, start..end);
        author
    }

    /// Writes the field with the mailbox in the author's place.
    fn write(&self, value: &[u8], stand: &Stand<'_>, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(b"From: ");
        let raw = |range: &Option<Range<usize>>| range.clone().and_then(|range| value.get(range));
        let mut comment = None;
        match (stand.display_name, raw(&self.name)) {
            (Some(name), _) => out.extend_from_slice(phrase(name).as_bytes()),
            (None, Some(name)) if is_phrase(name) => out.extend_from_slice(name),
            // Not allowed unquoted, and Exchange takes an @ in it for another sender.
            (None, Some(name)) => {
                out.extend_from_slice(phrase(&String::from_utf8_lossy(name)).as_bytes());
            }
            (None, None) => comment = raw(&self.comment).filter(|raw| is_phrase(raw)),
        }
        let line = out.get(start..).unwrap_or_default();
        let line = line.rsplit(|octet| *octet == b'\n').next();
        let len = line.unwrap_or_default().len() + stand.mailbox.as_str().len();
        let named = !out.ends_with(b": ");
        out.extend_from_slice(match (named, len > LINE_LEN) {
            (false, _) => b"",
            (true, false) => b" ",
            (true, true) => b"\r\n ",
        });
        out.extend_from_slice(format!("<{}>", stand.mailbox).as_bytes());
        if let Some(comment) = comment {
            out.push(b' ');
            out.extend_from_slice(comment);
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// The length of what begins with an opening octet at `at`, up to and with its closing one, or to the
/// end where there is none.
pub(super) fn quoted(value: &[u8], at: usize, open: u8, close: u8) -> usize {
    closed(value, at, open, close).unwrap_or(value.len() - at)
}

/// As [`quoted`]; `None`: it is never closed. Comments nest, a backslash takes the next octet along
/// (RFC 5322 §3.2.2, §3.2.4).
pub(super) fn closed(value: &[u8], at: usize, open: u8, close: u8) -> Option<usize> {
    let mut depth = 0_usize;
    let mut here = at;
    while let Some(octet) = value.get(here) {
        match *octet {
            b'\\' if open != b'<' => here += 1,
            b'"' if open == b'<' => here += quoted(value, here, b'"', b'"') - 1,
            octet if octet == close && (open != close || depth > 0) => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return Some(here + 1 - at);
                }
            }
            octet if octet == open => depth += 1,
            _ => (),
        }
        here += 1;
    }
    None
}

/// `range` without white space at its ends; `None`: nothing is left.
pub(super) fn trimmed(value: &[u8], range: Range<usize>) -> Option<Range<usize>> {
    let part = value.get(range.clone())?;
    let front = part.len() - part.trim_ascii_start().len();
    let len = part.trim_ascii().len();
    (len > 0).then(|| range.start + front..range.start + front + len)
}

/// `@a,@b:user@host`: a route in front of an address means nothing (RFC 5322 §4.4).
fn without_route(value: &[u8], range: Range<usize>) -> Range<usize> {
    let inside = value.get(range.clone()).unwrap_or_default();
    let colon = memchr::memchr(b':', inside).filter(|_| inside.trim_ascii().starts_with(b"@"));
    colon.map_or(range.clone(), |at| range.start + at + 1..range.end)
}

/// Whether raw octets may stand as a display name (RFC 5322 §3.2.5), with the dots and 8-bit
/// characters that programs write in it.
pub(super) fn is_phrase(name: &[u8]) -> bool {
    let mut at = 0;
    while let Some(octet) = name.get(at) {
        let len = match octet {
            b'"' => closed(name, at, b'"', b'"'),
            b'(' => closed(name, at, b'(', b')'),
            b'@' | b'<' | b'>' | b',' | b';' | b':' | b'\\' | b')' | b'[' | b']' => None,
            _ => Some(1),
        };
        let Some(len) = len else { return false };
        at += len;
    }
    true
}

/// A display name as it stands in a header: as it is, quoted, or in encoded words (RFC 2047).
#[must_use]
pub fn phrase(name: &str) -> String {
    let name: String = name.chars().filter(|char| !char.is_control()).collect();
    let is_atom =
        |char: char| char.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~ ".contains(char);
    if !name.is_ascii() {
        return encoded_words(&name);
    }
    if !name.is_empty() && name.chars().all(is_atom) && !name.contains("=?") {
        return name;
    }
    format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""))
}

/// RFC 2047 §2: 75 characters a word at most, and none may cut a character in two.
fn encoded_words(text: &str) -> String {
    let mut words = Vec::new();
    let mut word = String::new();
    for char in text.chars() {
        if word.len() + char.len_utf8() > ENCODED_WORD_OCTETS {
            words.push(std::mem::take(&mut word));
        }
        word.push(char);
    }
    words.push(word);
    let encode = |word: &String| {
        let octets = base64::prelude::BASE64_STANDARD.encode(word);
        format!("=?utf-8?B?{octets}?=")
    };
    let words: Vec<String> = words.iter().map(encode).collect();
    words.join("\r\n ")
}

/// RFC 5322 §2.1.1: lines should not be longer.
const LINE_LEN: usize = 78;
/// 45 octets are 60 characters of base64; with `=?utf-8?B?` and `?=` 72.
const ENCODED_WORD_OCTETS: usize = 45;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mailbox() -> Address {
        Address::parse("alerts@contoso.com").unwrap()
    }

    fn replaced(section: &str, display_name: Option<&str>) -> Option<String> {
        let mailbox = mailbox();
        let stand = Stand {
            mailbox: &mailbox,
            display_name,
            reply_to_original: true,
        };
        let own = |address: &str| address.eq_ignore_ascii_case("alerts@contoso.com");
        let out = replace(section.as_bytes(), &stand, own)?;
        Some(String::from_utf8(out).unwrap())
    }

    #[test]
    fn the_mailbox_takes_the_authors_place_and_the_name_stays() {
        for (from, becomes, reply_to) in [
            ("p@lan", "<alerts@contoso.com>", " p@lan"),
            ("<p@lan>", "<alerts@contoso.com>", " <p@lan>"),
            (
                "Printer 2 <p@lan>",
                "Printer 2 <alerts@contoso.com>",
                " Printer 2 <p@lan>",
            ),
            (
                "\"a, b <c>\" <p@lan>",
                "\"a, b <c>\" <alerts@contoso.com>",
                " \"a, b <c>\" <p@lan>",
            ),
            (
                "p@lan (Printer (2))",
                "<alerts@contoso.com> (Printer (2))",
                " p@lan (Printer (2))",
            ),
            ("(x) p@lan", "<alerts@contoso.com> (x)", " (x) p@lan"),
            (
                "=?utf-8?Q?J=C3=B6rg?=\r\n =?utf-8?Q?_M=C3=BCller?= <p@lan>",
                "=?utf-8?Q?J=C3=B6rg?=\r\n =?utf-8?Q?_M=C3=BCller?= <alerts@contoso.com>",
                " =?utf-8?Q?J=C3=B6rg?=\r\n =?utf-8?Q?_M=C3=BCller?= <p@lan>",
            ),
            (
                "A <a@lan>, B <b@lan>",
                "A <alerts@contoso.com>",
                " A <a@lan>, B <b@lan>",
            ),
            (
                "Ops: a@lan, b@lan;",
                "Ops <alerts@contoso.com>",
                " Ops: a@lan, b@lan;",
            ),
            (
                "Ops: A <a@lan>;",
                "A <alerts@contoso.com>",
                " Ops: A <a@lan>;",
            ),
            ("<@r,@s:p@lan>", "<alerts@contoso.com>", " <@r,@s:p@lan>"),
            ("p@[192.0.2.1]", "<alerts@contoso.com>", " p@[192.0.2.1]"),
            ("\"a>b\"@lan", "<alerts@contoso.com>", " \"a>b\"@lan"),
            (
                "me@lan <p@lan>",
                "\"me@lan\" <alerts@contoso.com>",
                " me@lan <p@lan>",
            ),
            ("Jörg <p@lan>", "Jörg <alerts@contoso.com>", " Jörg <p@lan>"),
            (", <p@lan>", "<alerts@contoso.com>", " , <p@lan>"),
        ] {
            let section = format!("Received: x\r\nFrom: {from}\r\nTo: q@y\r\n");
            let wanted =
                format!("Received: x\r\nFrom: {becomes}\r\nReply-To:{reply_to}\r\nTo: q@y\r\n");
            assert_eq!(replaced(&section, None).unwrap(), wanted, "{from}");
        }
    }

    #[test]
    fn an_author_without_a_place_to_answer_gets_no_reply_to() {
        for (from, becomes) in [
            ("root", "From: <alerts@contoso.com>\r\n"),
            ("", "From: <alerts@contoso.com>\r\n"),
            (
                "undisclosed:;",
                "From: undisclosed <alerts@contoso.com>\r\n",
            ),
            (
                "Cron Daemon <root>",
                "From: Cron Daemon <alerts@contoso.com>\r\n",
            ),
        ] {
            let section = format!("From: {from}\r\n");
            assert_eq!(replaced(&section, None).unwrap(), becomes, "{from}");
        }
    }

    #[test]
    fn what_is_there_already_stays() {
        assert_eq!(
            replaced("From: X <Alerts@Contoso.com>\r\n", Some("Y")),
            None
        );
        assert_eq!(replaced("To: q@y\r\n", None), None, "nobody to replace");
        let section =
            "from : p@lan\r\nSender: s@lan\r\nReply-To: r@lan\r\nFrom: second@lan\r\nX: y\r\n";
        let wanted = "From: <alerts@contoso.com>\r\nReply-To: r@lan\r\nX: y\r\n";
        assert_eq!(replaced(section, None).unwrap(), wanted);
    }

    #[test]
    fn a_configured_name_is_written_as_a_phrase() {
        for (name, written) in [
            ("Alerts 2", "Alerts 2"),
            ("Contoso, Inc. \"x\"", "\"Contoso, Inc. \\\"x\\\"\""),
            ("=?x?=", "\"=?x?=\""),
            ("Müller", "=?utf-8?B?TcO8bGxlcg==?="),
            ("a\r\nBcc: x", "\"aBcc: x\""),
        ] {
            let out = replaced("From: p@lan\r\n", Some(name)).unwrap();
            let wanted = format!("From: {written} <alerts@contoso.com>\r\n");
            assert!(out.starts_with(&wanted), "{out}");
        }
        let long = "ü".repeat(100);
        let out = replaced("From: p@lan\r\n", Some(&long)).unwrap();
        assert!(out.lines().all(|line| line.len() <= 80), "{out}");
        let parsed = mail_parser::MessageParser::default()
            .parse(out.as_bytes())
            .and_then(|m| Some(m.from()?.first()?.name()?.to_owned()));
        assert_eq!(parsed.as_deref(), Some(long.as_str()));
    }

    proptest! {
        /// Whatever stands in From: one author comes out, and another parser finds it.
        #[test]
        fn any_from_becomes_exactly_the_mailbox(value in "[a-z@<>(),:;\"\\\\\\[\\]. =?]{0,40}") {
            let section = format!("A: b\r\nFrom: {value}\r\nC: d\r\n");
            if let Some(out) = replaced(&section, None) {
                prop_assert!(out.starts_with("A: b\r\nFrom: ") && out.ends_with("\r\nC: d\r\n"));
                let from = out.lines().filter(|line| line.starts_with("From: ")).count();
                prop_assert_eq!(from, 1);
                prop_assert!(out.contains("<alerts@contoso.com>"));
                let parsed = mail_parser::MessageParser::default().parse(out.as_bytes()).unwrap();
                let author = parsed.from().and_then(|from| from.first()?.address());
                prop_assert_eq!(author, Some("alerts@contoso.com"), "{}", out);
            }
        }
    }
}
