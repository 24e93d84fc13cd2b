//! SIGTERM: nothing acknowledged is lost, nothing is sent twice, and the process ends by itself.

use rustix::process::Signal;

use crate::support::{
    eventually,
    mail::{assert_same, message},
    relay::Site,
    sink::Sink,
    smtp::{Client, stuffed},
};

/// In the middle of a client's DATA: it may finish (250, and then it is kept) or it is told to come
/// back; the process ends with success.
#[test]
fn during_data() {
    let sink = Sink::start();
    let site = Site::plain(&sink);
    let sent = message("half", b"First half.\r\nSecond half.\r\n");
    let mut relay = site.start();
    let mut client = Client::ehlo(site.smtp).unwrap();
    client
        .begin("app@example.test", &["rcpt@example.org"])
        .unwrap();
    let wire = stuffed(&sent);
    let (first, second) = wire.split_at(wire.len() - 20);
    client.write(first).unwrap();
    relay.process.signal(Signal::TERM);
    eventually("new connections are refused", || {
        Client::connect(site.smtp).is_err().then_some(())
    });
    // The connection may be gone already: then nothing was promised.
    let reply = client.write(second).and_then(|()| client.reply());
    let acknowledged = matches!(&reply, Ok(reply) if reply.code == 250);
    assert!(relay.process.wait().success(), "SIGTERM is an orderly end");

    let _relay = site.start();
    site.wait_empty();
    let ledger = sink.ledger();
    assert_eq!(
        ledger.deliveries.len(),
        usize::from(acknowledged),
        "after {reply:?}"
    );
    for delivery in ledger.deliveries {
        assert_same("drained", &sent, &delivery.octets);
    }
}

/// While the upstream has the whole message and has not answered: the answer is waited for and
/// recorded, so the message does not come twice.
#[test]
fn during_upstream_data() {
    let sink = Sink::start();
    sink.hold();
    let site = Site::plain(&sink);
    let mut relay = site.start();
    site.submit(&message("held", b"Answer late.\r\n"));
    sink.find("Answer late.");
    relay.process.signal(Signal::TERM);
    eventually("new connections are refused", || {
        Client::connect(site.smtp).is_err().then_some(())
    });
    assert!(
        relay.process.ended().is_none(),
        "it must wait for the answer"
    );
    sink.release();
    assert!(relay.process.wait().success(), "SIGTERM is an orderly end");

    let _relay = site.start();
    site.wait_empty();
    assert_eq!(
        sink.ledger().deliveries.len(),
        1,
        "the answer was not recorded"
    );
}

/// An idle session does not keep the process alive: it is told 421.
#[test]
fn idle_session() {
    let sink = Sink::start();
    let site = Site::plain(&sink);
    let mut relay = site.start();
    let mut client = Client::ehlo(site.smtp).unwrap();
    relay.process.signal(Signal::TERM);
    // 421 before any command, or the end of the connection.
    if let Ok(reply) = client.reply() {
        assert_eq!(reply.code, 421);
    }
    assert!(relay.process.wait().success());
}
