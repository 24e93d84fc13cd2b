//! Bearer keys of the API: shown once, kept as a hash alone.

use std::{collections::BTreeMap, fmt};

use axum::{Json, extract::State, http::StatusCode};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{FieldProblem, Who, Wish, logins::no_randomness, put, shown};
use crate::{
    admin::{
        Shared,
        api::Problem,
        handlers::AppState,
        problem::{Input as Body, Named},
    },
    registry::{self, Section},
};

/// As for accounts: longer names break tables.
const NAME_LEN_MAX: usize = 64;

/// A key as listings show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey {
    /// What it is for.
    pub name: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last used, to the hour; none: never.
    pub last_used_at: Option<Timestamp>,
}

/// A key to make.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewApiKey {
    /// What it is for.
    pub name: String,
}

/// A key, told this once.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatedApiKey {
    /// What it is for.
    pub name: String,
    /// What goes after `Authorization: Bearer`.
    pub key: String,
}

impl fmt::Debug for CreatedApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CreatedApiKey({})", self.name)
    }
}

impl Shared {
    /// Every key.
    pub(in crate::admin) fn keys(&self) -> Vec<ApiKey> {
        let registry = &self.parts.registry;
        let entries = registry.entries();
        let keys = entries.of(Section::Key).map(|(name, entry)| ApiKey {
            name: name.to_owned(),
            created_at: entry.changed_at,
            last_used_at: registry.key_used_at(name),
        });
        keys.collect()
    }

    /// Makes a key, told this once.
    ///
    /// # Errors
    /// A name that cannot be used, or that is another key's.
    pub(in crate::admin) async fn add_key(
        &self,
        new: &NewApiKey,
        who: &Who,
    ) -> Result<CreatedApiKey, Problem> {
        let name = new.name.trim().to_owned();
        if !is_name(&name) {
            let remedy = "use up to 64 letters, digits and any of . - _ @ +";
            let mut problem = FieldProblem::new("name", "this name cannot be used", remedy);
            problem.value = shown(&new.name);
            return Err(Problem::fields(vec![problem]));
        }
        let based_on = self.entries();
        if based_on.get(Section::Key, &name).is_some() {
            return Err(Problem::taken(Section::Key, &name));
        }
        let key = registry::new_key().ok_or_else(no_randomness)?;
        let change = put(Section::Key, &name, key.settings, BTreeMap::new());
        self.apply(Wish::of(change, based_on), &[]).await?;
        who.changed("add", Section::Key, &name);
        Ok(CreatedApiKey { name, key: key.key })
    }

    /// Removes a key: it opens nothing any more.
    ///
    /// # Errors
    /// There is none of that name.
    pub(in crate::admin) async fn remove_key(&self, name: &str, who: &Who) -> Result<(), Problem> {
        let based_on = self.entries();
        if based_on.get(Section::Key, name).is_none() {
            return Err(Problem::none(Section::Key, name));
        }
        let change = registry::Change::Remove {
            section: Section::Key,
            name: name.to_owned(),
        };
        self.apply(Wish::of(change, based_on), &[]).await?;
        who.changed("remove", Section::Key, name);
        Ok(())
    }
}

fn is_name(name: &str) -> bool {
    let is_letter = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | '@' | '+');
    (1..=NAME_LEN_MAX).contains(&name.len()) && name.chars().all(is_letter)
}

pub(in crate::admin) async fn list(State(shared): AppState) -> Json<Vec<ApiKey>> {
    Json(shared.keys())
}

pub(in crate::admin) async fn add(
    State(shared): AppState,
    who: Who,
    Body(new): Body<NewApiKey>,
) -> Result<(StatusCode, Json<CreatedApiKey>), Problem> {
    let made = shared.add_key(&new, &who).await?;
    Ok((StatusCode::CREATED, Json(made)))
}

pub(in crate::admin) async fn remove(
    State(shared): AppState,
    Named(name): Named<String>,
    who: Who,
) -> Result<StatusCode, Problem> {
    shared.remove_key(&name, &who).await?;
    Ok(StatusCode::NO_CONTENT)
}
