//! `gatepost queue retry|hold|release|delete`.

use std::process::ExitCode;

use crate::{
    admin::api::Selector,
    cli::{Context, reach, text},
    mail::{AccountName, QueueId},
    queue::Operation,
};

/// Which messages. Everything must be asked for by name: no selector is a usage error.
#[derive(Debug, clap::Args)]
#[group(id = "selector", required = true, multiple = true)]
pub(super) struct Args {
    /// These messages
    #[arg(value_name = "ID")]
    pub(super) ids: Vec<QueueId>,
    /// All messages of this account
    #[arg(long, value_name = "NAME", conflicts_with = "ids")]
    pub(super) account: Option<String>,
    /// All messages whose sender matches (`*` matches anything)
    #[arg(long, value_name = "PATTERN", conflicts_with = "ids")]
    pub(super) sender: Option<String>,
    /// All messages
    #[arg(long, conflicts_with_all = ["ids", "account", "sender"])]
    all: bool,
}

pub(super) async fn run(
    context: &Context,
    args: &Args,
    operation: Operation,
) -> anyhow::Result<ExitCode> {
    let client = reach::connect(&context.sources).await?;
    let mut ids = args.ids.clone();
    ids.sort_unstable();
    ids.dedup();
    let wanted = u64::try_from(ids.len()).unwrap_or(u64::MAX);
    let selector = Selector {
        ids,
        account: args.account.as_deref().map(AccountName::new),
        sender: args.sender.clone(),
        all: args.all,
    };
    let count = client.operate(operation, &selector).await?.count;
    let done = text::done(operation);
    if count < wanted {
        let line = format_args!(
            "{count} of {} {done}; the others are gone, or being delivered at this moment",
            text::messages(wanted)
        );
        context.printer.error(line);
        return Ok(ExitCode::FAILURE);
    }
    let line = format_args!("{} {done}", text::messages(count));
    context.printer.line(line)?;
    Ok(ExitCode::SUCCESS)
}
