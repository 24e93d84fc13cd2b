//! `gatepost clients`: who has connected lately, what was refused, why, and what to do.

use std::process::ExitCode;

use jiff::Timestamp;

use super::{Context, Table, reach, text};
use crate::{
    clock::{Clock, SystemClock},
    submission::ClientSeen,
};

/// Arguments of `gatepost clients`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(context: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    let client = reach::connect(&context.sources).await?;
    let clients = client.clients().await?;
    if args.json {
        context.printer.json(&clients)?;
    } else if clients.is_empty() {
        context
            .printer
            .line("nobody has connected since the daemon started")?;
    } else {
        let table = table(&clients, SystemClock.now());
        context.printer.table(&table)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn table(clients: &[ClientSeen], now: Timestamp) -> Table {
    let mut table = Table::new(&[
        "ADDRESS", "NAME", "LOGIN", "TLS", "LISTENER", "SEEN", "MESSAGES", "SIZE", "SENDERS",
    ]);
    for client in clients {
        let or_dash = |text: &Option<String>| match text.as_deref() {
            None | Some("") => "-".to_owned(),
            Some(text) => text.to_owned(),
        };
        table.row([
            client.address.clone(),
            or_dash(&client.helo),
            or_dash(&client.login),
            if client.tls { "yes" } else { "no" }.to_owned(),
            client.listener.clone(),
            text::relative(client.last_seen_at, now),
            client.messages.to_string(),
            text::size(client.octets),
            client.senders.join(", "),
        ]);
        for refusal in client.refusals.iter().rev() {
            let when = text::relative(refusal.last_at, now);
            let code = refusal.reply.get(..3).unwrap_or_default();
            let (count, reason) = (refusal.count, &refusal.reason);
            table.remark(format!("refused {count}x, last {when}: {code} {reason}").as_str());
            if let Some(remedy) = &refusal.remedy {
                table.remark(&format!("-> {remedy}"));
            }
        }
    }
    table
}
