//! `gatepost queue`: look at the queue and operate it.

mod export;
mod import;
mod list;
mod operate;
mod show;

use std::process::ExitCode;

use clap::{Args as ClapArgs, Subcommand};

use super::Context;

/// Arguments of `gatepost queue`.
#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List messages, oldest first (the default)
    List(list::Args),
    /// Show a message: envelope, recipients, header
    Show(show::Args),
    /// Try messages again now
    Retry(operate::Args),
    /// Keep messages until a person releases them
    Hold(operate::Args),
    /// Let held messages go
    Release(operate::Args),
    /// Delete messages, without a report to their senders
    Delete(operate::Args),
    /// Write messages to files: ID.eml and ID.json (the envelope)
    Export(export::Args),
    /// Put exported messages back
    Import(import::Args),
}

pub(super) async fn run(context: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    use crate::queue::Operation;

    match &args.verb {
        None => list::run(context, &list::Args::default()).await,
        Some(Verb::List(args)) => list::run(context, args).await,
        Some(Verb::Show(args)) => show::run(context, args).await,
        Some(Verb::Retry(args)) => operate::run(context, args, Operation::Retry).await,
        Some(Verb::Hold(args)) => operate::run(context, args, Operation::Hold).await,
        Some(Verb::Release(args)) => operate::run(context, args, Operation::Release).await,
        Some(Verb::Delete(args)) => operate::run(context, args, Operation::Delete).await,
        Some(Verb::Export(args)) => export::run(context, args).await,
        Some(Verb::Import(args)) => import::run(context, args).await,
    }
}
