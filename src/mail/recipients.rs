//! Who a message's own header says it is for: what `sendmail -t` sends to (RFC 5322 §3.6.3).

use super::author::{Author, fields, quoted, value_of};

/// The addresses in `To`, `Cc` and `Bcc` of a header section, in order, each once; or those in
/// `Resent-To`, `Resent-Cc` and `Resent-Bcc`, if it has any of them: then the others were served when
/// the message was sent first (RFC 5322 §3.6.6).
///
/// Names, comments and groups are left away; what is left is not checked, and need not have a domain.
#[must_use]
pub fn of_header(section: &[u8]) -> Vec<String> {
    let fields = fields(section);
    let list = |names: [&str; 3]| -> Vec<&[u8]> {
        let is_one = |name: &[u8]| {
            names
                .iter()
                .any(|n| name.eq_ignore_ascii_case(n.as_bytes()))
        };
        let wanted = fields.iter().filter(|(name, _)| is_one(name));
        wanted.map(|(_, line)| value_of(line)).collect()
    };
    let mut values = list(["Resent-To", "Resent-Cc", "Resent-Bcc"]);
    if values.is_empty() {
        values = list(["To", "Cc", "Bcc"]);
    }
    let mut found: Vec<String> = Vec::new();
    for address in values.into_iter().flat_map(addresses) {
        if !found.contains(&address) {
            found.push(address);
        }
    }
    found
}

/// The addresses in a list, as text.
#[must_use]
pub fn addresses(value: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let (mut start, mut at) = (0, 0);
    let mut take = |part: Option<&[u8]>| {
        let part = part.unwrap_or_default();
        let address = Author::read(part).address.and_then(|range| part.get(range));
        found.extend(address.map(|address| String::from_utf8_lossy(address).into_owned()));
    };
    while let Some(octet) = value.get(at) {
        let len = match octet {
            b'"' => quoted(value, at, b'"', b'"'),
            b'(' => quoted(value, at, b'(', b')'),
            b'[' => quoted(value, at, b'[', b']'),
            b'<' => quoted(value, at, b'<', b'>'),
            b',' | b';' => {
                take(value.get(start..at));
                start = at + 1;
                1
            }
            // What stood before was the name of a group.
            b':' => {
                start = at + 1;
                1
            }
            _ => 1,
        };
        at += len;
    }
    take(value.get(start..));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_programs_write_them() {
        for (value, wanted) in [
            (" a@b.c\r\n", vec!["a@b.c"]),
            (
                " a@b.c, <d@e.f>,\r\n\tG H <g@h.i>",
                vec!["a@b.c", "d@e.f", "g@h.i"],
            ),
            (
                " \"x, y\" <a@b.c>, d@e.f (with, a comma)",
                vec!["a@b.c", "d@e.f"],
            ),
            (
                " staff: a@b.c, Z <d@e.f>;, root",
                vec!["a@b.c", "d@e.f", "root"],
            ),
            (" undisclosed-recipients:;", vec![]),
            (
                " \"a b\"@c.d, x@[IPv6:::1]",
                vec!["\"a b\"@c.d", "x@[IPv6:::1]"],
            ),
            (" <@r.s:a@b.c>, ,, ", vec!["a@b.c"]),
            (" \"never closed <a@b.c>", vec!["\"never closed <a@b.c>"]),
            ("", vec![]),
        ] {
            assert_eq!(addresses(value.as_bytes()), wanted, "{value:?}");
        }
    }

    #[test]
    fn a_message_sent_again_goes_to_whom_it_is_sent_again() {
        let first = "To: a@b.c\r\ncc: d@e.f,\r\n a@b.c\r\nBCC: g@h.i\r\nReply-To: no@b.c\r\n";
        assert_eq!(of_header(first.as_bytes()), ["a@b.c", "d@e.f", "g@h.i"]);
        let again = format!("Resent-Bcc: z@b.c\r\n{first}");
        assert_eq!(of_header(again.as_bytes()), ["z@b.c"]);
        assert!(of_header(b"Subject: To: a@b.c\r\n").is_empty());
    }
}
