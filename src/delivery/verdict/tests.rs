//! Each reply that the providers are known to give, and what must follow.

use super::*;
use crate::mail::EnhancedCode;

/// A reply as it stands on the wire.
fn reply(wire: &str) -> Reply {
    let (code, rest) = wire.split_once(' ').expect("a code");
    let (word, text) = rest.split_once(' ').unwrap_or((rest, ""));
    let code = code.parse().expect("a code");
    match EnhancedCode::parse(word) {
        Some(enhanced) => Reply::new(code, Some(enhanced), text),
        None => Reply::new(code, None, rest),
    }
}

/// One line of `replies.txt`.
struct Case<'a> {
    kind: Kind,
    phase: Phase,
    reply: &'a str,
    scope: Scope,
    action: Action,
    reason: &'a str,
    remedy: &'a str,
}

impl<'a> Case<'a> {
    fn read(line: &'a str) -> Self {
        let mut fields = line.split('|').map(str::trim);
        let mut field = || fields.next().unwrap_or_default();
        Self {
            kind: match field() {
                "microsoft" => Kind::Microsoft,
                "google" => Kind::Google,
                "custom" => Kind::Custom,
                other => panic!("no provider {other:?} in {line}"),
            },
            phase: match field() {
                "banner" => Phase::Banner,
                "ehlo" => Phase::Ehlo,
                "starttls" => Phase::Starttls,
                "auth" => Phase::Auth,
                "mail" => Phase::Mail,
                "rcpt" => Phase::Rcpt,
                "data" => Phase::Data,
                "end" => Phase::End,
                other => panic!("no phase {other:?} in {line}"),
            },
            reply: field(),
            scope: match field() {
                "recipient" => Recipient,
                "message" => Message,
                "session" => Session,
                "account" => Account,
                other => panic!("no scope {other:?} in {line}"),
            },
            action: action(field()),
            reason: field(),
            remedy: field(),
        }
    }
}

fn action(text: &str) -> Action {
    let (word, seconds) = text.split_once(' ').unwrap_or((text, "0"));
    let wait = Duration::from_secs(seconds.parse().expect("seconds"));
    match word {
        "Delivered" => Delivered,
        "Retry" => Retry,
        "RetryThenBounce" => RetryThenBounce,
        "RetryThenHold" => RetryThenHold,
        "Split" => Split,
        "Slow" => Slow(wait),
        "Wait" => Wait(wait),
        "Relogin" => Relogin,
        "Hold" => Hold,
        "Bounce" => Bounce,
        other => panic!("no action {other:?}"),
    }
}

/// The reason that stands with a message leads back to the remedy of the row it came from.
#[test]
fn a_reason_leads_to_its_remedy() {
    let lines = include_str!("replies.txt").lines();
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut count = 0;
    for line in lines {
        let case = Case::read(line);
        if case.action == Delivered {
            continue;
        }
        let reply = reply(case.reply);
        let verdict = judge(case.kind, case.phase, &reply);
        let told = told_as(case.kind, &format!("{}: {reply}", verdict.reason));
        assert_eq!(told.map(|told| told.remedy), Some(verdict.remedy), "{line}");
        let held = format!("too many reports; {}: {reply}", verdict.reason);
        assert!(told_as(case.kind, &held).is_some(), "{line}");
        count += 1;
    }
    assert!(count > 50);
    assert_eq!(told_as(Kind::Custom, "held by an operator"), None);
}

#[test]
fn every_reply_the_providers_are_known_to_give() {
    let lines = include_str!("replies.txt").lines();
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut wrong = Vec::new();
    for line in lines {
        let case = Case::read(line);
        let verdict = judge(case.kind, case.phase, &reply(case.reply));
        let is_told = verdict.reason.contains(case.reason)
            && verdict.remedy.contains(case.remedy)
            && case.remedy.is_empty() == verdict.remedy.is_empty();
        let does = (verdict.scope, verdict.action) == (case.scope, case.action);
        // Whoever holds an account owes its owner a way out.
        let is_dead_end =
            matches!(verdict.action, Hold | Relogin | RetryThenHold) && verdict.remedy.is_empty();
        if !(is_told && does && verdict.known) || case.reason.is_empty() || is_dead_end {
            wrong.push(format!("{line}\n    {verdict:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A session is the account's trouble until MAIL, whatever code says no.
#[test]
fn a_refused_session_holds_the_account() {
    use Phase::{Auth, Banner, Ehlo};
    for (phase, code) in [(Banner, 554), (Ehlo, 550), (Auth, 599)] {
        let verdict = judge(Kind::Custom, phase, &Reply::new(code, None, "no"));
        assert_eq!((verdict.scope, verdict.action), (Account, Hold), "{code}");
    }
}

/// Whatever a server says before MAIL, no message is bounced for it, and what it says afterwards
/// about one recipient or message never stops the account unless a row says so.
#[test]
fn every_code_in_every_phase_follows_the_two_rules() {
    use Phase::{Auth, Banner, Connect, Data, Ehlo, End, Mail, Rcpt, Starttls};
    for kind in [Kind::Microsoft, Kind::Google, Kind::Custom] {
        for code in 400..600 {
            for phase in [Connect, Banner, Ehlo, Starttls, Auth] {
                let verdict = judge(kind, phase, &Reply::new(code, None, "x"));
                let spares = !matches!(verdict.action, Bounce | RetryThenBounce | Delivered);
                assert!(spares, "{kind:?} {phase:?} {code}");
            }
            for phase in [Mail, Rcpt, Data, End] {
                let verdict = judge(kind, phase, &Reply::new(code, None, "x"));
                let fits = if code < 500 {
                    !matches!(verdict.action, Bounce | Hold)
                } else {
                    verdict.action != Retry
                };
                assert!(fits, "{kind:?} {phase:?} {code}: {verdict:?}");
            }
        }
    }
}

#[test]
fn what_only_the_rfc_explains_is_unknown() {
    for (phase, wire, action) in [
        (Phase::Rcpt, "471 4.9.9 moon phase", Retry),
        (Phase::End, "571 5.9.9 moon phase", Bounce),
        (Phase::Auth, "599 moon phase", Hold),
        (Phase::End, "354 again", Retry),
        (Phase::Rcpt, "250 ok", Retry),
    ] {
        let verdict = judge(Kind::Microsoft, phase, &reply(wire));
        assert_eq!((verdict.action, verdict.known), (action, false), "{wire}");
    }
}

#[test]
fn sessions_that_end_without_a_reply() {
    let judged = |phase, cause| {
        let failure = Failure {
            phase,
            cause,
            uncertain: false,
        };
        let verdict = judge_failure(Kind::Custom, &failure);
        (verdict.scope, verdict.action)
    };
    let timeout = || Cause::Timeout(MINUTE);
    let certificate = rustls::Error::InvalidCertificate(rustls::CertificateError::Expired);
    for (phase, cause, wanted) in [
        (Phase::Banner, timeout(), (Account, Retry)),
        (Phase::Auth, Cause::Closed, (Account, Retry)),
        (Phase::Mail, timeout(), (Message, Retry)),
        (Phase::End, Cause::Closed, (Message, Retry)),
        (
            Phase::Tls,
            Cause::Tls(dial::TlsError::Refused(certificate)),
            (Account, Hold),
        ),
        (
            Phase::Tls,
            Cause::Tls(dial::TlsError::Timeout),
            (Account, Retry),
        ),
        (Phase::Starttls, Cause::NoStarttls, (Account, Hold)),
        (Phase::Starttls, Cause::Injected, (Account, Hold)),
        (Phase::Auth, Cause::NoMechanism("XOAUTH2"), (Account, Hold)),
        (Phase::Auth, Cause::Cleartext, (Account, Hold)),
    ] {
        let text = cause.to_string();
        assert_eq!(judged(phase, cause), wanted, "{phase:?} {text}");
    }
}

/// A remedy can be pasted as it stands.
#[test]
fn a_remedy_names_the_account_and_its_mailbox() {
    let off = reply(
        "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Mailbox.",
    );
    let stale = reply("530 5.7.57 Client was not authenticated");
    let remedy = |reply: &Reply| {
        let verdict = judge(Kind::Microsoft, Phase::Auth, reply);
        verdict.remedy_for(&AccountName::new("alerts"), "alerts@contoso.com")
    };
    assert_eq!(
        remedy(&off),
        "Set-CASMailbox alerts@contoso.com -SmtpClientAuthenticationDisabled $false"
    );
    assert_eq!(remedy(&stale), "sign in again: gatepost login alerts");
    let known = ["<account>", "<mailbox>"];
    for row in ROWS {
        let named = row.verdict().remedy_for(&AccountName::new("a"), "b@c");
        assert!(
            !named.contains('<') && !named.contains('>'),
            "{named}: only {known:?} are filled in"
        );
    }
}
