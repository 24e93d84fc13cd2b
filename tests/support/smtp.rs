//! A small SMTP client that shows every reply. It says exactly what a test tells it to.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// A peer that says nothing for so long is taken for hung.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// A reply: code and texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    /// Three digits.
    pub(crate) code: u16,
    /// Text of each line.
    pub(crate) lines: Vec<String>,
}

/// A connection to a server.
#[derive(Debug)]
pub(crate) struct Client {
    stream: BufReader<TcpStream>,
    greeting: Reply,
}

impl Client {
    /// Connects and reads the greeting.
    pub(crate) fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        stream.set_write_timeout(Some(SILENCE_MAX))?;
        let mut client = Self {
            stream: BufReader::new(stream),
            greeting: Reply {
                code: 0,
                lines: Vec::new(),
            },
        };
        client.greeting = client.reply()?;
        Ok(client)
    }

    /// Connects, expects 220, says EHLO.
    pub(crate) fn ehlo(address: SocketAddr) -> io::Result<Self> {
        let mut client = Self::connect(address)?;
        client.greeting.expect(220)?;
        client.command("EHLO sender.example.test")?.expect(250)?;
        Ok(client)
    }

    /// What the server said first.
    pub(crate) fn greeting(&self) -> &Reply {
        &self.greeting
    }

    /// Says a line and reads its reply.
    pub(crate) fn command(&mut self, line: &str) -> io::Result<Reply> {
        self.write(format!("{line}\r\n").as_bytes())?;
        self.reply()
    }

    /// Writes octets as they are.
    pub(crate) fn write(&mut self, octets: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(octets)
    }

    /// Opens a transaction up to 354.
    pub(crate) fn begin(&mut self, from: &str, to: &[&str]) -> io::Result<()> {
        self.command(&format!("MAIL FROM:<{from}>"))?.expect(250)?;
        for to in to {
            self.command(&format!("RCPT TO:<{to}>"))?.expect(250)?;
        }
        self.command("DATA")?.expect(354)
    }

    /// Sends a whole message; `Ok`: the final reply, whatever it is.
    pub(crate) fn send(&mut self, from: &str, to: &[&str], message: &[u8]) -> io::Result<Reply> {
        self.begin(from, to)?;
        self.data(message)
    }

    /// After 354: the message and its end, and the final reply.
    pub(crate) fn data(&mut self, message: &[u8]) -> io::Result<Reply> {
        self.write(&stuffed(message))?;
        self.reply()
    }

    /// Reads a reply.
    pub(crate) fn reply(&mut self) -> io::Result<Reply> {
        let mut reply = Reply {
            code: 0,
            lines: Vec::new(),
        };
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let code = line.get(..3).and_then(|code| code.parse().ok());
            reply.code = code.ok_or_else(|| io::Error::other(format!("no reply: {line:?}")))?;
            let more = line.as_bytes().get(3) == Some(&b'-');
            reply
                .lines
                .push(line.get(4..).unwrap_or_default().trim_end().into());
            if !more {
                return Ok(reply);
            }
        }
    }
}

impl Reply {
    /// An error unless the code is this one.
    pub(crate) fn expect(&self, code: u16) -> io::Result<()> {
        if self.code == code {
            return Ok(());
        }
        Err(io::Error::other(format!("expected {code}, got {self:?}")))
    }

    /// The text in one.
    pub(crate) fn text(&self) -> String {
        self.lines.join("\n")
    }
}

/// A message with its dots doubled and its end-of-data line (RFC 5321 §4.5.2).
pub(crate) fn stuffed(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + message.len() / 40 + 8);
    for line in message.split_inclusive(|octet| *octet == b'\n') {
        if line.first() == Some(&b'.') {
            out.push(b'.');
        }
        out.extend_from_slice(line);
    }
    if !out.is_empty() && !out.ends_with(b"\r\n") {
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b".\r\n");
    out
}
