//! The strict line framer: octets in, command lines out. Pure, fed with what is buffered.
//!
//! Only CRLF ends a command line. Everything else that looks like an end to some peer is where
//! command smuggling lives, so it is refused by name:
//! - a bare CR refuses its line; the line still ends at its CRLF, so the session stays in sync;
//! - a bare LF refuses the session: whoever sends it believes the line has ended and waits, and
//!   whoever smuggles hopes that we believe it;
//! - a line over its bound is dropped up to its CRLF without being kept.
//!
//! On a listener for old devices ([`Ending::CrlfOrLf`]) a bare LF ends a line as well.

use memchr::memchr;

/// RFC 5321 §4.5.3.1.4 says 512, and ESMTP parameters add to it; Postfix takes 2048.
pub const COMMAND_LINE_LEN_MAX: usize = 2048;
/// RFC 4954 §4: what a client may answer to a SASL challenge.
pub const AUTH_LINE_LEN_MAX: usize = 12_288;
/// How much of an overlong line is dropped before the peer counts as no SMTP client at all.
pub const DISCARD_LEN_MAX: usize = 256 * 1024;

/// What ends a command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// CRLF alone.
    Crlf,
    /// CRLF, and bare LF as old devices send it.
    CrlfOrLf,
}

/// What the framer found at the front of the buffer.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A line without its ending.
    Line(&'a [u8]),
    /// A line that is refused; the session goes on behind it.
    Refused(Fault),
    /// Refused, and nothing behind it can be trusted: answer and close.
    Broken(Fault),
    /// No whole line yet.
    Incomplete,
}

/// Why a line is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A CR that no LF follows.
    BareCr,
    /// An LF that no CR precedes.
    BareLf,
    /// Longer than the bound.
    TooLong,
}

/// Cuts lines off the front of a buffer. Holds no octets itself.
#[derive(Debug, Clone)]
pub struct Framer {
    ending: Ending,
    /// Octets at the front of the buffer already searched for LF.
    searched: usize,
    /// Octets of an overlong line dropped so far.
    discarded: usize,
    /// The last octet dropped, for a CRLF cut in two.
    dropped_cr: bool,
}

impl Framer {
    /// A framer at the start of a line.
    #[must_use]
    pub fn new(ending: Ending) -> Self {
        Self {
            ending,
            searched: 0,
            discarded: 0,
            dropped_cr: false,
        }
    }

    /// Looks for a line at the front of `buffer`; gives it and how many octets to drop from the
    /// front. Call again with what is left, and with more octets after [`Frame::Incomplete`].
    pub fn next<'a>(&mut self, buffer: &'a [u8], line_len_max: usize) -> (Frame<'a>, usize) {
        let unsearched = buffer.get(self.searched..).unwrap_or_default();
        let Some(at) = memchr(b'\n', unsearched) else {
            return self.without_end(buffer, line_len_max);
        };
        let end = self.searched + at;
        self.searched = 0;
        let (line, used) = (buffer.get(..end).unwrap_or_default(), end + 1);
        if self.discarded > 0 {
            let crlf = line.last().map_or(self.dropped_cr, |last| *last == b'\r');
            self.discarded = 0;
            if crlf || self.ending == Ending::CrlfOrLf {
                return (Frame::Refused(Fault::TooLong), used);
            }
            return (Frame::Broken(Fault::BareLf), used);
        }
        (self.judge(line, line_len_max), used)
    }

    fn judge<'a>(&self, line: &'a [u8], line_len_max: usize) -> Frame<'a> {
        let text = match (line.strip_suffix(b"\r"), self.ending) {
            (Some(text), _) => text,
            (None, Ending::CrlfOrLf) => line,
            (None, Ending::Crlf) => return Frame::Broken(Fault::BareLf),
        };
        if text.len() > line_len_max {
            Frame::Refused(Fault::TooLong)
        } else if memchr(b'\r', text).is_some() {
            Frame::Refused(Fault::BareCr)
        } else {
            Frame::Line(text)
        }
    }

    /// No LF in sight: waits for it while the line may still fit, then drops.
    fn without_end<'a>(&mut self, buffer: &[u8], line_len_max: usize) -> (Frame<'a>, usize) {
        let fits = buffer.len() <= line_len_max + 1;
        if self.discarded == 0 && fits {
            self.searched = buffer.len();
            return (Frame::Incomplete, 0);
        }
        self.searched = 0;
        self.discarded += buffer.len();
        if let Some(last) = buffer.last() {
            self.dropped_cr = *last == b'\r';
        }
        if self.discarded > DISCARD_LEN_MAX {
            return (Frame::Broken(Fault::TooLong), buffer.len());
        }
        (Frame::Incomplete, buffer.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `input` in pieces of `step` octets; lines and faults as text.
    fn frames(ending: Ending, input: &[u8], step: usize, max: usize) -> Vec<String> {
        let mut framer = Framer::new(ending);
        let (mut buffer, mut found) = (Vec::new(), Vec::new());
        for piece in input.chunks(step) {
            buffer.extend_from_slice(piece);
            loop {
                let (frame, used) = framer.next(&buffer, max);
                let done = frame == Frame::Incomplete;
                match frame {
                    Frame::Line(line) => found.push(String::from_utf8_lossy(line).into_owned()),
                    Frame::Refused(fault) => found.push(format!("{fault:?}")),
                    Frame::Broken(fault) => found.push(format!("broken {fault:?}")),
                    Frame::Incomplete => (),
                }
                buffer.drain(..used);
                if done {
                    break;
                }
            }
        }
        found
    }

    #[test]
    fn only_crlf_ends_a_line_at_every_split() {
        use Ending::{Crlf, CrlfOrLf};
        let cases: [(Ending, &[u8], &[&str]); 10] = [
            (Crlf, b"NOOP\r\nQUIT\r\n", &["NOOP", "QUIT"]),
            (Crlf, b"\r\n", &[""]),
            (Crlf, b"EHLO a\nRSET\r\n", &["broken BareLf", "RSET"]),
            (Crlf, b"E\rHLO a\r\nRSET\r\n", &["BareCr", "RSET"]),
            (Crlf, b"NOOP\r\r\nRSET\r\n", &["BareCr", "RSET"]),
            (Crlf, b"0123456789\r\nRSET\r\n", &["TooLong", "RSET"]),
            (
                Crlf,
                b"0123456789abcdefghi\r\nRSET\r\n",
                &["TooLong", "RSET"],
            ),
            (
                Crlf,
                b"0123456789abcdefghi\nRSET\r\n",
                &["broken BareLf", "RSET"],
            ),
            (CrlfOrLf, b"HELO a\nRSET\r\n\n", &["HELO a", "RSET", ""]),
            (
                CrlfOrLf,
                b"0123456789abcdefghi\nRSET\n",
                &["TooLong", "RSET"],
            ),
        ];
        for (ending, input, expected) in cases {
            for step in 1..=input.len() {
                let found = frames(ending, input, step, 8);
                assert_eq!(found, expected, "{input:?} in pieces of {step}");
            }
        }
    }

    #[test]
    fn a_line_of_exactly_the_bound_is_taken() {
        for step in 1..=10 {
            assert_eq!(frames(Ending::Crlf, b"01234567\r\n", step, 8), ["01234567"]);
        }
    }

    #[test]
    fn an_endless_line_is_not_kept_and_not_followed_for_ever() {
        let mut framer = Framer::new(Ending::Crlf);
        let piece = [b'x'; 4096];
        let mut dropped = 0;
        loop {
            let (frame, used) = framer.next(&piece, COMMAND_LINE_LEN_MAX);
            assert_eq!(used, piece.len(), "nothing of it stays in the buffer");
            dropped += used;
            if frame == Frame::Broken(Fault::TooLong) {
                break;
            }
        }
        assert!(dropped <= DISCARD_LEN_MAX + piece.len());
    }
}
