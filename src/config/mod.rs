//! TOML and environment -> checked types; every problem at once, each with key, value and remedy.
//!
//! - `layers`: file and variables, merged by figment; `made`: below them what was made in the console.
//! - `field`, `leaf`: one key, read so that a wrong one hides no other.
//! - `file`: the mirror of the file, every key once.
//! - `unbuilt`: values of the contract that are refused for now.
//! - `secret_source`, `units`: how secrets, times and sizes are written.
//! - `reference`: the defaults in words; `effective`: what they come to.
//! - `check`: defaults, presets and what keys mean together.
//!
//! This is where the process environment is read. Nothing here opens a socket; what is read from
//! disk is the file itself, and the files and commands that give secrets.

mod check;
mod effective;
mod field;
mod file;
mod layers;
mod leaf;
mod made;
mod nearest;
mod reference;
mod secret_source;
#[cfg(test)]
mod tests;
mod unbuilt;
mod units;

use std::{
    fmt,
    path::{Path, PathBuf},
};

use crate::{
    admin::made::{FieldProblem, Written},
    delivery, notify, oauth, queue,
    registry::Entries,
    store, submission,
    telemetry::log,
};

use self::{
    field::{Reader, Report},
    file::File,
    layers::Variables,
    made::Made,
};

/// The whole configuration, checked, cut into what each part needs.
#[derive(Debug, Clone)]
pub struct Config {
    /// Store.
    pub store: store::Config,
    /// Queue.
    pub queue: queue::Config,
    /// How much of the trace is kept.
    pub trace: queue::trace::Config,
    /// Listeners.
    pub listeners: Vec<submission::Listener>,
    /// Clients and routes.
    pub rules: submission::Rules,
    /// Providers and accounts.
    pub oauth: oauth::Config,
    /// Lanes.
    pub delivery: delivery::Config,
    /// Console address, callback.
    pub admin: crate::admin::Config,
    /// Who is told.
    pub notify: notify::Config,
    /// Log output.
    pub log: log::Config,
    /// Where it was read from, for reload.
    pub file: Option<PathBuf>,
    /// What is allowed and still worth a remark. For `check`, and the log at start.
    pub warnings: Vec<String>,
    /// Every key, its value and where that comes from; no secrets.
    pub settings: Vec<crate::admin::api::Setting>,
    /// Providers, accounts and clients as they were written, and what of the console's is left out.
    pub written: Vec<Written>,
}

/// What must be known before the store can be opened, in which the rest may lie.
#[derive(Debug, Clone)]
pub struct Foundation {
    /// Store.
    pub store: store::Config,
    /// What opens the secrets in it.
    pub key: oauth::Key,
    /// Log output.
    pub log: log::Config,
    /// Where it was read from.
    pub file: Option<PathBuf>,
    /// The whole, for when nothing was made in the console; none: the file does not stand alone.
    alone: Option<Box<Config>>,
}

impl Foundation {
    /// The whole configuration, once it is known what was made in the console. Blocking.
    ///
    /// # Errors
    /// [`Problems`] of the file.
    pub fn with(self, sources: &Sources, entries: &Entries) -> Result<Config, Problems> {
        match self.alone {
            Some(config) if entries.is_empty() => Ok(*config),
            Some(_) | None => Config::load_all(sources, entries),
        }
    }
}

/// Where a configuration comes from; later ones win: defaults, file, environment.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The TOML file; none: only defaults and environment.
    pub file: Option<PathBuf>,
    /// TOML text in place of a file (demo, tests).
    pub text: Option<String>,
    /// Whether `GATEPOST_*` variables count.
    pub environment: bool,
}

/// Everything that is wrong, one line each.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct Problems(pub Vec<Problem>);

/// One thing that is wrong: `account.alerts.smtp.tls = "startls": unknown value; use "starttls"`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Problem {
    /// The key, dotted; the n-th section of a list is `listener#n`.
    pub key: String,
    /// Its value as given; never a secret's. Empty: the problem is not one value's.
    pub value: String,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub remedy: String,
    /// The key of another section that is missing: adding it would mend this.
    pub lacks: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let equals = if self.value.is_empty() { "" } else { " = " };
        write!(
            f,
            "{}{equals}{}: {}; {}",
            self.key, self.value, self.what, self.remedy
        )
    }
}

impl From<&Problem> for FieldProblem {
    fn from(problem: &Problem) -> Self {
        Self {
            key: problem.key.clone(),
            value: problem.value.clone(),
            what: problem.what.clone(),
            remedy: problem.remedy.clone(),
            lacks: problem.lacks.clone(),
        }
    }
}

impl Config {
    /// Reads, layers and checks. Blocking (files, and commands that give secrets).
    ///
    /// Variables other than `GATEPOST_*` are looked at whatever [`Sources::environment`] says: they
    /// tell where things are (`$STATE_DIRECTORY`, `$RUNTIME_DIRECTORY`, `$CREDENTIALS_DIRECTORY`),
    /// and `{ env = ".." }` names one outright.
    ///
    /// # Errors
    /// [`Problems`] lists every one.
    pub fn load(sources: &Sources) -> Result<Self, Problems> {
        Self::load_with(sources, &variables())
    }

    /// As [`Config::load`], with what was made in the console below the file. Of that, what does not
    /// pass is left out and told in the warnings and in [`Config::written`].
    ///
    /// # Errors
    /// [`Problems`] that are not of one thing made in the console alone.
    pub fn load_all(sources: &Sources, entries: &Entries) -> Result<Self, Problems> {
        Self::load_all_with(sources, entries, &variables())
    }

    /// What must be known before the store is open. Problems that something made in the console might
    /// solve are left for later, if anything was ever made.
    ///
    /// # Errors
    /// [`Problems`].
    pub fn begin(sources: &Sources) -> Result<Foundation, Problems> {
        let variables = variables();
        let problems = match Self::load_with(sources, &variables) {
            Ok(config) => {
                return Ok(Foundation {
                    store: config.store.clone(),
                    key: config.oauth.key.clone(),
                    log: config.log.clone(),
                    file: config.file.clone(),
                    alone: Some(Box::new(config)),
                });
            }
            Err(problems) => problems,
        };
        let mut report = Report::default();
        let Some((figment, dict)) = layers::merge(sources, &variables, &mut report) else {
            return Err(problems);
        };
        let (path, folder) = place(sources);
        let (file, reader) = Reader::read::<File>(&figment, folder, dict);
        let foundation = check::foundation(&file, path, reader.into_findings(), &variables);
        match foundation {
            Ok(foundation) if foundation.store.exists() => Ok(foundation),
            Ok(_) | Err(_) => Err(problems),
        }
    }

    /// As [`Config::load`], in a process with these variables.
    fn load_with(sources: &Sources, variables: &Variables) -> Result<Self, Problems> {
        Self::load_all_with(sources, &Entries::default(), variables)
    }

    fn load_all_with(
        sources: &Sources,
        entries: &Entries,
        variables: &Variables,
    ) -> Result<Self, Problems> {
        let mut report = Report::default();
        let Some((above, names)) = layers::merge(sources, variables, &mut report) else {
            return Err(report.into_problems());
        };
        let (path, folder) = place(sources);
        let mut made = Made::of(entries);
        loop {
            let figment = made.below(above.clone(), &names);
            let dict = layers::data(&figment);
            let (file, reader) = Reader::read::<File>(&figment, folder, dict.clone());
            let findings = reader.into_findings();
            let secrets = findings.secrets.clone();
            let problems = match check::check(&file, path, findings, (variables, &made)) {
                Ok(config) => {
                    let written = made::all_written(&dict, &secrets, &made, entries);
                    return Ok(config.with_written(written, &made));
                }
                Err(problems) => problems,
            };
            let left_out = made.out.len();
            let theirs = made.leave_out(problems.0.clone());
            // Each round leaves out one more, or is the last.
            if made.out.len() == left_out {
                return Err(Problems(theirs));
            }
        }
    }

    fn with_written(mut self, written: Vec<Written>, made: &Made<'_>) -> Self {
        for (section, name) in &made.overruled {
            self.warnings.push(format!(
                "{section} {name} was made in the console as well: the one of the file or the \
                 environment is in force"
            ));
        }
        for out in written.iter().filter(|one| !one.problems.is_empty()) {
            let problems: Vec<String> = out.problems.iter().map(ToString::to_string).collect();
            self.warnings.push(format!(
                "{} {} was made in the console and is left out until it is mended: {}",
                out.section,
                out.name,
                problems.join(", ")
            ));
        }
        self.written = written;
        effective::fill(&mut self);
        self
    }
}

/// The file, and its folder: where relative paths in it start.
fn place(sources: &Sources) -> (Option<&Path>, Option<&Path>) {
    let path = sources.file.as_deref().filter(|_| sources.text.is_none());
    (path, path.and_then(Path::parent))
}

/// A span of time as it is written in the file, for the command line: `2h`, `3d`.
pub(crate) fn duration(text: &str) -> Option<std::time::Duration> {
    units::duration(text)
}

/// The variables of this process that are text.
fn variables() -> Variables {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}
