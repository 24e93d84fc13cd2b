//! The verdict table: provider, phase, reply code, enhanced code and text -> what it concerns and
//! what is done, with a diagnosis in plain words and the remedy. The whole policy, as data. Pure.
//!
//! First match wins. What no row knows follows RFC 5321 §4.2.1: 4yz later, 5yz never; but trouble
//! before MAIL is the account's, and never bounces a message.

use super::Phase;
use crate::{
    mail::Reply,
    oauth::{Diagnosis, Kind},
};

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The recipient is done.
    Delivered,
    /// The recipient is tried again by the schedule.
    Retry,
    /// The account pauses; the message waits without burning an attempt.
    SlowDown,
    /// The account goes on hold; the message waits without burning an attempt.
    Hold,
    /// One forced token refresh and one more try; then [`Action::Hold`].
    Reauthorise,
    /// The recipient is returned to the sender.
    Bounce,
}

/// What a reply comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// What is done.
    pub action: Action,
    /// What is wrong and what to do; empty for a success.
    pub diagnosis: Diagnosis,
    /// Whether no row knew the reply.
    pub unknown: bool,
}

struct Row {
    kind: Option<Kind>,
    /// Only before MAIL, or only from MAIL on.
    login: Option<bool>,
    code: u16,
    enhanced: &'static str,
    /// In lower case; empty: any text.
    text: &'static str,
    action: Action,
    reason: &'static str,
    remedy: &'static str,
}

const MS: Option<Kind> = Some(Kind::Microsoft);
const GO: Option<Kind> = Some(Kind::Google);

const fn row(
    kind: Option<Kind>,
    login: Option<bool>,
    reply: (u16, &'static str, &'static str),
    action: Action,
    said: (&'static str, &'static str),
) -> Row {
    Row {
        kind,
        login,
        code: reply.0,
        enhanced: reply.1,
        text: reply.2,
        action,
        reason: said.0,
        remedy: said.1,
    }
}

const WAIT: &str = "nothing to do: it is tried again by itself";

const TABLE: &[Row] = &[
    // Microsoft: switches that are off.
    row(
        MS,
        Some(true),
        (535, "5.7.139", "disabled for the tenant"),
        Action::Hold,
        (
            "SMTP AUTH is switched off for the whole tenant",
            "Set-TransportConfig -SmtpClientAuthenticationDisabled $false, or for this mailbox alone: Set-CASMailbox <mailbox> -SmtpClientAuthenticationDisabled $false",
        ),
    ),
    row(
        MS,
        Some(true),
        (535, "5.7.139", "disabled for the mailbox"),
        Action::Hold,
        (
            "SMTP AUTH is switched off for this mailbox",
            "Set-CASMailbox <mailbox> -SmtpClientAuthenticationDisabled $false",
        ),
    ),
    row(
        MS,
        Some(true),
        (535, "5.7.139", "security defaults"),
        Action::Hold,
        (
            "security defaults forbid SMTP AUTH",
            "Entra admin center > Properties > Manage security defaults, or use Conditional Access instead",
        ),
    ),
    row(
        MS,
        Some(true),
        (535, "5.7.139", "did not meet the criteria"),
        Action::Hold,
        (
            "a Conditional Access or authentication policy refuses the sign-in",
            "exclude this account or application from the policy; the sign-in log names it",
        ),
    ),
    row(
        MS,
        Some(true),
        (535, "5.7.139", ""),
        Action::Hold,
        (
            "the account is locked, expired or barred",
            "look into the sign-in log of the Entra admin center",
        ),
    ),
    row(
        MS,
        None,
        (550, "5.7.30", ""),
        Action::Hold,
        (
            "Microsoft no longer takes passwords for SMTP",
            "set smtp.auth = \"xoauth2\" and a provider",
        ),
    ),
    row(
        MS,
        Some(true),
        (535, "5.7.3", ""),
        Action::Reauthorise,
        (
            "the token was refused",
            "check scope (Outlook, not Graph), mailbox, and for app-only access New-ServicePrincipal with the object id of the enterprise application",
        ),
    ),
    row(
        MS,
        None,
        (501, "5.5.127", ""),
        Action::Reauthorise,
        ("the token is too close to its end", WAIT),
    ),
    row(
        MS,
        None,
        (530, "5.7.57", ""),
        Action::Reauthorise,
        (
            "the session is not authenticated",
            "check that the account signs in: gatepost test",
        ),
    ),
    row(
        MS,
        Some(true),
        (504, "5.7.4", ""),
        Action::Hold,
        (
            "the server does not know the authentication type",
            "check smtp.auth and that TLS is on",
        ),
    ),
    // Microsoft: limits and accounts.
    row(
        MS,
        None,
        (432, "4.3.2", ""),
        Action::SlowDown,
        (
            "too many connections or messages for this mailbox",
            "lower limits.connections if others send from it too",
        ),
    ),
    row(
        MS,
        None,
        (430, "4.2.0", "logon"),
        Action::Hold,
        (
            "the mailbox cannot be opened: a permission is missing",
            "Add-MailboxPermission <mailbox> -User <service principal> -AccessRights FullAccess",
        ),
    ),
    row(
        MS,
        None,
        (554, "5.2.0", "submissionquotaexceeded"),
        Action::Hold,
        (
            "10 000 recipients in 24 hours are used up",
            "wait: the window slides; mail goes on by itself",
        ),
    ),
    row(
        MS,
        None,
        (554, "5.2.2", ""),
        Action::Hold,
        (
            "the sender's mailbox is full (Sent Items)",
            "empty it or set a retention policy",
        ),
    ),
    row(
        MS,
        None,
        (550, "5.1.8", ""),
        Action::Hold,
        (
            "the account is blocked for outbound spam",
            "Microsoft Defender portal > Restricted entities",
        ),
    ),
    row(
        MS,
        None,
        (550, "5.7.232", ""),
        Action::Hold,
        (
            "the trial tenant's limit for external recipients is reached",
            "wait up to 24 hours",
        ),
    ),
    row(
        MS,
        None,
        (550, "5.7.233", ""),
        Action::Hold,
        (
            "the tenant's limit for external recipients is reached",
            "wait up to 24 hours",
        ),
    ),
    row(
        MS,
        None,
        (550, "5.7.501", ""),
        Action::Hold,
        (
            "the tenant is banned for spam",
            "open a ticket with Microsoft",
        ),
    ),
    row(
        MS,
        None,
        (550, "5.7.705", ""),
        Action::Hold,
        (
            "the tenant has exceeded its sending threshold",
            "open a ticket with Microsoft",
        ),
    ),
    row(
        MS,
        None,
        (550, "5.7.708", ""),
        Action::Hold,
        (
            "traffic from this address range is refused",
            "open a ticket with Microsoft",
        ),
    ),
    row(
        MS,
        None,
        (550, "5.7.750", ""),
        Action::Hold,
        (
            "unregistered domains are sent from",
            "verify the sender's domain in the tenant",
        ),
    ),
    row(
        MS,
        None,
        (550, "5.7.60", ""),
        Action::Bounce,
        (
            "the account may not send as this sender",
            "grant Send As, or use the account's own address",
        ),
    ),
    row(
        MS,
        None,
        (554, "5.2.252", ""),
        Action::Bounce,
        (
            "the account may not send as the address in From",
            "grant Send As, or use the account's own address",
        ),
    ),
    row(
        MS,
        None,
        (554, "5.2.0", "sendasdenied"),
        Action::Bounce,
        (
            "the account may not send as the address in From",
            "grant Send As, or use the account's own address",
        ),
    ),
    // Google.
    row(
        GO,
        Some(true),
        (535, "5.7.8", ""),
        Action::Reauthorise,
        (
            "the token was refused",
            "check that the mailbox is the one that consented and the scope is https://mail.google.com/",
        ),
    ),
    row(
        GO,
        Some(true),
        (534, "", ""),
        Action::Hold,
        (
            "Google wants another way to sign in",
            "set smtp.auth = \"xoauth2\" and sign in with gatepost login",
        ),
    ),
    row(
        GO,
        None,
        (454, "4.7.0", ""),
        Action::SlowDown,
        ("too many sign-ins, or Google cannot authenticate now", WAIT),
    ),
    row(
        GO,
        None,
        (421, "4.7.28", ""),
        Action::SlowDown,
        ("an unusual rate of mail", WAIT),
    ),
    row(
        GO,
        None,
        (450, "4.2.1", "customer"),
        Action::SlowDown,
        ("the relay limit is reached", WAIT),
    ),
    row(
        GO,
        None,
        (550, "5.4.5", ""),
        Action::Hold,
        (
            "the daily quota is used up",
            "wait up to 24 hours; mail goes on by itself",
        ),
    ),
    row(
        GO,
        None,
        (550, "5.7.1", "daily smtp relay limit"),
        Action::Hold,
        (
            "the customer's daily relay limit is used up",
            "wait up to 24 hours; mail goes on by itself",
        ),
    ),
    // Everyone.
    row(
        None,
        Some(true),
        (454, "", ""),
        Action::SlowDown,
        ("the server cannot authenticate now", WAIT),
    ),
    row(
        None,
        Some(true),
        (535, "", ""),
        Action::Reauthorise,
        (
            "the credentials were refused",
            "check user name and password, or sign in again: gatepost login",
        ),
    ),
    row(
        None,
        None,
        (530, "", ""),
        Action::Reauthorise,
        (
            "the server wants authentication",
            "set smtp.auth, or sign in: gatepost login",
        ),
    ),
    row(
        None,
        None,
        (421, "", ""),
        Action::SlowDown,
        ("the server is closing the connection", WAIT),
    ),
    row(
        None,
        Some(false),
        (451, "4.7.", ""),
        Action::SlowDown,
        ("the server slows us down", WAIT),
    ),
    row(
        None,
        Some(false),
        (452, "4.5.3", ""),
        Action::Retry,
        ("too many recipients in one transaction", WAIT),
    ),
];

/// Judges one reply.
#[must_use]
pub fn judge(kind: Kind, phase: Phase, reply: &Reply) -> Verdict {
    if reply.is_positive() {
        return verdict(Action::Delivered, "", "", false);
    }
    let enhanced = reply.enhanced.map(|e| e.to_string()).unwrap_or_default();
    let text = reply.text.to_ascii_lowercase();
    let known = TABLE.iter().find(|row| {
        row.kind.is_none_or(|k| k == kind)
            && row.login.is_none_or(|login| login == phase.is_login())
            && row.code == reply.code
            && (row.enhanced.is_empty()
                || row.enhanced == enhanced
                || (row.enhanced.ends_with('.') && enhanced.starts_with(row.enhanced)))
            && text.contains(row.text)
    });
    if let Some(row) = known {
        return verdict(row.action, row.reason, row.remedy, false);
    }
    let (action, reason) = match (phase.is_login(), reply.is_permanent()) {
        (true, true) => (Action::Hold, "the server refuses the session"),
        (true, false) => (Action::SlowDown, "the server cannot serve now"),
        (false, true) => (Action::Bounce, "refused for good"),
        (false, false) => (Action::Retry, "refused for now"),
    };
    let remedy = match action {
        Action::Hold => "read the reply; then gatepost queue retry --account",
        _ => WAIT,
    };
    verdict(action, reason, remedy, true)
}

fn verdict(action: Action, reason: &str, remedy: &str, unknown: bool) -> Verdict {
    let diagnosis = Diagnosis {
        reason: reason.to_owned(),
        remedy: remedy.to_owned(),
    };
    Verdict {
        action,
        diagnosis,
        unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::EnhancedCode;

    fn action(kind: Kind, phase: Phase, line: &str) -> Action {
        let (code, rest) = line.split_once(' ').unwrap();
        let (enhanced, text) = rest.split_once(' ').unwrap_or((rest, ""));
        let enhanced = EnhancedCode::parse(enhanced);
        judge(
            kind,
            phase,
            &Reply::new(code.parse().unwrap(), enhanced, text),
        )
        .action
    }

    #[test]
    fn every_row_is_reached_by_its_own_reply() {
        for row in TABLE {
            let login = row.login.unwrap_or(false);
            let phase = if login { Phase::Auth } else { Phase::End };
            let enhanced = match row.enhanced {
                "" => None,
                "4.7." => EnhancedCode::parse("4.7.500"),
                code => EnhancedCode::parse(code),
            };
            let reply = Reply::new(row.code, enhanced, row.text);
            let found = judge(row.kind.unwrap_or(Kind::Custom), phase, &reply);
            assert_eq!(
                found.diagnosis.reason, row.reason,
                "{} {}",
                row.code, row.enhanced
            );
        }
    }

    #[test]
    fn five_is_not_always_permanent_and_authentication_never_bounces() {
        for (kind, phase, line, want) in [
            (
                Kind::Microsoft,
                Phase::End,
                "554 5.2.0 STOREDRV SubmissionQuotaExceededException",
                Action::Hold,
            ),
            (
                Kind::Microsoft,
                Phase::End,
                "554 5.2.2 mailbox full",
                Action::Hold,
            ),
            (
                Kind::Microsoft,
                Phase::End,
                "554 5.2.252 SendAsDenied",
                Action::Bounce,
            ),
            (
                Kind::Microsoft,
                Phase::Mail,
                "432 4.3.2 Concurrent connections limit exceeded",
                Action::SlowDown,
            ),
            (
                Kind::Google,
                Phase::Mail,
                "550 5.4.5 Daily user sending quota exceeded",
                Action::Hold,
            ),
            (
                Kind::Custom,
                Phase::Rcpt,
                "550 5.1.1 no such user",
                Action::Bounce,
            ),
            (
                Kind::Custom,
                Phase::Rcpt,
                "450 4.2.0 greylisted",
                Action::Retry,
            ),
            (
                Kind::Custom,
                Phase::Banner,
                "554 5.7.1 go away",
                Action::Hold,
            ),
            (
                Kind::Custom,
                Phase::Auth,
                "535 5.7.8 no",
                Action::Reauthorise,
            ),
            (Kind::Custom, Phase::End, "250 2.0.0 ok", Action::Delivered),
        ] {
            assert_eq!(action(kind, phase, line), want, "{line}");
        }
    }
}
