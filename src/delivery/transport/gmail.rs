//! The Gmail API: `users.messages.send` by media upload, and what its answers are as replies.
//!
//! The message travels as it is (`message/rfc822`). A `From` that is neither the mailbox nor one of
//! its verified aliases is replaced by the mailbox at Google, silently.

use jiff::Timestamp;
use reqwest::{Method, Request};
use serde::Deserialize;

use super::{
    Phase,
    api::{Api, line, post},
};
use crate::{
    mail::{EnhancedCode, Reply},
    net::http::{Response, RetryAfter},
};

const NAME: &str = "Gmail";

/// A request for sending one message; its body is the message.
pub(super) fn send(api: &Api) -> Request {
    let mut segments = vec!["upload", "gmail", "v1"];
    segments.extend(api.user_segments());
    segments.extend(["messages", "send"]);
    let mut url = api.at(&segments);
    url.set_query(Some("uploadType=media"));
    post(url, "message/rfc822")
}

/// A request that is refused as soon as it is let in: it has no message.
pub(super) fn knock(api: &Api) -> (Request, &'static [u8]) {
    let mut segments = vec!["gmail", "v1"];
    segments.extend(api.user_segments());
    segments.extend(["messages", "send"]);
    (post(api.at(&segments), "application/json"), b"{}")
}

/// Asks for the mailbox's aliases (`users.settings.sendAs.list`); a token for sending alone is
/// refused.
pub(super) fn aliases(api: &Api) -> Request {
    let mut segments = vec!["gmail", "v1"];
    segments.extend(api.user_segments());
    segments.extend(["settings", "sendAs"]);
    Request::new(Method::GET, api.at(&segments))
}

/// Those that may be used; `None`: it does not say.
pub(super) fn aliases_of(answer: &Response) -> Option<Vec<String>> {
    if answer.status.as_u16() != 200 {
        return None;
    }
    let list: SendAs = serde_json::from_slice(&answer.body).ok()?;
    let usable = list.send_as.into_iter();
    let usable = usable.filter(|alias| alias.is_primary || alias.verification_status == "accepted");
    Some(usable.map(|alias| alias.send_as_email).collect())
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SendAs {
    #[serde(default)]
    send_as: Vec<Alias>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Alias {
    send_as_email: String,
    #[serde(default)]
    is_primary: bool,
    #[serde(default)]
    verification_status: String,
}

/// A message that was taken.
#[derive(Debug, Deserialize)]
struct Taken {
    id: String,
}

/// The body of a refusal (Google's JSON error).
#[derive(Debug, Default, Deserialize)]
struct Refusal {
    error: Main,
}

#[derive(Debug, Default, Deserialize)]
struct Main {
    #[serde(default)]
    message: String,
    #[serde(default)]
    errors: Vec<Detail>,
    #[serde(default)]
    status: String,
}

#[derive(Debug, Default, Deserialize)]
struct Detail {
    #[serde(default)]
    reason: String,
}

/// What an answer is as a reply, and the phase it belongs to.
pub(super) fn reply(answer: &Response) -> (Phase, Reply) {
    let status = answer.status.as_u16();
    if status == 200
        && let Ok(taken) = serde_json::from_slice::<Taken>(&answer.body)
    {
        let text = line(NAME, answer, "", &format!("message {}", taken.id));
        let reply = Reply::new(250, Some(EnhancedCode(2, 0, 0)), text);
        return (Phase::End, reply);
    }
    let Main {
        message,
        errors,
        status: canonical,
    } = serde_json::from_slice::<Refusal>(&answer.body)
        .unwrap_or_default()
        .error;
    let reason = errors.into_iter().next().map(|detail| detail.reason);
    let reason = reason
        .filter(|reason| !reason.is_empty())
        .unwrap_or(canonical);
    let is_quota = [
        "rateLimitExceeded",
        "userRateLimitExceeded",
        "dailyLimitExceeded",
        "quotaExceeded",
    ]
    .contains(&reason.as_str());
    let (phase, reply, (class, subject, detail)) = match status {
        401 => (Phase::Auth, 535, (5, 7, 8)),
        429 => (Phase::End, 450, (4, 7, 28)),
        403 if is_quota => (Phase::End, 450, (4, 7, 28)),
        400 => (Phase::End, 554, (5, 6, 0)),
        403 => (Phase::End, 550, (5, 7, 1)),
        404 => (Phase::End, 550, (5, 1, 0)),
        408 => (Phase::End, 451, (4, 4, 2)),
        413 => (Phase::End, 552, (5, 3, 4)),
        _ if answer.status.is_server_error() => (Phase::End, 451, (4, 3, 0)),
        _ if answer.status.is_client_error() => (Phase::End, 554, (5, 5, 0)),
        // Whatever answers so, it is not the Gmail API, and it has taken nothing.
        _ => (Phase::End, 451, (4, 5, 0)),
    };
    let enhanced = EnhancedCode(class, subject, detail);
    let answer = Response {
        retry_after: answer.retry_after.or_else(|| wish(&message)),
        ..answer.clone()
    };
    let text = line(NAME, &answer, &reason, &message);
    (phase, Reply::new(reply, Some(enhanced), text))
}

/// `User-rate limit exceeded.  Retry after 2026-11-25T18:00:00.000Z`: Google says so in words.
fn wish(message: &str) -> Option<RetryAfter> {
    let (_, behind) = message.split_once("Retry after ")?;
    let word = behind.split_ascii_whitespace().next()?;
    let at: Timestamp = word.trim_end_matches(['.', ',', ')']).parse().ok()?;
    Some(RetryAfter::At(at))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use reqwest::StatusCode;

    use super::*;
    use crate::{
        delivery::verdict::{
            self,
            Action::{Bounce, Delivered, Hold, Relogin, Retry, RetryThenHold, Slow, Wait},
            Scope::{Account, Message},
        },
        oauth::Kind,
    };

    fn replied(answer: &Response) -> (Phase, Reply) {
        reply(answer)
    }

    fn answer(status: u16, body: String) -> Response {
        Response {
            status: StatusCode::from_u16(status).unwrap(),
            media_type: None,
            retry_after: None,
            date: None,
            request_id: None,
            challenge: None,
            body: body.into_bytes(),
        }
    }

    fn refusal(status: u16, reason: &str, message: &str) -> Response {
        let body = format!(
            "{{\"error\":{{\"code\":{status},\"message\":\"{message}\",\"errors\":[{{\"domain\":\"global\",\
             \"reason\":\"{reason}\",\"message\":\"{message}\"}}],\"status\":\"X\"}}}}"
        );
        answer(status, body)
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table")]
    fn each_answer_that_gmail_is_known_to_give_has_its_verdict() {
        let minute = Duration::from_secs(60);
        let half_hour = Duration::from_secs(1800);
        for (status, reason, message, scope, action) in [
            (401, "authError", "Invalid Credentials", Account, Relogin),
            (
                400,
                "invalidArgument",
                "Recipient address required",
                Message,
                Bounce,
            ),
            (400, "badRequest", "Bad Request", Message, Bounce),
            (
                400,
                "failedPrecondition",
                "Precondition check failed.",
                Account,
                Hold,
            ),
            (
                400,
                "failedPrecondition",
                "Mail service not enabled",
                Account,
                Hold,
            ),
            (
                403,
                "insufficientPermissions",
                "Insufficient Permission",
                Account,
                Hold,
            ),
            (
                403,
                "accessNotConfigured",
                "Gmail API has not been used",
                Account,
                Hold,
            ),
            (
                403,
                "domainPolicy",
                "disabled by the administrators",
                Account,
                Hold,
            ),
            (403, "forbidden", "Delegation denied for a@x", Account, Hold),
            (
                403,
                "dailyLimitExceeded",
                "Daily limit",
                Account,
                Wait(half_hour),
            ),
            (
                403,
                "userRateLimitExceeded",
                "User Rate Limit",
                Account,
                Slow(minute),
            ),
            (
                403,
                "rateLimitExceeded",
                "Rate Limit",
                Account,
                Slow(minute),
            ),
            (429, "rateLimitExceeded", "Too many", Account, Slow(minute)),
            (
                429,
                "rateLimitExceeded",
                "User-rate limit exceeded.  (Mail sending)",
                Account,
                Wait(half_hour),
            ),
            (404, "notFound", "Not Found", Account, Hold),
            (413, "uploadTooLarge", "too large", Message, Bounce),
            (500, "backendError", "Backend Error", Message, Retry),
            (503, "backendError", "Backend Error", Message, Retry),
        ] {
            let (phase, reply) = replied(&refusal(status, reason, message));
            let verdict = verdict::judge(Kind::Google, phase, &reply);
            assert_eq!((verdict.scope, verdict.action), (scope, action), "{reply}");
            assert!(verdict.known && !verdict.reason.is_empty(), "{reply}");
            let hold = matches!(action, Hold | Relogin);
            assert!(!hold || !verdict.remedy.is_empty(), "no remedy: {reply}");
        }
    }

    #[test]
    fn taken_is_what_has_an_id_and_nothing_else() {
        let (phase, reply) = replied(&answer(200, r#"{"id":"18c","threadId":"18c"}"#.into()));
        assert_eq!(
            verdict::judge(Kind::Google, phase, &reply).action,
            Delivered
        );
        assert_eq!(reply.to_string(), "250 2.0.0 Gmail: HTTP 200: message 18c");
        for body in ["", "<html>", "{}"] {
            let (phase, reply) = replied(&answer(200, body.into()));
            let verdict = verdict::judge(Kind::Google, phase, &reply);
            assert_eq!(
                (verdict.scope, verdict.action),
                (Account, RetryThenHold),
                "{body}"
            );
        }
    }

    #[test]
    fn a_wish_in_words_is_heard() {
        let text = "User-rate limit exceeded.  Retry after 2026-11-25T18:00:30.000Z";
        let mut answer = refusal(429, "rateLimitExceeded", text);
        answer.date = Some("2026-11-25T18:00:00Z".parse().unwrap());
        let (phase, reply) = replied(&answer);
        let verdict = verdict::judge(Kind::Google, phase, &reply);
        assert_eq!(verdict.action, Slow(Duration::from_secs(30)), "{reply}");
    }

    #[test]
    fn only_verified_aliases_count() {
        let body = r#"{"sendAs":[{"sendAsEmail":"a@x","isPrimary":true},
            {"sendAsEmail":"b@x","verificationStatus":"accepted"},
            {"sendAsEmail":"c@x","verificationStatus":"pending"}]}"#;
        let aliases = aliases_of(&answer(200, body.into())).unwrap();
        assert_eq!(aliases, ["a@x", "b@x"]);
        assert_eq!(
            aliases_of(&refusal(403, "insufficientPermissions", "no")),
            None
        );
    }
}
