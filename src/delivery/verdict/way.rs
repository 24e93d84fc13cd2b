//! Two things that only an account with an API needs to know of a reply: how long the API wants us
//! to wait, and whether SMTP is switched off so that the API is the way to go. Pure.

use std::time::Duration;

use super::{Action, Verdict};
use crate::{mail::Reply, oauth::Kind};

/// Longer waits are no throttling any more; somebody should look.
const WAIT_MAX: Duration = Duration::from_secs(86_400);

/// The verdict with the wait that an API asked for (`Graph: HTTP 429 .., retry after 30 s: ..`).
pub(super) fn as_asked(verdict: Verdict, text: &str) -> Verdict {
    let Some(asked) = asked_wait(text) else {
        return verdict;
    };
    let action = match verdict.action {
        Action::Slow(_) => Action::Slow(asked),
        Action::Wait(_) => Action::Wait(asked),
        action @ (Action::Delivered
        | Action::Retry
        | Action::RetryThenBounce
        | Action::RetryThenHold
        | Action::Split
        | Action::Relogin
        | Action::Hold
        | Action::Bounce) => action,
    };
    Verdict { action, ..verdict }
}

/// `text` in lower case. What the API itself wrote stands behind the second colon and is not read.
fn asked_wait(text: &str) -> Option<Duration> {
    let rest = text
        .strip_prefix("graph: http ")
        .or_else(|| text.strip_prefix("gmail: http "))?;
    let head = rest.split_once(": ").map_or(rest, |(head, _)| head);
    let (_, wait) = head.split_once(", retry after ")?;
    let seconds = wait.split(' ').next()?.parse().ok()?;
    Some(Duration::from_secs(seconds).clamp(Duration::from_secs(1), WAIT_MAX))
}

/// Whether a refused sign-in says that SMTP AUTH is switched off for the mailbox or its whole
/// organisation: nothing about the account or its token is wrong, and another way may be open.
#[must_use]
pub fn is_smtp_off(kind: Kind, reply: &Reply) -> bool {
    let text = reply.text.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    let code = reply.enhanced.map(|code| (code.0, code.1, code.2));
    match (kind, code) {
        (Kind::Microsoft, Some((5, 7, 139))) => says(&[
            "smtpclientauthentication is disabled",
            "disabled for the tenant",
            "disabled for the mailbox",
            "security defaults",
        ]),
        (Kind::Microsoft, Some((5, 7, 30))) => true,
        (Kind::Google, Some((5, 7, _))) => {
            says(&["smtp"]) && says(&["disabled", "not enabled", "turned off"])
        }
        (Kind::Microsoft | Kind::Google | Kind::Custom, _) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::EnhancedCode;

    #[test]
    fn a_switch_that_is_off_is_told_from_a_bad_token() {
        for (kind, code, enhanced, text, off) in [
            (
                Kind::Microsoft,
                535,
                "5.7.139",
                "Authentication unsuccessful, SmtpClientAuthentication is disabled for the Tenant. Visit https://aka.ms/smtp_auth_disabled",
                true,
            ),
            (
                Kind::Microsoft,
                535,
                "5.7.139",
                "SmtpClientAuthentication is disabled for the Mailbox",
                true,
            ),
            (
                Kind::Microsoft,
                535,
                "5.7.139",
                "user is locked by your organization's security defaults policy",
                true,
            ),
            (
                Kind::Microsoft,
                550,
                "5.7.30",
                "Basic authentication is not supported for Client Submission",
                true,
            ),
            (
                Kind::Microsoft,
                535,
                "5.7.139",
                "the account is locked",
                false,
            ),
            (
                Kind::Microsoft,
                535,
                "5.7.3",
                "Authentication unsuccessful",
                false,
            ),
            (
                Kind::Google,
                535,
                "5.7.8",
                "Username and Password not accepted",
                false,
            ),
            (
                Kind::Google,
                535,
                "5.7.1",
                "SMTP is disabled by your domain administrator",
                true,
            ),
            (
                Kind::Custom,
                535,
                "5.7.139",
                "disabled for the tenant",
                false,
            ),
        ] {
            let reply = Reply::new(code, EnhancedCode::parse(enhanced), text);
            assert_eq!(is_smtp_off(kind, &reply), off, "{enhanced} {text}");
        }
    }

    #[test]
    fn a_wait_is_taken_from_our_own_words_alone_and_bounded() {
        for (text, seconds) in [
            (
                "graph: http 429 applicationthrottled, retry after 30 s: slow down",
                Some(30),
            ),
            ("gmail: http 429, retry after 0 s", Some(1)),
            ("graph: http 429, retry after 99999999 s: x", Some(86_400)),
            ("graph: http 429 x: please , retry after 30 s", None),
            ("graph: http 429 x", None),
            ("451 4.7.0, retry after 30 s", None),
        ] {
            assert_eq!(
                asked_wait(text).map(|wait| wait.as_secs()),
                seconds,
                "{text}"
            );
        }
    }
}
