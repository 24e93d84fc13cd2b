//! `gatepost logout`: forgets an account's tokens.

use std::process::ExitCode;

use super::{Context, keeper::Keeper, text};
use crate::mail::AccountName;

/// Arguments of `gatepost logout`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The account to sign out
    #[arg(value_name = "ACCOUNT")]
    account: String,
}

pub(super) async fn run(context: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    let account = AccountName::new(&args.account);
    let keeper = Keeper::reach(context).await?;
    let left = keeper.sign_out(&account).await;
    let known = keeper.account(&account).await;
    keeper.close().await;
    let printer = context.printer;
    match left? {
        None => printer.line(format_args!(
            "{account} is signed out: the provider has revoked its tokens"
        ))?,
        Some(left) => printer.line(format_args!(
            "{account} is signed out: its tokens are forgotten here. They were not revoked: {}; {}",
            left.reason, left.remedy
        ))?,
    }
    let waiting = known.ok().flatten().map_or(0, |account| account.queued);
    if waiting > 0 {
        let waiting = text::messages(waiting);
        printer.line(format_args!(
            "{waiting} of it stay in the queue until the next `gatepost login {account}`"
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}
