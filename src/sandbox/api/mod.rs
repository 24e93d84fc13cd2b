//! The practice APIs: `sendMail` of Microsoft Graph and `messages.send` of Gmail, strict where the
//! real ones are.
//!
//! Whoever gets a message is read from its header section, by a parser that is not the relay's: what
//! stands in `To`, `Cc` and `Bcc` is the envelope here, as there.

mod gmail;
mod graph;

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::Request,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use mail_parser::MessageParser;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use super::{Shared, faults::Deed, mailbox::Received, oauth::grants::Live};
use crate::oauth::Service;

/// Requests read at once, whoever they are for: bounds the memory of a rehearsal.
const REQUESTS_MAX: usize = 8;

/// Both APIs.
pub(super) fn router() -> Router<Arc<Shared>> {
    graph::router().merge(gmail::router())
}

/// Whether a token with this scope opens a service. A scope that names no resource is the practice
/// one, and opens all.
pub(super) fn opens(scope: &str, service: Service) -> bool {
    let mut parts = scope.split_ascii_whitespace();
    let named: Vec<&str> = parts
        .clone()
        .filter(|part| part.starts_with("https://"))
        .collect();
    let is_any = |words: &[&str]| {
        named
            .iter()
            .any(|part| words.iter().any(|w| part.ends_with(w)))
    };
    let is_graph = |part: &&str| part.contains("graph");
    match service {
        _ if named.is_empty() => parts.all(|part| !part.contains("://")),
        Service::Gmail => is_any(&[
            "mail.google.com/",
            "gmail.send",
            "gmail.compose",
            "gmail.modify",
        ]),
        Service::Graph => {
            named.iter().any(is_graph) && is_any(&["/Mail.Send", "/Mail.Send.Shared", "/.default"])
        }
        Service::Smtp => !named
            .iter()
            .all(|part| is_graph(part) || part.contains("gmail")),
    }
}

/// What the APIs count.
#[derive(Debug)]
pub(super) struct Usage {
    mailboxes: Mutex<HashMap<String, Mailbox>>,
    requests: Arc<Semaphore>,
}

impl Default for Usage {
    fn default() -> Self {
        Self {
            mailboxes: Mutex::default(),
            requests: Arc::new(Semaphore::new(REQUESTS_MAX)),
        }
    }
}

/// Of one mailbox at one API.
#[derive(Debug)]
struct Mailbox {
    busy: usize,
    /// Requests since then.
    counted: usize,
    since: Instant,
}

/// What a mailbox may ask for at one API.
#[derive(Debug, Clone, Copy)]
struct Quota {
    at_once: usize,
    in_window: usize,
    window: Duration,
}

/// Why a request is one too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TooMany {
    AtOnce,
    /// Until the window is over.
    InWindow(Duration),
}

/// A request that is counted; given back when dropped.
#[derive(Debug)]
struct Ticket<'a> {
    usage: &'a Usage,
    key: String,
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut mailboxes = self.usage.lock();
        if let Some(mailbox) = mailboxes.get_mut(&self.key) {
            mailbox.busy = mailbox.busy.saturating_sub(1);
        }
    }
}

impl Usage {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Mailbox>> {
        self.mailboxes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, api: &str, mailbox: &str, quota: Quota) -> Result<Ticket<'_>, TooMany> {
        let key = format!("{api} {}", mailbox.to_ascii_lowercase());
        let now = Instant::now();
        let mut mailboxes = self.lock();
        let entry = mailboxes.entry(key.clone()).or_insert(Mailbox {
            busy: 0,
            counted: 0,
            since: now,
        });
        if now >= entry.since + quota.window {
            (entry.counted, entry.since) = (0, now);
        }
        if entry.busy >= quota.at_once {
            return Err(TooMany::AtOnce);
        }
        if entry.counted >= quota.in_window {
            return Err(TooMany::InWindow(entry.since + quota.window - now));
        }
        entry.busy += 1;
        entry.counted += 1;
        Ok(Ticket { usage: self, key })
    }

    async fn read(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.requests).acquire_owned().await.ok()
    }
}

/// The token of a request, if it lives.
fn bearer(shared: &Shared, headers: &HeaderMap) -> Option<Live> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    shared.provider.grants().live(token.trim(), Instant::now())
}

/// The body, unless it is longer than `limit`.
async fn body(request: Request, limit: usize) -> Option<Bytes> {
    to_bytes(request.into_body(), limit).await.ok()
}

/// Plays the fault script at this moment; an answer in place of the usual one.
async fn play(shared: &Shared, phase: &str) -> Option<Response> {
    let play = shared.script.take(phase);
    if let Some(delay) = play.delay {
        tokio::time::sleep(delay).await;
    }
    match play.deed? {
        Deed::Http {
            status,
            body,
            retry_after,
        } => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let json = [(header::CONTENT_TYPE, "application/json")];
            let mut response = (status, json, body).into_response();
            if let Some(wait) = retry_after {
                response
                    .headers_mut()
                    .insert(header::RETRY_AFTER, wait.into());
            }
            Some(response)
        }
        Deed::Drop | Deed::Cut { .. } | Deed::Reply(_) => Some(Response::new(Body::new(Broken))),
    }
}

/// An answer that breaks off before its first octet.
struct Broken;

impl http_body::Body for Broken {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        Poll::Ready(Some(Err(std::io::ErrorKind::ConnectionReset.into())))
    }
}

/// A message as its header section addresses it.
#[derive(Debug, Default)]
struct Addressed {
    from: Option<String>,
    /// Of `To`, `Cc` and `Bcc`, each once.
    recipients: Vec<String>,
    /// Something in those fields is no address.
    broken: bool,
}

impl Addressed {
    /// `None`: the octets are no message.
    fn read(octets: &[u8]) -> Option<Self> {
        let message = MessageParser::default().parse_headers(octets)?;
        let mut addressed = Self {
            from: message
                .from()
                .and_then(|from| from.first()?.address().map(str::to_owned)),
            ..Self::default()
        };
        let lists = [message.to(), message.cc(), message.bcc()];
        for one in lists.into_iter().flatten().flat_map(|list| list.iter()) {
            let Some(address) = one.address() else {
                continue;
            };
            addressed.broken |= crate::mail::Address::parse(address).is_err();
            let is_there = |known: &String| known.eq_ignore_ascii_case(address);
            if !addressed.recipients.iter().any(is_there) {
                addressed.recipients.push(address.to_owned());
            }
        }
        Some(addressed)
    }
}

/// Delivers a message as its header section addresses it, without its `Bcc`.
fn deliver(
    shared: &Shared,
    over: &'static str,
    mailbox: &str,
    addressed: Addressed,
    octets: &[u8],
) {
    tracing::debug!(event = "sandbox_received", size = octets.len());
    shared.mailbox.take(Received {
        number: 0,
        at: shared.clock.now(),
        over,
        mailbox: mailbox.to_owned(),
        sender: mailbox.to_owned(),
        recipients: addressed.recipients,
        octets: without_bcc(octets).into(),
    });
}

/// The message without `Bcc` and its continuation lines.
fn without_bcc(octets: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(octets.len());
    let mut rest = octets;
    let mut blind = false;
    while let Some(at) = memchr::memchr(b'\n', rest) {
        let (line, behind) = rest.split_at_checked(at + 1).unwrap_or((rest, &[]));
        if line.trim_ascii().is_empty() {
            break;
        }
        if !line.starts_with(b" ") && !line.starts_with(b"\t") {
            let name = line
                .split(|octet| *octet == b':')
                .next()
                .unwrap_or_default();
            blind = name.trim_ascii().eq_ignore_ascii_case(b"bcc");
        }
        if !blind {
            out.extend_from_slice(line);
        }
        rest = behind;
    }
    out.extend_from_slice(rest);
    out
}
