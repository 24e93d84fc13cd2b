//! The header section: scanning once, and the few edits a submission server may make (RFC 6409 §8).
//!
//! The scan runs over a buffer that grows while data arrives and remembers where it stopped, so
//! each line is looked at once. The edits are made in that same buffer before any octet goes to
//! disk. Nothing but the edits named here changes: signatures made by the sender stay valid.

use std::{net::IpAddr, ops::Range};

use jiff::{Timestamp, fmt::rfc2822::DateTimePrinter, tz::TimeZone};
use memchr::{memchr, memmem};

use super::{Address, QueueId, sanitise};

/// What a header section holds, and where it ends.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own about the section"
)]
pub struct Header {
    /// Where the section ends: at the empty line, or at the first line that is no field.
    pub end: usize,
    /// Whether the body begins without an empty line before it.
    pub separator_missing: bool,
    /// `Date` is there.
    pub date: bool,
    /// `From` is there.
    pub from: bool,
    /// `Message-ID` is there.
    pub message_id: bool,
    /// `MIME-Version` is there.
    pub mime_version: bool,
    /// Number of `Received` fields: the hops so far.
    pub received: usize,
    /// Fields that must not leave, in order: `Bcc`, `Resent-Bcc`, and an mbox `From ` line in front.
    pub remove: Vec<Range<usize>>,
}

/// Scans a header section in a growing buffer.
#[derive(Debug, Clone)]
pub struct Scan {
    header: Header,
    /// Where the section begins; our own trace field may stand before it.
    start: usize,
    /// The line to look at next.
    at: usize,
    /// Whether that line continues a field that is to be removed.
    removing: bool,
}

/// What a line, or as much of it as is there, can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    /// `name:`; the length of the name.
    Field(usize),
    /// Begins with white space.
    Continuation,
    /// The empty line.
    Empty,
    /// Nothing a header section may hold.
    Other,
    /// Too little of it is there.
    Undecided,
}

impl Scan {
    /// A scan of the section that begins at `start`.
    #[must_use]
    pub fn new(start: usize) -> Self {
        Self {
            header: Header::default(),
            start,
            at: start,
            removing: false,
        }
    }

    /// Octets of the section so far, for the caller's bound.
    #[must_use]
    pub fn len(&self, buffer: &[u8]) -> usize {
        buffer.len().saturating_sub(self.start)
    }

    /// Looks at the lines that came since the last call; the header once its end is there.
    pub fn advance(&mut self, buffer: &[u8]) -> Option<Header> {
        loop {
            let rest = buffer.get(self.at..).unwrap_or_default();
            let line_end = memchr(b'\n', rest).map(|at| at + 1);
            let line = rest.get(..line_end.unwrap_or(rest.len()))?;
            let next = self.at + line.len();
            match (classify(line), line_end) {
                (Line::Undecided, None) => return None,
                (Line::Empty, _) => return Some(self.end(false)),
                (Line::Continuation, _) if self.at == self.start => return Some(self.end(true)),
                (Line::Other | Line::Undecided, _) if !self.is_mbox_from(line) => {
                    return Some(self.end(true));
                }
                // What it is is known; where it ends is not.
                (_, None) => return None,
                (Line::Field(name), Some(_)) => {
                    self.note(line.get(..name).unwrap_or_default(), next);
                }
                (Line::Continuation, Some(_)) => {
                    if let (true, Some(last)) = (self.removing, self.header.remove.last_mut()) {
                        last.end = next;
                    }
                }
                (Line::Other | Line::Undecided, Some(_)) => {
                    self.header.remove.push(self.at..next);
                    self.removing = false;
                    self.start = next;
                }
            }
            self.at = next;
        }
    }

    /// The data ended within the section: all of the buffer was header.
    pub fn finish(mut self, buffer: &[u8]) -> Header {
        self.advance(buffer).unwrap_or_else(|| {
            self.at = buffer.len();
            self.end(false)
        })
    }

    fn end(&mut self, separator_missing: bool) -> Header {
        Header {
            end: self.at,
            separator_missing,
            ..std::mem::take(&mut self.header)
        }
    }

    fn note(&mut self, name: &[u8], next: usize) {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        self.header.date |= is("Date");
        self.header.from |= is("From");
        self.header.message_id |= is("Message-ID");
        self.header.mime_version |= is("MIME-Version");
        self.header.received += usize::from(is("Received"));
        self.removing = is("Bcc") || is("Resent-Bcc");
        if self.removing {
            self.header.remove.push(self.at..next);
        }
    }

    /// Programs that pipe an mbox leave its separator in front; it is no part of the message.
    fn is_mbox_from(&self, line: &[u8]) -> bool {
        self.at == self.start && self.header.remove.is_empty() && line.starts_with(b"From ")
    }
}

/// RFC 5322 §2.2, with white space before the colon (§4.5).
fn classify(line: &[u8]) -> Line {
    match line {
        b"\r\n" => return Line::Empty,
        [b' ' | b'\t', ..] => return Line::Continuation,
        [] | b"\r" => return Line::Undecided,
        _ => (),
    }
    let is_name = |octet: &u8| matches!(octet, b'!'..=b'~') && *octet != b':';
    let name = line.iter().take_while(|octet| is_name(octet)).count();
    let behind = line.get(name..).unwrap_or_default();
    let blank = |octet: &&u8| matches!(octet, b' ' | b'\t');
    match behind.iter().find(|octet| !blank(octet)) {
        Some(b':') if name > 0 => Line::Field(name),
        Some(_) => Line::Other,
        None => Line::Undecided,
    }
}

/// Removes what [`Header::remove`] names and puts `fields` (complete lines) at the end of the
/// section, with the empty line behind it where that is missing. Gives where the section ends then,
/// before its empty line.
pub fn edit(buffer: &mut Vec<u8>, header: &Header, fields: &[u8]) -> usize {
    let separator: &[u8] = if header.separator_missing {
        b"\r\n"
    } else {
        b""
    };
    if !fields.is_empty() || !separator.is_empty() {
        let new = fields.iter().chain(separator).copied();
        buffer.splice(header.end..header.end, new);
    }
    let mut removed = 0;
    for range in header.remove.iter().rev() {
        removed += buffer.drain(range.clone()).len();
    }
    header.end + fields.len() - removed
}

/// How often a message has passed through the host of this name, its passage now included: `Received`
/// fields in the form of [`Trace`]. A queue id must stand in them, because other programs call their
/// host by the same name (`localhost`).
#[must_use]
pub fn passages(section: &[u8], host: &str) -> usize {
    let by = [b"by ", host.as_bytes(), b" with "].concat();
    let ours = |line: &&[u8]| {
        let behind = memmem::find(line, &by).and_then(|at| line.get(at + by.len()..));
        let mut words = behind
            .unwrap_or_default()
            .split(|o| matches!(o, b' ' | b';' | b'\r'));
        let id = words.nth(2).and_then(|id| std::str::from_utf8(id).ok());
        id.is_some_and(|id| id.parse::<QueueId>().is_ok())
    };
    let mut in_received = false;
    let lines = section.split(|octet| *octet == b'\n');
    let received = lines.filter(|line| {
        if !line.starts_with(b" ") && !line.starts_with(b"\t") {
            let name = line.get(..9);
            in_received = name.is_some_and(|name| name.eq_ignore_ascii_case(b"Received:"));
        }
        in_received
    });
    received.filter(ours).count()
}

/// The Message-ID of a message that begins here, without its angle brackets (RFC 5322 §3.6.4); as
/// long as it is told to people, and without control characters. `None`: there is none.
#[must_use]
pub fn message_id(message: &[u8]) -> Option<String> {
    const NAME: &[u8] = b"message-id";
    let mut lines = message.split_inclusive(|octet| *octet == b'\n');
    let mut value = lines.find_map(|line| match classify(line) {
        Line::Field(name) if line.get(..name)?.eq_ignore_ascii_case(NAME) => {
            let colon = memchr(b':', line)?;
            Some(Some(line.get(colon + 1..)?.to_vec()))
        }
        Line::Field(_) | Line::Continuation => None,
        Line::Empty | Line::Other | Line::Undecided => Some(None),
    })??;
    // Long ones are folded behind the colon.
    let folded = lines.take_while(|line| classify(line) == Line::Continuation);
    value.extend(folded.take(1).flatten());
    let text = String::from_utf8_lossy(&value);
    let id = text.trim().trim_start_matches('<').trim_end_matches('>');
    let id: String = sanitise(id).chars().take(MESSAGE_ID_LEN_MAX).collect();
    (!id.is_empty()).then_some(id)
}

/// Longer ones are told as far as this; nobody writes them.
const MESSAGE_ID_LEN_MAX: usize = 512;

/// What a `Received` field tells (RFC 5321 §4.4).
#[derive(Debug, Clone, Copy)]
pub struct Trace<'a> {
    /// What the client called itself.
    pub helo: &'a str,
    /// Where it is; none on a Unix socket.
    pub peer: Option<IpAddr>,
    /// Whether nothing is told of the client: neither its name, which is often its address, nor where
    /// it is.
    pub hidden: bool,
    /// Our name.
    pub by: &'a str,
    /// `ESMTPSA` and the like.
    pub protocol: &'a str,
    /// The message.
    pub id: QueueId,
    /// The recipient, if there is only one: several would tell each of the others.
    pub recipient: Option<&'a Address>,
    /// When the data began.
    pub at: Timestamp,
}

impl Trace<'_> {
    /// Appends the field. Whatever the client said in its greeting, the field stays one field.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut text = String::with_capacity(256);
        text.push_str("Received: ");
        if !self.hidden {
            self.write_client(&mut text);
            text.push_str("\r\n\t");
        }
        let (by, protocol, id) = (self.by, self.protocol, self.id);
        text.push_str(&format!("by {by} with {protocol} id {id}"));
        if let Some(recipient) = self.recipient.filter(|recipient| recipient.is_ascii()) {
            text.push_str(&format!("\r\n\tfor <{recipient}>"));
        }
        text.push_str(";\r\n\t");
        text.push_str(&date(self.at));
        text.push_str("\r\n");
        out.extend_from_slice(text.as_bytes());
    }

    fn write_client(&self, text: &mut String) {
        text.push_str("from ");
        if self.helo.is_empty() {
            text.push_str("unknown");
        }
        text.extend(self.helo.chars().map(|char| match char {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' | '_' | ':' | '[' | ']' => char,
            _ => '?',
        }));
        match self.peer.map(|peer| peer.to_canonical()) {
            Some(IpAddr::V4(peer)) => text.push_str(&format!(" ([{peer}])")),
            Some(IpAddr::V6(peer)) => text.push_str(&format!(" ([IPv6:{peer}])")),
            None => text.push_str(" (local)"),
        }
    }
}

/// A date as RFC 5322 §3.3 writes it, in UTC.
#[must_use]
pub fn date(at: Timestamp) -> String {
    DateTimePrinter::new()
        .zoned_datetime_to_string(&at.to_zoned_datetime(TimeZone::UTC))
        // Years beyond 9999 have no such form; a clock that wrong is not worth a failure.
        .unwrap_or_else(|_| "Thu, 1 Jan 1970 00:00:00 +0000".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(text: &str) -> Header {
        Scan::new(0).finish(text.as_bytes())
    }

    #[test]
    fn the_section_ends_where_the_fields_end() {
        for (text, end, separator_missing) in [
            ("", 0, false),
            ("\r\nbody\r\n", 0, false),
            ("body only\r\n", 0, true),
            ("<html><body>\r\n", 0, true),
            (" starts with a space\r\n", 0, true),
            (": no name\r\n", 0, true),
            ("A: b\r\n", 6, false),
            ("A: b\r\n\r\nC: d\r\n", 6, false),
            ("A: b\r\n c\r\n\t\r\n\r\n", 13, false),
            ("A : b\r\nbody\r\n", 7, true),
            ("A: b\r\nbody: \u{e9}\r\n\r\n", 16, false),
            ("A: b\r\ncafé: x\r\n\r\n", 6, true),
        ] {
            let header = scan(text);
            assert_eq!(
                (header.end, header.separator_missing),
                (end, separator_missing),
                "{text:?}"
            );
        }
    }

    #[test]
    fn growing_octet_by_octet_finds_the_same() {
        let text = "From root Mon\r\nReceived: a\r\n\tb\r\nBcc: x@y,\r\n z@y\r\nTo: q@y\r\n\
                    message-id: <1@2>\r\n\r\nbody: x\r\nBcc: stays\r\n";
        let whole = scan(text);
        assert_eq!(whole.received, 1);
        assert!(whole.message_id && !whole.date && !whole.from);
        for step in 1..=text.len() {
            let mut growing = Scan::new(0);
            let found = (0..=text.len())
                .step_by(step)
                .find_map(|len| growing.advance(&text.as_bytes()[..len]));
            let header = found.unwrap_or_else(|| growing.finish(text.as_bytes()));
            assert_eq!(header, whole, "in steps of {step}");
        }
        let mut buffer = text.as_bytes().to_vec();
        let end = edit(&mut buffer, &whole, b"Date: now\r\n");
        assert!(
            buffer[..end].ends_with(b"Date: now\r\n") && buffer[end..].starts_with(b"\r\nbody")
        );
        assert_eq!(
            String::from_utf8(buffer).unwrap(),
            "Received: a\r\n\tb\r\nTo: q@y\r\nmessage-id: <1@2>\r\nDate: now\r\n\r\n\
             body: x\r\nBcc: stays\r\n"
        );
    }

    #[test]
    fn a_body_without_header_gets_its_empty_line() {
        let mut buffer = b"disk full\r\n".to_vec();
        let header = scan("disk full\r\n");
        edit(&mut buffer, &header, b"Date: now\r\n");
        assert_eq!(buffer, b"Date: now\r\n\r\ndisk full\r\n");
    }

    #[test]
    fn the_message_id_is_found_folded_or_not() {
        for (text, id) in [
            ("A: b\r\nMessage-ID: <1@x>\r\n\r\n", Some("1@x")),
            ("message-id:<1@x>\r\n", Some("1@x")),
            ("Message-ID:\r\n <1@x>\r\nB: c\r\n", Some("1@x")),
            ("Message-Id : 1@x\x1b\r\n", Some("1@x")),
            ("Message-ID: <>\r\n", None),
            ("A: b\r\n\r\nMessage-ID: <1@x>\r\n", None),
            ("", None),
        ] {
            assert_eq!(message_id(text.as_bytes()).as_deref(), id, "{text:?}");
        }
    }

    /// A long first line without a colon is a body, known before its end is there.
    #[test]
    fn a_body_in_one_endless_line_is_no_header() {
        let text = format!("<html {}", "x".repeat(200_000));
        assert!(Scan::new(0).advance(text.as_bytes()).is_some());
    }

    #[test]
    fn received_tells_the_way_and_cannot_be_broken_by_the_greeting() {
        let mut trace = Trace {
            helo: "printer-2\r\nBcc: x (é)",
            peer: Some("::ffff:192.0.2.7".parse().unwrap()),
            hidden: false,
            by: "relay.example",
            protocol: "ESMTPA",
            id: QueueId::from_i64(1),
            recipient: None,
            at: Timestamp::UNIX_EPOCH,
        };
        let mut out = Vec::new();
        trace.write(&mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "Received: from printer-2??Bcc:?x???? ([192.0.2.7])\r\n\
             \tby relay.example with ESMTPA id 0000000000001;\r\n\
             \tThu, 1 Jan 1970 00:00:00 +0000\r\n"
        );
        let to = Address::parse("a@b.example").unwrap();
        (trace.recipient, trace.peer) = (Some(&to), None);
        let mut out = Vec::new();
        trace.write(&mut out);
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains(" (local)\r\n") && text.contains("\r\n\tfor <a@b.example>;\r\n"));
        (trace.hidden, trace.recipient) = (true, None);
        let mut out = Vec::new();
        trace.write(&mut out);
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("Received: by relay.example with ESMTPA id 0000000000001;\r\n\t"));
    }

    #[test]
    fn only_our_own_passages_are_counted() {
        let mut trace = Trace {
            helo: "x",
            peer: None,
            hidden: false,
            by: "relay.example",
            protocol: "ESMTPS",
            id: QueueId::from_i64(77),
            recipient: None,
            at: Timestamp::UNIX_EPOCH,
        };
        let mut section = Vec::new();
        trace.write(&mut section);
        trace.hidden = true;
        trace.write(&mut section);
        trace.by = "relay.example.org";
        trace.write(&mut section);
        let others = "Received: from a by relay.example with ESMTP id 4XyZ12\r\n\
                      received: from relay.example with HTTP; now\r\n\
                      X-Quoted: by relay.example with ESMTP id 0000000000001;\r\n\
                      \tby relay.example with ESMTP id 0000000000001;\r\n\
                      Received: by relay.example with ESMTP id";
        section.extend_from_slice(others.as_bytes());
        assert_eq!(passages(&section, "relay.example"), 2);
        assert_eq!(passages(&section, "relay.example.org"), 1);
    }
}
