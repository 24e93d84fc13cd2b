//! A whole server session over arbitrary octets, and everything that must hold whatever they are.
//!
//! One text for three users: the cargo-fuzz target (`fuzz_targets/session.rs`), and `tests/it/fuzz.rs`,
//! which mutates the seeds for a few seconds on stable. It drives the machine as the daemon's
//! connection does: framer, session, decoder.
//!
//! The first octet of an input chooses the settings, the second how the rest is cut into pieces.

use std::sync::Arc;

use gatepost::{
    mail::Envelope,
    smtp::{
        client::{self, Capabilities, Mail, ReplyReader},
        data::{
            decode::{BareEnds, Decoder},
            encode::Encoder,
        },
        line::{Ending, Frame, Framer},
        replies::Reply,
        server::{Answer, Credentials, Dsn, Mechanism, Question, Session, Settings, Step},
    },
};

/// Recipients of a transaction.
const RECIPIENTS_MAX: usize = 5;
/// Octets at most that a session answers between two messages: replies are bounded by errors and idle
/// commands, so a flood ends.
const REPLIES_MAX: usize = 200 + 1000 + 100 * RECIPIENTS_MAX;

/// Plays an input and checks it.
///
/// # Panics
/// When something that must hold does not.
pub(crate) fn check(input: &[u8]) {
    let [settings, cut, octets @ ..] = input else {
        return;
    };
    let whole = Run::play(*settings, [octets].into_iter());
    let step = usize::from(*cut) % 61 + 1;
    let pieces = Run::play(*settings, octets.chunks(step));
    // Where nothing hung on what had already arrived, the cut into pieces changes nothing.
    if !whole.timing_matters && !pieces.timing_matters {
        assert_eq!(whole.said, pieces.said, "in pieces of {step}");
        assert_eq!(whole.taken, pieces.taken, "in pieces of {step}");
    }
}

/// What a session came to.
struct Run {
    session: Session,
    framer: Framer,
    bare: BareEnds,
    auth_required: bool,
    data: Option<(Decoder, Vec<u8>)>,
    input: Vec<u8>,
    said: Vec<String>,
    taken: Vec<(Envelope, Vec<u8>)>,
    closed: bool,
    /// Whether an answer hung on octets that were there too early.
    timing_matters: bool,
    replies_since_message: usize,
}

impl Run {
    fn play<'a>(settings: u8, pieces: impl Iterator<Item = &'a [u8]>) -> Self {
        let on = |bit: u8| settings & (1 << bit) != 0;
        let mut run = Self {
            session: Session::new(Arc::new(configured(settings)), on(4)),
            framer: Framer::new(if on(3) {
                Ending::CrlfOrLf
            } else {
                Ending::Crlf
            }),
            bare: if on(3) {
                BareEnds::Rewrite
            } else {
                BareEnds::Report
            },
            auth_required: on(1),
            data: None,
            input: Vec::new(),
            said: Vec::new(),
            taken: Vec::new(),
            closed: false,
            timing_matters: false,
            replies_since_message: 0,
        };
        let greeting = run.session.greeting();
        run.say(&greeting);
        for piece in pieces {
            run.input.extend_from_slice(piece);
            while !run.closed && run.once() {}
            if run.closed {
                break;
            }
            let kept = run.input.len();
            let most = run.session.line_len_max() + 1 + piece.len();
            assert!(
                kept <= most,
                "{kept} octets are kept, {most} at most are needed"
            );
        }
        run
    }

    /// Takes a line or a piece of data; whether there may be more.
    fn once(&mut self) -> bool {
        if let Some((mut decoder, mut message)) = self.data.take() {
            let progress = decoder.decode(&self.input, &mut message);
            self.input.drain(..progress.used);
            if !progress.ended {
                assert!(self.input.is_empty(), "data is taken whole");
                self.data = Some((decoder, message));
                return false;
            }
            self.message(&decoder, message);
            return true;
        }
        let (frame, used) = self.framer.next(&self.input, self.session.line_len_max());
        let (step, close) = match frame {
            Frame::Line(line) => {
                assert!(!line.contains(&b'\r') && !line.contains(&b'\n'));
                (self.session.line(line), false)
            }
            Frame::Refused(fault) => (self.session.fault(fault), false),
            Frame::Broken(fault) => (self.session.fault(fault), true),
            Frame::Incomplete => {
                self.input.drain(..used);
                return false;
            }
        };
        self.input.drain(..used);
        self.act(step);
        self.closed |= close;
        true
    }

    fn act(&mut self, step: Step) {
        match step {
            Step::Reply(reply) => self.say(&reply),
            Step::Alone(reply) => {
                assert!(
                    reply.is_refusal(),
                    "only what is refused stands alone: {reply:?}"
                );
                self.timing_matters = true;
                self.say(&reply);
                self.closed = !self.input.is_empty();
            }
            Step::Close(reply) => {
                self.say(&reply);
                self.closed = true;
            }
            Step::StartTls(reply) => {
                self.timing_matters = true;
                self.say(&reply);
                self.closed = !self.input.is_empty();
                if !self.closed {
                    self.session.tls_started();
                    assert!(self.session.envelope().is_none() && self.session.login().is_none());
                }
            }
            Step::Ask(question) => {
                let answer = self.decide(&question);
                let step = self.session.answer(answer);
                self.act(step);
            }
            Step::Data(reply) => {
                let envelope = self.session.envelope().expect("a transaction");
                assert!((1..=RECIPIENTS_MAX).contains(&envelope.recipients.len()));
                self.say(&reply);
                self.data = Some((Decoder::new(self.bare), Vec::new()));
            }
        }
    }

    fn decide(&self, question: &Question) -> Answer {
        match question {
            Question::Login(Credentials::Password { username, password }) => {
                assert!(self.session.login().is_none() && self.session.envelope().is_none());
                if username == "printer" && password.expose() == "secret" {
                    Answer::Accept
                } else {
                    Answer::Refuse(Reply::AUTH_FAILED)
                }
            }
            Question::Login(Credentials::Bearer { .. }) => panic!("it was not offered"),
            Question::Mail { .. } => {
                assert!(!self.auth_required || self.session.login() == Some("printer"));
                Answer::Accept
            }
            Question::Rcpt(_) => Answer::Accept,
        }
    }

    fn say(&mut self, reply: &Reply) {
        assert!(!self.closed, "nothing is said after the last word");
        let text = reply.0.as_ref();
        assert!(text.ends_with("\r\n"), "{text:?}");
        for line in text.split_terminator("\r\n") {
            let (code, rest) = line.split_at(3);
            assert!(
                code.parse::<u16>().is_ok() && rest.starts_with([' ', '-']),
                "{line:?}"
            );
            assert!(line.len() <= 510 && line.bytes().all(|o| (b' '..=b'~').contains(&o)));
        }
        self.replies_since_message += 1;
        assert!(
            self.replies_since_message <= REPLIES_MAX,
            "a flood has no end"
        );
        self.said.push(text.to_owned());
    }

    /// A message with its true end: unless it is refused, it and its envelope must travel on unchanged
    /// and as nothing else.
    fn message(&mut self, decoder: &Decoder, message: Vec<u8>) {
        let faults = decoder.faults();
        let refused = faults.bare_ending || faults.nul;
        let envelope = self.session.envelope().cloned().expect("a transaction");
        self.session.end_of_data();
        self.replies_since_message = 0;
        let reply = if refused {
            Reply::BARE_ENDINGS
        } else {
            Reply::OK
        };
        self.say(&reply);
        if refused {
            return;
        }
        assert!(!message.contains(&0));
        assert_eq!(without_crlf(&message), 0, "only CRLF ends a line");
        travels_on(&message);
        says_on(&envelope);
        self.taken.push((envelope, message));
    }
}

fn configured(settings: u8) -> Settings {
    let on = |bit: u8| settings & (1 << bit) != 0;
    Settings {
        hostname: "relay.example".to_owned(),
        max_message_size: 100_000,
        max_recipients: RECIPIENTS_MAX,
        starttls: on(0),
        mechanisms: if on(1) || on(2) {
            vec![Mechanism::Plain, Mechanism::Login]
        } else {
            Vec::new()
        },
        auth_required: on(1),
        auth_without_tls: !on(5),
        dsn: if on(6) { Dsn::NotOffered } else { Dsn::Offered },
        qualify_domain: "relay.example".to_owned(),
    }
}

/// CR and LF that are no part of CRLF.
fn without_crlf(octets: &[u8]) -> usize {
    let count = |wanted: u8| octets.iter().filter(|octet| **octet == wanted).count();
    let pairs = octets.windows(2).filter(|two| two == b"\r\n").count();
    count(b'\r') + count(b'\n') - 2 * pairs
}

/// Encoded for the next server and decoded by it, the message is the same and ends where it ends.
fn travels_on(message: &[u8]) {
    let mut wire = Vec::new();
    let mut encoder = Encoder::new();
    encoder.encode(message, &mut wire);
    encoder.finish(&mut wire);
    wire.extend_from_slice(b"QUIT\r\n");
    let mut decoder = Decoder::new(BareEnds::Report);
    let mut came = Vec::new();
    let progress = decoder.decode(&wire, &mut came);
    assert!(progress.ended && wire.get(progress.used..) == Some(b"QUIT\r\n"));
    assert!(!decoder.faults().bare_ending && !decoder.faults().nul);
    let completed = if message.is_empty() || message.ends_with(b"\r\n") {
        0
    } else {
        2
    };
    assert_eq!(came.get(..came.len() - completed), Some(message));
}

/// The commands that are said upstream: one line each, which a strict server reads as the same
/// envelope.
fn says_on(envelope: &Envelope) {
    let server = everything();
    let mail = Mail {
        reverse_path: &envelope.reverse_path,
        size: 1,
        body: envelope.body,
        smtputf8: envelope.smtputf8,
        ret: envelope.ret,
        envid: envelope.envid.as_deref(),
    };
    let mut commands = Vec::new();
    mail.encode(&server, &mut commands)
        .expect("MAIL can be said");
    for recipient in &envelope.recipients {
        client::rcpt(recipient, &server, &mut commands).expect("RCPT can be said");
    }
    let lines: Vec<&[u8]> = commands.split_inclusive(|octet| *octet == b'\n').collect();
    assert_eq!(lines.len(), 1 + envelope.recipients.len());
    let mut settings = configured(0);
    settings.qualify_domain = "elsewhere.example".to_owned();
    let mut session = Session::new(Arc::new(settings), false);
    drop(session.line(b"EHLO relay.example"));
    for line in lines {
        let line = line.strip_suffix(b"\r\n").expect("CRLF");
        assert!(
            line.iter().all(|octet| *octet >= b' ' && *octet != 0x7f),
            "{line:?}"
        );
        let step = session.line(line);
        let Step::Ask(question) = step else {
            panic!("{:?} leads to {step:?}", String::from_utf8_lossy(line));
        };
        if let Question::Mail { reverse_path, .. } = question {
            assert_eq!(reverse_path, envelope.reverse_path);
        }
        drop(session.answer(Answer::Accept));
    }
    assert_eq!(session.envelope(), Some(envelope));
}

/// A server that can do all we use.
fn everything() -> Capabilities {
    let mut reader = ReplyReader::default();
    reader.feed(b"250-next\r\n250-SIZE 0\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 DSN\r\n");
    let reply = reader.reply().ok().flatten().expect("a reply");
    Capabilities::from_ehlo(&reply)
}
