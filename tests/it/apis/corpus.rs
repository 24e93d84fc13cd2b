//! About a hundred messages shaped like those of the world, made here: the same at every run.

use base64::{Engine as _, prelude::BASE64_STANDARD};

use crate::support::mail::filler;

/// Who all of them are for.
pub(super) const TO: &str = "rcpt@example.org";

/// A message and what it is.
pub(super) struct Sample {
    pub(super) name: String,
    pub(super) octets: Vec<u8>,
}

/// Ways to write one and the same author. `@` stands for the mailbox.
const AUTHORS: [&str; 12] = [
    "@",
    "<@>",
    "Alerts <@>",
    "\"Alerts, Ltd. (x)\" <@>",
    "=?utf-8?Q?St=C3=B6rungen?= <@>",
    "=?iso-8859-1?B?U3T2cnVuZw==?=\r\n =?iso-8859-1?Q?_und_mehr?= <@>",
    "@ (Alerts)",
    "(Alerts (old)) @",
    "\"quoted \\\"pair\\\"\" <@>",
    "\tAlerts\r\n\t<@>",
    "Alerts \u{2013} \u{65e5}\u{672c} <@>",
    "alerts.team <@>",
];

/// Extra header fields, some of them signatures that must survive to the octet.
const FIELDS: [&str; 8] = [
    "",
    "DKIM-Signature: v=1; a=rsa-sha256; c=simple/simple; d=example.com; s=k1;\r\n\th=From:To:Subject; \
     bh=47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=;\r\n\tb=AbCd  Ef\r\n\t Gh\r\n",
    "Received: from a.example (a.example [192.0.2.1])\r\n\tby b.example with ESMTP id 1;\r\n\tTue, 24 Nov 2026 08:00:00 +0000\r\n",
    "List-Unsubscribe: <mailto:x@example.com>,\r\n <https://example.com/u?a=b&c=d>\r\nPrecedence: bulk\r\n",
    "X-Empty:\r\nX-Blank: \t \r\nx-lower:no space behind the colon\r\n",
    "X-Raw: J\u{f6}rg \u{1f4e7} im Kopf\r\n",
    "References: <a@x>\r\n <b@x>\r\nIn-Reply-To: <b@x>\r\nImportance: High\r\nX-Priority: 1\r\n",
    "Auto-Submitted: auto-generated\r\nReply-To: Nobody <nobody@example.com>\r\n",
];

/// Content type and body.
fn bodies() -> Vec<(&'static str, String, Vec<u8>)> {
    let text = |text: &str| text.replace('\n', "\r\n").into_bytes();
    let base64 = |octets: &[u8]| {
        let lines: Vec<String> = BASE64_STANDARD
            .encode(octets)
            .as_bytes()
            .chunks(76)
            .map(|line| String::from_utf8_lossy(line).into_owned())
            .collect();
        lines.join("\r\n")
    };
    let attached = |octets: usize| {
        text(&format!(
            "preamble\n--b\nContent-Type: text/plain\n\nsee below\n--b\nContent-Type: application/pdf; \
             name=\"r.pdf\"\nContent-Transfer-Encoding: base64\nContent-Disposition: attachment; \
             filename*=utf-8''r%C3%A9sum%C3%A9.pdf\n\n{}\n--b--\nepilogue\n",
            base64(&filler(7, octets)).replace("\r\n", "\n")
        ))
    };
    let mixed = || "multipart/mixed; boundary=b".to_owned();
    let mut long = vec![b'x'; 998];
    long.extend_from_slice(b"\r\nshort\r\n");
    vec![
        ("plain", "text/plain; charset=us-ascii".into(), text("Hello\n")),
        ("empty", "text/plain".into(), Vec::new()),
        ("8 bit", "text/plain; charset=utf-8".into(), text("Gr\u{fc}\u{df}e \u{1f600}\n")),
        ("latin 1", "text/plain; charset=iso-8859-1".into(), b"Gr\xfc\xdfe\r\n".to_vec()),
        ("dots", "text/plain".into(), text(".\n..\n.x\n\n.\n")),
        ("blanks", "text/plain".into(), text("  \t \nends in blanks   \n\n\n\n")),
        ("long line", "text/plain".into(), long),
        ("headers in the body", "text/plain".into(), text("Bcc: x@example.net\nTo: y@example.net\n")),
        (
            "alternative",
            "multipart/alternative;\r\n\tboundary=\"--=_x\"".into(),
            text("----=_x\nContent-Type: text/plain\n\na\n----=_x\nContent-Type: text/html\n\n<b>a</b>\n----=_x--\n"),
        ),
        (
            "calendar",
            "text/calendar; charset=utf-8; method=REQUEST".into(),
            text("BEGIN:VCALENDAR\nMETHOD:REQUEST\nBEGIN:VEVENT\nUID:1@x\nORGANIZER:mailto:alerts@example.com\nATTENDEE;RSVP=TRUE:mailto:other@example.net\nEND:VEVENT\nEND:VCALENDAR\n"),
        ),
        (
            "S/MIME signed",
            "multipart/signed; protocol=\"application/pkcs7-signature\";\r\n micalg=sha-256; boundary=s".into(),
            text(&format!("--s\nContent-Type: text/plain\n\nsigned  \n\n--s\nContent-Type: application/pkcs7-signature; name=smime.p7s\nContent-Transfer-Encoding: base64\n\n{}\n--s--\n", base64(&filler(1, 2000)).replace("\r\n", "\n"))),
        ),
        ("S/MIME sealed", "application/pkcs7-mime; smime-type=enveloped-data\r\nContent-Transfer-Encoding: base64".into(), text(&format!("{}\n", base64(&filler(2, 5000)).replace("\r\n", "\n")))),
        ("PGP", "multipart/encrypted; protocol=\"application/pgp-encrypted\"; boundary=p".into(), text("--p\nContent-Type: application/pgp-encrypted\n\nVersion: 1\n--p\nContent-Type: application/octet-stream\n\n-----BEGIN PGP MESSAGE-----\n\nhQEM\n-----END PGP MESSAGE-----\n--p--\n")),
        ("forwarded", "message/rfc822".into(), text("From: a@example.net\nTo: b@example.net\nBcc: c@example.net\nSubject: inner\n\ninner\n")),
        ("report", "multipart/report; report-type=delivery-status; boundary=r".into(), text("--r\n\nfailed\n--r\nContent-Type: message/delivery-status\n\nReporting-MTA: dns; x\n\nFinal-Recipient: rfc822; y@x\nAction: failed\nStatus: 5.1.1\n--r--\n")),
        ("1 KB attached", mixed(), attached(1_000)),
        ("100 KB attached", mixed(), attached(100_000)),
        ("400 KB attached", mixed(), attached(400_000)),
        ("no last line end", "text/plain".into(), b"no line end behind the last line\r\n".to_vec()),
    ]
}

/// The corpus, by the mailbox as author.
pub(super) fn messages(mailbox: &str) -> Vec<Sample> {
    let mut samples = Vec::new();
    for (at, (name, content_type, body)) in bodies().into_iter().enumerate() {
        // Each body with six authors and fields of its own: every author and field comes up.
        let turns = if body.len() > 50_000 { 1 } else { 6 };
        for turn in 0..turns {
            let author = AUTHORS[(at + turn * 5) % AUTHORS.len()];
            let fields = FIELDS[(at * 3 + turn) % FIELDS.len()];
            samples.push(Sample {
                name: format!("{name} from {author:?} with {fields:?}"),
                octets: message(mailbox, author, fields, &content_type, &body, samples.len()),
            });
        }
    }
    samples
}

/// One of about so many octets.
pub(super) fn large(mailbox: &str, octets: usize) -> Sample {
    let body = filler(9, octets);
    Sample {
        name: format!("{octets} octets"),
        octets: message(mailbox, "@", "", "text/plain", &body, octets),
    }
}

fn message(
    mailbox: &str,
    author: &str,
    fields: &str,
    content_type: &str,
    body: &[u8],
    number: usize,
) -> Vec<u8> {
    let author = author.replace('@', mailbox);
    let mut message = format!(
        "{fields}Date: Tue, 24 Nov 2026 09:00:00 +0000\r\nFrom: {author}\r\nTo: {TO}\r\n\
         Message-ID: <{number}@app.example.test>\r\nSubject: number {number}\r\nMIME-Version: 1.0\r\n\
         Content-Type: {content_type}\r\n\r\n"
    )
    .into_bytes();
    message.extend_from_slice(body);
    message
}
