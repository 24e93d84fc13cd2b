//! Who has connected lately, what came of it, and why what they tried was refused: what an
//! administrator needs to see which device fails, and which line of the configuration helps it.
//!
//! Kept in memory and forgotten at a restart: it is for the hour in which somebody sets a device up,
//! and a row written for each connection would let strangers write to the disk. Everything is
//! bounded, and the oldest goes. Of what a client said, only names and addresses are kept: never a
//! line it sent, never a login name that is not configured (people type passwords there).

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Rows in all. A row is 1 to 4 KiB, so the table stays below 2 MiB; an office has fewer devices.
const ROWS_MAX: usize = 500;
/// Of these, rows of peers that were never let in: who scans a network must not drive out those whom
/// the table is for.
const STRANGERS_MAX: usize = 100;
/// Rows of one address: a client that calls itself another name each time has so many.
const ROWS_PER_ADDRESS_MAX: usize = 20;
/// Different senders of a row.
const SENDERS_MAX: usize = 8;
/// Different refusals of a row.
const REFUSALS_MAX: usize = 8;
/// Of a greeting's name.
const NAME_LEN_MAX: usize = 64;

/// A client as it was seen lately: one object of `gatepost clients --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientSeen {
    /// Its IP address, or `unix`.
    pub address: String,
    /// The listener it came to last.
    pub listener: String,
    /// What it called itself in EHLO or HELO.
    pub helo: Option<String>,
    /// What it logged in as.
    pub login: Option<String>,
    /// Whether its last session was under TLS.
    pub tls: bool,
    /// When it was first seen, since the daemon started.
    pub first_seen_at: Timestamp,
    /// When it was seen last.
    pub last_seen_at: Timestamp,
    /// When the last message was accepted; what was refused before is over.
    pub last_message_at: Option<Timestamp>,
    /// Sessions.
    pub sessions: u64,
    /// Messages that were accepted.
    pub messages: u64,
    /// Octets of these.
    pub octets: u64,
    /// Its latest different reverse-paths; `<>`: the null one.
    pub senders: Vec<String>,
    /// What it was refused, the latest last.
    pub refusals: Vec<Refusal>,
}

/// Something a client was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What it read; empty where nothing could be said.
    pub reply: String,
    /// Why, in plain words.
    pub reason: String,
    /// What to do about it: in the device, or the lines of the configuration.
    pub remedy: Option<String>,
    /// How often.
    pub count: u64,
    /// When last.
    pub last_at: Timestamp,
}

/// Whom a row is about. Several programs share an address (this machine's, behind a NAT), so the name
/// tells them apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Who {
    pub(super) address: Option<IpAddr>,
    pub(super) helo: Option<String>,
    pub(super) login: Option<String>,
}

/// Where and how it came.
#[derive(Debug, Clone, Copy)]
pub(super) struct Visit<'a> {
    pub(super) listener: &'a str,
    pub(super) tls: bool,
    pub(super) at: Timestamp,
    /// Whether this is the first that is told of its session.
    pub(super) is_new: bool,
}

/// What happened.
#[derive(Debug)]
pub(super) enum Event {
    /// Nothing but the session itself.
    Session,
    /// A message was accepted.
    Message { sender: String, octets: u64 },
    /// Something was refused to a client.
    Refused(Explained),
    /// A peer was turned away at the door.
    TurnedAway(Explained),
}

/// A refusal, explained to the operator.
#[derive(Debug)]
pub(super) struct Explained {
    pub(super) reply: String,
    pub(super) reason: String,
    pub(super) remedy: Option<String>,
}

/// The table.
#[derive(Debug, Default)]
pub(super) struct Seen {
    rows: Mutex<HashMap<Who, Row>>,
}

#[derive(Debug)]
struct Row {
    /// Whether it was ever let in.
    admitted: bool,
    client: ClientSeen,
}

impl Seen {
    /// Notes what happened.
    pub(super) fn note(&self, mut who: Who, visit: Visit<'_>, event: Event) {
        who.helo = who
            .helo
            .map(|helo| helo.chars().take(NAME_LEN_MAX).collect());
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        if !rows.contains_key(&who) {
            let stranger = matches!(event, Event::TurnedAway(_));
            make_room(&mut rows, &who, stranger);
        }
        let row = rows
            .entry(who)
            .or_insert_with_key(|who| Row::new(who, visit));
        row.note(visit, event);
    }

    /// Every row, who was seen last first.
    pub(super) fn list(&self) -> Vec<ClientSeen> {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let mut list: Vec<ClientSeen> = rows.values().map(|row| row.client.clone()).collect();
        drop(rows);
        list.sort_by(|a, b| {
            let newest = b.last_seen_at.cmp(&a.last_seen_at);
            newest.then_with(|| (&a.address, &a.helo).cmp(&(&b.address, &b.helo)))
        });
        list
    }
}

/// Takes the oldest row out of whatever is full for a newcomer.
fn make_room(rows: &mut HashMap<Who, Row>, newcomer: &Who, is_stranger: bool) {
    let of_address = |who: &Who, _: &Row| who.address == newcomer.address;
    let strangers = |_: &Who, row: &Row| !row.admitted;
    let all = |_: &Who, _: &Row| true;
    remove_oldest(rows, ROWS_PER_ADDRESS_MAX, of_address);
    if is_stranger {
        remove_oldest(rows, STRANGERS_MAX, strangers);
    }
    remove_oldest(rows, ROWS_MAX, all);
}

fn remove_oldest(rows: &mut HashMap<Who, Row>, max: usize, of: impl Fn(&Who, &Row) -> bool) {
    let some = rows.iter().filter(|(who, row)| of(who, row));
    if some.clone().count() < max {
        return;
    }
    let oldest = some.min_by_key(|(_, row)| row.client.last_seen_at);
    if let Some(who) = oldest.map(|(who, _)| who.clone()) {
        rows.remove(&who);
    }
}

impl Row {
    fn new(who: &Who, visit: Visit<'_>) -> Self {
        let address = who.address.map(|address| address.to_string());
        Self {
            admitted: false,
            client: ClientSeen {
                address: address.unwrap_or_else(|| "unix".to_owned()),
                listener: visit.listener.to_owned(),
                helo: who.helo.clone(),
                login: who.login.clone(),
                tls: visit.tls,
                first_seen_at: visit.at,
                last_seen_at: visit.at,
                last_message_at: None,
                sessions: 0,
                messages: 0,
                octets: 0,
                senders: Vec::new(),
                refusals: Vec::new(),
            },
        }
    }

    fn note(&mut self, visit: Visit<'_>, event: Event) {
        let client = &mut self.client;
        if client.listener != visit.listener {
            visit.listener.clone_into(&mut client.listener);
        }
        client.tls = visit.tls;
        client.last_seen_at = visit.at;
        self.admitted |= !matches!(event, Event::TurnedAway(_));
        client.sessions += u64::from(visit.is_new);
        match event {
            Event::Session => (),
            Event::Message { sender, octets } => {
                client.messages += 1;
                client.last_message_at = Some(visit.at);
                client.octets = client.octets.saturating_add(octets);
                remember(&mut client.senders, SENDERS_MAX, sender, |a, b| a == b);
            }
            Event::Refused(explained) | Event::TurnedAway(explained) => {
                refuse(&mut client.refusals, explained, visit.at);
            }
        }
    }
}

fn refuse(refusals: &mut Vec<Refusal>, explained: Explained, at: Timestamp) {
    let same = |one: &Refusal| one.reply == explained.reply && one.reason == explained.reason;
    let before = refusals
        .iter()
        .find(|one| same(one))
        .map_or(0, |one| one.count);
    let refusal = Refusal {
        reply: explained.reply,
        reason: explained.reason,
        remedy: explained.remedy,
        count: before + 1,
        last_at: at,
    };
    remember(refusals, REFUSALS_MAX, refusal, |a, b| {
        a.reply == b.reply && a.reason == b.reason
    });
}

/// Puts `item` last, in the place of one that is the same, or of the oldest.
fn remember<T>(list: &mut Vec<T>, max: usize, item: T, same: impl Fn(&T, &T) -> bool) {
    list.retain(|one| !same(one, &item));
    if list.len() >= max {
        list.remove(0);
    }
    list.push(item);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(address: &str, helo: &str) -> Who {
        Who {
            address: address.parse().ok(),
            helo: Some(helo.to_owned()),
            login: None,
        }
    }

    fn visit(second: i64) -> Visit<'static> {
        Visit {
            listener: "127.0.0.1:2525",
            tls: false,
            at: Timestamp::from_second(second).unwrap(),
            is_new: true,
        }
    }

    fn refused(reason: &str) -> Explained {
        Explained {
            reply: "550 no".to_owned(),
            reason: reason.to_owned(),
            remedy: None,
        }
    }

    #[test]
    fn a_device_is_one_row_with_what_it_did() {
        let seen = Seen::default();
        let message = |sender: &str| Event::Message {
            sender: sender.to_owned(),
            octets: 10,
        };
        let printer = || who("192.0.2.7", "printer");
        seen.note(printer(), visit(1), message("a@b.c"));
        seen.note(
            printer(),
            Visit {
                is_new: false,
                ..visit(2)
            },
            message("d@e.f"),
        );
        seen.note(printer(), visit(3), message("a@b.c"));
        for second in 4..10 {
            seen.note(printer(), visit(second), Event::Refused(refused("bare LF")));
        }
        seen.note(who("192.0.2.7", "scanner"), visit(2), Event::Session);
        let [first, second] = &seen.list()[..] else {
            panic!("two rows")
        };
        assert_eq!(second.helo.as_deref(), Some("scanner"));
        assert_eq!((first.sessions, first.messages, first.octets), (8, 3, 30));
        assert_eq!(first.last_message_at, Timestamp::from_second(3).ok());
        assert_eq!(first.senders, ["d@e.f", "a@b.c"]);
        let [refusal] = &first.refusals[..] else {
            panic!("one refusal")
        };
        assert_eq!((refusal.count, refusal.last_at.as_second()), (6, 9));
        assert_eq!(
            (
                first.first_seen_at.as_second(),
                first.last_seen_at.as_second()
            ),
            (1, 9)
        );
    }

    /// Strangers, and clients that call themselves another name each time, drive out only their like.
    #[test]
    fn nobody_drives_the_others_out() {
        let seen = Seen::default();
        seen.note(who("192.0.2.1", "old device"), visit(0), Event::Session);
        for number in 0..10_000_u32 {
            let stranger = IpAddr::V4((0x0a00_0000 + number).into()).to_string();
            let door = Event::TurnedAway(refused("not in the allow list"));
            seen.note(who(&stranger, ""), visit(1), door);
            seen.note(
                who("192.0.2.2", &format!("name {number}")),
                visit(1),
                Event::Session,
            );
        }
        let list = seen.list();
        assert_eq!(list.len(), 1 + STRANGERS_MAX + ROWS_PER_ADDRESS_MAX);
        assert!(list.iter().any(|client| client.address == "192.0.2.1"));
    }

    #[test]
    fn rows_and_lists_are_bounded_and_the_oldest_go() {
        let seen = Seen::default();
        for second in 0..600 {
            let number = u32::try_from(second).unwrap();
            let address = IpAddr::V4((0x0a00_0000 + number).into()).to_string();
            let name = "x".repeat(1000);
            for sender in 0..20 {
                let sender = format!("{sender}@b.c");
                let message = Event::Message { sender, octets: 1 };
                seen.note(who(&address, &name), visit(second), message);
            }
            for reason in 0..20 {
                let refusal = Event::Refused(refused(&reason.to_string()));
                seen.note(who(&address, &name), visit(second), refusal);
            }
        }
        let list = seen.list();
        assert_eq!(list.len(), ROWS_MAX);
        assert_eq!(list.last().unwrap().last_seen_at.as_second(), 100);
        for client in list {
            assert_eq!(client.senders.len(), SENDERS_MAX);
            assert_eq!(client.refusals.len(), REFUSALS_MAX);
            assert_eq!(client.refusals.last().unwrap().reason, "19");
            assert_eq!(client.helo.unwrap().len(), NAME_LEN_MAX);
        }
    }
}
