//! `gatepost reload`: the running daemon reads its configuration again.

use std::process::ExitCode;

use super::{Context, reach};

pub(super) async fn run(context: &Context) -> anyhow::Result<ExitCode> {
    let client = reach::connect(&context.sources).await?;
    let reloaded = client.reload().await?;
    context.printer.line("configuration reloaded")?;
    for key in &reloaded.restart_needed {
        let line = format_args!("{key} has changed: it takes effect when the daemon is restarted");
        context.printer.line(line)?;
    }
    Ok(ExitCode::SUCCESS)
}
