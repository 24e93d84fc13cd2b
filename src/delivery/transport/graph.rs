//! Microsoft Graph: `sendMail` with a message as MIME, and what its answers are as replies.
//!
//! 202 means taken, and nothing more: what fails later comes back as mail to the mailbox. Mail sent
//! so is always kept in Sent Items; only Graph's own JSON form could say otherwise, and that would
//! take a message apart.

use reqwest::{Request, header::HeaderValue};
use serde::Deserialize;

use super::{
    Phase,
    api::{Api, line, post},
};
use crate::{
    mail::{EnhancedCode, QueueId, Reply},
    net::http::Response,
};

const NAME: &str = "Graph";

/// A request for sending one message; its body is the message in base64.
pub(super) fn send(api: &Api, id: QueueId) -> Request {
    let mut request = post(url(api), "text/plain");
    if let Ok(id) = HeaderValue::from_str(&client_request_id(id)) {
        request.headers_mut().insert("client-request-id", id);
    }
    request
}

/// A request that is refused as soon as it is let in: its body is no base64.
pub(super) fn knock(api: &Api) -> (Request, &'static [u8]) {
    (post(url(api), "text/plain"), b"!")
}

fn url(api: &Api) -> url::Url {
    let mut segments = vec!["v1.0"];
    segments.extend(api.user_segments());
    segments.push("sendMail");
    api.at(&segments)
}

/// Our name for a request in Microsoft's logs, which want a GUID: `gatepost` in ASCII, then the queue
/// id's 64 bits.
pub(super) fn client_request_id(id: QueueId) -> String {
    let id = format!("{:016x}", id.as_i64());
    let (high, low) = id.split_at_checked(4).unwrap_or_default();
    format!("67617465-706f-7374-{high}-{low}")
}

/// The body of a refusal (Microsoft Graph error response, `odata.error.main`).
#[derive(Debug, Default, Deserialize)]
struct Refusal {
    error: Main,
}

#[derive(Debug, Default, Deserialize)]
struct Main {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// What an answer is as a reply, and the phase it belongs to.
pub(super) fn reply(answer: &Response) -> (Phase, Reply) {
    let status = answer.status.as_u16();
    let Main { code, message } = serde_json::from_slice::<Refusal>(&answer.body)
        .unwrap_or_default()
        .error;
    let text = match &answer.challenge {
        // Continuous access evaluation: an older token will not do.
        Some(challenge) if challenge.contains("claims=") => format!("{message} (claims challenge)"),
        Some(_) | None => message,
    };
    let passing = code == "ErrorExceededMessageLimit";
    let (phase, reply, (class, subject, detail)) = match status {
        202 => (Phase::End, 250, (2, 0, 0)),
        401 => (Phase::Auth, 535, (5, 7, 8)),
        429 => (Phase::End, 450, (4, 7, 0)),
        400.. if passing => (Phase::End, 450, (4, 7, 0)),
        400 => (Phase::End, 554, (5, 6, 0)),
        403 => (Phase::End, 550, (5, 7, 1)),
        404 => (Phase::End, 550, (5, 1, 0)),
        408 => (Phase::End, 451, (4, 4, 2)),
        413 => (Phase::End, 552, (5, 3, 4)),
        507 => (Phase::End, 552, (5, 2, 2)),
        _ if answer.status.is_server_error() => (Phase::End, 451, (4, 3, 0)),
        _ if answer.status.is_client_error() => (Phase::End, 554, (5, 5, 0)),
        // Whatever answers so, it is not Graph, and it has taken nothing.
        _ => (Phase::End, 451, (4, 5, 0)),
    };
    let enhanced = EnhancedCode(class, subject, detail);
    let text = line(NAME, answer, &code, &text);
    (phase, Reply::new(reply, Some(enhanced), text))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use reqwest::StatusCode;

    use super::*;
    use crate::{
        delivery::verdict::{
            self,
            Action::{
                Bounce, Delivered, Hold, Relogin, Retry, RetryThenBounce, RetryThenHold, Slow, Wait,
            },
            Scope::{Account, Message},
        },
        net::http::RetryAfter,
        oauth::Kind,
    };

    fn replied(answer: &Response) -> (Phase, Reply) {
        reply(answer)
    }

    fn answer(status: u16, body: &str) -> Response {
        Response {
            status: StatusCode::from_u16(status).unwrap(),
            media_type: None,
            retry_after: None,
            date: None,
            request_id: Some("9f1c-2".to_owned()),
            challenge: None,
            body: body.as_bytes().to_vec(),
        }
    }

    fn refusal(status: u16, code: &str) -> Response {
        let body =
            format!("{{\"error\":{{\"code\":\"{code}\",\"message\":\"no: \\u0007really\"}}}}");
        answer(status, &body)
    }

    #[test]
    fn each_answer_that_graph_is_known_to_give_has_its_verdict() {
        let minute = Duration::from_secs(60);
        let half_hour = Duration::from_secs(1800);
        for (status, code, scope, action) in [
            (202, "", Message, Delivered),
            (401, "InvalidAuthenticationToken", Account, Relogin),
            (400, "ErrorInvalidRecipients", Message, Bounce),
            (400, "ErrorMimeContentInvalid", Message, Bounce),
            (
                400,
                "ErrorMimeContentInvalidBase64String",
                Message,
                RetryThenBounce,
            ),
            (400, "ErrorMessageSizeExceeded", Message, Bounce),
            (403, "ErrorMessageSizeExceeded", Message, Bounce),
            (413, "RequestEntityTooLarge", Message, Bounce),
            (413, "", Message, Bounce),
            (403, "ErrorSendAsDenied", Message, Bounce),
            (403, "ErrorAccessDenied", Account, Hold),
            (403, "Authorization_RequestDenied", Account, Hold),
            (403, "ErrorExceededMessageLimit", Account, Wait(half_hour)),
            (429, "ErrorExceededMessageLimit", Account, Wait(half_hour)),
            (507, "ErrorExceededMessageLimit", Account, Wait(half_hour)),
            (403, "ErrorMessageSubmissionBlocked", Account, Hold),
            (403, "ErrorQuotaExceeded", Account, Hold),
            (507, "ErrorQuotaExceeded", Account, Hold),
            (403, "ErrorAccountSuspend", Account, Hold),
            (404, "ErrorInvalidUser", Account, Hold),
            (404, "Request_ResourceNotFound", Account, Hold),
            (404, "MailboxNotEnabledForRESTAPI", Account, Hold),
            (404, "MailboxNotHostedInExchangeOnline", Account, Hold),
            (503, "MailboxNotHostedInExchangeOnline", Account, Hold),
            (429, "ApplicationThrottled", Account, Slow(minute)),
            (429, "TooManyRequests", Account, Slow(minute)),
            (503, "ServerBusy", Account, Slow(minute)),
            (500, "ErrorInternalServerTransientError", Message, Retry),
            (502, "", Message, Retry),
            (504, "UnknownError", Message, Retry),
        ] {
            let answer = refusal(status, code);
            let (phase, reply) = replied(&answer);
            for kind in [Kind::Microsoft, Kind::Custom] {
                let verdict = verdict::judge(kind, phase, &reply);
                assert_eq!((verdict.scope, verdict.action), (scope, action), "{reply}");
                assert!(verdict.known && !verdict.reason.is_empty(), "{reply}");
                let hold = matches!(action, Hold | Relogin | RetryThenHold);
                assert!(!hold || !verdict.remedy.is_empty(), "no remedy: {reply}");
            }
            // The code of a report agrees with what follows.
            let gives_up = matches!(action, Bounce | Hold | RetryThenBounce | Relogin);
            let is_passing_hold = reply.code == 451 && action == Hold;
            assert!(
                reply.is_permanent() == gives_up || is_passing_hold,
                "{reply}"
            );
        }
    }

    #[test]
    fn what_no_row_knows_is_told_and_what_is_not_graph_takes_nothing() {
        for (status, code, action) in [
            (400, "SomethingNew", RetryThenBounce),
            (403, "SomethingNew", RetryThenHold),
            (418, "", RetryThenHold),
            (200, "", RetryThenHold),
            (302, "", RetryThenHold),
        ] {
            let (phase, reply) = replied(&refusal(status, code));
            let verdict = verdict::judge(Kind::Microsoft, phase, &reply);
            assert_eq!(verdict.action, action, "{reply}");
            assert!(verdict.action != Delivered);
        }
    }

    #[test]
    fn a_reply_names_the_request_and_carries_nothing_that_could_break_a_line() {
        let (_, reply) = replied(&refusal(403, "ErrorSendAs\\r\\nDenied: x"));
        assert_eq!(
            reply.text,
            "Graph: HTTP 403 ErrorSendAsDeniedx: no: really [request-id 9f1c-2]"
        );
        let mut throttled = refusal(429, "ApplicationThrottled");
        throttled.retry_after = Some(RetryAfter::Delay(Duration::from_secs(17)));
        let (phase, reply) = replied(&throttled);
        let verdict = verdict::judge(Kind::Microsoft, phase, &reply);
        assert_eq!(verdict.action, Slow(Duration::from_secs(17)));
        // What the server writes in its text moves nothing.
        let liar = refusal(429, "x, retry after 86400 s");
        let (phase, reply) = replied(&liar);
        let verdict = verdict::judge(Kind::Microsoft, phase, &reply);
        assert_eq!(verdict.action, Slow(Duration::from_secs(60)), "{reply}");
    }

    #[test]
    fn a_queue_id_is_a_guid_for_microsoft() {
        let id = client_request_id(QueueId::from_i64(0x0123_4567_89ab_cdef));
        assert_eq!(id, "67617465-706f-7374-0123-456789abcdef");
    }
}
