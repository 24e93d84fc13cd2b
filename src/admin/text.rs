//! How values are said to a person, on pages and by the command line: times, sizes, and what
//! happened to a message. Pure.

use std::borrow::Cow;

use jiff::Timestamp;

use crate::queue::{
    Operation,
    trace::{Attempted, Event, Outcome, Received},
};

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

/// `1 message`, `2 messages`.
pub(crate) fn messages(count: u64) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} message{plural}")
}

/// A value as its JSON word: `sign_in_needed`.
pub(crate) fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

/// What messages are after an operation: `2 messages held`.
pub(crate) fn done(operation: Operation) -> &'static str {
    match operation {
        Operation::Retry => "due now",
        Operation::Hold => "held",
        Operation::Release => "released",
        Operation::Delete => "deleted",
    }
}

/// The text with everything replaced that would act instead of being read: control characters but line
/// ends and tabs, and those that turn the direction of writing around.
pub(crate) fn visible(text: &str) -> Cow<'_, str> {
    let acts = |c: char| {
        c.is_control() && c != '\n' && c != '\t'
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.replace(acts, "\u{fffd}"))
}

/// Where the header section of a message ends, its last line end included; `None`: not yet.
pub(crate) fn header_len(octets: &[u8]) -> Option<usize> {
    if octets.starts_with(b"\r\n") {
        return Some(0);
    }
    let end = memchr::memmem::find(octets, b"\r\n\r\n")?;
    Some(end + 2)
}

/// What happened to a message: a line, and lines that belong to it.
pub(crate) fn happened(event: &Event) -> Vec<String> {
    match event {
        Event::Received(received) => arrival(received),
        Event::Refused { reason } => {
            vec![format!("refused after all, the client keeps it: {reason}")]
        }
        Event::Attempted(attempted) => attempt(attempted),
        Event::NotSent { account, reason } => {
            vec![format!("not sent, {account} could not: {reason}")]
        }
        Event::Operated { operation } => {
            let done = match operation {
                Operation::Retry => "made due at once",
                Operation::Hold => "held",
                Operation::Release => "released",
                Operation::Delete => "deleted",
            };
            vec![format!("{done} by an operator")]
        }
        Event::Quarantined { reason } => vec![format!("quarantined: {reason}")],
    }
}

fn arrival(received: &Received) -> Vec<String> {
    let from = match (&received.origin, received.report_on) {
        (Some(origin), _) => {
            let login = received.client.as_deref();
            let login = login.map_or_else(String::new, |client| format!(", client {client}"));
            format!(
                "received from {} (HELO {}) at {} by {}{login}",
                origin.peer, origin.helo, origin.listener, origin.protocol
            )
        }
        (None, Some(id)) => format!("made here: a report on {id}"),
        (None, None) => "made here".to_owned(),
    };
    let mut lines = vec![
        format!("{from}, {}", size(received.size)),
        format!(
            "<{}> to {}, for account {}",
            received.sender,
            received.recipients.join(", "),
            received.account
        ),
    ];
    if let Some(id) = &received.message_id {
        lines.push(format!("Message-ID <{id}>"));
    }
    lines
}

fn attempt(attempted: &Attempted) -> Vec<String> {
    let way = &attempted.way;
    let connection = match way.reused {
        true => "an open connection",
        false => "a new connection",
    };
    let mut lines = vec![format!(
        "attempted by {} at {} ({}, {connection}), {} ms",
        way.account, way.smarthost, way.transport, way.elapsed_ms
    )];
    if !way.phases_ms.is_empty() {
        let phases = way.phases_ms.iter();
        let phases: Vec<String> = phases
            .map(|(phase, ms)| format!("{phase} {ms} ms"))
            .collect();
        lines.push(phases.join(", "));
    }
    for Outcome {
        state,
        reply,
        recipients,
    } in &attempted.outcomes
    {
        let reply = reply.as_deref().unwrap_or("no reply");
        lines.push(format!(
            "{}: {}: {reply}",
            word(state),
            recipients.join(", ")
        ));
    }
    if let Some(reason) = &attempted.reason {
        lines.push(reason.clone());
    }
    if attempted.uncertain {
        lines.push("the final reply was lost: it may have been taken".to_owned());
    }
    if attempted.held {
        lines.push("waits for a person".to_owned());
    }
    if let Some(at) = attempted.next_attempt_at {
        let burnt = match attempted.counted {
            true => "",
            false => ", no attempt burnt",
        };
        lines.push(format!("next attempt {at:.0}{burnt}"));
    }
    for report in &attempted.reports {
        lines.push(format!("a report was made: {report}"));
    }
    lines
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
    /// The header ends at the first empty line, also when there is no header at all.
    #[test]
    fn the_header_ends_at_the_empty_line() {
        let cases: [(&[u8], Option<usize>); 4] = [
            (b"A: b\r\n\r\nbody\r\n\r\n", Some(6)),
            (b"\r\nbody", Some(0)),
            (b"A: b\r\n", None),
            (b"", None),
        ];
        for (octets, wanted) in cases {
            assert_eq!(header_len(octets), wanted);
        }
    }
}
