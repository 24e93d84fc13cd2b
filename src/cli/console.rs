//! `gatepost console`: where the console is, and how to log in.

use std::process::ExitCode;

use super::{Context, reach};
use crate::admin::api::{Invitation, LoginWay};

/// Arguments of `gatepost console`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(context: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    let client = reach::connect(&context.sources).await?;
    let invitation = client.invite().await?;
    if args.json {
        context.printer.json(&invitation)?;
    } else {
        tell(context, &invitation)?;
    }
    Ok(match invitation.url {
        Some(_) => ExitCode::SUCCESS,
        None => ExitCode::FAILURE,
    })
}

fn tell(context: &Context, invitation: &Invitation) -> anyhow::Result<()> {
    let Some(url) = &invitation.url else {
        let remedy = invitation.remedy.as_deref();
        context
            .printer
            .error(remedy.unwrap_or("the system gives no randomness for a code"));
        return Ok(());
    };
    context.printer.line(url)?;
    let note = match invitation.way {
        LoginWay::Code => "the code in this address is good once, and for an hour",
        LoginWay::Password | LoginWay::Closed => "log in with the password",
    };
    context.printer.note(note);
    Ok(())
}
