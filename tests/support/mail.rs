//! Messages for tests, and the comparison of what was sent with what came out.

use super::sink::contains;

/// A whole message: complete headers, so that nothing needs to be added, and this body.
pub(crate) fn message(id: &str, body: &[u8]) -> Vec<u8> {
    let mut message = format!(
        "Date: Tue, 24 Nov 2026 09:00:00 +0000\r\nFrom: App <app@example.test>\r\n\
         To: rcpt@example.org\r\nMessage-ID: <{id}@app.example.test>\r\nSubject: test {id}\r\n\
         MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Transfer-Encoding: 8bit\r\n\r\n"
    )
    .into_bytes();
    message.extend_from_slice(body);
    message
}

/// Text of about `len` octets that depends on `seed` alone: torn or mixed bodies can't go unseen.
pub(crate) fn filler(seed: u64, len: usize) -> Vec<u8> {
    let mut chance = super::Chance::seeded(seed);
    let mut body = Vec::with_capacity(len + 80);
    while body.len() < len {
        let line: String = (0..4).map(|_| format!("{:016x} ", chance.next())).collect();
        body.extend_from_slice(line.trim_end().as_bytes());
        body.extend_from_slice(b"\r\n");
    }
    body
}

/// Checks that `received` is `sent` with nothing but trace fields put before it, octet for octet.
///
/// # Panics
/// At the first octet that differs, telling where.
pub(crate) fn assert_same(who: &str, sent: &[u8], received: &[u8]) {
    if let Err(difference) = same(sent, received) {
        panic!("{who}: {difference}");
    }
}

/// As [`assert_same`], as a value.
pub(crate) fn same(sent: &[u8], received: &[u8]) -> Result<(), String> {
    let Some(added) = received.len().checked_sub(sent.len()) else {
        return Err(format!(
            "{} octets were sent, {} came: {:?}",
            sent.len(),
            received.len(),
            String::from_utf8_lossy(received.get(..received.len().min(2000)).unwrap_or_default())
        ));
    };
    let (trace, rest) = received.split_at(added);
    if rest != sent {
        let at = rest
            .iter()
            .zip(sent)
            .rposition(|(a, b)| a != b)
            .unwrap_or_default();
        let around = |octets: &[u8]| {
            let part = octets.get(at.saturating_sub(60)..(at + 60).min(octets.len()));
            String::from_utf8_lossy(part.unwrap_or_default()).into_owned()
        };
        return Err(format!(
            "octet {at} (from the end aligned) differs: sent {:?}, came {:?}",
            around(sent),
            around(rest)
        ));
    }
    let trace = String::from_utf8_lossy(trace)
        .replace("\r\n\t", " ")
        .replace("\r\n ", " ");
    let strange: Vec<_> = trace
        .lines()
        .filter(|line| !line.starts_with("Received: "))
        .collect();
    if strange.is_empty() && trace.contains("relay.example.test") {
        Ok(())
    } else {
        Err(format!("before the message stands {trace:?}"))
    }
}

/// The body of a message.
pub(crate) fn body(message: &[u8]) -> &[u8] {
    let end = memchr::memmem::find(message, b"\r\n\r\n").map(|at| at + 4);
    end.and_then(|end| message.get(end..)).unwrap_or_default()
}

/// Whether a header field with this text is in the header section.
pub(crate) fn has_header(message: &[u8], line: &str) -> bool {
    let header = message
        .get(..message.len() - body(message).len())
        .unwrap_or_default();
    contains(header, line.as_bytes())
}

/// Bodies that mail software gets wrong, by name.
pub(crate) fn hard_bodies() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("plain", b"Hello.\r\n".to_vec()),
        ("empty", Vec::new()),
        (
            "dots",
            b".\r\n..\r\n...\r\n.leading\r\nmiddle . dot\r\n. space\r\n.\r\n".to_vec(),
        ),
        (
            "eight-bit",
            "Gr\u{fc}\u{df}e \u{20ac} \u{1f4e8}\r\n\u{a0}.\r\n"
                .as_bytes()
                .to_vec(),
        ),
        ("latin-1", b"caf\xe9 \xff\xfe \x80.\r\n".to_vec()),
        ("long-lines", long_lines()),
        ("blank-ends", b"\r\n\r\n text \t\r\n\r\n\r\n".to_vec()),
        (
            "from-line",
            b"From the start\r\n>From quoted\r\nFrom: no header\r\n".to_vec(),
        ),
        ("attachment", attachment()),
    ]
}

/// Lines as long as RFC 5322 §2.1.1 lets them be (998), and one with a dot at each end of a block.
fn long_lines() -> Vec<u8> {
    let mut body = Vec::new();
    for octet in [b'a', b'.', b'z'] {
        body.extend(std::iter::repeat_n(octet, 998));
        body.extend_from_slice(b"\r\n");
    }
    body
}

/// 5 MiB of pseudo-random octets in base64, as an attachment is.
pub(crate) fn attachment() -> Vec<u8> {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let mut chance = super::Chance::seeded(5);
    let octets: Vec<u8> = std::iter::repeat_with(|| chance.next().to_le_bytes())
        .take(5 * 1024 * 1024 / 8)
        .flatten()
        .collect();
    let mut body = Vec::with_capacity(octets.len() * 3 / 2);
    for line in octets.chunks(57) {
        body.extend_from_slice(STANDARD.encode(line).as_bytes());
        body.extend_from_slice(b"\r\n");
    }
    body
}
