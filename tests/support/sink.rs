//! A strict SMTP server that keeps a ledger of every message: the upstream of the tests.
//!
//! A message is in the ledger from its end-of-data on, before the final reply is written: that is
//! the moment from which a real provider may have delivered it.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread,
    time::{Duration, Instant},
};

use super::{Chance, PATIENCE, pause};

/// RFC 5321 §4.5.3.1.4, with room for the extensions offered here.
const COMMAND_LEN_MAX: usize = 1024;

/// A message that reached its end-of-data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Delivery {
    /// The connection's number.
    pub(crate) connection: usize,
    /// The reverse-path.
    pub(crate) from: String,
    /// `MAIL` parameters.
    pub(crate) parameters: String,
    /// The forward-paths.
    pub(crate) to: Vec<String>,
    /// The octets after dot-unstuffing.
    pub(crate) octets: Vec<u8>,
    /// Whether a later command on the connection proves that the final reply was read.
    pub(crate) confirmed: bool,
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// It has not.
    Open,
    /// The client said QUIT.
    Quit,
    /// The client went away.
    Cut,
}

/// Everything that happened.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger {
    /// In order of their end-of-data.
    pub(crate) deliveries: Vec<Delivery>,
    /// By connection number.
    pub(crate) ends: Vec<End>,
    /// Where the client broke the protocol. Must stay empty.
    pub(crate) violations: Vec<String>,
}

/// What the sink does besides saying yes.
#[derive(Debug, Clone, Default)]
struct Manners {
    /// Final replies wait.
    hold_final: bool,
    /// Answer to MAIL in place of 250.
    mail_reply: Option<String>,
    /// Final replies are late by up to so much.
    late: Duration,
    /// The thread that accepts should end.
    closed: bool,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<(Ledger, Manners)>,
    changed: Condvar,
}

/// The server. Closed when dropped.
#[derive(Debug)]
pub(crate) struct Sink {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

impl Sink {
    /// Starts on a free loopback port.
    pub(crate) fn start() -> Self {
        Self::at((Ipv4Addr::LOCALHOST, 0).into())
    }

    /// Starts there.
    pub(crate) fn at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let accepting = Arc::clone(&shared);
        thread::spawn(move || accept(&listener, &accepting));
        Self { address, shared }
    }

    /// The account table that sends through this sink.
    pub(crate) fn account(&self, name: &str) -> String {
        format!(
            "[account.{name}]\nmailbox = \"{name}@example.test\"\n[account.{name}.smtp]\n\
             host = \"127.0.0.1\"\nport = {}\ntls = \"none\"\nauth = \"none\"\n",
            self.address.port()
        )
    }

    /// Final replies wait until [`Sink::release`].
    pub(crate) fn hold(&self) {
        self.lock().1.hold_final = true;
    }

    /// Lets held final replies go.
    pub(crate) fn release(&self) {
        self.lock().1.hold_final = false;
        self.shared.changed.notify_all();
    }

    /// Answers MAIL with this line; `None`: 250 again.
    pub(crate) fn answer_mail(&self, reply: Option<&str>) {
        self.lock().1.mail_reply = reply.map(Into::into);
    }

    /// Final replies come late by up to `late`.
    pub(crate) fn dawdle(&self, late: Duration) {
        self.lock().1.late = late;
    }

    /// Everything so far. Fails if the client broke the protocol.
    pub(crate) fn ledger(&self) -> Ledger {
        let ledger = self.lock().0.clone();
        assert!(
            ledger.violations.is_empty(),
            "upstream saw {:#?}",
            ledger.violations
        );
        ledger
    }

    /// Waits until `found` finds what it looks for.
    pub(crate) fn wait<T>(&self, what: &str, found: impl Fn(&Ledger) -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        let mut state = self.lock();
        loop {
            if let Some(found) = found(&state.0) {
                return found;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let ledger = &state.0;
                let seen: Vec<_> = ledger
                    .deliveries
                    .iter()
                    .map(|d| (&d.from, &d.to, d.octets.len()))
                    .collect();
                panic!(
                    "upstream never saw: {what}; it saw {seen:?} {:?}",
                    ledger.violations
                );
            }
            state = self.shared.changed.wait_timeout(state, left).unwrap().0;
        }
    }

    /// Waits for the `n`-th message and gives it.
    pub(crate) fn nth(&self, n: usize) -> Delivery {
        self.wait(&format!("message {n}"), |ledger| {
            ledger.deliveries.get(n - 1).cloned()
        })
    }

    /// Waits for the message that has `text` in it.
    pub(crate) fn find(&self, text: &str) -> Delivery {
        self.wait(text, |ledger| {
            ledger
                .deliveries
                .iter()
                .find(|d| contains(&d.octets, text.as_bytes()))
                .cloned()
        })
    }

    fn lock(&self) -> MutexGuard<'_, (Ledger, Manners)> {
        self.shared.state.lock().unwrap()
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if let Ok(mut state) = self.shared.state.lock() {
            state.1.closed = true;
            state.1.hold_final = false;
        }
        self.shared.changed.notify_all();
        // Wakes the accepting thread, which then ends.
        let _woken = TcpStream::connect(self.address);
    }
}

/// Whether `needle` is in `octets`.
pub(crate) fn contains(octets: &[u8], needle: &[u8]) -> bool {
    memchr::memmem::find(octets, needle).is_some()
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        let number = {
            let mut state = shared.state.lock().unwrap();
            if state.1.closed {
                return;
            }
            state.0.ends.push(End::Open);
            state.0.ends.len() - 1
        };
        let shared = Arc::clone(shared);
        thread::spawn(move || {
            let mut session = Session::new(stream, number, &shared);
            let end = session.run().unwrap_or(End::Cut);
            let mut state = shared.state.lock().unwrap();
            if let Some(open) = state.0.ends.get_mut(number) {
                *open = end;
            }
            drop(state);
            shared.changed.notify_all();
        });
    }
}

struct Session<'a> {
    stream: BufReader<TcpStream>,
    replies: Vec<u8>,
    number: usize,
    shared: &'a Shared,
    chance: Chance,
    /// Reverse-path and parameters, once MAIL came.
    from: Option<(String, String)>,
    to: Vec<String>,
    greeted: bool,
}

impl<'a> Session<'a> {
    fn new(stream: TcpStream, number: usize, shared: &'a Shared) -> Self {
        Self {
            stream: BufReader::with_capacity(64 * 1024, stream),
            replies: Vec::new(),
            number,
            shared,
            chance: Chance::new(),
            from: None,
            to: Vec::new(),
            greeted: false,
        }
    }

    fn run(&mut self) -> io::Result<End> {
        self.stream.get_ref().set_nodelay(true)?;
        self.say("220 upstream.example.test ESMTP");
        loop {
            let Some(line) = self.command()? else {
                return Ok(End::Cut);
            };
            let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
            match verb.to_ascii_uppercase().as_str() {
                "EHLO" => {
                    self.greeted = true;
                    self.forget();
                    self.say(
                        "250-upstream.example.test\r\n250-PIPELINING\r\n250-SIZE 104857600\r\n\
                         250-8BITMIME\r\n250-SMTPUTF8\r\n250-DSN\r\n250 ENHANCEDSTATUSCODES",
                    );
                }
                "MAIL" => self.mail(rest),
                "RCPT" => self.rcpt(rest),
                "DATA" => self.data()?,
                "RSET" => {
                    self.forget();
                    self.say("250 2.0.0 reset");
                }
                "NOOP" => self.say("250 2.0.0 ok"),
                "QUIT" => {
                    self.say("221 2.0.0 bye");
                    self.flush()?;
                    return Ok(End::Quit);
                }
                _ => {
                    self.violation(&format!("unknown command {line:?}"));
                    self.say("500 5.5.2 unknown command");
                }
            }
        }
    }

    /// The next command line without its end; `None`: the client is gone.
    fn command(&mut self) -> io::Result<Option<String>> {
        // Replies wait while more commands are already here: as servers that pipeline do.
        if !self.stream.buffer().contains(&b'\n') {
            self.flush()?;
        }
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Ok(None);
        }
        self.confirm();
        let Some(text) = line.strip_suffix(b"\r\n") else {
            self.violation(&format!("a command line without CRLF: {line:?}"));
            return Ok(None);
        };
        if text.len() > COMMAND_LEN_MAX || text.iter().any(|c| matches!(c, b'\r' | 0)) {
            self.violation(&format!("a bad command line: {text:?}"));
        }
        Ok(Some(String::from_utf8_lossy(text).into_owned()))
    }

    fn mail(&mut self, rest: &str) {
        if !self.greeted || self.from.is_some() {
            self.violation("MAIL out of order");
        }
        let reply = self.shared.state.lock().unwrap().1.mail_reply.clone();
        if let Some(reply) = reply {
            self.say(&reply);
            return;
        }
        let path = rest
            .strip_prefix("FROM:<")
            .and_then(|rest| rest.split_once('>'));
        if let Some((path, parameters)) = path {
            self.from = Some((path.into(), parameters.trim().into()));
            self.say("250 2.1.0 sender ok");
        } else {
            self.violation(&format!("MAIL {rest:?}"));
            self.say("501 5.5.4 syntax");
        }
    }

    fn rcpt(&mut self, rest: &str) {
        if self.from.is_none() {
            // Pipelined after a MAIL that was refused: no violation.
            self.say("503 5.5.1 no sender");
            return;
        }
        if let Some((path, _)) = rest.strip_prefix("TO:<").and_then(|r| r.split_once('>')) {
            self.to.push(path.into());
            self.say("250 2.1.5 recipient ok");
        } else {
            self.violation(&format!("RCPT {rest:?}"));
            self.say("501 5.5.4 syntax");
        }
    }

    fn data(&mut self) -> io::Result<()> {
        if self.from.is_none() || self.to.is_empty() {
            self.say("503 5.5.1 no recipients");
            return Ok(());
        }
        self.say("354 go ahead");
        self.flush()?;
        let octets = self.octets()?;
        let (from, parameters) = self.from.take().unwrap();
        let delivery = Delivery {
            connection: self.number,
            from,
            parameters,
            to: std::mem::take(&mut self.to),
            octets,
            confirmed: false,
        };
        let late = {
            let mut state = self.shared.state.lock().unwrap();
            state.0.deliveries.push(delivery);
            self.shared.changed.notify_all();
            while state.1.hold_final {
                state = self.shared.changed.wait(state).unwrap();
            }
            state.1.late
        };
        if !late.is_zero() {
            pause(self.chance.moment(late));
        }
        self.say("250 2.0.0 accepted");
        Ok(())
    }

    /// The message up to the exact CRLF.CRLF.
    fn octets(&mut self) -> io::Result<Vec<u8>> {
        let mut octets = Vec::new();
        loop {
            let start = octets.len();
            if self.stream.read_until(b'\n', &mut octets)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let line = octets.get(start..).unwrap_or_default();
            if !line.ends_with(b"\n") {
                // The sender died in the middle of a line: nothing was taken.
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if line == b".\r\n" {
                octets.truncate(start);
                return Ok(octets);
            }
            let bare = !line.ends_with(b"\r\n") || line.iter().filter(|c| **c == b'\r').count() > 1;
            if bare {
                let line = String::from_utf8_lossy(line).into_owned();
                self.violation(&format!("bare CR or LF in the message: {line:?}"));
            }
            if octets.get(start) == Some(&b'.') {
                octets.remove(start);
            }
        }
    }

    fn forget(&mut self) {
        self.from = None;
        self.to.clear();
    }

    /// A command came: the replies before it were read.
    fn confirm(&self) {
        let mut state = self.shared.state.lock().unwrap();
        let number = self.number;
        let last = state
            .0
            .deliveries
            .iter_mut()
            .rev()
            .find(|d| d.connection == number);
        if let Some(last) = last {
            last.confirmed = true;
        }
    }

    fn violation(&self, what: &str) {
        self.shared
            .state
            .lock()
            .unwrap()
            .0
            .violations
            .push(what.into());
        self.shared.changed.notify_all();
    }

    fn say(&mut self, reply: &str) {
        self.replies.extend_from_slice(reply.as_bytes());
        self.replies.extend_from_slice(b"\r\n");
    }

    fn flush(&mut self) -> io::Result<()> {
        let replies = std::mem::take(&mut self.replies);
        self.stream.get_mut().write_all(&replies)
    }
}
