//! The data of one message: decoded, its header edited, kept in memory or spilled to disk.
//!
//! Memory is bounded by [`store::INLINE_BODY_MAX`] and one read, whatever the message's size. The
//! header section is scanned once and edited before any octet goes to disk. A message that is
//! refused is read to its true end without being kept, so the session stays in sync.

use std::sync::Arc;

use aws_lc_rs::digest;
use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    mail::{
        Body, Digest, Message, QueueId, ReversePath,
        header::{self, Header, Scan},
        lines::{self, LongLines},
    },
    queue::{Queue, Spill},
    smtp::{
        data::decode::{BareEnds, Decoder, Progress},
        replies::Reply,
    },
    store,
};

/// A header section that does not fit here is an attack or a loop; Postfix's bound is near it.
const HEADER_LEN_MAX: usize = 128 * 1024;
/// Hops after which a message is taken to be in a loop; Postfix's `hopcount_limit`.
const HOPS_MAX: usize = 50;
/// Passages through this very relay after which a message is in a loop. One that comes back once may be
/// meant (an application that sends on what it was sent); a loop comes back for ever.
const PASSAGES_MAX: usize = 3;
/// What is read of a refused message beyond its size limit before the connection is cut.
const DRAIN_LEN_MIN: u64 = 1024 * 1024;
/// First allocation: most mail from machines fits without another.
const BUFFER_LEN_FIRST: usize = 8 * 1024;
/// Octets gathered before they go to the spill file; as many are being written meanwhile.
const SPILL_WRITE_LEN: usize = 128 * 1024;

/// Messages that are in memory as a whole, all of `delivery = "direct"` together: what is not stored
/// must not grow without bound either.
pub(super) const ROOM_LEN: usize = 64 * 1024 * 1024;
/// What is claimed of it at once.
const ROOM_UNIT: usize = 64 * 1024;
/// How much more is made ready when a message in memory outgrows its buffer: doubling would take
/// twice what it needs.
const GROWTH: usize = 4;

/// Where the part of a message lies that is beyond [`store::INLINE_BODY_MAX`].
#[derive(Debug, Clone)]
pub(super) enum Place {
    /// In a spill file.
    Disk,
    /// In memory, as far as the room for all of them goes.
    Memory(Room),
}

/// Room for messages in memory. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Room(Arc<Semaphore>);

impl Room {
    /// For so many octets, [`ROOM_LEN`] but in tests.
    pub(super) fn new(octets: usize) -> Self {
        Self(Arc::new(Semaphore::new(octets / ROOM_UNIT)))
    }
}

/// Takes in the data of one message.
#[derive(Debug)]
pub(super) struct Intake {
    id: QueueId,
    decoder: Decoder,
    /// What is not on disk: the whole message, or its end once it spills.
    buffer: Vec<u8>,
    stage: Stage,
    spill: Option<Spill>,
    /// Octets decoded; our own fields do not count.
    octets: u64,
    octets_max: u64,
    /// Where lines over 998 octets are refused: the search for one in the body.
    long_lines: Option<LongLines>,
    additions: Additions,
    /// Known once the header section is complete; for the trace.
    message_id: Option<String>,
    place: Place,
    claimed: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
enum Stage {
    /// The header section is not complete.
    Header(Scan),
    Body,
    /// Nothing more is kept.
    Refused(Reply),
}

/// What a message gets that lacks it (RFC 6409 §8).
#[derive(Debug)]
pub(super) struct Additions {
    pub(super) from: String,
    pub(super) hostname: String,
    pub(super) at: Timestamp,
}

/// A message that was taken in.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) message: Message,
    /// It holds octets above 127, whatever MAIL declared.
    pub(super) eight_bit: bool,
    /// Its Message-ID, ours if it had none.
    pub(super) message_id: Option<String>,
    /// Its room in memory; to be kept as long as the message.
    pub(super) claimed: Option<OwnedSemaphorePermit>,
}

impl Intake {
    /// `trace` is the `Received` field; the message follows it in the buffer.
    pub(super) fn new(id: QueueId, bare: BareEnds, octets_max: u64, additions: Additions) -> Self {
        Self {
            id,
            decoder: Decoder::new(bare),
            buffer: Vec::with_capacity(BUFFER_LEN_FIRST),
            stage: Stage::Header(Scan::new(0)),
            spill: None,
            octets: 0,
            octets_max,
            long_lines: None,
            additions,
            message_id: None,
            place: Place::Disk,
            claimed: None,
        }
    }

    /// Says where a large message lies; before any data.
    pub(super) fn place(&mut self, place: Place) {
        self.place = place;
    }

    /// Refuses a message with a line over 998 octets; before any data.
    pub(super) fn refuse_long_lines(&mut self) {
        self.long_lines = Some(LongLines::default());
    }

    /// Puts the trace field in front; before any data.
    pub(super) fn trace(&mut self, trace: &header::Trace<'_>) {
        trace.write(&mut self.buffer);
        self.stage = Stage::Header(Scan::new(self.buffer.len()));
    }

    /// Takes a piece of what the client sends.
    pub(super) async fn feed(&mut self, input: &[u8], queue: &Queue) -> Progress {
        let before = self.buffer.len();
        if matches!(self.place, Place::Memory(_)) && self.buffer.capacity() - before < input.len() {
            self.buffer.reserve_exact(input.len().max(before / GROWTH));
        }
        let progress = self.decoder.decode(input, &mut self.buffer);
        let new = self.buffer.len() - before;
        self.octets = self
            .octets
            .saturating_add(u64::try_from(new).unwrap_or(u64::MAX));
        if matches!(self.stage, Stage::Body) {
            self.judge_lines(before);
        }
        self.judge();
        if let Place::Memory(room) = &self.place {
            let room = room.clone();
            self.claim(&room);
        } else if matches!(self.stage, Stage::Body) {
            let due = self.spill.is_some() && self.buffer.len() >= SPILL_WRITE_LEN;
            if due || self.buffer.len() > store::INLINE_BODY_MAX {
                self.write_out(queue).await;
            }
        }
        progress
    }

    /// Whether the client goes on sending beyond all bounds.
    pub(super) fn is_overrun(&self) -> bool {
        let drained_max = self.octets_max.max(DRAIN_LEN_MIN);
        self.octets > self.octets_max.saturating_add(drained_max)
    }

    /// Why the message is refused, if it is.
    pub(super) fn refusal(&self) -> Option<&Reply> {
        match &self.stage {
            Stage::Refused(reply) => Some(reply),
            Stage::Header(_) | Stage::Body => None,
        }
    }

    /// The data has ended: the message, durable if it spilled.
    ///
    /// # Errors
    /// The reply that refuses it.
    pub(super) async fn finish(mut self, queue: &Queue) -> Result<Taken, Reply> {
        if let Stage::Header(scan) = &self.stage {
            let header = scan.clone().finish(&self.buffer);
            self.edit(&header);
        }
        if let Stage::Refused(reply) = self.stage {
            return Err(reply);
        }
        let spill = match self.spill {
            None if self.is_due_for_disk() => Some(queue.spill(self.id)),
            spill => spill.map(Ok),
        };
        let message = match spill {
            Some(spill) => {
                let finish = async { spill?.finish(self.buffer).await };
                finish.await.map_err(|error| refusal(&error))?
            }
            None => in_memory(self.buffer),
        };
        Ok(Taken {
            message,
            eight_bit: self.decoder.faults().eight_bit,
            message_id: self.message_id,
            claimed: self.claimed,
        })
    }

    fn is_due_for_disk(&self) -> bool {
        matches!(self.place, Place::Disk) && self.buffer.len() > store::INLINE_BODY_MAX
    }

    /// Takes the room that the buffer has grown to, or refuses the message.
    fn claim(&mut self, room: &Room) {
        let beyond = self
            .buffer
            .capacity()
            .saturating_sub(store::INLINE_BODY_MAX);
        let claimed = self
            .claimed
            .as_ref()
            .map_or(0, OwnedSemaphorePermit::num_permits);
        let wanted = beyond.div_ceil(ROOM_UNIT).saturating_sub(claimed);
        if wanted == 0 {
            return;
        }
        let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
        match (
            Arc::clone(&room.0).try_acquire_many_owned(wanted),
            &mut self.claimed,
        ) {
            (Ok(more), Some(claimed)) => claimed.merge(more),
            (Ok(more), none) => *none = Some(more),
            (Err(_), _) => {
                let remedy = "listeners with delivery = \"direct\" share this room: lower \
                              max_message_size or max_connections, or use \"hybrid\"";
                tracing::warn!(event = "memory_full", octets_max = ROOM_LEN, remedy);
                self.refuse(Reply::STORE_FULL);
            }
        }
    }

    /// Everything that can be said about the message so far.
    fn judge(&mut self) {
        let faults = self.decoder.faults();
        if self.octets > self.octets_max {
            self.refuse(Reply::TOO_BIG);
        } else if faults.bare_ending {
            self.refuse(Reply::BARE_ENDINGS);
        } else if faults.nul {
            self.refuse(Reply::NUL_IN_DATA);
        }
        match &mut self.stage {
            Stage::Header(scan) => {
                if let Some(header) = scan.advance(&self.buffer) {
                    self.edit(&header);
                } else if scan.len(&self.buffer) > HEADER_LEN_MAX {
                    self.refuse(Reply::HEADER_TOO_BIG);
                }
            }
            Stage::Body => (),
            Stage::Refused(_) => self.buffer.clear(),
        }
    }

    /// The lines of the message from this place in the buffer on, where their length matters.
    fn judge_lines(&mut self, from: usize) {
        let text = self.buffer.get(from..).unwrap_or_default();
        let long = self
            .long_lines
            .as_mut()
            .is_some_and(|lines| lines.any(text));
        if long {
            self.refuse(Reply::DATA_LINE_TOO_LONG);
        }
    }

    /// The first refusal stands; what was kept is given up.
    fn refuse(&mut self, reply: Reply) {
        if self.refusal().is_none() {
            self.stage = Stage::Refused(reply);
            self.spill = None;
            self.buffer = Vec::new();
            self.claimed = None;
        }
    }

    /// The header section is complete.
    fn edit(&mut self, header: &Header) {
        if header.received > HOPS_MAX {
            self.refuse(Reply::LOOP);
            return;
        }
        if header.end > HEADER_LEN_MAX {
            self.refuse(Reply::HEADER_TOO_BIG);
            return;
        }
        let section = self.buffer.get(..header.end).unwrap_or_default();
        if header::passages(section, &self.additions.hostname) > PASSAGES_MAX {
            self.refuse(Reply::LOOP);
            return;
        }
        let fields = self.additions.missing(header, self.id);
        let end = header::edit(&mut self.buffer, header, fields.as_bytes());
        self.message_id = header::message_id(&self.buffer);
        lines::fold(&mut self.buffer, end);
        self.stage = Stage::Body;
        self.judge_lines(0);
    }

    async fn write_out(&mut self, queue: &Queue) {
        if self.refusal().is_some() {
            return;
        }
        let octets = std::mem::take(&mut self.buffer);
        let written = match &mut self.spill {
            Some(spill) => spill.write(octets).await,
            None => match queue.spill(self.id) {
                Ok(spill) => self.spill.insert(spill).write(octets).await,
                Err(error) => Err(error),
            },
        };
        match written {
            // What it grew to on the way here is given back.
            Ok(spare) if spare.capacity() > 2 * SPILL_WRITE_LEN => (),
            Ok(spare) => self.buffer = spare,
            Err(error) => self.refuse(refusal(&error)),
        }
    }
}

impl Additions {
    /// For a message of this sender; without one, our postmaster stands for it.
    pub(super) fn new(sender: Option<&ReversePath>, hostname: &str, at: Timestamp) -> Self {
        let from = match sender.and_then(ReversePath::address) {
            Some(address) => address.to_string(),
            None => format!("postmaster@{hostname}"),
        };
        Self {
            from,
            hostname: hostname.to_owned(),
            at,
        }
    }

    fn missing(&self, header: &Header, id: QueueId) -> String {
        let mut fields = String::new();
        if !header.date {
            fields.push_str(&format!("Date: {}\r\n", header::date(self.at)));
        }
        if !header.from {
            fields.push_str(&format!("From: <{}>\r\n", self.from));
        }
        if !header.message_id {
            // Of the queue id, so that a duplicate carries the same.
            fields.push_str(&format!("Message-ID: <{id}@{}>\r\n", self.hostname));
        }
        if !header.mime_version {
            // Without it a reader takes no notice of Content-Type and the encoding (RFC 2045 §4).
            fields.push_str("MIME-Version: 1.0\r\n");
        }
        fields
    }
}

fn in_memory(octets: Vec<u8>) -> Message {
    let sum = digest::digest(&digest::SHA256, &octets);
    Message {
        size: u64::try_from(octets.len()).unwrap_or(u64::MAX),
        digest: Digest(sum.as_ref().try_into().unwrap_or_default()),
        body: Body::Memory(Bytes::from(octets)),
    }
}

/// What the client reads when the store refuses; the operator reads the whole chain.
pub(super) fn refusal(error: &store::Error) -> Reply {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    match error {
        store::Error::Full(_) => {
            tracing::warn!(event = "store_full", cause, "no space left for mail");
            Reply::STORE_FULL
        }
        store::Error::Refused { .. }
        | store::Error::Broken { .. }
        | store::Error::Locked { .. }
        | store::Error::Newer { .. } => {
            tracing::error!(event = "store_failed", %error, cause, "mail is not accepted");
            Reply::STORE_BROKEN
        }
    }
}
