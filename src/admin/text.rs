//! How times and sizes are said to a person, on pages and by the command line. Pure.

use jiff::Timestamp;

/// A span of time in one or two units: `5s`, `47m`, `3h 20m`, `2d 4h`.
fn span(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    let (large, unit, small, small_unit) = match seconds {
        DAY.. => (seconds / DAY, 'd', seconds % DAY / HOUR, 'h'),
        HOUR.. => (seconds / HOUR, 'h', seconds % HOUR / MINUTE, 'm'),
        MINUTE.. => (seconds / MINUTE, 'm', 0, 's'),
        _ => (seconds, 's', 0, 's'),
    };
    if small == 0 {
        format!("{large}{unit}")
    } else {
        format!("{large}{unit} {small}{small_unit}")
    }
}

/// A moment as seen from `now`: `in 47m`, `3h 20m ago`.
pub(crate) fn relative(moment: Timestamp, now: Timestamp) -> String {
    let seconds = moment.duration_since(now).as_secs();
    match seconds {
        0 => "now".into(),
        1.. => format!("in {}", span(seconds)),
        _ => format!("{} ago", span(seconds.saturating_neg())),
    }
}

/// Octets in the largest unit that leaves at least one.
pub(crate) fn size(octets: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    for (unit, name) in UNITS {
        if octets >= unit {
            let tenths = octets.saturating_mul(10) / unit;
            return format!("{}.{} {name}", tenths / 10, tenths % 10);
        }
    }
    format!("{octets} B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_sizes_are_short() {
        let cases = [
            (5, "5s"),
            (60, "1m"),
            (3599, "59m"),
            (12_000, "3h 20m"),
            (86_400, "1d"),
            (187_200, "2d 4h"),
        ];
        for (seconds, wanted) in cases {
            assert_eq!(span(seconds), wanted);
        }
        let now = Timestamp::UNIX_EPOCH;
        let later = Timestamp::from_second(90).unwrap();
        assert_eq!(relative(later, now), "in 1m");
        assert_eq!(relative(now, later), "1m ago");
        assert_eq!(relative(now, now), "now");
        for (octets, wanted) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (36 << 20, "36.0 MiB"),
        ] {
            assert_eq!(size(octets), wanted);
        }
    }
}
