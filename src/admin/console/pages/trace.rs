//! The trace: what happened to messages, told in plain words, also long after they have left the
//! queue.

use std::collections::HashSet;

use askama::Template;
use axum::{
    extract::{RawQuery, State},
    http::StatusCode,
};
use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use url::form_urlencoded;

use super::queue::{Choice, sender};
use crate::{
    admin::{
        Shared,
        console::{Frame, Page, Visitor, form::Posted, render, view::Badge},
        handlers::AppState,
        search::pattern,
        text,
    },
    mail::{AccountName, QueueId},
    queue::{
        Operation,
        trace::{Event, Fact, Search, Story},
    },
    store::{self, Filter, RecipientState, TraceAt},
};

const HERE: &str = "/trace";
/// Stories of a page.
const PAGE_LEN: usize = 25;
/// Looks into the trace for one page when what became of a message is searched, which only its whole
/// story tells. Each looks at a bounded number of rows.
const LOOKS_MAX: usize = 8;

#[derive(Template)]
#[template(path = "admin/console/pages/trace.html")]
struct TracePage {
    frame: Frame,
    asked: Asked,
    accounts: Vec<Choice>,
    outcomes: Vec<Choice>,
    /// What is wrong with the times.
    since_error: Option<String>,
    until_error: Option<String>,
    stories: Vec<Told>,
    first: Option<String>,
    next: Option<String>,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Came {
    Waiting,
    Deferred,
    Delivered,
    Returned,
    Held,
    Deleted,
    Refused,
}

impl Came {
    /// Every one, in the order in which they are offered.
    const ALL: [Self; 7] = [
        Self::Delivered,
        Self::Returned,
        Self::Deferred,
        Self::Held,
        Self::Deleted,
        Self::Waiting,
        Self::Refused,
    ];

    fn badge(self) -> Badge {
        let (tone, word) = match self {
            Self::Waiting => ("busy", "waiting"),
            Self::Deferred => ("warn", "deferred"),
            Self::Delivered => ("good", "delivered"),
            Self::Returned => ("bad", "returned"),
            Self::Held => ("bad", "held"),
            Self::Deleted => ("warn", "deleted"),
            Self::Refused => ("warn", "refused"),
        };
        Badge { tone, word }
    }

    /// What a story ends with. One recipient whose mail came back makes it returned, once nobody
    /// waits.
    fn of(story: &Story) -> Self {
        let mut came = Self::Waiting;
        let mut is_returned = false;
        for Fact { event, .. } in &story.facts {
            match event {
                Event::Received(_) | Event::NotSent { .. } => {}
                Event::Refused { .. } => came = Self::Refused,
                Event::Quarantined { .. } => came = Self::Held,
                Event::Operated { operation } => {
                    came = match operation {
                        Operation::Retry | Operation::Release => Self::Waiting,
                        Operation::Hold => Self::Held,
                        Operation::Delete => Self::Deleted,
                    }
                }
                Event::Attempted(attempted) => {
                    let failed =
                        |state| matches!(state, RecipientState::Bounced | RecipientState::Expired);
                    is_returned |= attempted.outcomes.iter().any(|o| failed(o.state));
                    came = match (attempted.held, attempted.next_attempt_at) {
                        (true, _) => Self::Held,
                        (false, Some(_)) => Self::Deferred,
                        (false, None) if is_returned => Self::Returned,
                        (false, None) => Self::Delivered,
                    }
                }
            }
        }
        came
    }
}

/// A story of the list.
struct Told {
    id: QueueId,
    /// Whether there is more to see and do in the queue.
    is_queued: bool,
    badge: Badge,
    /// When it came, and from whom to whom.
    title: String,
    happened: Vec<Happening>,
    is_open: bool,
}

/// One thing that happened.
pub(super) struct Happening {
    pub(super) exact: String,
    pub(super) said: String,
    pub(super) first: String,
    pub(super) more: Vec<String>,
}

impl Happening {
    pub(super) fn new(fact: &Fact) -> Self {
        let mut lines = text::happened(&fact.event).into_iter();
        Self {
            exact: fact.at.to_string(),
            said: fact.at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
            first: lines.next().unwrap_or_default(),
            more: lines.collect(),
        }
    }
}

impl Told {
    fn new(story: &Story, is_queued: bool, is_open: bool) -> Self {
        let received = story.facts.iter().find_map(|fact| match &fact.event {
            Event::Received(received) => Some((fact.at, received)),
            Event::Refused { .. }
            | Event::Attempted(_)
            | Event::NotSent { .. }
            | Event::Operated { .. }
            | Event::Quarantined { .. } => None,
        });
        let title = received.map_or_else(
            || format!("message {}, whose beginning is no longer known", story.id),
            |(at, received)| {
                let mut recipients = received.recipients.iter();
                let first = recipients.next().map_or("", String::as_str);
                let more = match recipients.count() {
                    0 => String::new(),
                    more => format!(" and {more} more"),
                };
                let at = at.strftime("%Y-%m-%d %H:%M:%S UTC");
                format!("{at}: {} to {first}{more}", sender(&received.sender))
            },
        );
        Self {
            id: story.id,
            is_queued,
            badge: Came::of(story).badge(),
            title,
            happened: story.facts.iter().map(Happening::new).collect(),
            is_open,
        }
    }
}

/// What a person searches, as it was typed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Asked {
    q: String,
    account: String,
    sender: String,
    recipient: String,
    outcome: String,
    since: String,
    until: String,
}

impl Asked {
    fn read(given: &Posted) -> Self {
        let field = |name| given.text(name).to_owned();
        Self {
            q: field("q"),
            account: field("account"),
            sender: field("sender"),
            recipient: field("recipient"),
            outcome: field("outcome"),
            since: field("since"),
            until: field("until"),
        }
    }

    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn search(&self, since: Option<Timestamp>, until: Option<Timestamp>) -> Search {
        let is_id = self.q.parse::<QueueId>().is_ok();
        Search {
            // An id is looked up as it stands.
            text: match is_id {
                true => Some(self.q.clone()),
                false => pattern(&self.q),
            },
            account: (!self.account.is_empty()).then(|| AccountName::new(&self.account)),
            sender: pattern(&self.sender),
            recipient: pattern(&self.recipient),
            since,
            until,
        }
    }

    fn outcome(&self) -> Option<Came> {
        let mut all = Came::ALL.into_iter();
        all.find(|came| came.badge().word == self.outcome)
    }

    /// Where the page before `before` is.
    fn path(&self, before: Option<TraceAt>) -> String {
        let all = [
            ("q", &self.q),
            ("account", &self.account),
            ("sender", &self.sender),
            ("recipient", &self.recipient),
            ("outcome", &self.outcome),
            ("since", &self.since),
            ("until", &self.until),
        ];
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(all.into_iter().filter(|(_, value)| !value.is_empty()));
        if let Some(before) = before.and_then(|before| serde_json::to_string(&before).ok()) {
            query.append_pair("before", &before);
        }
        match query.finish() {
            query if query.is_empty() => HERE.to_owned(),
            query => format!("{HERE}?{query}"),
        }
    }
}

/// A time as a browser's form gives it (UTC is meant), or as RFC 3339 has it; empty: none.
fn moment(typed: &str) -> Result<Option<Timestamp>, String> {
    if typed.is_empty() {
        return Ok(None);
    }
    let civil = || {
        let at: DateTime = typed.parse().ok()?;
        TimeZone::UTC.to_timestamp(at).ok()
    };
    let at = typed.parse().ok().or_else(civil);
    let wrong = || format!("{typed:?} is no time: write it as 2026-11-25T10:00 (UTC)");
    at.map(Some).ok_or_else(wrong)
}

pub(in crate::admin::console) async fn show(
    State(shared): AppState,
    visitor: Visitor,
    RawQuery(query): RawQuery,
) -> Page {
    let given = Posted::parse(query.unwrap_or_default().as_bytes());
    let asked = Asked::read(&given);
    let before: Option<TraceAt> = serde_json::from_str(given.text("before")).ok();
    let (since, until) = (moment(&asked.since), moment(&asked.until));
    let (stories, next) = match (&since, &until) {
        (Ok(since), Ok(until)) => {
            let search = asked.search(*since, *until);
            look(&shared, &search, asked.outcome(), before).await?
        }
        (Err(_), _) | (_, Err(_)) => (Vec::new(), None),
    };
    let queued = still_queued(&shared, &stories).await?;
    let is_only = stories.len() == 1 && next.is_none();
    let told = stories
        .iter()
        .map(|story| Told::new(story, queued.contains(&story.id), is_only));
    let outcomes = Came::ALL.map(|came| {
        let word = came.badge().word;
        Choice::new(word, word, &asked.outcome)
    });
    let any = Choice::new("", "any", &asked.outcome);
    let status = match since.is_ok() && until.is_ok() {
        true => StatusCode::OK,
        false => StatusCode::UNPROCESSABLE_ENTITY,
    };
    let page = TracePage {
        frame: Frame::new(&shared, &visitor, HERE),
        accounts: Choice::accounts(&shared, &asked.account),
        outcomes: std::iter::once(any).chain(outcomes).collect(),
        since_error: since.err(),
        until_error: until.err(),
        stories: told.collect(),
        first: before.map(|_| asked.path(None)),
        next: next.map(|next| asked.path(Some(next))),
        asked,
    };
    Ok(render(status, &page))
}

/// The stories of a page, newest first, and where to go on.
async fn look(
    shared: &Shared,
    search: &Search,
    outcome: Option<Came>,
    mut before: Option<TraceAt>,
) -> Result<(Vec<Story>, Option<TraceAt>), store::Error> {
    let mut stories = Vec::new();
    for _ in 0..LOOKS_MAX {
        let wanted = PAGE_LEN.saturating_sub(stories.len());
        let found = shared
            .parts
            .queue
            .search_trace(search.clone(), before, wanted)
            .await?;
        let fits = |story: &Story| outcome.is_none_or(|outcome| Came::of(story) == outcome);
        stories.extend(found.found.into_iter().filter(fits));
        before = found.next;
        // Without an outcome one look has seen all there is to a page.
        if before.is_none() || outcome.is_none() || stories.len() >= PAGE_LEN {
            break;
        }
    }
    Ok((stories, before))
}

/// Which of them are in the queue.
async fn still_queued(
    shared: &Shared,
    stories: &[Story],
) -> Result<HashSet<QueueId>, store::Error> {
    // No id would mean every message.
    if stories.is_empty() {
        return Ok(HashSet::new());
    }
    let these = Filter {
        ids: stories.iter().map(|story| story.id).collect(),
        ..Filter::default()
    };
    let entries = shared.parts.queue.list(these).await?;
    Ok(entries.into_iter().map(|entry| entry.id).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::trace::{Attempted, Outcome, Way};

    fn attempted(states: &[RecipientState], next: bool, held: bool) -> Event {
        let outcomes = states.iter().map(|state| Outcome {
            state: *state,
            reply: None,
            recipients: vec!["a@x.example".into()],
        });
        Event::Attempted(Box::new(Attempted {
            way: Way {
                account: AccountName::new("alerts"),
                smarthost: "smtp.example:587".into(),
                transport: "smtp".into(),
                reused: false,
                phases_ms: Vec::new(),
                elapsed_ms: 1,
            },
            outcomes: outcomes.collect(),
            reason: None,
            counted: true,
            uncertain: false,
            next_attempt_at: next.then_some(Timestamp::UNIX_EPOCH),
            held,
            reports: Vec::new(),
        }))
    }

    /// What became of a message is what happened last; a returned recipient is not forgotten when the
    /// others follow later.
    #[test]
    fn a_story_ends_with_one_word() {
        use RecipientState::{Bounced, Deferred, Delivered, Expired};
        let operated = |operation| Event::Operated { operation };
        let cases = [
            (vec![], Came::Waiting),
            (vec![attempted(&[Delivered], false, false)], Came::Delivered),
            (vec![attempted(&[Deferred], true, false)], Came::Deferred),
            (vec![attempted(&[Expired], false, false)], Came::Returned),
            (vec![attempted(&[Deferred], false, true)], Came::Held),
            (
                vec![
                    attempted(&[Bounced, Deferred], true, false),
                    attempted(&[Delivered], false, false),
                ],
                Came::Returned,
            ),
            (
                vec![operated(Operation::Hold), operated(Operation::Release)],
                Came::Waiting,
            ),
            (vec![operated(Operation::Delete)], Came::Deleted),
        ];
        for (events, wanted) in cases {
            let facts = events.into_iter().map(|event| Fact {
                at: Timestamp::UNIX_EPOCH,
                event,
            });
            let story = Story {
                id: QueueId::from_i64(1),
                facts: facts.collect(),
            };
            assert_eq!(Came::of(&story), wanted, "{story:?}");
        }
    }

    #[test]
    fn times_are_utc() {
        let at: Timestamp = "2026-11-25T10:00:00Z".parse().unwrap();
        for typed in [
            "2026-11-25T10:00",
            "2026-11-25T10:00:00Z",
            "2026-11-25T11:00:00+01:00",
        ] {
            assert_eq!(moment(typed), Ok(Some(at)), "{typed}");
        }
        assert_eq!(moment(""), Ok(None));
        assert!(moment("yesterday").is_err());
    }

    #[test]
    fn a_search_is_its_address() {
        let asked = Asked {
            q: "a b&c".into(),
            outcome: "returned".into(),
            ..Asked::default()
        };
        let before: TraceAt = serde_json::from_str("7").unwrap();
        let path = asked.path(Some(before));
        assert_eq!(path, "/trace?q=a+b%26c&outcome=returned&before=7");
        assert_eq!(asked.outcome(), Some(Came::Returned));
        assert_eq!(Asked::default().path(None), "/trace");
    }
}
