//! One session on a stream: reads, drives the machine, decides, writes.
//!
//! Everything a client pipelined in one segment is worked off before the replies go out in one
//! write, and before more is read. A session keeps one small read buffer; what it needs for data it
//! gives back.

mod contract;
mod visit;

use std::{pin::pin, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{self, Instant},
};
use tracing::Instrument;
use zeroize::Zeroize;

use visit::Said;

use super::{
    Contract, Deadlines, LineEndings, LongLines, Rules, Tls,
    begun::Begun,
    door::Context,
    intake::{self, Additions, Intake, Place, Taken},
    login::Outcome,
    policy,
    wire::{Hangup, Wire},
};
use crate::{
    mail::{self, AccountName, BodyType, QueueId, header::Trace},
    queue::{NewEntry, trace::Origin},
    route,
    secret::Secret,
    smtp::{
        data::decode::BareEnds,
        line::{Ending, Frame, Framer},
        replies::Reply,
        server::{Answer, Credentials, Question, Session, Step},
    },
};

/// How long a listener with `tls = "auto"` waits for a first octet before it greets. A TLS client
/// speaks as soon as it is connected: on a line with 300 ms of round trip, within 1.2 s even when
/// its hello was lost once. A plain client waits minutes for a greeting, and so much for this one.
const FIRST_OCTET_WAIT: Duration = Duration::from_millis(1500);
/// The first octet of a TLS hello (RFC 8446 §5.1: a handshake record); no command begins so.
const TLS_HANDSHAKE: u8 = 0x16;

/// A session from the first octet to the last.
pub(super) async fn serve<S>(mut stream: Begun<S>, context: Context)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let span = tracing::info_span!(
        "session",
        session = context.number,
        peer = %context.peer,
        listener = context.live.listener.name,
        proxy = context.peer.proxy.map(tracing::field::display),
    );
    let mut connection = Connection::new(context);
    let whole = async {
        let begins = connection.begins_with_tls(&mut stream).await;
        let Some(implicit) = begins else { return };
        let stream = if implicit {
            Some(stream)
        } else {
            let greeting = connection.session.greeting();
            connection.talk(stream, Some(greeting)).await
        };
        // What comes back wants TLS.
        let Some(stream) = stream else { return };
        let Some(stream) = connection.handshake(stream).await else {
            return;
        };
        let greeting = implicit.then(|| connection.session.greeting());
        // The machine does not offer TLS under TLS.
        drop(connection.talk(stream, greeting).await);
    };
    whole.instrument(span).await;
    connection.see_end();
}

#[derive(Debug)]
struct Connection {
    context: Context,
    session: Session,
    framer: Framer,
    said: Said,
    /// When the session is over, whatever it does.
    ends: Instant,
}

/// What comes after a step.
enum Flow {
    Continue,
    Close,
    StartTls,
}

impl Connection {
    fn new(context: Context) -> Self {
        let settings = context.live.settings(context.peer);
        let ending = match context.live.listener.line_endings {
            LineEndings::Strict => Ending::Crlf,
            LineEndings::Normalize => Ending::CrlfOrLf,
        };
        Self {
            session: Session::new(settings, false),
            framer: Framer::new(ending),
            said: Said::default(),
            ends: Instant::now() + context.shared.deadlines.session,
            context,
        }
    }

    /// Whether the client begins with TLS; `None`: it is gone, or we stop.
    async fn begins_with_tls<S>(&self, stream: &mut Begun<S>) -> Option<bool>
    where
        S: AsyncRead + Unpin,
    {
        match self.context.live.listener.tls {
            Tls::None | Tls::Starttls => return Some(false),
            Tls::Implicit => return Some(true),
            Tls::Auto => {}
        }
        // A proxy's header may have come with it.
        if stream.peeked().is_empty() {
            let peeked = tokio::select! {
                () = self.context.shared.tasks.stopped() => return None,
                peeked = time::timeout(FIRST_OCTET_WAIT, stream.peek(1)) => peeked,
            };
            if matches!(peeked, Ok(Ok(0) | Err(_))) {
                return None;
            }
        }
        Some(stream.peeked().first() == Some(&TLS_HANDSHAKE))
    }

    async fn handshake<S>(&mut self, stream: S) -> Option<tokio_rustls::server::TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let shared = Arc::clone(&self.context.shared);
        let acceptor = self.context.live.tls.as_ref()?.acceptor().await;
        let result = tokio::select! {
            () = shared.tasks.stopped() => return None,
            result = time::timeout(shared.deadlines.handshake, acceptor.accept(stream)) => result,
        };
        let reason = match result {
            Ok(Ok(stream)) => {
                self.session.tls_started();
                return Some(stream);
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "timeout".to_owned(),
        };
        tracing::info!(event = "session_refused", reason, "TLS handshake");
        self.see_trouble(
            format!("the TLS handshake failed: {reason}"),
            "the device must trust the listener's certificate and know TLS 1.2; if it cannot, give it \
             a listener with tls = \"none\" and an allow list",
        );
        None
    }

    /// Speaks SMTP until the session is over (`None`) or wants TLS.
    async fn talk<S>(&mut self, stream: S, greeting: Option<Reply>) -> Option<S>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let tasks = self.context.shared.tasks.clone();
        let stopped = pin!(tasks.stopped());
        let mut wire = Wire::new(stream, stopped);
        if let Some(greeting) = greeting {
            wire.put(&greeting);
        }
        let reply = match self.exchange(&mut wire).await {
            Ok(Flow::StartTls) => return wire.into_stream().await,
            Ok(Flow::Close | Flow::Continue) => None,
            Err(Hangup::Closed) => return None,
            Err(Hangup::TimedOut) => Some(Reply::TIMED_OUT),
            Err(Hangup::Stopped) => Some(Reply::SHUTTING_DOWN),
        };
        if let Some(reply) = reply {
            wire.put(&reply);
        }
        wire.close().await;
        None
    }

    /// Line by line until something ends it.
    async fn exchange<S, F>(&mut self, wire: &mut Wire<'_, S, F>) -> Result<Flow, Hangup>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
        F: Future<Output = ()>,
    {
        loop {
            // Between lines nothing is owed to anybody; in data it is, and this is not reached.
            if self.context.shared.tasks.is_stopped() {
                return Err(Hangup::Stopped);
            }
            if wire.input.first() == Some(&TLS_HANDSHAKE) {
                tracing::info!(event = "session_refused", reason = "begins with TLS");
                self.see_reply(&Reply::NOT_TLS);
                wire.put(&Reply::NOT_TLS);
                return Ok(Flow::Close);
            }
            let secret = self.session.in_auth();
            let line_len_max = self.session.line_len_max();
            let (frame, used) = self.framer.next(&wire.input, line_len_max);
            let (step, broken) = match frame {
                Frame::Line(line) => (self.session.line(line), false),
                Frame::Refused(fault) => (self.session.fault(fault), false),
                Frame::Broken(fault) => {
                    let remedy = "a device that sends bare LF needs line_endings = \"normalize\"";
                    tracing::info!(event = "session_refused", ?fault, remedy);
                    (self.session.fault(fault), true)
                }
                Frame::Incomplete => {
                    wire.consume(used);
                    let command = Instant::now() + self.context.shared.deadlines.command;
                    self.fill_line(wire, command).await?;
                    continue;
                }
            };
            if secret || self.session.in_auth() {
                wire.input.get_mut(..used).unwrap_or_default().zeroize();
            }
            wire.consume(used);
            match self.act(wire, step).await? {
                Flow::Continue if broken => return Ok(Flow::Close),
                Flow::Continue => (),
                over @ (Flow::Close | Flow::StartTls) => return Ok(over),
            }
        }
    }

    /// Reads until there may be a line; the deadline is the line's, not the octet's.
    async fn fill_line<S, F>(
        &mut self,
        wire: &mut Wire<'_, S, F>,
        deadline: Instant,
    ) -> Result<(), Hangup>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
        F: Future<Output = ()>,
    {
        let deadline = deadline.min(self.ends);
        loop {
            let before = wire.input.len();
            wire.fill(deadline).await?;
            let new = wire.input.get(before..).unwrap_or_default();
            // A TLS handshake has no end of line to wait for; an overlong line must reach the framer, which drops it.
            if memchr::memchr(b'\n', new).is_some()
                || wire.input.first() == Some(&TLS_HANDSHAKE)
                || wire.input.len() > self.session.line_len_max()
            {
                return Ok(());
            }
        }
    }

    async fn act<S, F>(&mut self, wire: &mut Wire<'_, S, F>, step: Step) -> Result<Flow, Hangup>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
        F: Future<Output = ()>,
    {
        let mut step = step;
        loop {
            step = match step {
                Step::Reply(reply) => {
                    self.see_reply(&reply);
                    wire.put(&reply);
                    wire.flush_if_full(self.ends).await?;
                    return Ok(Flow::Continue);
                }
                Step::Alone(reply) => {
                    self.see_reply(&reply);
                    wire.put(&reply);
                    return Ok(self.in_step(wire));
                }
                Step::Close(reply) => {
                    self.see_reply(&reply);
                    wire.put(&reply);
                    return Ok(Flow::Close);
                }
                Step::StartTls(_) if !wire.input.is_empty() => {
                    tracing::info!(event = "session_refused", reason = "octets behind STARTTLS");
                    self.see_reply(&Reply::INJECTED);
                    wire.put(&Reply::INJECTED);
                    return Ok(Flow::Close);
                }
                Step::StartTls(reply) => {
                    wire.put(&reply);
                    return Ok(Flow::StartTls);
                }
                Step::Ask(question) => {
                    self.heed(&question);
                    let answer = self.decide(question).await;
                    self.session.answer(answer)
                }
                Step::Data(reply) => return self.data(wire, &reply).await,
            };
        }
    }

    async fn decide(&self, question: Question) -> Answer {
        let shared = &self.context.shared;
        match question {
            Question::Login(Credentials::Password { username, password }) => {
                self.decide_login(&username, &password).await
            }
            // Not offered here.
            Question::Login(Credentials::Bearer { .. }) => Answer::Refuse(Reply::AUTH_FAILED),
            Question::Mail { reverse_path, .. } => {
                let rules = shared.rules();
                if !policy::may_send_as(&rules, self.session.login(), &reverse_path) {
                    return Answer::Refuse(self.refused(Reply::SENDER_REFUSED));
                }
                // What is never stored does not need the store.
                if self.context.live.listener.delivery == Contract::Direct {
                    return Answer::Accept;
                }
                match shared.queue.ready() {
                    Ok(()) => Answer::Accept,
                    Err(error) => Answer::Refuse(self.refused(intake::refusal(&error))),
                }
            }
            Question::Rcpt(_) => Answer::Accept,
        }
    }

    async fn decide_login(&self, username: &str, password: &Secret) -> Answer {
        let shared = &self.context.shared;
        let rules = shared.rules();
        let peer = self.context.peer.ip();
        let checked = shared
            .logins
            .check(&rules.clients, peer, username, password)
            .await;
        let (reason, reply) = match checked {
            Outcome::Right => return Answer::Accept,
            Outcome::Wrong => ("wrong credentials", Reply::AUTH_FAILED),
            Outcome::Disabled => ("the client is disabled", Reply::AUTH_FAILED),
            Outcome::TooSoon(wait) => {
                let wait_s = wait.as_secs();
                tracing::info!(
                    event = "session_refused",
                    reason = "too many failed logins",
                    wait_s
                );
                return Answer::Refuse(Reply::AUTH_LATER);
            }
            Outcome::Busy => ("too many logins at once", Reply::AUTH_UNAVAILABLE),
        };
        tracing::info!(event = "session_refused", reason);
        Answer::Refuse(reply)
    }

    /// Counts a refused transaction.
    fn refused(&self, reply: Reply) -> Reply {
        let label = [("code", reply.code().to_owned())];
        let metrics = &self.context.shared.metrics;
        metrics.messages_refused.get_or_create(&label).inc();
        reply
    }

    /// DATA: from the 354 to the reply behind the end.
    async fn data<S, F>(
        &mut self,
        wire: &mut Wire<'_, S, F>,
        go_ahead: &Reply,
    ) -> Result<Flow, Hangup>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
        F: Future<Output = ()>,
    {
        let rules = self.context.shared.rules();
        let Some(account) = self.route(&rules) else {
            tracing::info!(event = "session_refused", reason = "no route");
            self.see_reply(&Reply::NO_ROUTE);
            wire.put(&self.refused(Reply::NO_ROUTE));
            self.session.end_of_data();
            return Ok(self.in_step(wire));
        };
        let began = Instant::now();
        let id = self.context.shared.queue.next_id();
        // Boxed: it is a part of the session's future for all of the session otherwise.
        let mut intake = Box::new(self.intake(id, &rules));
        wire.put(go_ahead);
        let whole = self.read_data(wire, &mut intake).await?;
        let queue = &self.context.shared.queue;
        let taken = match intake.refusal() {
            Some(reply) => Err(reply.clone()),
            None => intake.finish(queue).await,
        };
        let reply = match taken {
            // Boxed for the same reason.
            Ok(taken) => Box::pin(self.accept(wire, (id, account), taken, began)).await?,
            Err(reply) => Err(reply),
        };
        match reply {
            Ok(reply) => wire.put(&reply),
            Err(reply) => {
                tracing::info!(event = "message_refused", queue_id = %id, reply = reply.code());
                self.see_reply(&reply);
                wire.put(&self.refused(reply));
            }
        }
        self.session.end_of_data();
        Ok(if whole { Flow::Continue } else { Flow::Close })
    }

    /// Reads to the end of data; `false` when the client went on beyond all bounds.
    async fn read_data<S, F>(
        &mut self,
        wire: &mut Wire<'_, S, F>,
        intake: &mut Intake,
    ) -> Result<bool, Hangup>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
        F: Future<Output = ()>,
    {
        let shared = Arc::clone(&self.context.shared);
        let mut block = Block::new(&shared.deadlines);
        loop {
            if !wire.input.is_empty() {
                let progress = intake.feed(&wire.input, &shared.queue).await;
                wire.consume(progress.used);
                block.took(progress.used, &shared.deadlines);
                if progress.ended {
                    return Ok(true);
                }
                if intake.is_overrun() {
                    return Ok(false);
                }
            }
            wire.fill_data(block.deadline.min(self.ends)).await?;
        }
    }

    /// After a DATA or STARTTLS that was refused: what the client sent without waiting is a message or
    /// a handshake. Read as commands it would be whatever its author liked.
    fn in_step<S, F>(&mut self, wire: &mut Wire<'_, S, F>) -> Flow
    where
        S: AsyncRead + AsyncWrite + Unpin,
        F: Future<Output = ()>,
    {
        if wire.input.is_empty() {
            return Flow::Continue;
        }
        let reason = "octets behind a refused DATA or STARTTLS";
        tracing::info!(event = "session_refused", reason);
        self.see_reply(&Reply::OUT_OF_STEP);
        wire.put(&Reply::OUT_OF_STEP);
        Flow::Close
    }

    fn route(&self, rules: &Rules) -> Option<AccountName> {
        let login = self.session.login();
        let client = login.and_then(|login| rules.clients.get(login));
        let origin = route::Origin {
            client: login,
            client_account: client.and_then(|client| client.account.as_ref()),
            listener: &self.context.live.listener.name,
            peer: self.context.peer.ip(),
        };
        let envelope = self.session.envelope()?;
        rules.router.route(envelope, &origin).cloned()
    }

    fn intake(&self, id: QueueId, rules: &Rules) -> Intake {
        let listener = &self.context.live.listener;
        let at = self.context.shared.clock.now();
        let bare = match listener.line_endings {
            LineEndings::Strict => BareEnds::Report,
            LineEndings::Normalize => BareEnds::Rewrite,
        };
        let envelope = self.session.envelope();
        let sender = envelope.map(|envelope| &envelope.reverse_path);
        let additions = Additions::new(sender, &rules.hostname, at);
        let mut intake = Intake::new(id, bare, listener.max_message_size, additions);
        if listener.long_lines == LongLines::Refuse {
            intake.refuse_long_lines();
        }
        if listener.delivery == Contract::Direct {
            intake.place(Place::Memory(self.context.shared.room.clone()));
        }
        let recipients = envelope.map_or(&[][..], |envelope| &envelope.recipients);
        intake.trace(&Trace {
            helo: self.session.helo().unwrap_or_default(),
            peer: self.context.peer.ip(),
            hidden: listener.hide_client_address,
            by: &rules.hostname,
            protocol: self.session.protocol(),
            id,
            recipient: match recipients {
                [only] => Some(&only.address),
                _ => None,
            },
            at,
        });
        intake
    }

    /// Who hands a message over, for the trace.
    fn origin(&self, message_id: Option<String>) -> Origin {
        Origin {
            peer: self.context.peer.to_string(),
            listener: self.context.live.listener.name.clone(),
            helo: mail::sanitise(self.session.helo().unwrap_or_default()),
            protocol: self.session.protocol().to_owned(),
            message_id,
        }
    }

    /// Hands the message over by the listener's contract; only its inner `Ok` makes a 250.
    async fn accept<S, F>(
        &mut self,
        wire: &mut Wire<'_, S, F>,
        (id, account): (QueueId, AccountName),
        taken: Taken,
        began: Instant,
    ) -> Result<Result<Reply, Reply>, Hangup>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
        F: Future<Output = ()>,
    {
        let Some(mut envelope) = self.session.take_envelope() else {
            return Ok(Err(Reply::MAIL_FIRST));
        };
        let Taken {
            message,
            eight_bit,
            message_id,
            claimed,
        } = taken;
        if eight_bit {
            envelope.body = BodyType::EightBitMime;
        }
        let (size, recipients) = (message.size, envelope.recipients.len());
        let client = self.session.login().map(str::to_owned);
        let entry = NewEntry {
            id,
            account: account.clone(),
            envelope,
            message,
            client,
        };
        let origin = self.origin(message_id);
        let contract = self.context.live.listener.delivery;
        let shared = &self.context.shared;
        let handed_over = contract::hand_over(contract, (entry, origin), shared, wire).await;
        drop(claimed);
        let reply = match handed_over? {
            Ok(reply) => reply,
            Err(reply) => return Ok(Err(reply)),
        };
        self.see_message(size);
        tracing::info!(
            event = "received",
            queue_id = %id,
            %account,
            size,
            recipients,
            client = self.session.login(),
            delivery = contract.name(),
            elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        );
        Ok(Ok(reply))
    }
}

/// The block of data whose deadline runs.
struct Block {
    deadline: Instant,
    octets: usize,
}

/// A client that sends less than this in a block's time sends to keep us busy.
const BLOCK_LEN: usize = 16 * 1024;

impl Block {
    fn new(deadlines: &Deadlines) -> Self {
        Self {
            deadline: Instant::now() + deadlines.data_block,
            octets: 0,
        }
    }

    fn took(&mut self, octets: usize, deadlines: &Deadlines) {
        self.octets += octets;
        if self.octets >= BLOCK_LEN {
            *self = Self::new(deadlines);
        }
    }
}

#[cfg(test)]
mod tests;
