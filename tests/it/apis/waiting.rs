//! `direct` and `hybrid` listeners over the APIs: what the client reads is what the API said.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::{By, Rig, TO, addressed, recipients, set};
use crate::support::{
    eventually, free_address,
    smtp::{Client, Reply},
};

/// The practice provider, and a relay with another listener whose clients wait.
struct Waiting {
    rig: Rig,
    address: SocketAddr,
}

impl Waiting {
    fn start(by: By, transport: &str, contract: &str) -> Self {
        let address = free_address();
        let tables = format!(
            "[account.practice.{transport}]\nurl = \"@API@\"\n\
             [[listener]]\naddress = \"{address}\"\nauth = \"none\"\n{contract}\n"
        );
        let rig = Rig::start(by, transport, &tables);
        Self { rig, address }
    }

    fn send(&self) -> Reply {
        let mut client = Client::ehlo(self.address).unwrap();
        client
            .send("app@example.test", &[TO], &addressed(TO, ""))
            .unwrap()
    }
}

fn fault(status: u16, body: &Value) -> Value {
    json!({"fault": "api", "status": status, "times": 1, "body": body.to_string()})
}

/// Taken, refused, throttled: the client knows before its session goes on, and nothing is stored.
fn speaks_for_the_api(waiting: &Waiting, refusal: &Value, throttle: &Value) {
    let Waiting { rig, .. } = waiting;
    assert_eq!(waiting.send().code, 250);
    let taken = rig.messages();
    assert_eq!(taken.len(), 1, "before the 250");
    assert_eq!(recipients(&taken[0]), set(&[TO]));

    rig.play(refusal);
    let refused = waiting.send();
    assert!((550..=554).contains(&refused.code), "{refused:?}");
    assert!(!refused.text().contains("words-of-the-api"), "{refused:?}");
    assert!(rig.site.queue().is_empty());

    rig.play(throttle);
    let throttled = waiting.send();
    assert!((450..=452).contains(&throttled.code), "{throttled:?}");
    assert!(rig.site.queue().is_empty());
    assert_eq!(rig.messages().len(), 1, "no report either");
    // The client comes again until the account may send.
    eventually("the account may send again", || {
        (waiting.send().code == 250).then_some(())
    });
    assert_eq!(rig.messages().len(), 2, "once each");
}

#[test]
fn a_client_of_direct_reads_what_graph_said() {
    let waiting = Waiting::start(By::Application, "graph", "delivery = \"direct\"");
    let error = |code: &str| json!({"error": {"code": code, "message": "words-of-the-api"}});
    let mut throttle = fault(429, &error("ApplicationThrottled"));
    throttle["retry_after"] = json!(1);
    speaks_for_the_api(
        &waiting,
        &fault(403, &error("ErrorSendAsDenied")),
        &throttle,
    );
}

#[test]
fn a_client_of_direct_reads_what_gmail_said() {
    let waiting = Waiting::start(By::Person, "gmail", "delivery = \"direct\"");
    let error = |code: u16, reason: &str| {
        json!({"error": {"code": code, "message": "words-of-the-api",
            "errors": [{"reason": reason, "message": "words-of-the-api"}]}})
    };
    let mut throttle = fault(429, &error(429, "rateLimitExceeded"));
    throttle["retry_after"] = json!(1);
    speaks_for_the_api(
        &waiting,
        &fault(400, &error(400, "invalidArgument")),
        &throttle,
    );
}

/// The API takes its time: queued, and delivered once by the attempt that was under way.
#[test]
fn hybrid_with_a_slow_api_is_queued_and_delivered_once() {
    let contract = "delivery = \"hybrid\"\nhybrid_wait = \"1s\"";
    let waiting = Waiting::start(By::Application, "graph", contract);
    let rig = &waiting.rig;
    let quick = waiting.send();
    assert!(
        quick.code == 250 && quick.text().contains("delivered"),
        "{quick:?}"
    );
    assert_eq!(rig.messages().len(), 1, "before the 250");

    rig.play(&json!({"fault": "slow", "phase": "api", "delay_ms": 4000, "times": 1}));
    let slow = waiting.send();
    assert!(
        slow.code == 250 && slow.text().contains("queued"),
        "{slow:?}"
    );
    assert_eq!(rig.site.queue().len(), 1, "stored before the 250");
    rig.site.wait_empty();
    assert_eq!(rig.messages().len(), 2, "once each");
    // Another goes out behind it: nothing of the slow one is left to come.
    assert_eq!(waiting.send().code, 250);
    assert_eq!(rig.messages().len(), 3);
}
