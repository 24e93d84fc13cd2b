//! Messages offered to their lane before anything is stored, while the client waits.
//!
//! Client and lane meet at a [`Desk`], whose [`Stage`] changes in one step each: whoever comes first
//! decides. A message that the lane is about to end upstream cannot be called back any more; one
//! that is being stored is settled in the store; one that the client does not wait for any more is
//! not sent. So nothing is both delivered for the client and queued.

use std::sync::Arc;

use tokio::sync::watch;

use super::{Hold, Inner, Lease, NewEntry, Queue, Settlement, trace::Origin};
use crate::{
    mail::{AccountName, Body, Message, QueueId, Reply},
    store::{self, Entry, RecipientState},
};

/// What is done with an offered message that is not delivered while its client waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remainder {
    /// Nothing: the client is told, and nothing is ever stored. Its recipients are sent to together
    /// or not at all, because one reply speaks for all of them.
    Refused,
    /// It is queued.
    Stored,
}

/// What an offered message came to.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Every recipient was delivered.
    Delivered,
    /// Every recipient was refused for good, the last one so.
    Refused(Option<Reply>),
    /// Not delivered now; what the provider said, if it said anything.
    Deferred(Option<Reply>),
    /// Nothing was said about it to the provider: its account cannot send now.
    Declined,
    /// It is in the store like any accepted message.
    Stored,
}

/// How an offered message stands.
#[derive(Debug, Clone, PartialEq)]
enum Stage {
    /// The client waits. Committed: the end of the data may have been sent upstream.
    Waiting { committed: bool },
    /// It is on its way into the store.
    Storing { committed: bool },
    /// The store answers for it.
    Stored,
    /// The client waits no more; it must not be sent.
    Withdrawn,
    /// The client knows what became of it.
    Over(Outcome),
}

/// Where client and lane meet.
#[derive(Debug)]
pub(super) struct Desk {
    stage: watch::Sender<Stage>,
    remainder: Remainder,
}

impl Desk {
    /// Changes the stage if `step` gives another; whether it did.
    fn step(&self, step: impl FnOnce(&Stage) -> Option<Stage>) -> bool {
        self.stage.send_if_modified(|stage| match step(stage) {
            Some(next) => {
                *stage = next;
                true
            }
            None => false,
        })
    }

    fn end(&self, outcome: Outcome) -> bool {
        self.step(|stage| match stage {
            Stage::Waiting { .. } => Some(Stage::Over(outcome)),
            Stage::Storing { .. } | Stage::Stored | Stage::Withdrawn | Stage::Over(_) => None,
        })
    }

    /// Nobody has it any more and nothing came of it.
    pub(super) fn decline(&self) {
        self.end(Outcome::Declined);
    }

    /// From the first of two who want to store it.
    fn begin_storing(&self) -> bool {
        self.step(|stage| match stage {
            Stage::Waiting { committed } => Some(Stage::Storing {
                committed: *committed,
            }),
            Stage::Storing { .. } | Stage::Stored | Stage::Withdrawn | Stage::Over(_) => None,
        })
    }

    fn end_storing(&self, done: bool) {
        self.step(|stage| match stage {
            Stage::Storing { .. } if done => Some(Stage::Stored),
            Stage::Storing { committed } => Some(Stage::Waiting {
                committed: *committed,
            }),
            Stage::Waiting { .. } | Stage::Stored | Stage::Withdrawn | Stage::Over(_) => None,
        });
    }

    fn withdraw(&self) -> bool {
        self.step(|stage| {
            let waits = *stage == Stage::Waiting { committed: false };
            waits.then_some(Stage::Withdrawn)
        })
    }

    /// The lane is about to end the data upstream; whether it may.
    fn commit(&self) -> bool {
        self.step(|stage| match stage {
            Stage::Waiting { committed: false } => Some(Stage::Waiting { committed: true }),
            Stage::Storing { committed: false } => Some(Stage::Storing { committed: true }),
            Stage::Waiting { .. }
            | Stage::Storing { .. }
            | Stage::Stored
            | Stage::Withdrawn
            | Stage::Over(_) => None,
        });
        !matches!(*self.stage.borrow(), Stage::Withdrawn | Stage::Over(_))
    }

    /// Whether the lane alone knows of it.
    pub(super) fn is_open(&self) -> bool {
        matches!(*self.stage.borrow(), Stage::Waiting { .. })
    }

    /// The stage once nobody is storing.
    async fn at_rest(&self) -> Stage {
        let mut stage = self.stage.subscribe();
        let rested = stage.wait_for(|stage| !matches!(stage, Stage::Storing { .. }));
        // The sender is ours, so that the channel cannot close.
        rested.await.map_or(Stage::Withdrawn, |stage| stage.clone())
    }
}

/// A lane's place at the desk. Left without a word, the message is declined.
#[derive(Debug)]
pub(super) struct Seat(pub(super) Arc<Desk>);

impl Seat {
    pub(super) fn leaves_traces(&self) -> bool {
        self.0.remainder == Remainder::Stored
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.decline();
    }
}

/// A message that its client waits for. Dropped, it is withdrawn if it still can be.
#[derive(Debug)]
pub struct Offer {
    inner: Arc<Inner>,
    entry: Entry,
    message: Message,
    desk: Arc<Desk>,
}

impl Offer {
    /// What became of the message. Cancel safe.
    pub async fn outcome(&self) -> Outcome {
        let mut stage = self.desk.stage.subscribe();
        let is_known = |stage: &Stage| match stage {
            Stage::Stored | Stage::Over(_) | Stage::Withdrawn => true,
            Stage::Waiting { .. } | Stage::Storing { .. } => false,
        };
        let stage = stage.wait_for(is_known).await;
        match stage.as_deref() {
            Ok(Stage::Over(outcome)) => outcome.clone(),
            Ok(Stage::Stored) => Outcome::Stored,
            Ok(Stage::Withdrawn | Stage::Waiting { .. } | Stage::Storing { .. }) | Err(_) => {
                Outcome::Declined
            }
        }
    }

    /// Calls the message back: when this says yes, it is not and will not be sent. It says no once
    /// the end of the data may have gone upstream; the outcome is then on its way.
    #[must_use]
    pub fn withdraw(&self) -> bool {
        let withdrawn = self.desk.withdraw();
        if withdrawn {
            let mut lanes = self.inner.lanes();
            lanes.withdraw(&self.entry.account, self.entry.id);
        }
        withdrawn
    }

    /// Makes the message durable, while its attempt goes on if there is one: that attempt's outcome
    /// settles it. When this returns [`Outcome::Stored`], it survives a power loss; other outcomes
    /// came first, and nothing was stored.
    ///
    /// # Errors
    /// The store's. The message is offered as before.
    ///
    /// # Cancel safety
    /// Not cancel safe, as [`Queue::accept`].
    pub async fn store(&self) -> Result<Outcome, store::Error> {
        if !self.desk.begin_storing() {
            return match self.outcome().await {
                Outcome::Declined => self.store_declined().await,
                known @ (Outcome::Delivered
                | Outcome::Refused(_)
                | Outcome::Deferred(_)
                | Outcome::Stored) => Ok(known),
            };
        }
        let inserted = self.insert().await;
        self.desk.end_storing(inserted.is_ok());
        inserted?;
        // The lane may have given it back meanwhile, and must find it.
        let account = &self.entry.account;
        self.inner.lanes().look_again(account);
        Ok(Outcome::Stored)
    }

    async fn insert(&self) -> Result<(), store::Error> {
        let (entry, message) = (self.entry.clone(), self.message.clone());
        self.inner.store.insert(entry, message).await?;
        self.inner.stored(&self.entry);
        Ok(())
    }

    /// Nobody has it: from here on it is as any accepted message.
    async fn store_declined(&self) -> Result<Outcome, store::Error> {
        let hold = Hold::new(&self.inner, &self.entry);
        self.insert().await?;
        self.desk.step(|_| Some(Stage::Stored));
        drop(hold);
        Ok(Outcome::Stored)
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        let _withdrawn = self.withdraw();
        let unneeded = matches!(*self.desk.stage.borrow(), Stage::Withdrawn | Stage::Over(_));
        if unneeded && let Body::File(_) = self.message.body {
            self.inner.store.forget(&self.message);
        }
    }
}

impl Queue {
    /// Offers a message to its account's lane without storing it; `None`: too many wait there. Of a
    /// message that is never stored the trace tells nothing either.
    ///
    /// The caller answers its client by [`Offer::outcome`]. A process that ends loses the message,
    /// which nobody was promised.
    #[must_use]
    pub fn offer(
        &self,
        new: NewEntry,
        origin: Option<Origin>,
        remainder: Remainder,
    ) -> Option<Offer> {
        let (entry, message) = self.entry(new);
        let (stage, _) = watch::channel(Stage::Waiting { committed: false });
        let desk = Arc::new(Desk { stage, remainder });
        let hold = Hold::new(&self.inner, &entry);
        let mut lanes = self.inner.lanes();
        if !lanes.has_room_for_offer() {
            lanes.forget(entry.id);
            hold.keep();
            return None;
        }
        hold.keep();
        if remainder == Remainder::Stored {
            self.trace_received(&entry, &message, origin, None);
        }
        lanes.push_fresh(entry.clone(), message.clone(), Some(Arc::clone(&desk)));
        drop(lanes);
        Some(Offer {
            inner: Arc::clone(&self.inner),
            entry,
            message,
            desk,
        })
    }

    /// Declines every message offered to `account`, for as long as this is polled: the account
    /// cannot send now, and clients shall not wait to hear it. Cancel safe.
    pub async fn decline_offers(&self, account: &AccountName) {
        loop {
            let (offers, news) = self.inner.lanes().take_offers(account);
            for desk in offers {
                desk.decline();
            }
            news.notified().await;
        }
    }

    /// As [`Queue::settle`] while the client still waits: gives the lease back when the store
    /// answers for the message.
    pub(super) async fn settle_offer(
        &self,
        mut lease: Lease,
        settlement: &Settlement,
    ) -> Option<Lease> {
        let seat = lease.seat.take()?;
        let desk = &seat.0;
        loop {
            match desk.at_rest().await {
                Stage::Stored => return Some(lease),
                Stage::Withdrawn | Stage::Over(_) | Stage::Storing { .. } => break,
                Stage::Waiting { .. } => {}
            }
            let outcome = outcome(&lease.entry, settlement);
            let kept = match (desk.remainder, &outcome) {
                (Remainder::Refused, _) | (_, Outcome::Delivered | Outcome::Refused(_)) => {
                    self.tell_client(desk, outcome, settlement).await
                }
                (Remainder::Stored, _) => self.keep_remainder(desk, &lease, settlement).await,
            };
            match kept {
                Kept::Stored => return Some(lease),
                Kept::Over => break,
                // The client began to store it in this moment.
                Kept::Changed => {}
            }
        }
        self.inner.lanes().forget(lease.entry.id);
        lease._hold.keep();
        None
    }

    async fn tell_client(&self, desk: &Desk, outcome: Outcome, settlement: &Settlement) -> Kept {
        let delivered = outcome == Outcome::Delivered;
        if !desk.end(outcome) {
            return Kept::Changed;
        }
        if !delivered {
            // The reply says so; a report would say it twice.
            return Kept::Over;
        }
        for report in settlement.reports.clone() {
            let id = report.id;
            if let Err(error) = self.insert(report, None).await {
                tracing::error!(event = "report_lost", queue_id = %id, %error);
            }
        }
        Kept::Over
    }

    /// Some recipients are open, or have fared differently: the message is queued with what is
    /// known of them.
    async fn keep_remainder(&self, desk: &Desk, lease: &Lease, settlement: &Settlement) -> Kept {
        if !desk.begin_storing() {
            return Kept::Changed;
        }
        let (entry, message) = (lease.entry.clone(), lease.message.clone());
        let inserted = self.inner.store.insert(entry, message).await;
        desk.end_storing(inserted.is_ok());
        match inserted {
            Ok(()) => {
                self.inner.stored(&lease.entry);
                Kept::Stored
            }
            Err(error) => {
                tracing::error!(event = "store_refused", queue_id = %lease.entry.id, %error);
                let mut states = settlement.outcomes.iter().map(|(_, state, _)| *state);
                if states.any(|state| state == RecipientState::Delivered) {
                    // The client sends it again, to all of them.
                    self.inner.metrics.possible_duplicates.inc();
                    tracing::warn!(event = "possible_duplicate", queue_id = %lease.entry.id);
                }
                desk.end(Outcome::Deferred(None));
                Kept::Over
            }
        }
    }
}

impl Inner {
    /// A message that was offered is in the store.
    fn stored(&self, entry: &Entry) {
        tracing::info!(
            event = "queued", queue_id = %entry.id, account = %entry.account, size = entry.size,
            recipients = entry.recipients.len(),
        );
    }
}

/// Who answers for a message that was offered.
enum Kept {
    /// The store.
    Stored,
    /// Nobody needs to.
    Over,
    /// To be looked at again.
    Changed,
}

/// One word for all recipients.
fn outcome(entry: &Entry, settlement: &Settlement) -> Outcome {
    let settled = |index: usize| settlement.outcomes.iter().find(|(at, ..)| *at == index);
    let states =
        (0..entry.recipients.len()).map(|index| settled(index).map(|(_, state, _)| *state));
    let all = |wanted: RecipientState| states.clone().all(|state| state == Some(wanted));
    let reply = |wanted: RecipientState| {
        let mut outcomes = settlement.outcomes.iter();
        let found = outcomes.rfind(|(_, state, reply)| *state == wanted && reply.is_some());
        found.and_then(|(_, _, reply)| reply.clone())
    };
    if all(RecipientState::Delivered) {
        Outcome::Delivered
    } else if all(RecipientState::Bounced) {
        Outcome::Refused(reply(RecipientState::Bounced))
    } else {
        Outcome::Deferred(reply(RecipientState::Deferred))
    }
}

impl Lease {
    /// Whether the end of the data may be sent upstream. Once this said yes, the client waits for
    /// the outcome; it says no when the client waits no more and nothing is stored.
    #[must_use]
    pub fn commit(&self) -> bool {
        self.seat.as_ref().is_none_or(|seat| seat.0.commit())
    }

    /// Whether anybody waits for an attempt: a client that has waited long enough does not.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        let stage = self.seat.as_ref().map(|seat| seat.0.stage.borrow().clone());
        stage != Some(Stage::Withdrawn)
    }

    /// Whether its recipients are sent to together or not at all.
    #[must_use]
    pub fn is_all_or_none(&self) -> bool {
        let seat = self.seat.as_ref();
        seat.is_some_and(|seat| seat.0.remainder == Remainder::Refused)
    }
}

impl Offer {
    /// Names the message in the reply.
    #[must_use]
    pub fn id(&self) -> QueueId {
        self.entry.id
    }
}

#[cfg(test)]
mod tests;
