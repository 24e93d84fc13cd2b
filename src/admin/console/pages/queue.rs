//! The queue: what waits, why, and what a person does about it, for some messages or all that a
//! search finds.

use std::{fmt::Write as _, sync::Arc};

use askama::Template;
use axum::{
    Router,
    extract::{Path, RawQuery, State},
    http::StatusCode,
    response::Response,
    routing::{MethodRouter, get, post},
};
use jiff::Timestamp;
use serde_json::Value;
use url::form_urlencoded;

use crate::{
    admin::{
        Shared,
        api::{Problem, QueueEntry, QueueState, Selector},
        console::{
            Confirm, Frame, Page, Visitor, confirm, done, failed,
            form::Posted,
            render,
            runs::{End, Run},
            view::{Badge, Moment},
        },
        export::Wanted,
        handlers::{self, AppState},
        made::Who,
        problem::Input,
        search::{Found, Search, pattern},
        text,
    },
    mail::{AccountName, QueueId},
    queue::Operation,
};

const HERE: &str = "/queue";
/// Messages of a page.
const PAGE_LEN: usize = 50;
/// Messages counted before a question says `at least`.
const COUNTED_MAX: usize = 1000;

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
        .route("/queue/retry", operation(Operation::Retry))
        .route("/queue/hold", operation(Operation::Hold))
        .route("/queue/release", operation(Operation::Release))
        .route("/queue/delete", operation(Operation::Delete))
        .route("/queue/export", post(export))
        .route("/queue/runs/{number}/stop", post(stop))
}

fn operation(operation: Operation) -> MethodRouter<Arc<Shared>> {
    post(move |shared, visitor, who, posted| act(operation, shared, visitor, who, posted))
}

#[derive(Template)]
#[template(path = "admin/console/pages/queue.html")]
struct QueuePage {
    frame: Frame,
    asked: Asked,
    accounts: Vec<Choice>,
    states: Vec<Choice>,
    runs: Vec<RunRow>,
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
    fn new(entry: QueueEntry, remedy: Option<String>, now: Timestamp) -> Self {
        Self {
            badge: entry.state.into(),
            sender: sender(&entry.sender),
            recipients: recipients(&entry),
            size: text::size(entry.size),
            received: Moment::new(entry.received_at, now),
            next: due(&entry, now),
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
fn recipients(entry: &QueueEntry) -> String {
    let mut recipients = entry.recipients.iter();
    let first = recipients.next().map_or("", |first| first.address.as_str());
    match recipients.count() {
        0 => first.to_owned(),
        more => format!("{first} and {more} more"),
    }
}

/// When a message is tried next; what is overdue waits for its account, not for the clock.
pub(super) fn due(entry: &QueueEntry, now: Timestamp) -> String {
    match entry.state {
        QueueState::Held => "when released".to_owned(),
        QueueState::Delivering => "now".to_owned(),
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
        verb(self.run.operation)
    }
}

/// What a person searches, as it was typed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Asked {
    q: String,
    account: String,
    sender: String,
    recipient: String,
    state: String,
}

impl Asked {
    fn read(posted: &Posted) -> Self {
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

    fn search(&self) -> Search {
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
    fn fields(&self) -> Vec<(String, String)> {
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
    fn path(&self, after: Option<QueueId>) -> String {
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
    fn said(&self) -> String {
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
    let rows = entries.iter().map(|(entry, delivering)| {
        let shown = QueueEntry::new(entry, *delivering);
        Row::new(shown, shared.remedy(entry), now)
    });
    let runs = shared.runs.all().into_iter();
    let page = QueuePage {
        frame: Frame::new(&shared, &visitor, HERE),
        accounts: Choice::accounts(&shared, &asked.account),
        states: STATES
            .map(|(value, label)| Choice::new(value, label, &asked.state))
            .into(),
        runs: runs.map(|run| RunRow::new(run, now)).collect(),
        counts: counts(&shared).await?,
        rows: rows.collect(),
        first: after.map(|_| asked.path(None)),
        next: next.map(|next| asked.path(Some(next))),
        asked,
    };
    Ok(render(StatusCode::OK, &page))
}

/// What there is at all.
async fn counts(shared: &Shared) -> Result<String, Problem> {
    let counts = shared.parts.queue.counts().await?;
    let queued: u64 = counts.iter().map(|(_, counts)| counts.queued).sum();
    let held: u64 = counts.iter().map(|(_, counts)| counts.held).sum();
    Ok(format!("{queued} waiting for delivery, {held} held"))
}

/// To which messages something is done.
enum Which {
    Ticked(Vec<QueueId>),
    /// All that the search finds.
    All,
}

impl Which {
    fn read(posted: &Posted) -> Result<Self, Problem> {
        if posted.raw("all") == "yes" {
            return Ok(Self::All);
        }
        let ids = posted.all("id").filter_map(|id| id.parse().ok());
        let mut ids: Vec<QueueId> = ids.collect();
        ids.sort_unstable();
        ids.dedup();
        if ids.is_empty() {
            return Err(
                Problem::new(StatusCode::BAD_REQUEST, "No message is ticked")
                    .remedy("tick some, or tick that all which match are meant"),
            );
        }
        Ok(Self::Ticked(ids))
    }
}

/// What an operation came to.
enum Came {
    Done(String),
    /// Nothing is done before a person has said yes.
    Question(Confirm),
}

async fn act(
    operation: Operation,
    State(shared): AppState,
    visitor: Visitor,
    who: Who,
    posted: Posted,
) -> Response {
    let back = back(&posted);
    let came = match Which::read(&posted) {
        Ok(Which::Ticked(ids)) => act_on(&shared, operation, ids, &posted).await,
        Ok(Which::All) => act_on_all(&shared, operation, &who, &posted).await,
        Err(problem) => Err(problem),
    };
    match came {
        Ok(Came::Done(said)) if operation == Operation::Delete => {
            let list = Asked::read(&posted).path(None);
            done(&shared, &visitor, &list, said)
        }
        Ok(Came::Done(said)) => done(&shared, &visitor, &back, said),
        Ok(Came::Question(ask)) => confirm(Frame::new(&shared, &visitor, HERE), &ask),
        Err(problem) => failed(&shared, &visitor, &back, &problem),
    }
}

/// Where a form came from: the page of a message, or a page of the list.
fn back(posted: &Posted) -> String {
    let id: Option<QueueId> = posted.text("id").parse().ok();
    match id.filter(|_| posted.raw("from") == "message") {
        Some(id) => format!("{HERE}/{id}"),
        None => Asked::read(posted).path(posted.text("after").parse().ok()),
    }
}

async fn act_on(
    shared: &Arc<Shared>,
    operation: Operation,
    ids: Vec<QueueId>,
    posted: &Posted,
) -> Result<Came, Problem> {
    let wanted = u64::try_from(ids.len()).unwrap_or(u64::MAX);
    if operation == Operation::Delete && !posted.is_confirmed() {
        let mut fields = Asked::read(posted).fields();
        let from = ("from".to_owned(), posted.raw("from").to_owned());
        fields.push(from);
        fields.extend(ids.iter().map(|id| ("id".to_owned(), id.to_string())));
        return Ok(Came::Question(question(
            &text::messages(wanted),
            fields,
            back(posted),
        )));
    }
    let selector = Selector {
        ids,
        ..Selector::default()
    };
    let operated = handlers::operate(operation, State(Arc::clone(shared)), Input(selector));
    let count = operated.await?.0.count;
    if count == 0 {
        let text = format!("{}: nothing was done", verb(operation));
        return Err(Problem::new(StatusCode::CONFLICT, text)
            .remedy("what was meant is gone, in a state that does not fit, or being delivered at this moment"));
    }
    let done = text::done(operation);
    Ok(Came::Done(if count < wanted {
        format!(
            "{count} of {} {done}. The others are gone, in a state that does not fit, or being \
             delivered at this moment.",
            text::messages(wanted)
        )
    } else {
        format!("{} {done}.", text::messages(count))
    }))
}

async fn act_on_all(
    shared: &Arc<Shared>,
    operation: Operation,
    who: &Who,
    posted: &Posted,
) -> Result<Came, Problem> {
    let asked = Asked::read(posted);
    let until: Option<QueueId> = posted.text("until").parse().ok();
    // What comes from now on is nobody's intention.
    let until = until.unwrap_or_else(|| shared.parts.queue.next_id());
    let search = Search {
        until: Some(until),
        ..asked.search()
    };
    if operation == Operation::Delete && !posted.is_confirmed() {
        let found = shared.search_queue(&search, None, COUNTED_MAX).await?;
        let count = text::messages(u64::try_from(found.entries.len()).unwrap_or(u64::MAX));
        let count = match found.next {
            Some(_) => format!("at least {count}"),
            None => count,
        };
        let mut fields = asked.fields();
        fields.push(("all".to_owned(), "yes".to_owned()));
        fields.push(("until".to_owned(), until.to_string()));
        let what = format!("{}: {count}", asked.said());
        return Ok(Came::Question(question(&what, fields, asked.path(None))));
    }
    shared
        .begin_run(operation, search, asked.said(), who)
        .await?;
    let text = format!(
        "{}: begun for {}. It goes on by itself; see below how far it is.",
        verb(operation),
        asked.said()
    );
    Ok(Came::Done(text))
}

fn question(what: &str, fields: Vec<(String, String)>, back: String) -> Confirm {
    Confirm {
        title: format!("Delete {what}?"),
        text:
            "What is deleted is never delivered, and its senders are not told. Export it first if \
               anybody may want it."
                .to_owned(),
        action: "/queue/delete".to_owned(),
        fields,
        button: "Delete",
        back,
    }
}

fn verb(operation: Operation) -> &'static str {
    match operation {
        Operation::Retry => "Retry now",
        Operation::Hold => "Hold",
        Operation::Release => "Release",
        Operation::Delete => "Delete",
    }
}

async fn export(State(shared): AppState, visitor: Visitor, who: Who, posted: Posted) -> Response {
    match Which::read(&posted) {
        Ok(Which::Ticked(ids)) => shared.export(Wanted::Ids(ids), who),
        Ok(Which::All) => {
            let search = Search {
                until: Some(shared.parts.queue.next_id()),
                ..Asked::read(&posted).search()
            };
            shared.export(Wanted::Found(search), who)
        }
        Err(problem) => failed(&shared, &visitor, &back(&posted), &problem),
    }
}

async fn stop(State(shared): AppState, visitor: Visitor, Path(number): Path<String>) -> Response {
    let is_found = number.parse().is_ok_and(|number| shared.runs.stop(number));
    if is_found {
        return done(&shared, &visitor, HERE, "It ends after the part under way.");
    }
    let problem = Problem::new(StatusCode::NOT_FOUND, "This run is no longer known.");
    failed(&shared, &visitor, HERE, &problem)
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
