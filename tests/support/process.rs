//! Child processes: each in a group of its own, its output in a file, killed when dropped.

use std::{
    fs::{self, OpenOptions},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

use rustix::process::{Pid, Signal};

use super::{eventually, program, say};

/// So many octets of a log are shown when a test fails.
const LOG_TAIL_LEN: usize = 12_000;

/// A child with its whole group. Killed when dropped; its log is shown when the test fails.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    /// Signals to end it in an orderly way, for programs that would leave children behind.
    orderly: bool,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts `command`; what it prints is appended to `log`.
    pub(crate) fn spawn(name: &str, command: &Command, log: &Path) -> Self {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .unwrap();
        let mut command = guarded(command);
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file);
        Self::from_child(name, command.spawn().unwrap(), log)
    }

    /// Takes over a child that was spawned from a [`guarded`] command.
    pub(crate) fn from_child(name: &str, child: Child, log: &Path) -> Self {
        Self {
            name: name.into(),
            child,
            log: log.into(),
            orderly: false,
            ended: None,
        }
    }

    /// Ends by SIGTERM before SIGKILL when dropped: for masters that clean up after themselves.
    pub(crate) fn orderly(mut self) -> Self {
        self.orderly = true;
        self
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The child itself, for its pipes.
    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// What it printed so far.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().unwrap();
        }
        self.ended
    }

    /// Sends a signal to the process alone.
    pub(crate) fn signal(&self, signal: Signal) {
        if self.ended.is_none() {
            rustix::process::kill_process(self.pid(), signal).unwrap();
        }
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let what = format!("{} ends", self.name);
        eventually(&what, || self.ended())
    }

    /// `kill -9` for the whole group.
    pub(crate) fn kill(&mut self) {
        if self.ended().is_none() {
            // The group may be gone between the look and the kill.
            let _gone = rustix::process::kill_process_group(self.pid(), Signal::KILL);
            self.ended = Some(self.child.wait().unwrap());
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Prints the end of the log, for a failing test.
    pub(crate) fn show(&self) {
        let log = self.log();
        let start = log.len().saturating_sub(LOG_TAIL_LEN);
        let start = (start..=log.len())
            .find(|at| log.is_char_boundary(*at))
            .unwrap();
        let tail = log.get(start..).unwrap();
        say(&format!(
            "---- {} ({:?}) ----\n{tail}\n----",
            self.name, self.ended
        ));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show();
        }
        if self.orderly && self.ended().is_none() {
            self.signal(Signal::TERM);
            self.wait();
        }
        self.kill();
    }
}

/// The same command in a process group of its own, killed by the kernel if the test itself is.
pub(crate) fn guarded(command: &Command) -> Command {
    let mut guarded = Command::new(program("setpriv", "util-linux"));
    guarded
        .args(["--pdeathsig", "KILL", "--"])
        .arg(command.get_program());
    guarded.args(command.get_args()).process_group(0);
    if let Some(dir) = command.get_current_dir() {
        guarded.current_dir(dir);
    }
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => guarded.env(key, value),
            None => guarded.env_remove(key),
        };
    }
    guarded
}
