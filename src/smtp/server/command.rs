//! A line -> a command. Checks what `smtp-proto` would let through, then asks it for the verb.

use smtp_proto::{
    AUTH_LOGIN, AUTH_OAUTHBEARER, AUTH_PLAIN, AUTH_XOAUTH2, Error, Request,
    request::parser::Rfc5321Parser,
};

use super::Mechanism;
use crate::smtp::replies::Reply;

/// A command, its arguments only as far as they stand alone.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command<'a> {
    Hello {
        name: String,
        esmtp: bool,
    },
    /// What follows the verb; `path` reads it.
    Mail(&'a str),
    /// What follows the verb; `path` reads it.
    Rcpt(&'a str),
    Data,
    Reset,
    Noop,
    Verify,
    Help,
    Quit,
    StartTls,
    Auth {
        /// None: one that we do not know.
        mechanism: Option<Mechanism>,
        initial: Option<&'a [u8]>,
    },
    /// Chunked data, which was not offered and cannot be skipped safely.
    Bdat,
    /// A web browser, or a page that makes one speak to us.
    Http,
}

/// Verbs of HTTP: a page can make a browser send a POST whose body is SMTP.
const HTTP_VERBS: [&str; 8] = [
    "GET", "POST", "PUT", "HEAD", "CONNECT", "OPTIONS", "DELETE", "PATCH",
];

/// RFC 5321 §4.5.3.1.2; in characters, which is near enough for a name that only a person reads.
const HELLO_LEN_MAX: usize = 255;

/// Reads a line. `scratch` is overwritten.
pub(super) fn parse<'a>(line: &'a [u8], scratch: &mut Vec<u8>) -> Result<Command<'a>, Reply> {
    if let Some(hello) = hello(line) {
        return hello;
    }
    let text = std::str::from_utf8(line).map_err(|_| Reply::BAD_OCTETS)?;
    if text.bytes().any(|octet| octet.is_ascii_control()) {
        return Err(Reply::BAD_OCTETS);
    }
    let text = text.trim_ascii();
    let (verb, rest) = text.split_once(' ').unwrap_or((text, ""));
    let is = |known: &str| verb.eq_ignore_ascii_case(known);
    if is("MAIL") {
        return Ok(Command::Mail(rest));
    }
    if is("RCPT") {
        return Ok(Command::Rcpt(rest));
    }
    if is("AUTH") {
        return auth(rest, scratch);
    }
    if HTTP_VERBS.contains(&verb) {
        return Ok(Command::Http);
    }
    // The parser wants its LF, which the framer took.
    scratch.clear();
    scratch.extend_from_slice(text.as_bytes());
    scratch.push(b'\n');
    let request = Request::parse(&mut scratch.iter()).map_err(|error| reply_to(&error))?;
    let alone = |command| {
        if rest.is_empty() {
            Ok(command)
        } else {
            Err(Reply::SYNTAX)
        }
    };
    match request {
        Request::Data => alone(Command::Data),
        Request::Rset => alone(Command::Reset),
        Request::Quit => alone(Command::Quit),
        Request::StartTls => alone(Command::StartTls),
        Request::Noop { .. } => Ok(Command::Noop),
        Request::Vrfy { .. } => Ok(Command::Verify),
        Request::Help { .. } => Ok(Command::Help),
        Request::Bdat { .. } => Ok(Command::Bdat),
        Request::Lhlo { .. }
        | Request::Expn { .. }
        | Request::Etrn { .. }
        | Request::Atrn { .. }
        | Request::Burl { .. } => Err(Reply::NOT_IMPLEMENTED),
        // Taken above.
        Request::Ehlo { .. }
        | Request::Helo { .. }
        | Request::Mail { .. }
        | Request::Rcpt { .. }
        | Request::Auth { .. } => Err(Reply::SYNTAX),
    }
}

/// EHLO and HELO. Devices put their own name there: with blanks, in Latin-1, or none at all. Nothing
/// hangs on it but what a person reads in `Received`, so all of that is taken.
fn hello<'a>(line: &[u8]) -> Option<Result<Command<'a>, Reply>> {
    let (verb, name) = line.trim_ascii().split_at_checked(4)?;
    let esmtp = verb.eq_ignore_ascii_case(b"EHLO");
    if !esmtp && !verb.eq_ignore_ascii_case(b"HELO") {
        return None;
    }
    if !name.is_empty() && !name.starts_with(b" ") {
        return None;
    }
    let name = String::from_utf8_lossy(name.trim_ascii()).into_owned();
    if name.chars().any(char::is_control) {
        return Some(Err(Reply::BAD_OCTETS));
    }
    if name.chars().count() > HELLO_LEN_MAX {
        return Some(Err(Reply::SYNTAX_HELLO));
    }
    Some(Ok(Command::Hello { name, esmtp }))
}

/// `mechanism [initial-response]`.
fn auth<'a>(rest: &'a str, scratch: &mut Vec<u8>) -> Result<Command<'a>, Reply> {
    let mut words = rest.split_ascii_whitespace();
    let name = words.next().ok_or(Reply::SYNTAX)?;
    let initial = words.next().map(str::as_bytes);
    if words.next().is_some() {
        return Err(Reply::SYNTAX);
    }
    scratch.clear();
    scratch.extend_from_slice(name.as_bytes());
    scratch.push(b'\n');
    let known = Rfc5321Parser::new(&mut scratch.iter()).mechanism();
    let mechanism = match known {
        Ok(Some(AUTH_PLAIN)) => Some(Mechanism::Plain),
        Ok(Some(AUTH_LOGIN)) => Some(Mechanism::Login),
        Ok(Some(AUTH_XOAUTH2)) => Some(Mechanism::Xoauth2),
        Ok(Some(AUTH_OAUTHBEARER)) => Some(Mechanism::OauthBearer),
        Ok(_) | Err(_) => None,
    };
    Ok(Command::Auth { mechanism, initial })
}

/// What the client reads when `smtp-proto` refuses.
pub(super) fn reply_to(error: &Error) -> Reply {
    match error {
        Error::SyntaxError { .. } => Reply::SYNTAX,
        Error::InvalidParameter { .. } => Reply::BAD_PARAMETER,
        Error::UnsupportedParameter { .. } => Reply::UNKNOWN_PARAMETER,
        Error::InvalidSenderAddress => Reply::BAD_SENDER,
        Error::InvalidRecipientAddress => Reply::BAD_RECIPIENT,
        Error::UnknownCommand
        | Error::NeedsMoreData { .. }
        | Error::ResponseTooLong
        | Error::InvalidResponse { .. } => Reply::UNKNOWN_COMMAND,
    }
}
