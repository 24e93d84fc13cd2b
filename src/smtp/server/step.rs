//! What goes in and out of a session: settings, steps, questions, answers.

use crate::{
    mail::{Recipient, ReversePath},
    secret::Secret,
    smtp::replies::Reply,
};

/// What a listener offers and bounds; fixed for a session.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Our name in the greeting and EHLO reply.
    pub hostname: String,
    /// `SIZE` (RFC 1870), octets.
    pub max_message_size: u64,
    /// Recipients a transaction may have (then 452 4.5.3).
    pub max_recipients: usize,
    /// Whether STARTTLS can be offered.
    pub starttls: bool,
    /// SASL mechanisms offered, in order. Empty: AUTH is not offered.
    pub mechanisms: Vec<Mechanism>,
    /// Whether MAIL needs AUTH first (530 5.7.0).
    pub auth_required: bool,
    /// Whether credentials may be sent without TLS from this peer (else 538 5.7.11).
    pub auth_without_tls: bool,
    /// Whether reports can be asked for.
    pub dsn: Dsn,
    /// Domain given to addresses without one (`root`, `postmaster`).
    pub qualify_domain: String,
}

/// Whether delivery reports can be asked for (RFC 3461).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dsn {
    /// DSN stands in the EHLO reply.
    Offered,
    /// Its parameters get 555: a client that waits for the outcome is told it, and nobody else is.
    NotOffered,
}

/// A SASL mechanism of the server side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// RFC 4616.
    Plain,
    /// The undocumented but universal prompt pair.
    Login,
    /// Google's and Microsoft's bearer exchange (sandbox only).
    Xoauth2,
    /// RFC 7628 (sandbox only).
    OauthBearer,
}

/// What a client presented.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// PLAIN or LOGIN.
    Password {
        /// authcid.
        username: String,
        /// The password.
        password: Secret,
    },
    /// XOAUTH2 or OAUTHBEARER.
    Bearer {
        /// `user=` or the GS2 authzid.
        username: String,
        /// The access token.
        token: Secret,
    },
}

/// What the driver does next.
#[derive(Debug)]
pub enum Step {
    /// Write it, read the next line.
    Reply(Reply),
    /// Write it. The command was the last of its group (RFC 2920 §3.1), and what follows it unasked is
    /// meant for a state that did not come: octets already buffered are refused
    /// ([`Reply::OUT_OF_STEP`]), never read as commands.
    Alone(Reply),
    /// Write it, flush, close.
    Close(Reply),
    /// Write it, refuse bytes already buffered, do the handshake, then [`super::Session::tls_started`].
    StartTls(Reply),
    /// Decide, then [`super::Session::answer`].
    Ask(Question),
    /// Write it (354), decode DATA until its end, then [`super::Session::end_of_data`].
    Data(Reply),
}

/// What the machine cannot know.
#[derive(Debug)]
pub enum Question {
    /// May this peer log in so? Answer with [`Answer::Accept`] or a refusal.
    Login(Credentials),
    /// May this peer send from here, a message of about this size?
    Mail {
        /// The reverse-path.
        reverse_path: ReversePath,
        /// `SIZE=`, if given.
        size: Option<u64>,
    },
    /// May this peer send there?
    Rcpt(Recipient),
}

/// The driver's answer to a [`Question`].
#[derive(Debug)]
pub enum Answer {
    /// Yes.
    Accept,
    /// No, with this reply.
    Refuse(Reply),
    /// No, and for XOAUTH2/OAUTHBEARER with this error challenge first (JSON, sent in base64).
    Challenge(String, Reply),
}

impl Mechanism {
    /// As EHLO lists it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::Login => "LOGIN",
            Self::Xoauth2 => "XOAUTH2",
            Self::OauthBearer => "OAUTHBEARER",
        }
    }
}
