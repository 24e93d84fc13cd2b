//! The queue: what waits, since when and why, found by a search and shown page by page.

use std::{fmt::Write as _, sync::Arc};

use askama::Template;
use axum::{
    Router,
    extract::{RawQuery, State},
    http::StatusCode,
    routing::get,
};
use jiff::Timestamp;
use serde_json::Value;
use url::form_urlencoded;

use super::operate;
use crate::{
    admin::{
        Shared,
        api::{QueueEntry, QueueState},
        console::{
            Frame, Page, Visitor,
            form::Posted,
            render,
            runs::{End, Run},
            view::{Badge, Moment},
        },
        handlers::AppState,
        search::{Found, Search, pattern},
        text,
    },
    mail::{AccountName, QueueId},
    queue::Counts,
};

/// Where the list is.
pub(super) const HERE: &str = "/queue";
/// Messages of a page.
const PAGE_LEN: usize = 50;
/// States as they are asked for, and what a person is offered.
const STATES: [(&str, &str); 6] = [
    ("", "any"),
    ("queued", "queued"),
    ("delivering", "delivering"),
    ("deferred", "deferred"),
    ("held", "held"),
    ("uncertain", "uncertain"),
];

pub(in crate::admin::console) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route(HERE, get(show))
        .merge(operate::routes())
}

#[derive(Template)]
#[template(path = "admin/console/pages/queue.html")]
struct QueuePage {
    frame: Frame,
    asked: Asked,
    accounts: Vec<Choice>,
    states: Vec<Choice>,
    under_way: Vec<RunRow>,
    /// The last one first.
    over: Vec<RunRow>,
    /// `12 waiting, 3 held`
    counts: String,
    rows: Vec<Row>,
    first: Option<String>,
    next: Option<String>,
}

/// An entry of a list to choose from.
pub(super) struct Choice {
    pub(super) value: String,
    pub(super) label: String,
    pub(super) is_chosen: bool,
}

impl Choice {
    pub(super) fn new(value: &str, label: &str, chosen: &str) -> Self {
        Self {
            value: value.to_owned(),
            label: label.to_owned(),
            is_chosen: value == chosen,
        }
    }

    /// Every account, and the one that is asked for even if it is no more.
    pub(super) fn accounts(shared: &Shared, chosen: &str) -> Vec<Self> {
        let view = shared.view();
        let mut names: Vec<&str> = view.accounts.iter().map(|a| a.name.as_str()).collect();
        if !chosen.is_empty() && !names.contains(&chosen) {
            names.push(chosen);
        }
        let names = names.into_iter().map(|name| Self::new(name, name, chosen));
        std::iter::once(Self::new("", "any", chosen))
            .chain(names)
            .collect()
    }
}

/// A message of the table.
struct Row {
    entry: QueueEntry,
    badge: Badge,
    sender: String,
    recipients: String,
    size: String,
    received: Moment,
    next: String,
    remedy: String,
}

impl Row {
    fn new(
        entry: QueueEntry,
        remedy: Option<String>,
        held: &[AccountName],
        now: Timestamp,
    ) -> Self {
        Self {
            badge: entry.state.into(),
            sender: sender(&entry.sender),
            recipients: recipients(&entry),
            size: text::size(entry.size),
            received: Moment::new(entry.received_at, now),
            next: due(&entry, held, now),
            remedy: remedy.unwrap_or_default(),
            entry,
        }
    }
}

/// The null path is no address: it stands for what must not be answered.
pub(super) fn sender(reverse_path: &str) -> String {
    match reverse_path {
        "" => "<> (a report)".to_owned(),
        sender => sender.to_owned(),
    }
}

/// The first recipient, and how many there are beside.
pub(super) fn recipients(entry: &QueueEntry) -> String {
    let mut recipients = entry.recipients.iter();
    let first = recipients.next().map_or("", |first| first.address.as_str());
    match recipients.count() {
        0 => first.to_owned(),
        more => format!("{first} and {more} more"),
    }
}

/// When a message is tried next; what is overdue waits for its account, not for the clock. `held`: the
/// accounts on hold.
pub(super) fn due(entry: &QueueEntry, held: &[AccountName], now: Timestamp) -> String {
    match entry.state {
        QueueState::Held => "when released".to_owned(),
        QueueState::Delivering => "now".to_owned(),
        QueueState::Queued | QueueState::Deferred | QueueState::Uncertain
            if held.contains(&entry.account) =>
        {
            format!("when account {} is released", entry.account)
        }
        QueueState::Queued | QueueState::Deferred | QueueState::Uncertain => {
            if entry.next_attempt_at <= now {
                "as soon as its account can".to_owned()
            } else {
                text::relative(entry.next_attempt_at, now)
            }
        }
    }
}

/// A run of the list.
struct RunRow {
    run: Run,
    badge: Badge,
    said: String,
    begun: Moment,
}

impl RunRow {
    fn new(run: Run, now: Timestamp) -> Self {
        let (tone, word) = match run.end {
            None => ("busy", "under way"),
            Some(End::Whole) => ("good", "done"),
            Some(End::Stopped) => ("warn", "stopped"),
            Some(End::Failed(_)) => ("bad", "failed"),
        };
        Self {
            badge: Badge { tone, word },
            said: run.said(),
            begun: Moment::new(run.begun, now),
            run,
        }
    }

    fn verb(&self) -> &'static str {
        operate::verb(self.run.operation)
    }
}

/// What a person searches, as it was typed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Asked {
    q: String,
    account: String,
    sender: String,
    recipient: String,
    state: String,
}

impl Asked {
    pub(super) fn read(posted: &Posted) -> Self {
        let field = |name| posted.text(name).to_owned();
        Self {
            q: field("q"),
            account: field("account"),
            sender: field("sender"),
            recipient: field("recipient"),
            state: field("state"),
        }
    }

    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn search(&self) -> Search {
        let id = self.q.parse().ok();
        let state = serde_json::from_value(Value::String(self.state.clone()));
        Search {
            id,
            text: pattern(&self.q).filter(|_| id.is_none()),
            account: (!self.account.is_empty()).then(|| AccountName::new(&self.account)),
            sender: pattern(&self.sender),
            recipient: pattern(&self.recipient),
            state: state.ok(),
            until: None,
        }
    }

    /// What was given, by name.
    pub(super) fn fields(&self) -> Vec<(String, String)> {
        let all = [
            ("q", &self.q),
            ("account", &self.account),
            ("sender", &self.sender),
            ("recipient", &self.recipient),
            ("state", &self.state),
        ];
        let given = all.into_iter().filter(|(_, value)| !value.is_empty());
        given
            .map(|(name, value)| (name.to_owned(), value.clone()))
            .collect()
    }

    /// Where the page behind `after` is.
    pub(super) fn path(&self, after: Option<QueueId>) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(self.fields());
        if let Some(after) = after {
            query.append_pair("after", &after.to_string());
        }
        match query.finish() {
            query if query.is_empty() => HERE.to_owned(),
            query => format!("{HERE}?{query}"),
        }
    }

    /// The search in words: `every message`, `messages with state held, account alerts`.
    pub(super) fn said(&self) -> String {
        if self.is_empty() {
            return "every message".to_owned();
        }
        let mut said = String::from("messages with");
        for (at, (name, value)) in self.fields().iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            let name = if name == "q" { "text" } else { name };
            // Writing to a string cannot fail.
            write!(said, "{comma} {name} {value}").unwrap_or_default();
        }
        said
    }
}

async fn show(State(shared): AppState, visitor: Visitor, RawQuery(query): RawQuery) -> Page {
    let now = shared.parts.clock.now();
    let given = Posted::parse(query.unwrap_or_default().as_bytes());
    let asked = Asked::read(&given);
    let after: Option<QueueId> = given.text("after").parse().ok();
    let Found { entries, next, .. } = shared
        .search_queue(&asked.search(), after, PAGE_LEN)
        .await?;
    let stored = shared.parts.queue.counts().await?;
    let held = on_hold(&shared);
    let rows = entries.iter().map(|(entry, delivering)| {
        let shown = QueueEntry::new(entry, *delivering);
        Row::new(shown, shared.remedy(entry), &held, now)
    });
    let runs = shared.runs.all().into_iter();
    let (under_way, over) = runs
        .map(|run| RunRow::new(run, now))
        .partition(|row| row.run.end.is_none());
    let page = QueuePage {
        frame: Frame::new(&shared, &visitor, HERE),
        accounts: Choice::accounts(&shared, &asked.account),
        states: STATES
            .map(|(value, label)| Choice::new(value, label, &asked.state))
            .into(),
        under_way,
        over,
        counts: counts(&stored),
        rows: rows.collect(),
        first: after.map(|_| asked.path(None)),
        next: next.map(|next| asked.path(Some(next))),
        asked,
    };
    Ok(render(StatusCode::OK, &page))
}

/// The accounts whose mail waits for a person who releases them.
pub(super) fn on_hold(shared: &Shared) -> Vec<AccountName> {
    let lane = |name: &AccountName| shared.parts.delivery.status(name);
    let view = shared.view();
    let names = view.accounts.iter().map(|facts| &facts.name);
    let held = names.filter(|name| lane(name).is_some_and(|lane| lane.awaits_release));
    held.cloned().collect()
}

/// What there is at all.
fn counts(counts: &[(AccountName, Counts)]) -> String {
    let queued: u64 = counts.iter().map(|(_, counts)| counts.queued).sum();
    let held: u64 = counts.iter().map(|(_, counts)| counts.held).sum();
    format!("{queued} waiting for delivery, {held} held")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is asked for comes back in the address, whatever it is made of.
    #[test]
    fn a_search_is_its_address() {
        let asked = Asked {
            q: "a&b=\"<c>\" d".into(),
            state: "held".into(),
            ..Asked::default()
        };
        let path = asked.path(Some(QueueId::from_i64(42)));
        assert_eq!(
            path,
            "/queue?q=a%26b%3D%22%3Cc%3E%22+d&state=held&after=000000000001a"
        );
        let (_, query) = path.split_once('?').unwrap();
        assert_eq!(Asked::read(&Posted::parse(query.as_bytes())), asked);
        assert_eq!(Asked::default().path(None), "/queue");
        assert_eq!(asked.said(), "messages with text a&b=\"<c>\" d, state held");
    }

    /// An id is looked up; anything else is a part of an address.
    #[test]
    fn what_is_typed_is_an_id_or_a_text() {
        let search = |q: &str| {
            Asked {
                q: q.into(),
                ..Asked::default()
            }
            .search()
        };
        assert_eq!(search("000000000001a").id, Some(QueueId::from_i64(42)));
        assert_eq!(search("000000000001a").text, None);
        assert_eq!(search("contoso").text.as_deref(), Some("*contoso*"));
        assert!(search("").is_open());
    }
}
