//! The process around the daemon: service manager, signals, watchdog.
//!
//! Ready is said when mail can be accepted; the watchdog is fed only on proof of progress; SIGHUP
//! reloads; SIGTERM and SIGINT drain, a second one ends at once; a failed store ends the process,
//! so that its supervisor starts a fresh one.

use std::{fmt, io, process::ExitCode, time::Duration};

use anyhow::Context;
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Daemon;
use crate::{
    admin::api::Invitation,
    config::{Foundation, Sources},
    store::Filter,
};

/// The watchdog is asked for progress so many times in its period, so that one slow answer does not
/// kill a process that is only busy.
const WATCHDOG_ROUNDS: u32 = 3;

/// Starts the daemon and runs it until a signal ends it. Success: it drained; failure: the store
/// failed and a restart is wanted.
///
/// # Errors
/// What kept it from starting, with the remedy.
pub async fn run(foundation: Foundation, sources: Sources) -> anyhow::Result<ExitCode> {
    // Before anything else: a signal during the start must not kill half-way through a migration.
    let mut signals = Signals::install().context("signals cannot be handled")?;
    let daemon = tokio::select! {
        daemon = Box::pin(Daemon::start(foundation, sources)) => daemon?,
        name = signals.end() => {
            tracing::info!(event = "stopped", signal = name);
            return Ok(ExitCode::SUCCESS);
        }
    };
    announce(&daemon);
    notify(&[NotifyState::Ready]);
    let exit = serve(&daemon, &mut signals).await;
    notify(&[NotifyState::Stopping]);
    tokio::select! {
        () = daemon.stop() => tracing::info!(event = "stopped"),
        name = signals.end() => tracing::warn!(event = "stopped", signal = name, drained = false),
    }
    Ok(exit)
}

/// Runs until it should end; how.
async fn serve(daemon: &Daemon, signals: &mut Signals) -> ExitCode {
    let mut watchdog = Watchdog::new();
    loop {
        tokio::select! {
            asked = signals.next() => match asked {
                Asked::Reload => reload(daemon),
                Asked::End(name) => {
                    tracing::info!(event = "draining", signal = name);
                    return ExitCode::SUCCESS;
                }
            },
            error = daemon.queue.failed() => {
                daemon.stop_accepting();
                tracing::error!(event = "store_failed", error = %Chain(&error));
                return ExitCode::FAILURE;
            }
            () = watchdog.turn(daemon) => {}
        }
    }
}

/// What is bound, once, so that the operator finds it.
fn announce(daemon: &Daemon) {
    for (listener, address) in daemon.submission.addresses() {
        let address = address.map(tracing::field::display);
        tracing::info!(event = "listening", listener, address);
    }
    if let Some(address) = daemon.console {
        tracing::info!(event = "listening", listener = "console", %address);
    }
    // As Jupyter does: who may read where the daemon was started may log in. The code in the address
    // is good once, and for an hour.
    if let Some(Invitation { url: Some(url), .. }) = daemon.invite() {
        tracing::info!(event = "console", %url);
    }
}

/// Success and failure are logged by the reload itself. It runs beside the supervisor: commands that
/// give secrets may take longer than the watchdog waits.
fn reload(daemon: &Daemon) {
    let mut reloading = vec![NotifyState::Reloading];
    // systemd tells two reloads apart by this time (`Type=notify-reload`).
    reloading.extend(NotifyState::monotonic_usec_now());
    notify(&reloading);
    daemon.reload_in_background(|taken| {
        let status = if taken {
            ""
        } else {
            "the new configuration was refused, the old one is in force: see the log"
        };
        notify(&[NotifyState::Status(status), NotifyState::Ready]);
    });
}

/// Tells the service manager; without one it does nothing.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(event = "notify_failed", %error);
    }
}

/// The signals that a daemon listens to.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn install() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The next signal. Cancel safe.
    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::End("SIGTERM"),
            _ = self.interrupt.recv() => Asked::End("SIGINT"),
            _ = self.hangup.recv() => Asked::Reload,
        }
    }

    /// The next signal that asks to end; wishes to reload on the way are moot. Cancel safe.
    async fn end(&mut self) -> &'static str {
        loop {
            if let Asked::End(name) = self.next().await {
                return name;
            }
        }
    }
}

/// What a signal asks for.
enum Asked {
    /// Stop; the signal's name.
    End(&'static str),
    /// Read the configuration again.
    Reload,
}

/// Feeds the service manager's watchdog, but only when the accept loops and the lanes have turned
/// since it was last fed and the store has answered: a process that merely lives is restarted.
struct Watchdog {
    rounds: Option<tokio::time::Interval>,
    period: Duration,
    /// As of the last feeding; none before the first round.
    seen: Option<(u64, u64)>,
}

impl Watchdog {
    fn new() -> Self {
        let period = sd_notify::watchdog_enabled().map(|limit| limit / WATCHDOG_ROUNDS);
        let period = period.filter(|period| !period.is_zero());
        let rounds = period.map(|period| {
            let mut rounds = tokio::time::interval(period);
            rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            rounds
        });
        Self {
            rounds,
            period: period.unwrap_or_default(),
            seen: None,
        }
    }

    /// One round; without a watchdog it never ends. Cancel safe: a round cut short is made up by
    /// the next.
    async fn turn(&mut self, daemon: &Daemon) {
        match &mut self.rounds {
            Some(rounds) => rounds.tick().await,
            None => std::future::pending().await,
        };
        let now = (daemon.submission.progress(), daemon.delivery.progress());
        let Some(seen) = self.seen else {
            self.seen = Some(now);
            return;
        };
        if !advanced(seen, now) {
            tracing::warn!(event = "no_progress", submission = now.0, delivery = now.1);
            return;
        }
        if !store_answers(daemon, self.period).await {
            tracing::warn!(event = "no_progress", part = "store");
            return;
        }
        self.seen = Some(now);
        notify(&[NotifyState::Watchdog]);
    }
}

/// Both must have moved: one part that stands still is enough to lose mail's way.
fn advanced(seen: (u64, u64), now: (u64, u64)) -> bool {
    seen.0 != now.0 && seen.1 != now.1
}

/// A read of one row within `limit`. A full disk is an answer; a disk that hangs is none.
async fn store_answers(daemon: &Daemon, limit: Duration) -> bool {
    let one = Filter {
        limit: Some(1),
        ..Filter::default()
    };
    let read = daemon.queue.list(one);
    tokio::time::timeout(limit, read)
        .await
        .is_ok_and(|read| read.is_ok())
}

/// An error and its causes on one line.
struct Chain<'a>(&'a dyn std::error::Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One part that stands still starves the watchdog, whatever the other does.
    #[test]
    fn both_parts_must_move() {
        assert!(advanced((1, 1), (2, 2)));
        assert!(!advanced((1, 1), (1, 2)));
        assert!(!advanced((1, 1), (2, 1)));
    }
}
