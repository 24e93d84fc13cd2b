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

fn check(kind: Kind, cases: &[(Phase, &str, Scope, Action)]) {
    for (phase, wire, scope, action) in cases {
        let verdict = judge(kind, *phase, &reply(wire));
        assert_eq!(
            (verdict.scope, verdict.action),
            (*scope, *action),
            "{phase:?} {wire}"
        );
        assert!(verdict.known, "{phase:?} {wire}");
        assert!(!verdict.reason.is_empty());
        // Whoever holds an account owes its owner a way out.
        let hold = matches!(action, Hold | Relogin | RetryThenHold);
        assert!(!hold || !verdict.remedy.is_empty(), "no remedy: {wire}");
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn microsoft() {
    use Phase::{Auth, Banner, Data, End, Mail, Rcpt};
    check(
        Kind::Microsoft,
        &[
            (End, "250 2.0.0 OK <x@y> [Hostname=AM0]", Message, Delivered),
            (
                End,
                "432 4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded",
                Account,
                Slow(MINUTE),
            ),
            (
                Mail,
                "432 4.3.2 Concurrent connections limit exceeded. Visit https://aka.ms/concurrent_sending",
                Account,
                Slow(MINUTE),
            ),
            (
                Auth,
                "432 4.3.2 Concurrent connections limit exceeded",
                Account,
                Slow(MINUTE),
            ),
            (Data, "421 4.3.2 Service not available", Session, Retry),
            (Mail, "421 4.3.11 Service not available", Session, Retry),
            (Mail, "421 4.3.111 limit", Session, Retry),
            (Mail, "421 4.4.1 Connection timed out", Session, Retry),
            (
                End,
                "421 4.4.2 Message submission rate for this client has dropped",
                Session,
                Retry,
            ),
            (
                Banner,
                "421 4.7.66 TLS 1.0 and 1.1 are not supported",
                Account,
                Hold,
            ),
            (
                End,
                "430 4.2.0 STOREDRV; mailbox logon failure; ConnectionFailedTransientException.MapiExceptionLogonFailed",
                Account,
                RetryThenHold,
            ),
            (
                End,
                "451 4.7.0 Temporary server error. Please try again later. PRX5",
                Message,
                Retry,
            ),
            (
                Rcpt,
                "451 4.7.500 Server busy. Please try again later from [192.0.2.1]. (AS77712)",
                Account,
                Slow(FIVE_MINUTES),
            ),
            (
                Rcpt,
                "451 4.7.699 Access denied, please try again later",
                Account,
                Slow(FIVE_MINUTES),
            ),
            (
                Mail,
                "451 4.4.62 Mail sent to the wrong Office 365 region",
                Account,
                Hold,
            ),
            (
                Rcpt,
                "550 5.7.64 TenantAttribution; Relay Access Denied",
                Account,
                Hold,
            ),
            (Rcpt, "452 4.5.3 Too many recipients", Recipient, Split),
            (
                Mail,
                "452 4.3.1 Insufficient system resources",
                Message,
                Retry,
            ),
            (
                Auth,
                "454 4.7.0 Temporary authentication failure",
                Account,
                Retry,
            ),
            (
                Auth,
                "501 5.5.127 Invalid XOAUTH2 auth data - Token will expire soon",
                Account,
                Relogin,
            ),
            (Mail, "503 5.5.2 Send hello first", Message, RetryThenBounce),
            (
                Auth,
                "504 5.7.4 Unrecognized authentication type",
                Account,
                Hold,
            ),
            (
                Mail,
                "530 5.7.57 Client not authenticated to send mail",
                Account,
                Relogin,
            ),
            (
                Mail,
                "530 5.7.0 Must issue a STARTTLS command first",
                Account,
                Hold,
            ),
            (
                Auth,
                "535 5.7.3 Authentication unsuccessful [AM0PR04]",
                Account,
                Relogin,
            ),
            (
                Auth,
                "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Tenant.",
                Account,
                Hold,
            ),
            (
                Auth,
                "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Mailbox.",
                Account,
                Hold,
            ),
            (
                Auth,
                "535 5.7.139 Authentication unsuccessful, user is locked by your organization's security defaults policy.",
                Account,
                Hold,
            ),
            (
                Auth,
                "535 5.7.139 Authentication unsuccessful, the request did not meet the criteria to be authenticated successfully.",
                Account,
                Hold,
            ),
            (
                Auth,
                "535 5.7.139 Authentication unsuccessful, account has been locked",
                Account,
                Hold,
            ),
            (
                Auth,
                "535 5.7.139 Authentication unsuccessful, password expired",
                Account,
                Hold,
            ),
            (
                Auth,
                "535 5.7.139 Authentication unsuccessful, basic authentication is disabled.",
                Account,
                Hold,
            ),
            (
                Auth,
                "535 5.7.139 Authentication unsuccessful, something new",
                Account,
                Hold,
            ),
            (
                Auth,
                "550 5.7.30 Basic authentication is not supported for Client Submission.",
                Account,
                Hold,
            ),
            (
                Data,
                "550 5.7.60 SMTP; Client does not have permissions to send as this sender",
                Message,
                Bounce,
            ),
            (
                End,
                "554 5.2.252 SendAsDenied; a@b not allowed to send as c@d; STOREDRV.Submission.Exception:SendAsDeniedException",
                Message,
                Bounce,
            ),
            (
                End,
                "554 5.2.0 STOREDRV.Submission.Exception:SendAsDeniedException.MapiExceptionSendAsDenied",
                Message,
                Bounce,
            ),
            (
                End,
                "550 5.1.8 Access denied, bad outbound sender",
                Account,
                Hold,
            ),
            (
                End,
                "550 5.7.501 Access denied, spam abuse detected",
                Account,
                Hold,
            ),
            (End, "550 5.7.508 Access denied", Account, Hold),
            (
                End,
                "550 5.7.708 Service unavailable. Access denied, traffic not accepted from this IP",
                Account,
                Hold,
            ),
            (
                End,
                "550 5.7.750 Service unavailable. Client blocked from sending from unregistered domains",
                Account,
                Hold,
            ),
            (
                End,
                "554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException",
                Account,
                Wait(HALF_HOUR),
            ),
            (
                End,
                "554 5.2.2 mailbox full; STOREDRV.Submission.Exception:QuotaExceededException",
                Account,
                Hold,
            ),
            (
                End,
                "554 5.2.0 STOREDRV.Submission.Exception:ConversionFailedException",
                Message,
                RetryThenBounce,
            ),
            (
                Rcpt,
                "550 5.7.233 tenant external recipient rate limit",
                Account,
                Wait(HALF_HOUR),
            ),
            (
                Rcpt,
                "550 5.7.232 trial tenant limit",
                Account,
                Wait(HALF_HOUR),
            ),
            (
                End,
                "552 5.3.4 Message size exceeds fixed maximum message size",
                Message,
                Bounce,
            ),
            (
                End,
                "552 5.2.3 Message size exceeds fixed limit",
                Message,
                Bounce,
            ),
            (Rcpt, "550 5.1.1 User unknown", Recipient, Bounce),
            (Rcpt, "550 5.1.10 Recipient not found", Recipient, Bounce),
            (
                Rcpt,
                "550 5.4.1 Recipient address rejected: Access denied",
                Recipient,
                Bounce,
            ),
            (
                End,
                "550 5.6.11 invalid characters (bare LF)",
                Message,
                Bounce,
            ),
            (End, "554 5.6.0 Invalid message content", Message, Bounce),
            (Mail, "501 5.1.7 Invalid address", Message, Bounce),
            (Rcpt, "555 5.5.2 Syntax error", Message, Bounce),
        ],
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn google() {
    use Phase::{Auth, Banner, End, Mail, Rcpt, Starttls};
    check(
        Kind::Google,
        &[
            (
                End,
                "250 2.0.0 OK 1700000000 x-20020a05 - gsmtp",
                Message,
                Delivered,
            ),
            (
                Banner,
                "421 4.3.0 Temporary System Problem. Try again later",
                Session,
                Retry,
            ),
            (
                End,
                "421 4.4.5 Server busy, try again later.",
                Session,
                Retry,
            ),
            (
                Mail,
                "421 4.7.0 Try again later, closing connection.",
                Session,
                Retry,
            ),
            (
                End,
                "421 4.7.0 Our system has detected an unusual rate of unsolicited mail",
                Account,
                Slow(FIVE_MINUTES),
            ),
            (End, "421 4.7.28 rate limited", Account, Slow(FIVE_MINUTES)),
            (
                Rcpt,
                "450 4.2.1 The user you are trying to contact is receiving mail too quickly",
                Recipient,
                Retry,
            ),
            (
                Rcpt,
                "450 4.2.1 Peak SMTP relay limit exceeded for customer",
                Account,
                Slow(FIVE_MINUTES),
            ),
            (
                End,
                "451 4.3.0 Mail server temporarily rejected message",
                Message,
                Retry,
            ),
            (
                End,
                "451 4.4.2 Timeout - closing connection",
                Message,
                Retry,
            ),
            (Mail, "451 4.5.0 SMTP protocol violation", Message, Retry),
            (
                Rcpt,
                "452 4.2.2 The email account that you tried to reach is over quota",
                Recipient,
                Retry,
            ),
            (
                Rcpt,
                "452 4.5.3 Your message has too many recipients",
                Recipient,
                Split,
            ),
            (
                Starttls,
                "454 4.5.0 SMTP protocol violation, no commands allowed to pipeline after STARTTLS",
                Session,
                Retry,
            ),
            (
                Auth,
                "454 4.7.0 Cannot authenticate due to a temporary system problem",
                Account,
                Retry,
            ),
            (
                Auth,
                "454 4.7.0 Too many login attempts, please try again later",
                Account,
                Wait(QUARTER_HOUR),
            ),
            (
                Mail,
                "503 5.5.1 Bad sequence of commands",
                Message,
                RetryThenBounce,
            ),
            (Rcpt, "555 5.5.2 Syntax error, goodbye", Message, Bounce),
            (
                Auth,
                "504 5.7.4 Unrecognized Authentication Type",
                Account,
                Hold,
            ),
            (
                Mail,
                "530 5.7.0 Must issue a STARTTLS command first",
                Account,
                Hold,
            ),
            (Mail, "530 5.5.1 Authentication Required", Account, Relogin),
            (
                Auth,
                "534 5.7.9 Application-specific password required",
                Account,
                Hold,
            ),
            (
                Auth,
                "534 5.7.14 Please log in via your web browser",
                Account,
                Hold,
            ),
            (
                Auth,
                "535 5.7.8 Username and Password not accepted",
                Account,
                Relogin,
            ),
            (Auth, "535 5.7.1 not accepted", Account, Relogin),
            (Auth, "538 5.7.11 Encryption required", Account, Hold),
            (
                Rcpt,
                "550 5.1.1 The email account that you tried to reach does not exist",
                Recipient,
                Bounce,
            ),
            (
                Rcpt,
                "550 5.2.1 The email account that you tried to reach is disabled",
                Recipient,
                Bounce,
            ),
            (
                End,
                "550 5.4.5 Daily user sending quota exceeded",
                Account,
                Wait(HALF_HOUR),
            ),
            (
                Mail,
                "550 5.4.5 Daily SMTP relay limit exceeded for user",
                Account,
                Wait(HALF_HOUR),
            ),
            (
                Mail,
                "550 5.7.1 Daily SMTP relay limit exceeded for customer",
                Account,
                Wait(HALF_HOUR),
            ),
            (
                Mail,
                "550 5.7.0 Mail relay denied [192.0.2.1]",
                Account,
                Hold,
            ),
            (End, "550 5.7.1 blocked by policy", Message, Bounce),
            (
                End,
                "550 5.7.26 This mail has been blocked because the sender is unauthenticated",
                Message,
                Bounce,
            ),
            (
                Mail,
                "552 5.3.4 Your message exceeded Google's message size limits",
                Message,
                Bounce,
            ),
            (
                End,
                "552 5.7.0 This message was blocked because its content presents a potential security issue",
                Message,
                Bounce,
            ),
            (
                Rcpt,
                "553 5.1.2 We weren't able to find the recipient domain",
                Recipient,
                Bounce,
            ),
            (
                Mail,
                "553 5.1.7 The sender address is not valid",
                Message,
                Bounce,
            ),
            (End, "554 5.6.0 Mail message is malformed", Message, Bounce),
            (
                End,
                "554 5.7.0 Too many unauthenticated commands",
                Message,
                Bounce,
            ),
        ],
    );
}

#[test]
fn a_plain_smarthost() {
    use Phase::{Auth, Banner, Data, Ehlo, End, Mail, Rcpt};
    check(
        Kind::Custom,
        &[
            (
                Auth,
                "535 5.7.8 Error: authentication failed",
                Account,
                Relogin,
            ),
            (Banner, "421 too busy", Account, Retry),
            (Mail, "421 4.3.2 shutting down", Session, Retry),
            (Rcpt, "450 4.7.1 greylisted", Recipient, Retry),
            (Rcpt, "552 Too many recipients", Recipient, Split),
            (Rcpt, "552 5.2.2 mailbox full", Recipient, Bounce),
            (Rcpt, "554 5.7.1 Relay access denied", Message, Bounce),
            (Data, "451 4.3.0 queue file write error", Message, Retry),
            (End, "552 5.3.4 too big", Message, Bounce),
        ],
    );
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
