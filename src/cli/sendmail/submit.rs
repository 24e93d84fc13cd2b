//! Hands a message to the listener: the dialogue, and what a refusal means to the caller.
//!
//! All or nothing: unless every recipient is taken, no message is sent, so that a caller who tries
//! again repeats nothing. Only where a listener takes fewer recipients than there are does a message go
//! in several transactions.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    os::unix::net::UnixStream,
};

use super::Exit;
use crate::{
    mail::{Address, BodyType, Notify, Recipient, Ret, ReversePath},
    smtp::{
        client::{self, Capabilities, Mail, ReplyLines, ReplyReader},
        data::encode::Encoder,
    },
};

/// Octets of the message encoded at once.
const CHUNK_LEN: usize = 64 * 1024;
/// Read at once; replies are short.
const READ_LEN: usize = 4 * 1024;

/// A connection to the listener.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(stream) => stream.try_clone().map(Self::Tcp),
            Self::Unix(stream) => stream.try_clone().map(Self::Unix),
        }
    }

    /// Says that no more comes.
    pub(super) fn end(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Self::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(octets),
            Self::Unix(stream) => stream.write(octets),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.flush(),
            Self::Unix(stream) => stream.flush(),
        }
    }
}

/// A message and its envelope.
#[derive(Debug)]
pub(super) struct Letter<'a> {
    pub(super) sender: &'a ReversePath,
    pub(super) recipients: &'a [Address],
    pub(super) message: &'a [u8],
    pub(super) notify: Notify,
    pub(super) ret: Option<Ret>,
    /// In xtext.
    pub(super) envid: Option<&'a str>,
}

/// Why the message was not taken.
#[derive(Debug)]
pub(super) struct Failure {
    /// What the caller is told by number.
    pub(super) exit: Exit,
    /// And in words.
    pub(super) what: String,
}

impl Failure {
    pub(super) fn new(exit: Exit, what: impl Into<String>) -> Self {
        let what = what.into();
        Self { exit, what }
    }

    /// The connection broke: nobody knows more than that.
    fn broken(error: &io::Error) -> Self {
        let what = format!("the connection to the relay broke: {error}");
        Self::new(Exit::TempFail, what)
    }

    /// A reply that refuses: for now, or with what the step means.
    fn refused(reply: &ReplyLines, permanent: Exit, what: &str) -> Self {
        let exit = if reply.code / 100 == 5 {
            permanent
        } else {
            Exit::TempFail
        };
        let lines: Vec<&str> = reply.lines().collect();
        let text = format!("{what}: {} {}", reply.code, lines.join(" "));
        Self::new(exit, text)
    }
}

/// A session with the listener that has been greeted.
#[derive(Debug)]
pub(super) struct Session {
    stream: Stream,
    replies: ReplyReader,
    server: Capabilities,
    /// What the listener calls its host: the domain of addresses without one.
    pub(super) hostname: String,
}

impl Session {
    /// Reads the greeting and says EHLO.
    pub(super) fn begin(stream: Stream) -> Result<Self, Failure> {
        let mut session = Self {
            stream,
            replies: ReplyReader::default(),
            server: Capabilities::default(),
            hostname: String::new(),
        };
        let greeting = session.reply()?;
        if greeting.code != 220 {
            let what = "this machine may not send here";
            return Err(Failure::refused(&greeting, Exit::NoPerm, what));
        }
        let hello = session.ask(b"EHLO localhost\r\n")?;
        if hello.code != 250 {
            return Err(Failure::refused(&hello, Exit::Protocol, "EHLO"));
        }
        session.server = Capabilities::from_ehlo(&hello);
        let name = hello.first().split(' ').next().unwrap_or_default();
        name.clone_into(&mut session.hostname);
        Ok(session)
    }

    /// Sends the letter; the last reply of each transaction.
    pub(super) fn send(&mut self, letter: &Letter<'_>) -> Result<Vec<String>, Failure> {
        let mut done = Vec::new();
        let mut waiting = letter.recipients;
        while !waiting.is_empty() {
            match self.transaction(letter, waiting) {
                Ok((taken, reply)) => {
                    done.push(reply);
                    waiting = waiting.get(taken..).unwrap_or_default();
                }
                Err(failure) if done.is_empty() => return Err(failure),
                Err(Failure { exit, what }) => {
                    let sent = letter.recipients.len() - waiting.len();
                    let rest: Vec<&str> = waiting.iter().map(Address::as_str).collect();
                    let rest = rest.join(", ");
                    let what = format!("{what} (sent to the first {sent}; NOT sent to {rest})");
                    return Err(Failure::new(exit, what));
                }
            }
        }
        // The mail is safe, whatever becomes of the farewell.
        drop(self.ask(b"QUIT\r\n"));
        Ok(done)
    }

    /// One transaction: how many of `waiting` it has taken, and the reply.
    fn transaction(
        &mut self,
        letter: &Letter<'_>,
        waiting: &[Address],
    ) -> Result<(usize, String), Failure> {
        self.mail(letter, waiting)?;
        let mut taken = 0;
        for address in waiting {
            let reply = self.rcpt(address, letter.notify)?;
            match reply.code {
                250..=259 => taken += 1,
                // As many as it takes at once; the others come in another transaction.
                452 if taken > 0 => break,
                _ => return Err(Failure::refused(&reply, Exit::NoUser, address.as_str())),
            }
        }
        let go_ahead = self.ask(b"DATA\r\n")?;
        if go_ahead.code != 354 {
            return Err(Failure::refused(&go_ahead, Exit::NoPerm, "DATA"));
        }
        let reply = self.data(letter.message)?;
        if reply.code != 250 {
            return Err(Failure::refused(&reply, Exit::DataErr, "the message"));
        }
        Ok((taken, format!("{} {}", reply.code, reply.first())))
    }

    fn mail(&mut self, letter: &Letter<'_>, recipients: &[Address]) -> Result<(), Failure> {
        let sender = letter.sender.address();
        let mail = Mail {
            reverse_path: letter.sender,
            size: u64::try_from(letter.message.len()).unwrap_or(u64::MAX),
            body: if letter.message.is_ascii() {
                BodyType::SevenBit
            } else {
                BodyType::EightBitMime
            },
            smtputf8: !recipients.iter().chain(sender).all(Address::is_ascii),
            ret: letter.ret,
            envid: letter.envid,
        };
        let mut line = Vec::new();
        let encoded = mail.encode(&self.server, &mut line);
        encoded.map_err(|error| Failure::new(Exit::DataErr, error.to_string()))?;
        let reply = self.ask(&line)?;
        match reply.code {
            250 => Ok(()),
            552 => Err(Failure::refused(&reply, Exit::DataErr, "the message")),
            _ => {
                let what = format!("sender {}", letter.sender);
                Err(Failure::refused(&reply, Exit::NoPerm, &what))
            }
        }
    }

    fn rcpt(&mut self, address: &Address, notify: Notify) -> Result<ReplyLines, Failure> {
        let mut recipient = Recipient::new(address.clone());
        recipient.notify = notify;
        let mut line = Vec::new();
        let encoded = client::rcpt(&recipient, &self.server, &mut line);
        encoded.map_err(|error| Failure::new(Exit::DataErr, format!("{address}: {error}")))?;
        self.ask(&line)
    }

    fn data(&mut self, message: &[u8]) -> Result<ReplyLines, Failure> {
        let mut encoder = Encoder::new();
        let mut out = Vec::with_capacity(CHUNK_LEN);
        for chunk in message.chunks(CHUNK_LEN) {
            out.clear();
            encoder.encode(chunk, &mut out);
            self.write(&out)?;
        }
        out.clear();
        encoder.finish(&mut out);
        self.ask(&out)
    }

    fn ask(&mut self, octets: &[u8]) -> Result<ReplyLines, Failure> {
        self.write(octets)?;
        self.reply()
    }

    fn write(&mut self, octets: &[u8]) -> Result<(), Failure> {
        let written = self.stream.write_all(octets);
        written.map_err(|error| Failure::broken(&error))
    }

    fn reply(&mut self) -> Result<ReplyLines, Failure> {
        let mut buffer = [0; READ_LEN];
        loop {
            let reply = self.replies.reply();
            let reply = reply.map_err(|error| Failure::new(Exit::Protocol, error.to_string()))?;
            if let Some(reply) = reply {
                return Ok(reply);
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(Failure::broken(&io::ErrorKind::UnexpectedEof.into())),
                Ok(read) => self.replies.feed(buffer.get(..read).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) => return Err(Failure::broken(&error)),
            }
        }
    }
}

/// `ENVID=` as xtext (RFC 3461 §4).
pub(super) fn xtext(text: &str) -> String {
    use std::fmt::Write as _;
    let mut encoded = String::with_capacity(text.len());
    for octet in text.bytes() {
        if octet.is_ascii_graphic() && octet != b'+' && octet != b'=' {
            encoded.push(char::from(octet));
        } else {
            // Writing to a String cannot fail.
            write!(encoded, "+{octet:02X}").unwrap_or_default();
        }
    }
    encoded
}
