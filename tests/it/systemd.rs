//! What systemd sees: passed sockets, notifications with a watchdog, and the unit's hardening.

use std::{os::unix::net::UnixDatagram, process::Command};

use rustix::process::Signal;

use crate::support::{
    PATIENCE, mail::message, process::Process, program, relay::Site, repository, sink::Sink,
};

/// A named socket passed by systemd is used as a listener.
#[test]
fn socket_activation() {
    let sink = Sink::start();
    let site = Site::plain(&sink);
    site.edit("address = \"@SMTP@\"", "address = \"systemd:smtp\"");
    let daemon = site.command(&["run"]);
    let mut command = Command::new(program("systemd-socket-activate", "systemd"));
    command
        .arg("-l")
        .arg(site.smtp.to_string())
        .arg("--fdname=smtp");
    command.arg(daemon.get_program()).args(daemon.get_args());
    let _running = Process::spawn("systemd-socket-activate", &command, &site.log());
    // The first connection waits in the kernel until the daemon, started by it, takes it over.
    crate::support::eventually("the socket is there", || {
        crate::support::smtp::Client::connect(site.smtp)
            .ok()
            .map(drop)
    });
    site.submit(&message("activated", b"Through a passed socket.\r\n"));
    sink.find("Through a passed socket.");
}

/// A configured name that systemd did not pass is an error that says so.
#[test]
fn missing_socket() {
    let sink = Sink::start();
    let site = Site::plain(&sink);
    site.edit("address = \"@SMTP@\"", "address = \"systemd:smtp\"");
    let output = site.run(&["run"]);
    assert!(!output.status.success());
    let told = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    assert!(told.contains("smtp"), "{told}");
}

/// READY once mail is taken, WATCHDOG again and again, RELOADING and READY around a reload, STOPPING.
#[test]
fn notifications() {
    let sink = Sink::start();
    let site = Site::plain(&sink);
    let path = site.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = site.command(&["run"]);
    command
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "2000000");
    let mut process = Process::spawn("gatepost", &command, &site.log());
    let wait = |word: &str| {
        let mut buffer = [0; 4096];
        loop {
            let len = socket
                .recv(&mut buffer)
                .unwrap_or_else(|error| panic!("no {word}: {error}"));
            let text = String::from_utf8_lossy(&buffer[..len]).into_owned();
            if text.lines().any(|line| line.starts_with(word)) {
                return;
            }
        }
    };
    wait("READY=1");
    site.submit(&message("ready", b"READY means it takes mail.\r\n"));
    wait("WATCHDOG=1");
    wait("WATCHDOG=1");
    process.signal(Signal::HUP);
    wait("RELOADING=1");
    wait("READY=1");
    process.signal(Signal::TERM);
    wait("STOPPING=1");
    assert!(process.wait().success());
}

/// The shipped unit gives away hardly anything.
#[test]
fn hardening() {
    let output = Command::new(program("systemd-analyze", "systemd"))
        .args(["security", "--no-pager", "--offline=true", "--threshold=15"])
        .arg(repository().join("systemd/gatepost.service"))
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "exposure above 1.5: {told}");
    assert!(told.contains("Overall exposure level"), "{told}");
}
