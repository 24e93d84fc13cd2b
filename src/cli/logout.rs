//! `gatepost logout`: forgets an account's tokens.

use std::process::ExitCode;

use super::{Context, keeper::Keeper};
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
    let revoked = keeper.sign_out(&account).await;
    keeper.close().await;
    let told = if revoked? {
        "the provider has revoked its tokens"
    } else {
        "its tokens are forgotten here; the provider did not confirm that it revoked them, so remove \
         the application's access in the account's security settings if it must be certain"
    };
    context
        .printer
        .line(format_args!("{account} is signed out: {told}"))?;
    Ok(ExitCode::SUCCESS)
}
