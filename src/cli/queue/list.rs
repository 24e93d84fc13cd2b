//! `gatepost queue list`: page by page, so that a backlog costs neither side its memory.

use std::process::ExitCode;

use jiff::Timestamp;

use crate::{
    admin::api::{QueueEntry, QueueQuery, QueueState},
    cli::{Context, Table, reach, text},
    clock::{Clock, SystemClock},
    mail::AccountName,
};

/// Arguments of `gatepost queue list`.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Args {
    /// Only messages of this account
    #[arg(long, value_name = "NAME")]
    account: Option<String>,
    /// Only messages whose sender matches (`*` matches anything)
    #[arg(long, value_name = "PATTERN")]
    sender: Option<String>,
    /// Only messages with a recipient that matches
    #[arg(long, value_name = "PATTERN")]
    recipient: Option<String>,
    /// Only messages in this state
    #[arg(long, value_enum)]
    state: Option<State>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The states as they are typed.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum State {
    Queued,
    Delivering,
    Deferred,
    Held,
    Uncertain,
}

impl From<State> for QueueState {
    fn from(state: State) -> Self {
        match state {
            State::Queued => Self::Queued,
            State::Delivering => Self::Delivering,
            State::Deferred => Self::Deferred,
            State::Held => Self::Held,
            State::Uncertain => Self::Uncertain,
        }
    }
}

pub(super) async fn run(context: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    let client = reach::connect(&context.sources).await?;
    let mut query = QueueQuery {
        account: args.account.as_deref().map(AccountName::new),
        sender: args.sender.clone(),
        recipient: args.recipient.clone(),
        state: args.state.map(Into::into),
        after: None,
        limit: None,
    };
    let mut output = Output {
        context,
        json: args.json,
        count: 0,
    };
    loop {
        let page = client.queue(&query).await?;
        output.page(&page.entries)?;
        query.after = page.next;
        if query.after.is_none() {
            break;
        }
    }
    output.end()?;
    Ok(ExitCode::SUCCESS)
}

/// One listing in its shape, written as its pages arrive.
struct Output<'a> {
    context: &'a Context,
    json: bool,
    count: usize,
}

impl Output<'_> {
    fn page(&mut self, entries: &[QueueEntry]) -> anyhow::Result<()> {
        if self.json {
            for entry in entries {
                let separator = if self.count == 0 { "[" } else { "," };
                let entry = serde_json::to_string(entry)?;
                self.context
                    .printer
                    .line(format_args!("{separator}{entry}"))?;
                self.count += 1;
            }
            return Ok(());
        }
        if !entries.is_empty() {
            let table = table(entries, SystemClock.now());
            self.context.printer.table(&table)?;
        }
        self.count += entries.len();
        Ok(())
    }

    fn end(&self) -> anyhow::Result<()> {
        let last = match (self.json, self.count) {
            (true, 0) => "[]",
            (true, _) => "]",
            (false, 0) => "the queue is empty",
            (false, _) => return Ok(()),
        };
        Ok(self.context.printer.line(last)?)
    }
}

fn table(entries: &[QueueEntry], now: Timestamp) -> Table {
    let mut table = Table::new(&[
        "ID",
        "STATE",
        "ACCOUNT",
        "SENDER",
        "RECIPIENTS",
        "SIZE",
        "RECEIVED",
        "NEXT",
        "TRIES",
    ]);
    for entry in entries {
        let next = match entry.state {
            QueueState::Held | QueueState::Delivering => "-".into(),
            QueueState::Queued | QueueState::Deferred | QueueState::Uncertain => {
                due(entry.next_attempt_at, now)
            }
        };
        table.row([
            entry.id.to_string(),
            text::word(&entry.state),
            entry.account.to_string(),
            if entry.sender.is_empty() {
                "<>".into()
            } else {
                entry.sender.clone()
            },
            recipients(entry),
            text::size(entry.size),
            text::relative(entry.received_at, now),
            next,
            entry.attempts.to_string(),
        ]);
        if let Some(reason) = &entry.reason {
            table.remark(reason);
        }
    }
    table
}

/// When it is its turn; what is overdue waits for its account, not for the clock.
fn due(next: Timestamp, now: Timestamp) -> String {
    if next <= now {
        return "waits".into();
    }
    text::relative(next, now)
}

/// The first recipient, and how many there are beside.
fn recipients(entry: &QueueEntry) -> String {
    let mut recipients = entry.recipients.iter();
    let first = recipients.next().map_or("", |first| first.address.as_str());
    match recipients.count() {
        0 => first.to_owned(),
        more => format!("{first} +{more}"),
    }
}
