//! `POST /queue/import`: a message and its envelope come back from an export.
//!
//! The body is the envelope as one line of JSON, as `GET /queue/{id}` gives it, and then the message's
//! octets: so it can be streamed, whatever its size. They must match the digest that was taken when the
//! message was accepted, so that what comes back is what was promised.

use std::{future::poll_fn, pin::Pin};

use aws_lc_rs::digest::{Context, SHA256};
use axum::{
    Json,
    body::{Body, Bytes, HttpBody},
    extract::State,
    http::StatusCode,
};

use super::{
    Shared,
    api::{Imported, Problem, QueueDetail},
    handlers::{Answer, AppState},
    problem::chain,
};
use crate::{
    mail::{self, Digest, Message},
    queue::{ImportError, Place},
    store,
};

/// An envelope of a thousand recipients with long replies.
const ENVELOPE_LEN_MAX: usize = 4 * 1024 * 1024;
/// Octets gathered before they go to the body file.
const PIECE: usize = 128 * 1024;

pub(super) async fn import(State(shared): AppState, body: Body) -> Answer<Imported> {
    let mut input = Input::new(body);
    let answer = take(&shared, &mut input).await;
    if answer.is_err() {
        // A client that still writes would meet a closed connection and never read why.
        while let Ok(Some(_)) = input.next().await {}
    }
    answer
}

async fn take(shared: &Shared, input: &mut Input) -> Answer<Imported> {
    let envelope = input.envelope().await?;
    let detail: QueueDetail = serde_json::from_slice(&envelope).map_err(|error| {
        refuse(format!("the envelope cannot be read: {error}"))
            .remedy("give the .json file of an export, unchanged in its form")
    })?;
    let wanted = detail.digest.clone();
    let entry = detail.into_entry().map_err(refuse)?;
    shared.known(&entry.account)?;
    let place = shared.parts.queue.place(&entry.account, entry.id).await?;
    let message = input.message(&place, entry.size, &wanted).await?;
    let id = entry.id;
    place.fill(entry, message).await?;
    Ok(Json(Imported { id }))
}

/// The request's body, as it comes.
struct Input {
    body: Body,
    /// What was read and not used.
    rest: Bytes,
}

impl Input {
    fn new(body: Body) -> Self {
        Self {
            body,
            rest: Bytes::new(),
        }
    }

    /// The next octets; none: that was all.
    async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        if !self.rest.is_empty() {
            return Ok(Some(std::mem::take(&mut self.rest)));
        }
        loop {
            let frame = poll_fn(|context| Pin::new(&mut self.body).poll_frame(context)).await;
            match frame {
                None => return Ok(None),
                Some(Err(error)) => return Err(refuse(format!("the message broke off: {error}"))),
                Some(Ok(frame)) => {
                    if let Ok(octets) = frame.into_data() {
                        return Ok(Some(octets));
                    }
                }
            }
        }
    }

    /// The first line.
    async fn envelope(&mut self) -> Result<Vec<u8>, Problem> {
        let mut line = Vec::new();
        while let Some(mut octets) = self.next().await? {
            if let Some(end) = memchr::memchr(b'\n', &octets) {
                line.extend_from_slice(&octets.split_to(end));
                self.rest = octets.slice(1..);
                return Ok(line);
            }
            line.extend_from_slice(&octets);
            if line.len() > ENVELOPE_LEN_MAX {
                break;
            }
        }
        Err(refuse("the envelope has no end")
            .remedy("send the envelope as one line of JSON, then the message"))
    }

    /// The octets, in memory or in a synced file, when they are those that were exported.
    async fn message(
        &mut self,
        place: &Place,
        size: u64,
        wanted: &str,
    ) -> Result<Message, Problem> {
        let (mut buffer, mut spill) = (Vec::new(), None);
        let (mut context, mut read) = (Context::new(&SHA256), 0_u64);
        while let Some(octets) = self.next().await? {
            context.update(&octets);
            read = read.saturating_add(u64::try_from(octets.len()).unwrap_or(u64::MAX));
            if read > size {
                break;
            }
            buffer.extend_from_slice(&octets);
            let due = spill.is_some() && buffer.len() >= PIECE;
            if due || buffer.len() > store::INLINE_BODY_MAX {
                let mut file = match spill.take() {
                    Some(file) => file,
                    None => place.spill()?,
                };
                buffer = file.write(buffer).await?;
                spill = Some(file);
            }
        }
        let mut digest = Digest([0; 32]);
        digest.0.copy_from_slice(context.finish().as_ref());
        if read != size || digest.to_string() != wanted {
            // Dropped, the file is removed.
            return Err(refuse("the message is not the one that was exported")
                .remedy("give the .eml file of the same export, unchanged; nothing was imported"));
        }
        Ok(match spill {
            Some(file) => file.finish(buffer).await?,
            None => Message {
                body: mail::Body::Memory(buffer.into()),
                size,
                digest,
            },
        })
    }
}

fn refuse(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
}

impl From<ImportError> for Problem {
    fn from(error: ImportError) -> Self {
        match error {
            ImportError::Present(_) => Self::new(StatusCode::CONFLICT, chain(&error))
                .remedy("nothing to do: `gatepost queue show` shows it"),
            ImportError::Store(error) => error.into(),
        }
    }
}
