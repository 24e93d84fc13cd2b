//! `gatepost accounts`: how each account stands, why, and what to do.

use std::process::ExitCode;

use jiff::Timestamp;

use super::{Context, Table, reach, text};
use crate::{
    admin::api::{Account, AccountLimits, AccountState},
    clock::{Clock, SystemClock},
};

/// Arguments of `gatepost accounts`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(context: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    let client = reach::connect(&context.sources).await?;
    let accounts = client.accounts().await?;
    if args.json {
        context.printer.json(&accounts)?;
    } else if accounts.is_empty() {
        context
            .printer
            .line("no account is configured yet: add [account.NAME] to the configuration")?;
    } else {
        let table = table(&accounts, SystemClock.now());
        context.printer.table(&table)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn table(accounts: &[Account], now: Timestamp) -> Table {
    let mut table = Table::new(&[
        "ACCOUNT",
        "MAILBOX",
        "PROVIDER",
        "STATE",
        "QUEUED",
        "TOKEN",
        "REFRESHED",
    ]);
    for account in accounts {
        let token = match account.token_expires_at {
            Some(at) if at <= now => "expired".into(),
            Some(at) => format!("expires {}", text::relative(at, now)),
            None if account.provider.is_none() => "not needed".into(),
            None => "none".into(),
        };
        let refreshed = account.last_refresh_at;
        table.row([
            account.name.to_string(),
            account.mailbox.clone(),
            account.provider.clone().unwrap_or_else(|| "-".into()),
            said(account.state).into(),
            account.queued.to_string(),
            token,
            refreshed.map_or_else(|| "-".into(), |at| text::relative(at, now)),
        ]);
        if let Some(reason) = &account.reason {
            table.remark(reason);
        }
        if let Some(remedy) = &account.remedy {
            table.remark(&format!("-> {remedy}"));
        }
        if let Some(slowed) = account.limits.as_ref().and_then(slowed_down) {
            table.remark(&slowed);
        }
        for warning in &account.warnings {
            table.remark(&warning.reason);
            table.remark(&format!("-> {}", warning.remedy));
        }
    }
    table
}

/// What a throttling reply has left of the pace.
fn slowed_down(limits: &AccountLimits) -> Option<String> {
    let rate = limits.messages_per_minute_now;
    let rate = rate.map_or_else(String::new, |rate| {
        format!("{rate:.0} messages a minute and ")
    });
    limits.throttled.then(|| {
        format!(
            "slowed down by the provider: {rate}{} of {} connections for now; it recovers by itself",
            limits.connections_now, limits.connections
        )
    })
}

/// The state in words.
fn said(state: AccountState) -> &'static str {
    match state {
        AccountState::Ready => "ready",
        AccountState::Refreshing => "refreshing",
        AccountState::Retrying => "retrying",
        AccountState::SignInNeeded => "sign-in needed",
        AccountState::Held => "held",
    }
}
