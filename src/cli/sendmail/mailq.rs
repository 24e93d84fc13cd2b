//! `mailq`: the queue in the form that programs expect of it.

use std::{fmt::Write as _, process::ExitCode};

use super::Exit;
use crate::{
    admin::api::{QueueEntry, QueueQuery, QueueState, Selector},
    cli::{Context, reach},
    queue::Operation,
};

/// Prints the queue page by page.
pub(super) async fn list(context: &Context) -> anyhow::Result<ExitCode> {
    let client = match reach::connect(&context.sources).await {
        Ok(client) => client,
        Err(unreachable) => return Ok(no_daemon(context, &unreachable)),
    };
    let mut query = QueueQuery::default();
    let (mut count, mut octets) = (0_u64, 0_u64);
    loop {
        let page = client.queue(&query).await?;
        for entry in &page.entries {
            if count == 0 {
                let heading =
                    "-Queue ID-----  --Size-- ------Arrival Time------ -Sender/Recipient-------";
                context.printer.line(heading)?;
            }
            count += 1;
            octets += entry.size;
            context.printer.line(said(entry))?;
        }
        query.after = page.next;
        if query.after.is_none() {
            break;
        }
    }
    context.printer.line(match count {
        0 => "Mail queue is empty".to_owned(),
        1 => format!("-- {} Kbytes in 1 Request.", octets.div_ceil(1024)),
        _ => format!("-- {} Kbytes in {count} Requests.", octets.div_ceil(1024)),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// An entry in Postfix's form: `*` is being delivered, `!` is held.
fn said(entry: &QueueEntry) -> String {
    let mark = match entry.state {
        QueueState::Delivering => '*',
        QueueState::Held => '!',
        QueueState::Queued | QueueState::Deferred | QueueState::Uncertain => ' ',
    };
    let (id, size, at) = (
        entry.id,
        entry.size,
        entry.received_at.strftime("%a %b %e %H:%M:%S %Y"),
    );
    let sender = if entry.sender.is_empty() {
        "MAILER-DAEMON"
    } else {
        &entry.sender
    };
    let mut text = format!("{id}{mark} {size:>8} {at} {sender}\n");
    if let Some(reason) = &entry.reason {
        // Writing to a String cannot fail.
        writeln!(text, "({reason})").unwrap_or_default();
    }
    for recipient in &entry.recipients {
        let address = &recipient.address;
        writeln!(text, "{:>49} {address}", "").unwrap_or_default();
    }
    text
}

/// Makes every message due now.
pub(super) async fn flush(context: &Context) -> anyhow::Result<ExitCode> {
    let client = match reach::connect(&context.sources).await {
        Ok(client) => client,
        Err(unreachable) => return Ok(no_daemon(context, &unreachable)),
    };
    let all = Selector {
        all: true,
        ..Selector::default()
    };
    client.operate(Operation::Retry, &all).await?;
    Ok(ExitCode::SUCCESS)
}

fn no_daemon(context: &Context, unreachable: &reach::Unreachable) -> ExitCode {
    context
        .printer
        .note(format_args!("sendmail: {unreachable}"));
    match unreachable {
        reach::Unreachable::NotRunning(_) | reach::Unreachable::Client(_) => Exit::Unavailable,
        reach::Unreachable::Forbidden(_) => Exit::NoPerm,
    }
    .into()
}
