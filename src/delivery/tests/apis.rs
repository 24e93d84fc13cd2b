//! A lane whose mail goes by an API: what its trouble costs the messages.

use super::*;
use crate::delivery::transport::Api;

/// A lane with the API at `port` of this machine; its token is the rig's.
async fn rig(port: u16) -> Rig {
    let username = "alerts@contoso.example".to_owned();
    Rig::new(Auth::Xoauth2 { username }, |config| {
        config.accounts[0].transport = Transport::Api(Api {
            // The rig has tokens for this service alone; which API it is matters to nobody here.
            service: Service::Smtp,
            url: format!("http://127.0.0.1:{port}/").parse().expect("a URL"),
            user: None,
            mime_max: 1000,
            large_by_smtp: false,
            ca_file: None,
            proxy: None,
        });
    })
    .await
}

#[tokio::test]
async fn an_api_that_cannot_be_reached_is_the_accounts_trouble_and_burns_no_retry() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = nobody.local_addr().expect("bound").port();
    drop(nobody);
    let rig = rig(port).await;
    let delivery = rig.start();
    rig.accept("app@contoso.example", &["a@x.example"], "one")
        .await;
    let paused = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(5));
        loop {
            ticks.tick().await;
            let status = delivery.status(&name()).expect("the account");
            if status.paused_until.is_some() {
                return status;
            }
        }
    };
    let status = tokio::time::timeout(PATIENCE, paused)
        .await
        .expect("in time");
    assert!(status.held.is_none());
    let queue = rig.queue(|all| all.len() == 1).await;
    assert_eq!(queue[0].attempts, 0);
    assert_eq!(queue[0].recipients[0].state, RecipientState::Queued);
}

#[tokio::test]
async fn a_large_message_goes_back_at_once_and_no_connection_is_made() {
    let rig = rig(1).await;
    let _delivery = rig.start();
    let text = format!("Subject: large\r\n\r\n{}\r\n", "x".repeat(2000));
    let envelope = envelope("", &["a@x.example"]);
    rig.accept_message(envelope, text).await;
    // A report may not be reported about: it is held, with the reply.
    let held = rig
        .queue(|all| all.iter().any(|entry| entry.state == EntryState::Held))
        .await;
    let reply = held[0].recipients[0].reply.as_ref().expect("a reply");
    assert!(
        reply.text.contains("larger than the 1000 octets"),
        "{reply}"
    );
    assert_eq!(rig.upstream.count(), 0);
}

/// An API that takes everything; what it counts are messages.
async fn taking_api(listener: TcpListener, taken: watch::Sender<usize>) {
    while let Ok((stream, _)) = listener.accept().await {
        let mut peer = BufReader::new(stream);
        let mut length = 0;
        while let Some(line) = hear(&mut peer).await.filter(|line| !line.is_empty()) {
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
                length = value.parse().expect("a number");
            }
        }
        let mut body = vec![0; length];
        if peer.read_exact(&mut body).await.is_err() {
            continue;
        }
        taken.send_modify(|count| *count += 1);
        let answer = "HTTP/1.1 202 Accepted\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        peer.write_all(answer.as_bytes()).await.unwrap_or_default();
    }
}

/// The clock that daily tries go by, a day later.
async fn a_day_passes() {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(86_400)).await;
    tokio::time::resume();
}

#[tokio::test]
async fn auto_goes_over_when_smtp_is_switched_off_tries_it_once_a_day_and_comes_back() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let mut rig = rig(port).await;
    let account = &mut rig.config.accounts[0];
    let Transport::Api(api) = account.transport.clone() else {
        panic!("the rig's account has an API")
    };
    (account.kind, account.transport) = (Kind::Microsoft, Transport::Auto(api));
    let (count, mut counted) = watch::channel(0);
    rig.world.spawn("api", taking_api(listener, count));
    rig.upstream.behave(Manners {
        auth: "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Mailbox",
        ..Manners::default()
    });
    let delivery = rig.start();
    let send = async |text: &str| {
        rig.accept("app@contoso.example", &["a@x.example"], text)
            .await;
        rig.empty().await;
    };
    let switched = || delivery.status(&name()).expect("the account").switched;
    let auths = || rig.upstream.auths.load(Ordering::SeqCst);

    send("the refused one itself").await;
    let enough = counted.wait_for(|count| *count == 1);
    tokio::time::timeout(PATIENCE, enough)
        .await
        .expect("in time")
        .expect("it lives");
    let reason = switched().expect("it went over").diagnosis.reason;
    assert!(reason.contains("switched off for this mailbox"), "{reason}");
    let before = auths();
    send("the next").await;
    assert_eq!(
        (*counted.borrow(), auths()),
        (2, before),
        "SMTP is left alone"
    );

    a_day_passes().await;
    send("a day later").await;
    let tried = auths();
    assert!(tried > before, "SMTP was tried");
    send("and the one behind it").await;
    assert_eq!((*counted.borrow(), auths()), (4, tried), "once a day");
    assert_eq!(rig.upstream.count(), 0);

    rig.upstream.behave(Manners::default());
    a_day_passes().await;
    send("by SMTP again").await;
    assert_eq!((*counted.borrow(), rig.upstream.count()), (4, 1));
    assert!(switched().is_none());
    let metrics = rig.parts.metrics.encode();
    let switches = metrics.lines().filter(|line| {
        line.starts_with("gatepost_transport_switches_total{") && !line.ends_with(" 0")
    });
    assert_eq!(switches.count(), 1, "{metrics}");
    let line = "transport_switches_total{to=\"smtp\"} 2";
    assert!(metrics.contains(line), "over and back: {metrics}");
}

#[tokio::test]
async fn what_goes_to_all_or_none_is_never_parted() {
    let rig = Rig::new(password(), |config| {
        config.accounts[0].limits.recipients_per_message = 2;
    })
    .await;
    let _delivery = rig.start();
    let to = ["a@x.example", "b@x.example", "c@x.example"];
    let offer = |to: &[&str]| {
        let entry = NewEntry {
            id: rig.parts.queue.next_id(),
            account: name(),
            envelope: envelope("app@contoso.example", to),
            message: bounce::message(b"Subject: s\r\n\r\nbody\r\n".to_vec()),
            client: None,
        };
        let offer = rig
            .parts
            .queue
            .offer(entry, None, queue::Remainder::Refused);
        offer.expect("room")
    };
    let all = offer(&to);
    assert_eq!(all.outcome().await, queue::Outcome::Delivered);
    assert_eq!(rig.upstream.taken(1).await[0].recipients.len(), 3);
    // Nor after the server has shown that it takes fewer: it says so again.
    rig.upstream.behave(Manners {
        recipients_max: Some(2),
        ..Manners::default()
    });
    for _ in 0..2 {
        let outcome = offer(&to).outcome().await;
        assert!(
            matches!(outcome, queue::Outcome::Deferred(_)),
            "{outcome:?}"
        );
    }
    assert_eq!(rig.upstream.count(), 1, "nobody got it");
}
