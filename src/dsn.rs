//! Delivery status notifications (RFC 3464 in RFC 6522 multipart/report). Pure.
//!
//! What a server said is quoted without control characters and bounded: a reply can add neither a
//! header nor a part. Everything travels as ASCII, also to a server without 8BITMIME and SMTPUTF8: a
//! recipient in another script is written as RFC 6533 §3 does where that is needed. Only a sender in
//! another script gets an internationalised report, and only a whole message its own 8-bit data.

use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;

use crate::mail::{Address, EnhancedCode, Reply};

/// Everything a report says.
#[derive(Debug)]
pub struct Report<'a> {
    /// What it is about.
    pub kind: Kind,
    /// Names the report: its Message-ID and its boundary. Made after the message it is about and
    /// never told before, so nothing quoted can hold it.
    pub id: &'a str,
    /// Our name: Reporting-MTA.
    pub reporting_mta: &'a str,
    /// The mailbox it comes from.
    pub from: &'a str,
    /// Who is told.
    pub to: &'a Address,
    /// When it is written.
    pub date: Timestamp,
    /// When the message was accepted.
    pub arrival: Timestamp,
    /// Names the message here.
    pub queue_id: &'a str,
    /// `ENVID=`, in xtext.
    pub envid: Option<&'a str>,
    /// The recipients it is about; never empty.
    pub recipients: Vec<Recipient<'a>>,
    /// What is returned of the message.
    pub original: Original<'a>,
}

/// What a report is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Given up.
    Failed,
    /// Late, still being tried.
    Delayed,
    /// Handed to a server that does not report (RFC 3461 §5.2.2).
    Relayed,
}

/// One recipient of a report.
#[derive(Debug)]
pub struct Recipient<'a> {
    /// The mailbox.
    pub address: &'a Address,
    /// `ORCPT=`, its type and the rest in xtext.
    pub orcpt: Option<&'a str>,
    /// The last reply about it.
    pub reply: Option<&'a Reply>,
    /// Who said so.
    pub remote: &'a str,
    /// What happened, in plain words, without what an operator would do about it.
    pub reason: &'a str,
    /// Whether its time was up, rather than refused.
    pub expired: bool,
}

/// What is returned of the message.
#[derive(Debug)]
pub enum Original<'a> {
    /// All of it.
    Full(&'a [u8]),
    /// Its header section.
    Headers(&'a [u8]),
}

impl Report<'_> {
    /// Whether the report needs SMTPUTF8 to travel.
    #[must_use]
    pub fn is_international(&self) -> bool {
        !self.to.is_ascii()
    }

    /// The report as a message: CRLF line endings, a final CRLF.
    #[must_use]
    pub fn to_message(&self) -> Vec<u8> {
        let boundary = format!("=_{}", self.id);
        let mut text = format!("--{boundary}\r\n");
        let told = self.explanation();
        let encoding = self.part_encoding(told.as_bytes());
        text.push_str(&format!(
            "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n"
        ));
        let mut parts = text.into_bytes();
        push_encoded(&mut parts, told.as_bytes(), encoding);
        let mut text = format!("\r\n--{boundary}\r\n");
        self.fields(&mut text);
        text.push_str(&format!("\r\n--{boundary}\r\n"));
        parts.extend_from_slice(text.as_bytes());
        self.returned(&mut parts);
        parts.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        let mut text = String::new();
        self.head(&mut text, &boundary, parts.is_ascii());
        let mut message = text.into_bytes();
        message.append(&mut parts);
        message
    }

    /// How a part of text travels.
    fn part_encoding(&self, octets: &[u8]) -> &'static str {
        match (octets.is_ascii(), self.is_international()) {
            (true, _) => "7bit",
            (false, true) => "8bit",
            (false, false) => "base64",
        }
    }

    fn head(&self, out: &mut String, boundary: &str, is_ascii: bool) {
        let encoding = if is_ascii { "7bit" } else { "8bit" };
        let subject = match self.kind {
            Kind::Failed => "Undelivered mail returned to sender",
            Kind::Delayed => "Delayed mail (still being tried)",
            Kind::Relayed => "Mail handed on",
        };
        let from = one_line(self.from);
        out.push_str(&format!(
            "From: Mail Delivery System <{from}>\r\n\
             To: <{to}>\r\n\
             Subject: {subject}\r\n\
             Date: {date}\r\n\
             Message-ID: <{id}@{host}>\r\n\
             Auto-Submitted: auto-replied\r\n\
             MIME-Version: 1.0\r\n\
             Content-Type: multipart/report; report-type=delivery-status;\r\n\
             \tboundary=\"{boundary}\"\r\n\
             Content-Transfer-Encoding: {encoding}\r\n\
             \r\n\
             This is a delivery status notification in MIME format (RFC 3464).\r\n\
             \r\n",
            to = self.to,
            date = date(self.date),
            id = self.id,
            host = one_line(self.reporting_mta),
        ));
    }

    /// The part for people.
    fn explanation(&self) -> String {
        let mut text = String::new();
        let out = &mut text;
        let (what, after) = match self.kind {
            Kind::Failed => (
                "Your message could not be delivered to the recipients below. It will not be tried again.",
                "",
            ),
            Kind::Delayed => (
                "Your message has not been delivered to the recipients below yet. It is still being tried: you need not send it again.",
                "You will be told if it fails.",
            ),
            Kind::Relayed => (
                "Your message was handed to the mail server of the recipients below, which does not report further.",
                "",
            ),
        };
        let host = one_line(self.reporting_mta);
        wrap(out, "", &format!("This is the mail relay {host}."));
        out.push_str("\r\n");
        wrap(out, "", what);
        for recipient in &self.recipients {
            out.push_str(&format!("\r\n<{}>\r\n", recipient.address));
            wrap(out, "    ", &one_line(recipient.reason));
            if let Some(reply) = recipient.reply {
                let said = format!("{} said: {}", one_line(recipient.remote), quoted(reply));
                wrap(out, "    ", &said);
            }
        }
        out.push_str("\r\n");
        if !after.is_empty() {
            wrap(out, "", after);
        }
        out.push_str(&format!(
            "Accepted {} as {}.\r\n",
            date(self.arrival),
            self.queue_id
        ));
        text
    }

    /// The part for programs (RFC 3464 §2).
    fn fields(&self, out: &mut String) {
        let (kind, encoding) = if self.is_international() {
            ("message/global-delivery-status", "8bit")
        } else {
            ("message/delivery-status", "7bit")
        };
        out.push_str(&format!(
            "Content-Type: {kind}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n"
        ));
        let host = one_line(self.reporting_mta);
        field(out, "Reporting-MTA", &format!("dns; {host}"));
        if let Some(envid) = self.envid {
            field(out, "Original-Envelope-Id", &xtext(envid));
        }
        field(out, "Arrival-Date", &date(self.arrival));
        for recipient in &self.recipients {
            out.push_str("\r\n");
            self.recipient_fields(out, recipient);
        }
    }

    fn recipient_fields(&self, out: &mut String, recipient: &Recipient<'_>) {
        if let Some((kind, address)) = recipient.orcpt.and_then(|o| o.split_once(';')) {
            let value = format!("{}; {}", xtext(kind), xtext(address));
            field(out, "Original-Recipient", &value);
        }
        let kind = if recipient.address.is_ascii() {
            "rfc822"
        } else {
            "utf-8"
        };
        let address = recipient.address.to_string();
        let address = if self.is_international() {
            address
        } else {
            in_ascii(&address)
        };
        field(out, "Final-Recipient", &format!("{kind}; {address}"));
        let action = match self.kind {
            Kind::Failed => "failed",
            Kind::Delayed => "delayed",
            Kind::Relayed => "relayed",
        };
        field(out, "Action", action);
        field(out, "Status", &self.status(recipient).to_string());
        if let Some(reply) = recipient.reply {
            field(
                out,
                "Remote-MTA",
                &format!("dns; {}", one_line(recipient.remote)),
            );
            let said: String = quoted(reply)
                .chars()
                .map(|c| if c.is_ascii() { c } else { '?' })
                .collect();
            field(out, "Diagnostic-Code", &format!("smtp; {said}"));
        }
        field(out, "Last-Attempt-Date", &date(self.date));
    }

    /// The reply's own code where it says the same as the action, else the general one.
    fn status(&self, recipient: &Recipient<'_>) -> EnhancedCode {
        let (class, general) = match self.kind {
            // RFC 3463 §3.5: delivery time expired.
            Kind::Failed if recipient.expired => return EnhancedCode(4, 4, 7),
            Kind::Failed => (5, EnhancedCode(5, 0, 0)),
            Kind::Delayed => (4, EnhancedCode(4, 0, 0)),
            Kind::Relayed => (2, EnhancedCode(2, 0, 0)),
        };
        let said = recipient.reply.and_then(|reply| reply.enhanced);
        said.filter(|code| code.0 == class).unwrap_or(general)
    }

    fn returned(&self, out: &mut Vec<u8>) {
        let international = self.is_international();
        let (kind, octets) = match self.original {
            Original::Full(octets) if international => ("message/global", octets),
            Original::Full(octets) => ("message/rfc822", octets),
            Original::Headers(octets) if international => ("message/global-headers", octets),
            Original::Headers(octets) => ("text/rfc822-headers; charset=utf-8", octets),
        };
        let encoding = match self.original {
            // RFC 2046 §5.2.1: a message in a message is not encoded.
            Original::Full(octets) if !octets.is_ascii() => "8bit",
            Original::Full(_) => "7bit",
            Original::Headers(octets) => self.part_encoding(octets),
        };
        let head = format!("Content-Type: {kind}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n");
        out.extend_from_slice(head.as_bytes());
        push_encoded(out, octets, encoding);
    }
}

/// The header section of a message, with its last CRLF, without the empty line.
#[must_use]
pub fn header_section(message: &[u8]) -> &[u8] {
    let end = memchr::memmem::find(message, b"\r\n\r\n").map_or(message.len(), |at| at + 2);
    message.get(..end).unwrap_or(message)
}

/// An address in ASCII (utf-8-addr-xtext, RFC 6533 §3).
fn in_ascii(address: &str) -> String {
    let mut out = String::new();
    for c in address.chars() {
        if c.is_ascii() {
            out.push(c);
        } else {
            out.push_str(&format!("\\x{{{:X}}}", u32::from(c)));
        }
    }
    out
}

/// The octets as this transfer encoding writes them.
fn push_encoded(out: &mut Vec<u8>, octets: &[u8], encoding: &str) {
    if encoding != "base64" {
        out.extend_from_slice(octets);
        return;
    }
    for line in octets.chunks(BASE64_LINE) {
        out.extend_from_slice(STANDARD.encode(line).as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

/// A date as RFC 5322 §3.3 writes it, in UTC.
pub(crate) fn date(at: Timestamp) -> String {
    jiff::fmt::rfc2822::to_string(&at.to_zoned_datetime(jiff::tz::TimeZone::UTC))
        .unwrap_or_default()
}

/// A reply as it may be quoted: one line, bounded. An encoded word (RFC 2047) would be decoded by a
/// reader of the fields into a text that was never checked, so it is broken open.
fn quoted(reply: &Reply) -> String {
    one_line(&reply.to_string()).replace("=?", "= ?")
}

fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(QUOTED_MAX)
        .collect()
}

/// xtext decoded (RFC 3461 §4), as far as it is printable ASCII.
fn xtext(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((plain, after)) = rest.split_once('+') {
        out.push_str(plain);
        let octet = after
            .get(..2)
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match octet {
            Some(octet) => {
                out.push(char::from(octet));
                rest = after.get(2..).unwrap_or_default();
            }
            None => rest = after,
        }
    }
    out.push_str(rest);
    out.retain(|c| matches!(c, ' '..='~'));
    out.truncate(QUOTED_MAX);
    out
}

/// A header field, folded at spaces; a word longer than a line may be is cut.
fn field(out: &mut String, name: &str, value: &str) {
    out.push_str(name);
    out.push(':');
    let mut column = name.len() + 1;
    for word in value.split_ascii_whitespace() {
        if column + 1 + word.len() > LINE_WIDTH && column > name.len() + 1 {
            out.push_str("\r\n");
            column = 0;
        }
        out.push(' ');
        let word: String = word.chars().take(WORD_MAX).collect();
        out.push_str(&word);
        column += 1 + word.len();
    }
    out.push_str("\r\n");
}

/// A paragraph of the part for people.
fn wrap(out: &mut String, indent: &str, text: &str) {
    let mut column = 0;
    for word in text.split_whitespace() {
        let word: String = word.chars().take(WORD_MAX).collect();
        let width = word.chars().count();
        if column == 0 {
            out.push_str(indent);
            column = indent.len();
        } else if column + 1 + width > LINE_WIDTH {
            out.push_str("\r\n");
            out.push_str(indent);
            column = indent.len();
        } else {
            out.push(' ');
            column += 1;
        }
        out.push_str(&word);
        column += width;
    }
    out.push_str("\r\n");
}

/// RFC 5322 §2.1.1.
const LINE_WIDTH: usize = 76;
/// Octets that make a line of 76 in base64 (RFC 2045 §6.8).
const BASE64_LINE: usize = 57;
/// In UTF-8 still within the 998 octets of a line.
const WORD_MAX: usize = 240;
/// Characters quoted of what a server said.
const QUOTED_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use mail_parser::{MessageParser, MimeHeaders, PartType};

    use super::*;

    fn report<'a>(kind: Kind, recipients: Vec<Recipient<'a>>, to: &'a Address) -> Report<'a> {
        Report {
            kind,
            id: "0abc",
            reporting_mta: "relay.example",
            from: "alerts@contoso.example",
            to,
            date: Timestamp::from_second(1_800_000_000).expect("valid"),
            arrival: Timestamp::from_second(1_799_990_000).expect("valid"),
            queue_id: "0xyz",
            envid: Some("id+2B1"),
            recipients,
            original: Original::Headers(b"From: app@contoso.example\r\nSubject: x\r\n"),
        }
    }

    fn recipient<'a>(address: &'a Address, reply: Option<&'a Reply>) -> Recipient<'a> {
        Recipient {
            address,
            orcpt: Some("rfc822;orig+40x.example"),
            reply,
            remote: "smtp.example",
            reason: "there is no such recipient",
            expired: false,
        }
    }

    fn address(text: &str) -> Address {
        Address::parse(text).expect("valid")
    }

    /// Content type and text of each part.
    fn parts(message: &[u8]) -> Vec<(String, String)> {
        let parsed = MessageParser::default().parse(message).expect("a message");
        let root = parsed.content_type().expect("a type");
        assert_eq!(root.ctype(), "multipart");
        assert_eq!(root.subtype(), Some("report"));
        assert_eq!(root.attribute("report-type"), Some("delivery-status"));
        let children = parsed
            .parts
            .iter()
            .filter(|part| !matches!(part.body, PartType::Multipart(_)));
        children
            .map(|part| {
                let kind = part.content_type().expect("a type");
                let start = usize::try_from(part.raw_body_offset()).expect("fits");
                let end = usize::try_from(part.raw_end_offset()).expect("fits");
                (
                    format!("{}/{}", kind.ctype(), kind.subtype().unwrap_or_default()),
                    String::from_utf8_lossy(&message[start..end]).into_owned(),
                )
            })
            .collect()
    }

    #[test]
    fn a_failure_report_says_it_to_people_and_to_programs() {
        let (to, gone) = (address("app@contoso.example"), address("gone@x.example"));
        let reply = Reply::new(550, Some(EnhancedCode(5, 1, 1)), "no such user");
        let message = report(Kind::Failed, vec![recipient(&gone, Some(&reply))], &to).to_message();
        let parts = parts(&message);
        let kinds: Vec<_> = parts.iter().map(|(kind, _)| kind.as_str()).collect();
        assert_eq!(
            kinds,
            [
                "text/plain",
                "message/delivery-status",
                "text/rfc822-headers"
            ]
        );
        assert!(parts[0].1.contains("there is no such recipient"));
        assert!(
            parts[0]
                .1
                .contains("smtp.example said: 550 5.1.1 no such user")
        );
        assert_eq!(
            parts[1].1.trim_end(),
            "Reporting-MTA: dns; relay.example\r\n\
             Original-Envelope-Id: id+1\r\n\
             Arrival-Date: Fri, 15 Jan 2027 05:13:20 +0000\r\n\
             \r\n\
             Original-Recipient: rfc822; orig@x.example\r\n\
             Final-Recipient: rfc822; gone@x.example\r\n\
             Action: failed\r\n\
             Status: 5.1.1\r\n\
             Remote-MTA: dns; smtp.example\r\n\
             Diagnostic-Code: smtp; 550 5.1.1 no such user\r\n\
             Last-Attempt-Date: Fri, 15 Jan 2027 08:00:00 +0000"
        );
        assert_eq!(
            parts[2].1.trim_end(),
            "From: app@contoso.example\r\nSubject: x"
        );
        let text = String::from_utf8(message).expect("text");
        assert!(text.contains("\r\nAuto-Submitted: auto-replied\r\n"));
        assert!(text.starts_with("From: Mail Delivery System <alerts@contoso.example>\r\n"));
        assert!(text.ends_with("--\r\n"));
    }

    #[test]
    fn the_status_says_what_the_action_says() {
        let (to, rcpt) = (address("a@b.example"), address("c@d.example"));
        let busy = Reply::new(451, Some(EnhancedCode(4, 3, 0)), "busy");
        let no_code = Reply::new(550, None, "no");
        for (kind, reply, expired, status) in [
            (Kind::Failed, Some(&no_code), false, "5.0.0"),
            (Kind::Failed, Some(&busy), true, "4.4.7"),
            (Kind::Failed, None, true, "4.4.7"),
            (Kind::Delayed, Some(&busy), false, "4.3.0"),
            (Kind::Delayed, Some(&no_code), false, "4.0.0"),
            (Kind::Relayed, None, false, "2.0.0"),
        ] {
            let one = Recipient {
                expired,
                ..recipient(&rcpt, reply)
            };
            let message = report(kind, vec![one], &to).to_message();
            let wanted = format!("\r\nStatus: {status}\r\n");
            assert!(parts(&message)[1].1.contains(&wanted), "{kind:?} {status}");
        }
    }

    #[test]
    fn a_server_cannot_write_into_the_report() {
        let (to, rcpt) = (address("a@b.example"), address("c@d.example"));
        let evil = Reply::new(
            550,
            None,
            format!(
                "no\r\n\r\n--=_guess--\r\nX: y\x00 =?utf-8?q?=0D=0AX:?= {}",
                "\u{e9} very long".repeat(500)
            ),
        );
        let message = report(Kind::Failed, vec![recipient(&rcpt, Some(&evil))], &to).to_message();
        assert_eq!(parts(&message).len(), 3);
        assert!(message.is_ascii(), "it travels everywhere");
        let text = String::from_utf8(message).expect("text");
        assert!(!text.contains("\r\nX: y"));
        assert!(!text.contains("=?"), "nothing is left to decode");
        assert!(text.len() < 8000);
        assert!(text.split("\r\n").all(|line| line.len() <= 998));
        assert!(!text.replace("\r\n", "").contains(['\r', '\n', '\0']));
        let fields = &parts(text.as_bytes())[1].1;
        assert!(fields.is_ascii());
    }

    #[test]
    fn a_recipient_in_another_script_is_told_in_ascii() {
        let (to, rcpt) = (address("a@b.example"), address("jürgen@d.example"));
        let mut report = report(Kind::Failed, vec![recipient(&rcpt, None)], &to);
        report.original = Original::Headers("Subject: grün\r\n".as_bytes());
        assert!(!report.is_international());
        let message = report.to_message();
        assert!(message.is_ascii());
        let parts = parts(&message);
        assert_eq!(parts[1].0, "message/delivery-status");
        let final_recipient = "Final-Recipient: utf-8; j\\x{FC}rgen@d.example\r\n";
        assert!(parts[1].1.contains(final_recipient), "{}", parts[1].1);
        let parsed = MessageParser::default().parse(&message).expect("a message");
        let text = parsed.body_text(0).expect("a text");
        assert!(text.contains("<jürgen@d.example>"), "{text}");
        let headers = parsed.parts.last().and_then(|part| part.text_contents());
        assert_eq!(headers.map(str::trim), Some("Subject: grün"));
    }

    #[test]
    fn a_sender_in_another_script_gets_an_international_report() {
        let (to, rcpt) = (address("jürgen@b.example"), address("jürgen@d.example"));
        let report = report(Kind::Failed, vec![recipient(&rcpt, None)], &to);
        assert!(report.is_international());
        let parts = parts(&report.to_message());
        assert_eq!(parts[1].0, "message/global-delivery-status");
        assert!(
            parts[1]
                .1
                .contains("Final-Recipient: utf-8; jürgen@d.example\r\n")
        );
        assert_eq!(parts[2].0, "message/global-headers");
    }

    #[test]
    fn header_section_ends_before_the_body() {
        assert_eq!(
            header_section(b"A: b\r\nC: d\r\n\r\nbody"),
            b"A: b\r\nC: d\r\n"
        );
        assert_eq!(header_section(b"no body"), b"no body");
    }
}
