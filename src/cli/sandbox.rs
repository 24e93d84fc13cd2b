//! Stands in until the sandbox's part is joined.

use std::process::ExitCode;

use super::Context;

/// No arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) async fn run(_context: &Context, _args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not joined yet")
}
