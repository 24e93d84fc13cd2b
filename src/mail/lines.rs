//! The length of lines (RFC 5322 §2.1.1): long header lines are folded, long lines of a body are seen.

use memchr::memchr;

/// RFC 5321 §4.5.3.1.6, without the CRLF.
pub const LINE_LEN_MAX: usize = 998;

/// Folds the lines of the header section `buffer[..end]` that are over [`LINE_LEN_MAX`], at white
/// space; gives where the section ends then.
///
/// Folding there changes nothing of what a field says (RFC 5322 §2.2.3). A line without a place to fold
/// stays as it is: cut anywhere else it would say something else.
pub fn fold(buffer: &mut Vec<u8>, end: usize) -> usize {
    let Some(section) = buffer.get(..end) else {
        return end;
    };
    if !LongLines::default().any(section) {
        return end;
    }
    let mut folded = Vec::with_capacity(end + end / LINE_LEN_MAX * 2 + 2);
    for line in section.split_inclusive(|octet| *octet == b'\n') {
        fold_line(line, &mut folded);
    }
    let folded_end = folded.len();
    buffer.splice(..end, folded);
    folded_end
}

fn fold_line(line: &[u8], out: &mut Vec<u8>) {
    let mut rest = line;
    while rest.trim_ascii_end().len() > LINE_LEN_MAX {
        let Some((first, second)) = place_to_fold(rest).and_then(|at| rest.split_at_checked(at))
        else {
            break;
        };
        out.extend_from_slice(first);
        out.extend_from_slice(b"\r\n");
        rest = second;
    }
    out.extend_from_slice(rest);
}

/// The last white space with text on both sides that leaves a line of the allowed length in front; a
/// line of white space alone would end the section for some readers.
fn place_to_fold(line: &[u8]) -> Option<usize> {
    let blank = |octet: &u8| matches!(octet, b' ' | b'\t');
    let front = line.get(..=LINE_LEN_MAX)?;
    let at = front.iter().rposition(blank)?;
    let (first, second) = line.split_at_checked(at)?;
    let both = !first.trim_ascii().is_empty() && !second.trim_ascii().is_empty();
    both.then_some(at)
}

/// Looks for lines over [`LINE_LEN_MAX`] in text that comes in pieces.
#[derive(Debug, Clone, Default)]
pub struct LongLines {
    /// Octets of the line so far, its CR included.
    len: usize,
}

impl LongLines {
    /// Whether a line is too long by now.
    pub fn any(&mut self, text: &[u8]) -> bool {
        let mut rest = text;
        while let Some(at) = memchr(b'\n', rest) {
            // The CR is one octet of them.
            if self.len + at > LINE_LEN_MAX + 1 {
                return true;
            }
            self.len = 0;
            rest = rest.get(at + 1..).unwrap_or_default();
        }
        self.len += rest.len();
        self.len > LINE_LEN_MAX + 1
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn folded(section: &str) -> String {
        let mut buffer = format!("{section}\r\nbody stays{}\r\n", " x".repeat(1000)).into_bytes();
        let body = buffer[section.len()..].to_vec();
        let end = fold(&mut buffer, section.len());
        assert_eq!(buffer.split_off(end), body, "only the section is touched");
        String::from_utf8(buffer).unwrap()
    }

    #[test]
    fn a_long_field_is_folded_at_white_space_and_says_the_same() {
        let long = format!("X-Long: {}\r\n", "word ".repeat(1000).trim_end());
        let section = format!("Subject: short\r\n{long}Date: now\r\n");
        let after = folded(&section);
        assert_eq!(after.replace("\r\n ", " "), section);
        let lines: Vec<usize> = after.split("\r\n").map(str::len).collect();
        assert!(lines.iter().all(|len| *len <= LINE_LEN_MAX), "{lines:?}");
        assert_eq!(lines.len(), 9, "no more folds than are needed");
    }

    #[test]
    fn what_has_no_place_to_fold_stays_whole() {
        for section in [
            format!("X: {}\r\n", "x".repeat(2000)),
            format!("X:{}\r\n", " ".repeat(2000)),
            format!(" {}\r\n", "x".repeat(2000)),
            format!("X: {}\r\n", "x".repeat(995)),
        ] {
            let after = folded(&section);
            assert_eq!(after.replace("\r\n ", " "), section);
            assert!(
                after
                    .split("\r\n")
                    .all(|line| line.is_empty() || !line.trim().is_empty())
            );
        }
    }

    #[test]
    fn the_bound_is_exact_at_every_cut() {
        for (len, long) in [(997, false), (998, false), (999, true)] {
            let text = format!("a\r\n{}\r\nb\r\n", "x".repeat(len));
            for cut in [0, 1, 3, 500, len + 3, len + 4, len + 5, text.len()] {
                let (first, second) = text.as_bytes().split_at(cut);
                let mut lines = LongLines::default();
                let found = lines.any(first) | lines.any(second);
                assert_eq!(found, long, "{len} cut at {cut}");
            }
        }
    }

    proptest! {
        /// Whatever the section holds, unfolding gives it back.
        #[test]
        fn folding_is_undone_by_unfolding(
            words in proptest::collection::vec("[a-z \t=]{0,700}", 0..8),
        ) {
            let section = format!("X: {}\r\n", words.concat());
            let unfold = |text: &str| text.replace("\r\n ", " ").replace("\r\n\t", "\t");
            prop_assert_eq!(unfold(&folded(&section)), section);
        }
    }
}
