//! What a failure owes the sender: a report as a message of its own, accepted in the commit that
//! records the failure.

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;

use super::{BounceTo, Parts, lane};
use crate::{
    dsn::Report,
    mail::{Address, Body, BodyType, Digest, Envelope, Message, Recipient, Reply, ReversePath},
    queue::NewEntry,
    store::Entry,
};

/// No more of a message's header is returned.
const HEADER_MAX: usize = 64 * 1024;

/// The report for the recipients (by index, with reply and reason) that failed; `None` when nobody
/// may be told: a null reverse-path, or none of them wanted to be (RFC 3461 §4.1).
pub(super) fn report(
    config: &lane::Config,
    parts: &Parts,
    entry: &Entry,
    message: &Message,
    failed: &[(usize, Option<Reply>, String)],
) -> Option<NewEntry> {
    let sender = entry.reverse_path.address()?;
    let to: &Address = match &config.bounce_to {
        BounceTo::Sender => sender,
        BounceTo::Address(address) => address,
        BounceTo::None => return None,
    };
    let failed: Vec<_> = failed
        .iter()
        .filter_map(|(index, reply, reason)| {
            let recipient = &entry.recipients.get(*index)?.recipient;
            let wanted = recipient.notify.on_failure();
            wanted.then_some((recipient, reply.as_ref(), reason.as_str()))
        })
        .collect();
    if failed.is_empty() {
        return None;
    }
    let id = parts.queue.next_id();
    let octets = Report {
        hostname: &config.hostname,
        from: &config.account.mailbox,
        to,
        id: &id.to_string(),
        now: parts.clock.now(),
        received_at: entry.received_at,
        envid: entry.envid.as_deref(),
        failed,
        header: header(message),
    }
    .compose();
    let envelope = Envelope {
        reverse_path: ReversePath::Null,
        recipients: vec![Recipient::new(to.clone())],
        body: BodyType::EightBitMime,
        smtputf8: !to.is_ascii(),
        ret: None,
        envid: None,
    };
    let account = config.account.name.clone();
    Some(NewEntry {
        id,
        account,
        envelope,
        message: in_memory(octets),
        client: None,
    })
}

/// Octets as a message.
pub(super) fn in_memory(octets: Vec<u8>) -> Message {
    Message {
        size: u64::try_from(octets.len()).unwrap_or(u64::MAX),
        digest: Digest(
            digest(&SHA256, &octets)
                .as_ref()
                .try_into()
                .unwrap_or([0; 32]),
        ),
        body: Body::Memory(Bytes::from(octets)),
    }
}

/// The header section; of a message in a file none is returned, so that no disk is read here.
fn header(message: &Message) -> &[u8] {
    let Body::Memory(octets) = &message.body else {
        return b"";
    };
    let end = memchr::memmem::find(octets, b"\r\n\r\n").map_or(octets.len(), |at| at + 2);
    octets.get(..end.min(HEADER_MAX)).unwrap_or_default()
}
