//! Failures in masses, whose senders are forged.

use std::{collections::HashMap, num::NonZeroU32};

use super::*;

/// Row 61: failures in masses whose senders are forged. The one whose address is abused gets the
/// hour's reports and no more, nobody is told twice, a null sender never, and no address puts a line of
/// its own into a report.
#[tokio::test]
async fn failures_with_forged_senders_are_told_within_bounds() {
    const ABUSED: usize = 600;
    const OTHERS: usize = 600;
    const NULL: usize = 300;
    const REPORTS: usize = 10;
    let rig = Rig::new(Auth::None, |config| {
        config.bounces_per_hour = NonZeroU32::new(u32::try_from(REPORTS).unwrap());
        // So that a commit takes many outcomes.
        config.accounts[0].limits.connections = 50;
    })
    .await;
    rig.upstream.behave(Manners {
        rcpt_bad: "550 5.1.1 no such user",
        ..Manners::default()
    });
    let other = |n: usize| match n % 3 {
        0 => format!("\"x{n}\\\" Bcc: <all@b.example>, \"@b.example"),
        1 => format!("\"x{n} To:all@b.example\"@b.example"),
        _ => format!("x{n}=?utf-8?q?=0d=0aBcc=3aall?=@b.example"),
    };
    let senders = std::iter::repeat_n("victim@b.example".to_owned(), ABUSED)
        .chain((0..OTHERS).map(other))
        .chain(std::iter::repeat_n(String::new(), NULL));
    let senders: Vec<_> = senders.collect();
    // As many at once as one commit takes.
    for group in senders.chunks(256) {
        let mut commits = tokio::task::JoinSet::new();
        for sender in group {
            let entry = NewEntry {
                id: rig.parts.queue.next_id(),
                account: name(),
                envelope: envelope(sender, &["bad@x.example"]),
                message: bounce::message(b"Subject: storm\r\n\r\nstorm\r\n".to_vec()),
                client: None,
            };
            let queue = rig.parts.queue.clone();
            commits.spawn(async move { queue.accept(entry).await.expect("stored") });
        }
        commits.join_all().await;
    }
    let _delivery = rig.start();
    let taken = rig.upstream.taken(REPORTS + OTHERS).await;
    let held = rig
        .queue(|all| {
            all.len() == ABUSED - REPORTS + NULL && all.iter().all(|e| e.state == EntryState::Held)
        })
        .await;
    assert!(held.iter().all(|e| match &e.reverse_path {
        ReversePath::Null => true,
        ReversePath::Address(sender) => sender.to_string() == "victim@b.example",
    }));
    assert_eq!(
        rig.upstream.count(),
        REPORTS + OTHERS,
        "nothing went meanwhile"
    );
    let mut told = HashMap::<&str, usize>::new();
    for report in &taken {
        assert_eq!(report.sender, "MAIL FROM:<>");
        let [to] = &report.recipients[..] else {
            panic!("{report:?}")
        };
        *told.entry(to).or_default() += 1;
        one_address(&report.data);
    }
    assert_eq!(told.remove("RCPT TO:<victim@b.example>"), Some(REPORTS));
    assert_eq!(told.len(), OTHERS);
    assert!(told.values().all(|count| *count == 1));
}

/// Whoever it is for stands in `To`, and nobody anywhere else.
fn one_address(report: &str) {
    let (head, _) = report.split_once("\r\n\r\n").unwrap();
    let fields = head
        .split("\r\n")
        .filter(|line| !line.starts_with([' ', '\t']));
    let names: Vec<_> = fields.filter_map(|line| line.split_once(':')).collect();
    let named = |name: &str| {
        let same = |field: &&(&str, &str)| field.0.eq_ignore_ascii_case(name);
        names.iter().filter(same).count()
    };
    assert_eq!(named("To"), 1, "{head}");
    assert_eq!(named("Bcc") + named("Cc"), 0, "{head}");
}
