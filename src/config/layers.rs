//! The layers a configuration is merged from: the file, then `GATEPOST_` variables.
//!
//! A variable is always text: figment's own reader would make a number of `12345`, and with it a
//! numeric client secret would be refused. `__` separates sections: `GATEPOST_QUEUE__RETRY_FIRST`.

use std::{collections::BTreeMap, fs, path::Path};

use figment::{
    Error, Figment, Metadata, Profile, Provider,
    providers::{Format, Toml},
    value::{Dict, Map, Value},
};

use super::{Sources, field::Report};

/// Names the layer of variables in figment's metadata.
pub(super) const ENVIRONMENT: &str = "environment";

/// Names the layer of what was made in the console in figment's metadata.
pub(super) const CONSOLE: &str = "console";

/// What begins the name of a variable that counts.
const PREFIX: &str = "GATEPOST_";

/// Separates sections in a variable's name; one underscore stands inside many keys.
const SEPARATOR: &str = "__";

/// Variables with our prefix that are no keys: the file's own path.
const NO_KEYS: [&str; 1] = ["CONFIG"];

/// What begins the names of what a notice's command is told: it may call `gatepost` itself.
const NOTICE: &str = "NOTICE_";

/// The sections that stand at the top and have no names in them.
const PLAIN_SECTIONS: [&str; 6] = ["console", "log", "metrics", "notify", "queue", "store"];

/// The variables of a process.
pub(super) type Variables = BTreeMap<String, String>;

/// Reads the file and merges the layers. `None`: the file cannot be read; that is reported.
pub(super) fn merge(
    sources: &Sources,
    variables: &Variables,
    report: &mut Report,
) -> Option<(Figment, Dict)> {
    let mut figment = Figment::new();
    match (&sources.text, &sources.file) {
        (Some(text), _) => figment = figment.merge(Toml::string(text)),
        (None, Some(file)) => figment = figment.merge(Toml::string(&read(file, report)?)),
        (None, None) => {}
    }
    if sources.environment {
        figment = figment.merge(Environment(variables));
    }
    match figment.data() {
        Ok(mut profiles) => {
            let dict = profiles.remove(&Profile::Default).unwrap_or_default();
            Some((figment, dict))
        }
        Err(error) => {
            let file = sources.file.as_deref().map(|f| f.display().to_string());
            let (what, remedy) = syntax(&error.kind.to_string());
            let key = file.unwrap_or_else(|| String::from("configuration"));
            report.problem(key, "", what, remedy);
            None
        }
    }
}

/// The merged values.
pub(super) fn data(figment: &Figment) -> Dict {
    let data = figment.data().ok();
    data.and_then(|mut profiles| profiles.remove(&Profile::Default))
        .unwrap_or_default()
}

fn read(file: &Path, report: &mut Report) -> Option<String> {
    fs::read_to_string(file)
        .map_err(|error| {
            let remedy = "name a readable file with --config or $GATEPOST_CONFIG";
            let what = format!("cannot be read: {error}");
            report.problem(file.display().to_string(), "", what, remedy);
        })
        .ok()
}

/// What is wrong with the TOML and where. The parser quotes the line at fault, in which a secret
/// may stand: the quotation is left out.
fn syntax(message: &str) -> (String, String) {
    let is_quotation = |line: &&str| {
        let line = line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ');
        line.starts_with('|')
    };
    let told: Vec<&str> = message
        .lines()
        .map(|line| line.trim().trim_start_matches("TOML parse error at "))
        .filter(|line| !is_quotation(line) && !line.is_empty())
        .collect();
    let what = format!("is not valid TOML: {}", told.join(": "));
    let remedy = "text stands in double quotes, sections in [brackets], one key a line";
    (what, remedy.to_owned())
}

/// The variables as a figment layer.
struct Environment<'a>(&'a Variables);

impl Provider for Environment<'_> {
    fn metadata(&self) -> Metadata {
        Metadata::named(ENVIRONMENT)
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        let mut dict = Dict::new();
        for (name, value) in self.0 {
            if let Some(key) = name.strip_prefix(PREFIX).filter(|key| is_key(key)) {
                let key = key.to_lowercase();
                let path: Vec<&str> = key.split(SEPARATOR).collect();
                insert(&mut dict, &path, value);
            }
        }
        Ok(Map::from([(Profile::Default, dict)]))
    }
}

/// Kubernetes gives every container `NAME_SERVICE_HOST`, `NAME_PORT` and more for each service, so a
/// service called `gatepost` would otherwise stop the daemon with unknown keys.
fn is_key(name: &str) -> bool {
    let from_kubernetes = !name.contains(SEPARATOR)
        && (name.contains("SERVICE_HOST")
            || name.contains("SERVICE_PORT")
            || name == "PORT"
            || name.starts_with("PORT_")
            || name.ends_with("_PORT")
            || name.contains("_PORT_"));
    let is_told = name.starts_with(NOTICE);
    !name.is_empty() && !from_kubernetes && !is_told && !NO_KEYS.contains(&name)
}

fn insert(dict: &mut Dict, path: &[&str], value: &str) {
    let Some((first, rest)) = path.split_first() else {
        return;
    };
    if rest.is_empty() {
        dict.entry((*first).to_owned())
            .or_insert_with(|| Value::from(value));
        return;
    }
    let section = dict
        .entry((*first).to_owned())
        .or_insert_with(|| Value::from(Dict::new()));
    if !matches!(section, Value::Dict(..)) {
        *section = Value::from(Dict::new());
    }
    if let Value::Dict(_, inner) = section {
        insert(inner, rest, value);
    }
}

/// The variable that was probably meant by a top-level key such as `queue_retry_first`.
pub(super) fn flattened_key(key: &str) -> Option<String> {
    let (section, rest) = key.split_once('_')?;
    let is_section = PLAIN_SECTIONS.contains(&section) && !rest.is_empty();
    is_section.then(|| format!("{PREFIX}{section}{SEPARATOR}{rest}").to_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers stay text, sections nest, and what others put beside our variables is no key.
    #[test]
    fn variables_are_text_in_sections() {
        let variables: Variables = [
            ("GATEPOST_PROVIDER__CONTOSO__CLIENT_SECRET", "12345"),
            ("GATEPOST_HOSTNAME", "relay.example"),
            ("GATEPOST_CONFIG", "/etc/x.toml"),
            ("GATEPOST_SERVICE_HOST", "10.0.0.1"),
            ("GATEPOST_PORT", "tcp://10.0.0.1:25"),
            ("GATEPOST_PORT_25_TCP_ADDR", "10.0.0.1"),
            ("HOSTNAME", "other"),
        ]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into();
        let figment = Figment::from(Environment(&variables));
        let dict = figment.data().unwrap().remove(&Profile::Default).unwrap();
        assert_eq!(dict.keys().collect::<Vec<_>>(), ["hostname", "provider"]);
        let secret = dict["provider"].find_ref("contoso.client_secret").unwrap();
        assert_eq!(secret.as_str(), Some("12345"));
    }

    /// The line at fault may hold a secret.
    #[test]
    fn a_syntax_error_does_not_quote_the_line() {
        let mut report = Report::default();
        let sources = Sources {
            file: None,
            text: Some("[provider.p]\nclient_secret = \"canary".to_owned()),
            environment: false,
        };
        assert!(merge(&sources, &Variables::new(), &mut report).is_none());
        let told = report.into_problems().to_string();
        assert!(!told.contains("canary"), "{told}");
        assert!(told.contains("line 2"), "{told}");
    }
}
