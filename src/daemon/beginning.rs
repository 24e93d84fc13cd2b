//! What comes before the parts: the store, what was made in the console, and with it the whole
//! configuration.

use std::sync::Arc;

use anyhow::Context as _;

use crate::{
    clock::Clock,
    config::{Config, Foundation, Sources},
    oauth::{Key, Seal},
    registry::Registry,
    store::{self, Store},
    telemetry::Metrics,
};

/// What a process that keeps state begins with.
#[derive(Debug)]
pub(crate) struct Beginning {
    pub(crate) store: Store,
    pub(crate) registry: Registry,
    pub(crate) config: Config,
}

impl Beginning {
    /// Opens the store, reads what was made in the console with the key that the file names, and judges
    /// the whole.
    ///
    /// # Errors
    /// The store's, the key's, or what is wrong with the file.
    pub(crate) async fn open(
        foundation: Foundation,
        sources: &Sources,
        (clock, metrics): (Arc<dyn Clock>, &Arc<Metrics>),
    ) -> anyhow::Result<Self> {
        let store = open_store(foundation.store.clone(), Arc::clone(metrics)).await?;
        let seal = seal(foundation.key.clone()).await?;
        let registry = Registry::open(store.clone(), seal, clock).await?;
        let (entries, sources) = (registry.entries(), sources.clone());
        let whole = move || foundation.with(&sources, &entries);
        let config = tokio::task::spawn_blocking(whole).await??;
        for warning in &config.warnings {
            tracing::warn!(event = "config_warning", warning);
        }
        Ok(Self {
            store,
            registry,
            config,
        })
    }
}

/// The key may be in a file, and is made at the first start.
pub(super) async fn seal(key: Key) -> anyhow::Result<Seal> {
    let read = tokio::task::spawn_blocking(move || Seal::from_key(&key)).await?;
    read.context("secrets cannot be kept")
}

/// Opening recovers and migrates: disk work, not for a worker thread.
async fn open_store(config: store::Config, metrics: Arc<Metrics>) -> anyhow::Result<Store> {
    let opened = tokio::task::spawn_blocking(move || Store::open(&config, metrics)).await?;
    Ok(opened?)
}
