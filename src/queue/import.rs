//! Messages that come back from an export, with everything that was known about them.

use std::sync::Arc;

use super::{Hands, Hold, Queue};
use crate::{
    mail::{AccountName, Message, QueueId},
    store::{self, Entry, Spill},
};

/// Why a message cannot come back.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// It never left.
    #[error("message {0} is in the queue already: nothing was changed")]
    Present(QueueId),
    /// The store refuses.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// A place in the queue for a message that comes back. Nobody else can take it meanwhile; dropped, it
/// is free again.
#[derive(Debug)]
pub struct Place {
    queue: Queue,
    id: QueueId,
    hold: Hold,
}

impl Queue {
    /// Takes the place of a message under its old name.
    ///
    /// # Errors
    /// [`ImportError::Present`] when it is in the queue, or just being imported.
    pub async fn place(&self, account: &AccountName, id: QueueId) -> Result<Place, ImportError> {
        let hold = {
            let mut lanes = self.inner.lanes();
            if lanes.known.contains_key(&id) {
                return Err(ImportError::Present(id));
            }
            lanes.known.insert(id, Hands::Leased);
            Hold {
                inner: Some(Arc::clone(&self.inner)),
                account: account.clone(),
                id,
            }
        };
        if self.inner.store.find(id).await?.is_some() {
            return Err(ImportError::Present(id));
        }
        Ok(Place {
            queue: self.clone(),
            id,
            hold,
        })
    }
}

impl Place {
    /// Starts the message's body file.
    ///
    /// # Errors
    /// As [`Queue::spill`].
    pub fn spill(&self) -> Result<Spill, store::Error> {
        self.queue.spill(self.id)
    }

    /// Puts the message back: when this returns `Ok`, it survives a power loss.
    ///
    /// # Errors
    /// As [`Queue::accept`]; nothing is left behind.
    ///
    /// # Cancel safety
    /// Not cancel safe: the message may be in the queue or not; whole in either case.
    pub async fn fill(self, entry: Entry, message: Message) -> Result<(), store::Error> {
        let (account, size) = (entry.account.clone(), entry.size);
        self.queue.inner.store.insert(entry, message).await?;
        tracing::info!(event = "imported", queue_id = %self.id, %account, size);
        // Its lane looks into the store, where it stands with its own due time.
        drop(self.hold);
        Ok(())
    }
}
