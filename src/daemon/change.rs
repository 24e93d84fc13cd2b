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
    admin::made::{ChangeRequest, Changed, FieldProblem, How, Refused, Wish},
    config::{Config, Problems},
    oauth::{Draft, Seal},
    registry::{Change, Entries},
};

/// Things made in the console. Each change judges all of them, and nobody has so many devices; a
/// program with a key that makes one after the other ends here.
const ENTRIES_MAX: usize = 5000;

impl Daemon {
    /// Answers one wish. Reloads and changes take turns.
    pub(super) async fn serve_change(&self, request: ChangeRequest) {
        let ChangeRequest { wish, how, answer } = request;
        let changed = Box::pin(self.change(&wish, how)).await;
        if answer.send(changed).is_err() {
            tracing::debug!(event = "client_left", name = "change");
        }
    }

    async fn change(&self, wish: &Wish, how: How) -> Result<Changed, Refused> {
        let mut current = self.inner.config.lock().await;
        let registry = &self.inner.registry;
        let changes = &wish.changes;
        nothing_is_written_over(wish, &registry.entries())?;
        let mut new = self.judged(changes, &current).await?;
        let changed = Changed {
            before: current.oauth.clone(),
            after: new.oauth.clone(),
            restart_needed: restart_needed(&current, &new),
        };
        if let Some(draft) = wish.signed_in.as_deref()
            && Draft::of(&new.oauth, &draft.account).as_ref() != Some(draft)
        {
            return Err(Refused::plain(
                "the configuration of this provider changed during the sign-in",
                "look at it and save again",
            ));
        }
        if how == How::Preview {
            return Ok(changed);
        }
        // The file may name another key by now. The change is sealed with the one that the next start
        // will have.
        let seal = registry.seal();
        let taken = self.take_key(&new).await;
        let has_opened = taken.map_err(|problems| Refused {
            problems,
            ..Refused::default()
        })?;
        if has_opened {
            new = self.judged(changes, &current).await?;
        }
        let before = registry.entries();
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
                problems.extend(self.give_key_back(seal).await);
                Err(Refused {
                    problems,
                    ..Refused::default()
                })
            }
        }
    }

    /// The whole with these changes, if it stands.
    async fn judged(&self, changes: &[Change], current: &Config) -> Result<Config, Refused> {
        let wanted = self.inner.registry.preview(changes);
        let new = self.load(wanted).await?;
        let new = new.map_err(|problems| told(&problems))?;
        nothing_falls_out(changes, current, &new)?;
        Ok(new)
    }

    /// Goes back to the key that was there, after a configuration was not taken; what is wrong if not.
    pub(super) async fn give_key_back(&self, seal: Seal) -> Option<String> {
        let registry = &self.inner.registry;
        if registry.is_sealed_with(&seal) {
            return None;
        }
        let resealed = registry.reseal(seal).await.err()?;
        Some(format!(
            "secrets made in the console stay sealed with the new key: {resealed}"
        ))
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

/// A wish is made up from what its maker saw. Whatever it touches must still be that, also when it
/// comes late: a sign-in takes minutes.
fn nothing_is_written_over(wish: &Wish, now: &Entries) -> Result<(), Refused> {
    for change in &wish.changes {
        let (section, name) = change.about();
        if !now.has_alike(&wish.based_on, section, name) {
            return Err(Refused::stale(section, name));
        }
    }
    let is_new = |change: &&Change| match change {
        Change::Put { section, name, .. } => now.get(*section, name).is_none(),
        Change::Remove { .. } => false,
    };
    let count = wish.changes.iter().filter(is_new).count();
    if count > 0 && now.len().saturating_add(count) > ENTRIES_MAX {
        let what = format!("there are {} of them already", now.len());
        let remedy = "remove what is not used any more, or write some into the configuration file";
        return Err(Refused::plain(what, remedy));
    }
    Ok(())
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
            ..Refused::default()
        }),
    }
}

fn told(problems: &Problems) -> Refused {
    Refused {
        fields: problems.0.iter().map(FieldProblem::from).collect(),
        ..Refused::default()
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use jiff::Timestamp;

    use super::*;
    use crate::registry::{Section, Settings};

    fn put(name: &str) -> Change {
        Change::Put {
            section: Section::Client,
            name: name.to_owned(),
            settings: Settings::new(),
            secrets: BTreeMap::new(),
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn wish(change: Change, based_on: &Entries) -> Wish {
        Wish {
            changes: vec![change],
            based_on: Arc::new(based_on.clone()),
            signed_in: None,
        }
    }

    #[test]
    fn a_wish_is_good_for_what_it_was_made_up_from() {
        let nothing = Entries::default();
        let one = nothing.with(&[put("x")], at(1));
        let remove = || Change::Remove {
            section: Section::Client,
            name: "x".to_owned(),
        };
        for (change, based_on, now, is_good) in [
            (put("x"), &nothing, &nothing, true),
            (put("x"), &nothing, &one, false),
            (put("y"), &nothing, &one, true),
            (put("x"), &one, &one, true),
            (put("x"), &one, &one.with(&[put("x")], at(2)), false),
            (put("x"), &one, &nothing, false),
            (remove(), &one, &one, true),
            (remove(), &one, &one.with(&[put("x")], at(2)), false),
        ] {
            let judged = nothing_is_written_over(&wish(change, based_on), now);
            assert_eq!(judged.is_ok(), is_good, "{judged:?}");
            assert!(judged.is_ok() || judged.is_err_and(|it| it.is_stale));
        }
    }

    #[test]
    fn there_is_an_end_to_what_is_made() {
        let many: Vec<Change> = (0..ENTRIES_MAX).map(|n| put(&n.to_string())).collect();
        let full = Entries::default().with(&many, at(1));
        let refused = nothing_is_written_over(&wish(put("x"), &full), &full).unwrap_err();
        assert!(!refused.is_stale && refused.problems[0].contains("5000"));
        assert!(nothing_is_written_over(&wish(put("7"), &full), &full).is_ok());
    }
}
