//! What a 250 promises: a message is queued, or delivered while its client waits.
//!
//! The client of `direct` and `hybrid` waits at the queue ([`crate::queue::Offer`]): delivery is
//! not known here.

use std::time::Duration;

use tokio::{
    io::{AsyncRead, AsyncWrite},
    time,
};

use crate::{
    mail::QueueId,
    queue::{NewEntry, Offer, Outcome, Remainder, trace::Origin},
    smtp::replies::Reply,
    submission::{
        Contract,
        door::Shared,
        intake,
        wire::{Hangup, Wire},
    },
};

/// How long a client waits for the end of its data to be on its way to the provider. Devices give up
/// after 30 s at the soonest: then they must know that nothing was sent.
const DIRECT_WAIT: Duration = Duration::from_secs(25);

/// Hands a message over by the listener's contract. `Ok` inside: the client is told 250.
///
/// # Errors
/// [`Hangup::Closed`] when the client is gone and the message was called back: it will come again.
pub(super) async fn hand_over<S, F>(
    contract: Contract,
    (entry, origin): (NewEntry, Origin),
    shared: &Shared,
    wire: &mut Wire<'_, S, F>,
) -> Result<Result<Reply, Reply>, Hangup>
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = ()>,
{
    let (wait, remainder) = match contract {
        Contract::Queue => return Ok(accept(entry, origin, shared).await),
        Contract::Direct => (DIRECT_WAIT, Remainder::Refused),
        Contract::Hybrid { wait } => (wait, Remainder::Stored),
    };
    let (id, size) = (entry.id, entry.message.size);
    let again = (remainder == Remainder::Stored).then(|| (entry.clone(), origin.clone()));
    let Some(offer) = shared.queue.offer(entry, Some(origin), remainder) else {
        return Ok(match again {
            Some((entry, origin)) => accept(entry, origin, shared).await,
            None => Err(Reply::NOT_NOW),
        });
    };
    // What was pipelined before it is answered first; a client that is gone shows below.
    let flush_by = time::Instant::now() + wait;
    wire.flush(flush_by).await.unwrap_or_default();
    let known = tokio::select! {
        biased;
        outcome = offer.outcome() => Some(outcome),
        () = wire.gone() => {
            if offer.withdraw() {
                tracing::info!(event = "message_refused", queue_id = %id, reason = "the client is gone");
                return Err(Hangup::Closed);
            }
            None
        }
        () = time::sleep(wait) => None,
        () = shared.tasks.stopped() => None,
    };
    let reply = match remainder {
        Remainder::Refused => reply(&settled(&offer, known).await, id),
        Remainder::Stored => match known {
            Some(Outcome::Declined) | None => stored(&offer, shared).await,
            Some(outcome) => reply(&outcome, id),
        },
    };
    if reply.is_ok() {
        shared.metrics.messages_accepted.inc();
        shared.metrics.message_bytes_accepted.inc_by(size);
    }
    Ok(reply)
}

/// Stored first, then 250.
async fn accept(entry: NewEntry, origin: Origin, shared: &Shared) -> Result<Reply, Reply> {
    let id = entry.id;
    let accepted = shared.queue.accept_from(entry, Some(origin)).await;
    accepted.map_err(|error| intake::refusal(&error))?;
    Ok(Reply::queued(id))
}

/// The outcome, waited for only if the message cannot be called back any more.
async fn settled(offer: &Offer, known: Option<Outcome>) -> Outcome {
    match known {
        Some(outcome) => outcome,
        None if offer.withdraw() => Outcome::Declined,
        None => offer.outcome().await,
    }
}

/// The wait is over: the message is stored, its attempt goes on.
async fn stored(offer: &Offer, shared: &Shared) -> Result<Reply, Reply> {
    let error = match offer.store().await {
        Ok(outcome) => return reply(&outcome, offer.id()),
        Err(error) => error,
    };
    let refusal = intake::refusal(&error);
    // The store takes nothing, but the attempt under way may still bring an answer.
    let known = tokio::select! {
        biased;
        outcome = offer.outcome() => Some(outcome),
        () = time::sleep(DIRECT_WAIT) => None,
        () = shared.tasks.stopped() => None,
    };
    match settled(offer, known).await {
        Outcome::Declined => Err(refusal),
        outcome @ (Outcome::Delivered
        | Outcome::Refused(_)
        | Outcome::Deferred(_)
        | Outcome::Stored) => reply(&outcome, offer.id()),
    }
}

/// What the client reads.
fn reply(outcome: &Outcome, id: QueueId) -> Result<Reply, Reply> {
    match outcome {
        Outcome::Delivered => Ok(Reply::delivered(id)),
        Outcome::Stored => Ok(Reply::queued(id)),
        Outcome::Refused(Some(reply)) => Err(Reply::refused_upstream(reply)),
        Outcome::Refused(None) => Err(Reply::UPSTREAM_REFUSED),
        Outcome::Deferred(Some(reply)) => Err(Reply::deferred_upstream(reply)),
        Outcome::Deferred(None) | Outcome::Declined => Err(Reply::NOT_NOW),
    }
}

#[cfg(test)]
mod tests;
