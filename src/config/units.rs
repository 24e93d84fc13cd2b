//! Durations (`"90s"`, `"1h30m"`) and sizes (`"35MiB"`) as people write them.
//!
//! Parsing and showing are inverse: what is shown parses to the same value.

use std::{fmt::Write, time::Duration};

/// Octets, as a listener counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ByteSize(pub u64);

/// Longest first, so that showing a value uses the largest units.
const DURATION_UNITS: [(&str, u64); 6] = [
    ("w", 7 * 86_400_000),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
    ("ms", 1),
];

/// Decimal units are accepted because providers publish their limits in them.
const SIZE_UNITS: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1000),
    ("B", 1),
];

/// Parses `"8s"`, `"1h30m"`, `"5d"`. A unit is always needed: a bare number means seconds to one
/// reader and minutes to the next.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, tail) = rest.split_at(digits);
        let letters = tail
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let (_, milliseconds) = DURATION_UNITS.iter().find(|(name, _)| *name == unit)?;
        let part = number.parse::<u64>().ok()?.checked_mul(*milliseconds)?;
        total = total.checked_add(part)?;
        rest = tail.trim_start();
    }
    Some(Duration::from_millis(total))
}

/// Parses `"35MiB"` or `"36700160B"`. Upper and lower case both serve, `M` alone does not: it is
/// read as either.
pub(super) fn size(text: &str) -> Option<ByteSize> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start();
    let (_, octets) = SIZE_UNITS
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit))?;
    number
        .parse::<u64>()
        .ok()?
        .checked_mul(*octets)
        .map(ByteSize)
}

/// A duration as it is written in the file.
pub(super) fn show_duration(value: Duration) -> String {
    let mut rest = u64::try_from(value.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    // A week is accepted but never shown: `5d` and `14d` compare at a glance.
    for (unit, milliseconds) in DURATION_UNITS.iter().skip(1) {
        let count = rest / milliseconds;
        if count > 0 {
            write!(text, "{count}{unit}").unwrap_or_default();
            rest %= milliseconds;
        }
    }
    if text.is_empty() {
        text.push_str("0s");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every unit, sums of them, and the texts that must not be guessed at.
    #[test]
    fn durations_need_a_unit_and_take_sums() {
        let cases = [
            ("8s", Some(8_000)),
            ("250ms", Some(250)),
            ("1m", Some(60_000)),
            ("1h30m", Some(5_400_000)),
            ("1h 30m", Some(5_400_000)),
            ("5d", Some(432_000_000)),
            ("2w", Some(1_209_600_000)),
            ("0s", Some(0)),
            ("60", None),
            ("", None),
            ("m", None),
            ("1.5h", None),
            ("-1m", None),
            ("1 fortnight", None),
            ("99999999999999999999s", None),
            ("18446744073709551615w", None),
        ];
        for (text, want) in cases {
            assert_eq!(duration(text), want.map(Duration::from_millis), "{text:?}");
        }
    }

    /// Binary and decimal units differ; a bare `M` is refused rather than guessed.
    #[test]
    fn sizes_keep_binary_and_decimal_apart() {
        let cases = [
            ("35MiB", Some(36_700_160)),
            ("35 mib", Some(36_700_160)),
            ("35MB", Some(35_000_000)),
            ("1GiB", Some(1 << 30)),
            ("512KiB", Some(524_288)),
            ("100B", Some(100)),
            ("35M", None),
            ("35", None),
            ("MiB", None),
            ("99999999999999GiB", None),
        ];
        for (text, want) in cases {
            assert_eq!(size(text), want.map(ByteSize), "{text:?}");
        }
    }

    #[test]
    fn a_shown_duration_parses_to_itself() {
        for text in ["0s", "8s", "1m", "1h30m", "5d", "1d1ms"] {
            let value = duration(text).unwrap();
            assert_eq!(show_duration(value), text);
        }
        assert_eq!(show_duration(duration("2w").unwrap()), "14d");
    }
}
