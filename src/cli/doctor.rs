//! `gatepost doctor`: walks each account's way and names the switch that is off.

use std::{process::ExitCode, sync::Arc};

use serde::Serialize;

use super::{
    Context, Printer,
    keeper::{self, Here},
    reach::{self, Unreachable},
};
use crate::{
    admin::client::Client,
    delivery::{Delivery, Parts, ProbeStep},
    mail::AccountName,
    queue::Queue,
};

/// Arguments of `gatepost doctor`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The account to look at; without it every account
    #[arg(value_name = "ACCOUNT")]
    account: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What was found about an account.
#[derive(Debug, Serialize)]
struct Examined {
    account: AccountName,
    /// Whether every step went well.
    ok: bool,
    steps: Vec<ProbeStep>,
}

/// Who looks.
enum Doctor {
    Daemon(Client),
    /// This process, with lanes that send nothing.
    Here(Box<(Here, Delivery)>),
}

pub(super) async fn run(context: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    let (doctor, all) = call(context).await?;
    let chosen = match &args.account {
        Some(name) => vec![AccountName::new(name)],
        None => all.clone(),
    };
    if let Some(name) = chosen.iter().find(|name| !all.contains(name)) {
        anyhow::bail!("there is no account {name}; see: gatepost accounts");
    }
    let mut examined = Vec::new();
    for account in chosen {
        if !args.json {
            context.printer.line(format_args!("{account}"))?;
        }
        let steps = doctor.examine(&account).await?;
        let ok = steps.last().is_some_and(|last| last.ok);
        if !args.json {
            tell(context.printer, &steps, ok)?;
        }
        examined.push(Examined { account, ok, steps });
    }
    if args.json {
        context.printer.json(&examined)?;
    }
    doctor.leave().await;
    Ok(if examined.iter().all(|examined| examined.ok) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The daemon if one runs, else this process; and every account.
async fn call(context: &Context) -> anyhow::Result<(Doctor, Vec<AccountName>)> {
    match reach::connect(&context.sources).await {
        Ok(client) => {
            let accounts = client.accounts().await?;
            let names = accounts.into_iter().map(|account| account.name);
            Ok((Doctor::Daemon(client), names.collect()))
        }
        Err(Unreachable::NotRunning(_)) => {
            let (here, config) = keeper::open(context).await?;
            let parts = Parts {
                queue: Queue::new(
                    config.queue,
                    here.store.clone(),
                    Arc::clone(&here.clock),
                    Arc::clone(&here.metrics),
                ),
                oauth: here.oauth.clone(),
                clock: Arc::clone(&here.clock),
                tasks: here.tasks.child(),
                metrics: Arc::clone(&here.metrics),
            };
            let accounts = config.delivery.accounts.iter();
            let names = accounts.map(|account| account.name.clone()).collect();
            let delivery = Delivery::at_rest(config.delivery, parts);
            Ok((Doctor::Here(Box::new((here, delivery))), names))
        }
        Err(error) => Err(error.into()),
    }
}

impl Doctor {
    async fn examine(&self, account: &AccountName) -> anyhow::Result<Vec<ProbeStep>> {
        match self {
            Self::Daemon(client) => Ok(client.doctor(account).await?.steps),
            Self::Here(here) => Ok(here.1.examine(account).await.unwrap_or_default()),
        }
    }

    async fn leave(self) {
        if let Self::Here(here) = self {
            here.0.close().await;
        }
    }
}

fn tell(printer: Printer, steps: &[ProbeStep], ok: bool) -> std::io::Result<()> {
    for step in steps {
        let (name, detail, elapsed_ms) = (&step.step, &step.detail, step.elapsed_ms);
        let mark = match (step.ok, name.as_str()) {
            (true, _) => "ok",
            (false, "switch") => "->",
            (false, _) => "FAILED",
        };
        let line = format_args!("  {mark:<6}  {name:<8} {elapsed_ms:>6} ms  {detail}");
        printer.line(line)?;
    }
    printer.line(if ok {
        "  nothing is wrong here; `gatepost test ACCOUNT --to ADDRESS` sends a message"
    } else {
        "  mend the first FAILED from the top; lines with -> say how, likeliest first"
    })
}
