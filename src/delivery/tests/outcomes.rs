//! What becomes of messages when the provider says no: never silence, never a bounce for what is not
//! the message's fault.

use std::num::NonZeroU32;

use super::*;

/// Row 29 of what may go wrong: a limit of the provider costs no message its attempts, and bounces none.
#[tokio::test]
async fn a_limit_of_the_provider_bounces_nothing_and_burns_nothing() {
    for (mail, end, is_hold) in [
        ("432 4.3.2 Concurrent connections limit exceeded", "", false),
        (
            "",
            "432 4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded",
            false,
        ),
        (
            "",
            "421 4.4.2 Message submission rate for this client has exceeded the configured limit",
            false,
        ),
        (
            "",
            "554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException",
            false,
        ),
        (
            "",
            "554 5.2.2 mailbox full; STOREDRV.Submission.Exception:QuotaExceededException",
            true,
        ),
        (
            "550 5.7.705 Access denied, tenant has exceeded threshold",
            "",
            true,
        ),
    ] {
        let rig = Rig::new(Auth::None, |config| {
            config.accounts[0].kind = Kind::Microsoft;
        })
        .await;
        rig.upstream.behave(Manners {
            mail,
            end,
            ..Manners::default()
        });
        for n in 0..3 {
            rig.accept("app@b.example", &["r@x.example"], &format!("{n}"))
                .await;
        }
        let delivery = rig.start();
        let closed = || {
            let status = delivery.status(&name());
            status.is_some_and(|s| s.paused_until.is_some() || s.held.is_some())
        };
        let waiting = rig.queue(|_| closed()).await;
        assert_eq!(waiting.len(), 3, "{mail}{end}: no report, and nothing lost");
        let untouched = |e: &Entry| e.attempts == 0 && e.state == EntryState::Queued;
        assert!(waiting.iter().all(untouched), "{mail}{end}");
        let held = delivery.status(&name()).and_then(|status| status.held);
        assert_eq!(held.is_some(), is_hold, "{mail}{end}");
        assert!(held.is_none_or(|held| !held.remedy.is_empty()));
    }
}

/// A program that mails dead addresses gets so many reports and no more; what fails then waits for a
/// person, and everybody else's failures are told as ever.
#[tokio::test]
async fn a_storm_of_failures_is_held_beyond_the_hours_reports() {
    let rig = Rig::new(Auth::None, |config| {
        config.bounces_per_hour = NonZeroU32::new(4);
    })
    .await;
    rig.upstream.behave(Manners {
        rcpt_bad: "550 5.1.1 no such user",
        ..Manners::default()
    });
    for n in 0..20 {
        rig.accept("erp@b.example", &["bad@x.example"], &format!("{n}"))
            .await;
    }
    rig.accept("cron@b.example", &["bad@x.example"], "other")
        .await;
    // A null sender has no report, storm or not.
    rig.accept("", &["bad@x.example"], "null").await;
    let _delivery = rig.start();
    let held = rig
        .queue(|all| all.len() == 17 && all.iter().all(|e| e.state == EntryState::Held))
        .await;
    let storm = held.iter().filter(|e| {
        let reason = e.reason.as_deref().unwrap_or_default();
        reason.contains("queue.bounces_per_hour")
    });
    assert_eq!(storm.count(), 16, "held and not silent");
    let open = |e: &Entry| e.recipients.iter().all(|r| r.state.is_open());
    assert!(held.iter().all(open), "a release tries them again");
    let taken = rig.upstream.taken(5).await;
    let to = |address: &str| {
        let path = format!("RCPT TO:<{address}>");
        taken
            .iter()
            .filter(|t| t.recipients == [path.as_str()])
            .count()
    };
    assert_eq!((to("erp@b.example"), to("cron@b.example")), (4, 1));
    assert_eq!(taken.len(), 5);
}

/// Row 61: ten thousand failures, of one program, of senders it made up, and of reports themselves. A
/// message has one report however many recipients failed, the null reverse-path has none, and nothing
/// that the server writes becomes a header line.
#[tokio::test]
async fn ten_thousand_failures_are_one_report_a_message() {
    const MESSAGES: usize = 100;
    let rig = Rig::new(Auth::None, |_| ()).await;
    rig.upstream.behave(Manners {
        rcpt_bad: "550-5.1.1 no such user\r\n550 5.1.1 Bcc: victim@x.example",
        ..Manners::default()
    });
    let mut told = Vec::new();
    for n in 0..MESSAGES {
        let recipients: Vec<_> = (0..100).map(|r| format!("bad{r}@x.example")).collect();
        let recipients: Vec<_> = recipients.iter().map(String::as_str).collect();
        let sender = match n % 4 {
            0 => String::new(),
            1 => format!("forged{n}@elsewhere.example"),
            _ => "erp@b.example".to_owned(),
        };
        rig.accept(&sender, &recipients, &format!("{n}")).await;
        if !sender.is_empty() {
            told.push(format!("RCPT TO:<{sender}>"));
        }
    }
    let _delivery = rig.start();
    let held = rig
        .queue(|all| all.len() == MESSAGES / 4 && all.iter().all(|e| e.state == EntryState::Held))
        .await;
    let null = |e: &Entry| e.reverse_path == ReversePath::Null && e.recipients.len() == 100;
    assert!(held.iter().all(null), "kept for a person, not silent");
    let taken = rig.upstream.taken(told.len()).await;
    let mut reported: Vec<_> = taken.iter().flat_map(|t| t.recipients.clone()).collect();
    reported.sort();
    told.sort();
    assert_eq!(reported, told, "each message once");
    for report in &taken {
        assert_eq!(report.sender, "MAIL FROM:<>");
        let fields = report.data.lines().filter(|line| line.starts_with("Bcc:"));
        assert_eq!(fields.count(), 0, "{}", report.data);
        assert_eq!(report.data.matches("Final-Recipient:").count(), 100);
    }
}

/// What a server takes is learned by the first message that was too wide for it.
#[tokio::test]
async fn the_width_of_a_transaction_is_learned() {
    let rig = Rig::new(Auth::None, |_| ()).await;
    rig.upstream.behave(Manners {
        recipients_max: Some(7),
        ..Manners::default()
    });
    let recipients: Vec<_> = (0..20).map(|n| format!("r{n}@x.example")).collect();
    let recipients: Vec<_> = recipients.iter().map(String::as_str).collect();
    rig.accept("app@b.example", &recipients, "wide").await;
    let delivery = rig.start();
    rig.empty().await;
    let lane = delivery.inner.lane(&name()).expect("a lane");
    assert_eq!(lane.width(), 7);
    let sizes: Vec<_> = rig
        .upstream
        .taken(3)
        .await
        .iter()
        .map(|t| t.recipients.len())
        .collect();
    assert_eq!(sizes, [7, 7, 6]);
}
