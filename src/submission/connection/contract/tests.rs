//! Sessions whose clients wait, with the lane played by the test.

use std::{fs, path::Path};

use tokio::io::{AsyncWriteExt, DuplexStream};

use super::*;
use crate::{
    mail::{AccountName, EnhancedCode, Reply as Answer},
    queue::{Lease, Next, Settlement},
    store::RecipientState,
    submission::{
        Listener,
        connection::tests::{session, session_of, shared},
        testing::{Bench, Peer as Client, listener},
    },
};

fn direct() -> Listener {
    Listener {
        delivery: Contract::Direct,
        ..listener()
    }
}

fn hybrid() -> Listener {
    Listener {
        delivery: Contract::Hybrid {
            wait: Duration::from_secs(8),
        },
        ..listener()
    }
}

/// Sends a message to its end; the reply is still to come.
async fn sent(bench: &Bench, listener: Listener) -> Client<DuplexStream> {
    let mut client = session(bench, listener);
    client.begin_data().await;
    client.send("Subject: x\r\n\r\nx\r\n.\r\n").await;
    client
}

async fn leased(bench: &Bench) -> Lease {
    bench.parts.queue.lease(&AccountName::new("alerts")).await
}

async fn settle(bench: &Bench, lease: Lease, state: RecipientState, answer: Answer) {
    let settlement = Settlement {
        outcomes: vec![(0, state, Some(answer))],
        next: Next::Hold,
        reason: None,
        counted: true,
        uncertain: false,
        reports: Vec::new(),
        delay_warned: false,
        way: None,
    };
    bench.parts.queue.settle(lease, settlement).await.unwrap();
}

fn answer(code: u16, enhanced: &str) -> Answer {
    Answer::new(code, EnhancedCode::parse(enhanced), "text of the provider")
}

/// Files of message bodies below the state directory.
fn body_files(folder: &Path) -> usize {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    let entries = entries.map(|entry| entry.unwrap().path());
    let count = |path: std::path::PathBuf| match path.is_dir() {
        true => body_files(&path),
        false => usize::from(path.parent().is_some_and(|dir| dir.ends_with("bodies"))),
    };
    entries.map(count).sum()
}

#[tokio::test]
async fn the_providers_verdict_is_the_clients_reply_without_its_text() {
    use RecipientState::{Bounced, Deferred, Delivered};
    for (state, answer, reply) in [
        (Delivered, answer(250, "2.0.0"), "250 2.0.0 delivered as "),
        (Bounced, answer(550, "5.7.708"), "550 5.7.708 refused by"),
        (Bounced, answer(550, ""), "550 5.0.0 refused by"),
        (Bounced, answer(501, "5.1.3"), "554 5.1.3 refused by"),
        (Deferred, answer(452, "4.2.2"), "452 4.2.2 not taken"),
        (Deferred, answer(432, "4.3.2"), "451 4.3.2 not taken"),
        // What is about our session with the provider is none of the client's business.
        (Deferred, answer(535, "5.7.3"), "451 4.0.0 not taken"),
        (Deferred, answer(421, "4.3.2"), "451 4.3.2 not taken"),
    ] {
        for listener in [direct(), hybrid()] {
            let queued = state == Deferred && listener.delivery != Contract::Direct;
            let bench = Bench::new();
            let mut client = sent(&bench, listener).await;
            let lease = leased(&bench).await;
            assert!(lease.commit());
            settle(&bench, lease, state, answer.clone()).await;
            let got = client
                .expect(if queued { "250 2.0.0 queued as" } else { reply })
                .await;
            assert!(!got.contains("text"), "{got}");
            assert_eq!(bench.queued().await, usize::from(queued));
            client.say("NOOP", "250 ").await;
            let accepted = bench.parts.metrics.messages_accepted.get();
            assert_eq!(accepted, u64::from(got.starts_with("250")), "{got}");
        }
    }
}

#[tokio::test]
async fn a_direct_client_is_told_before_its_own_deadline_that_nothing_was_sent() {
    let bench = Bench::new();
    let mut waiting = sent(&bench, direct()).await;
    let mut under_way = sent(&bench, direct()).await;
    let lease = leased(&bench).await;
    time::pause();
    waiting.expect("451 4.3.0").await;
    under_way.expect("451 4.3.0").await;
    assert!(!lease.commit());
    drop(lease);
    assert_eq!(bench.queued().await, 0);
    assert!(bench.parts.queue.leased().is_empty());
}

#[tokio::test]
async fn a_direct_client_waits_for_the_truth_once_its_message_may_be_sent() {
    let bench = Bench::new();
    let mut client = sent(&bench, direct()).await;
    let lease = leased(&bench).await;
    assert!(lease.commit());
    time::pause();
    time::sleep(DIRECT_WAIT * 3).await;
    settle(
        &bench,
        lease,
        RecipientState::Delivered,
        answer(250, "2.0.0"),
    )
    .await;
    client.expect("250 2.0.0 delivered as").await;
}

#[tokio::test]
async fn an_account_that_cannot_send_is_told_at_once() {
    let bench = Bench::new();
    let mut client = sent(&bench, direct()).await;
    drop(leased(&bench).await);
    client.expect("451 4.3.0 mail cannot be sent now").await;
    let mut client = sent(&bench, hybrid()).await;
    drop(leased(&bench).await);
    client.expect("250 2.0.0 queued as").await;
    assert_eq!(bench.queued().await, 1);
}

#[tokio::test]
async fn after_its_wait_a_hybrid_message_is_durable_and_the_attempt_settles_it() {
    let bench = Bench::new();
    let mut client = sent(&bench, hybrid()).await;
    let lease = leased(&bench).await;
    assert!(lease.commit());
    time::pause();
    client.expect("250 2.0.0 queued as").await;
    time::resume();
    assert_eq!(bench.queued().await, 1);
    settle(
        &bench,
        lease,
        RecipientState::Delivered,
        answer(250, "2.0.0"),
    )
    .await;
    assert_eq!(bench.queued().await, 0, "delivered once, by that attempt");
}

#[tokio::test]
async fn a_client_that_is_gone_takes_its_message_with_it() {
    for listener in [direct(), hybrid()] {
        let bench = Bench::new();
        let client = sent(&bench, listener).await;
        let lease = leased(&bench).await;
        drop(client);
        bench.parts.tasks.stop();
        bench.parts.tasks.drained().await;
        assert!(!lease.commit(), "it comes again");
        drop(lease);
        assert_eq!(bench.queued().await, 0);
    }
}

#[tokio::test]
async fn a_client_that_has_said_quit_and_closed_its_side_still_waits() {
    let bench = Bench::new();
    let mut client = session(&bench, direct());
    client.begin_data().await;
    client.send("Subject: x\r\n\r\nx\r\n.\r\nQUIT\r\n").await;
    client.stream.shutdown().await.unwrap();
    let lease = leased(&bench).await;
    tokio::task::yield_now().await;
    assert!(lease.commit());
    settle(
        &bench,
        lease,
        RecipientState::Delivered,
        answer(250, "2.0.0"),
    )
    .await;
    client.expect("250 2.0.0 delivered as").await;
    client.expect("221 ").await;
    client.expect_end().await;
}

#[tokio::test]
async fn a_large_direct_message_never_touches_the_disk_and_its_room_is_bounded() {
    let bench = Bench::new();
    let shared = shared(&bench);
    let line = format!("{}\r\n", "0123456789".repeat(7));
    let body = line.repeat(2_000_000 / line.len());
    let begin = async || {
        let mut client = session_of(&shared, direct());
        client.begin_data().await;
        client.send(format!("Subject: x\r\n\r\n{body}.\r\n")).await;
        client
    };
    let mut first = begin().await;
    let lease = leased(&bench).await;
    assert!(lease.message.size > 1_900_000);
    assert_eq!(body_files(bench.folder.path()), 0);
    // Twice as much is too much at once.
    let mut second = begin().await;
    second.expect("452 4.3.1").await;
    second.say("QUIT", "221 ").await;
    settle(
        &bench,
        lease,
        RecipientState::Delivered,
        answer(250, "2.0.0"),
    )
    .await;
    first.expect("250 2.0.0 delivered as").await;
    // What the first held is free again.
    let mut third = begin().await;
    drop(leased(&bench).await);
    third.expect("451 4.3.0").await;
}

#[tokio::test]
async fn a_direct_listener_takes_as_many_recipients_as_one_reply_can_speak_for() {
    let bench = Bench::new();
    let mut client = session(
        &bench,
        Listener {
            max_recipients: 500,
            ..direct()
        },
    );
    client.expect("220 ").await;
    let list = client.say("EHLO a", "250-").await;
    assert!(!list.contains("DSN"), "{list}");
    client.say("MAIL FROM:<root@a.example>", "250 ").await;
    for n in 0..100 {
        client
            .say(&format!("RCPT TO:<r{n}@b.example>"), "250 ")
            .await;
    }
    client.say("RCPT TO:<one@b.example>", "452 4.5.3").await;
}

#[tokio::test]
async fn told_to_stop_waiting_clients_get_their_answers() {
    let bench = Bench::new();
    let mut refused = sent(&bench, direct()).await;
    let lease = leased(&bench).await;
    let mut committed = sent(&bench, direct()).await;
    let second = leased(&bench).await;
    assert!(second.commit());
    let mut queued = sent(&bench, hybrid()).await;
    let third = leased(&bench).await;
    bench.parts.tasks.stop();
    refused.expect("451 4.3.0").await;
    queued.expect("250 2.0.0 queued").await;
    assert!(!lease.commit() && third.commit());
    settle(
        &bench,
        second,
        RecipientState::Delivered,
        answer(250, "2.0.0"),
    )
    .await;
    committed.expect("250 2.0.0 delivered").await;
    assert_eq!(bench.queued().await, 1);
}
