//! `gatepost test`: one message past the queue, each step told; or a notice every way that is set.

use std::process::ExitCode;

use super::{Context, reach};
use crate::{admin::client::Client, mail::AccountName};

/// Arguments of `gatepost test`.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "gatepost test [OPTIONS] --to <ADDRESS> <ACCOUNT>\n       \
                            gatepost test [OPTIONS] --notify"
)]
pub(super) struct Args {
    /// The account that sends
    #[arg(value_name = "ACCOUNT", required_unless_present = "notify")]
    account: Option<String>,
    /// Who gets the message
    #[arg(long, value_name = "ADDRESS", required_unless_present = "notify")]
    to: Option<String>,
    /// Send a test notice every way that [notify] names, instead
    #[arg(long, conflicts_with_all = ["account", "to"])]
    notify: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(context: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    let client = reach::connect(&context.sources).await?;
    let (Some(account), Some(to)) = (&args.account, &args.to) else {
        return notify(context, &client, args.json).await;
    };
    let tested = client.test(&AccountName::new(account), to).await?;
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

/// Every way is told; one that fails is enough for a no.
async fn notify(context: &Context, client: &Client, json: bool) -> anyhow::Result<ExitCode> {
    let channels = client.test_notify().await?.channels;
    if json {
        context.printer.json(&channels)?;
    } else {
        for tried in &channels {
            let mark = if tried.ok { "ok" } else { "FAILED" };
            let (name, detail) = (tried.channel.name(), &tried.detail);
            let line = format_args!("{mark:<6}  {name:<8} {detail}");
            context.printer.line(line)?;
        }
    }
    Ok(if channels.iter().all(|tried| tried.ok) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
