//! Listeners of the built daemon: clients that wait, reloads and restarts under load, descriptors.

use std::{
    collections::BTreeMap,
    fs,
    net::{SocketAddr, TcpListener},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
};

use rustix::process::Signal;

use crate::support::{
    eventually,
    mail::message,
    program,
    relay::{Relay, Site, bare},
    sink::{Sink, contains},
    smtp::Client,
};

/// Restarts and reloads under load.
const RESTARTS: usize = 10;
const RELOADS: usize = 50;
/// Sessions under a limit of 64 descriptors.
const CROWD: usize = 100;

fn site(sink: &Sink, delivery: &str) -> Site {
    let site = Site::plain(sink);
    let address = "address = \"@SMTP@\"";
    site.edit(address, &format!("{address}\n{delivery}"));
    site
}

/// Every file below a directory with its octets; but the memory that readers of the database share.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.is_file() && !path.to_string_lossy().ends_with("-shm") {
            found.insert(path.clone(), fs::read(path).unwrap());
        }
    }
    found
}

fn submit(client: &mut Client, text: &str) -> u16 {
    let sent = message("waits", text.as_bytes());
    let to = ["rcpt@example.org"];
    client.send("app@example.test", &to, &sent).unwrap().code
}

/// The provider's answer is the client's, and not an octet of the state directory changes.
#[test]
fn direct() {
    let sink = Sink::start();
    let site = site(&sink, "delivery = \"direct\"");
    let _relay = site.start();
    let before = files(&site.state());
    let mut client = Client::ehlo(site.smtp).unwrap();
    assert_eq!(submit(&mut client, "While you wait.\r\n"), 250);
    assert_eq!(sink.ledger().deliveries.len(), 1, "before the 250");
    // Larger than what the queue keeps in memory.
    let large = "0123456789012345678901234567890123456789\r\n".repeat(20_000);
    assert_eq!(submit(&mut client, &large), 250);
    sink.answer_mail(Some("550 5.1.8 word-of-the-provider"));
    let sent = message("refused", b"No.\r\n");
    let to = ["rcpt@example.org"];
    let refused = client.send("app@example.test", &to, &sent).unwrap();
    assert!((550..=554).contains(&refused.code), "{refused:?}");
    assert!(
        !refused.text().contains("word-of-the-provider"),
        "{refused:?}"
    );
    sink.answer_mail(Some("451 4.3.2 word-of-the-provider"));
    let deferred = client.send("app@example.test", &to, &sent).unwrap();
    assert_eq!(deferred.code, 451, "{deferred:?}");
    let after = files(&site.state());
    let changed = before
        .iter()
        .filter(|(path, octets)| after.get(*path) != Some(octets));
    let changed: Vec<_> = changed.map(|(path, _)| path).collect();
    assert!(changed.is_empty(), "written: {changed:?}");
    assert_eq!(before.len(), after.len(), "{:?}", after.keys());
    assert!(site.queue().is_empty());
}

/// Nobody at the provider's address: the client is told at once, also behind the gate that closed.
#[test]
fn direct_without_a_provider() {
    let sink = Sink::start();
    let site = site(&sink, "delivery = \"direct\"");
    let nobody = crate::support::free_address().port();
    site.edit(
        &format!("port = {}", sink.address.port()),
        &format!("port = {nobody}"),
    );
    let _relay = site.start();
    let mut client = Client::ehlo(site.smtp).unwrap();
    for _ in 0..3 {
        assert_eq!(submit(&mut client, "Nobody there.\r\n"), 451);
    }
    assert!(site.queue().is_empty());
}

/// A provider that does not answer in time: queued, and delivered once by the same attempt.
#[test]
fn hybrid() {
    let sink = Sink::start();
    let site = site(&sink, "delivery = \"hybrid\"\nhybrid_wait = \"1s\"");
    let mut relay = site.start();
    let mut client = Client::ehlo(site.smtp).unwrap();
    assert_eq!(submit(&mut client, "Quick.\r\n"), 250);
    assert_eq!(sink.ledger().deliveries.len(), 1, "before the 250");
    assert!(site.queue().is_empty());
    sink.hold();
    assert_eq!(submit(&mut client, "Slow.\r\n"), 250);
    assert_eq!(site.queue().len(), 1, "stored before the 250");
    sink.release();
    site.wait_empty();
    assert_eq!(sink.ledger().deliveries.len(), 2, "once each");
    // What is stored outlives the process.
    sink.hold();
    assert_eq!(submit(&mut client, "Crash.\r\n"), 250);
    relay.process.kill();
    sink.release();
    let _relay = site.start();
    site.wait_empty();
    sink.find("Crash.");
}

/// Clients that come one after the other until told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    refused: Arc<AtomicUsize>,
    thread: JoinHandle<Vec<String>>,
}

impl Load {
    /// Each sends a message; those acknowledged are named in the end.
    fn start(address: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let refused: Arc<AtomicUsize> = Arc::default();
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&refused));
        let thread = thread::spawn(move || {
            let mut acknowledged = Vec::new();
            for n in 0.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let text = format!("Under load {n}.");
                match Self::send(address, &text) {
                    Ok(250) => acknowledged.push(text),
                    // Told to come back, or the session ended with the process: not acknowledged.
                    Ok(_) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(_) => {}
                }
            }
            acknowledged
        });
        Self {
            stop,
            refused,
            thread,
        }
    }

    fn send(address: SocketAddr, text: &str) -> std::io::Result<u16> {
        let mut client = Client::ehlo(address)?;
        let sent = message("load", format!("{text}\r\n").as_bytes());
        let reply = client.send("app@example.test", &["rcpt@example.org"], &sent)?;
        Ok(reply.code)
    }

    /// Nobody was refused; everything acknowledged has come.
    fn finish(self, site: &Site, sink: &Sink) {
        self.stop.store(true, Ordering::Relaxed);
        let acknowledged = self.thread.join().unwrap();
        assert_eq!(
            self.refused.load(Ordering::Relaxed),
            0,
            "connections refused"
        );
        assert!(!acknowledged.is_empty());
        site.wait_empty();
        let ledger = sink.ledger();
        let came = |text: &String| {
            let mut deliveries = ledger.deliveries.iter();
            deliveries.any(|delivery| contains(&delivery.octets, text.as_bytes()))
        };
        let lost: Vec<_> = acknowledged.iter().filter(|text| !came(text)).collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    }
}

/// The daemon with the listening socket of somebody who outlives it, as systemd passes it.
fn activated(site: &Site, listener: &TcpListener) -> Relay {
    rustix::io::fcntl_setfd(listener, rustix::io::FdFlags::empty()).unwrap();
    let number = listener.as_raw_fd();
    let shift = match number {
        3 => String::new(),
        number => format!("exec 3<&{number} {number}<&-; "),
    };
    let passed = "export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=smtp; exec \"$@\"";
    let daemon = site.command(&["run"]);
    let mut command = Command::new(program("bash", "bash"));
    command.args(["-c", &format!("{shift}{passed}"), "bash"]);
    command.arg(daemon.get_program()).args(daemon.get_args());
    bare(&mut command);
    site.spawn_by(&command)
}

/// Restarts with a passed socket refuse nobody and lose nothing.
#[test]
fn restarts_under_load() {
    let sink = Sink::start();
    let site = Site::plain(&sink);
    site.edit("address = \"@SMTP@\"", "address = \"systemd:smtp\"");
    let listener = TcpListener::bind(site.smtp).unwrap();
    let mut relay = activated(&site, &listener);
    relay.wait_open(&site);
    let load = Load::start(site.smtp);
    for _ in 0..RESTARTS {
        relay.process.signal(Signal::TERM);
        assert!(relay.process.wait().success());
        relay = activated(&site, &listener);
        relay.wait_open(&site);
    }
    load.finish(&site, &sink);
}

/// Reloads, good ones and bad ones, refuse nobody and leave no descriptor behind.
#[test]
fn reloads_under_load() {
    let sink = Sink::start();
    let site = Site::plain(&sink);
    let relay = site.start();
    let load = Load::start(site.smtp);
    let open = || {
        let folder = format!("/proc/{}/fd", relay.process.id());
        fs::read_dir(folder).unwrap().count()
    };
    let reload = |n: usize| {
        let wide = site.smtp.to_string().replace("127.0.0.1", "0.0.0.0");
        let listener = match n % 3 {
            0 => format!("address = \"{wide}\"\nallow = [\"127.0.0.0/8\"]"),
            1 => "address = \"@SMTP@\"".to_owned(),
            _ => "address = \"nowhere\"".to_owned(),
        };
        site.configure(&format!(
            "{}\n{listener}\nauth = \"none\"\n{}",
            head(),
            rest(&sink)
        ));
        let done = site.run(&["reload"]).status.success();
        assert_eq!(done, n % 3 != 2, "reload {n}");
    };
    (0..6).for_each(reload);
    let before = open();
    (0..RELOADS).for_each(reload);
    reload(1);
    // Sessions of the load come and go.
    eventually("no descriptor is left behind", || {
        (open() <= before + 2).then_some(())
    });
    load.finish(&site, &sink);
}

fn head() -> &'static str {
    "state_dir = \"@DIR@/state\"\nhostname = \"relay.example.test\"\n[[listener]]"
}

fn rest(sink: &Sink) -> String {
    format!(
        "[console]\naddress = \"@CONSOLE@\"\n[log]\nformat = \"json\"\n{}",
        sink.account("alerts")
    )
}

/// With 64 descriptors: the crowd is told to come back, mail and operator still get through.
#[test]
fn descriptors_run_out() {
    let sink = Sink::start();
    let site = Site::plain(&sink);
    let daemon = site.command(&["run"]);
    let mut command = Command::new(program("prlimit", "util-linux"));
    command.arg("--nofile=64:64");
    command.arg(daemon.get_program()).args(daemon.get_args());
    bare(&mut command);
    let mut relay = site.spawn_by(&command);
    relay.wait_open(&site);
    let mut first = Client::ehlo(site.smtp).unwrap();
    let crowd: Vec<_> = (0..CROWD)
        .filter_map(|_| Client::connect(site.smtp).ok())
        .collect();
    let greeted = |code| crowd.iter().filter(|c| c.greeting().code == code).count();
    assert!(
        greeted(220) > 0 && greeted(421) > 0,
        "{} and {}",
        greeted(220),
        greeted(421)
    );
    assert_eq!(submit(&mut first, "Through the crowd.\r\n"), 250);
    sink.find("Through the crowd.");
    site.wait_empty();
    drop(crowd);
    eventually("sessions are taken again", || {
        let client = Client::connect(site.smtp).ok()?;
        (client.greeting().code == 220).then_some(())
    });
}
