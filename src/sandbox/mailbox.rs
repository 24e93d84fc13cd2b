//! What the practice mailboxes received: a ring of the newest messages, bounded in number and size.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;
use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::watch;

use super::Delivered;

/// Messages kept. A rehearsal of a few thousand messages can still be counted and compared.
const MESSAGES_MAX: usize = 10_000;

/// Octets kept. Two of the largest messages, or thousands of usual ones; the oldest go first.
const OCTETS_MAX: usize = 128 * 1024 * 1024;

/// The ring.
#[derive(Debug)]
pub(super) struct Mailbox {
    ring: Mutex<Ring>,
    /// How many were ever taken.
    taken: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct Ring {
    messages: VecDeque<Received>,
    octets: usize,
    taken: usize,
}

/// A message that was taken. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Received {
    /// 1 for the first ever taken.
    pub(super) number: usize,
    /// When it was taken.
    pub(super) at: Timestamp,
    /// By which way it came.
    pub(super) over: &'static str,
    /// The mailbox whose token was used.
    pub(super) mailbox: String,
    /// Reverse-path, without angle brackets.
    pub(super) sender: String,
    /// Forward-paths.
    pub(super) recipients: Vec<String>,
    /// After dot-unstuffing.
    pub(super) octets: Bytes,
}

/// A message as `/messages` shows it.
#[derive(Debug, Serialize)]
pub(super) struct Listed {
    /// Its number; `/messages/{number}.eml` gives the octets.
    number: usize,
    received_at: String,
    size: usize,
    #[serde(flatten)]
    delivered: Delivered,
}

impl Mailbox {
    pub(super) fn new() -> Self {
        Self {
            ring: Mutex::default(),
            taken: watch::Sender::new(0),
        }
    }

    /// Takes a message and tells those who wait for it. Its number is given here.
    pub(super) fn take(&self, mut received: Received) {
        let taken = {
            let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
            ring.taken += 1;
            received.number = ring.taken;
            ring.octets += received.octets.len();
            ring.messages.push_back(received);
            ring.trim();
            ring.taken
        };
        self.taken.send_replace(taken);
    }

    /// The messages kept that came after number `after`, oldest first, at most `limit`.
    pub(super) fn after(&self, after: usize, limit: usize) -> Vec<Received> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let newer = ring.messages.iter().filter(|m| m.number > after);
        newer.take(limit).cloned().collect()
    }

    /// The newest messages, newest first, at most `limit`.
    pub(super) fn newest(&self, limit: usize) -> Vec<Received> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.messages.iter().rev().take(limit).cloned().collect()
    }

    /// One message, if it is still kept.
    pub(super) fn read(&self, number: usize) -> Option<Received> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.messages.iter().find(|m| m.number == number).cloned()
    }

    /// How many were ever taken, kept or not.
    pub(super) fn taken(&self) -> usize {
        *self.taken.borrow()
    }

    /// Resolves when at least `count` were ever taken. Cancel safe.
    pub(super) async fn taken_at_least(&self, count: usize) {
        let mut taken = self.taken.subscribe();
        // The sender lives as long as `self`, so waiting cannot fail.
        if taken.wait_for(|taken| *taken >= count).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Ring {
    /// Drops the oldest until the bounds hold; the newest always stays.
    fn trim(&mut self) {
        while self.messages.len() > 1
            && (self.messages.len() > MESSAGES_MAX || self.octets > OCTETS_MAX)
        {
            if let Some(oldest) = self.messages.pop_front() {
                self.octets -= oldest.octets.len();
            }
        }
    }
}

impl Received {
    /// As the handle gives it.
    pub(super) fn delivered(&self) -> Delivered {
        Delivered {
            over: self.over.to_owned(),
            mailbox: self.mailbox.clone(),
            sender: self.sender.clone(),
            recipients: self.recipients.clone(),
            message: String::from_utf8_lossy(&self.octets).into_owned(),
        }
    }

    /// As `/messages` gives it.
    pub(super) fn listed(&self) -> Listed {
        Listed {
            number: self.number,
            received_at: self.at.to_string(),
            size: self.octets.len(),
            delivered: self.delivered(),
        }
    }

    /// The first field of that name, unfolded; nothing when there is none.
    pub(super) fn header(&self, name: &str) -> String {
        let text = String::from_utf8_lossy(&self.octets);
        let mut value: Option<String> = None;
        for line in text.split("\r\n").take_while(|line| !line.is_empty()) {
            let continues = line.starts_with([' ', '\t']);
            match (&mut value, continues) {
                (Some(value), true) => value.push_str(line),
                (Some(_), false) => break,
                (None, true) => {}
                (None, false) => {
                    value = line
                        .split_once(':')
                        .filter(|(field, _)| field.trim_end().eq_ignore_ascii_case(name))
                        .map(|(_, rest)| rest.to_owned());
                }
            }
        }
        value.map_or_else(String::new, |value| value.trim().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(octets: &'static [u8]) -> Received {
        Received {
            number: 0,
            at: Timestamp::UNIX_EPOCH,
            over: "smtp",
            mailbox: "a@example.com".to_owned(),
            sender: String::new(),
            recipients: vec!["b@example.com".to_owned()],
            octets: Bytes::from_static(octets),
        }
    }

    #[test]
    fn the_oldest_go_first_and_the_count_goes_on() {
        let mailbox = Mailbox::new();
        for _ in 0..MESSAGES_MAX + 3 {
            mailbox.take(message(b"x"));
        }
        assert_eq!(mailbox.taken(), MESSAGES_MAX + 3);
        assert_eq!(mailbox.after(0, usize::MAX).len(), MESSAGES_MAX);
        assert!(mailbox.read(3).is_none());
        assert_eq!(mailbox.newest(1)[0].number, MESSAGES_MAX + 3);
    }

    #[test]
    fn octets_are_bounded_but_the_newest_message_is_always_there() {
        let mailbox = Mailbox::new();
        mailbox.take(message(b"small"));
        let mut large = message(b"");
        large.octets = Bytes::from(vec![b'x'; OCTETS_MAX + 1]);
        mailbox.take(large);
        let kept: Vec<usize> = mailbox.after(0, 9).iter().map(|m| m.number).collect();
        assert_eq!(kept, [2]);
    }

    #[tokio::test]
    async fn who_waits_for_a_message_is_told() {
        let mailbox = Mailbox::new();
        let (waited, ()) = tokio::join!(mailbox.taken_at_least(2), async {
            mailbox.take(message(b"1"));
            mailbox.take(message(b"2"));
        });
        assert_eq!((waited, mailbox.taken()), ((), 2));
    }

    #[test]
    fn a_header_field_is_found_unfolded_and_not_in_the_body() {
        let folded = message(b"From: a\r\nsubject: one\r\n two\r\nTo: b\r\n\r\nX-In: body\r\n");
        assert_eq!(folded.header("Subject"), "one two");
        assert_eq!(folded.header("X-In"), "");
    }
}
