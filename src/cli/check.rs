//! `gatepost check`: every problem of the configuration at once.

use std::process::ExitCode;

use super::Context;
use crate::config::{Config, Problems};

/// No arguments of its own.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn run(context: &Context, _args: &Args) -> anyhow::Result<ExitCode> {
    match Config::load(&context.sources) {
        Ok(config) => {
            let (listeners, accounts) = (config.listeners.len(), config.delivery.accounts.len());
            context.printer.line(format!(
                "the configuration is sound: {listeners} listener(s), {accounts} account(s)"
            ))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(Problems(problems)) => {
            for problem in problems {
                context.printer.line(problem)?;
            }
            Ok(ExitCode::FAILURE)
        }
    }
}
