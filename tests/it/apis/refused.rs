//! Refusals that the practice provider plays over SMTP with STARTTLS and a token: before there is a
//! transaction, and of a sender that the account may not use.

use serde_json::json;

use super::{By, Rig, TO, addressed, recipients, set};
use crate::support::eventually;

/// Where, what is played there (`drop`: the connection), and the state that the account then has.
const BEFORE_A_TRANSACTION: [(&str, &str, &str); 12] = [
    ("banner", "421 4.3.2 not now", "retrying"),
    ("banner", "554 5.7.1 no", "held"),
    ("banner", "drop", "retrying"),
    ("ehlo", "421 4.3.2 not now", "retrying"),
    ("ehlo", "550 5.7.1 no", "held"),
    ("ehlo", "drop", "retrying"),
    ("starttls", "454 4.7.0 TLS not available", "retrying"),
    ("starttls", "554 5.7.1 no", "held"),
    ("starttls", "drop", "retrying"),
    (
        "auth",
        "454 4.7.0 Temporary authentication failure",
        "retrying",
    ),
    ("auth", "535 5.7.3 Authentication unsuccessful", "held"),
    ("auth", "drop", "retrying"),
];

/// Row 24: trouble before MAIL is the account's. The message waits untouched, and goes once, when it is
/// over.
#[test]
fn a_session_refused_before_mail_touches_no_message() {
    let rig = Rig::start(By::Application, "smtp", "");
    for (number, (phase, reply, state)) in BEFORE_A_TRANSACTION.into_iter().enumerate() {
        rig.play(&match reply {
            "drop" => json!({"fault": "drop", "phase": phase}),
            reply => json!({"fault": "reply", "phase": phase, "reply": reply}),
        });
        // What is open from the message before knows nothing of it.
        rig.play(&json!({"fault": "drop", "phase": "mail", "times": 1}));
        rig.submit(&[TO], &addressed(TO, ""));
        let account = rig.site.wait_account("practice", state);
        let reason = account["reason"].as_str().unwrap();
        let said = if reply == "drop" { "" } else { reply };
        assert!(reason.contains(said), "{phase} {reply}: {account}");
        assert!(!account["remedy"].is_null(), "{phase} {reply}: {account}");
        let waiting = rig.site.queue();
        assert_eq!(waiting.len(), 1, "{phase} {reply}: {waiting:?}");
        assert_eq!(waiting[0]["sender"], "app@example.test");
        assert_eq!(waiting[0]["attempts"], 0, "{phase} {reply}: {waiting:?}");
        assert_eq!(rig.messages().len(), number, "{phase} {reply}");

        let (head, _) = rig.ask("DELETE", "/faults", "", b"");
        assert!(head.contains(" 200 ") || head.contains(" 204 "), "{head}");
        eventually("the message has gone", || {
            rig.site.cli(&["queue", "retry", "--account", "practice"]);
            rig.site.queue().is_empty().then_some(())
        });
        let taken = rig.taken(number + 1);
        assert_eq!(taken.len(), number + 1, "{phase} {reply}: once");
        assert_eq!(recipients(&taken[number]), set(&[TO]));
        rig.site.wait_account("practice", "ready");
    }
}

/// A sender that the account may not use is the message's own trouble: its sender reads why, the
/// operator what helps, and the account goes on.
#[test]
fn a_sender_that_the_account_may_not_use_is_told_so() {
    let rig = Rig::start(By::Application, "smtp", "");
    let cases = [
        (
            "mail",
            "550 5.7.60 SMTP; Client does not have permissions to send as this sender",
            "Add-RecipientPermission",
        ),
        (
            "end_of_data",
            "554 5.2.252 SendAsDenied; alerts@example.com not allowed to send as app@example.test",
            "SendFromAliasEnabled",
        ),
    ];
    for (number, (phase, reply, remedy)) in cases.into_iter().enumerate() {
        rig.play(&json!({"fault": "reply", "phase": phase, "reply": reply, "times": 1}));
        rig.submit(&[TO], &addressed(TO, ""));
        rig.site.wait_empty();
        let taken = rig.taken(number + 1);
        assert_eq!(taken.len(), number + 1, "a report and nothing else");
        assert_eq!(recipients(&taken[number]), set(&["app@example.test"]));
        let report = taken[number]["message"].as_str().unwrap();
        let (code, _) = reply.split_at(3);
        for told in [code, "no right to send as"] {
            assert!(report.contains(told), "{told}: {report}");
        }
        // What helps is the operator's to know.
        rig.site.log_with(remedy);
        rig.site.wait_account("practice", "ready");
    }
    rig.submit(&[TO], &addressed(TO, ""));
    assert_eq!(recipients(&rig.taken(3)[2]), set(&[TO]));
}
