//! `gatepost rotate-key`: seals every token and made secret with another key.

use std::process::ExitCode;

use super::{Context, keeper::Keeper};

pub(super) async fn run(context: &Context) -> anyhow::Result<ExitCode> {
    let keeper = Keeper::reach(context).await?;
    let rotated = keeper.rotate_key().await;
    keeper.close().await;
    let rotated = rotated?;
    let printer = context.printer;
    printer.line(format_args!(
        "{} tokens are sealed with the new key",
        rotated.resealed
    ))?;
    for account in &rotated.locked {
        printer.line(format_args!(
            "{account}: its token opens with no key and was left as it is; sign in: gatepost login {account}"
        ))?;
    }
    for account in &rotated.waiting {
        printer.line(format_args!(
            "{account}: its token could not be stored under the new key; the old key stays, run this again"
        ))?;
    }
    if rotated.old_key_needed {
        return Ok(ExitCode::FAILURE);
    }
    printer.line("the old key opens nothing any more: where the key is given ([store] key, credential), take the old one out")?;
    Ok(ExitCode::SUCCESS)
}
