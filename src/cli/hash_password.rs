//! `gatepost hash-password`: a password on standard input (or typed twice, unseen), its hash on
//! standard output. Never as an argument: arguments are seen by every user.

use std::{
    io::{self, BufRead, IsTerminal},
    process::ExitCode,
};

use anyhow::{Context as _, ensure};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use super::{Context, printer::Printer};
use crate::{secret::Secret, submission};

/// No password is longer; argon2id takes time and memory for each octet given to it.
const PASSWORD_LEN_MAX: u64 = 1024;

/// No arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

/// Prints a PHC string for `[[client]] password_hash`.
///
/// # Errors
/// An empty password, two that differ, or what the terminal says.
pub(super) fn run(context: &Context, _args: &Args) -> anyhow::Result<ExitCode> {
    let password = if io::stdin().is_terminal() {
        typed(context.printer)?
    } else {
        line(io::stdin().lock())?
    };
    ensure!(!password.is_empty(), "the password is empty");
    let hash = submission::hash_password(&password).context("hashing")?;
    context.printer.line(hash)?;
    Ok(ExitCode::SUCCESS)
}

/// Asks twice without showing what is typed.
fn typed(printer: Printer) -> anyhow::Result<Secret> {
    let _unseen = Unseen::new().context("terminal")?;
    printer.note("Password:");
    let first = line(io::stdin().lock())?;
    printer.note("The same again:");
    let second = line(io::stdin().lock())?;
    ensure!(first == second, "the two passwords differ");
    Ok(first)
}

/// A line without its end.
fn line(input: impl BufRead) -> io::Result<Secret> {
    let mut text = Zeroizing::new(String::new());
    input.take(PASSWORD_LEN_MAX).read_line(&mut text)?;
    Ok(Secret::new(text.trim_end_matches(['\r', '\n'])))
}

/// While it lives, the terminal shows nothing that is typed.
struct Unseen(Termios);

impl Unseen {
    fn new() -> rustix::io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut unseen = before.clone();
        unseen.local_modes.remove(LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Flush, &unseen)?;
        Ok(Self(before))
    }
}

impl Drop for Unseen {
    fn drop(&mut self) {
        // The terminal is gone if this fails.
        tcsetattr(io::stdin(), OptionalActions::Flush, &self.0).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blanks belong to a password; line ends of any system do not.
    #[test]
    fn a_password_is_the_line_without_its_end() {
        for (input, want) in [
            ("secret\n", "secret"),
            ("secret\r\n", "secret"),
            ("secret", "secret"),
            (" with blanks \nsecond\n", " with blanks "),
            ("", ""),
        ] {
            assert_eq!(line(input.as_bytes()).unwrap().expose(), want, "{input:?}");
        }
    }
}
