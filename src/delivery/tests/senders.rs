//! As whom mail leaves and by which account, and what follows a connection that broke.

use super::*;

/// A rule that replaces whatever is not the mailbox's own.
fn rewriting(keep: &[&str]) -> SenderRule {
    SenderRule {
        rewrite: Rewrite::Both,
        display_name: None,
        reply_to_original: true,
        keep: keep.iter().map(|&pattern| pattern.to_owned()).collect(),
    }
}

#[tokio::test]
async fn senders_that_are_not_the_mailboxs_own_are_replaced_on_the_way_out() {
    let rig = Rig::new(Auth::None, |config| {
        config.accounts[0].sender = rewriting(&["*@contoso.example"]);
    })
    .await;
    let large = "x".repeat(70) + "\r\n";
    for (sender, from, body) in [
        (
            "root@web1.lan",
            "Cron Daemon <root@web1.lan>",
            "small\r\n".to_owned(),
        ),
        ("", "printer@lan", "null\r\n".to_owned()),
        (
            "boss@contoso.example",
            "Boss <boss@contoso.example>",
            "own\r\n".to_owned(),
        ),
        (
            "root@web1.lan",
            "Backup <root@web1.lan>",
            large.repeat(6_000),
        ),
    ] {
        let text = format!("Subject: x\r\nFrom: {from}\r\nX-Y: z\r\n\r\n{body}");
        rig.accept_message(envelope(sender, &["r@x.example"]), text)
            .await;
    }
    let _delivery = rig.start();
    let taken = rig.upstream.taken(4).await;
    let mailbox = "FROM:<alerts@contoso.example>";
    let wanted = [
        (mailbox, "<alerts@contoso.example>", " printer@lan"),
        (
            "FROM:<boss@contoso.example>",
            "Boss <boss@contoso.example>",
            "",
        ),
        (
            mailbox,
            "Cron Daemon <alerts@contoso.example>",
            " Cron Daemon <root@web1.lan>",
        ),
        (
            mailbox,
            "Backup <alerts@contoso.example>",
            " Backup <root@web1.lan>",
        ),
    ];
    let left: Vec<_> = taken.iter().map(head).collect();
    for (path, from, reply_to) in wanted {
        let answers = match reply_to {
            "" => String::new(),
            author => format!("Reply-To:{author}\r\n"),
        };
        let head = format!("Subject: x\r\nFrom: {from}\r\n{answers}X-Y: z");
        let found = left
            .iter()
            .any(|left| (left.0.as_str(), &left.1) == (path, &head));
        assert!(found, "{path} {head} in {left:?}");
    }
    let largest = left.iter().map(|(_, _, body)| *body).max();
    let whole = large.len() * 6_000 + ".\r\n".len();
    assert_eq!(largest, Some(whole), "the body is whole");
}

/// The reverse-path, the header section and the body's length.
fn head(taken: &Taken) -> (String, String, usize) {
    let (head, body) = taken.data.split_once("\r\n\r\n").expect("a header");
    let path = taken.sender.split(' ').nth(1).expect("a path");
    (path.to_owned(), head.to_owned(), body.len())
}

/// `alerts`, whose upstream refuses the password, with `second` to step in.
async fn two_accounts(change: impl FnOnce(&mut Config)) -> Rig {
    Rig::new(password(), |config| {
        let second = Account {
            name: AccountName::new("second"),
            mailbox: "second@contoso.example".into(),
            sender: rewriting(&[]),
            ..account(Auth::None, config.accounts[0].smtp.port)
        };
        config.accounts[0].fallback = Some(second.name.clone());
        config.accounts.push(second);
        change(config);
    })
    .await
}

#[tokio::test]
async fn mail_of_an_account_on_hold_goes_by_its_fallback() {
    let rig = two_accounts(|_| ()).await;
    rig.upstream.behave(Manners {
        takes: Some(HashSet::new()),
        ..Manners::default()
    });
    for n in 0..20 {
        rig.accept("app@b.example", &["r@x.example"], &format!("m{n}"))
            .await;
    }
    let delivery = rig.start();
    let taken = rig.upstream.taken(20).await;
    rig.empty().await;
    assert_eq!(rig.upstream.count(), 20, "once each");
    let by_second = |taken: &Taken| taken.sender.contains("<second@contoso.example>");
    assert!(
        taken.iter().all(by_second),
        "by the rule of the one that sends"
    );
    let held = |account: &AccountName| delivery.status(account).expect("a lane").held;
    assert!(held(&name()).is_some() && held(&AccountName::new("second")).is_none());
}

#[tokio::test]
async fn over_the_daily_limit_the_rest_goes_by_the_fallback() {
    let rig = two_accounts(|config| {
        config.accounts[0].limits.recipients_per_day = Some(5);
        config.accounts[0].limits.connections = 1;
        config.accounts[0].smtp.auth = Auth::None;
    })
    .await;
    for n in 0..20 {
        rig.accept("app@b.example", &["r@x.example"], &format!("m{n}"))
            .await;
    }
    let _delivery = rig.start();
    let taken = rig.upstream.taken(20).await;
    rig.empty().await;
    let own = taken
        .iter()
        .filter(|t| t.sender.contains("<app@b.example>"));
    assert_eq!(own.count(), 5);
}

#[tokio::test]
async fn without_a_way_out_of_either_mail_waits_where_it_is() {
    let rig = two_accounts(|config| config.accounts[1].smtp.auth = password()).await;
    rig.upstream.behave(Manners {
        takes: Some(HashSet::new()),
        ..Manners::default()
    });
    rig.accept("app@b.example", &["r@x.example"], "waits").await;
    let delivery = rig.start();
    let second = AccountName::new("second");
    let both_held = async {
        while [&name(), &second]
            .iter()
            .any(|n| delivery.status(n).is_none_or(|s| s.held.is_none()))
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, both_held)
        .await
        .expect("in time");
    rig.upstream.behave(Manners::default());
    delivery.wake(&second);
    assert!(rig.upstream.taken(1).await[0].sender.contains("<second@"));
    rig.empty().await;
}

#[tokio::test]
async fn a_lost_final_reply_can_be_held_for_a_person() {
    let rig = Rig::new(Auth::None, |config| config.on_uncertain = OnUncertain::Hold).await;
    rig.upstream.behave(Manners {
        vanishes: true,
        ..Manners::default()
    });
    rig.accept("app@b.example", &["r@x.example"], "once").await;
    let _delivery = rig.start();
    let held = rig
        .queue(|all| all.iter().any(|e| e.state == EntryState::Held))
        .await;
    assert!(held[0].uncertain && held[0].recipients[0].state == RecipientState::Deferred);
    assert!(
        held[0]
            .reason
            .as_deref()
            .is_some_and(|why| why.contains("queue.uncertain"))
    );
    assert_eq!(rig.parts.metrics.possible_duplicates.get(), 1);
}

#[tokio::test]
async fn a_connection_that_breaks_before_the_end_is_replaced_at_once() {
    let rig = Rig::new(Auth::None, |_| ()).await;
    rig.upstream.behave(Manners {
        breaks_at_mail: Some(Arc::new(AtomicUsize::new(1))),
        ..Manners::default()
    });
    rig.accept("app@b.example", &["r@x.example"], "again").await;
    let _delivery = rig.start();
    rig.upstream.taken(1).await;
    rig.empty().await;
    assert_eq!(rig.upstream.connections.load(Ordering::SeqCst), 2);
    assert_eq!(rig.parts.metrics.possible_duplicates.get(), 0);
}
