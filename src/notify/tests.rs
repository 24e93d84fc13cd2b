//! The workers against a webhook played here, with simulated time.

use jiff::Timestamp;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;
use crate::{clock::ManualClock, secret::Secret};

struct World {
    notifier: Notifier,
    tasks: Tasks,
    metrics: Arc<Metrics>,
    mailbox: mpsc::Receiver<MailRequest>,
}

impl World {
    fn new(config: Config) -> Self {
        let (mailbox, requests) = mpsc::channel(1);
        let (tasks, metrics) = (Tasks::new(), Arc::new(Metrics::new()));
        let parts = Parts {
            clock: ManualClock::new(Timestamp::UNIX_EPOCH),
            tasks: tasks.clone(),
            metrics: Arc::clone(&metrics),
            mailbox,
        };
        Self {
            notifier: Notifier::start(config, parts),
            tasks,
            metrics,
            mailbox: requests,
        }
    }

    fn tell(&self, notice: Notice) {
        let set = self.notifier.inner.set();
        self.notifier.tell(&set, &Channel::ALL, notice);
    }

    /// One that stands.
    async fn notice_that_alerts_is_held(&self) {
        let seen = Observation {
            conditions: vec![Condition {
                kind: Kind::AccountHeld,
                account: Some(AccountName::new("alerts")),
                which: String::new(),
                stage: 0,
                reason: "refused".to_owned(),
                remedy: "sign in".to_owned(),
            }],
            accounts: vec![AccountName::new("alerts")],
            ..Observation::default()
        };
        self.notifier.observe(seen.clone());
        tokio::time::advance(Duration::from_secs(60)).await;
        self.notifier.observe(seen);
    }

    async fn stop(self) -> Arc<Metrics> {
        self.tasks.stop();
        self.tasks.drained().await;
        self.metrics
    }
}

fn silent() -> Config {
    Config {
        webhook: None,
        command: Vec::new(),
        mail: None,
        addresses: false,
        hostname: "relay.example.com".to_owned(),
    }
}

fn by_mail() -> Config {
    Config {
        mail: Some(Mail {
            account: AccountName::new("spare"),
            to: Address::parse("ops@example.com").unwrap(),
        }),
        ..silent()
    }
}

fn broken(account: &str) -> Notice {
    Notice {
        account: Some(AccountName::new(account)),
        event: Event::Problem,
        kind: Kind::AccountHeld,
        reason: "bob@example.com may not send".to_owned(),
        ..Notice::test(Timestamp::UNIX_EPOCH)
    }
}

fn count(metrics: &Metrics, channel: Channel, result: &str) -> u64 {
    let line = format!(
        "gatepost_notices_total{{channel=\"{}\",result=\"{result}\"}} ",
        channel.name()
    );
    let text = metrics.encode();
    let found = text.lines().find_map(|l| l.strip_prefix(&line));
    found.unwrap_or("0").parse().unwrap()
}

/// A webhook that gives these answers, one a connection; the requests it got.
async fn webhook(answers: &'static [&'static str]) -> (Config, mpsc::Receiver<String>, Tasks) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/T0/canary", listener.local_addr().unwrap());
    let (seen, requests) = mpsc::channel(answers.len());
    let tasks = Tasks::new();
    tasks.spawn("webhook", async move {
        for answer in answers {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            let mut chunk = [0; 4096];
            while !request.ends_with(b"}") {
                let read = socket.read(&mut chunk).await.unwrap();
                request.extend_from_slice(&chunk[..read]);
            }
            let answer =
                format!("HTTP/1.1 {answer}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
            socket.write_all(answer.as_bytes()).await.unwrap();
            seen.send(String::from_utf8(request).unwrap())
                .await
                .unwrap();
        }
    });
    let config = Config {
        webhook: Some(Webhook::new(Secret::new(url))),
        ..silent()
    };
    (config, requests, tasks)
}

#[tokio::test(start_paused = true)]
async fn a_webhook_that_fails_for_now_is_asked_again() {
    let answers = &["503 Later", "429 Slow down", "204 Done"];
    let (config, mut requests, _server) = webhook(answers).await;
    let world = World::new(config);
    world.tell(broken("alerts"));
    for _ in answers {
        let request = requests.recv().await.unwrap();
        assert!(request.starts_with("POST /T0/canary "), "{request}");
        assert!(request.contains("(address) may not send"), "{request}");
        assert!(!request.contains("bob@"), "{request}");
    }
    let metrics = world.stop().await;
    assert_eq!(count(&metrics, Channel::Webhook, "sent"), 1);
    assert_eq!(count(&metrics, Channel::Webhook, "failed"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_webhook_that_says_no_is_not_asked_again() {
    let (config, mut requests, _server) = webhook(&["404 Gone", "302 There"]).await;
    let world = World::new(config);
    world.tell(broken("alerts"));
    requests.recv().await.unwrap();
    // The next request is the test's own, so the first was not repeated.
    let tried = world.notifier.test(None).await;
    assert_eq!(tried.len(), 1);
    assert!(!tried[0].ok && tried[0].detail.contains("302"), "{tried:?}");
    assert!(!tried[0].detail.contains("canary"), "{tried:?}");
    let metrics = world.stop().await;
    assert_eq!(count(&metrics, Channel::Webhook, "failed"), 1);
}

#[tokio::test(start_paused = true)]
async fn no_account_mails_about_its_own_trouble() {
    let mut world = World::new(by_mail());
    world.tell(broken("spare"));
    world.tell(broken("alerts"));
    let request = world.mailbox.recv().await.unwrap();
    assert_eq!(request.notice.account, Some(AccountName::new("alerts")));
    assert_eq!(request.mail.account, AccountName::new("spare"));
    request.done.send(Ok("queued".to_owned())).unwrap();
    // One that sends again, or for some days yet, can say so itself.
    let recovered = Notice {
        event: Event::Recovered,
        ..broken("spare")
    };
    let expiring = Notice {
        kind: Kind::Expiring,
        ..broken("spare")
    };
    for notice in [recovered, expiring] {
        world.tell(notice);
        let request = world.mailbox.recv().await.unwrap();
        request.done.send(Ok("queued".to_owned())).unwrap();
    }
    let metrics = world.stop().await;
    assert_eq!(count(&metrics, Channel::Mail, "skipped"), 1);
    assert_eq!(count(&metrics, Channel::Mail, "sent"), 3);
}

/// Who is told from now on hears what they were not told, and nobody hears it twice.
#[tokio::test(start_paused = true)]
async fn a_way_that_is_new_is_told_what_stands() {
    let (old, mut old_requests, _old_server) = webhook(&["204 Done", "204 Done"]).await;
    let world = World::new(old.clone());
    world.notice_that_alerts_is_held().await;
    old_requests.recv().await.unwrap();

    let mail = by_mail().mail;
    let mut mailbox = world.mailbox;
    world.notifier.reconfigure(Config { mail, ..old });
    let request = mailbox.recv().await.unwrap();
    assert_eq!(request.notice.event, Event::Problem);
    assert_eq!(request.notice.kind, Kind::AccountHeld);
    request.done.send(Ok("queued".to_owned())).unwrap();
    world.notifier.test(Some(Channel::Webhook)).await;
    let next = old_requests.recv().await.unwrap();
    assert!(next.contains("\"event\":\"test\""), "{next}");
}

/// A wrong URL is put right while its notice is tried again.
#[tokio::test(start_paused = true)]
async fn a_way_put_right_is_told_once() {
    let (wrong, mut refused, _wrong_server) = webhook(&["503 Later"]).await;
    let (right, mut told, _right_server) = webhook(&["204 Done", "204 Done"]).await;
    let world = World::new(wrong);
    world.notice_that_alerts_is_held().await;
    refused.recv().await.unwrap();
    // Not seen for a moment is not over.
    world.notifier.observe(Observation {
        accounts: vec![AccountName::new("alerts")],
        ..Observation::default()
    });
    world.notifier.reconfigure(right);
    let request = told.recv().await.unwrap();
    assert!(request.contains("\"event\":\"problem\""), "{request}");
    let metrics = world.stop().await;
    assert_eq!(count(&metrics, Channel::Webhook, "skipped"), 1);
    assert_eq!(count(&metrics, Channel::Webhook, "sent"), 1);
}

#[tokio::test(start_paused = true)]
async fn more_than_a_way_can_take_is_dropped_and_counted() {
    let world = World::new(by_mail());
    for _ in 0..WAITING_MAX + 10 {
        world.tell(broken("alerts"));
    }
    assert_eq!(count(&world.metrics, Channel::Mail, "dropped"), 10);
}

#[tokio::test]
async fn nobody_is_told_where_no_way_is_set() {
    let world = World::new(silent());
    assert!(world.notifier.test(None).await.is_empty());
    world.tell(broken("alerts"));
    let metrics = world.stop().await;
    assert_eq!(count(&metrics, Channel::Webhook, "failed"), 0);
}
