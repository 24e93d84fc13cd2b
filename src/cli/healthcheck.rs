//! `gatepost healthcheck`: whether the daemon lives, as an exit code.

use std::process::ExitCode;

use super::{Context, reach};

pub(super) async fn run(context: &Context) -> anyhow::Result<ExitCode> {
    let client = reach::connect(&context.sources).await?;
    client.healthz().await?;
    context.printer.line("ok")?;
    Ok(ExitCode::SUCCESS)
}
