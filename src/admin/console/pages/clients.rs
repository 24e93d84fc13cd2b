//! Clients: which devices and programs come, what they are refused and what helps, their logins, and
//! the networks that were let in here.

use std::{net::IpAddr, sync::Arc};

use askama::Template;
use axum::{
    extract::{Query, State},
    http::StatusCode,
};
use ipnet::IpNet;
use jiff::Timestamp;
use serde::Deserialize;
use url::form_urlencoded;

use crate::{
    admin::{
        console::{
            Frame, Page, Visitor, render,
            view::{Badge, Moment},
        },
        handlers::{self, AppState},
        made::{allowed::Allowed, logins::Login},
        text,
    },
    smtp::replies::Reply,
    submission::{ClientSeen, Refusal},
};

pub(super) const HERE: &str = "/clients";

/// Devices of one page: each is up to some kilobytes of HTML, and a person reads no more at once.
const PAGE_LEN: usize = 100;

#[derive(Template)]
#[template(path = "admin/console/pages/clients.html")]
struct Clients {
    frame: Frame,
    devices: Vec<Device>,
    first: Option<String>,
    next: Option<String>,
    /// Where mail is taken, for who has no device yet.
    listeners: Vec<String>,
    logins: Vec<LoginRow>,
    allowed: Vec<AllowedRow>,
}

/// Which page of the devices.
#[derive(Debug, Default, Deserialize)]
pub(in crate::admin::console) struct From {
    #[serde(default)]
    from: String,
}

/// A device of the table.
struct Device {
    seen: ClientSeen,
    name: String,
    badge: Badge,
    refusals: Vec<Refused>,
    size: String,
    senders: String,
    last: Moment,
    first: Moment,
    /// Where it is let in.
    allow: Option<String>,
}

/// Something that a device was refused.
struct Refused {
    /// `3 times, `; empty: once.
    times: String,
    last: Moment,
    reply: String,
    reason: String,
    remedy: String,
}

struct LoginRow {
    login: Login,
    badge: Badge,
    senders: String,
    changed: Option<Moment>,
}

struct AllowedRow {
    allowed: Allowed,
    since: Moment,
}

pub(in crate::admin::console) async fn show(
    State(shared): AppState,
    Query(page): Query<From>,
    visitor: Visitor,
) -> Page {
    let now = shared.parts.clock.now();
    let mut seen = handlers::clients(State(Arc::clone(&shared))).await.0;
    newest_trouble_first(&mut seen);
    let (from, next) = span(&page.from, seen.len());
    let allowed = shared.allowed();
    let devices = seen.into_iter().skip(from).take(PAGE_LEN);
    let listeners = &shared.view().listeners;
    let page = Clients {
        frame: Frame::new(&shared, &visitor, HERE),
        devices: devices
            .map(|seen| Device::new(seen, &allowed, now))
            .collect(),
        first: (from > 0).then(|| HERE.to_owned()),
        next: next.map(|next| format!("{HERE}?from={next}")),
        listeners: listeners.iter().map(|one| one.name.clone()).collect(),
        logins: shared
            .logins()
            .into_iter()
            .map(|login| LoginRow::new(login, now))
            .collect(),
        allowed: allowed
            .into_iter()
            .map(|allowed| AllowedRow {
                since: Moment::new(allowed.changed_at, now),
                allowed,
            })
            .collect(),
    };
    Ok(render(StatusCode::OK, &page))
}

/// Where the page begins, and where the next one does.
fn span(from: &str, len: usize) -> (usize, Option<usize>) {
    let from = from.parse().unwrap_or(0).min(len.saturating_sub(1));
    let next = from.saturating_add(PAGE_LEN);
    (from, (next < len).then_some(next))
}

/// Who was refused something comes first, the latest refusal before all; the order of the others
/// stays.
fn newest_trouble_first(seen: &mut [ClientSeen]) {
    let trouble = |seen: &ClientSeen| seen.refusals.last().map(|refusal| refusal.last_at);
    seen.sort_by_key(|seen| std::cmp::Reverse(trouble(seen)));
}

impl Device {
    fn new(seen: ClientSeen, allowed: &[Allowed], now: Timestamp) -> Self {
        let name = seen.helo.clone().filter(|name| !name.is_empty());
        let name = name.unwrap_or_else(|| seen.address.clone());
        let refusals = seen.refusals.iter().rev();
        Self {
            badge: badge(&seen),
            refusals: refusals.map(|it| Refused::new(it, now)).collect(),
            size: text::size(seen.octets),
            senders: seen.senders.join(", "),
            last: Moment::new(seen.last_seen_at, now),
            first: Moment::new(seen.first_seen_at, now),
            allow: can_be_allowed(&seen, allowed).then(|| allow_url(&seen)),
            name,
            seen,
        }
    }
}

/// How it stands: what came last is what counts.
fn badge(seen: &ClientSeen) -> Badge {
    let (tone, word) = match seen.refusals.last() {
        Some(last) if last.last_at >= seen.last_seen_at => ("bad", "refused"),
        Some(_) => ("warn", "was refused"),
        None if seen.messages > 0 => ("good", "sends"),
        None => ("busy", "has connected"),
    };
    Badge { tone, word }
}

/// Whether it was turned away because its network is not allowed, and nothing made here lets it in.
fn can_be_allowed(seen: &ClientSeen, allowed: &[Allowed]) -> bool {
    let denied = Reply::ACCESS_DENIED.0;
    let was_denied = seen.refusals.iter().any(|it| it.reply == denied.trim_end());
    let Ok(address) = seen.address.parse::<IpAddr>() else {
        return false;
    };
    let is_in = |one: &Allowed| {
        let network = one.network.parse::<IpNet>();
        let is_there = one.listener.as_ref().is_none_or(|it| *it == seen.listener);
        is_there && one.problems.is_empty() && network.is_ok_and(|it| it.contains(&address))
    };
    was_denied && !allowed.iter().any(is_in)
}

fn allow_url(seen: &ClientSeen) -> String {
    let query = form_urlencoded::Serializer::new(String::new())
        .append_pair("network", &seen.address)
        .append_pair("listener", &seen.listener)
        .append_pair("note", seen.helo.as_deref().unwrap_or_default())
        .finish();
    format!("{HERE}/allow?{query}")
}

impl Refused {
    fn new(refusal: &Refusal, now: Timestamp) -> Self {
        Self {
            times: match refusal.count {
                1 => String::new(),
                count => format!("{count} times, "),
            },
            last: Moment::new(refusal.last_at, now),
            reply: refusal.reply.clone(),
            reason: refusal.reason.clone(),
            remedy: refusal.remedy.clone().unwrap_or_default(),
        }
    }
}

impl LoginRow {
    fn new(login: Login, now: Timestamp) -> Self {
        let (tone, word) = match (login.problems.is_empty(), login.enabled) {
            (false, _) => ("bad", "left out"),
            (true, false) => ("warn", "disabled"),
            (true, true) => ("good", "enabled"),
        };
        Self {
            badge: Badge { tone, word },
            senders: login.senders.join(", "),
            changed: login.changed_at.map(|at| Moment::new(at, now)),
            login,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn refusal(second: i64, reply: &str) -> Refusal {
        Refusal {
            reply: reply.to_owned(),
            reason: "x".to_owned(),
            remedy: None,
            count: 1,
            last_at: at(second),
        }
    }

    fn seen(address: &str, last: i64, refusals: Vec<Refusal>) -> ClientSeen {
        ClientSeen {
            address: address.to_owned(),
            listener: "0.0.0.0:25".to_owned(),
            helo: Some("Scanner 2".to_owned()),
            login: None,
            tls: false,
            first_seen_at: at(0),
            last_seen_at: at(last),
            sessions: 1,
            messages: 0,
            octets: 0,
            senders: Vec::new(),
            refusals,
        }
    }

    #[test]
    fn the_newest_trouble_comes_first_and_the_rest_as_it_was() {
        let trouble = |second| vec![refusal(second, "550 no")];
        let mut all = vec![
            seen("fine-1", 9, Vec::new()),
            seen("old", 8, trouble(2)),
            seen("fine-2", 7, Vec::new()),
            seen("new", 6, trouble(6)),
        ];
        newest_trouble_first(&mut all);
        let order: Vec<_> = all.iter().map(|seen| seen.address.as_str()).collect();
        assert_eq!(order, ["new", "old", "fine-1", "fine-2"]);
        let words: Vec<_> = all.iter().map(|seen| badge(seen).word).collect();
        assert_eq!(
            words,
            ["refused", "was refused", "has connected", "has connected"]
        );
    }

    /// Only who was turned away at the door, and is not let in yet, is offered to be.
    #[test]
    fn who_was_turned_away_can_be_allowed_once() {
        let denied = || vec![refusal(1, "554 5.7.1 access denied"), refusal(2, "550 no")];
        let allowed = |network: &str, listener: Option<&str>| Allowed {
            network: network.to_owned(),
            listener: listener.map(str::to_owned),
            note: None,
            problems: Vec::new(),
            changed_at: at(0),
        };
        let device = seen("192.168.7.20", 2, denied());
        assert!(can_be_allowed(&device, &[]));
        assert!(can_be_allowed(&device, &[allowed("192.168.8.0/24", None)]));
        let other = allowed("192.168.7.20/32", Some("0.0.0.0:26"));
        assert!(can_be_allowed(&device, &[other]), "at another listener");
        for listener in [None, Some("0.0.0.0:25")] {
            let allowed = allowed("192.168.7.0/24", listener);
            assert!(!can_be_allowed(&device, &[allowed]));
        }
        let other = seen("192.168.7.20", 1, vec![refusal(1, "550 no")]);
        assert!(!can_be_allowed(&other, &[]));
        assert!(!can_be_allowed(&seen("unix", 1, denied()), &[]));
        assert_eq!(
            allow_url(&device),
            "/clients/allow?network=192.168.7.20&listener=0.0.0.0%3A25&note=Scanner+2"
        );
    }

    #[test]
    fn a_page_holds_a_hundred() {
        assert_eq!(span("", 0), (0, None));
        assert_eq!(span("", 100), (0, None));
        assert_eq!(span("", 101), (0, Some(100)));
        assert_eq!(span("100", 101), (100, None));
        assert_eq!(span("18446744073709551615", 5), (4, None));
        assert_eq!(span("-1", 5), (0, None));
    }
}
