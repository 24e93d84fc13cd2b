//! `gatepost check`: every problem at once, and what is worth a remark.

use std::process::ExitCode;

use super::Context;
use crate::config::{Config, Sources};

/// No arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

/// Reads the configuration as `run` would, secrets and their commands included.
///
/// # Errors
/// What the terminal says.
pub(super) fn run(context: &Context, _args: &Args) -> anyhow::Result<ExitCode> {
    let config = match Config::load(&context.sources) {
        Ok(config) => config,
        Err(problems) => {
            context.printer.error(&problems);
            return Ok(ExitCode::FAILURE);
        }
    };
    for warning in &config.warnings {
        context.printer.note(format_args!("warning: {warning}"));
    }
    context.printer.line(summary(&config, &context.sources))?;
    Ok(ExitCode::SUCCESS)
}

fn summary(config: &Config, sources: &Sources) -> String {
    let source = match &sources.file {
        Some(file) => file.display().to_string(),
        None => String::from("no file, defaults only"),
    };
    let listeners: Vec<&str> = config.listeners.iter().map(|l| l.name.as_str()).collect();
    let listeners = match listeners.as_slice() {
        [] => String::from("nothing"),
        some => some.join(", "),
    };
    let accounts: Vec<&str> = config
        .delivery
        .accounts
        .iter()
        .map(|account| account.name.as_str())
        .collect();
    let accounts = match accounts.as_slice() {
        [] => String::from("none yet"),
        some => some.join(", "),
    };
    format!("configuration is good ({source}): listens on {listeners}; accounts: {accounts}")
}
