//! A message of the queue: its envelope, what has become of each recipient, its history and header
//! section. The body is shown only at a person's word, and the audit log has whose.

use std::sync::Arc;

use askama::Template;
use axum::{
    Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use jiff::Timestamp;
use mail_parser::MessageParser;
use tokio::io::AsyncReadExt;

use super::{
    queue::{due, on_hold, sender},
    trace::Happening,
};
use crate::{
    admin::{
        Shared,
        api::{AccountState, Mark, Problem, QueueDetail, QueueState},
        console::{
            Failed, Frame, Page, Visitor, no_page, render,
            view::{Badge, Moment},
        },
        handlers::AppState,
        made::Who,
        text,
    },
    mail::{self, AccountName, QueueId},
    queue::trace::Search as TraceSearch,
    store::{Entry, RecipientEntry, RecipientState},
};

/// The entry of the menu it belongs to.
const HERE: &str = "/queue";
/// More of a header section is not shown: it is no header a person wants to read.
const HEADER_SHOWN_MAX: usize = 64 * 1024;
/// More of a message is not shown: whoever wants more exports it.
const BODY_SHOWN_MAX: usize = 256 * 1024;
/// More recipients are not listed; an export has them all.
const RECIPIENTS_SHOWN_MAX: usize = 1000;

pub(in crate::admin::console) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/queue/{id}", get(show))
        .route("/queue/{id}/body", post(body))
        .route("/queue/{id}/message", post(message))
        .route("/queue/{id}/envelope", post(envelope))
}

#[derive(Template)]
#[template(path = "admin/console/pages/message.html")]
struct MessagePage {
    frame: Frame,
    id: QueueId,
    /// None: it has left the queue, and the trace still knows it.
    standing: Option<Standing>,
    happened: Vec<Happening>,
    /// None: the script renews the page, and these parts never change.
    header: Option<Header>,
}

/// How a message stands.
struct Standing {
    detail: QueueDetail,
    badge: Badge,
    sender: String,
    size: String,
    received: Moment,
    next: String,
    remedy: String,
    recipients: Vec<Recipient>,
    /// Recipients that are not listed.
    more: usize,
    /// What keeps its account from sending.
    account: Option<(String, String)>,
}

impl Standing {
    fn new(
        shared: &Shared,
        entry: &Entry,
        detail: QueueDetail,
        held: &[AccountName],
        now: Timestamp,
    ) -> Self {
        let shown = entry.recipients.iter().take(RECIPIENTS_SHOWN_MAX);
        let recipients = shown.map(|recipient| Recipient::new(shared, entry, recipient));
        Self {
            badge: detail.entry.state.into(),
            sender: sender(&detail.entry.sender),
            size: text::size(entry.size),
            received: Moment::new(entry.received_at, now),
            next: due(&detail.entry, held, now),
            remedy: detail.remedy.clone().unwrap_or_default(),
            recipients: recipients.collect(),
            more: entry.recipients.len().saturating_sub(RECIPIENTS_SHOWN_MAX),
            account: None,
            detail,
        }
    }

    fn is_uncertain(&self) -> bool {
        self.detail.marks.contains(&Mark::Uncertain)
    }

    fn is_held(&self) -> bool {
        self.detail.entry.state == QueueState::Held
    }
}

/// A recipient of the table.
struct Recipient {
    address: String,
    badge: Badge,
    reply: Option<String>,
    /// What the reply means, and what to do; not where the message's own reason says it already.
    meaning: Option<(String, String)>,
}

impl Recipient {
    fn new(shared: &Shared, entry: &Entry, recipient: &RecipientEntry) -> Self {
        let reply = recipient.reply.as_ref();
        let is_told = |reply: &str| entry.reason.as_ref().is_some_and(|r| r.ends_with(reply));
        let meaning = reply
            .filter(|reply| !is_told(&reply.to_string()))
            .and_then(|reply| shared.parts.delivery.explain(&entry.account, reply));
        Self {
            address: recipient.recipient.address.to_string(),
            badge: recipient.state.into(),
            reply: reply.map(ToString::to_string),
            meaning: meaning.map(|told| (told.reason, told.remedy)),
        }
    }
}

impl From<RecipientState> for Badge {
    fn from(state: RecipientState) -> Self {
        let (tone, word) = match state {
            RecipientState::Queued => ("plain", "queued"),
            RecipientState::Deferred => ("warn", "deferred"),
            RecipientState::Delivered => ("good", "delivered"),
            RecipientState::Bounced => ("bad", "returned"),
            RecipientState::Expired => ("bad", "given up"),
        };
        Self { tone, word }
    }
}

/// A header section as a person reads it.
struct Header {
    subject: Option<String>,
    text: String,
    is_cut: bool,
}

impl Header {
    /// Of the first octets of a message.
    fn new(octets: &[u8]) -> Self {
        let whole = text::header_len(octets);
        let len = whole.unwrap_or(octets.len()).min(HEADER_SHOWN_MAX);
        let section = octets.get(..len).unwrap_or_default();
        let parsed = MessageParser::default().parse_headers(section);
        let subject = parsed.as_ref().and_then(|parsed| parsed.subject());
        Self {
            subject: subject.map(|subject| text::visible(subject).into_owned()),
            text: readable(section),
            is_cut: whole.is_none_or(|whole| whole > len) && octets.len() >= len,
        }
    }
}

/// Octets as text: nothing in it acts.
fn readable(octets: &[u8]) -> String {
    let text = String::from_utf8_lossy(octets).replace("\r\n", "\n");
    text::visible(&text).into_owned()
}

async fn show(State(shared): AppState, visitor: Visitor, Path(id): Path<String>) -> Page {
    let Ok(id) = id.parse::<QueueId>() else {
        return Ok(no_page());
    };
    let now = shared.parts.clock.now();
    let search = TraceSearch {
        text: Some(id.to_string()),
        ..TraceSearch::default()
    };
    let stories = shared.parts.queue.search_trace(search, None, 1).await?;
    let facts = stories.found.into_iter().flat_map(|story| story.facts);
    let happened: Vec<_> = facts.map(|fact| Happening::new(&fact)).collect();
    let standing = standing(&shared, id, now).await?;
    if standing.is_none() && happened.is_empty() {
        return Err(Failed(Problem::no_message(id)));
    }
    let header = match standing {
        Some(_) if !visitor.is_live() => {
            let head = head(&shared, id, HEADER_SHOWN_MAX + 4).await?;
            head.map(|(head, _)| Header::new(&head))
        }
        Some(_) | None => None,
    };
    let page = MessagePage {
        frame: Frame::new(&shared, &visitor, HERE),
        id,
        standing,
        happened,
        header,
    };
    Ok(render(StatusCode::OK, &page))
}

async fn standing(
    shared: &Shared,
    id: QueueId,
    now: Timestamp,
) -> Result<Option<Standing>, Problem> {
    let Some((entry, _)) = shared.parts.queue.find(id).await? else {
        return Ok(None);
    };
    let Some(detail) = shared.detail(id).await? else {
        return Ok(None);
    };
    let accounts = shared.accounts().await?;
    let mut standing = Standing::new(shared, &entry, detail, &on_hold(shared), now);
    let account = accounts.into_iter().find(|a| a.name == entry.account);
    standing.account = match account {
        None => Some((
            format!("no account is called {}", entry.account),
            "add it again, or export the message and import it with --account NAME".to_owned(),
        )),
        Some(account) if account.state == AccountState::Ready => None,
        Some(account) => account
            .reason
            .map(|reason| (reason, account.remedy.unwrap_or_default())),
    };
    Ok(Some(standing))
}

/// The first octets of a message, and whether they are all.
async fn head(
    shared: &Shared,
    id: QueueId,
    len: usize,
) -> Result<Option<(Vec<u8>, bool)>, Problem> {
    let Some((_, message)) = shared.parts.queue.read(id).await? else {
        return Ok(None);
    };
    let (octets, size) = match message.body {
        mail::Body::Memory(octets) => {
            let first = octets.get(..len).unwrap_or(&octets);
            (first.to_vec(), octets.len())
        }
        mail::Body::File(file) => {
            let read = async {
                let file = tokio::fs::File::open(&file.path).await?;
                let size = file.metadata().await?.len();
                let mut octets = Vec::new();
                let wanted = u64::try_from(len).unwrap_or(u64::MAX);
                file.take(wanted).read_to_end(&mut octets).await?;
                std::io::Result::Ok((octets, usize::try_from(size).unwrap_or(usize::MAX)))
            };
            read.await.map_err(|error| Problem::unreadable(&error))?
        }
    };
    let is_all = octets.len() >= size;
    Ok(Some((octets, is_all)))
}

#[derive(Template)]
#[template(path = "admin/console/pages/body.html")]
struct BodyPage {
    frame: Frame,
    id: QueueId,
    /// The text in it, decoded; none: it has none, or it is cut.
    decoded: Option<String>,
    /// What follows the header section, as it is.
    raw: String,
    is_cut: bool,
}

async fn body(State(shared): AppState, visitor: Visitor, who: Who, Path(id): Path<String>) -> Page {
    let Ok(id) = id.parse::<QueueId>() else {
        return Ok(no_page());
    };
    let head = head(&shared, id, BODY_SHOWN_MAX).await?;
    let (octets, is_all) = head.ok_or_else(|| Problem::no_message(id))?;
    who.read(id);
    let start = text::header_len(&octets).map_or(octets.len(), |len| len + 2);
    let parsed = is_all.then(|| MessageParser::default().parse(&octets));
    let parsed = parsed.flatten();
    let decoded = parsed.as_ref().and_then(|parsed| parsed.body_text(0));
    let page = BodyPage {
        frame: Frame::new(&shared, &visitor, HERE),
        id,
        decoded: decoded.map(|text| text::visible(&text.replace("\r\n", "\n")).into_owned()),
        raw: readable(octets.get(start..).unwrap_or_default()),
        is_cut: !is_all,
    };
    Ok(render(StatusCode::OK, &page))
}

async fn message(State(shared): AppState, who: Who, Path(id): Path<String>) -> Response {
    let Ok(id) = id.parse::<QueueId>() else {
        return no_page();
    };
    let exported = shared.export_message(id, &who).await;
    exported.unwrap_or_else(|problem| Failed(problem).into_response())
}

async fn envelope(State(shared): AppState, Path(id): Path<String>) -> Response {
    let Ok(id) = id.parse::<QueueId>() else {
        return no_page();
    };
    let exported = shared.export_envelope(id).await;
    exported.unwrap_or_else(|problem| Failed(problem).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header section is shown up to its end or the bound, decoded where that helps, as text.
    #[test]
    fn a_header_is_read_up_to_a_bound() {
        let octets = b"Subject: =?utf-8?Q?Gr=C3=BC=1B[2J?=\r\nX: a\x00b\xff\r\n\r\nbody";
        let header = Header::new(octets);
        assert_eq!(header.subject.as_deref(), Some("Gr\u{fc}\u{fffd}[2J"));
        assert!(
            header.text.ends_with("X: a\u{fffd}b\u{fffd}\n"),
            "{}",
            header.text
        );
        assert!(!header.is_cut);

        let mut bomb = b"X: ".to_vec();
        bomb.resize(HEADER_SHOWN_MAX + 4, b'a');
        let header = Header::new(&bomb);
        assert_eq!(header.text.len(), HEADER_SHOWN_MAX);
        assert!(header.is_cut);

        let header = Header::new(b"\r\nbody");
        assert_eq!((header.text.as_str(), header.is_cut), ("", false));
        let header = Header::new(b"Subject: no end");
        assert_eq!(header.text, "Subject: no end");
    }
}
