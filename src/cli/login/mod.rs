//! `gatepost login`: signs an account in; blocks until the provider has said yes or no.
//!
//! It must work wherever an administrator sits: with a desktop, over SSH, in a container. So the
//! browser's answer is taken in two ways at once where that can be: by the callback, and as an
//! address that a person pastes (`ways`: which of them there are, and what is said about them).

mod ways;

use std::{
    env,
    io::{BufRead, IsTerminal},
    path::Path,
    process::ExitCode,
    process::Stdio,
    time::Duration,
};

use jiff::Timestamp;
use tokio::sync::mpsc;

use super::{Context, Printer, keeper::Keeper, text};
use crate::{
    admin::api::AccountState,
    clock::{Clock, SystemClock},
    mail::AccountName,
    oauth::{Diagnosis, SignIn},
};
use ways::Ways;

/// A pasted address waits for the one before it to be tried.
const PASTED_WAITING_MAX: usize = 1;

/// With so much left a person who waits is reminded.
const REMINDERS: [Duration; 2] = [Duration::from_secs(5 * 60), Duration::from_secs(60)];

/// The lane's first attempt with a new token takes a connection and a login upstream.
const SETTLE_MAX: Duration = Duration::from_secs(30);
/// How often the daemon is asked meanwhile.
const SETTLE_LOOK: Duration = Duration::from_millis(250);

/// Arguments of `gatepost login`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The account to sign in
    #[arg(value_name = "ACCOUNT")]
    account: String,
    /// By device code: enter a code on any other device
    #[arg(long, conflicts_with = "no_browser")]
    device: bool,
    /// Open no browser: print the URL, and take the redirect address pasted here as well (so it is
    /// by itself on a terminal without a desktop)
    #[arg(long)]
    no_browser: bool,
}

/// One run of the verb.
struct Login<'a> {
    printer: Printer,
    keeper: &'a Keeper,
    account: AccountName,
    args: &'a Args,
}

pub(super) async fn run(context: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    let keeper = Keeper::reach(context).await?;
    let login = Login {
        printer: context.printer,
        keeper: &keeper,
        account: AccountName::new(&args.account),
        args,
    };
    let outcome = tokio::select! {
        outcome = login.run() => outcome,
        interrupted = tokio::signal::ctrl_c() => interrupted.map_err(Into::into).map(|()| {
            login.refused(&Diagnosis {
                reason: "interrupted".into(),
                remedy: "nothing was changed; run the command again".into(),
            })
        }),
    };
    keeper.close().await;
    outcome
}

impl Login<'_> {
    async fn run(&self) -> anyhow::Result<ExitCode> {
        let known = self.keeper.account(&self.account).await?;
        let waiting = known.map_or(0, |account| account.queued);
        match self.sign_in().await? {
            Ok(()) => self.signed_in(waiting).await,
            Err(diagnosis) => Ok(self.refused(&diagnosis)),
        }
    }

    async fn sign_in(&self) -> anyhow::Result<Result<(), Diagnosis>> {
        let begun = self.keeper.begin(&self.account, self.args.device).await?;
        match &begun {
            SignIn::Browser {
                id,
                url,
                expires_at,
                device,
            } => self.browse(id, url, *expires_at, *device).await,
            SignIn::Device { id, expires_at, .. } => {
                ask_for_code(self.printer, &begun)?;
                tokio::select! {
                    result = self.keeper.result(id) => result,
                    never = self.remind(*expires_at) => match never {},
                }
            }
            SignIn::Unattended { id } => {
                let said = "Nobody needs to sign in: fetching a token ...";
                self.printer.line(said)?;
                self.keeper.result(id).await
            }
        }
    }

    async fn browse(
        &self,
        id: &str,
        url: &str,
        expires_at: Timestamp,
        device: bool,
    ) -> anyhow::Result<Result<(), Diagnosis>> {
        let pastes = self.args.no_browser || std::io::stdin().is_terminal();
        let served = self.keeper.serve_callback().await;
        // Pasting works without it; the callback is for a browser that can reach us after all.
        let callback = if pastes {
            served.ok().flatten()
        } else {
            served?
        };
        let console = match &callback {
            Some(callback) => Some(callback.address()),
            None => self.keeper.console().await,
        };
        let ways = Ways {
            account: &self.account,
            url,
            opened: !self.args.no_browser && open_browser(url),
            pastes,
            device,
            console,
            ssh: env::var_os("SSH_CONNECTION").and_then(|value| value.into_string().ok()),
        };
        self.printer.line(ways.told())?;
        let left = text::relative(expires_at, SystemClock.now());
        self.printer.line(format_args!(
            "Waiting for the sign-in; it runs out {left}, Ctrl-C gives up ..."
        ))?;
        let result = tokio::select! {
            result = self.pasted_or_called_back(id, &ways) => result,
            never = self.remind(expires_at) => match never {},
        };
        if let Some(callback) = callback {
            callback.stop().await;
        }
        result
    }

    /// Waits for whichever comes first; a pasted address that is wrong may be followed by a better
    /// one.
    async fn pasted_or_called_back(
        &self,
        id: &str,
        ways: &Ways<'_>,
    ) -> anyhow::Result<Result<(), Diagnosis>> {
        let mut lines = ways.pastes.then(lines_of_stdin);
        let mut result = Box::pin(self.keeper.result(id));
        loop {
            let line = tokio::select! {
                result = &mut result => return result,
                line = next(&mut lines) => line,
            };
            let Some(line) = line else {
                lines = None; // The terminal is closed: only the callback is left.
                continue;
            };
            if line.trim().is_empty() {
                continue;
            }
            if let Some(ended) = self.paste(id, &line, ways).await? {
                return Ok(ended);
            }
        }
    }

    /// Tries a pasted line; how the sign-in ended, if it did by that.
    async fn paste(
        &self,
        id: &str,
        line: &str,
        ways: &Ways<'_>,
    ) -> anyhow::Result<Option<Result<(), Diagnosis>>> {
        if let Some(wrong) = ways.unusable(line) {
            self.printer.error(wrong);
            self.printer.note("Paste another one:");
            return Ok(None);
        }
        self.printer.note("Asking the provider ...");
        match self.keeper.paste(line).await? {
            Ok(account) if account == self.account => Ok(Some(Ok(()))),
            Ok(other) => {
                let account = &self.account;
                self.printer.note(format_args!(
                    "That has signed in {other}; {account} still waits."
                ));
                Ok(None)
            }
            Err(problem) => {
                let ended = self.keeper.ended(id).await?;
                if ended.is_none() {
                    self.printer.error(problem);
                    self.printer.note("Paste another one:");
                }
                Ok(ended)
            }
        }
    }

    /// Says now and then how much time is left; never ends.
    async fn remind(&self, expires_at: Timestamp) -> std::convert::Infallible {
        for left in REMINDERS {
            let until = Duration::try_from(expires_at.duration_since(SystemClock.now()));
            // A reminder that would come at once is none.
            if let Some(wait) = until.ok().and_then(|until| until.checked_sub(left)) {
                tokio::time::sleep(wait).await;
                let minutes = left.as_secs() / 60;
                let plural = if minutes == 1 { "" } else { "s" };
                self.printer
                    .note(format_args!("{minutes} minute{plural} left to sign in"));
            }
        }
        std::future::pending().await
    }

    /// Tells what a sign-in has led to. `waiting`: messages in the queue before it.
    async fn signed_in(&self, waiting: u64) -> anyhow::Result<ExitCode> {
        let (printer, account) = (self.printer, &self.account);
        printer.line(format_args!("{account} is signed in"))?;
        let Some(now) = self.settled().await? else {
            let said =
                "Mail flows when the daemon runs: `gatepost run` or `systemctl start gatepost`";
            printer.line(said)?;
            return Ok(ExitCode::SUCCESS);
        };
        printer.line(format_args!("mail goes out as {}", now.mailbox))?;
        if let Some(expires_at) = now.token_expires_at {
            let expires = text::relative(expires_at, SystemClock.now());
            printer.line(format_args!(
                "its token is there; it expires {expires} and is renewed by itself"
            ))?;
        }
        let wrong = Diagnosis {
            reason: now.reason.unwrap_or_default(),
            remedy: now.remedy.unwrap_or_default(),
        };
        match now.state {
            AccountState::Ready => {
                let released = match waiting {
                    0 => "nothing was waiting".to_owned(),
                    count => format!("{} that waited are on their way", text::messages(count)),
                };
                printer.line(format_args!("mail flows: {released}"))?;
                Ok(ExitCode::SUCCESS)
            }
            AccountState::SignInNeeded => {
                printer.error(format_args!("but mail cannot flow yet: {wrong}"));
                Ok(ExitCode::FAILURE)
            }
            AccountState::Refreshing | AccountState::Retrying | AccountState::Held => {
                printer.note(format_args!("mail does not flow yet: {wrong}"));
                printer.note("it goes on by itself when that is over: `gatepost accounts`");
                Ok(ExitCode::SUCCESS)
            }
        }
    }

    /// The account once the daemon knows what the new token is good for; `None`: no daemon runs.
    async fn settled(&self) -> anyhow::Result<Option<crate::admin::api::Account>> {
        let looking = async {
            loop {
                let account = self.keeper.account(&self.account).await?;
                let is_settled = account.as_ref().is_none_or(|account| {
                    !matches!(account.state, AccountState::Refreshing | AccountState::Held)
                });
                if is_settled {
                    return Ok(account);
                }
                tokio::time::sleep(SETTLE_LOOK).await;
            }
        };
        match tokio::time::timeout(SETTLE_MAX, looking).await {
            Ok(settled) => settled,
            Err(_) => self.keeper.account(&self.account).await,
        }
    }

    fn refused(&self, diagnosis: &Diagnosis) -> ExitCode {
        let account = &self.account;
        self.printer
            .error(format_args!("{account} is not signed in: {diagnosis}"));
        ExitCode::FAILURE
    }
}

fn ask_for_code(printer: Printer, begun: &SignIn) -> std::io::Result<()> {
    let SignIn::Device {
        verification_uri,
        verification_uri_complete,
        user_code,
        expires_at,
        ..
    } = begun
    else {
        return Ok(());
    };
    let expires = text::relative(*expires_at, SystemClock.now());
    printer.line(format_args!(
        "On any device, open\n\n  {verification_uri}\n\nand enter the code\n\n  {user_code}\n"
    ))?;
    if let Some(complete) = verification_uri_complete {
        printer.line(format_args!(
            "or open this, with the code filled in:\n\n  {complete}\n"
        ))?;
    }
    printer.line(format_args!(
        "Waiting for the sign-in; the code expires {expires}, Ctrl-C gives up ..."
    ))
}

/// The next line; without any to come it waits for ever. Cancel safe.
async fn next(lines: &mut Option<mpsc::Receiver<String>>) -> Option<String> {
    match lines {
        Some(lines) => lines.recv().await,
        None => std::future::pending().await,
    }
}

/// The lines of standard input. The thread that reads them cannot be stopped while it waits, so it
/// is left to the end of the process.
fn lines_of_stdin() -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel(PASTED_WAITING_MAX);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { return };
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Opens the desktop's browser; `false`: there is no desktop, or no way to its browser.
fn open_browser(url: &str) -> bool {
    let is_set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
    if !is_set("DISPLAY") && !is_set("WAYLAND_DISPLAY") {
        return false;
    }
    let Some(opener) = find_program("xdg-open") else {
        return false;
    };
    let started = tokio::process::Command::new(opener)
        .arg(url)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    started.is_ok()
}

fn find_program(name: &str) -> Option<std::path::PathBuf> {
    let path = env::var_os("PATH")?;
    let mut candidates = env::split_paths(&path).map(|dir| dir.join(name));
    candidates.find(|candidate| Path::is_file(candidate))
}
