//! Changes from the console: one more layer, the checks of the whole, then all of it or nothing.
//!
//! Order: the whole is judged with the change in it, the change is made durable, the parts take it. A
//! crash before it is durable leaves what was before; one after it leaves the change made, and the
//! next start has it in force. (What a sign-in brought for it is then lost, and the account asks for
//! another.) Parts that refuse are given what was before, and so is the store.
//!
//! The file is read anew for each change, as by a reload: what stands in it then is in force after it.

use super::{Daemon, beginning, reload::restart_needed};
use crate::{
    admin::made::{ChangeRequest, Changed, FieldProblem, How, Refused},
    config::{Config, Problems},
    oauth::Draft,
    registry::{Change, Entries},
};

impl Daemon {
    /// Answers one wish. Reloads and changes take turns.
    pub(super) async fn serve_change(&self, request: ChangeRequest) {
        let ChangeRequest {
            changes,
            how,
            answer,
        } = request;
        let changed = Box::pin(self.change(&changes, &how)).await;
        if answer.send(changed).is_err() {
            tracing::debug!(event = "client_left", name = "change");
        }
    }

    async fn change(&self, changes: &[Change], how: &How) -> Result<Changed, Refused> {
        let mut current = self.inner.config.lock().await;
        let registry = &self.inner.registry;
        let before = registry.entries();
        let wanted = registry.preview(changes);
        let new = self
            .load(wanted)
            .await?
            .map_err(|problems| told(&problems))?;
        nothing_falls_out(changes, &current, &new)?;
        let changed = Changed {
            before: current.oauth.clone(),
            after: new.oauth.clone(),
            restart_needed: restart_needed(&current, &new),
        };
        match how {
            How::Preview => return Ok(changed),
            How::Apply => {}
            How::ApplySignedIn(draft) => {
                if Draft::of(&new.oauth, &draft.account).as_ref() != Some(&**draft) {
                    return Err(Refused::plain(
                        "the configuration of this provider changed during the sign-in",
                        "look at it and save again",
                    ));
                }
            }
        }
        registry.change(changes).await?;
        match self.apply(&current, new).await {
            Ok(new) => {
                *current = new;
                Ok(changed)
            }
            Err(mut problems) => {
                if let Err(error) = registry.restore(&before).await {
                    problems.push(format!(
                        "the change could not be taken back in the store and comes with the next \
                         start: {error}"
                    ));
                }
                Err(Refused {
                    fields: Vec::new(),
                    problems,
                })
            }
        }
    }

    /// Reads the file anew, with these entries below it.
    pub(super) async fn load(&self, entries: Entries) -> Result<Result<Config, Problems>, Refused> {
        let sources = self.inner.sources.clone();
        let load = move || Config::load_all(&sources, &entries);
        tokio::task::spawn_blocking(load).await.map_err(|error| {
            let remedy = "the log has the reason; please report it";
            Refused::plain(error.to_string(), remedy)
        })
    }

    /// Takes the key that a reload brings for what was made in the console. Whether entries opened by
    /// it that did not before.
    pub(super) async fn take_key(&self, new: &Config) -> Result<bool, Vec<String>> {
        let registry = &self.inner.registry;
        let seal = beginning::seal(new.oauth.key.clone()).await;
        let seal = seal.map_err(|error| vec![format!("{error:#}")])?;
        if registry.is_sealed_with(&seal) {
            return Ok(false);
        }
        let before = registry.entries();
        let resealed = registry.reseal(seal).await;
        resealed.map_err(|error| vec![format!("secrets made in the console: {error}")])?;
        Ok(registry.entries() != before)
    }
}

/// A change may not make anything fall out that was in force, and is itself in force after it.
fn nothing_falls_out(changes: &[Change], old: &Config, new: &Config) -> Result<(), Refused> {
    let was_out = |section, name: &str| {
        let mut old = old.written.iter().filter(|one| !one.problems.is_empty());
        old.any(|one| (one.section, one.name.as_str()) == (section, name))
    };
    let is_changed = |section, name: &str| {
        changes
            .iter()
            .any(|change| change.about() == (section, name))
    };
    let out = new.written.iter().filter(|one| {
        let (section, name) = (one.section, one.name.as_str());
        is_changed(section, name) || !was_out(section, name)
    });
    let fields: Vec<FieldProblem> = out.flat_map(|one| one.problems.iter().cloned()).collect();
    match fields.is_empty() {
        true => Ok(()),
        false => Err(Refused {
            fields,
            problems: Vec::new(),
        }),
    }
}

fn told(problems: &Problems) -> Refused {
    Refused {
        fields: problems.0.iter().map(FieldProblem::from).collect(),
        problems: Vec::new(),
    }
}
