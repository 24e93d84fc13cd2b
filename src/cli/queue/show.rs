//! `gatepost queue show`: everything about a message; its body only on demand.

use std::process::ExitCode;

use crate::{
    admin::{
        api::{QueueDetail, QueueEntry},
        client::Octets,
    },
    cli::{Context, Printer, reach, text},
    mail::QueueId,
};

/// More of a header section is not shown: it is no header a person wants to read.
const HEADER_LEN_MAX: usize = 256 * 1024;

/// Arguments of `gatepost queue show`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The message
    #[arg(value_name = "ID")]
    id: QueueId,
    /// The body too
    #[arg(long, conflicts_with = "json")]
    body: bool,
    /// Print the envelope as JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(context: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    let client = reach::connect(&context.sources).await?;
    let detail = client.queue_entry(args.id).await?;
    if args.json {
        context.printer.json(&detail)?;
        return Ok(ExitCode::SUCCESS);
    }
    context.printer.line(summary(&detail))?;
    let octets = client.queue_message(args.id).await?;
    if args.body {
        whole(context.printer, octets).await?;
    } else {
        context.printer.octets(&header(octets).await?)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn whole(printer: Printer, mut octets: Octets) -> anyhow::Result<()> {
    while let Some(chunk) = octets.chunk().await? {
        printer.octets(&chunk)?;
    }
    Ok(())
}

/// The octets up to the empty line.
async fn header(mut octets: Octets) -> anyhow::Result<Vec<u8>> {
    let mut header = Vec::new();
    while let Some(chunk) = octets.chunk().await? {
        header.extend_from_slice(&chunk);
        if let Some(end) = text::header_len(&header) {
            header.truncate(end);
            break;
        }
        if header.len() > HEADER_LEN_MAX {
            header.truncate(HEADER_LEN_MAX);
            break;
        }
    }
    Ok(header)
}

fn summary(detail: &QueueDetail) -> String {
    let entry = &detail.entry;
    let mut lines = vec![
        field("id", entry.id),
        field("state", state(detail)),
        field("account", &entry.account),
        field("sender", format_args!("<{}>", entry.sender)),
        field("size", text::size(entry.size)),
        field("received", entry.received_at),
        field("next attempt", entry.next_attempt_at),
        field("attempts", entry.attempts),
    ];
    if let Some(client) = &detail.client {
        lines.push(field("client", client));
    }
    if let Some(reason) = &entry.reason {
        lines.push(field("reason", reason));
    }
    if let Some(remedy) = &detail.remedy {
        lines.push(field("what to do", remedy));
    }
    lines.extend(recipients(entry));
    lines.push(String::new());
    lines.join("\n")
}

fn state(detail: &QueueDetail) -> String {
    if detail.quarantined {
        return "held: its octets no longer match their digest".into();
    }
    text::word(&detail.entry.state)
}

fn recipients(entry: &QueueEntry) -> impl Iterator<Item = String> {
    entry.recipients.iter().map(|recipient| {
        let state = text::word(&recipient.state);
        let reply = recipient
            .last_reply
            .as_deref()
            .map(|reply| format!(": {reply}"));
        let reply = reply.unwrap_or_default();
        field(
            "recipient",
            format_args!("<{}> {state}{reply}", recipient.address),
        )
    })
}

fn field(name: &str, value: impl std::fmt::Display) -> String {
    format!("{name:<13} {value}")
}
