//! `gatepost test`: one message past the queue, each step told.

use std::process::ExitCode;

use super::{Context, reach};
use crate::mail::AccountName;

/// Arguments of `gatepost test`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The account that sends
    #[arg(value_name = "ACCOUNT")]
    account: String,
    /// Who gets the message
    #[arg(long, value_name = "ADDRESS")]
    to: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(context: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    let client = reach::connect(&context.sources).await?;
    let account = AccountName::new(&args.account);
    let tested = client.test(&account, &args.to).await?;
    if args.json {
        context.printer.json(&tested.steps)?;
    } else {
        for step in &tested.steps {
            let mark = if step.ok { "ok" } else { "FAILED" };
            let (name, detail) = (&step.step, &step.detail);
            let elapsed_ms = step.elapsed_ms;
            let line = format_args!("{mark:<6}  {name:<8} {elapsed_ms:>6} ms  {detail}");
            context.printer.line(line)?;
        }
    }
    // A probe that has no step at all came to nothing.
    let sent = tested.steps.last().is_some_and(|last| last.ok);
    Ok(if sent {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
