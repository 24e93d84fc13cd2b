//! The queue over a real store in a temporary directory.

use bytes::Bytes;

use super::*;
use crate::{
    clock::ManualClock,
    mail::{Address, Body, BodyType, Digest, Recipient, ReversePath},
};

pub(super) struct Rig {
    dir: tempfile::TempDir,
    clock: Arc<ManualClock>,
}

impl Rig {
    pub(super) fn new() -> Self {
        let clock = ManualClock::new(Timestamp::from_second(1_800_000_000).unwrap());
        Self {
            dir: tempfile::tempdir().unwrap(),
            clock,
        }
    }

    pub(super) fn open(&self) -> Queue {
        let metrics = Arc::new(Metrics::new());
        let config = store::Config {
            state_dir: self.dir.path().to_owned(),
        };
        let store = Store::open(&config, Arc::clone(&metrics)).unwrap();
        let clock = Arc::clone(&self.clock);
        Queue::new(
            Config {
                retry: retry::Policy::default(),
            },
            store,
            clock,
            metrics,
        )
    }
}

pub(super) fn account() -> AccountName {
    AccountName::new("alerts")
}

fn message(octets: &'static [u8]) -> Message {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, octets);
    Message {
        body: Body::Memory(Bytes::from_static(octets)),
        size: octets.len().try_into().unwrap(),
        digest: Digest(digest.as_ref().try_into().unwrap()),
    }
}

pub(super) fn new_entry(queue: &Queue) -> NewEntry {
    let address = |text| Address::parse(text).unwrap();
    NewEntry {
        id: queue.next_id(),
        account: account(),
        envelope: Envelope {
            reverse_path: ReversePath::Address(address("a@example.com")),
            recipients: vec![
                Recipient::new(address("b@example.net")),
                Recipient::new(address("c@example.net")),
            ],
            body: BodyType::SevenBit,
            smtputf8: false,
            ret: None,
            envid: None,
        },
        message: message(b"Subject: x\r\n\r\nhello\r\n"),
        client: None,
    }
}

pub(super) fn settlement(
    outcomes: Vec<(usize, RecipientState, Option<Reply>)>,
    next: Next,
) -> Settlement {
    Settlement {
        outcomes,
        next,
        reason: None,
        counted: true,
        uncertain: false,
        delay_warned: false,
        reports: vec![],
    }
}

fn delivered(due: Timestamp) -> Settlement {
    let done = RecipientState::Delivered;
    settlement(vec![(0, done, None), (1, done, None)], Next::RetryAt(due))
}

fn octets(message: &Message) -> &[u8] {
    match &message.body {
        Body::Memory(octets) => octets,
        Body::File(_) => panic!("in a file"),
    }
}

#[tokio::test]
async fn what_was_accepted_is_there_after_a_restart_and_gone_after_its_outcome() {
    let rig = Rig::new();
    let queue = rig.open();
    let new = new_entry(&queue);
    let id = new.id;
    queue.accept(new).await.unwrap();
    drop(queue);
    // The writer thread ends, and with it the lock, a moment after the last handle.
    let queue = reopen(&rig).await;
    let lease = queue.lease(&account()).await;
    assert_eq!(lease.entry.id, id);
    assert_eq!(octets(&lease.message), b"Subject: x\r\n\r\nhello\r\n");
    assert_eq!(queue.leased(), [id]);
    queue
        .settle(lease, delivered(Timestamp::MIN))
        .await
        .unwrap();
    assert_eq!(queue.list(Filter::default()).await.unwrap(), []);
    assert_eq!(queue.leased(), []);
}

async fn reopen(rig: &Rig) -> Queue {
    tokio::task::yield_now().await;
    rig.open()
}

#[tokio::test]
async fn a_lease_dropped_is_due_again_at_once_and_unchanged() {
    let rig = Rig::new();
    let queue = rig.open();
    queue.accept(new_entry(&queue)).await.unwrap();
    let lease = queue.lease(&account()).await;
    let before = lease.entry.clone();
    drop(lease);
    assert_eq!(queue.lease(&account()).await.entry, before);
}

#[tokio::test]
async fn a_deferred_recipient_is_tried_again_when_due_and_the_delivered_one_is_not() {
    let rig = Rig::new();
    let queue = rig.open();
    queue.accept(new_entry(&queue)).await.unwrap();
    let lease = queue.lease(&account()).await;
    let due = queue.next_attempt(&lease.entry).unwrap();
    let outcomes = vec![
        (0, RecipientState::Delivered, None),
        (1, RecipientState::Deferred, None),
    ];
    queue
        .settle(lease, settlement(outcomes, Next::RetryAt(due)))
        .await
        .unwrap();
    let account = account();
    {
        let mut waiting = Box::pin(queue.lease(&account));
        let early = futures_poll(&mut waiting).await;
        assert!(early.is_none(), "not due yet");
    }
    rig.clock.advance(jiff::SignedDuration::from_secs(80));
    let lease = queue.lease(&account).await;
    let states: Vec<_> = lease.entry.recipients.iter().map(|r| r.state).collect();
    assert_eq!(
        states,
        [RecipientState::Delivered, RecipientState::Deferred]
    );
    assert_eq!(lease.entry.attempts, 1);
}

/// Lets the future run until the store has nothing more to say.
async fn futures_poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    tokio::time::timeout(Duration::from_millis(50), future)
        .await
        .ok()
}

#[tokio::test]
async fn held_mail_waits_until_released_and_deleted_mail_is_gone() {
    let rig = Rig::new();
    let queue = rig.open();
    let new = new_entry(&queue);
    let only = Filter {
        ids: vec![new.id],
        ..Filter::default()
    };
    queue.accept(new).await.unwrap();
    assert_eq!(
        queue.operate(only.clone(), Operation::Hold).await.unwrap(),
        1
    );
    assert_eq!(
        queue.operate(only.clone(), Operation::Retry).await.unwrap(),
        0,
        "held stays held"
    );
    assert_eq!(
        queue
            .operate(only.clone(), Operation::Release)
            .await
            .unwrap(),
        1
    );
    let lease = queue.lease(&account()).await;
    assert_eq!(
        queue
            .operate(only.clone(), Operation::Delete)
            .await
            .unwrap(),
        0,
        "in delivery"
    );
    drop(lease);
    assert_eq!(queue.operate(only, Operation::Delete).await.unwrap(), 1);
    assert_eq!(queue.list(Filter::default()).await.unwrap(), []);
}

#[tokio::test]
async fn a_damaged_body_is_quarantined_and_others_flow() {
    let rig = Rig::new();
    let queue = rig.open();
    let mut bad = new_entry(&queue);
    bad.message.digest = Digest([7; 32]);
    let (bad_id, good) = (bad.id, new_entry(&queue));
    let good_id = good.id;
    queue.accept(bad).await.unwrap();
    queue.accept(good).await.unwrap();
    drop(queue);
    let queue = reopen(&rig).await;
    assert_eq!(queue.lease(&account()).await.entry.id, good_id);
    let filter = Filter {
        state: Some(EntryState::Quarantined),
        ..Filter::default()
    };
    let quarantined = queue.list(filter).await.unwrap();
    assert_eq!(
        quarantined.iter().map(|e| e.id).collect::<Vec<_>>(),
        [bad_id]
    );
}

#[tokio::test]
async fn a_damaged_row_is_quarantined_and_others_flow() {
    for damage in [
        "entry = substr(entry, 2)",
        "entry = cast(x'fffe' AS TEXT)",
        "entry = replace(entry, '\"account\":\"a', '\"account\":\"b')",
        "digest = x'00'",
        "entry = replace(entry, 'example.com', 'exbmple.com')",
        "next_attempt_at = -9223372036854775808",
        "state = -7, entry = '{}'",
    ] {
        let rig = Rig::new();
        let queue = rig.open();
        let (bad, good) = (new_entry(&queue), new_entry(&queue));
        let (bad_id, good_id) = (bad.id, good.id);
        queue.accept(bad).await.unwrap();
        queue.accept(good).await.unwrap();
        drop(queue);
        let database = rusqlite::Connection::open(rig.dir.path().join("gatepost.sqlite3"));
        let changed = database.unwrap().execute(
            &format!("UPDATE messages SET {damage} WHERE id = ?1"),
            [bad_id.as_i64()],
        );
        assert_eq!(changed.unwrap(), 1, "{damage}");

        let queue = reopen(&rig).await;
        let lease = queue.lease(&account()).await;
        assert_eq!(lease.entry.id, good_id, "{damage}");
        queue
            .settle(lease, delivered(Timestamp::MIN))
            .await
            .unwrap();
        let left = queue.list(Filter::default()).await.unwrap();
        let [entry] = left.as_slice() else {
            panic!("{damage}: {left:?}");
        };
        assert_eq!((entry.id, entry.state), (bad_id, EntryState::Quarantined));
        assert!(entry.reason.as_ref().unwrap().contains("damaged"));
        let (_, message) = queue.read(bad_id).await.unwrap().unwrap();
        assert_eq!(octets(&message), b"Subject: x\r\n\r\nhello\r\n", "{damage}");
        let all = Filter::default();
        assert_eq!(queue.operate(all, Operation::Delete).await.unwrap(), 1);
    }
}

/// A bit flips in a row where an index has a copy: SQLite then refuses to change that row.
#[tokio::test]
async fn an_index_that_contradicts_a_row_stops_nothing() {
    let rig = Rig::new();
    let queue = rig.open();
    queue.accept(new_entry(&queue)).await.unwrap();
    queue.accept(new_entry(&queue)).await.unwrap();
    queue.close().await.unwrap();
    drop(queue);
    let path = rig.dir.path().join("gatepost.sqlite3");
    let mut octets = std::fs::read(&path).unwrap();
    // account, state (a zero takes no octet), next_attempt_at (six octets), digest, entry
    let row = octets.windows(46).position(|octets| {
        let (account, rest) = octets.split_at(6);
        account == b"alerts" && rest.ends_with(b"{\"")
    });
    octets[row.unwrap()] ^= 0x02;
    std::fs::write(&path, octets).unwrap();

    let queue = reopen(&rig).await;
    let all = Filter::default();
    assert_eq!(queue.list(all.clone()).await.unwrap().len(), 2);
    let lease = queue.lease(&account()).await;
    queue
        .settle(lease, delivered(Timestamp::MIN))
        .await
        .unwrap();
    assert_eq!(queue.operate(all, Operation::Delete).await.unwrap(), 1);
    queue.ready().unwrap();
}

#[tokio::test]
async fn a_spilled_body_is_verified_and_removed_with_its_outcome() {
    let rig = Rig::new();
    let queue = rig.open();
    let mut new = new_entry(&queue);
    let mut spill = queue.spill(new.id).unwrap();
    for _ in 0..100 {
        spill.write(vec![b'x'; 10_000]).await.unwrap();
    }
    new.message = spill.finish(Vec::new()).await.unwrap();
    assert_eq!(new.message.size, 1_000_000);
    queue.accept(new).await.unwrap();
    let lease = queue.lease(&account()).await;
    let Body::File(file) = lease.message.body.clone() else {
        panic!("in memory")
    };
    assert!(file.path.exists());
    queue
        .settle(lease, delivered(Timestamp::MIN))
        .await
        .unwrap();
    assert!(!file.path.exists());
}

#[tokio::test]
async fn a_refused_or_abandoned_message_leaves_no_file() {
    let rig = Rig::new();
    let queue = rig.open();
    let taken = new_entry(&queue);
    let mut again = new_entry(&queue);
    again.id = taken.id;
    queue.accept(taken).await.unwrap();
    let spill = queue.spill(again.id).unwrap();
    again.message = spill.finish(vec![b'x'; 300_000]).await.unwrap();
    let Body::File(file) = again.message.body.clone() else {
        panic!("in memory")
    };
    assert!(file.path.exists());
    let refused = queue.accept(again).await;
    assert!(matches!(refused, Err(store::Error::Refused { .. })));
    assert!(!file.path.exists());

    let mut spill = queue.spill(queue.next_id()).unwrap();
    for _ in 0..3 {
        spill.write(vec![b'x'; 1000]).await.unwrap();
    }
    // Fails: a directory stands where the file is to be.
    let id = queue.next_id();
    std::fs::create_dir(file.path.with_file_name(id.to_string())).unwrap();
    let failing = queue.spill(id).unwrap();
    failing.finish(vec![b'x'; 1000]).await.unwrap_err();
    let left = std::fs::read_dir(file.path.parent().unwrap()).unwrap();
    let left: Vec<_> = left.map(|file| file.unwrap().path()).collect();
    assert_eq!(
        left.len(),
        2,
        "the unfinished file and the directory: {left:?}"
    );
    drop(spill.finish(Vec::new()).await.unwrap());
}

#[tokio::test]
async fn many_at_once_share_commits_and_none_is_leased_twice() {
    let rig = Rig::new();
    let queue = rig.open();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..2_000 {
        let queue = queue.clone();
        tasks.spawn(async move { queue.accept(new_entry(&queue)).await.unwrap() });
    }
    tasks.join_all().await;
    let commits = queue.inner.metrics.store_commits.get();
    assert!(commits < 2_000, "{commits} commits for 2000 messages");
    let mut seen = std::collections::HashSet::new();
    for _ in 0..2_000 {
        let lease = queue.lease(&account()).await;
        assert!(seen.insert(lease.entry.id), "leased twice");
        queue
            .settle(lease, delivered(Timestamp::MIN))
            .await
            .unwrap();
    }
    assert_eq!(queue.list(Filter::default()).await.unwrap(), []);
}

#[tokio::test]
async fn a_second_process_and_a_newer_schema_are_refused() {
    let rig = Rig::new();
    let queue = rig.open();
    let config = store::Config {
        state_dir: rig.dir.path().to_owned(),
    };
    let second = Store::open(&config, Arc::new(Metrics::new()));
    assert!(matches!(second, Err(store::Error::Locked { .. })));
    drop(queue);
    let newer = tempfile::tempdir().unwrap();
    let path = newer.path().join("gatepost.sqlite3");
    let database = rusqlite::Connection::open(&path).unwrap();
    database.pragma_update(None, "user_version", 99).unwrap();
    drop(database);
    let before = std::fs::read(&path).unwrap();
    let config = store::Config {
        state_dir: newer.path().to_owned(),
    };
    let refused = Store::open(&config, Arc::new(Metrics::new()));
    assert!(matches!(
        refused,
        Err(store::Error::Newer { found: 99, .. })
    ));
    assert_eq!(
        std::fs::read(&path).unwrap(),
        before,
        "not a byte was changed"
    );
}
