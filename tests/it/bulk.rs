//! Size against memory: rows 56 and 57 of what a relay must survive.

use std::fs;

use crate::support::{
    mail::message,
    relay::{Relay, Site},
    smtp::Client,
};

const MIB: usize = 1024 * 1024;

/// An account whose server does not answer: what is accepted stays on disk.
fn site() -> Site {
    let site = Site::new(
        "[account.alerts]\nmailbox = \"alerts@example.test\"\n[account.alerts.smtp]\n\
         host = \"127.0.0.1\"\nport = 9\ntls = \"none\"\nauth = \"none\"\n",
    );
    site.edit(
        "address = \"@SMTP@\"",
        "address = \"@SMTP@\"\nmax_message_size = \"200MiB\"",
    );
    site
}

/// The most memory the process has had, in octets.
pub(crate) fn peak(relay: &Relay) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", relay.process.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib: usize = line
        .unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    kib * 1024
}

fn send(site: &Site, octets: &[u8]) -> u16 {
    let mut client = Client::ehlo(site.smtp).unwrap();
    let sent = client.send("app@example.test", &["rcpt@example.org"], octets);
    sent.unwrap().code
}

/// Ten messages of 60 MiB at once, and one of 150 MiB, cost no more memory than small ones.
#[test]
fn large_messages_lie_on_disk() {
    const SESSIONS: usize = 10;
    let site = site();
    let relay = site.start();
    assert_eq!(send(&site, &message("small", b"First.\r\n")), 250);
    let before = peak(&relay);
    let line = [b'x'; 76];
    let body = |mib: usize| [&line[..], b"\r\n"].concat().repeat(mib * MIB / 78);
    let large = message("large", &body(60));
    std::thread::scope(|scope| {
        for _ in 0..SESSIONS {
            scope.spawn(|| assert_eq!(send(&site, &large), 250));
        }
    });
    assert_eq!(send(&site, &message("larger", &body(150))), 250);
    let growth = peak(&relay) - before;
    assert!(growth <= 64 * MIB, "{} MiB", growth / MIB);
    assert_eq!(site.queue().len(), SESSIONS + 2);
}

/// Header sections and lines without end are refused, and cost nothing.
#[test]
fn endless_headers_and_lines_are_refused() {
    let site = site();
    let relay = site.start();
    assert_eq!(send(&site, &message("small", b"First.\r\n")), 250);
    let before = peak(&relay);
    let headers = "X-Field: value\r\n".repeat(100_000) + "\r\nBody.\r\n";
    assert!((550..=554).contains(&send(&site, headers.as_bytes())));
    let one = format!("Subject: {}\r\n\r\nBody.\r\n", "x".repeat(MIB));
    assert!((500..=554).contains(&send(&site, one.as_bytes())));
    // A body line of a million octets goes on as it is: the provider decides.
    let long = message("long", format!("{}\r\n", "x".repeat(MIB)).as_bytes());
    assert_eq!(send(&site, &long), 250);
    let growth = peak(&relay) - before;
    assert!(growth <= 16 * MIB, "{} MiB", growth / MIB);
}
