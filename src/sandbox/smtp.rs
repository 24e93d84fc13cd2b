//! SMTP: drives [`crate::smtp::server`] over a socket; logs in by bearer token alone, under TLS.
//!
//! Memory is bounded by sessions × buffers and by one budget for all messages under way.

use std::{io, sync::Arc, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};
use tokio_rustls::TlsAcceptor;

use super::{Shared, api::opens, faults::Deed, mailbox::Received};
use crate::{
    net::tasks::Tasks,
    oauth::Service,
    smtp::{
        data::decode::{BareEnds, Decoder},
        line::{Ending, Fault, Frame, Framer},
        replies::Reply,
        server::{Answer, Credentials, Dsn, Mechanism, Question, Session, Settings, Step},
    },
};

/// What Microsoft allows by default: a relay that forgets the limit learns it here.
const MESSAGE_LEN_MAX: usize = 35 * 1024 * 1024;

/// What Exchange takes by default.
const RECIPIENTS_MAX: usize = 500;

/// More than any relay opens in a rehearsal.
const SESSIONS_MAX: usize = 256;

/// All messages under way, in KiB.
const BUDGET_KIB: usize = 256 * 1024;

/// RFC 5321 §4.5.3.2: five minutes for a command.
const READ_TIMEOUT: Duration = Duration::from_secs(300);

/// For a reply, and for a handshake: a peer that does not take part is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// Octets read at once.
const READ_LEN: usize = 16 * 1024;

/// When the system has no descriptor left, accepting again at once would only burn its time.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// As Google words it; base64 is the machine's part.
const CHALLENGE: &str = r#"{"status":"400","schemes":"Bearer","scope":"https://mail.google.com/"}"#;

const TOKEN_DEAD: Reply = Reply(std::borrow::Cow::Borrowed(
    "535 5.7.8 the access token is unknown, expired or revoked\r\n",
));
const TOKEN_ELSEWHERE: Reply = Reply(std::borrow::Cow::Borrowed(
    "535 5.7.8 the access token is not for this mailbox\r\n",
));

/// What every session needs.
#[derive(Clone)]
struct Server {
    shared: Arc<Shared>,
    settings: Arc<Settings>,
    acceptor: TlsAcceptor,
    budget: Arc<Semaphore>,
    tasks: Tasks,
}

/// Serves until told to stop.
pub(super) async fn serve(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    shared: Arc<Shared>,
    tasks: Tasks,
) {
    let slots = Arc::new(Semaphore::new(SESSIONS_MAX));
    let server = Server {
        shared,
        settings: Arc::new(settings()),
        acceptor,
        budget: Arc::new(Semaphore::new(BUDGET_KIB)),
        tasks: tasks.clone(),
    };
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = tasks.stopped() => return,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let slot = Arc::clone(&slots).try_acquire_owned().ok();
        let server = server.clone();
        tasks.spawn("sandbox_session", async move {
            if let Err(error) = server.session(stream, slot).await {
                tracing::debug!(event = "sandbox_session_failed", %error);
            }
        });
    }
}

fn settings() -> Settings {
    Settings {
        hostname: "sandbox.gatepost.invalid".to_owned(),
        max_message_size: u64::try_from(MESSAGE_LEN_MAX).unwrap_or(u64::MAX),
        max_recipients: RECIPIENTS_MAX,
        starttls: true,
        mechanisms: vec![Mechanism::Xoauth2, Mechanism::OauthBearer],
        auth_required: true,
        auth_without_tls: false,
        dsn: Dsn::Offered,
        qualify_domain: "sandbox.gatepost.invalid".to_owned(),
    }
}

/// Whether a session goes on.
#[derive(Debug, PartialEq, Eq)]
enum Flow {
    Go,
    StartTls,
    End,
    /// It ends without a close.
    Reset,
}

/// What was read.
enum Input {
    Line(Vec<u8>),
    Refused(Fault),
    Broken(Fault),
    /// Closed by the peer.
    Gone,
    /// Nothing for too long.
    Silent,
    /// We stop.
    Stopping,
}

/// One side of a session: before STARTTLS, or after it.
struct Talk<'a, S> {
    server: &'a Server,
    session: &'a mut Session,
    stream: S,
    input: BytesMut,
}

impl Server {
    /// `slot`: none when all are taken.
    async fn session(
        &self,
        stream: TcpStream,
        slot: Option<OwnedSemaphorePermit>,
    ) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut session = Session::new(Arc::clone(&self.settings), false);
        let mut clear = self.talk(&mut session, stream);
        if slot.is_none() {
            return clear.write(&Reply::TOO_MANY_SESSIONS).await;
        }
        let greeting = clear.session.greeting();
        match self.play("banner").await {
            Some(deed) => return clear.instead(deed).await.map(|_| ()),
            None => clear.write(&greeting).await?,
        }
        if clear.run().await? != Flow::StartTls {
            return Ok(());
        }
        let accept = self.acceptor.accept(clear.stream);
        let stream = timeout(WRITE_TIMEOUT, accept).await??;
        session.tls_started();
        let mut secured = self.talk(&mut session, stream);
        if secured.run().await? == Flow::Reset {
            return secured.stream.get_ref().0.set_zero_linger();
        }
        // A peer that has hung up already does not need the close_notify.
        secured.stream.shutdown().await.or(Ok(()))
    }

    fn talk<'a, S>(&'a self, session: &'a mut Session, stream: S) -> Talk<'a, S> {
        Talk {
            server: self,
            session,
            stream,
            input: BytesMut::new(),
        }
    }

    /// Waits as the script says, and gives what it says to do.
    async fn play(&self, phase: &str) -> Option<Deed> {
        let play = self.shared.script.take(phase);
        if let Some(delay) = play.delay {
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = self.tasks.stopped() => {}
            }
        }
        play.deed
    }

    /// Only a live token that this sandbox issued, and only for its own mailbox.
    fn login(&self, credentials: &Credentials) -> Answer {
        let Credentials::Bearer { username, token } = credentials else {
            return Answer::Refuse(Reply::AUTH_FAILED);
        };
        let grants = self.shared.provider.grants();
        let live = grants.live(token.expose(), Instant::now());
        drop(grants);
        match live {
            // Microsoft's mail servers refuse a token for Graph.
            Some(live) if !opens(&live.scope, Service::Smtp) => {
                Answer::Challenge(CHALLENGE.to_owned(), TOKEN_ELSEWHERE)
            }
            Some(live) if live.consent.covers(username) => Answer::Accept,
            Some(_) => Answer::Challenge(CHALLENGE.to_owned(), TOKEN_ELSEWHERE),
            None => Answer::Challenge(CHALLENGE.to_owned(), TOKEN_DEAD),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Talk<'_, S> {
    /// Until the session ends or TLS begins.
    async fn run(&mut self) -> io::Result<Flow> {
        let mut framer = Framer::new(Ending::Crlf);
        loop {
            let line_len_max = self.session.line_len_max();
            let input = self.read(&mut framer, line_len_max).await?;
            let flow = self.react(input).await?;
            if flow != Flow::Go {
                return Ok(flow);
            }
        }
    }

    async fn react(&mut self, input: Input) -> io::Result<Flow> {
        let step = match input {
            Input::Line(line) => {
                if is_hello(&line)
                    && !self.session.in_auth()
                    && let Some(deed) = self.server.play("ehlo").await
                {
                    return self.instead(deed).await;
                }
                self.session.line(&line)
            }
            Input::Refused(fault) => self.session.fault(fault),
            Input::Broken(fault) => match self.session.fault(fault) {
                Step::Reply(reply) | Step::Alone(reply) | Step::Close(reply) => Step::Close(reply),
                // A refused line leads to nothing else.
                Step::StartTls(_) | Step::Ask(_) | Step::Data(_) => return Ok(Flow::End),
            },
            Input::Silent => Step::Close(Reply::TIMED_OUT),
            Input::Stopping => Step::Close(Reply::SHUTTING_DOWN),
            Input::Gone => return Ok(Flow::End),
        };
        self.act(step).await
    }

    async fn act(&mut self, step: Step) -> io::Result<Flow> {
        match step {
            Step::Reply(reply) => self.write(&reply).await.map(|()| Flow::Go),
            Step::Alone(reply) if !self.input.is_empty() => {
                self.write(&reply).await?;
                self.write(&Reply::OUT_OF_STEP).await.map(|()| Flow::End)
            }
            Step::Alone(reply) => self.write(&reply).await.map(|()| Flow::Go),
            Step::Close(reply) => self.write(&reply).await.map(|()| Flow::End),
            Step::StartTls(reply) => match self.server.play("starttls").await {
                Some(deed) => self.instead(deed).await,
                None if self.input.is_empty() => self.write(&reply).await.map(|()| Flow::StartTls),
                None => self.write(&Reply::INJECTED).await.map(|()| Flow::End),
            },
            Step::Ask(question) => self.ask(&question).await,
            Step::Data(reply) => match self.server.play("data").await {
                Some(deed) => {
                    self.session.end_of_data();
                    self.instead(deed).await
                }
                None => {
                    self.write(&reply).await?;
                    let flow = self.data().await;
                    self.session.end_of_data();
                    flow
                }
            },
        }
    }

    async fn ask(&mut self, question: &Question) -> io::Result<Flow> {
        let phase = match question {
            Question::Login(_) => "auth",
            Question::Mail { .. } => "mail",
            Question::Rcpt(_) => "rcpt",
        };
        let deed = self.server.play(phase).await;
        let answer = match (deed, question) {
            (Some(Deed::Reply(text)), _) if text.starts_with("421") => {
                return self.instead(Deed::Reply(text)).await;
            }
            (Some(Deed::Reply(text)), _) => Answer::Refuse(line(&text)),
            (Some(Deed::Drop | Deed::Cut { .. } | Deed::Http { .. }), _) => return Ok(Flow::End),
            (None, Question::Login(credentials)) => self.server.login(credentials),
            (None, Question::Mail { .. } | Question::Rcpt(_)) => Answer::Accept,
        };
        match self.session.answer(answer) {
            Step::Reply(reply) | Step::Alone(reply) => self.write(&reply).await.map(|()| Flow::Go),
            Step::Close(reply) => self.write(&reply).await.map(|()| Flow::End),
            // An answer leads to nothing else.
            Step::StartTls(_) | Step::Ask(_) | Step::Data(_) => Ok(Flow::End),
        }
    }

    /// Reads the message and takes it.
    async fn data(&mut self) -> io::Result<Flow> {
        let Some(body) = self.body().await? else {
            return Ok(Flow::End);
        };
        let octets = match body {
            Ok(octets) => octets,
            Err(refusal) => return self.write(&refusal).await.map(|()| Flow::Go),
        };
        if let Some(deed) = self.server.play("end_of_data").await {
            return self.instead(deed).await;
        }
        self.take(octets);
        let deed = self.server.play("accepted").await;
        let taken = self.server.shared.mailbox.taken();
        let mut reply = format!("250 2.0.0 ok, {taken} in the sandbox\r\n");
        match deed {
            None => self.write(&Reply(reply.into())).await.map(|()| Flow::Go),
            Some(Deed::Cut { octets, reset }) => {
                reply.truncate(octets.into());
                self.write(&Reply(reply.into())).await?;
                Ok(if reset { Flow::Reset } else { Flow::End })
            }
            Some(deed) => self.instead(deed).await,
        }
    }

    /// The message, or why it is refused; nothing when the peer hung up before its end.
    async fn body(&mut self) -> io::Result<Option<Result<Bytes, Reply>>> {
        let mut decoder = Decoder::new(BareEnds::Report);
        let mut octets = Vec::new();
        let mut held: Option<OwnedSemaphorePermit> = None;
        let mut refusal = None;
        loop {
            if self.input.is_empty() && !self.fill().await? {
                return Ok(None);
            }
            let progress = decoder.decode(&self.input, &mut octets);
            self.input.advance(progress.used);
            if octets.len() > MESSAGE_LEN_MAX {
                refusal = Some(Reply::TOO_BIG);
            } else if !self.hold(&mut held, octets.len()) {
                refusal = Some(Reply::STORE_FULL);
            }
            if refusal.is_some() {
                // The rest is read to its end, so that the session stays in step, and not kept.
                octets = Vec::new();
                held = None;
            }
            if progress.ended {
                break;
            }
        }
        let faults = decoder.faults();
        Ok(Some(match refusal {
            Some(refusal) => Err(refusal),
            None if faults.nul => Err(Reply::NUL_IN_DATA),
            None if faults.bare_ending => Err(Reply::BARE_ENDINGS),
            None => Ok(octets.into()),
        }))
    }

    /// Holds as much of the budget as `octets` need; false when it is used up.
    fn hold(&self, held: &mut Option<OwnedSemaphorePermit>, octets: usize) -> bool {
        let have = held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let Ok(more) = u32::try_from(octets.div_ceil(1024).saturating_sub(have)) else {
            return false;
        };
        if more == 0 {
            return true;
        }
        let budget = Arc::clone(&self.server.budget);
        match (budget.try_acquire_many_owned(more), held.as_mut()) {
            (Ok(permit), Some(held)) => held.merge(permit),
            (Ok(permit), None) => *held = Some(permit),
            (Err(_), _) => return false,
        }
        true
    }

    fn take(&mut self, octets: Bytes) {
        let Some(envelope) = self.session.take_envelope() else {
            return;
        };
        let shared = &self.server.shared;
        tracing::debug!(event = "sandbox_received", size = octets.len());
        shared.mailbox.take(Received {
            number: 0,
            at: shared.clock.now(),
            over: "smtp",
            mailbox: self.session.login().unwrap_or_default().to_owned(),
            sender: envelope.reverse_path.to_string(),
            recipients: envelope
                .recipients
                .iter()
                .map(|recipient| recipient.address.to_string())
                .collect(),
            octets,
        });
    }

    /// Does what the script says in place of the usual.
    async fn instead(&mut self, deed: Deed) -> io::Result<Flow> {
        match deed {
            Deed::Drop | Deed::Cut { .. } | Deed::Http { .. } => Ok(Flow::End),
            Deed::Reply(text) => {
                self.write(&line(&text)).await?;
                let closes = text.starts_with("421");
                Ok(if closes { Flow::End } else { Flow::Go })
            }
        }
    }

    async fn read(&mut self, framer: &mut Framer, line_len_max: usize) -> io::Result<Input> {
        loop {
            let (frame, used) = framer.next(&self.input, line_len_max);
            let input = match frame {
                Frame::Line(line) => Some(Input::Line(line.to_vec())),
                Frame::Refused(fault) => Some(Input::Refused(fault)),
                Frame::Broken(fault) => Some(Input::Broken(fault)),
                Frame::Incomplete => None,
            };
            self.input.advance(used);
            if let Some(input) = input {
                return Ok(input);
            }
            self.input.reserve(READ_LEN);
            let filled = tokio::select! {
                filled = timeout(READ_TIMEOUT, self.stream.read_buf(&mut self.input)) => filled,
                () = self.server.tasks.stopped() => return Ok(Input::Stopping),
            };
            match filled {
                Ok(Ok(0)) => return Ok(Input::Gone),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(error),
                Err(_) => return Ok(Input::Silent),
            }
        }
    }

    /// More message data; false at the end of the connection.
    async fn fill(&mut self) -> io::Result<bool> {
        self.input.reserve(READ_LEN);
        tokio::select! {
            read = timeout(READ_TIMEOUT, self.stream.read_buf(&mut self.input)) => Ok(read?? > 0),
            () = self.server.tasks.stopped() => Ok(false),
        }
    }

    async fn write(&mut self, reply: &Reply) -> io::Result<()> {
        let write = async {
            self.stream.write_all(reply.0.as_bytes()).await?;
            self.stream.flush().await
        };
        timeout(WRITE_TIMEOUT, write).await?
    }
}

fn is_hello(line: &[u8]) -> bool {
    line.get(..4).is_some_and(|verb| {
        verb.eq_ignore_ascii_case(b"EHLO") || verb.eq_ignore_ascii_case(b"HELO")
    })
}

/// A line of the script, ready for the wire.
fn line(text: &str) -> Reply {
    Reply(format!("{text}\r\n").into())
}
