//! Reload: all of a new configuration, or nothing of it.
//!
//! What can fail (reading, binding listeners, unsealing) is done first and undone on an error;
//! then come the parts that cannot fail. What only a restart can change is told, not ignored.

use tokio::sync::mpsc;

use super::{Daemon, view};
use crate::{
    admin::{ReloadRequest, api::Reloaded},
    config::Config,
};

/// Answers the wishes that come over the control surface, until the daemon stops.
pub(super) async fn serve(daemon: Daemon, mut requests: mpsc::Receiver<ReloadRequest>) {
    let tasks = daemon.inner.owners.admin.clone();
    loop {
        let request = tokio::select! {
            request = requests.recv() => request,
            () = tasks.stopped() => return,
        };
        let Some(ReloadRequest(answer)) = request else {
            return;
        };
        let reloaded = daemon.reload_all().await;
        if answer.send(reloaded).is_err() {
            tracing::debug!(event = "client_left", name = "reload");
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
        let outcome = self.apply(&current).await;
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
            Err(problems) => {
                for problem in &problems {
                    tracing::error!(event = "config_refused", problem);
                }
                Err(problems)
            }
        }
    }

    async fn apply(&self, old: &Config) -> Result<Config, Vec<String>> {
        let sources = self.inner.sources.clone();
        let loaded = tokio::task::spawn_blocking(move || Config::load(&sources)).await;
        let new = loaded
            .map_err(|error| vec![error.to_string()])?
            .map_err(|problems| {
                problems
                    .0
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
            })?;
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
fn restart_needed(old: &Config, new: &Config) -> Vec<String> {
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
