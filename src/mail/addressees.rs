//! Whom a header section addresses, and making that exactly the envelope (RFC 5322 §3.6.3).
//!
//! An API that sends a message takes its recipients from `To`, `Cc` and `Bcc`, because it has no
//! envelope. So before a message goes out that way, everybody in the envelope must stand there, and
//! nobody else. The edit touches no more than that needs: a field all of whose addresses are in the
//! envelope stays the very octets it was, and so does everything that is no such field.
//!
//! Whoever receives reads the field with a parser of their own. A field that ours does not read
//! without doubt is written anew with nothing but addresses of the envelope in it, so that no other
//! reading can find somebody else there.

use std::ops::Range;

use super::{
    Address,
    author::{closed, fields, is_phrase, trimmed, value_of},
};

/// What a field that was changed was, for whoever reads the message: `X-Gatepost-To: ..`.
const KEPT_AS: &[u8] = b"X-Gatepost-";

/// What stands in `To` when nobody is left in it (RFC 5322 §3.4: an empty group).
const NOBODY: &[u8] = b"To: undisclosed-recipients:;\r\n";

/// The header section `section` (whole lines, without the empty one) addressed to `recipients` and
/// to nobody else. `None`: it is so already.
///
/// Recipients that no open field names are put into one `Bcc` field, which the API takes out again;
/// what the field was that named others stays readable in `X-Gatepost-To` and the like. Addresses
/// compare without regard to case.
#[must_use]
pub fn address(section: &[u8], recipients: &[&str]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(section.len() + 256);
    let mut open: Vec<String> = Vec::new();
    let mut changed = false;
    for (name, line) in fields(section) {
        let role = Role::of(name);
        if role == Role::Other {
            out.extend_from_slice(line);
            continue;
        }
        let value = value_of(line);
        let list = List::read(value);
        if role != Role::Blind && list.is_within(recipients) {
            out.extend_from_slice(line);
            if role == Role::Open {
                open.extend(list.addresses());
            }
            continue;
        }
        changed = true;
        if role == Role::Blind {
            continue;
        }
        if role == Role::Open {
            open.extend(list.write(name, value, recipients, &mut out));
        }
        out.extend_from_slice(KEPT_AS);
        out.extend_from_slice(line);
    }
    let is_open = |recipient: &&str| open.iter().any(|one| one.eq_ignore_ascii_case(recipient));
    let blind: Vec<&str> = recipients
        .iter()
        .filter(|recipient| !is_open(recipient))
        .copied()
        .collect();
    if !blind.is_empty() {
        let blind: Vec<String> = blind.iter().map(|one| format!("<{one}>")).collect();
        out.extend_from_slice(format!("Bcc: {}\r\n", blind.join(",\r\n ")).as_bytes());
    }
    (changed || !blind.is_empty()).then_some(out)
}

/// What a field has to do with recipients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Whoever stands there gets the message, and everybody sees it.
    Open,
    /// Whoever stands there gets the message, and nobody sees it.
    Blind,
    /// Of an earlier journey, or old: some programs send to whoever stands there.
    Past,
    /// Nothing.
    Other,
}

impl Role {
    fn of(name: &[u8]) -> Self {
        let is = |wanted: &str| name.eq_ignore_ascii_case(wanted.as_bytes());
        if is("To") || is("Cc") {
            Self::Open
        } else if is("Bcc") || is("Resent-Bcc") {
            Self::Blind
        } else if is("Resent-To") || is("Resent-Cc") || is("Apparently-To") {
            Self::Past
        } else {
            Self::Other
        }
    }
}

/// What a field lists.
#[derive(Debug, Default)]
struct List {
    items: Vec<Item>,
    /// Something in it can be read in more than one way, or not at all.
    doubtful: bool,
}

/// One mailbox of a list.
#[derive(Debug)]
struct Item {
    address: String,
    /// Its octets, white space apart; `None`: they are doubtful.
    octets: Option<Range<usize>>,
}

impl List {
    /// Reads `mailbox-list`, groups included (RFC 5322 §3.4).
    fn read(value: &[u8]) -> Self {
        let mut list = Self::default();
        let mut start = 0;
        let mut angle: Option<Range<usize>> = None;
        let mut at = 0;
        while let Some(octet) = value.get(at) {
            let len = match octet {
                b'"' => closed(value, at, b'"', b'"'),
                b'(' => closed(value, at, b'(', b')'),
                b'[' => closed(value, at, b'[', b']'),
                b'<' => {
                    let len = closed(value, at, b'<', b'>');
                    list.doubtful |= angle.is_some();
                    angle = len.map(|len| at..at + len);
                    len
                }
                b':' => {
                    let name = value.get(start..at).unwrap_or_default();
                    list.doubtful |= angle.is_some() || !is_phrase(name.trim_ascii());
                    start = at + 1;
                    Some(1)
                }
                b',' | b';' => {
                    list.item(value, start..at, angle.take());
                    start = at + 1;
                    Some(1)
                }
                _ => Some(1),
            };
            // What is opened and never closed ends nowhere.
            list.doubtful |= len.is_none();
            at += len.unwrap_or(1);
        }
        list.item(value, start..value.len(), angle);
        list
    }

    fn item(&mut self, value: &[u8], range: Range<usize>, angle: Option<Range<usize>>) {
        let Some(range) = trimmed(value, range) else {
            return;
        };
        let text = |range: Range<usize>| {
            let octets = value.get(range).unwrap_or_default();
            String::from_utf8_lossy(octets).trim().to_owned()
        };
        let (address, named_well) = match angle {
            Some(angle) => {
                let name = value.get(range.start..angle.start).unwrap_or_default();
                let behind = value.get(angle.end..range.end).unwrap_or_default();
                let well = is_phrase(name) && is_comment(behind);
                (text(angle.start + 1..angle.end.saturating_sub(1)), well)
            }
            None => (text(range.clone()), true),
        };
        match Address::parse(&address) {
            Ok(address) => {
                self.doubtful |= !named_well;
                self.items.push(Item {
                    address: address.to_string(),
                    octets: named_well.then_some(range),
                });
            }
            // `user@host (Name)`, the old way to write a name.
            Err(_) => match without_comments(&address).map(|text| Address::parse(&text)) {
                Some(Ok(address)) => self.items.push(Item {
                    address: address.to_string(),
                    octets: Some(range),
                }),
                Some(Err(_)) | None => self.doubtful = true,
            },
        }
    }

    fn addresses(&self) -> impl Iterator<Item = String> + '_ {
        self.items.iter().map(|item| item.address.clone())
    }

    /// Whether the field can stay: it is read without doubt, and everybody in it is a recipient.
    fn is_within(&self, recipients: &[&str]) -> bool {
        !self.doubtful && self.items.iter().all(|item| item.is_one_of(recipients))
    }

    /// Writes the field with the recipients alone, and says who they are.
    fn write(
        &self,
        name: &[u8],
        value: &[u8],
        recipients: &[&str],
        out: &mut Vec<u8>,
    ) -> Vec<String> {
        let kept: Vec<&Item> = self
            .items
            .iter()
            .filter(|item| item.is_one_of(recipients))
            .collect();
        if kept.is_empty() && name.eq_ignore_ascii_case(b"To") {
            out.extend_from_slice(NOBODY);
        }
        for (at, item) in kept.iter().enumerate() {
            if at == 0 {
                out.extend_from_slice(name);
                out.extend_from_slice(b": ");
            } else {
                out.extend_from_slice(b",\r\n ");
            }
            let octets = item.octets.clone().filter(|_| !self.doubtful);
            match octets.and_then(|octets| value.get(octets)) {
                Some(octets) => out.extend_from_slice(octets),
                None => out.extend_from_slice(format!("<{}>", item.address).as_bytes()),
            }
        }
        if !kept.is_empty() {
            out.extend_from_slice(b"\r\n");
        }
        kept.iter().map(|item| item.address.clone()).collect()
    }
}

impl Item {
    fn is_one_of(&self, recipients: &[&str]) -> bool {
        recipients
            .iter()
            .any(|one| one.eq_ignore_ascii_case(&self.address))
    }
}

/// Whether nothing but white space and comments stands there.
fn is_comment(octets: &[u8]) -> bool {
    std::str::from_utf8(octets)
        .ok()
        .and_then(without_comments)
        .is_some_and(|left| left.is_empty())
}

/// `text` without the comments around it; `None`: one is never closed, or stands in the middle.
fn without_comments(text: &str) -> Option<String> {
    let mut rest = text.trim();
    while rest.starts_with('(') {
        let len = closed(rest.as_bytes(), 0, b'(', b')')?;
        rest = rest.get(len..)?.trim_start();
    }
    let Some(open) = rest.find('(') else {
        return Some(rest.to_owned());
    };
    let (front, mut behind) = rest.split_at_checked(open)?;
    while behind.starts_with('(') {
        let len = closed(behind.as_bytes(), 0, b'(', b')')?;
        behind = behind.get(len..)?.trim_start();
    }
    behind.is_empty().then(|| front.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn addressed(section: &str, recipients: &[&str]) -> Option<String> {
        address(section.as_bytes(), recipients).map(|out| String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_header_that_names_the_envelope_stays_as_it_is() {
        for section in [
            "From: x@y\r\nTo: a@x.example\r\nCc: b@x.example\r\n",
            "to :A <A@X.example>\r\nSubject: =?x?=\r\nCC:\r\n\t\"B, b\" <b@x.example> (x)\r\n",
            "To: a@x.example (Old (style)), b@x.example,\r\n",
            "To: Ops: <a@x.example>, b@x.example;\r\nX: y\r\n",
            "To: a@x.example,\r\n b@x.example\r\nCc: undisclosed-recipients:;\r\n",
            "To: J\u{f6}rg <a@x.example>, b@x.example\r\nResent-To: a@x.example\r\n",
        ] {
            let recipients = ["a@x.example", "b@x.example"];
            assert_eq!(addressed(section, &recipients), None, "{section}");
        }
    }

    #[test]
    fn who_is_missing_becomes_blind_and_who_is_not_in_the_envelope_gets_nothing() {
        for (section, becomes) in [
            ("To: a@x\r\n", "To: a@x\r\nBcc: <b@x>\r\n"),
            ("S: t\r\n", "S: t\r\nBcc: <a@x>,\r\n <b@x>\r\n"),
            // A list's member: the list itself must not get it again.
            (
                "To: list@l\r\nS: t\r\n",
                "To: undisclosed-recipients:;\r\nX-Gatepost-To: list@l\r\nS: t\r\nBcc: <a@x>,\r\n <b@x>\r\n",
            ),
            (
                "To: A <a@x>, L <l@l>,\r\n \"B, b\" <b@x>\r\nCc: c@c\r\n",
                "To: A <a@x>,\r\n \"B, b\" <b@x>\r\nX-Gatepost-To: A <a@x>, L <l@l>,\r\n \"B, b\" <b@x>\r\n\
                 X-Gatepost-Cc: c@c\r\n",
            ),
            (
                "To: a@x, b@x\r\nBcc: c@c\r\nResent-Bcc: d@d\r\nResent-To: e@e\r\n",
                "To: a@x, b@x\r\nX-Gatepost-Resent-To: e@e\r\n",
            ),
            (
                "Bcc: a@x\r\n c@c\r\nTo: b@x\r\n",
                "To: b@x\r\nBcc: <a@x>\r\n",
            ),
        ] {
            let out = addressed(section, &["a@x", "b@x"]);
            assert_eq!(out.as_deref(), Some(becomes), "{section}");
        }
    }

    /// Exchange takes an @ in an unquoted display name for another recipient.
    #[test]
    fn what_can_be_read_in_two_ways_is_written_anew() {
        for value in [
            "me@lan <a@x>",
            "<@r,@s:a@x>",
            "\"open <c@c>, a@x",
            "<a@x> c@c",
            "<c@c> <a@x>",
            "a@x(c@c",
            "a@x c@c",
            "root, a@x",
            "a@x <",
            "c@c: a@x",
            "a(x)@x",
        ] {
            let out = addressed(&format!("To: {value}\r\n"), &["a@x"]).unwrap();
            let (kept, own): (Vec<&str>, _) = out
                .lines()
                .partition(|line| line.starts_with("X-Gatepost-To: "));
            assert_eq!(kept, [format!("X-Gatepost-To: {value}")]);
            assert!(!own.concat().contains("c@c"), "{value}: {out}");
            assert!(own.concat().contains("<a@x>"), "{value}: {out}");
        }
    }

    proptest! {
        /// Another parser finds the envelope and nobody else, whatever stood there.
        #[test]
        fn any_header_comes_to_address_exactly_the_envelope(
            to in "[abc@x<>(),:;\"\\\\ ]{0,30}",
            cc in "([a-d]@x|[A-D]+ <[a-d]@x>|\"[ab,@]*\" <[a-d]@x>|[ab]: [cd]@x;)(, ?[a-d]@x){0,3}",
            recipients in proptest::sample::subsequence(vec!["a@x", "b@x", "c@x", "d@x"], 1..4),
        ) {
            let section = format!("Subject: s\r\nTo: {to}\r\nCc: {cc}\r\nX-Last: y\r\n");
            let out = addressed(&section, &recipients).unwrap_or(section);
            prop_assert!(out.starts_with("Subject: s\r\n") && out.contains("\r\nX-Last: y\r\n"));
            let parsed = mail_parser::MessageParser::default().parse(out.as_bytes()).unwrap();
            let mut found: Vec<String> = [parsed.to(), parsed.cc(), parsed.bcc()]
                .into_iter()
                .flatten()
                .flat_map(|list| list.iter())
                .filter_map(|one| one.address().map(str::to_ascii_lowercase))
                .collect();
            found.sort();
            found.dedup();
            prop_assert_eq!(found, recipients, "{}", out);
        }
    }
}
