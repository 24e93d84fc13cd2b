//! Where sealed records lie: the store, or memory in this module's tests.

use crate::{
    mail::AccountName,
    store::{Error, SealedToken, Store},
};

/// The store as the token keeper sees it: three operations.
#[derive(Debug, Clone)]
pub(super) enum Vault {
    Store(Store),
    #[cfg(test)]
    Memory(std::sync::Arc<memory::Memory>),
}

impl Vault {
    pub(super) async fn tokens(&self) -> Result<Vec<SealedToken>, Error> {
        match self {
            Self::Store(store) => store.tokens().await,
            #[cfg(test)]
            Self::Memory(memory) => Ok(memory.tokens()),
        }
    }

    pub(super) async fn token(&self, account: &AccountName) -> Result<Option<SealedToken>, Error> {
        let tokens = self.tokens().await?;
        Ok(tokens.into_iter().find(|token| token.account == *account))
    }

    pub(super) async fn put(&self, token: SealedToken) -> Result<(), Error> {
        match self {
            Self::Store(store) => store.put_token(token).await,
            #[cfg(test)]
            Self::Memory(memory) => memory.put(token),
        }
    }

    pub(super) async fn delete(&self, account: &AccountName) -> Result<(), Error> {
        match self {
            Self::Store(store) => store.delete_token(account).await,
            #[cfg(test)]
            Self::Memory(memory) => memory.delete(account),
        }
    }
}

#[cfg(test)]
pub(super) mod memory {
    //! A store without a disk, whose disk can be full.

    use std::{
        collections::BTreeMap,
        sync::{
            Arc, Mutex,
            atomic::{AtomicBool, Ordering},
        },
    };

    use super::{AccountName, Error, SealedToken};

    #[derive(Debug, Default)]
    pub(in crate::oauth) struct Memory {
        tokens: Mutex<BTreeMap<AccountName, SealedToken>>,
        pub(in crate::oauth) full: AtomicBool,
    }

    impl Memory {
        pub(in crate::oauth) fn tokens(&self) -> Vec<SealedToken> {
            self.tokens.lock().unwrap().values().cloned().collect()
        }

        pub(in crate::oauth) fn put(&self, token: SealedToken) -> Result<(), Error> {
            if self.full.load(Ordering::SeqCst) {
                return Err(Error::Full(Arc::new(std::io::Error::other("no space"))));
            }
            self.tokens
                .lock()
                .unwrap()
                .insert(token.account.clone(), token);
            Ok(())
        }

        pub(in crate::oauth) fn delete(&self, account: &AccountName) -> Result<(), Error> {
            self.tokens.lock().unwrap().remove(account);
            Ok(())
        }
    }
}
