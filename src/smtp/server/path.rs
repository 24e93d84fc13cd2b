//! Arguments of MAIL and RCPT: the path, lenient where devices are sloppy, and its parameters.
//!
//! Lenient means: spaces around the path, a path without angle brackets, with double ones or with the
//! closing one left away, a display name in front of them, an address without a domain. It never
//! means that something is guessed about the address itself: what stands in the path must be one
//! address, whole.

use smtp_proto::{
    MAIL_BODY_8BITMIME, MAIL_BODY_BINARYMIME, MAIL_RET_FULL, MAIL_RET_HDRS, MAIL_SMTPUTF8,
    RCPT_NOTIFY_DELAY, RCPT_NOTIFY_FAILURE, RCPT_NOTIFY_NEVER, RCPT_NOTIFY_SUCCESS,
    request::parser::Rfc5321Parser,
};

use super::command::reply_to;
use crate::{
    mail::{Address, BodyType, Envelope, Notify, Recipient, Ret, ReversePath},
    smtp::replies::Reply,
};

/// RFC 3461 §4.4.
const ENVID_LEN_MAX: usize = 100;
/// RFC 3461 §4.2.
const ORCPT_LEN_MAX: usize = 500;

/// `FROM:<reverse-path> [parameters]`: the envelope it begins, and the declared size.
pub(super) fn mail(
    rest: &str,
    qualify_domain: &str,
    scratch: &mut Vec<u8>,
) -> Result<(Envelope, Option<u64>), Reply> {
    let rest = behind_keyword(rest, "FROM").ok_or(Reply::SYNTAX_MAIL)?;
    let (path, parameters) = split_path(rest).ok_or(Reply::SYNTAX_MAIL)?;
    let reverse_path = match path {
        "" => ReversePath::Null,
        path => ReversePath::Address(address(path, qualify_domain).ok_or(Reply::BAD_SENDER)?),
    };
    let mut envelope = Envelope {
        reverse_path,
        recipients: Vec::new(),
        body: BodyType::default(),
        smtputf8: false,
        ret: None,
        envid: None,
    };
    let size = mail_parameters(parameters, &mut envelope, scratch)?;
    let ascii = envelope
        .reverse_path
        .address()
        .is_none_or(Address::is_ascii);
    if !ascii && !envelope.smtputf8 {
        return Err(Reply::NEEDS_SMTPUTF8);
    }
    Ok((envelope, size))
}

/// `TO:<forward-path> [parameters]`.
pub(super) fn rcpt(
    rest: &str,
    qualify_domain: &str,
    smtputf8: bool,
    scratch: &mut Vec<u8>,
) -> Result<Recipient, Reply> {
    let rest = behind_keyword(rest, "TO").ok_or(Reply::SYNTAX_RCPT)?;
    let (path, parameters) = split_path(rest).ok_or(Reply::SYNTAX_RCPT)?;
    let address = address(path, qualify_domain).ok_or(Reply::BAD_RECIPIENT)?;
    if !address.is_ascii() && !smtputf8 {
        return Err(Reply::NEEDS_SMTPUTF8);
    }
    let mut recipient = Recipient::new(address);
    rcpt_parameters(parameters, &mut recipient, smtputf8, scratch)?;
    Ok(recipient)
}

/// What follows `FROM:` or `TO:`, in any case and with spaces around the colon.
fn behind_keyword<'a>(rest: &'a str, keyword: &str) -> Option<&'a str> {
    let rest = rest.trim_ascii_start();
    let (found, rest) = rest.split_at_checked(keyword.len())?;
    let rest = rest.trim_ascii_start().strip_prefix(':')?;
    found
        .eq_ignore_ascii_case(keyword)
        .then(|| rest.trim_ascii_start())
}

/// The path without brackets and source route, and what follows it.
fn split_path(text: &str) -> Option<(&str, &str)> {
    let text = behind_name(text);
    let (path, parameters) = match text.strip_prefix('<') {
        Some(inside) => bracketed(inside)?,
        None if text.is_empty() => return None,
        None => up_to_space(text)?,
    };
    if !parameters.is_empty() && !parameters.starts_with(' ') {
        return None;
    }
    let path = path.trim_ascii();
    // A source route is accepted and ignored (RFC 5321 §4.1.1.3, appendix C).
    let path = match path.strip_prefix('@') {
        Some(route) => route.split_once(':')?.1,
        None => path,
    };
    Some((path, parameters))
}

/// `Scanner 2 <address>`, as in a header: the name goes, the brackets say where the address is. A text
/// with an `@` in front of them is no name.
fn behind_name(text: &str) -> &str {
    let name = unquoted(text, '<').and_then(|at| text.split_at_checked(at));
    match name {
        Some((name, path)) if name.ends_with(' ') && !name.contains('@') => path,
        Some(_) | None => text,
    }
}

/// What stands behind the opening bracket, and what follows the closing one. Devices double the
/// brackets, or leave the closing one away: then the path ends at the first space.
fn bracketed(inside: &str) -> Option<(&str, &str)> {
    let (inside, closing) = match inside.strip_prefix('<') {
        Some(inside) => (inside, ">>"),
        None => (inside, ">"),
    };
    let inside = inside.trim_ascii_start();
    match unquoted(inside, '>') {
        Some(end) => {
            let (path, rest) = inside.split_at_checked(end)?;
            Some((path, rest.strip_prefix(closing)?))
        }
        // Never the null path: that takes both brackets.
        None if inside.is_empty() => None,
        None => up_to_space(inside),
    }
}

fn up_to_space(text: &str) -> Option<(&str, &str)> {
    text.split_at_checked(unquoted(text, ' ').unwrap_or(text.len()))
}

/// Where `wanted` stands outside of a quoted string.
fn unquoted(text: &str, wanted: char) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    text.char_indices().find_map(|(at, char)| {
        if char == wanted && !quoted {
            return Some(at);
        }
        quoted ^= char == '"' && !escaped;
        escaped = quoted && char == '\\' && !escaped;
        None
    })
}

/// An address; one without a domain (`root`, `postmaster`) belongs to ours.
fn address(path: &str, qualify_domain: &str) -> Option<Address> {
    if path.is_empty() {
        return None;
    }
    if unquoted(path, '@').is_some() {
        return Address::parse(path).ok();
    }
    Address::parse(&format!("{path}@{qualify_domain}")).ok()
}

/// Calls `take` for each `KEY[=value]`; refuses a key that is not offered or comes twice.
fn each_parameter<'a>(
    parameters: &'a str,
    offered: &[&str],
    mut take: impl FnMut(&str, &'a str, &'a str) -> Result<(), Reply>,
) -> Result<(), Reply> {
    let mut seen = 0_u32;
    for word in parameters.split_ascii_whitespace() {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        let place = offered
            .iter()
            .position(|known| known.eq_ignore_ascii_case(key));
        let place = place.ok_or(Reply::UNKNOWN_PARAMETER)?;
        if seen & (1 << place) != 0 {
            return Err(Reply::BAD_PARAMETER);
        }
        seen |= 1 << place;
        take(offered.get(place).copied().unwrap_or(key), value, word)?;
    }
    Ok(())
}

fn mail_parameters(
    parameters: &str,
    envelope: &mut Envelope,
    scratch: &mut Vec<u8>,
) -> Result<Option<u64>, Reply> {
    const OFFERED: [&str; 6] = ["SIZE", "BODY", "SMTPUTF8", "RET", "ENVID", "AUTH"];
    if parameters.is_empty() {
        return Ok(None);
    }
    scratch.clear();
    each_parameter(parameters, &OFFERED, |key, value, word| {
        match key {
            // smtp-proto decodes it; we must hand it on as it came.
            "ENVID" if is_xtext(value) && value.len() <= ENVID_LEN_MAX => {
                envelope.envid = Some(value.to_owned());
            }
            // Who first submitted it (RFC 4954 §5) matters between trusting servers only.
            "AUTH" if is_xtext(value) => (),
            "ENVID" | "AUTH" => return Err(Reply::BAD_PARAMETER),
            _ => hand_on(word, scratch),
        }
        Ok(())
    })?;
    scratch.push(b'\n');
    let parsed = Rfc5321Parser::new(&mut scratch.iter())
        .mail_from_parameters("".into())
        .map_err(|error| reply_to(&error))?;
    let has = |flag| parsed.flags & flag != 0;
    if has(MAIL_BODY_BINARYMIME) {
        return Err(Reply::BAD_PARAMETER);
    }
    if has(MAIL_BODY_8BITMIME) {
        envelope.body = BodyType::EightBitMime;
    }
    envelope.smtputf8 = has(MAIL_SMTPUTF8);
    envelope.ret = match (has(MAIL_RET_FULL), has(MAIL_RET_HDRS)) {
        (true, _) => Some(Ret::Full),
        (_, true) => Some(Ret::Headers),
        _ => None,
    };
    let size = u64::try_from(parsed.size).unwrap_or(u64::MAX);
    Ok((size > 0).then_some(size))
}

fn rcpt_parameters(
    parameters: &str,
    recipient: &mut Recipient,
    smtputf8: bool,
    scratch: &mut Vec<u8>,
) -> Result<(), Reply> {
    const OFFERED: [&str; 2] = ["NOTIFY", "ORCPT"];
    if parameters.is_empty() {
        return Ok(());
    }
    scratch.clear();
    each_parameter(parameters, &OFFERED, |key, value, word| {
        match key {
            // smtp-proto decodes it and knows only one of its two address types.
            "ORCPT" if is_orcpt(value, smtputf8) => recipient.orcpt = Some(value.to_owned()),
            "ORCPT" => return Err(Reply::BAD_PARAMETER),
            _ => hand_on(word, scratch),
        }
        Ok(())
    })?;
    scratch.push(b'\n');
    let parsed = Rfc5321Parser::new(&mut scratch.iter())
        .rcpt_to_parameters("".into())
        .map_err(|error| reply_to(&error))?;
    let has = |flag| parsed.flags & flag != 0;
    let (success, failure) = (has(RCPT_NOTIFY_SUCCESS), has(RCPT_NOTIFY_FAILURE));
    let delay = has(RCPT_NOTIFY_DELAY);
    recipient.notify = match (has(RCPT_NOTIFY_NEVER), success || failure || delay) {
        (true, true) => return Err(Reply::BAD_PARAMETER),
        (true, false) => Notify::Never,
        (false, false) => Notify::Unspecified,
        (false, true) => Notify::On {
            success,
            failure,
            delay,
        },
    };
    Ok(())
}

fn hand_on(word: &str, scratch: &mut Vec<u8>) {
    if !scratch.is_empty() {
        scratch.push(b' ');
    }
    scratch.extend_from_slice(word.as_bytes());
}

/// `xtext` of RFC 3461 §4, not empty: printable ASCII, with `+`, `=` and the rest as `+HH`.
fn is_xtext(text: &str) -> bool {
    xtext(text, |_| false)
}

fn xtext(text: &str, also: impl Fn(char) -> bool) -> bool {
    let hex = |char: Option<char>| matches!(char, Some('0'..='9' | 'A'..='F'));
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        let fits = match char {
            '+' => hex(chars.next()) && hex(chars.next()),
            '=' => false,
            '!'..='~' => true,
            char => also(char),
        };
        if !fits {
            return false;
        }
    }
    !text.is_empty()
}

/// `addr-type ; xtext`: `rfc822` (RFC 3461 §4.2), `utf-8` (RFC 6533 §3), or another's.
fn is_orcpt(value: &str, smtputf8: bool) -> bool {
    let Some((kind, address)) = value.split_once(';') else {
        return false;
    };
    let utf8 = smtputf8 && kind.eq_ignore_ascii_case("utf-8");
    value.len() <= ORCPT_LEN_MAX
        && !kind.is_empty()
        && kind.bytes().all(|o| o.is_ascii_alphanumeric() || o == b'-')
        && xtext(address, |char| {
            utf8 && !char.is_ascii() && !char.is_control()
        })
}
