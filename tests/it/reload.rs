//! SIGHUP and `gatepost reload`: a good configuration comes into force, a bad one changes nothing.

use rustix::process::Signal;

use crate::support::{eventually, mail::message, relay::Site, sink::Sink, smtp::Client};

/// Mail goes to the new account after a reload; a connection that was open stays open.
#[test]
fn good() {
    let (old, new) = (Sink::start(), Sink::start());
    let site = Site::plain(&old);
    let relay = site.start();
    let mut open = Client::ehlo(site.smtp).unwrap();
    site.submit(&message("one", b"To the old one.\r\n"));
    old.find("To the old one.");

    site.edit(
        &format!("port = {}", old.address.port()),
        &format!("port = {}", new.address.port()),
    );
    relay.process.signal(Signal::HUP);
    eventually("the reload is logged", || {
        relay
            .process
            .log()
            .contains("config_reloaded")
            .then_some(())
    });
    site.submit(&message("two", b"To the new one.\r\n"));
    new.find("To the new one.");
    open.command("NOOP").unwrap().expect(250).unwrap();
    assert_eq!(old.ledger().deliveries.len(), 1);
}

/// The verb tells every problem at once and exits with 1; the old configuration stays in force.
#[test]
fn bad() {
    let sink = Sink::start();
    let site = Site::plain(&sink);
    let mut relay = site.start();
    site.edit("tls = \"none\"\nauth", "tls = \"startls\"\nauht");
    let output = site.run(&["reload"]);
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    for word in ["account.alerts.smtp.tls", "startls", "auht"] {
        assert!(told.contains(word), "{word} is not told: {told}");
    }
    relay.process.signal(Signal::HUP);
    site.submit(&message("on", b"As before.\r\n"));
    sink.find("As before.");
    assert!(relay.process.ended().is_none());
    // `check` says the same without a daemon.
    assert_eq!(site.run(&["check"]).status.code(), Some(1));
}
