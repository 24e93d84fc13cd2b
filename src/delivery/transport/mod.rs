//! How a message travels upstream: SMTP, Microsoft Graph or the Gmail API.
//!
//! A transport reports facts: one reply a recipient, or a [`Failure`] that says in which phase the
//! session ended. What they mean is said by [`super::verdict`] alone.

pub(crate) mod api;
mod body;
mod gmail;
mod graph;
mod link;
mod outgoing;
pub(crate) mod smtp;

use std::{io, time::Duration};

pub use api::Api;
pub(crate) use body::start_of;
pub(crate) use link::Link;

use crate::{
    mail::{BodyType, Message, QueueId, Recipient, Reply, Ret, ReversePath},
    net::{dial, http, tls},
    smtp::{client::ReplyError, sasl::client::CredentialError},
};

/// How far a session had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// Name and address.
    Connect,
    /// Handshake.
    Tls,
    /// The server's greeting.
    Banner,
    /// EHLO or HELO.
    Ehlo,
    /// STARTTLS.
    Starttls,
    /// AUTH.
    Auth,
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA, before 354.
    Data,
    /// The message itself.
    Body,
    /// After the final dot.
    End,
}

impl Phase {
    /// Whether no message was involved yet: trouble here is the account's, never the message's.
    #[must_use]
    pub fn is_login(self) -> bool {
        self < Self::Mail
    }

    /// For logs and probe steps.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Tls | Self::Starttls => "tls",
            Self::Banner | Self::Ehlo => "ehlo",
            Self::Auth => "auth",
            Self::Mail => "mail",
            Self::Rcpt => "rcpt",
            Self::Data | Self::Body | Self::End => "data",
        }
    }
}

/// Why a session ended before every recipient had its reply.
#[derive(Debug, thiserror::Error)]
#[error("{phase:?}: {cause}")]
pub struct Failure {
    /// Where.
    pub phase: Phase,
    /// Why.
    #[source]
    pub cause: Cause,
    /// Whether the end of the data had been sent: the message may have been taken.
    pub uncertain: bool,
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// The server said no before any message was involved.
    #[error("{reply}")]
    Refused {
        /// What it said.
        reply: Reply,
        /// What it explained in an error challenge (XOAUTH2, OAUTHBEARER).
        challenge: Option<String>,
    },
    /// A reply that fits no question.
    #[error("out of place: {0}")]
    Unexpected(Reply),
    /// Name, address or route.
    #[error("{0}")]
    Dial(#[source] dial::Error),
    /// Handshake or certificate.
    #[error("{0}")]
    Tls(#[source] dial::TlsError),
    /// Our own TLS settings.
    #[error("{0}")]
    TlsSettings(#[source] tls::client::Error),
    /// The server closed the connection.
    #[error("connection closed by the server")]
    Closed,
    /// The connection broke.
    #[error("connection broke")]
    Io(#[source] io::Error),
    /// The phase took too long.
    #[error("no answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// What came is no SMTP.
    #[error("{0}")]
    Garbage(#[source] ReplyError),
    /// TLS is demanded and not offered.
    #[error("the server does not offer STARTTLS")]
    NoStarttls,
    /// Octets in clear after the answer to STARTTLS.
    #[error("octets in clear followed the answer to STARTTLS")]
    Injected,
    /// The configured way to authenticate is not offered.
    #[error("the server does not offer AUTH {0}")]
    NoMechanism(&'static str),
    /// Credentials would cross the network in clear.
    #[error("the connection is not encrypted")]
    Cleartext,
    /// The credentials cannot be encoded.
    #[error("{0}")]
    Credentials(#[source] CredentialError),
    /// A request to an API got no answer.
    #[error("{0}")]
    Http(#[source] http::Error),
    /// Our copy of the message could not be read.
    #[error("reading the message")]
    Body(#[source] io::Error),
    /// The outcome of the message before could not be stored, so this one was not sent.
    #[error("the outcome of an earlier message could not be stored")]
    Unsettled,
}

impl Cause {
    /// Whether the connection simply was not there any more.
    #[must_use]
    pub fn is_disconnect(&self) -> bool {
        match self {
            Self::Closed | Self::Io(_) | Self::Http(http::Error::Exchange(_)) => true,
            Self::Http(_)
            | Self::Refused { .. }
            | Self::Unexpected(_)
            | Self::Dial(_)
            | Self::Tls(_)
            | Self::TlsSettings(_)
            | Self::Timeout(_)
            | Self::Garbage(_)
            | Self::NoStarttls
            | Self::Injected
            | Self::NoMechanism(_)
            | Self::Cleartext
            | Self::Credentials(_)
            | Self::Body(_)
            | Self::Unsettled => false,
        }
    }
}

/// One message for some of its recipients.
#[derive(Debug, Clone)]
pub struct Job<'a> {
    /// Which message.
    pub id: QueueId,
    /// The reverse-path on the wire.
    pub sender: &'a ReversePath,
    /// The recipients of this transaction; never empty.
    pub recipients: Vec<&'a Recipient>,
    /// `BODY=`.
    pub body: BodyType,
    /// `SMTPUTF8`.
    pub smtputf8: bool,
    /// `RET=`.
    pub ret: Option<Ret>,
    /// `ENVID=`.
    pub envid: Option<&'a str>,
    /// The octets.
    pub message: &'a Message,
    /// What stands in front of them instead of their own header section.
    pub head: Option<&'a Head>,
    /// Whether nobody is to get it when one recipient is refused.
    pub all_or_none: bool,
}

impl Job<'_> {
    /// Octets that are sent, before dot-stuffing.
    #[must_use]
    pub fn size(&self) -> u64 {
        let octets = |len: usize| u64::try_from(len).unwrap_or(u64::MAX);
        let size = self.message.size;
        self.head.map_or(size, |head| {
            size.saturating_sub(octets(head.replaces)) + octets(head.octets.len())
        })
    }
}

/// A header section that replaces the one of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Its lines, without the empty one.
    pub octets: Vec<u8>,
    /// So many octets at the message's start give way to it.
    pub replaces: usize,
}

/// What a recipient came to: the reply that decided and the phase it came in, in the order of
/// [`Job::recipients`].
pub type Answers = Vec<(Phase, Reply)>;
