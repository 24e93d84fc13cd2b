//! Constant replies: what a peer reads never depends on what went wrong inside.
//!
//! Everything here is one screen of policy text. Lines stay under 512 octets (RFC 5321 §4.5.3.1.5).

use std::borrow::Cow;

use crate::mail::{self, EnhancedCode, QueueId};

/// A reply of ours, ready for the wire: complete lines, each ending in CRLF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply(pub Cow<'static, str>);

macro_rules! replies {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        impl Reply {
            $($(#[$doc])* pub const $name: Self = Self(Cow::Borrowed(concat!($text, "\r\n")));)*
        }
    };
}

replies! {
    /// RSET, NOOP.
    OK = "250 2.0.0 ok";
    /// QUIT.
    BYE = "221 2.0.0 bye";
    /// MAIL was taken.
    SENDER_OK = "250 2.1.0 sender ok";
    /// RCPT was taken.
    RECIPIENT_OK = "250 2.1.5 recipient ok";
    /// VRFY tells nobody who exists.
    CANNOT_VERIFY = "252 2.1.5 cannot verify; send it and see";
    /// HELP.
    HELP = "214 2.0.0 EHLO HELO MAIL RCPT DATA RSET NOOP VRFY STARTTLS AUTH QUIT";
    /// DATA may begin.
    START_DATA = "354 end data with <CRLF>.<CRLF>";
    /// STARTTLS: the handshake may begin.
    READY_FOR_TLS = "220 2.0.0 ready to start TLS";
    /// AUTH succeeded.
    LOGGED_IN = "235 2.7.0 authentication successful";

    /// No command that is known.
    UNKNOWN_COMMAND = "500 5.5.2 command not recognized";
    /// The line holds octets no command has.
    BAD_OCTETS = "500 5.5.2 control or non-UTF-8 octets in command";
    /// A CR without its LF within a command.
    BARE_CR = "500 5.5.2 bare CR in command";
    /// An LF without its CR in a command: what follows cannot be trusted.
    BARE_LF = "500 5.5.2 bare LF in command, closing connection";
    /// A line over its bound.
    LINE_TOO_LONG = "500 5.5.2 line too long";
    /// A command without what it needs, or with what it does not take.
    SYNTAX = "501 5.5.4 syntax error in arguments";
    /// A name in EHLO or HELO that no host has.
    SYNTAX_HELLO = "501 5.5.4 hostname too long";
    /// MAIL in a shape that is not MAIL.
    SYNTAX_MAIL = "501 5.5.4 syntax: MAIL FROM:<address>";
    /// RCPT in a shape that is not RCPT.
    SYNTAX_RCPT = "501 5.5.4 syntax: RCPT TO:<address>";
    /// The reverse-path is no address.
    BAD_SENDER = "501 5.1.7 bad sender address syntax";
    /// The forward-path is no address.
    BAD_RECIPIENT = "501 5.1.3 bad recipient address syntax";
    /// The address needs SMTPUTF8, which MAIL did not declare.
    NEEDS_SMTPUTF8 = "553 5.6.7 non-ASCII address needs SMTPUTF8";
    /// A parameter that was not offered.
    UNKNOWN_PARAMETER = "555 5.5.4 unsupported parameter";
    /// A parameter with a value it cannot have, or given twice.
    BAD_PARAMETER = "501 5.5.4 bad parameter value";
    /// STARTTLS where it was not offered.
    NO_STARTTLS = "502 5.5.1 STARTTLS is not offered here";
    /// AUTH where it was not offered.
    NO_AUTH = "502 5.5.1 AUTH is not offered here";
    /// Known, not offered.
    NOT_IMPLEMENTED = "502 5.5.1 command not implemented";
    /// BDAT was not offered; the octets behind it would be read as commands.
    NO_CHUNKING = "502 5.5.1 CHUNKING was not offered, closing connection";

    /// Nothing before EHLO or HELO.
    HELLO_FIRST = "503 5.5.1 send EHLO first";
    /// A second MAIL in a transaction.
    NESTED_MAIL = "503 5.5.1 sender already given";
    /// RCPT or DATA without MAIL.
    MAIL_FIRST = "503 5.5.1 send MAIL first";
    /// DATA without a recipient that was taken.
    RCPT_FIRST = "554 5.5.1 no valid recipients";
    /// STARTTLS under TLS.
    ALREADY_TLS = "503 5.5.1 TLS already active";
    /// Octets in clear behind STARTTLS: somebody injects commands (CVE-2011-0411).
    INJECTED = "554 5.5.1 nothing may follow STARTTLS, closing connection";
    /// Octets behind a DATA that was refused: a message nobody takes, never commands (RFC 2920 §3.1).
    OUT_OF_STEP = "554 5.5.0 sent without waiting for the reply, closing connection";
    /// A second AUTH.
    ALREADY_LOGGED_IN = "503 5.5.1 already authenticated";
    /// AUTH between MAIL and the end of data.
    AUTH_IN_TRANSACTION = "503 5.5.1 no AUTH during a mail transaction";

    /// Too many recipients for one transaction; the client sends the rest in another.
    TOO_MANY_RECIPIENTS = "452 4.5.3 too many recipients, send the rest in another transaction";
    /// The message is too big.
    TOO_BIG = "552 5.3.4 message too big";
    /// The header section is too big.
    HEADER_TOO_BIG = "552 5.3.4 header section too big";
    /// A CR or LF alone in the data.
    BARE_ENDINGS = "550 5.6.11 bare CR or LF in message data";
    /// A line of the message over RFC 5321's bound, where that is refused.
    DATA_LINE_TOO_LONG = "554 5.6.0 line over 998 octets in message data";
    /// NUL in the data.
    NUL_IN_DATA = "550 5.6.0 NUL octet in message data";
    /// Too many hops.
    LOOP = "554 5.4.6 too many hops, mail loop";

    /// Mail without login where one is needed.
    LOGIN_FIRST = "530 5.7.0 authentication required";
    /// The same, where a login needs TLS first.
    TLS_AND_LOGIN_FIRST = "530 5.7.0 must issue STARTTLS, then authenticate";
    /// Credentials in clear where they must not be.
    TLS_FIRST = "538 5.7.11 encryption required for authentication";
    /// A mechanism that is not offered.
    UNKNOWN_MECHANISM = "504 5.5.4 authentication mechanism not offered";
    /// The client gave AUTH up.
    AUTH_CANCELLED = "501 5.7.0 authentication cancelled";
    /// What the client sent is not what its mechanism sends.
    AUTH_MALFORMED = "501 5.5.2 malformed authentication data";
    /// Wrong name or password: never which.
    AUTH_FAILED = "535 5.7.8 authentication failed";
    /// Too many logins failed from there, or by that name.
    AUTH_LATER = "454 4.7.0 too many failed logins, try again later";
    /// AUTH could not be decided.
    AUTH_UNAVAILABLE = "454 4.7.0 temporary authentication failure";
    /// This client may not send as that.
    SENDER_REFUSED = "550 5.7.1 sender address not permitted for this client";
    /// No account sends this.
    NO_ROUTE = "550 5.7.1 no account is configured for this sender and these recipients";
    /// This peer may not connect.
    ACCESS_DENIED = "554 5.7.1 access denied";

    /// The store takes nothing now.
    STORE_FULL = "452 4.3.1 insufficient system storage";
    /// The store has failed.
    STORE_BROKEN = "451 4.3.0 mail system unavailable, try again later";
    /// Mail for the client's account cannot be sent while it waits.
    NOT_NOW = "451 4.3.0 mail cannot be sent now, try again later";
    /// The provider refused the message for good.
    UPSTREAM_REFUSED = "554 5.0.0 refused by the mail provider";
    /// We stop.
    SHUTTING_DOWN = "421 4.3.2 service shutting down, try again later";
    /// All sessions are taken, or all that one address may have.
    TOO_MANY_SESSIONS = "421 4.7.0 too many connections, try again later";
    /// A deadline passed.
    TIMED_OUT = "421 4.4.2 timeout, closing connection";
    /// The session made too many errors.
    TOO_MANY_ERRORS = "421 4.7.0 too many errors, closing connection";
    /// The session failed to log in too often.
    TOO_MANY_LOGINS = "421 4.7.0 too many failed logins, closing connection";
    /// The peer begins a TLS handshake where none is expected.
    NOT_TLS = "421 4.7.0 TLS does not begin here, closing connection";
    /// The peer speaks HTTP.
    NOT_HTTP = "421 4.7.0 this is SMTP, closing connection";
    /// TLS cannot begin.
    TLS_UNAVAILABLE = "454 4.7.0 TLS not available";
}

impl Reply {
    /// 250 after end-of-data: the message is durable.
    #[must_use]
    pub fn queued(id: QueueId) -> Self {
        Self(Cow::Owned(format!("250 2.0.0 queued as {id}\r\n")))
    }

    /// 250 after end-of-data: the provider has taken the message for every recipient.
    #[must_use]
    pub fn delivered(id: QueueId) -> Self {
        Self(Cow::Owned(format!("250 2.0.0 delivered as {id}\r\n")))
    }

    /// What a provider's refusal for good is to the client: its codes, where they speak of the
    /// message and not of our session, and none of its text.
    #[must_use]
    pub fn refused_upstream(reply: &mail::Reply) -> Self {
        let code = match reply.code {
            code @ (550..=554) => code,
            _ => 554,
        };
        let enhanced = reply.enhanced.filter(|enhanced| enhanced.0 == 5);
        let EnhancedCode(_, subject, detail) = enhanced.unwrap_or(EnhancedCode(5, 0, 0));
        Self(Cow::Owned(format!(
            "{code} 5.{subject}.{detail} refused by the mail provider\r\n"
        )))
    }

    /// As [`Reply::refused_upstream`] for a refusal that may pass.
    #[must_use]
    pub fn deferred_upstream(reply: &mail::Reply) -> Self {
        let code = match reply.code {
            code @ (450..=452) => code,
            _ => 451,
        };
        let enhanced = reply.enhanced.filter(|enhanced| enhanced.0 == 4);
        let EnhancedCode(_, subject, detail) = enhanced.unwrap_or(EnhancedCode(4, 0, 0));
        Self(Cow::Owned(format!(
            "{code} 4.{subject}.{detail} not taken by the mail provider now, try again later\r\n"
        )))
    }

    /// 334 with a challenge, already in base64 (RFC 4954 §4).
    #[must_use]
    pub fn challenge(base64: &str) -> Self {
        Self(Cow::Owned(format!("334 {base64}\r\n")))
    }

    /// The code, as the metrics label it.
    #[must_use]
    pub fn code(&self) -> &str {
        self.0.get(..3).unwrap_or_default()
    }

    /// Whether the reply says that something went wrong.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        self.0.starts_with(['4', '5'])
    }
}
