//! Outgoing: dot-stuffing in pieces of any size; no bare CR or LF ever leaves. Pure.
//!
//! A message of ours already has CRLF line endings alone; the encoder makes sure all the same,
//! because a bare CR or LF that passed here could end the data at the next hop (SMTP smuggling).

use memchr::memchr2;

/// Dot-stuffs one message (RFC 5321 §4.5.2).
#[derive(Debug, Default)]
pub struct Encoder {
    state: State,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// At the first octet of a line; also of the message.
    #[default]
    LineStart,
    /// Within a line.
    Line,
    /// After a CR that may be half of a CRLF.
    Cr,
}

impl Encoder {
    /// An encoder at the start of a message.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends the next octets of the message to `out`, encoded. `out` grows by the length of
    /// `octets` and one octet for each line in it that begins with a dot.
    pub fn encode(&mut self, octets: &[u8], out: &mut Vec<u8>) {
        out.reserve(octets.len() + TERMINATOR.len());
        let mut rest = octets;
        while let Some((first, after)) = rest.split_first() {
            match (self.state, *first) {
                (State::Cr, b'\n') => {
                    out.push(b'\n');
                    self.state = State::LineStart;
                    rest = after;
                    continue;
                }
                (State::Cr, _) => {
                    out.push(b'\n');
                    self.state = State::LineStart;
                }
                (State::LineStart | State::Line, _) => {}
            }
            if self.state == State::LineStart && *first == b'.' {
                out.push(b'.');
            }
            rest = self.line(rest, out);
        }
    }

    /// Copies up to and with the next line ending; what is left.
    fn line<'a>(&mut self, octets: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
        let Some(at) = memchr2(b'\r', b'\n', octets) else {
            out.extend_from_slice(octets);
            self.state = State::Line;
            return &[];
        };
        let (text, ending) = octets.split_at(at);
        out.extend_from_slice(text);
        match ending {
            [b'\r', b'\n', rest @ ..] => {
                out.extend_from_slice(b"\r\n");
                self.state = State::LineStart;
                rest
            }
            [b'\n', rest @ ..] => {
                out.extend_from_slice(b"\r\n");
                self.state = State::LineStart;
                rest
            }
            [_, rest @ ..] => {
                out.push(b'\r');
                self.state = State::Cr;
                rest
            }
            [] => &[],
        }
    }

    /// Appends the end of the data. A message that ends in CRLF gets no line more; one that does
    /// not is completed first.
    pub fn finish(self, out: &mut Vec<u8>) {
        match self.state {
            State::LineStart => {}
            State::Line => out.extend_from_slice(b"\r\n"),
            State::Cr => out.push(b'\n'),
        }
        out.extend_from_slice(TERMINATOR);
    }
}

/// The line that ends the data; the CRLF before it belongs to the message.
pub const TERMINATOR: &[u8] = b".\r\n";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encode(message: &[u8], piece: usize) -> Vec<u8> {
        let mut encoder = Encoder::new();
        let mut out = Vec::new();
        for piece in message.chunks(piece.max(1)) {
            encoder.encode(piece, &mut out);
        }
        encoder.finish(&mut out);
        out
    }

    #[test]
    fn dots_are_stuffed_and_the_end_is_exact() {
        for (message, wire) in [
            ("", ".\r\n"),
            ("a\r\n", "a\r\n.\r\n"),
            ("a", "a\r\n.\r\n"),
            (".\r\n", "..\r\n.\r\n"),
            (".", "..\r\n.\r\n"),
            ("a\r\n.\r\nb\r\n", "a\r\n..\r\nb\r\n.\r\n"),
            ("a\r\n..b\r\n", "a\r\n...b\r\n.\r\n"),
            ("a.b\r\n", "a.b\r\n.\r\n"),
            ("\r\n", "\r\n.\r\n"),
            // Never sent as they are: each would end the data somewhere.
            ("a\n.\nb\n", "a\r\n..\r\nb\r\n.\r\n"),
            ("a\r.\rb", "a\r\n..\r\nb\r\n.\r\n"),
            ("a\n.\r\nMAIL", "a\r\n..\r\nMAIL\r\n.\r\n"),
            ("a\r\n.\r\r\nb\r\n", "a\r\n..\r\n\r\nb\r\n.\r\n"),
            ("a\r", "a\r\n.\r\n"),
        ] {
            for piece in 1..=message.len().max(1) {
                let found = encode(message.as_bytes(), piece);
                assert_eq!(
                    String::from_utf8_lossy(&found),
                    wire,
                    "{message:?} by {piece}"
                );
            }
        }
    }

    /// What a strict receiver makes of the wire: the message, and nothing after its end.
    fn decode(wire: &[u8]) -> Option<Vec<u8>> {
        let mut message = Vec::new();
        let mut rest = wire;
        loop {
            let end = rest.windows(2).position(|w| w == b"\r\n")?;
            let (line, after) = rest.split_at(end + 2);
            rest = after;
            if line == TERMINATOR {
                return rest.is_empty().then_some(message);
            }
            message.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
        }
    }

    proptest! {
        #[test]
        fn a_receiver_gets_back_every_octet(lines in prop::collection::vec("[.a\0-]{0,4}", 0..8), piece in 1usize..9) {
            let message: String = lines.iter().flat_map(|line| [line, "\r\n"]).collect();
            let wire = encode(message.as_bytes(), piece);
            prop_assert_eq!(decode(&wire), Some(message.into_bytes()));
        }

        #[test]
        fn whatever_comes_in_no_bare_cr_or_lf_goes_out(message in "[\r\n.a\0 ]{0,12}", piece in 1usize..5) {
            let wire = encode(message.as_bytes(), piece);
            prop_assert!(decode(&wire).is_some(), "ends once, at its end: {:?}", wire);
            for (at, octet) in wire.iter().enumerate() {
                match octet {
                    b'\r' => prop_assert_eq!(wire.get(at + 1), Some(&b'\n')),
                    b'\n' => prop_assert_eq!(at.checked_sub(1).and_then(|at| wire.get(at)), Some(&b'\r')),
                    _ => {}
                }
            }
        }
    }
}
