//! A message as the body of a request to an API: its header section made to name the recipients, the
//! rest as it is, piece by piece, the last piece held back until it may leave.

use std::{future::Future, io};

use bytes::Bytes;

use super::{Job, body::Reader, start_of};
use crate::{
    mail::{Body, Message, addressees, header::Scan},
    net::http::{Feed, Stopped},
};

/// How the octets of a message stand in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    /// As they are.
    Plain,
    /// In base64, on one line.
    Base64,
}

impl Coding {
    /// The length of so many octets.
    pub(super) fn len(self, octets: u64) -> u64 {
        match self {
            Self::Plain => octets,
            Self::Base64 => octets.div_ceil(3) * 4,
        }
    }
}

/// A message as it leaves: perhaps another header section, then the rest.
pub(super) struct Outgoing<'a> {
    head: Option<Vec<u8>>,
    message: &'a Message,
    /// Where the rest begins.
    start: usize,
}

impl<'a> Outgoing<'a> {
    /// Reads the header section and makes it name the recipients of `job`.
    pub(super) async fn new(job: &Job<'a>) -> io::Result<Self> {
        let (section, start) = match job.head {
            Some(head) => (head.octets.clone(), head.replaces),
            None => section(job.message).await?,
        };
        let recipients: Vec<&str> = job
            .recipients
            .iter()
            .map(|recipient| recipient.address.as_str())
            .collect();
        let addressed = addressees::address(&section, &recipients);
        let replaced = job.head.map(|_| section);
        let head = addressed.or(replaced);
        Ok(Self {
            start: if head.is_some() { start } else { 0 },
            head,
            message: job.message,
        })
    }

    /// Octets, before they are encoded.
    pub(super) fn len(&self) -> u64 {
        let octets = |len: usize| u64::try_from(len).unwrap_or(u64::MAX);
        let head = self.head.as_ref().map_or(0, |head| octets(head.len()));
        self.message.size.saturating_sub(octets(self.start)) + head
    }

    /// Hands the message over; its last octets only after `ready` said yes.
    pub(super) async fn feed(
        self,
        mut out: Encoder,
        ready: impl Future<Output = bool>,
    ) -> Result<(), Fed> {
        if let Some(head) = &self.head {
            out.put(head).await?;
        }
        match &self.message.body {
            Body::Memory(octets) => {
                let rest = octets.get(self.start..).unwrap_or_default();
                for piece in rest.chunks(PIECE) {
                    out.put(piece).await?;
                }
            }
            Body::File(file) => {
                let start = u64::try_from(self.start).unwrap_or(u64::MAX);
                let mut reader = Reader::new(file, start);
                loop {
                    let piece = reader.next().await.map_err(Fed::Body)?;
                    if piece.is_empty() {
                        break;
                    }
                    out.put(piece).await?;
                }
            }
        }
        out.finish(ready).await
    }
}

/// A message's own header section, and its length.
async fn section(message: &Message) -> io::Result<(Vec<u8>, usize)> {
    let start = match &message.body {
        Body::Memory(octets) => octets.clone(),
        Body::File(file) => start_of(file, HEADER_LEN_MAX).await?.into(),
    };
    let end = Scan::new(0).finish(&start).end;
    let section = start.get(..end).unwrap_or_default();
    Ok((section.to_vec(), end))
}

/// Why the body of a request was not fed to its end.
#[derive(Debug)]
pub(super) enum Fed {
    Body(io::Error),
    /// The outcome of the message before could not be stored.
    Unsettled,
}

/// Encodes pieces, and holds the last one back.
pub(super) struct Encoder {
    feed: Feed,
    coding: Coding,
    /// Octets that make no whole group of base64 yet.
    carry: Vec<u8>,
    held: Bytes,
}

impl Encoder {
    pub(super) fn new(feed: Feed, coding: Coding) -> Self {
        Self {
            feed,
            coding,
            carry: Vec::new(),
            held: Bytes::new(),
        }
    }

    async fn put(&mut self, octets: &[u8]) -> Result<(), Fed> {
        let piece = match self.coding {
            Coding::Plain => octets.to_vec(),
            Coding::Base64 => {
                let mut whole = std::mem::take(&mut self.carry);
                whole.extend_from_slice(octets);
                self.carry = whole.split_off(whole.len() - whole.len() % 3);
                base64(&whole).into_bytes()
            }
        };
        if piece.is_empty() {
            return Ok(());
        }
        let before = std::mem::replace(&mut self.held, piece.into());
        self.send(before).await
    }

    async fn finish(mut self, ready: impl Future<Output = bool>) -> Result<(), Fed> {
        let carry = std::mem::take(&mut self.carry);
        let mut last = self.held.to_vec();
        last.extend_from_slice(base64(&carry).as_bytes());
        if !ready.await {
            return Err(Fed::Unsettled);
        }
        self.send(last.into()).await
    }

    async fn send(&mut self, piece: Bytes) -> Result<(), Fed> {
        let sent = self.feed.piece(piece).await;
        match sent {
            Ok(()) => Ok(()),
            // The exchange has its answer or its error; this ends the feeding without one of its own.
            Err(Stopped) => std::future::pending().await,
        }
    }
}

fn base64(octets: &[u8]) -> String {
    use base64::Engine as _;
    base64::prelude::BASE64_STANDARD.encode(octets)
}

/// Octets encoded at once: bounds the memory of a transaction.
const PIECE: usize = 128 * 1024;
/// Larger than any header section that is accepted, with our own fields.
const HEADER_LEN_MAX: usize = 256 * 1024;
