//! What the Gmail API answers to `users.messages.send`. The text is made by the transport: `Gmail:
//! HTTP 403 userRateLimitExceeded: ..`; no mail server writes so.

use super::{
    ANY, Account, Always, Bounce, HALF_HOUR, Hold, MINUTE, Message, Relogin, Retry,
    RetryThenBounce, RetryThenHold, Row, Slow, Wait,
};

#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    Row(ANY, Always, "552", "5.3.4", "gmail: above mime_max", Message, Bounce,
        "the message is larger than Gmail takes", "send it smaller"),
    Row(ANY, Always, "451", "4.4.0", "gmail: above mime_max", Message, Retry,
        "the message is larger than what goes by the Gmail API, and SMTP does not take it now", ""),
    Row(ANY, Always, "535", "", "gmail: http 401", Account, Relogin,
        "Gmail does not take the token",
        "sign in again: gatepost login <account>; a service account needs domain-wide delegation for the scope https://www.googleapis.com/auth/gmail.send"),
    Row(ANY, Always, "450", "", "gmail: http 403 dailylimitexceeded|gmail: http 403 quotaexceeded|gmail: http 429 dailylimitexceeded|(mail sending)", Account, Wait(HALF_HOUR),
        "the sending limit for a day is reached", "wait: the limit slides within 24 hours"),
    Row(ANY, Always, "450", "", "gmail: http 403 userratelimitexceeded|gmail: http 403 ratelimitexceeded|gmail: http 429", Account, Slow(MINUTE),
        "Gmail slows this account down", "lower limits.messages_per_minute; other programs of the same Google Cloud project count too"),
    Row(ANY, Always, "550", "", "gmail: http 403 insufficientpermissions|gmail: http 403 permission_denied", Account, Hold,
        "the token may not send by the Gmail API",
        "put https://www.googleapis.com/auth/gmail.send or https://mail.google.com/ into provider.scope and sign in again, leaving no box unticked: gatepost login <account>"),
    Row(ANY, Always, "550", "", "gmail: http 403 accessnotconfigured|gmail: http 403 service_disabled", Account, Hold,
        "the Gmail API is not switched on for the application's project",
        "enable it in the Google Cloud console: APIs and services, Library, Gmail API"),
    Row(ANY, Always, "550", "", "gmail: http 403 domainpolicy", Account, Hold,
        "the organisation's administrator does not let this application use Gmail",
        "trust it in the Admin console: Security, API controls, App access control"),
    Row(ANY, Always, "550", "", "gmail: http 403 delegationdenied|delegation denied", Account, Hold,
        "the token is somebody else's than the mailbox's",
        "sign in as <mailbox>, or give the service account domain-wide delegation in the Admin console: Security, API controls"),
    Row(ANY, Always, "554", "", "gmail: http 400 failedprecondition|mail service not enabled", Account, Hold,
        "the user has no Gmail mailbox", "switch Gmail on for <mailbox> in the Admin console, or name another mailbox"),
    Row(ANY, Always, "550", "", "gmail: http 404", Account, Hold,
        "the Gmail API knows no such mailbox", "compare account.mailbox with the user's address in the Admin console"),
    Row(ANY, Always, "552", "", "gmail: http 413", Message, Bounce,
        "the message is larger than Gmail takes", "lower gmail.mime_max"),
    Row(ANY, Always, "554", "", "gmail: http 400 invalidargument|gmail: http 400 badrequest|gmail: http 400 invalid_argument|gmail: http 400 invalid", Message, Bounce,
        "Gmail refuses the message or an address in it", ""),
    Row(ANY, Always, "451", "", "gmail: http 5|gmail: http 408", Message, Retry,
        "Gmail has a passing problem", ""),
    Row(ANY, Always, "451", "4.5.0", "gmail: http", Account, RetryThenHold,
        "what answers there is not the Gmail API", "check gmail.url, and what stands between this machine and it"),
    // Codes that no row names, by status alone.
    Row(ANY, Always, "554", "5.6.0", "gmail: http", Message, RetryThenBounce,
        "Gmail refuses the message", ""),
    Row(ANY, Always, "5", "", "gmail: http", Message, RetryThenHold,
        "Gmail refuses the request", "ask Google support with the text of the reply"),
    Row(ANY, Always, "4", "", "gmail: http", Message, Retry,
        "Gmail does not take the message now", ""),
];
