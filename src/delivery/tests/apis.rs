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
