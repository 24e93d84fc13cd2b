//! Delivery status notifications (RFC 3464 in an RFC 6522 multipart/report). Pure.

use jiff::Timestamp;

use crate::mail::{Address, Recipient, Reply, header::date, sanitise};

/// A provider's text is quoted up to this length.
const QUOTED_MAX: usize = 1024;

/// What a failure report says.
#[derive(Debug)]
pub struct Report<'a> {
    /// Our name: Reporting-MTA.
    pub hostname: &'a str,
    /// The mailbox it comes from.
    pub from: &'a str,
    /// Whom it tells.
    pub to: &'a Address,
    /// Unique; Message-ID and MIME boundary are made of it.
    pub id: &'a str,
    /// Now.
    pub now: Timestamp,
    /// When the message was accepted.
    pub received_at: Timestamp,
    /// `ENVID=`, in xtext.
    pub envid: Option<&'a str>,
    /// Who did not get it, and why.
    pub failed: Vec<(&'a Recipient, Option<&'a Reply>, &'a str)>,
    /// The header section of the message.
    pub header: &'a [u8],
}

fn quoted(text: &str) -> String {
    sanitise(text).chars().take(QUOTED_MAX).collect()
}

impl Report<'_> {
    /// The message, header and body, lines ending in CRLF.
    #[must_use]
    pub fn compose(&self) -> Vec<u8> {
        let boundary = format!("=_{}", self.id);
        let mut out = self.head(&boundary);
        out.push_str(&self.human(&boundary));
        out.push_str(&self.machine(&boundary));
        out.push_str(&format!(
            "--{boundary}\r\nContent-Type: text/rfc822-headers\r\n\r\n"
        ));
        let mut out = out.into_bytes();
        out.extend_from_slice(self.header);
        if !self.header.ends_with(b"\r\n") {
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        out
    }

    fn head(&self, boundary: &str) -> String {
        let (now, hostname, id) = (date(self.now), self.hostname, self.id);
        format!(
            "Date: {now}\r\nFrom: Mail Delivery System <{}>\r\nTo: <{}>\r\n\
             Subject: Undelivered mail returned to sender\r\nMessage-ID: <{id}.dsn@{hostname}>\r\n\
             Auto-Submitted: auto-replied\r\nMIME-Version: 1.0\r\n\
             Content-Type: multipart/report; report-type=delivery-status;\r\n\
             \tboundary=\"{boundary}\"\r\n\r\n",
            self.from, self.to
        )
    }

    fn human(&self, boundary: &str) -> String {
        let mut text = format!(
            "--{boundary}\r\nContent-Type: text/plain; charset=utf-8\r\n\
             Content-Transfer-Encoding: 8bit\r\n\r\n\
             Your message could not be delivered to the following recipients:\r\n\r\n"
        );
        for (recipient, reply, reason) in &self.failed {
            text.push_str(&format!("  {}: {}\r\n", recipient.address, quoted(reason)));
            if let Some(reply) = reply {
                text.push_str(&format!(
                    "    The mail server said: {}\r\n",
                    quoted(&reply.to_string())
                ));
            }
        }
        text.push_str("\r\nThe header of your message follows.\r\n\r\n");
        text
    }

    fn machine(&self, boundary: &str) -> String {
        let mut text = format!(
            "--{boundary}\r\nContent-Type: message/delivery-status\r\n\r\n\
             Reporting-MTA: dns; {}\r\nArrival-Date: {}\r\n",
            self.hostname,
            date(self.received_at)
        );
        if let Some(envid) = self.envid {
            text.push_str(&format!("Original-Envelope-Id: {envid}\r\n"));
        }
        for (recipient, reply, _) in &self.failed {
            text.push_str("\r\n");
            if let Some(orcpt) = &recipient.orcpt {
                text.push_str(&format!("Original-Recipient: {orcpt}\r\n"));
            }
            let status = reply.and_then(|r| r.enhanced).filter(|e| e.0 == 5);
            let status = status.map_or_else(|| "5.0.0".to_owned(), |e| e.to_string());
            text.push_str(&format!(
                "Final-Recipient: rfc822; {}\r\nAction: failed\r\nStatus: {status}\r\n",
                recipient.address
            ));
            if let Some(reply) = reply {
                text.push_str(&format!(
                    "Diagnostic-Code: smtp; {}\r\n",
                    quoted(&reply.to_string())
                ));
            }
        }
        text.push_str("\r\n");
        text
    }
}

#[cfg(test)]
mod tests {
    use mail_parser::{MessageParser, MimeHeaders};

    use super::*;
    use crate::mail::EnhancedCode;

    #[test]
    fn another_parser_reads_the_report_and_upstream_text_adds_no_header() {
        let recipient = Recipient::new(Address::parse("b@example.net").unwrap());
        let reply = Reply::new(550, Some(EnhancedCode(5, 1, 1)), "no\r\nBcc: x@example.net");
        let report = Report {
            hostname: "relay.example.com",
            from: "alerts@example.com",
            to: &Address::parse("a@example.com").unwrap(),
            id: "0abc",
            now: Timestamp::UNIX_EPOCH,
            received_at: Timestamp::UNIX_EPOCH,
            envid: Some("QQ"),
            failed: vec![(&recipient, Some(&reply), "refused for good")],
            header: b"Subject: hello\r\n",
        };
        let octets = report.compose();
        let message = MessageParser::default().parse(&octets).unwrap();
        assert_eq!(message.content_type().unwrap().subtype(), Some("report"));
        assert_eq!(message.parts.len(), 4, "the whole and its three parts");
        assert!(message.bcc().is_none());
        let text = String::from_utf8(octets).unwrap();
        assert!(text.contains("Status: 5.1.1\r\n") && !text.contains("\nBcc:"));
    }
}
