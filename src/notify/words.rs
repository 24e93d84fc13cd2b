//! A notice as it is written down: JSON for programs, text for people. Pure.

use serde::Serialize;

use super::{Event, Notice};
use crate::{dsn, mail::Address};

/// Whose daemon speaks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sender<'a> {
    /// Its host name.
    pub(super) hostname: &'a str,
}

#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    notice: &'a Notice,
    host: &'a str,
    version: &'static str,
    /// All of it in one text: what chat services show of a webhook.
    text: String,
}

/// The JSON that webhooks and commands are given.
pub(super) fn json(notice: &Notice, sender: Sender<'_>) -> Vec<u8> {
    let document = Document {
        notice,
        host: sender.hostname,
        version: env!("CARGO_PKG_VERSION"),
        text: text(notice, sender),
    };
    // A struct of texts and times always has a JSON form.
    serde_json::to_vec(&document).unwrap_or_default()
}

/// For people: what is wrong, why, what to do.
pub(super) fn text(notice: &Notice, sender: Sender<'_>) -> String {
    let mut text = format!("{}\n\n", subject(notice, sender));
    let what = match notice.event {
        Event::Recovered => "What was wrong",
        Event::Problem | Event::Reminder | Event::Test => "What is wrong",
    };
    text.push_str(&format!("{what}: {}\n", notice.reason));
    if !notice.remedy.is_empty() {
        text.push_str(&format!("What to do: {}\n", notice.remedy));
    }
    text.push_str(&format!("Since: {:.0}\n", notice.since));
    text
}

fn subject(notice: &Notice, sender: Sender<'_>) -> String {
    let again = match notice.event {
        Event::Reminder => "still: ",
        Event::Problem | Event::Recovered | Event::Test => "",
    };
    format!("[gatepost {}] {again}{}", sender.hostname, notice.title)
}

/// The notice as a message: ASCII, CRLF line endings. It names itself automatic, so that no
/// vacation responder answers it (RFC 3834).
pub fn letter(notice: &Notice, id: &str, from: &str, to: &Address, hostname: &str) -> Vec<u8> {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let sender = Sender { hostname };
    let date = dsn::date(notice.at);
    let subject = encoded_subject(&subject(notice, sender));
    let mut message = format!(
        "From: Gatepost <{from}>\r\n\
         To: <{to}>\r\n\
         Subject: {subject}\r\n\
         Date: {date}\r\n\
         Message-ID: <{id}@{hostname}>\r\n\
         Auto-Submitted: auto-generated\r\n\
         MIME-Version: 1.0\r\n\
         Content-Type: text/plain; charset=utf-8\r\n\
         Content-Transfer-Encoding: base64\r\n\r\n"
    );
    let body = STANDARD.encode(text(notice, sender).replace('\n', "\r\n"));
    // Base 64 is ASCII: every cut is between characters.
    for line in body.as_bytes().chunks(LINE_LEN) {
        message.push_str(&String::from_utf8_lossy(line));
        message.push_str("\r\n");
    }
    message.into_bytes()
}

/// A subject for any mail program: what quotes a provider may hold anything (RFC 2047).
fn encoded_subject(subject: &str) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let subject: String = subject
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(SUBJECT_LEN_MAX)
        .collect();
    if subject.is_ascii() {
        return subject;
    }
    let mut words = Vec::new();
    let mut word = String::new();
    for c in subject.chars() {
        if word.len() + c.len_utf8() > WORD_LEN_MAX {
            words.push(std::mem::take(&mut word));
        }
        word.push(c);
    }
    words.push(word);
    let words = words
        .iter()
        .map(|word| format!("=?utf-8?B?{}?=", STANDARD.encode(word)));
    words.collect::<Vec<_>>().join("\r\n ")
}

/// The text with every mail address replaced: notices leave the house.
pub(super) fn without_addresses(text: &str) -> String {
    let is_around = |c: char| c.is_whitespace() || "<>()[]\"'`,;:".contains(c);
    let mut shown = String::with_capacity(text.len());
    let mut word = String::new();
    for c in text.chars() {
        if is_around(c) {
            shown.push_str(hidden(&word));
            word.clear();
            shown.push(c);
        } else {
            word.push(c);
        }
    }
    shown.push_str(hidden(&word));
    shown
}

fn hidden(word: &str) -> &str {
    let is_address = word
        .split_once('@')
        .is_some_and(|(local, domain)| !local.is_empty() && !domain.is_empty());
    if is_address { "(address)" } else { word }
}

/// RFC 2045 §6.8.
const LINE_LEN: usize = 76;
/// So that an encoded word stays within 75 octets (RFC 2047 §2).
const WORD_LEN_MAX: usize = 42;
/// One line that a person reads; well under the 998 of RFC 5322 §2.1.1.
const SUBJECT_LEN_MAX: usize = 200;

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::notify::{Kind, Severity};

    fn notice() -> Notice {
        Notice {
            event: Event::Reminder,
            kind: Kind::AccountHeld,
            severity: Severity::Error,
            account: Some(crate::mail::AccountName::new("alerts")),
            title: "account alerts is on hold, its mail waits".to_owned(),
            reason: "the provider refuses: 535 \u{e4}".to_owned(),
            remedy: "sign in".to_owned(),
            since: Timestamp::UNIX_EPOCH,
            at: Timestamp::UNIX_EPOCH,
        }
    }

    const SENDER: Sender<'_> = Sender {
        hostname: "relay.example.com",
    };

    #[test]
    fn the_json_is_the_contract() {
        let json: serde_json::Value = serde_json::from_slice(&json(&notice(), SENDER)).unwrap();
        let wanted = serde_json::json!({
            "event": "reminder", "kind": "account_held", "severity": "error", "account": "alerts",
            "title": "account alerts is on hold, its mail waits",
            "reason": "the provider refuses: 535 \u{e4}", "remedy": "sign in",
            "since": "1970-01-01T00:00:00Z", "at": "1970-01-01T00:00:00Z",
            "host": "relay.example.com", "version": env!("CARGO_PKG_VERSION"),
            "text": "[gatepost relay.example.com] still: account alerts is on hold, its mail waits\n\n\
                     What is wrong: the provider refuses: 535 \u{e4}\nWhat to do: sign in\n\
                     Since: 1970-01-01T00:00:00Z\n",
        });
        assert_eq!(json, wanted);
    }

    #[test]
    fn a_letter_is_read_back_by_another_parser() {
        let to = Address::parse("ops@example.com").unwrap();
        let mut notice = notice();
        notice.title = format!(
            "account \u{e4}\r\nBcc: x@example.com {}",
            "long ".repeat(60)
        );
        let octets = letter(
            &notice,
            "0000000000000",
            "a@example.com",
            &to,
            "relay.example.com",
        );
        assert!(octets.is_ascii());
        let lines = octets.split(|octet| *octet == b'\n');
        assert!(lines.clone().all(|line| line.len() <= 998));
        let message = mail_parser::MessageParser::default()
            .parse(&octets)
            .unwrap();
        assert!(message.bcc().is_none(), "a title adds no header");
        assert!(message.subject().unwrap().contains("still: account \u{e4}"));
        assert!(message.body_text(0).unwrap().contains("535 \u{e4}"));
        assert!(message.date().is_some());
    }

    #[test]
    fn addresses_are_taken_out_and_nothing_else() {
        for (text, wanted) in [
            (
                "signed in as bob@example.com, not",
                "signed in as (address), not",
            ),
            ("<bob@example.com>: 550", "<(address)>: 550"),
            ("\u{fc}@m\u{fc}ller.example", "(address)"),
            ("at @ noon, a@ b", "at @ noon, a@ b"),
            ("gatepost login alerts", "gatepost login alerts"),
            ("", ""),
        ] {
            assert_eq!(without_addresses(text), wanted);
        }
    }
}
