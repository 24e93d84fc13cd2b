//! What a person does about messages of the queue: some that are ticked, or all that a search finds.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, State},
    http::StatusCode,
    response::Response,
    routing::{MethodRouter, post},
};

use super::queue::{Asked, HERE, recipients, sender};
use crate::{
    admin::{
        Shared,
        api::{Problem, QueueEntry, Selector},
        console::{Confirm, Frame, Visitor, confirm, done, failed, form::Posted},
        export::Wanted,
        handlers::{self, AppState},
        made::Who,
        problem::Input,
        search::Search,
        text,
    },
    mail::QueueId,
    queue::Operation,
    store::{Entry, Filter},
};

/// Messages counted before a question says `at least`: a search looks at no more.
const COUNTED_MAX: usize = 10_000;
/// Messages that a question names.
const NAMED_MAX: usize = 5;

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new()
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
        let these = Filter {
            ids,
            ..Filter::default()
        };
        let found = shared.parts.queue.list(these).await?;
        let named = named(found.iter(), wanted, true);
        return Ok(Came::Question(Confirm {
            named,
            ..question(&text::messages(wanted), fields, back(posted))
        }));
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
        let seen = u64::try_from(found.entries.len()).unwrap_or(u64::MAX);
        let (count, is_all, said) = match found.next {
            None => (seen, true, text::messages(seen)),
            // Grouped by the store, however many there are.
            Some(_) if search.is_open() || search.is_of_account() => {
                let all = shared.count(&search).await?;
                (all, true, text::messages(all))
            }
            Some(_) => (seen, false, format!("at least {}", text::messages(seen))),
        };
        let mut fields = asked.fields();
        fields.push(("all".to_owned(), "yes".to_owned()));
        fields.push(("until".to_owned(), until.to_string()));
        let what = format!("{}: {said}", asked.said());
        return Ok(Came::Question(Confirm {
            named: named(found.entries.iter().map(|(entry, _)| entry), count, is_all),
            ..question(&what, fields, asked.path(None))
        }));
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

/// The first few of `count` messages, as a person knows them; `is_all`: there are no more.
fn named<'a>(entries: impl Iterator<Item = &'a Entry>, count: u64, is_all: bool) -> Vec<String> {
    let first = entries.take(NAMED_MAX).map(|entry| {
        let entry = QueueEntry::new(entry, false);
        let (from, to) = (sender(&entry.sender), recipients(&entry));
        format!("{}: {from} to {to}", entry.id)
    });
    let mut named: Vec<String> = first.collect();
    let left = count.saturating_sub(u64::try_from(named.len()).unwrap_or(u64::MAX));
    if left > 0 && !named.is_empty() {
        let least = if is_all { "" } else { "at least " };
        named.push(format!("and {least}{left} more"));
    }
    named
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
        ..Confirm::default()
    }
}

/// What a person wants done, as its button says.
pub(super) fn verb(operation: Operation) -> &'static str {
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
    let problem = Problem::new(StatusCode::NOT_FOUND, "This run is no longer known.")
        .remedy("look at the queue: what was done is done");
    failed(&shared, &visitor, HERE, &problem)
}
