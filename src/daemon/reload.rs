//! Reload: all of a new configuration, or nothing of it.
//!
//! What can fail (reading, binding listeners, unsealing) is done first and undone on an error;
//! then come the parts that cannot fail. What only a restart can change is told, not ignored.

use tokio::sync::mpsc;

use super::{Daemon, view};
use crate::{
    admin::{ReloadRequest, api::Reloaded, made::ChangeRequest},
    config::Config,
    registry::Entries,
};

/// What the control surface asks for.
pub(super) struct Requests {
    pub(super) reloads: mpsc::Receiver<ReloadRequest>,
    pub(super) changes: mpsc::Receiver<ChangeRequest>,
}

/// Answers the wishes that come over the control surface, until the daemon stops.
pub(super) async fn serve(daemon: Daemon, mut requests: Requests) {
    let tasks = daemon.inner.owners.admin.clone();
    loop {
        tokio::select! {
            Some(ReloadRequest(answer)) = requests.reloads.recv() => {
                let reloaded = daemon.reload_all().await;
                if answer.send(reloaded).is_err() {
                    tracing::debug!(event = "client_left", name = "reload");
                }
            }
            Some(request) = requests.changes.recv() => daemon.serve_change(request).await,
            () = tasks.stopped() => return,
        }
    }
}

impl Daemon {
    /// Reads the configuration again and applies it. Says which changed keys need a restart.
    ///
    /// # Errors
    /// Every problem; the old configuration is then in force.
    pub(super) async fn reload_all(&self) -> Result<Reloaded, Vec<String>> {
        let mut current = self.inner.config.lock().await;
        let seal = self.inner.registry.seal();
        let outcome = match self.read_anew().await {
            Ok(new) => self.apply(&current, new).await,
            Err(problems) => Err(problems),
        };
        match outcome {
            Ok(new) => {
                let restart_needed = restart_needed(&current, &new);
                for key in &restart_needed {
                    tracing::warn!(event = "restart_needed", key);
                }
                tracing::info!(event = "config_reloaded");
                *current = new;
                Ok(Reloaded { restart_needed })
            }
            Err(mut problems) => {
                // A file that is not taken may go back to how it was, its key too.
                problems.extend(self.give_key_back(seal).await);
                for problem in &problems {
                    tracing::error!(event = "config_refused", problem);
                }
                Err(problems)
            }
        }
    }

    /// The file as it is now, with what was made in the console below it.
    async fn read_anew(&self) -> Result<Config, Vec<String>> {
        let entries = || (*self.inner.registry.entries()).clone();
        let mut new = self.load_told(entries()).await?;
        if self.take_key(&new).await? {
            new = self.load_told(entries()).await?;
        }
        for warning in &new.warnings {
            tracing::warn!(event = "config_warning", warning);
        }
        Ok(new)
    }

    async fn load_told(&self, entries: Entries) -> Result<Config, Vec<String>> {
        let loaded = self.load(entries).await;
        let loaded = loaded.map_err(|refused| refused.problems)?;
        loaded.map_err(|problems| problems.0.iter().map(ToString::to_string).collect())
    }

    /// Gives every part the new configuration, or all of them the old one.
    pub(super) async fn apply(&self, old: &Config, new: Config) -> Result<Config, Vec<String>> {
        let reconfigured = (self.submission)
            .reconfigure(new.listeners.clone(), new.rules.clone())
            .await;
        reconfigured.map_err(|error| vec![error.to_string()])?;
        if let Err(error) = self.oauth.reconfigure(new.oauth.clone()).await {
            let mut problems = vec![error.to_string()];
            let undone = (self.submission)
                .reconfigure(old.listeners.clone(), old.rules.clone())
                .await;
            if let Err(error) = undone {
                problems.push(format!("the old listeners did not come back: {error}"));
            }
            return Err(problems);
        }
        self.queue.keep_traces(new.trace);
        self.delivery.reconfigure(new.delivery.clone());
        self.inner.notify.reconfigure(new.notify.clone());
        self.inner.admin.reconfigure(view(&new));
        Ok(new)
    }
}

/// The keys that differ and are only looked at when the daemon starts.
pub(super) fn restart_needed(old: &Config, new: &Config) -> Vec<String> {
    let differs = [
        ("state_dir", old.store.state_dir != new.store.state_dir),
        ("queue", old.queue.retry != new.queue.retry),
        ("console.address", old.admin.address != new.admin.address),
        (
            "console.certificate_file",
            old.admin.certificate != new.admin.certificate,
        ),
        (
            "metrics.address",
            old.admin.metrics_address != new.admin.metrics_address,
        ),
        ("log", old.log != new.log),
    ];
    let changed = differs.into_iter().filter(|(_, differs)| *differs);
    changed.map(|(key, _)| key.to_owned()).collect()
}
