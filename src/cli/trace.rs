//! `gatepost trace`: what happened to a message, in the order in which it happened.

use std::process::ExitCode;

use jiff::{SignedDuration, Timestamp};

use super::{Context, reach, text};
use crate::{
    admin::api::TraceQuery,
    clock::{Clock, SystemClock},
    config,
    mail::AccountName,
    queue::trace::{Fact, Story},
};

/// Messages shown unless told otherwise: a screen or two.
const SHOWN: u32 = 20;

/// Arguments of `gatepost trace`.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("what").multiple(true).required(true)))]
pub(super) struct Args {
    /// A queue id, a Message-ID, a sender or a recipient (`*` matches anything)
    #[arg(value_name = "QUERY", group = "what")]
    query: Option<String>,
    /// Only messages for this account
    #[arg(long, value_name = "NAME", group = "what")]
    account: Option<String>,
    /// Only messages of this sender (`<>`: none)
    #[arg(long, value_name = "PATTERN", group = "what")]
    sender: Option<String>,
    /// Only messages to this recipient
    #[arg(long, value_name = "PATTERN", group = "what")]
    recipient: Option<String>,
    /// Only messages received since then: a time (RFC 3339), or how long ago (2h, 3d)
    #[arg(long, value_name = "TIME", group = "what", value_parser = moment)]
    since: Option<Timestamp>,
    /// Only messages received before then
    #[arg(long, value_name = "TIME", group = "what", value_parser = moment)]
    until: Option<Timestamp>,
    /// At most so many messages, the newest
    #[arg(long, value_name = "N", default_value_t = SHOWN, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A time, or a time ago.
fn moment(text: &str) -> Result<Timestamp, String> {
    if let Ok(at) = text.parse() {
        return Ok(at);
    }
    let ago = config::duration(text).and_then(|ago| SignedDuration::try_from(ago).ok());
    let at = ago.and_then(|ago| SystemClock.now().saturating_sub(ago).ok());
    at.ok_or_else(|| "write a time as 2026-11-25T10:00:00Z, or how long ago as 2h or 3d".to_owned())
}

pub(super) async fn run(context: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    let client = reach::connect(&context.sources).await?;
    let mut query = TraceQuery {
        query: args.query.clone(),
        account: args.account.as_deref().map(AccountName::new),
        sender: args.sender.clone(),
        recipient: args.recipient.clone(),
        since: args.since,
        until: args.until,
        before: None,
        limit: None,
    };
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let mut stories: Vec<Story> = Vec::new();
    let mut more = false;
    loop {
        let left = limit.saturating_sub(stories.len());
        query.limit = Some(u32::try_from(left).unwrap_or(u32::MAX));
        let page = client.trace(&query).await?;
        stories.extend(page.messages);
        query.before = page.next;
        if query.before.is_none() {
            break;
        }
        if stories.len() >= limit {
            more = true;
            break;
        }
    }
    if args.json {
        context.printer.json(&stories)?;
    } else {
        // Oldest first, so that the newest stands where the reader is: at the prompt.
        for story in stories.iter().rev() {
            context.printer.line(told(story))?;
        }
        if more {
            context
                .printer
                .note("there are older ones: narrow the search, or raise --limit");
        }
    }
    if stories.is_empty() {
        context
            .printer
            .note("nothing is known of such a message: see [trace] for how long it is kept");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// A message's story as text.
fn told(story: &Story) -> String {
    let mut lines = vec![story.id.to_string()];
    for Fact { at, event } in &story.facts {
        // Milliseconds are what is stored.
        let mut facts = text::happened(event).into_iter();
        let first = facts.next().unwrap_or_default();
        lines.push(format!("  {at:.3}  {first}"));
        lines.extend(facts.map(|more| format!("      {more}")));
    }
    lines.push(String::new());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        mail::QueueId,
        queue::{
            Operation,
            trace::{Attempted, Event, Origin, Outcome, Received, Way},
        },
        store::RecipientState,
    };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn story() -> Story {
        let received = Received {
            account: AccountName::new("alerts"),
            sender: "erp@contoso.com".into(),
            recipients: vec!["a@x.example".into(), "b@x.example".into()],
            message_id: Some("1@erp".into()),
            size: 2048,
            client: Some("erp".into()),
            origin: Some(Origin {
                peer: "192.0.2.7:4711".into(),
                listener: "127.0.0.1:2525".into(),
                helo: "erp".into(),
                protocol: "ESMTPSA".into(),
                message_id: None,
            }),
            report_on: None,
        };
        let outcome = |state, reply: &str, recipient: &str| Outcome {
            state,
            reply: Some(reply.into()),
            recipients: vec![recipient.into()],
        };
        let attempted = Attempted {
            way: Way {
                account: AccountName::new("alerts"),
                smarthost: "smtp.office365.com:587".into(),
                transport: "smtp".into(),
                reused: false,
                phases_ms: vec![("connect".into(), 12), ("data".into(), 250)],
                elapsed_ms: 300,
            },
            outcomes: vec![
                outcome(RecipientState::Delivered, "250 2.0.0 OK 42", "a@x.example"),
                outcome(RecipientState::Deferred, "450 4.2.1 busy", "b@x.example"),
            ],
            reason: Some("the recipient's mailbox is busy: 450 4.2.1 busy".into()),
            counted: true,
            uncertain: false,
            next_attempt_at: Some(at(62)),
            held: false,
            reports: vec![],
        };
        let events = [
            Event::Received(Box::new(received)),
            Event::Attempted(Box::new(attempted)),
            Event::Operated {
                operation: Operation::Hold,
            },
        ];
        let facts = events.into_iter().zip(0..);
        Story {
            id: QueueId::from_i64(42),
            facts: facts
                .map(|(event, second)| Fact {
                    at: at(second),
                    event,
                })
                .collect(),
        }
    }

    #[test]
    fn a_story_reads_from_top_to_bottom() {
        let wanted = "\
000000000001a
  2027-01-15T08:00:00.000Z  received from 192.0.2.7:4711 (HELO erp) at 127.0.0.1:2525 by ESMTPSA, client erp, 2.0 KiB
      <erp@contoso.com> to a@x.example, b@x.example, for account alerts
      Message-ID <1@erp>
  2027-01-15T08:00:01.000Z  attempted by alerts at smtp.office365.com:587 (smtp, a new connection), 300 ms
      connect 12 ms, data 250 ms
      delivered: a@x.example: 250 2.0.0 OK 42
      deferred: b@x.example: 450 4.2.1 busy
      the recipient's mailbox is busy: 450 4.2.1 busy
      next attempt 2027-01-15T08:01:02Z
  2027-01-15T08:00:02.000Z  held by an operator
";
        assert_eq!(told(&story()), wanted);
    }

    /// Programs rely on these names: `gatepost trace --json`.
    #[test]
    fn a_story_has_exactly_the_promised_fields() {
        let story = story();
        let json = serde_json::to_value(&story).unwrap();
        let wanted = serde_json::json!({
            "id": "000000000001a",
            "facts": [
                {"at": "2027-01-15T08:00:00Z", "event": "received", "account": "alerts",
                 "sender": "erp@contoso.com", "recipients": ["a@x.example", "b@x.example"],
                 "message_id": "1@erp", "size": 2048, "client": "erp", "report_on": null,
                 "origin": {"peer": "192.0.2.7:4711", "listener": "127.0.0.1:2525", "helo": "erp",
                            "protocol": "ESMTPSA"}},
                {"at": "2027-01-15T08:00:01Z", "event": "attempted", "account": "alerts",
                 "smarthost": "smtp.office365.com:587", "transport": "smtp", "reused": false,
                 "phases_ms": [["connect", 12], ["data", 250]], "elapsed_ms": 300,
                 "outcomes": [
                    {"state": "delivered", "reply": "250 2.0.0 OK 42", "recipients": ["a@x.example"]},
                    {"state": "deferred", "reply": "450 4.2.1 busy", "recipients": ["b@x.example"]},
                 ],
                 "reason": "the recipient's mailbox is busy: 450 4.2.1 busy", "counted": true,
                 "uncertain": false, "next_attempt_at": "2027-01-15T08:01:02Z", "held": false,
                 "reports": []},
                {"at": "2027-01-15T08:00:02Z", "event": "operated", "operation": "hold"},
            ],
        });
        assert_eq!(json, wanted);
        assert_eq!(serde_json::from_value::<Story>(json).unwrap(), story);
    }

    #[test]
    fn times_are_moments_or_spans() {
        let now = SystemClock.now();
        assert_eq!(moment("2027-01-15T08:00:00Z"), Ok(at(0)));
        let ago = moment("2h").unwrap();
        assert!((now - SignedDuration::from_hours(2) - ago).abs().as_secs() < 60);
        assert!(moment("yesterday").is_err());
    }
}
