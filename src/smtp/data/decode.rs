//! Incoming: dot-unstuffing, end-of-data, the bare CR/LF rule. Pure, fed in any pieces.
//!
//! Data ends at the first exact `CRLF . CRLF`, or `. CRLF` as the first line, and nowhere else:
//! none of `LF.LF`, `CRLF.LF`, `LF.CRLF`, `CRLF.CRCRLF` and their kin is an end (SMTP smuggling,
//! CVE-2023-51764 and relatives). What is not CRLF is a [`Faults`] for the caller to refuse
//! ([`BareEnds::Report`]), or is rewritten to CRLF before anything else looks at it
//! ([`BareEnds::Rewrite`]); it never ends the data in either case.
//!
//! Lines may have any length: they stream through, and nothing here keeps a whole one. Whether a long
//! one is taken is the listener's rule (`long_lines`); none is ever cut.

use memchr::memchr3;

/// What is done with a CR or LF that is not part of CRLF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BareEnds {
    /// Noted in [`Faults`]; the message is to be refused after its true end.
    Report,
    /// Each becomes CRLF. It begins a line, so a dot behind it is unstuffed, as the devices that
    /// send bare LF stuff it there too.
    Rewrite,
}

/// What was seen in the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Faults {
    /// A CR or LF alone, where that is reported.
    pub bare_ending: bool,
    /// A NUL; never let through.
    pub nul: bool,
    /// An octet above 127; no fault, but the envelope must then say 8BITMIME.
    pub eight_bit: bool,
}

/// How far a piece of input went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Octets taken from the front of the input. All of it, unless the data ended before.
    pub used: usize,
    /// Whether the data ended; what follows in the input are commands again.
    pub ended: bool,
}

/// Where the decoder stands between two octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Behind CRLF, or at the very beginning: a dot may be the end.
    LineStart,
    /// Behind a rewritten bare ending: a dot is stuffing, but never the end.
    SoftLineStart,
    /// Within a line.
    Text,
    /// Behind a CR within a line; it is not written yet.
    Cr,
    /// Behind a dot that may be the end; it is not written.
    Dot,
    /// Behind that dot and a CR; neither is written.
    DotCr,
    /// Behind the end.
    Ended,
}

/// Decodes the data of one message.
#[derive(Debug, Clone)]
pub struct Decoder {
    state: State,
    bare: BareEnds,
    faults: Faults,
}

impl Decoder {
    /// A decoder that stands behind the CRLF of the DATA command.
    #[must_use]
    pub fn new(bare: BareEnds) -> Self {
        Self {
            state: State::LineStart,
            bare,
            faults: Faults::default(),
        }
    }

    /// What was seen so far.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.faults
    }

    /// Decodes a piece of input and appends the octets of the message to `out`.
    ///
    /// What is written holds only CRLF line endings and no NUL, as long as [`Faults`] reports
    /// neither `bare_ending` nor `nul`; behind a fault the octets are of no use.
    pub fn decode(&mut self, input: &[u8], out: &mut Vec<u8>) -> Progress {
        let mut at = 0;
        while let Some(rest) = input.get(at..).filter(|rest| !rest.is_empty()) {
            // The hot loop: everything up to the next octet that may matter is copied at once.
            if self.state == State::Text {
                let run = memchr3(b'\r', b'\n', 0, rest).unwrap_or(rest.len());
                let (text, tail) = rest.split_at(run);
                out.extend_from_slice(text);
                at += run;
                let Some(tail) = tail.strip_prefix(b"\r\n") else {
                    at += self.single(tail.first().copied(), out);
                    continue;
                };
                // A whole CRLF in the same piece needs no state of its own.
                out.extend_from_slice(b"\r\n");
                at += 2;
                self.state = State::LineStart;
                // Most lines do not begin with anything special.
                if tail.first().is_some_and(|next| !b".\r\n\0".contains(next)) {
                    self.state = State::Text;
                }
                continue;
            }
            at += self.single(rest.first().copied(), out);
            if self.state == State::Ended {
                break;
            }
        }
        let taken = input.get(..at).unwrap_or(input);
        self.faults.eight_bit = self.faults.eight_bit || !taken.is_ascii();
        Progress {
            used: at,
            ended: self.state == State::Ended,
        }
    }

    /// Takes one octet by the transition table; how many were taken (0 for none given).
    fn single(&mut self, octet: Option<u8>, out: &mut Vec<u8>) -> usize {
        let Some(octet) = octet else { return 0 };
        self.state = match (self.state, octet) {
            (State::Ended, _) => return 0,
            (State::LineStart, b'.') => State::Dot,
            (State::SoftLineStart, b'.') => State::Text,
            (State::Dot, b'\r') => State::DotCr,
            (State::DotCr, b'\n') => State::Ended,
            (State::Cr, b'\n') => {
                out.extend_from_slice(b"\r\n");
                State::LineStart
            }
            // The dot was no end: it was stuffing and stays away; the CR behind it was a bare one.
            (State::Cr | State::DotCr, _) => {
                self.state = self.bare_ending(b'\r', out);
                return self.single(Some(octet), out);
            }
            (State::LineStart | State::SoftLineStart | State::Text, b'\r') => State::Cr,
            (_, b'\n') => self.bare_ending(b'\n', out),
            (_, octet) => {
                self.faults.nul |= octet == 0;
                out.push(octet);
                State::Text
            }
        };
        1
    }

    /// A CR or LF alone.
    fn bare_ending(&mut self, octet: u8, out: &mut Vec<u8>) -> State {
        match self.bare {
            BareEnds::Report => {
                self.faults.bare_ending = true;
                out.push(octet);
                State::Text
            }
            BareEnds::Rewrite => {
                out.extend_from_slice(b"\r\n");
                State::SoftLineStart
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, PartialEq, Eq)]
    struct Outcome {
        /// The message and where the data ended, if it ended.
        message: Vec<u8>,
        end: Option<usize>,
        faults: Faults,
    }

    /// The slow reference, written from the rules and not from the machine: find the end by its
    /// exact text, cut into lines, then look at each.
    fn reference(input: &[u8], bare: BareEnds) -> Outcome {
        let framed = [b"\r\n", input].concat();
        // Searched with the CRLF of the command in front, so the first line is no special case.
        let end = framed
            .windows(5)
            .position(|five| five == b"\r\n.\r\n")
            .map(|at| at + 3);
        let data = &input[..end.map_or(input.len(), |end| end - 3)];
        let mut faults = Faults {
            nul: data.contains(&0),
            eight_bit: data.iter().any(|octet| *octet > 127),
            bare_ending: false,
        };
        let mut message = Vec::new();
        let (mut at, mut line_start) = (0, true);
        while at < data.len() {
            let crlf = data[at..].starts_with(b"\r\n");
            let octet = data[at];
            let ends = matches!(octet, b'\r' | b'\n');
            if line_start && octet == b'.' {
                line_start = false;
                at += 1;
                continue;
            }
            if crlf || (ends && bare == BareEnds::Rewrite) {
                message.extend_from_slice(b"\r\n");
                line_start = true;
            } else {
                faults.bare_ending |= ends;
                message.push(octet);
                line_start = false;
            }
            at += if crlf { 2 } else { 1 };
        }
        Outcome {
            message,
            end,
            faults,
        }
    }

    fn machine(pieces: &[&[u8]], bare: BareEnds) -> Outcome {
        let mut decoder = Decoder::new(bare);
        let (mut message, mut taken, mut end) = (Vec::new(), 0, None);
        for piece in pieces {
            let progress = decoder.decode(piece, &mut message);
            taken += progress.used;
            if progress.ended {
                end = Some(taken);
                break;
            }
            assert_eq!(progress.used, piece.len(), "all is taken before the end");
        }
        let faults = decoder.faults();
        Outcome {
            message,
            end,
            faults,
        }
    }

    /// Compares as far as it matters: the octets behind a fault are of no use, and without an end
    /// the machine may still hold back a dot and a CR.
    fn compare(pieces: &[&[u8]], bare: BareEnds) {
        let input = pieces.concat();
        let (mut expected, mut found) = (reference(&input, bare), machine(pieces, bare));
        assert_eq!(found.end, expected.end, "{pieces:?} {bare:?}");
        if expected.end.is_none() {
            return;
        }
        if expected.faults.bare_ending || expected.faults.nul {
            expected.message.clear();
            found.message.clear();
        }
        // The end itself is ASCII and clean, so the faults agree as well.
        assert_eq!(found, expected, "{pieces:?} {bare:?}");
    }

    const ALPHABET: [u8; 6] = [b'\r', b'\n', 0, b'.', b'x', b' '];

    fn strings(len: usize) -> impl Iterator<Item = Vec<u8>> {
        (0..ALPHABET.len().pow(u32::try_from(len).unwrap())).map(move |mut number| {
            let digit = |_| {
                let octet = ALPHABET[number % ALPHABET.len()];
                number /= ALPHABET.len();
                octet
            };
            (0..len).map(digit).collect()
        })
    }

    /// Every string up to seven octets, as it stands and followed by the true end: where it ends, what
    /// the message is and what is wrong with it are as the reference says.
    #[test]
    fn the_end_is_exact_for_every_short_string() {
        for input in (0..=7).flat_map(strings) {
            for bare in [BareEnds::Report, BareEnds::Rewrite] {
                compare(&[&input], bare);
                compare(&[&[&input[..], b"\r\n.\r\n"].concat()], bare);
            }
        }
    }

    /// The same strings cut at every place: in two pieces the decoder comes to stand exactly where it
    /// stands after the whole, having written the same. As the strings reach every state in front of
    /// the cut, any number of cuts follows from that.
    #[test]
    fn a_cut_at_any_place_of_every_short_string_changes_nothing() {
        let (mut whole_out, mut cut_out) = (Vec::new(), Vec::new());
        for input in (0..=7).flat_map(strings) {
            for bare in [BareEnds::Report, BareEnds::Rewrite] {
                let whole = stand(&[&input], bare, &mut whole_out);
                for cut in 1..input.len() {
                    let (head, tail) = input.split_at(cut);
                    let found = stand(&[head, tail], bare, &mut cut_out);
                    let same = found == whole && cut_out == whole_out;
                    assert!(same, "{input:?} cut at {cut}, {bare:?}");
                }
            }
        }
    }

    /// Where a decoder stands after these pieces, and how much it has taken.
    fn stand(pieces: &[&[u8]], bare: BareEnds, out: &mut Vec<u8>) -> (State, Faults, usize) {
        out.clear();
        let (mut decoder, mut taken) = (Decoder::new(bare), 0);
        for piece in pieces {
            taken += decoder.decode(piece, out).used;
        }
        (decoder.state, decoder.faults, taken)
    }

    #[test]
    fn the_end_is_found_octet_by_octet() {
        for len in 0..=5 {
            for mut input in strings(len) {
                input.extend_from_slice(b"\r\n.\r\n");
                let pieces: Vec<&[u8]> = input.chunks(1).collect();
                compare(&pieces, BareEnds::Report);
                compare(&pieces, BareEnds::Rewrite);
            }
        }
    }

    #[test]
    fn nothing_that_another_server_takes_for_the_end_is_one() {
        let variants: [&[u8]; 12] = [
            b"\n.\n",
            b"\n.\r",
            b"\r.\n",
            b"\r.\r",
            b"\n.\r\n",
            b"\r.\r\n",
            b"\r\n.\n",
            b"\r\n.\r",
            b"\r\n.\r\r\n",
            b"\r\r\n.\r\r\n",
            b"\r\n\0.\r\n",
            b"\r\n.\0\r\n",
        ];
        for variant in variants {
            let smuggled = [b"a", variant, b"MAIL FROM:<x@y>\r\n".as_slice()].concat();
            let whole = [&smuggled, b"\r\n.\r\n".as_slice()].concat();
            for bare in [BareEnds::Report, BareEnds::Rewrite] {
                let outcome = machine(&[&whole], bare);
                assert_eq!(outcome.end, Some(whole.len()), "{variant:?} {bare:?}");
                assert!(bare == BareEnds::Rewrite || outcome.faults != Faults::default());
            }
        }
    }

    /// smtp-proto's receiver waits for ever here: a dot on the first line is the end.
    #[test]
    fn empty_data_is_an_empty_message() {
        let outcome = machine(&[b".\r\nQUIT\r\n"], BareEnds::Report);
        assert_eq!((outcome.end, outcome.message.len()), (Some(3), 0));
    }

    /// smtp-proto's receiver ends here; the CR makes it no end.
    #[test]
    fn dot_cr_crlf_is_not_the_end() {
        let outcome = machine(&[b"a\r\n.\r\r\n.\r\n"], BareEnds::Report);
        assert_eq!(outcome.end, Some(10));
        assert!(outcome.faults.bare_ending);
    }

    #[test]
    fn a_rewritten_message_has_only_crlf() {
        let outcome = machine(&[b"a\nb\rc\r\n..d\n..e\r\n.\r\n"], BareEnds::Rewrite);
        assert_eq!(outcome.message, b"a\r\nb\r\nc\r\n.d\r\n.e\r\n");
        assert_eq!(outcome.faults, Faults::default());
    }

    proptest! {
        #[test]
        fn any_cut_of_any_data_gives_the_same(
            input in proptest::collection::vec(
                prop_oneof![
                    4 => Just(b"text of a line".to_vec()),
                    3 => Just(b"\r\n".to_vec()),
                    2 => Just(b".".to_vec()),
                    1 => proptest::sample::select(vec!["\r", "\n", "\0", "é", "\r\n.\r\n"])
                        .prop_map(|text| text.as_bytes().to_vec()),
                ],
                0..24,
            ),
            cuts in proptest::collection::vec(0usize..200, 0..6),
        ) {
            let mut input = input.concat();
            input.extend_from_slice(b"\r\n.\r\n");
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(input.len())).collect();
            cuts.sort_unstable();
            let (mut pieces, mut from) = (Vec::new(), 0);
            for cut in cuts {
                pieces.push(&input[from..cut]);
                from = cut;
            }
            pieces.push(&input[from..]);
            compare(&pieces, BareEnds::Report);
            compare(&pieces, BareEnds::Rewrite);
        }
    }
}
