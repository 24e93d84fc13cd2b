//! `gatepost hash-password`: reads a password from standard input, prints what `password_hash` takes.

use std::{io::BufRead, process::ExitCode};

use super::Context;
use crate::{secret::Secret, submission};

/// No arguments: a password on the command line would be seen by everyone on the machine.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn run(context: &Context, _args: &Args) -> anyhow::Result<ExitCode> {
    context
        .printer
        .note("password (read from standard input, one line):");
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    let password = Secret::new(line.trim_end_matches(['\r', '\n']));
    if password.is_empty() {
        anyhow::bail!("the password is empty; type it, or pipe it in");
    }
    context
        .printer
        .line(submission::hash_password(&password)?)?;
    Ok(ExitCode::SUCCESS)
}
