//! The built daemon: its directory and configuration ([`Site`]), a running process ([`Relay`]), and
//! its command line.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Mutex,
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use super::{
    eventually, free_address, process::Process, program, scratch, secrets::Transcript, sink::Sink,
    smtp::Client,
};

/// The built binary.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_gatepost");

/// What most tests begin with. Retries are quick, so that a test waits for facts and not for the
/// back-off.
const BASE: &str = r#"
state_dir = "@DIR@/state"
hostname = "relay.example.test"

[[listener]]
address = "@SMTP@"
auth = "none"

[console]
address = "@CONSOLE@"

[queue]
retry_first = "1s"
retry_max = "2s"

[log]
format = "json"
level = "debug"
"#;

/// Guard against a daemon that is stopped or stuck by the test's intent.
const ANSWER_PATIENCE: Duration = Duration::from_secs(20);

/// A directory with a configuration: outlives the processes that run in it.
#[derive(Debug)]
pub(crate) struct Site {
    dir: TempDir,
    /// Where its plain listener is.
    pub(crate) smtp: SocketAddr,
    /// Where its console is.
    pub(crate) console: SocketAddr,
    toml: Mutex<String>,
    /// Everything it said but the daemon's log.
    pub(crate) transcript: Transcript,
}

impl Drop for Site {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let toml = self.toml.lock().unwrap().clone();
            self.transcript.check(&toml, &self.state(), &self.log());
        }
    }
}

impl Site {
    /// The usual configuration with these tables after it.
    pub(crate) fn new(tables: &str) -> Self {
        Self::written(&format!("{BASE}\n{tables}"))
    }

    /// As [`Site::new`], with the console where the test wants it.
    pub(crate) fn with_console(console: SocketAddr, tables: &str) -> Self {
        Self::placed(console, &format!("{BASE}\n{tables}"))
    }

    /// The usual configuration with one account that sends through `sink`.
    pub(crate) fn plain(sink: &Sink) -> Self {
        Self::new(&sink.account("alerts"))
    }

    /// A whole configuration; `@DIR@`, `@SMTP@`, `@CONSOLE@` and `@CONSOLE_PORT@` are filled in.
    pub(crate) fn written(toml: &str) -> Self {
        Self::placed(free_address(), toml)
    }

    fn placed(console: SocketAddr, toml: &str) -> Self {
        let (dir, smtp) = (scratch(), free_address());
        let site = Self {
            dir,
            smtp,
            console,
            toml: Mutex::default(),
            transcript: Transcript::default(),
        };
        site.configure(toml);
        site
    }

    /// Replaces the configuration; a running daemon knows of it after a reload.
    pub(crate) fn configure(&self, toml: &str) {
        fs::write(self.config(), self.fill(toml)).unwrap();
        *self.toml.lock().unwrap() = toml.into();
    }

    /// Edits the configuration: `from` must stand in it.
    pub(crate) fn edit(&self, from: &str, to: &str) {
        let toml = self.toml.lock().unwrap().clone();
        assert!(toml.contains(from), "{from:?} is not in the configuration");
        self.configure(&toml.replace(from, to));
    }

    /// Adds tables at the end of the configuration.
    pub(crate) fn extend(&self, tables: &[String]) {
        let toml = format!("{}\n{}", self.toml.lock().unwrap(), tables.concat());
        self.configure(&toml);
    }

    /// Fills in the marks.
    pub(crate) fn fill(&self, text: &str) -> String {
        text.replace("@DIR@", self.path().to_str().unwrap())
            .replace("@SMTP@", &self.smtp.to_string())
            .replace("@CONSOLE@", &self.console.to_string())
            .replace("@CONSOLE_PORT@", &self.console.port().to_string())
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The state directory of the usual configuration.
    pub(crate) fn state(&self) -> PathBuf {
        self.path().join("state")
    }

    /// The configuration file.
    pub(crate) fn config(&self) -> PathBuf {
        self.path().join("gatepost.toml")
    }

    /// Where the daemon's output is appended.
    pub(crate) fn log(&self) -> PathBuf {
        self.path().join("gatepost.log")
    }

    /// `gatepost ARGUMENTS --config FILE`, in an environment with nothing of the test's in it.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command.args(arguments).arg("--config").arg(self.config());
        bare(&mut command);
        command.env("RUST_BACKTRACE", "full");
        command
    }

    /// Starts the daemon and waits until it takes mail.
    pub(crate) fn start(&self) -> Relay {
        let mut relay = self.spawn();
        relay.wait_open(self);
        relay
    }

    /// Starts the daemon without waiting for anything.
    pub(crate) fn spawn(&self) -> Relay {
        self.spawn_by(&self.command(&["run"]))
    }

    /// Starts the daemon by this command without waiting for anything.
    pub(crate) fn spawn_by(&self, command: &Command) -> Relay {
        self.relay(Process::spawn("gatepost", command, &self.log()))
    }

    /// A process that runs the daemon here.
    pub(crate) fn relay(&self, process: Process) -> Relay {
        Relay {
            process,
            console: self.console,
            transcript: self.transcript.clone(),
        }
    }

    /// Runs a verb to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        let output = self.command(arguments).output().unwrap();
        self.transcript.add(&output.stdout);
        self.transcript.add(&output.stderr);
        output
    }

    /// Runs a verb that must succeed; what it printed.
    pub(crate) fn cli(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "gatepost {arguments:?}: {}\n{printed}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        printed
    }

    /// Runs a listing with `--json`: its objects.
    pub(crate) fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let printed = self.cli(&[arguments, &["--json"]].concat());
        let parsed: Value = serde_json::from_str(&printed)
            .unwrap_or_else(|error| panic!("{arguments:?} --json: {error}: {printed}"));
        let Value::Array(objects) = parsed else {
            panic!("no array: {printed}")
        };
        objects
    }

    /// The queue.
    pub(crate) fn queue(&self) -> Vec<Value> {
        self.json(&["queue", "list"])
    }

    /// Waits until nothing is in the queue.
    pub(crate) fn wait_empty(&self) {
        let mut last = Vec::new();
        let fact = || {
            last = self.queue();
            last.is_empty().then_some(())
        };
        eventually("the queue is empty", fact);
    }

    /// The account of this name as `accounts --json` tells it.
    pub(crate) fn account(&self, name: &str) -> Value {
        let accounts = self.json(&["accounts"]);
        let found = accounts.into_iter().find(|account| account["name"] == name);
        found.unwrap_or_else(|| panic!("no account {name}"))
    }

    /// What is logged, once these words are in it: the log is written behind what is done.
    pub(crate) fn log_with(&self, words: &str) -> String {
        eventually(&format!("the log has {words:?}"), || {
            let log = fs::read_to_string(self.log()).unwrap_or_default();
            log.contains(words).then_some(log)
        })
    }

    /// Waits until the account is in this state; the account as it then is.
    pub(crate) fn wait_account(&self, name: &str, state: &str) -> Value {
        eventually(&format!("account {name} is {state}"), || {
            let account = self.account(name);
            (account["state"] == state).then_some(account)
        })
    }

    /// Submits a message by the plain listener; it must be taken.
    pub(crate) fn submit(&self, message: &[u8]) {
        let mut client = Client::ehlo(self.smtp).unwrap();
        let to = ["rcpt@example.org"];
        client
            .send("app@example.test", &to, message)
            .unwrap()
            .expect(250)
            .unwrap();
    }

    /// `GET` at the console: status and body.
    pub(crate) fn get(&self, path: &str) -> Option<(u16, String)> {
        let answer = get(self.console, path)?;
        self.transcript.add(&answer);
        let status = answer.split(' ').nth(1)?.parse().ok()?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        Some((status, body.into()))
    }
}

/// The whole answer to a `GET`.
fn get(console: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(console).ok()?;
    stream.set_read_timeout(Some(ANSWER_PATIENCE)).ok()?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {console}\r\nConnection: close\r\n\r\n"
    )
    .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// A running daemon. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Relay {
    /// The process.
    pub(crate) process: Process,
    pub(crate) console: SocketAddr,
    pub(crate) transcript: Transcript,
}

impl Drop for Relay {
    /// What its metrics say at the end is part of what it said.
    fn drop(&mut self) {
        if !std::thread::panicking() && self.process.ended().is_none() {
            self.transcript
                .add(get(self.console, "/metrics").unwrap_or_default());
        }
    }
}

impl Relay {
    /// Waits until the listener greets; fails with the log when the process ends instead.
    pub(crate) fn wait_open(&mut self, site: &Site) {
        eventually("gatepost greets", || {
            if let Some(status) = self.process.ended() {
                self.process.show();
                panic!("gatepost ended instead of starting: {status}");
            }
            Client::connect(site.smtp).ok()
        });
    }
}

/// Nothing of the environment of the test but the path to programs.
pub(crate) fn bare(command: &mut Command) {
    let path = std::env::var_os("PATH").unwrap_or_default();
    command.env_clear().env("PATH", path);
}

/// A `strace` that works on a running process until it or the process ends.
#[derive(Debug)]
pub(crate) struct Strace {
    /// The tracer.
    pub(crate) process: Process,
}

impl Strace {
    /// Attaches with these options and waits until all threads are under it.
    pub(crate) fn attach(relay: &Relay, site: &Site, options: &[&str]) -> Self {
        let log = site.path().join("strace.log");
        // What an earlier tracer said must not be taken for this one's word.
        let _none = fs::remove_file(&log);
        let mut command = Command::new(program("strace", "strace"));
        command.args(["-f", "-o", "/dev/null"]).args(options);
        command.arg("-p").arg(relay.process.id().to_string());
        let mut process = Process::spawn("strace", &command, &log);
        eventually("strace is attached", || {
            if let Some(status) = process.ended() {
                process.show();
                panic!("strace ended: {status}");
            }
            process.log().contains("attached").then_some(())
        });
        Self { process }
    }

    /// Starts the daemon under a tracer from its first step on; ends when the daemon does.
    pub(crate) fn launch(site: &Site, options: &[&str]) -> Process {
        let daemon = site.command(&["run"]);
        let mut command = Command::new(program("strace", "strace"));
        command.args(["-f", "-o", "/dev/null"]).args(options);
        command
            .arg("--")
            .arg(daemon.get_program())
            .args(daemon.get_args());
        bare(&mut command);
        Process::spawn("strace gatepost", &command, &site.log())
    }
}
