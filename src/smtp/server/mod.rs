//! The server session machine: a line in, a step out (RFC 5321, 6409, 4954, 3207, 3461).
//!
//! The machine owns the state and the order of commands; the driver owns the socket, the clock and
//! the decisions. A driver loop: write the reply, read a line ([`super::line`]), call
//! [`Session::line`], act on the [`Step`]; a [`Question`] is answered with [`Session::answer`].
//!
//! `smtp-proto` recognises verbs, mechanisms and parameters; it sees only lines that the framer and
//! the checks in `command` let through. Paths are ours (`path`): an address keeps its quoting.

mod command;
mod path;
mod step;

use std::{fmt::Write as _, sync::Arc};

use command::Command;
pub use step::{Answer, Credentials, Dsn, Mechanism, Question, Settings, Step};

use super::{
    line::{self, Fault},
    replies::Reply,
    sasl::server::{self as sasl, Exchange, Turn},
};
use crate::mail::{Envelope, Notify, Recipient};

/// One SMTP session.
#[derive(Debug)]
pub struct Session {
    settings: Arc<Settings>,
    tls: bool,
    hello: Option<Hello>,
    login: Option<String>,
    transaction: Option<Envelope>,
    phase: Phase,
    errors: u32,
    /// Commands since the last message that brought none nearer.
    idle: u32,
    /// Recipients beyond the bound since the last message.
    overshoot: u32,
    failed_logins: u32,
    /// Where lines are made ready for the parser; kept to spare an allocation a command.
    scratch: Vec<u8>,
}

#[derive(Debug)]
struct Hello {
    name: String,
    esmtp: bool,
}

/// What the machine waits for.
#[derive(Debug)]
enum Phase {
    Command,
    /// The client's next line of an AUTH exchange.
    Sasl(Exchange),
    /// The empty line with which a client answers an error challenge, before its refusal.
    Dismissed(Reply),
    /// The driver's decision about a login by this name.
    AskedLogin(String),
    /// The driver's decision about a transaction that would begin so.
    AskedMail(Box<Envelope>),
    /// The driver's decision about a recipient.
    AskedRcpt(Box<Recipient>),
    /// The end of data.
    Data,
}

/// Errors a session may make without sending a message between them; Postfix's hard limit. What
/// makes more is no mail client.
const ERRORS_MAX: u32 = 20;
/// Commands that bring no message nearer (NOOP, RSET, VRFY, EHLO..) between two messages; more count as
/// errors. Postfix's `smtpd_junk_command_limit`.
const IDLE_COMMANDS_MAX: u32 = 100;

/// Recipients beyond the bound that are asked to come later; more count as errors: a client that
/// pipelines sees the first 452 late, one that goes on and on does not read. Postfix's
/// `smtpd_recipient_overshoot_limit`.
const OVERSHOOT_MAX: u32 = 1000;

/// Logins a session may fail: enough for a typing error, too few for guessing.
const FAILED_LOGINS_MAX: u32 = 3;

impl Session {
    /// A session that has just connected; `tls` when the connection began with TLS.
    #[must_use]
    pub fn new(settings: Arc<Settings>, tls: bool) -> Self {
        Self {
            settings,
            tls,
            hello: None,
            login: None,
            transaction: None,
            phase: Phase::Command,
            errors: 0,
            idle: 0,
            overshoot: 0,
            failed_logins: 0,
            scratch: Vec::new(),
        }
    }

    /// The banner.
    #[must_use]
    pub fn greeting(&self) -> Reply {
        let hostname = &self.settings.hostname;
        Reply(format!("220 {hostname} ESMTP Gatepost\r\n").into())
    }

    /// How long the next line may be: a SASL response is longer than a command. Where bearer
    /// tokens are taken, clients send them in the AUTH line itself.
    #[must_use]
    pub fn line_len_max(&self) -> usize {
        let bearer = |m: &Mechanism| matches!(m, Mechanism::Xoauth2 | Mechanism::OauthBearer);
        let mechanisms = &self.settings.mechanisms;
        if matches!(self.phase, Phase::Sasl(_)) || mechanisms.iter().any(bearer) {
            line::AUTH_LINE_LEN_MAX
        } else {
            line::COMMAND_LINE_LEN_MAX
        }
    }

    /// Whether the last or the next line carries credentials: its buffer is to be wiped.
    #[must_use]
    pub fn in_auth(&self) -> bool {
        match self.phase {
            Phase::Sasl(_) | Phase::Dismissed(_) | Phase::AskedLogin(_) => true,
            Phase::Command | Phase::AskedMail(_) | Phase::AskedRcpt(_) | Phase::Data => false,
        }
    }

    /// A complete line, without its CRLF.
    pub fn line(&mut self, line: &[u8]) -> Step {
        match std::mem::replace(&mut self.phase, Phase::Command) {
            Phase::Command => self.command(line),
            Phase::Sasl(exchange) => self.turn(exchange.respond(line)),
            Phase::Dismissed(reply) => self.login_failed(reply),
            // The driver owes an answer or an end of data; there is no line to take.
            Phase::AskedLogin(_) | Phase::AskedMail(_) | Phase::AskedRcpt(_) | Phase::Data => {
                Step::Close(Reply::STORE_BROKEN)
            }
        }
    }

    /// A line that the framer refused; an AUTH exchange it belonged to is over.
    pub fn fault(&mut self, fault: Fault) -> Step {
        self.phase = Phase::Command;
        self.refuse(match fault {
            Fault::BareCr => Reply::BARE_CR,
            Fault::BareLf => Reply::BARE_LF,
            Fault::TooLong => Reply::LINE_TOO_LONG,
        })
    }

    fn command(&mut self, line: &[u8]) -> Step {
        let command = match command::parse(line, &mut self.scratch) {
            Ok(command) => command,
            Err(reply) => return self.refuse(reply),
        };
        match command {
            Command::Hello { name, esmtp } => self.hello(name, esmtp),
            Command::Mail(rest) => self.mail(rest),
            Command::Rcpt(rest) => self.rcpt(rest),
            Command::Data => self.data(),
            Command::Reset => {
                self.transaction = None;
                self.idle(Reply::OK)
            }
            Command::Noop => self.idle(Reply::OK),
            Command::Verify => self.idle(Reply::CANNOT_VERIFY),
            Command::Help => self.idle(Reply::HELP),
            Command::Quit => Step::Close(Reply::BYE),
            Command::StartTls => self.start_tls(),
            Command::Auth { mechanism, initial } => self.auth(mechanism, initial),
            Command::Bdat => Step::Close(Reply::NO_CHUNKING),
            Command::Http => Step::Close(Reply::NOT_HTTP),
        }
    }

    /// Counts an error; a session that makes too many is closed.
    fn refuse(&mut self, reply: Reply) -> Step {
        self.errors += 1;
        if self.errors > ERRORS_MAX {
            Step::Close(Reply::TOO_MANY_ERRORS)
        } else {
            Step::Reply(reply)
        }
    }

    /// Answers a command that brings no message nearer; a flood of them is one of errors.
    fn idle(&mut self, reply: Reply) -> Step {
        self.idle = self.idle.saturating_add(1);
        if self.idle > IDLE_COMMANDS_MAX {
            self.refuse(reply)
        } else {
            Step::Reply(reply)
        }
    }

    /// Refuses a command whose like the client sends last in a group.
    fn refuse_alone(&mut self, reply: Reply) -> Step {
        match self.refuse(reply) {
            Step::Reply(reply) => Step::Alone(reply),
            over @ (Step::Close(_)
            | Step::Alone(_)
            | Step::StartTls(_)
            | Step::Ask(_)
            | Step::Data(_)) => over,
        }
    }

    fn hello(&mut self, name: String, esmtp: bool) -> Step {
        self.transaction = None;
        self.hello = Some(Hello { name, esmtp });
        let hostname = &self.settings.hostname;
        if !esmtp {
            let reply = Reply(format!("250 {hostname}\r\n").into());
            return self.idle(reply);
        }
        let mut text = format!("250-{hostname}\r\n250-PIPELINING\r\n");
        // Writing to a String cannot fail.
        let size = self.settings.max_message_size;
        write!(text, "250-SIZE {size}\r\n").unwrap_or_default();
        if self.settings.starttls && !self.tls {
            text.push_str("250-STARTTLS\r\n");
        }
        if self.auth_possible() {
            self.offer_mechanisms(&mut text);
        }
        text.push_str("250-8BITMIME\r\n250-SMTPUTF8\r\n");
        if self.settings.dsn == Dsn::Offered {
            text.push_str("250-DSN\r\n");
        }
        text.push_str("250 ENHANCEDSTATUSCODES\r\n");
        self.idle(Reply(text.into()))
    }

    fn auth_possible(&self) -> bool {
        !self.settings.mechanisms.is_empty() && (self.tls || self.settings.auth_without_tls)
    }

    /// `AUTH`, and once more as `AUTH=` for clients from before RFC 2554 (old Outlook, devices);
    /// others ignore the keyword they do not know.
    fn offer_mechanisms(&self, text: &mut String) {
        let mechanisms = &self.settings.mechanisms;
        text.push_str("250-AUTH");
        for mechanism in mechanisms {
            text.push(' ');
            text.push_str(mechanism.name());
        }
        text.push_str("\r\n");
        let old = [Mechanism::Login, Mechanism::Plain].map(|old| mechanisms.contains(&old));
        text.push_str(match old {
            [true, true] => "250-AUTH=LOGIN PLAIN\r\n",
            [true, false] => "250-AUTH=LOGIN\r\n",
            [false, true] => "250-AUTH=PLAIN\r\n",
            [false, false] => "",
        });
    }

    fn mail(&mut self, rest: &str) -> Step {
        if self.hello.is_none() {
            return self.refuse(Reply::HELLO_FIRST);
        }
        if self.transaction.is_some() {
            return self.refuse(Reply::NESTED_MAIL);
        }
        if self.settings.auth_required && self.login.is_none() {
            let reply = if self.auth_possible() {
                Reply::LOGIN_FIRST
            } else {
                Reply::TLS_AND_LOGIN_FIRST
            };
            return self.refuse(reply);
        }
        let domain = &self.settings.qualify_domain;
        let (envelope, size) = match path::mail(rest, domain, &mut self.scratch) {
            Ok(parsed) => parsed,
            Err(reply) => return self.refuse(reply),
        };
        let no_dsn = self.settings.dsn == Dsn::NotOffered;
        if no_dsn && (envelope.ret.is_some() || envelope.envid.is_some()) {
            return self.refuse(Reply::UNKNOWN_PARAMETER);
        }
        if size.is_some_and(|size| size > self.settings.max_message_size) {
            return self.idle(Reply::TOO_BIG);
        }
        let reverse_path = envelope.reverse_path.clone();
        self.phase = Phase::AskedMail(Box::new(envelope));
        Step::Ask(Question::Mail { reverse_path, size })
    }

    fn rcpt(&mut self, rest: &str) -> Step {
        let Some(transaction) = &self.transaction else {
            return self.refuse(Reply::MAIL_FIRST);
        };
        let domain = &self.settings.qualify_domain;
        let recipient = match path::rcpt(rest, domain, transaction.smtputf8, &mut self.scratch) {
            Ok(recipient) => recipient,
            Err(reply) => return self.refuse(reply),
        };
        let wants_report = recipient.notify != Notify::Unspecified || recipient.orcpt.is_some();
        if wants_report && self.settings.dsn == Dsn::NotOffered {
            return self.refuse(Reply::UNKNOWN_PARAMETER);
        }
        // Not an error of the client: it sends the rest in another transaction (RFC 5321 §4.5.3.1.10).
        if transaction.recipients.len() >= self.settings.max_recipients {
            self.overshoot = self.overshoot.saturating_add(1);
            if self.overshoot > OVERSHOOT_MAX {
                return self.refuse(Reply::TOO_MANY_RECIPIENTS);
            }
            return Step::Reply(Reply::TOO_MANY_RECIPIENTS);
        }
        self.phase = Phase::AskedRcpt(Box::new(recipient.clone()));
        Step::Ask(Question::Rcpt(recipient))
    }

    fn data(&mut self) -> Step {
        match &self.transaction {
            None => self.refuse_alone(Reply::MAIL_FIRST),
            Some(transaction) if transaction.recipients.is_empty() => {
                self.refuse_alone(Reply::RCPT_FIRST)
            }
            Some(_) => {
                self.phase = Phase::Data;
                Step::Data(Reply::START_DATA)
            }
        }
    }

    fn start_tls(&mut self) -> Step {
        if self.tls {
            self.refuse_alone(Reply::ALREADY_TLS)
        } else if self.settings.starttls {
            Step::StartTls(Reply::READY_FOR_TLS)
        } else {
            self.refuse_alone(Reply::NO_STARTTLS)
        }
    }

    fn auth(&mut self, mechanism: Option<Mechanism>, initial: Option<&[u8]>) -> Step {
        if self.settings.mechanisms.is_empty() {
            return self.refuse(Reply::NO_AUTH);
        }
        if self.hello.is_none() {
            return self.refuse(Reply::HELLO_FIRST);
        }
        if self.login.is_some() {
            return self.refuse(Reply::ALREADY_LOGGED_IN);
        }
        if self.transaction.is_some() {
            return self.refuse(Reply::AUTH_IN_TRANSACTION);
        }
        if !self.auth_possible() {
            return self.refuse(Reply::TLS_FIRST);
        }
        match mechanism.filter(|mechanism| self.settings.mechanisms.contains(mechanism)) {
            Some(mechanism) => self.turn(Exchange::begin(mechanism, initial)),
            None => self.refuse(Reply::UNKNOWN_MECHANISM),
        }
    }

    fn turn(&mut self, turn: Turn) -> Step {
        match turn {
            Turn::Challenge(exchange, challenge) => {
                self.phase = Phase::Sasl(exchange);
                Step::Reply(Reply::challenge(challenge))
            }
            Turn::Presented(credentials) => {
                let (Credentials::Password { username, .. } | Credentials::Bearer { username, .. }) =
                    &credentials;
                self.phase = Phase::AskedLogin(username.clone());
                Step::Ask(Question::Login(credentials))
            }
            Turn::Cancelled => self.refuse(Reply::AUTH_CANCELLED),
            Turn::Malformed => self.refuse(Reply::AUTH_MALFORMED),
        }
    }

    fn login_failed(&mut self, reply: Reply) -> Step {
        self.failed_logins += 1;
        if self.failed_logins >= FAILED_LOGINS_MAX {
            Step::Close(Reply::TOO_MANY_LOGINS)
        } else {
            self.refuse(reply)
        }
    }

    /// The answer to the question asked last.
    pub fn answer(&mut self, answer: Answer) -> Step {
        match (std::mem::replace(&mut self.phase, Phase::Command), answer) {
            (Phase::AskedLogin(username), Answer::Accept) => {
                self.login = Some(username);
                self.failed_logins = 0;
                Step::Reply(Reply::LOGGED_IN)
            }
            (Phase::AskedLogin(_), Answer::Refuse(reply)) => self.login_failed(reply),
            (Phase::AskedLogin(_), Answer::Challenge(json, reply)) => {
                self.phase = Phase::Dismissed(reply);
                Step::Reply(Reply::challenge(&sasl::encode(&json)))
            }
            (Phase::AskedMail(envelope), Answer::Accept) => {
                self.transaction = Some(*envelope);
                Step::Reply(Reply::SENDER_OK)
            }
            (Phase::AskedRcpt(recipient), Answer::Accept) => {
                if let Some(transaction) = &mut self.transaction {
                    transaction.recipients.push(*recipient);
                }
                Step::Reply(Reply::RECIPIENT_OK)
            }
            (
                Phase::AskedMail(_) | Phase::AskedRcpt(_),
                Answer::Refuse(reply) | Answer::Challenge(_, reply),
            ) => self.refuse(reply),
            // Nothing was asked: a driver that does so cannot be trusted with mail.
            (Phase::Command | Phase::Sasl(_) | Phase::Dismissed(_) | Phase::Data, _) => {
                Step::Close(Reply::STORE_BROKEN)
            }
        }
    }

    /// The handshake is done: everything learned before is forgotten (RFC 3207 §4.2).
    pub fn tls_started(&mut self) {
        self.tls = true;
        self.hello = None;
        self.login = None;
        self.transaction = None;
        self.phase = Phase::Command;
    }

    /// The envelope of the transaction whose DATA is being read.
    #[must_use]
    pub fn envelope(&self) -> Option<&Envelope> {
        self.transaction.as_ref()
    }

    /// Takes that envelope out, to make an entry of it; [`Session::end_of_data`] is still due.
    pub fn take_envelope(&mut self) -> Option<Envelope> {
        self.transaction.take()
    }

    /// DATA was read and answered, or refused before it began: the transaction is over, the login
    /// stays.
    pub fn end_of_data(&mut self) {
        self.transaction = None;
        self.phase = Phase::Command;
        (self.errors, self.idle, self.overshoot) = (0, 0, 0);
    }

    /// The name the client gave with EHLO or HELO.
    #[must_use]
    pub fn helo(&self) -> Option<&str> {
        self.hello.as_ref().map(|hello| hello.name.as_str())
    }

    /// The login name, once authenticated.
    #[must_use]
    pub fn login(&self) -> Option<&str> {
        self.login.as_deref()
    }

    /// Whether the session is under TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// `SMTP`, `ESMTP`, `ESMTPS`, `ESMTPA`, `ESMTPSA` (RFC 3848), `UTF8SMTP..` (RFC 6531).
    #[must_use]
    pub fn protocol(&self) -> &'static str {
        if !self.hello.as_ref().is_some_and(|hello| hello.esmtp) {
            return "SMTP";
        }
        let utf8 = self.envelope().is_some_and(|envelope| envelope.smtputf8);
        match (utf8, self.tls, self.login.is_some()) {
            (false, false, false) => "ESMTP",
            (false, false, true) => "ESMTPA",
            (false, true, false) => "ESMTPS",
            (false, true, true) => "ESMTPSA",
            (true, false, false) => "UTF8SMTP",
            (true, false, true) => "UTF8SMTPA",
            (true, true, false) => "UTF8SMTPS",
            (true, true, true) => "UTF8SMTPSA",
        }
    }
}

#[cfg(test)]
mod tests;
