//! TOML and environment -> checked types; every problem at once, each with key, value and remedy.

mod accounts;
mod environment;
mod listeners;
mod secret_source;
mod section;

use std::path::PathBuf;

use figment::{
    Figment,
    providers::{Env, Format, Toml},
    value::{Dict, Value},
};

use self::section::Section;
use crate::{
    delivery::{self, BounceTo},
    mail::Address,
    oauth, queue, store, submission,
    telemetry::log,
};

/// The whole configuration, checked, cut into what each part needs.
#[derive(Debug, Clone)]
pub struct Config {
    /// Store.
    pub store: store::Config,
    /// Queue.
    pub queue: queue::Config,
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
    /// Log output.
    pub log: crate::telemetry::log::Config,
    /// Where it was read from, for reload.
    pub file: Option<PathBuf>,
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
#[error("{key} = {value}: {what}; {remedy}")]
pub struct Problem {
    /// The key, dotted.
    pub key: String,
    /// Its value as given; never a secret's.
    pub value: String,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

impl Config {
    /// Reads, layers and checks. Blocking (files, and commands that give secrets).
    ///
    /// # Errors
    /// [`Problems`] lists every one.
    pub fn load(sources: &Sources) -> Result<Self, Problems> {
        let mut root = Section::new("", layers(sources)?);
        let mut problems = Vec::new();
        let config = build(&mut root, &mut problems, sources);
        root.finish(&mut problems);
        if problems.is_empty() {
            Ok(config)
        } else {
            Err(Problems(problems))
        }
    }
}

/// File, then environment; what is malformed as a whole is one problem.
fn layers(sources: &Sources) -> Result<Dict, Problems> {
    let mut figment = Figment::new();
    if let Some(file) = &sources.file {
        let text = std::fs::read_to_string(file).map_err(|e| {
            let remedy = "name a file that can be read with --config";
            Problems(vec![whole(
                &file.display().to_string(),
                &e.to_string(),
                remedy,
            )])
        })?;
        figment = figment.merge(Toml::string(&text));
    }
    if let Some(text) = &sources.text {
        figment = figment.merge(Toml::string(text));
    }
    if sources.environment {
        figment = figment.merge(Env::prefixed("GATEPOST_").ignore(&["config"]).split("__"));
    }
    let name = sources
        .file
        .as_ref()
        .map_or("configuration".into(), |f| f.display().to_string());
    let value = figment.extract::<Value>().map_err(|e| {
        Problems(
            e.into_iter()
                .map(|e| whole(&name, &e.to_string(), "mend the TOML"))
                .collect(),
        )
    })?;
    Ok(value.into_dict().unwrap_or_default())
}

fn whole(name: &str, what: &str, remedy: &str) -> Problem {
    Problem {
        key: name.to_owned(),
        value: "(file)".to_owned(),
        what: what.trim_end().to_owned(),
        remedy: remedy.to_owned(),
    }
}

fn build(root: &mut Section, problems: &mut Vec<Problem>, sources: &Sources) -> Config {
    let state_dir = root.text("state_dir", problems).map(PathBuf::from);
    let state_dir = state_dir.unwrap_or_else(environment::state_dir);
    let name = |t: &str| environment::is_hostname(t).then(|| t.to_owned());
    let hostname = root
        .parsed(
            "hostname",
            problems,
            name,
            "a domain name such as \"relay.example.com\"",
        )
        .unwrap_or_else(environment::hostname);
    let key = store_section(root, problems, &state_dir);
    let queue = root.section("queue", problems);
    let (queue, bounce_to) = queue_section(queue, problems);
    let (oauth, accounts) = accounts::read(root, problems, key);
    let (listeners, rules) = listeners::read(root, problems, &hostname, &accounts);
    listeners::refuse_loops(&listeners, &accounts, problems);
    let admin = admin_sections(root, problems, &state_dir);
    let log = log_section(root.section("log", problems), problems);
    Config {
        store: store::Config { state_dir },
        delivery: delivery::Config {
            hostname,
            bounce_to,
            delay_warning: queue.retry.delay_warning,
            accounts,
        },
        queue,
        listeners,
        rules,
        oauth,
        admin,
        log,
        file: sources.file.clone(),
    }
}

/// Values of the contract that are not built yet: each is refused, none is ignored.
fn refuse(section: &mut Section, key: &'static str, allowed: &[&str], problems: &mut Vec<Problem>) {
    let Some(value) = section.text(key, problems) else {
        return;
    };
    if !allowed.contains(&value.as_str()) {
        let remedy = match allowed.first() {
            Some(allowed) => format!("use \"{allowed}\" or leave it out"),
            None => "leave it out".to_owned(),
        };
        let value = format!("{value:?}");
        problems.push(section.problem(key, value, "not in this version yet", &remedy));
    }
}

fn refuse_list(section: &mut Section, key: &'static str, problems: &mut Vec<Problem>) {
    if section
        .texts(key, problems)
        .is_some_and(|list| !list.is_empty())
    {
        problems.push(section.problem(key, "[..]", "not in this version yet", "leave it out"));
    }
}

fn store_section(
    root: &mut Section,
    problems: &mut Vec<Problem>,
    state_dir: &std::path::Path,
) -> oauth::Key {
    let mut store = root.section("store", problems);
    refuse(&mut store, "url", &["sqlite"], problems);
    let given = store.secret("key", problems);
    store.finish(problems);
    let credential = || {
        let directory = environment::variable("CREDENTIALS_DIRECTORY")?;
        let text = std::fs::read_to_string(PathBuf::from(directory).join("gatepost.key")).ok()?;
        Some(crate::secret::Secret::new(text.trim()))
    };
    given.or_else(credential).map_or_else(
        || oauth::Key::File(state_dir.join("token.key")),
        oauth::Key::Given,
    )
}

fn queue_section(mut queue: Section, problems: &mut Vec<Problem>) -> (queue::Config, BounceTo) {
    let mut retry = queue::retry::Policy::default();
    for (key, place) in [
        ("retry_first", &mut retry.first),
        ("retry_max", &mut retry.max),
        ("lifetime", &mut retry.lifetime),
        ("delay_warning", &mut retry.delay_warning),
    ] {
        if let Some(given) = queue.duration(key, problems) {
            *place = given;
        }
    }
    let to = |text: &str| match text {
        "sender" => Some(BounceTo::Sender),
        "none" => Some(BounceTo::None),
        address => Address::parse(address).ok().map(BounceTo::Address),
    };
    let want = "\"sender\", \"none\" or a mail address";
    let bounce_to = queue
        .parsed("bounce_to", problems, to, want)
        .unwrap_or(BounceTo::Sender);
    queue.finish(problems);
    (queue::Config { retry }, bounce_to)
}

fn admin_sections(
    root: &mut Section,
    problems: &mut Vec<Problem>,
    state_dir: &std::path::Path,
) -> crate::admin::Config {
    let socket_address = "an address and port such as \"127.0.0.1:8025\"";
    let mut console = root.section("console", problems);
    let address = console.parsed("address", problems, |t| t.parse().ok(), socket_address);
    let address = address.unwrap_or_else(|| std::net::SocketAddr::from(([127, 0, 0, 1], 8025)));
    let public_url = console.parsed("public_url", problems, |t| t.parse().ok(), "a URL");
    if !address.ip().is_loopback() {
        let remedy = "listen on 127.0.0.1 (its pages for other machines come later)";
        problems.push(console.problem("address", address, "beyond loopback", remedy));
    }
    for key in ["certificate_file", "key_file", "password_hash"] {
        refuse(&mut console, key, &[], problems);
    }
    console.finish(problems);
    let mut metrics = root.section("metrics", problems);
    let metrics_address = metrics.parsed("address", problems, |t| t.parse().ok(), socket_address);
    metrics.finish(problems);
    let mut notify = root.section("notify", problems);
    for key in ["webhook", "account", "to"] {
        refuse(&mut notify, key, &[], problems);
    }
    refuse_list(&mut notify, "command", problems);
    notify.finish(problems);
    let runtime = environment::variable("RUNTIME_DIRECTORY").map(PathBuf::from);
    let socket = runtime
        .unwrap_or_else(|| state_dir.to_owned())
        .join("control.sock");
    crate::admin::Config {
        address: Some(address),
        metrics_address,
        socket,
        public_url,
    }
}

fn log_section(mut section: Section, problems: &mut Vec<Problem>) -> log::Config {
    let formats = [
        ("auto", log::Format::Auto),
        ("text", log::Format::Text),
        ("json", log::Format::Json),
    ];
    let config = log::Config {
        format: section
            .choice("format", problems, &formats)
            .unwrap_or(log::Format::Auto),
        level: section
            .text("level", problems)
            .unwrap_or_else(|| "info".to_owned()),
        addresses: section.flag("addresses", problems).unwrap_or(false),
    };
    section.finish(problems);
    config
}

#[cfg(test)]
mod tests;
