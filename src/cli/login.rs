//! `gatepost login`: signs an account in; blocks until the provider has said yes or no.

use std::{env, io::BufRead, path::Path, process::ExitCode, process::Stdio};

use tokio::sync::mpsc;

use super::{Context, Printer, keeper::Keeper, text};
use crate::{
    clock::{Clock, SystemClock},
    mail::AccountName,
    oauth::{Diagnosis, SignIn},
};

/// A pasted address waits for the one before it to be tried.
const PASTED_WAITING_MAX: usize = 1;

/// Arguments of `gatepost login`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The account to sign in
    #[arg(value_name = "ACCOUNT")]
    account: String,
    /// By device code: enter a code on any other device
    #[arg(long, conflicts_with = "no_browser")]
    device: bool,
    /// Open no browser: print the URL, and take the redirect address pasted here as well
    #[arg(long)]
    no_browser: bool,
}

pub(super) async fn run(context: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    let account = AccountName::new(&args.account);
    let keeper = Keeper::reach(context).await?;
    let outcome = tokio::select! {
        outcome = sign_in(context.printer, &keeper, &account, args) => outcome,
        interrupted = tokio::signal::ctrl_c() => interrupted.map_err(Into::into).map(|()| Err(Diagnosis {
            reason: "interrupted".into(),
            remedy: "nothing was changed; run the command again".into(),
        })),
    };
    keeper.close().await;
    match outcome? {
        Ok(()) => {
            context
                .printer
                .line(format_args!("{account} is signed in"))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(diagnosis) => {
            let text = format_args!("{account} is not signed in: {diagnosis}");
            context.printer.error(text);
            Ok(ExitCode::FAILURE)
        }
    }
}

async fn sign_in(
    printer: Printer,
    keeper: &Keeper,
    account: &AccountName,
    args: &Args,
) -> anyhow::Result<Result<(), Diagnosis>> {
    let begun = keeper.begin(account, args.device).await?;
    match &begun {
        SignIn::Browser { id, url } if args.no_browser => {
            // Pasting works without it; the callback is for a browser that can reach us after all.
            let callback = keeper.serve_callback().await.ok().flatten();
            ask_to_paste(printer, url)?;
            let result = pasted_or_called_back(printer, keeper, id).await;
            if let Some(callback) = callback {
                callback.stop().await;
            }
            result
        }
        SignIn::Browser { id, url } => {
            let callback = keeper.serve_callback().await?;
            ask_to_browse(printer, url)?;
            let result = keeper.result(id).await;
            if let Some(callback) = callback {
                callback.stop().await;
            }
            result
        }
        SignIn::Device { id, .. } => {
            ask_for_code(printer, &begun)?;
            keeper.result(id).await
        }
        SignIn::Unattended { id } => {
            printer.line("Nobody needs to sign in: fetching a token ...")?;
            keeper.result(id).await
        }
    }
}

fn ask_to_paste(printer: Printer, url: &str) -> std::io::Result<()> {
    printer.line(format_args!(
        "Open this address in any browser and sign in:\n\n{url}\n\n\
         If the browser then shows a page that cannot be reached, copy the address of that page and\n\
         paste it here:"
    ))
}

fn ask_to_browse(printer: Printer, url: &str) -> std::io::Result<()> {
    if open_browser(url) {
        return printer.line(format_args!(
            "Sign in in the browser window that opens. If none does, open this address:\n\n{url}\n"
        ));
    }
    printer.line(format_args!(
        "Open this address in a browser on this machine and sign in:\n\n{url}\n\n\
         (No browser here? Stop this with Ctrl-C and use --no-browser or --device.)"
    ))
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
        "On any device, open\n\n  {verification_uri}\n\nand enter the code\n\n  {user_code}\n\n\
         (it expires {expires})"
    ))?;
    if let Some(complete) = verification_uri_complete {
        printer.line(format_args!(
            "or open this, with the code filled in:\n\n  {complete}"
        ))?;
    }
    Ok(())
}

/// Waits for whichever comes first; a pasted address that is wrong may be followed by a better one.
async fn pasted_or_called_back(
    printer: Printer,
    keeper: &Keeper,
    id: &str,
) -> anyhow::Result<Result<(), Diagnosis>> {
    let mut lines = lines_of_stdin();
    let mut result = Box::pin(keeper.result(id));
    loop {
        let line = tokio::select! {
            result = &mut result => return result,
            line = lines.recv() => line,
        };
        let Some(line) = line else {
            return result.await; // The terminal is closed: only the callback is left.
        };
        if line.trim().is_empty() {
            continue;
        }
        match keeper.paste(&line).await? {
            Ok(_) => return Ok(Ok(())),
            Err(problem) => printer.error(problem),
        }
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
