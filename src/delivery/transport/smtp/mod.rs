//! SMTP upstream: one authenticated connection, and the transactions on it (RFC 5321, 2920, 3207,
//! 4954).
//!
//! The bytes are made and read by [`crate::smtp::client`]; this is the driver that owns the socket
//! and the deadlines. Invariants: nothing is said in clear that must not be; a reply that was not
//! asked for ends the session; the end of the data is sent only after `ready` allowed it.

mod login;
#[cfg(test)]
pub(crate) mod memory;
mod stream;

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::Poll,
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    time::{Instant, timeout_at},
};

pub(crate) use self::login::Journal;
use self::stream::Stream;
use super::{Answers, Cause, Failure, Job, Phase, body::Reader};
use crate::{
    mail::{Body, BodyType, EnhancedCode, Message, Reply},
    smtp::{
        client::{self, Capabilities, CommandError, Mail, ReplyError, ReplyLines, ReplyReader},
        data::encode::{Encoder, TERMINATOR},
    },
};

/// An upstream connection that has said EHLO.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: Stream,
    reader: ReplyReader,
    capabilities: Capabilities,
    /// The server's name as configured.
    host: String,
    /// What is written next; kept for its capacity.
    out: Vec<u8>,
    /// Where a read lands; small, because replies are.
    inbox: Box<[u8]>,
    /// A transaction may be open: RSET comes first.
    open: bool,
    /// Whether nothing more can be said here.
    broken: bool,
    journal: Journal,
}

/// What the replies to MAIL, RCPT and DATA were.
#[derive(Debug)]
struct EnvelopeReplies {
    mail: Reply,
    rcpts: Vec<Reply>,
    data: Option<Reply>,
}

impl Connection {
    /// What the server offers.
    pub(crate) fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Whether another transaction can be tried.
    pub(crate) fn is_usable(&self) -> bool {
        !self.broken
    }

    /// The steps recorded so far.
    pub(crate) fn journal(&mut self) -> &mut Journal {
        &mut self.journal
    }

    /// Sends one message: MAIL, RCPT and DATA in one write where the server offers PIPELINING, then
    /// the message. `ready` is awaited before the end of the data is sent; when it says no, the
    /// message is not sent and the connection is given up.
    ///
    /// The answer has one reply for each recipient. A refusal is a value, also one that we know
    /// beforehand from what the server offers (size, 8-bit data, SMTPUTF8).
    ///
    /// # Errors
    /// [`Failure`] when the session ended first; `uncertain` when the end of the data was sent.
    ///
    /// # Cancel safety
    /// Not cancel safe: the connection must then be dropped, and the message may have been taken.
    pub(crate) async fn transact(
        &mut self,
        job: &Job<'_>,
        ready: impl Future<Output = bool>,
    ) -> Result<Answers, Failure> {
        self.journal.begin();
        if let Some(reply) = self.refused_beforehand(job).await? {
            return Ok(same(job.recipients.len(), Phase::Mail, &reply));
        }
        let unsaid = self.unsaid(job);
        let answers = if unsaid.iter().all(Option::is_none) {
            self.transaction(job, ready).await
        } else {
            self.transaction_without(unsaid, job, ready).await
        };
        let lost = match &answers {
            Err(_) => true,
            Ok(answers) => answers.iter().any(|(_, reply)| reply.code == CLOSING),
        };
        // An answer to no question: nobody knows what the next one would belong to.
        self.broken |= lost || !self.reader.is_drained();
        if self.out.capacity() > OUT_KEPT {
            self.out = Vec::new();
        }
        answers
    }

    /// By recipient: the refusal where its RCPT cannot be said to this server. The others are not to
    /// blame for its address (RFC 6531 §3.4).
    fn unsaid(&mut self, job: &Job<'_>) -> Vec<Option<Reply>> {
        self.out.clear();
        let (capabilities, out) = (&self.capabilities, &mut self.out);
        let recipients = job.recipients.iter();
        let said = recipients.map(|recipient| client::rcpt(recipient, capabilities, out));
        said.map(|said| said.err().map(unsayable)).collect()
    }

    /// The transaction of those whose address can be said; all or none of them as the job wants.
    async fn transaction_without(
        &mut self,
        unsaid: Vec<Option<Reply>>,
        job: &Job<'_>,
        ready: impl Future<Output = bool>,
    ) -> Result<Answers, Failure> {
        let recipients = job.recipients.iter().zip(&unsaid);
        let sayable = recipients.filter(|(_, refusal)| refusal.is_none());
        let part = Job {
            recipients: sayable.map(|(recipient, _)| *recipient).collect(),
            ..job.clone()
        };
        let refusal = unsaid.iter().flatten().next();
        let mut answers = match refusal {
            Some(refusal) if job.all_or_none || part.recipients.is_empty() => {
                return Ok(same(unsaid.len(), Phase::Rcpt, refusal));
            }
            Some(_) | None => self.transaction(&part, ready).await?.into_iter(),
        };
        let each = unsaid.into_iter().filter_map(|refusal| match refusal {
            Some(refusal) => Some((Phase::Rcpt, refusal)),
            None => answers.next(),
        });
        Ok(each.collect())
    }

    async fn transaction(
        &mut self,
        job: &Job<'_>,
        ready: impl Future<Output = bool>,
    ) -> Result<Answers, Failure> {
        let replies = match self.envelope(job).await? {
            Ok(replies) => replies,
            Err(reply) => return Ok(same(job.recipients.len(), Phase::Mail, &reply)),
        };
        let accepted = replies.rcpts.iter().filter(|r| r.is_positive()).count();
        let wants_data = replies.data.as_ref().is_some_and(|r| r.code == START_INPUT);
        self.open = replies.mail.is_positive() && !wants_data;
        if wants_data && (accepted == 0 || !replies.mail.is_positive()) {
            // RFC 2920 §3.1: nobody wants it, yet the server waits for data.
            self.out.clear();
            self.out.extend_from_slice(TERMINATOR);
            self.exchange(Phase::Data, DATA_END_TIMEOUT).await?;
        }
        if !replies.mail.is_positive() {
            return Ok(same(job.recipients.len(), Phase::Mail, &replies.mail));
        }
        if let Some(reply) = refusal_of_all(job, &replies.rcpts) {
            // The server waits for data that must not come; an empty message would be one.
            self.broken |= wants_data && accepted > 0;
            return Ok(same(job.recipients.len(), Phase::Rcpt, reply));
        }
        let decided = match replies.data {
            _ if accepted == 0 => None,
            Some(reply) if reply.code == START_INPUT => {
                self.journal.ok("rcpt", || format!("{accepted} accepted"));
                Some(self.message(job, ready).await?)
            }
            Some(reply) => Some((Phase::Data, negative(Phase::Data, reply)?)),
            None => None,
        };
        let answers = replies.rcpts.into_iter().map(|reply| match &decided {
            Some(decided) if reply.is_positive() => decided.clone(),
            Some(_) | None => (Phase::Rcpt, reply),
        });
        Ok(answers.collect())
    }

    /// MAIL, RCPT and DATA. `Err`: a command cannot be said to this server, nothing was sent.
    async fn envelope(&mut self, job: &Job<'_>) -> Result<Result<EnvelopeReplies, Reply>, Failure> {
        self.out.clear();
        let reset = self.open;
        if let Err(error) = self.compose(job, reset) {
            return Ok(Err(unsayable(error)));
        }
        if !self.capabilities.pipelining() {
            return self.envelope_in_steps(job, reset).await.map(Ok);
        }
        self.write(Phase::Mail, MAIL_TIMEOUT).await?;
        if reset {
            self.read(Phase::Mail, MAIL_TIMEOUT).await?;
        }
        let mail = self.read(Phase::Mail, MAIL_TIMEOUT).await?;
        let mail = not_intermediate(Phase::Mail, mail)?;
        self.journal.reply("mail", &mail);
        let mut rcpts = Vec::with_capacity(job.recipients.len());
        for _ in &job.recipients {
            let reply = self.read(Phase::Rcpt, RCPT_TIMEOUT).await?;
            rcpts.push(not_intermediate(Phase::Rcpt, reply)?);
        }
        let data = Some(self.read(Phase::Data, DATA_TIMEOUT).await?);
        Ok(Ok(EnvelopeReplies { mail, rcpts, data }))
    }

    /// Writes the whole envelope into `out`.
    fn compose(&mut self, job: &Job<'_>, reset: bool) -> Result<(), CommandError> {
        if reset {
            self.out.extend_from_slice(b"RSET\r\n");
        }
        mail_command(job).encode(&self.capabilities, &mut self.out)?;
        for recipient in &job.recipients {
            client::rcpt(recipient, &self.capabilities, &mut self.out)?;
        }
        self.out.extend_from_slice(b"DATA\r\n");
        Ok(())
    }

    /// The envelope for a server without PIPELINING: a command, a reply.
    async fn envelope_in_steps(
        &mut self,
        job: &Job<'_>,
        reset: bool,
    ) -> Result<EnvelopeReplies, Failure> {
        // Everything is composed already; it is cut at its line ends and sent line by line.
        let composed = std::mem::take(&mut self.out);
        let mut lines = composed.split_inclusive(|octet| *octet == b'\n');
        if reset {
            self.step(lines.next(), Phase::Mail, MAIL_TIMEOUT).await?;
        }
        let mail = self.step(lines.next(), Phase::Mail, MAIL_TIMEOUT).await?;
        let mail = not_intermediate(Phase::Mail, mail)?;
        self.journal.reply("mail", &mail);
        let mut rcpts = Vec::with_capacity(job.recipients.len());
        if mail.is_positive() {
            for _ in &job.recipients {
                let reply = self.step(lines.next(), Phase::Rcpt, RCPT_TIMEOUT).await?;
                rcpts.push(not_intermediate(Phase::Rcpt, reply)?);
            }
        }
        let data = if rcpts.iter().any(Reply::is_positive) {
            Some(self.step(lines.next(), Phase::Data, DATA_TIMEOUT).await?)
        } else {
            None
        };
        Ok(EnvelopeReplies { mail, rcpts, data })
    }

    async fn step(
        &mut self,
        line: Option<&[u8]>,
        phase: Phase,
        limit: Duration,
    ) -> Result<Reply, Failure> {
        self.out.clear();
        self.out.extend_from_slice(line.unwrap_or_default());
        self.exchange(phase, limit).await
    }

    /// Sends the message and its end. The reply, or an earlier one that cut the message short.
    async fn message(
        &mut self,
        job: &Job<'_>,
        ready: impl Future<Output = bool>,
    ) -> Result<(Phase, Reply), Failure> {
        let mut encoder = Encoder::new();
        self.out.clear();
        let mut start = 0;
        if let Some(head) = job.head {
            start = head.replaces;
            encoder.encode(&head.octets, &mut self.out);
        }
        match &job.message.body {
            Body::Memory(octets) => {
                let octets = octets.get(start..).unwrap_or_default();
                let (last, before) = split_last_piece(octets);
                for piece in before.chunks(PIECE) {
                    encoder.encode(piece, &mut self.out);
                    if let Some(reply) = self.piece().await? {
                        return Ok((Phase::Body, reply));
                    }
                }
                encoder.encode(last, &mut self.out);
            }
            Body::File(file) => {
                let start = u64::try_from(start).unwrap_or(u64::MAX);
                let mut reader = Reader::new(file, start);
                loop {
                    let read = reader.next().await;
                    let read = read.map_err(|error| body_failure(Cause::Body(error)))?;
                    if read.is_empty() {
                        break;
                    }
                    encoder.encode(read, &mut self.out);
                    if let Some(reply) = self.piece().await? {
                        return Ok((Phase::Body, reply));
                    }
                }
            }
        }
        encoder.finish(&mut self.out);
        self.end(ready).await
    }

    /// Sends what is encoded so far. A reply that came meanwhile is the server's last word.
    async fn piece(&mut self) -> Result<Option<Reply>, Failure> {
        if let Some(early) = self.early().map_err(body_failure)? {
            return self.cut_short(early).map(Some);
        }
        let written = self.write(Phase::Body, BLOCK_TIMEOUT).await;
        // A server that refuses says why before it closes: that is worth more than "broken pipe".
        match (self.early(), written) {
            (Ok(Some(early)), _) => self.cut_short(early).map(Some),
            (Ok(None), Ok(())) => Ok(None),
            (_, Err(failure)) => Err(failure),
            (Err(cause), Ok(())) => Err(body_failure(cause)),
        }
    }

    /// Sends the rest with the end of the data, once allowed, and reads the verdict.
    async fn end(&mut self, ready: impl Future<Output = bool>) -> Result<(Phase, Reply), Failure> {
        if !ready.await {
            self.broken = true;
            return Err(body_failure(Cause::Unsettled));
        }
        if let Some(early) = self.early().map_err(body_failure)? {
            return self.cut_short(early).map(|reply| (Phase::Body, reply));
        }
        let uncertain = |failure: Failure| Failure {
            uncertain: true,
            ..failure
        };
        let left = self.out.len();
        if let Err((failure, written)) = self.write_counting(Phase::End, BLOCK_TIMEOUT).await {
            return match self.early() {
                Ok(Some(early)) => self.cut_short(early).map(|reply| (Phase::Body, reply)),
                // The last octet of the end never left: nothing can have been taken.
                Ok(None) | Err(_) if written < left => Err(failure),
                Ok(None) | Err(_) => Err(uncertain(failure)),
            };
        }
        let reply = self
            .read(Phase::End, DATA_END_TIMEOUT)
            .await
            .map_err(uncertain)?;
        let reply = not_intermediate(Phase::End, reply).map_err(uncertain)?;
        self.journal.reply("data", &reply);
        Ok((Phase::End, reply))
    }

    /// A reply in the middle of the message. Nothing more can be said on this connection, because
    /// the server still takes what follows for data; a positive one answers nothing we asked.
    fn cut_short(&mut self, reply: ReplyLines) -> Result<Reply, Failure> {
        self.broken = true;
        negative(Phase::Body, reply.into_reply())
    }

    /// A reply that has already arrived, without waiting for one.
    fn early(&mut self) -> Result<Option<ReplyLines>, Cause> {
        if let Some(reply) = self.reader.reply().map_err(Cause::Garbage)? {
            return Ok(Some(reply));
        }
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match poll_read(&mut self.stream, &mut self.inbox, &mut context) {
            Poll::Pending => Ok(None),
            Poll::Ready(Err(cause)) => Err(cause),
            Poll::Ready(Ok(octets)) => {
                self.reader
                    .feed(self.inbox.get(..octets).unwrap_or_default());
                self.reader.reply().map_err(Cause::Garbage)
            }
        }
    }

    /// What this server would refuse anyway, or must not be sent.
    async fn refused_beforehand(&self, job: &Job<'_>) -> Result<Option<Reply>, Failure> {
        let refuse = |code, (a, b, c), text: String| {
            Ok(Some(Reply::new(code, Some(EnhancedCode(a, b, c)), text)))
        };
        let size = job.size();
        if let Some(max) = self.capabilities.size_max().filter(|max| size > *max) {
            let text = format!("message of {size} octets is above the limit of {max} octets");
            return refuse(552, (5, 3, 4), text);
        }
        let eight_bit = job.body == BodyType::EightBitMime && !self.capabilities.eight_bit_mime();
        let utf8 = job.smtputf8 && !self.capabilities.smtputf8();
        // Many clients declare what they then do not use: look before refusing.
        if (eight_bit || utf8) && !is_ascii(job.message).await? {
            return if utf8 {
                refuse(553, (5, 6, 7), "the server does not offer SMTPUTF8".into())
            } else {
                refuse(554, (5, 6, 3), "the server does not take 8-bit data".into())
            };
        }
        Ok(None)
    }

    /// Writes `out` and reads one reply, within `limit`.
    async fn exchange(&mut self, phase: Phase, limit: Duration) -> Result<Reply, Failure> {
        self.write(phase, limit).await?;
        self.read(phase, limit).await
    }

    /// Writes `out`, taking in replies while the server does not read: neither side waits for ever.
    async fn write(&mut self, phase: Phase, limit: Duration) -> Result<(), Failure> {
        let written = self.write_counting(phase, limit).await;
        written.map_err(|(failure, _)| failure)
    }

    /// As [`Connection::write`]; a failure comes with how many octets were on their way.
    async fn write_counting(
        &mut self,
        phase: Phase,
        limit: Duration,
    ) -> Result<(), (Failure, usize)> {
        let mut written = 0;
        let writing = async {
            while let Some(rest @ [_, ..]) = self.out.get(written..) {
                let (stream, inbox) = (&mut self.stream, &mut self.inbox);
                let progress = poll_fn(|context| poll_progress(stream, inbox, rest, context));
                let read = match progress.await? {
                    Progress::Wrote(octets) => {
                        written += octets;
                        0
                    }
                    Progress::Read(octets) => octets,
                };
                self.reader.feed(inbox.get(..read).unwrap_or_default());
                if self.reader.unread() > client::REPLY_LEN_MAX {
                    return Err(Cause::Garbage(ReplyError::TooLong));
                }
                // A reply in the middle of the message ends it.
                if phase == Phase::Body && !self.reader.is_drained() {
                    break;
                }
            }
            self.stream.flush().await.map_err(Cause::Io)
        };
        let done = within(limit, writing).await;
        self.out.clear();
        done.map_err(|cause| (self.failed(phase, cause), written))
    }

    /// Reads one reply within `limit`.
    async fn read(&mut self, phase: Phase, limit: Duration) -> Result<Reply, Failure> {
        let lines = self.read_lines(phase, limit).await?;
        Ok(lines.into_reply())
    }

    async fn read_lines(&mut self, phase: Phase, limit: Duration) -> Result<ReplyLines, Failure> {
        let reading = async {
            loop {
                if let Some(reply) = self.reader.reply().map_err(Cause::Garbage)? {
                    return Ok(reply);
                }
                let read = self.stream.read(&mut self.inbox).await;
                match self.inbox.get(..read.map_err(Cause::Io)?) {
                    Some(octets @ [_, ..]) => self.reader.feed(octets),
                    Some([]) | None => return Err(Cause::Closed),
                }
            }
        };
        let done = within(limit, reading).await;
        done.map_err(|cause| self.failed(phase, cause))
    }

    fn failed(&mut self, phase: Phase, cause: Cause) -> Failure {
        self.broken = true;
        Failure {
            phase,
            cause,
            uncertain: false,
        }
    }

    /// Says goodbye, without insisting.
    pub(crate) async fn quit(mut self) {
        if self.is_usable() {
            self.out.clear();
            self.out.extend_from_slice(b"QUIT\r\n");
            // Whether the server hears it changes nothing.
            if self.exchange(Phase::Connect, QUIT_TIMEOUT).await.is_ok() {
                self.stream.shutdown().await.unwrap_or_default();
            }
        }
    }
}

enum Progress {
    Wrote(usize),
    Read(usize),
}

/// Writes; where that would block, reads.
fn poll_progress(
    stream: &mut Stream,
    inbox: &mut [u8],
    octets: &[u8],
    context: &mut std::task::Context<'_>,
) -> Poll<Result<Progress, Cause>> {
    match Pin::new(&mut *stream).poll_write(context, octets) {
        Poll::Ready(Ok(0)) => Poll::Ready(Err(Cause::Closed)),
        Poll::Ready(Ok(octets)) => Poll::Ready(Ok(Progress::Wrote(octets))),
        Poll::Ready(Err(error)) => Poll::Ready(Err(Cause::Io(error))),
        Poll::Pending => poll_read(stream, inbox, context).map_ok(Progress::Read),
    }
}

fn poll_read(
    stream: &mut Stream,
    inbox: &mut [u8],
    context: &mut std::task::Context<'_>,
) -> Poll<Result<usize, Cause>> {
    let mut buffer = ReadBuf::new(inbox);
    match Pin::new(stream).poll_read(context, &mut buffer) {
        Poll::Pending => Poll::Pending,
        Poll::Ready(Err(error)) => Poll::Ready(Err(Cause::Io(error))),
        Poll::Ready(Ok(())) if buffer.filled().is_empty() => Poll::Ready(Err(Cause::Closed)),
        Poll::Ready(Ok(())) => Poll::Ready(Ok(buffer.filled().len())),
    }
}

/// `future`, or [`Cause::Timeout`]. The limit counts from now: a server that drips octets gains
/// nothing.
async fn within<T>(
    limit: Duration,
    future: impl Future<Output = Result<T, Cause>>,
) -> Result<T, Cause> {
    timeout_at(Instant::now() + limit, future)
        .await
        .unwrap_or(Err(Cause::Timeout(limit)))
}

fn mail_command<'a>(job: &'a Job<'_>) -> Mail<'a> {
    Mail {
        reverse_path: job.sender,
        size: job.size(),
        body: job.body,
        smtputf8: job.smtputf8,
        ret: job.ret,
        envid: job.envid,
    }
}

fn same(recipients: usize, phase: Phase, reply: &Reply) -> Answers {
    vec![(phase, reply.clone()); recipients]
}

/// The refusal of one recipient that keeps the message from all; one for good before others.
fn refusal_of_all<'a>(job: &Job<'_>, rcpts: &'a [Reply]) -> Option<&'a Reply> {
    let mut refused = rcpts.iter().filter(|reply| !reply.is_positive());
    let first = refused.clone().next().filter(|_| job.all_or_none)?;
    Some(refused.find(|reply| reply.is_permanent()).unwrap_or(first))
}

fn body_failure(cause: Cause) -> Failure {
    Failure {
        phase: Phase::Body,
        cause,
        uncertain: false,
    }
}

/// A reply that must be a refusal: a positive one here answers nothing we asked.
fn negative(phase: Phase, reply: Reply) -> Result<Reply, Failure> {
    if reply.is_transient() || reply.is_permanent() {
        return Ok(reply);
    }
    Err(Failure {
        phase,
        cause: Cause::Unexpected(reply),
        uncertain: false,
    })
}

/// 3yz has a meaning after DATA and AUTH alone.
fn not_intermediate(phase: Phase, reply: Reply) -> Result<Reply, Failure> {
    if (300..400).contains(&reply.code) {
        return negative(phase, reply);
    }
    Ok(reply)
}

/// The refusal that stands for a command we cannot say.
fn unsayable(error: CommandError) -> Reply {
    let (code, enhanced) = match error {
        CommandError::Smtputf8 => (553, EnhancedCode(5, 6, 7)),
        CommandError::Control => (501, EnhancedCode(5, 1, 7)),
    };
    Reply::new(code, Some(enhanced), error.to_string())
}

/// The last piece of a message, and all before it: a message that fits into one piece is sent in
/// one write, with its end.
fn split_last_piece(octets: &[u8]) -> (&[u8], &[u8]) {
    let before = octets.len().saturating_sub(1) / PIECE * PIECE;
    let (before, last) = octets.split_at(before);
    (last, before)
}

async fn is_ascii(message: &Message) -> Result<bool, Failure> {
    let file = match &message.body {
        Body::Memory(octets) => return Ok(octets.is_ascii()),
        Body::File(file) => file,
    };
    let scan = async {
        let mut reader = Reader::new(file, 0);
        loop {
            match reader.next().await? {
                [] => return Ok(true),
                octets if octets.is_ascii() => {}
                _ => return Ok(false),
            }
        }
    };
    scan.await.map_err(|error| body_failure(Cause::Body(error)))
}

/// 421: the server closes the connection (RFC 5321 §4.2.2).
pub(crate) const CLOSING: u16 = 421;
const START_INPUT: u16 = 354;

/// RFC 5321 §4.5.3.2.2.
const MAIL_TIMEOUT: Duration = Duration::from_secs(300);
/// RFC 5321 §4.5.3.2.3.
const RCPT_TIMEOUT: Duration = Duration::from_secs(300);
/// RFC 5321 §4.5.3.2.4.
const DATA_TIMEOUT: Duration = Duration::from_secs(120);
/// RFC 5321 §4.5.3.2.5.
const BLOCK_TIMEOUT: Duration = Duration::from_secs(180);
/// RFC 5321 §4.5.3.2.6: giving up earlier makes duplicates.
const DATA_END_TIMEOUT: Duration = Duration::from_secs(600);
/// Nothing depends on the answer.
const QUIT_TIMEOUT: Duration = Duration::from_secs(2);

/// Octets of a message handled at once: bounds the memory of a transaction whatever its size.
const PIECE: usize = 64 * 1024;
/// An output buffer above this is not kept between messages.
const OUT_KEPT: usize = 32 * 1024;

#[cfg(test)]
mod tests;
