//! Clients: which devices and programs come, what they are refused and what helps, their logins, and
//! the networks that were let in here.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

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
    net::private::is_private,
    smtp::replies::Reply,
    submission::{Auth, ClientSeen, Listener, Refusal},
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
    /// Refusals that hold no longer.
    over: Vec<Refused>,
    size: String,
    senders: String,
    last: Moment,
    first: Moment,
    door: Door,
}

/// What a person can do about a device that is turned away.
#[derive(Debug, PartialEq, Eq)]
enum Door {
    /// It is not turned away, or not for its address.
    Open,
    /// Where it is let in.
    Closed(String),
    /// Its address is public, and whoever has one may send: it cannot be let in.
    Public,
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
    /// Where it is edited.
    edit: String,
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
    let view = shared.view();
    let listeners = &view.listeners;
    let judge = Judge::new(listeners, &seen);
    newest_trouble_first(&mut seen, &judge);
    let (from, next) = span(&page.from, seen.len());
    let devices = seen.into_iter().skip(from).take(PAGE_LEN);
    let page = Clients {
        frame: Frame::new(&shared, &visitor, HERE),
        devices: devices.map(|seen| Device::new(seen, &judge, now)).collect(),
        first: (from > 0).then(|| HERE.to_owned()),
        next: next.map(|next| format!("{HERE}?from={next}")),
        listeners: listeners.iter().map(|one| one.name.clone()).collect(),
        logins: shared
            .logins()
            .into_iter()
            .map(|login| LoginRow::new(login, now))
            .collect(),
        allowed: shared
            .allowed()
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

/// What of the refusals still holds.
struct Judge<'a> {
    listeners: &'a [Listener],
    /// When mail was last accepted from an address, and from a device of it: a login, or a door that
    /// opened, makes another row.
    sent: HashMap<(String, Option<String>), Timestamp>,
}

impl<'a> Judge<'a> {
    fn new(listeners: &'a [Listener], all: &[ClientSeen]) -> Self {
        let mut sent = HashMap::new();
        for seen in all {
            let Some(at) = seen.last_message_at else {
                continue;
            };
            for name in [seen.helo.clone(), None] {
                let last = sent.entry((seen.address.clone(), name)).or_insert(at);
                *last = at.max(*last);
            }
        }
        Self { listeners, sent }
    }

    /// Whether the device has sent since, or the door it stood at is open now.
    fn is_over(&self, seen: &ClientSeen, refusal: &Refusal) -> bool {
        // Whoever was turned away at a door has told no name: what others of its address send since, at
        // another door perhaps, opens none.
        if is_denial(refusal) {
            return self.is_allowed(seen);
        }
        let device = (seen.address.clone(), seen.helo.clone());
        let sent = self.sent.get(&device);
        sent.is_some_and(|at| *at > refusal.last_at)
    }

    /// The latest last.
    fn open<'s>(&self, seen: &'s ClientSeen) -> impl DoubleEndedIterator<Item = &'s Refusal> {
        let all = seen.refusals.iter();
        all.filter(|refusal| !self.is_over(seen, refusal))
    }

    fn listener(&self, seen: &ClientSeen) -> Option<&Listener> {
        self.listeners.iter().find(|it| it.name == seen.listener)
    }

    /// By the file's list, or what was let in here.
    fn is_allowed(&self, seen: &ClientSeen) -> bool {
        let address = seen.address.parse::<IpAddr>();
        self.listener(seen).is_some_and(|listener| {
            let mut allow = listener.allow.iter();
            allow.len() == 0 || address.is_ok_and(|it| allow.any(|net| net.contains(&it)))
        })
    }

    fn door(&self, seen: &ClientSeen) -> Door {
        let (Ok(address), Some(listener)) = (seen.address.parse::<IpAddr>(), self.listener(seen))
        else {
            return Door::Open;
        };
        if !self.open(seen).any(is_denial) {
            return Door::Open;
        }
        if listener.auth == Auth::Required || is_private(&IpNet::from(address.to_canonical())) {
            Door::Closed(allow_url(seen))
        } else {
            Door::Public
        }
    }
}

/// Whether it was turned away because its network is not allowed.
fn is_denial(refusal: &Refusal) -> bool {
    refusal.reply == Reply::ACCESS_DENIED.0.trim_end()
}

/// Who is refused something comes first, the latest refusal before all; the order of the others
/// stays.
fn newest_trouble_first(seen: &mut [ClientSeen], judge: &Judge<'_>) {
    let trouble = |seen: &ClientSeen| judge.open(seen).next_back().map(|refusal| refusal.last_at);
    seen.sort_by_cached_key(|seen| std::cmp::Reverse(trouble(seen)));
}

impl Device {
    fn new(seen: ClientSeen, judge: &Judge<'_>, now: Timestamp) -> Self {
        let name = seen.helo.clone().filter(|name| !name.is_empty());
        let name = name.unwrap_or_else(|| seen.address.clone());
        let newest_first = seen.refusals.iter().rev();
        let (over, open): (Vec<_>, Vec<_>) =
            newest_first.partition(|refusal| judge.is_over(&seen, refusal));
        let told = |all: Vec<&Refusal>| all.into_iter().map(|it| Refused::new(it, now)).collect();
        Self {
            badge: badge(&seen, judge),
            refusals: told(open),
            over: told(over),
            size: text::size(seen.octets),
            senders: seen.senders.join(", "),
            last: Moment::new(seen.last_seen_at, now),
            first: Moment::new(seen.first_seen_at, now),
            door: judge.door(&seen),
            name,
            seen,
        }
    }
}

/// How it stands: what came last is what counts.
fn badge(seen: &ClientSeen, judge: &Judge<'_>) -> Badge {
    let (tone, word) = match judge.open(seen).next_back() {
        Some(last) if last.last_at >= seen.last_seen_at => ("bad", "refused"),
        Some(_) => ("warn", "was refused"),
        None if seen.messages > 0 => ("good", "sends"),
        None if seen.refusals.iter().any(is_denial) => ("good", "allowed now"),
        None => ("busy", "has connected"),
    };
    Badge { tone, word }
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
        let mut name = form_urlencoded::Serializer::new(String::new());
        name.append_pair("name", &login.name);
        Self {
            badge: Badge { tone, word },
            edit: format!("{HERE}/logins/edit?{}", name.finish()),
            senders: login.senders.join(", "),
            changed: login.changed_at.map(|at| Moment::new(at, now)),
            login,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::submission::testing;

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
            last_message_at: None,
            sessions: 1,
            messages: 0,
            octets: 0,
            senders: Vec::new(),
            refusals,
        }
    }

    fn listener(auth: Auth, allow: &[&str]) -> Listener {
        Listener {
            name: "0.0.0.0:25".to_owned(),
            auth,
            allow: allow.iter().map(|net| net.parse().unwrap()).collect(),
            ..testing::listener()
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
        let judge = Judge::new(&[], &all);
        newest_trouble_first(&mut all, &judge);
        let order: Vec<_> = all.iter().map(|seen| seen.address.as_str()).collect();
        assert_eq!(order, ["new", "old", "fine-1", "fine-2"]);
        let words: Vec<_> = all.iter().map(|seen| badge(seen, &judge).word).collect();
        assert_eq!(
            words,
            ["refused", "was refused", "has connected", "has connected"]
        );
    }

    /// A refusal is history once the device has sent, also with the login that it lacked.
    #[test]
    fn who_has_sent_since_is_refused_no_longer() {
        let refused = seen("192.168.7.20", 5, vec![refusal(5, "535 no")]);
        let sent = |helo: &str, second| ClientSeen {
            helo: Some(helo.to_owned()),
            login: Some("scanner".to_owned()),
            messages: 1,
            last_message_at: Some(at(second)),
            ..seen("192.168.7.20", second, Vec::new())
        };
        for (other, is_over) in [
            (sent("Scanner 2", 6), true),
            (sent("Scanner 2", 4), false),
            (sent("printer", 6), false),
        ] {
            let judge = Judge::new(&[], std::slice::from_ref(&other));
            assert_eq!(
                judge.is_over(&refused, &refused.refusals[0]),
                is_over,
                "{other:?}"
            );
        }
        // A closed door stays closed, whoever of that address sends by another.
        let denied = refusal(5, "554 5.7.1 access denied");
        let nameless = ClientSeen {
            helo: None,
            ..seen("192.168.7.20", 5, vec![denied])
        };
        let judge_of = |all: &[ClientSeen]| {
            Judge::new(&[listener(Auth::None, &["10.0.0.0/8"])], all)
                .is_over(&nameless, &nameless.refusals[0])
        };
        assert!(!judge_of(&[sent("printer", 6)]));
    }

    /// Only who is turned away at the door, and can be let in, is offered to be.
    #[test]
    fn who_is_turned_away_can_be_allowed_once() {
        let denied = || vec![refusal(1, "554 5.7.1 access denied"), refusal(2, "550 no")];
        let door = |seen: &ClientSeen, auth, allow: &[&str]| {
            Judge::new(&[listener(auth, allow)], &[]).door(seen)
        };
        let device = seen("192.168.7.20", 2, denied());
        let url = "/clients/allow?network=192.168.7.20&listener=0.0.0.0%3A25&note=Scanner+2";
        let closed = Door::Closed(url.to_owned());
        assert_eq!(door(&device, Auth::None, &["192.168.8.0/24"]), closed);
        assert_eq!(door(&device, Auth::None, &["192.168.7.0/24"]), Door::Open);
        let public = seen("198.51.100.7", 2, denied());
        assert_eq!(door(&public, Auth::None, &["10.0.0.0/8"]), Door::Public);
        let with_login = door(&public, Auth::Required, &["10.0.0.0/8"]);
        assert!(matches!(with_login, Door::Closed(_)));
        let other = seen("192.168.7.20", 1, vec![refusal(1, "550 no")]);
        assert_eq!(door(&other, Auth::None, &["10.0.0.0/8"]), Door::Open);
        let socket = seen("unix", 1, denied());
        assert_eq!(door(&socket, Auth::None, &["10.0.0.0/8"]), Door::Open);
        let let_in = [listener(Auth::None, &["192.168.7.0/24"])];
        let only_denied = seen(
            "192.168.7.20",
            1,
            vec![refusal(1, "554 5.7.1 access denied")],
        );
        let judge = Judge::new(&let_in, &[]);
        assert_eq!(badge(&only_denied, &judge).word, "allowed now");
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
