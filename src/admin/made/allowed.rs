//! Networks that may connect beside those of the file: "allow this device".

use std::{collections::BTreeMap, net::IpAddr};

use axum::{Json, extract::State, http::StatusCode};
use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{FieldProblem, Form, Who, Wish, put, shown};
use crate::{
    admin::{
        Shared,
        api::Problem,
        handlers::AppState,
        problem::{Input as Body, Named},
    },
    registry::{Change, Entries, Section, Settings},
};

/// A note is shown in a table's cell: what is longer belongs elsewhere.
const NOTE_LEN_MAX: usize = 200;

/// A network that is let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allowed {
    /// The network.
    pub network: String,
    /// At this listener alone; none: at each that has a list.
    pub listener: Option<String>,
    /// Who that is.
    pub note: Option<String>,
    /// Why it is left out; empty: it is in force.
    pub problems: Vec<FieldProblem>,
    /// When it was let in.
    pub changed_at: Timestamp,
}

/// A network to let in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewAllowed {
    /// A network, or one address.
    pub network: String,
    /// At this listener alone; none: at each that has a list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
    /// Who that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Shared {
    /// Every network that was let in here.
    pub(in crate::admin) fn allowed(&self) -> Vec<Allowed> {
        let entries = self.parts.registry.entries();
        let allowed = entries.of(Section::Allow).map(|(network, entry)| {
            let text = |key: &str| entry.settings.get(key).and_then(Value::as_str);
            let written = self.written(Section::Allow, network);
            Allowed {
                network: network.to_owned(),
                listener: text("listener").map(str::to_owned),
                note: text("note").map(str::to_owned),
                problems: written.map_or_else(Vec::new, |written| written.problems),
                changed_at: entry.changed_at,
            }
        });
        allowed.collect()
    }

    /// Lets a network in. Public addresses only where a login is required.
    ///
    /// # Errors
    /// What is wrong, field by field.
    pub(in crate::admin) async fn allow(
        &self,
        new: &NewAllowed,
        who: &Who,
    ) -> Result<Allowed, Problem> {
        let given = new.network.trim();
        let Some(network) = network(given) else {
            let remedy = "write a network as \"10.0.0.0/8\" or \"fd00::/8\", or one address";
            let mut problem = FieldProblem::new("network", "is not a network", remedy);
            problem.value = shown(given);
            return Err(Problem::fields(vec![problem]));
        };
        let name = network.to_string();
        let based_on = self.entries();
        Self::keeps_its_place(&based_on, &name, new)?;
        let mut settings = Settings::new();
        for (key, value) in [("listener", &new.listener), ("note", &new.note)] {
            if let Some(text) = value.as_deref().map(str::trim).filter(|it| !it.is_empty()) {
                let text: String = text.chars().filter(|c| !c.is_control()).collect();
                if key == "note" && text.chars().count() > NOTE_LEN_MAX {
                    let remedy = "say who that is in 200 characters";
                    let problem = FieldProblem::new("note", "is too long", remedy);
                    return Err(Problem::fields(vec![problem]));
                }
                settings.insert(key.to_owned(), text.into());
            }
        }
        let change = put(Section::Allow, &name, settings, BTreeMap::new());
        let form = Form {
            section: Section::Allow,
            name: &name,
            before: "",
        };
        let applied = self.apply(Wish::of(change, based_on), &[form]).await;
        applied.map_err(|mut problem| {
            for field in problem
                .fields
                .iter_mut()
                .filter(|field| field.key == "name")
            {
                field.key = "network".to_owned();
            }
            problem
        })?;
        who.changed("add", Section::Allow, &name);
        let made = self.allowed().into_iter().find(|one| one.network == name);
        made.ok_or_else(|| Problem::none(Section::Allow, &name))
    }

    /// A network that is let in somewhere else is not moved from there without a word: one entry is one
    /// network, and the device would be turned away where it was let in.
    fn keeps_its_place(based_on: &Entries, name: &str, new: &NewAllowed) -> Result<(), Problem> {
        let Some(before) = based_on.get(Section::Allow, name) else {
            return Ok(());
        };
        let before = before.settings.get("listener").and_then(Value::as_str);
        let wanted = new.listener.as_deref().map(str::trim);
        let wanted = wanted.filter(|wanted| !wanted.is_empty());
        if wanted.is_none() || wanted == before {
            return Ok(());
        }
        let place = before.map_or_else(
            || "each listener that has a list".to_owned(),
            |listener| format!("listener {listener}"),
        );
        Err(Problem::new(
            StatusCode::CONFLICT,
            format!("{name} is let in at {place} already"),
        )
        .remedy("let it in at each listener that has a list, or remove it first"))
    }

    /// Lets a network in no more.
    ///
    /// # Errors
    /// It was not let in here.
    pub(in crate::admin) async fn disallow(&self, given: &str, who: &Who) -> Result<(), Problem> {
        let name = network(given).map_or_else(|| given.to_owned(), |network| network.to_string());
        let based_on = self.entries();
        if based_on.get(Section::Allow, &name).is_none() {
            return Err(Problem::none(Section::Allow, &name));
        }
        let change = Change::Remove {
            section: Section::Allow,
            name: name.clone(),
        };
        self.apply(Wish::of(change, based_on), &[]).await?;
        who.changed("remove", Section::Allow, &name);
        Ok(())
    }
}

/// A network, or one address as one: that of an IPv4 client, also where an IPv6 socket wrote it down.
fn network(text: &str) -> Option<IpNet> {
    let address = || {
        let address = text.parse::<IpAddr>().ok()?;
        Some(IpNet::from(address.to_canonical()))
    };
    let network = text.parse::<IpNet>().ok().or_else(address);
    network.map(|network| network.trunc())
}

pub(in crate::admin) async fn list(State(shared): AppState) -> Json<Vec<Allowed>> {
    Json(shared.allowed())
}

pub(in crate::admin) async fn add(
    State(shared): AppState,
    who: Who,
    Body(new): Body<NewAllowed>,
) -> Result<(StatusCode, Json<Allowed>), Problem> {
    let made = shared.allow(&new, &who).await?;
    Ok((StatusCode::CREATED, Json(made)))
}

pub(in crate::admin) async fn remove(
    State(shared): AppState,
    Named(network): Named<String>,
    who: Who,
) -> Result<StatusCode, Problem> {
    shared.disallow(&network, &who).await?;
    Ok(StatusCode::NO_CONTENT)
}
