//! The message on standard input: made fit for SMTP, its header read for recipients.

use memchr::memchr2;

use crate::mail::{
    author,
    header::{self, Scan},
    recipients,
};

/// Where a message holds an octet that no mail can.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct HoldsNul;

/// The message that `input` holds, with CRLF at each end of a line. LF, CRLF and CR each end one: cron
/// mails what programs print, progress bars and all. Unless `ignore_dots`, a line with only a dot ends
/// the message.
///
/// # Errors
/// [`HoldsNul`]: an octet 0 cannot be sent, and leaving it away would change what was given.
pub(super) fn normalise(input: &[u8], ignore_dots: bool) -> Result<Vec<u8>, HoldsNul> {
    let mut message = Vec::with_capacity(input.len() + input.len() / 32);
    let mut rest = input;
    while !rest.is_empty() {
        let end = memchr2(b'\r', b'\n', rest);
        let (line, behind) = rest
            .split_at_checked(end.unwrap_or(rest.len()))
            .unwrap_or((rest, b""));
        if line == b"." && !ignore_dots {
            break;
        }
        if memchr::memchr(0, line).is_some() {
            return Err(HoldsNul);
        }
        message.extend_from_slice(line);
        if end.is_some() {
            message.extend_from_slice(b"\r\n");
        }
        let ending = if behind.starts_with(b"\r\n") { 2 } else { 1 };
        rest = behind.get(ending..).unwrap_or_default();
    }
    Ok(message)
}

/// The recipients that the header names.
pub(super) fn recipients(message: &[u8]) -> Vec<String> {
    let header = Scan::new(0).finish(message);
    recipients::of_header(message.get(..header.end).unwrap_or_default())
}

/// Adds `From` where there is none, so that the full name is shown; takes Bcc out. (The listener
/// would do both, but knows no name.)
pub(super) fn complete(message: &mut Vec<u8>, full_name: Option<&str>, sender: Option<&str>) {
    let header = Scan::new(0).finish(message);
    let from = match (header.from, full_name, sender) {
        (false, Some(name), Some(sender)) => {
            format!("From: {} <{sender}>\r\n", author::phrase(name))
        }
        (true, _, _) | (false, _, _) => String::new(),
    };
    header::edit(message, &header, from.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_of_a_line_becomes_crlf_and_a_dot_ends_the_message_unless_ignored() {
        for (input, with_dots, ignoring) in [
            ("a\nb\n", "a\r\nb\r\n", "a\r\nb\r\n"),
            (
                "a\r\nb\rc\n\n",
                "a\r\nb\r\nc\r\n\r\n",
                "a\r\nb\r\nc\r\n\r\n",
            ),
            ("a\n.\nb\n", "a\r\n", "a\r\n.\r\nb\r\n"),
            ("a\n.", "a\r\n", "a\r\n."),
            (".\n", "", ".\r\n"),
            ("a\n..\n.b\n", "a\r\n..\r\n.b\r\n", "a\r\n..\r\n.b\r\n"),
            ("no end", "no end", "no end"),
            ("", "", ""),
            ("10%\r20%\r\n", "10%\r\n20%\r\n", "10%\r\n20%\r\n"),
        ] {
            assert_eq!(
                normalise(input.as_bytes(), false).unwrap(),
                with_dots.as_bytes()
            );
            assert_eq!(
                normalise(input.as_bytes(), true).unwrap(),
                ignoring.as_bytes()
            );
        }
        assert_eq!(normalise(b"a\0b\n", true), Err(HoldsNul));
        assert_eq!(
            normalise(b"a\n.\n\0", false).unwrap(),
            b"a\r\n",
            "behind the end is nothing"
        );
    }

    #[test]
    fn a_name_is_shown_where_no_author_is_given() {
        let full = Some("Cron Daemon");
        for (message, wanted) in [
            (
                "Subject: x\r\n\r\nb\r\n",
                "Subject: x\r\nFrom: Cron Daemon <root@h>\r\n\r\nb\r\n",
            ),
            (
                "From: a@b.c\r\nBcc: d@e.f\r\n\r\nb\r\n",
                "From: a@b.c\r\n\r\nb\r\n",
            ),
            ("text\r\n", "From: Cron Daemon <root@h>\r\n\r\ntext\r\n"),
        ] {
            let mut octets = message.as_bytes().to_vec();
            complete(&mut octets, full, Some("root@h"));
            assert_eq!(String::from_utf8(octets).unwrap(), wanted);
        }
    }
}
