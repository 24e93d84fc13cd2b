//! Reading one key at a time, so that one wrong key hides no other.
//!
//! A [`Part`] reads itself from a place in the merged configuration: a [`Field`] holds one value, a
//! section (see `file`) holds parts, [`Listed`] and [`Named`] hold sections. A part always comes
//! out; what was wrong stands in the [`Report`] and the field knows that it was given, so the checks
//! after it do not complain about it a second time.
//!
//! What a problem shows is decided here: never a secret, and never the value of a key that is
//! unknown or of the wrong shape, which may be a secret that was misspelt.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Path, PathBuf},
};

use figment::{
    Figment,
    value::{Dict, Num, Value},
};

use super::{Problem, Problems, layers, nearest::nearest, reference, unbuilt};
use crate::admin::api::{Setting, SettingSource};

/// Stands for a value that must not be shown.
const NOT_SHOWN: &str = "(not shown)";
/// Stands for a value that was not given.
pub(super) const NOT_SET: &str = "(not set)";
/// A value longer than this is cut when shown.
const SHOWN_LEN_MAX: usize = 80;
/// The same in the list of all settings, where scopes and lists are read.
const SETTING_LEN_MAX: usize = 400;

/// Everything found wrong, and everything worth a remark.
#[derive(Debug, Default)]
pub(super) struct Report {
    problems: Vec<Problem>,
    pub(super) warnings: Vec<String>,
}

impl Report {
    /// Adds a problem.
    pub(super) fn problem(
        &mut self,
        key: impl Into<String>,
        value: impl Into<String>,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.add(Problem {
            key: key.into(),
            value: value.into(),
            what: what.into(),
            remedy: remedy.into(),
            lacks: None,
        });
    }

    /// Adds a problem as it is.
    pub(super) fn add(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    /// Adds a remark: nothing is refused for it.
    pub(super) fn warning(&mut self, text: impl Into<String>) {
        self.warnings.push(text.into());
    }

    /// Whether anything is wrong.
    pub(super) fn has_problems(&self) -> bool {
        !self.problems.is_empty()
    }

    /// Everything wrong, section by section.
    pub(super) fn into_problems(mut self) -> Problems {
        self.problems.sort_by(|a, b| a.key.cmp(&b.key));
        Problems(self.problems)
    }
}

/// Where a key stands: as the operator knows it, and with names and numbers as `*`.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// `account.alerts.smtp.tls`, `listener#2.tls`
    pub(super) shown: String,
    /// `account.*.smtp.tls`, `listener.*.tls`
    pub(super) pattern: String,
}

impl Place {
    fn top() -> Self {
        Self {
            shown: String::new(),
            pattern: String::new(),
        }
    }

    pub(super) fn key(&self, key: &str) -> Self {
        let join = |path: &str| match path {
            "" => key.to_owned(),
            path => format!("{path}.{key}"),
        };
        Self {
            shown: join(&self.shown),
            pattern: join(&self.pattern),
        }
    }

    fn named(&self, name: &str) -> Self {
        Self {
            shown: format!("{}.{name}", self.shown),
            pattern: format!("{}.*", self.pattern),
        }
    }

    fn numbered(&self, index: usize) -> Self {
        Self {
            shown: format!("{}#{}", self.shown, index + 1),
            pattern: format!("{}.*", self.pattern),
        }
    }
}

/// Reads parts from the merged configuration.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    /// Tells where a value came from.
    pub(super) figment: &'a Figment,
    /// The folder of the configuration file: relative paths in it start there.
    pub(super) folder: Option<&'a Path>,
    /// What was found.
    pub(super) report: Report,
    /// The first secret that stands in the file itself.
    pub(super) literal_secret: Option<String>,
    /// Every key read, with where its value comes from.
    pub(super) settings: Vec<Setting>,
    /// Every key that holds a secret.
    pub(super) secrets: BTreeSet<String>,
    /// Every key read, as a pattern.
    #[cfg(test)]
    pub(super) patterns: BTreeSet<String>,
}

/// Reads itself from a place in the configuration. `None`: nothing stands there.
pub(super) trait Part: Sized {
    fn read(value: Option<&Value>, at: &Place, reader: &mut Reader<'_>) -> Self;
}

/// What reading found beside the values.
#[derive(Debug)]
pub(super) struct Findings {
    pub(super) report: Report,
    /// The first key whose secret stands in the file itself.
    pub(super) literal_secret: Option<String>,
    /// Every key, with where its value comes from.
    pub(super) settings: Vec<Setting>,
    /// Every key that holds a secret.
    pub(super) secrets: BTreeSet<String>,
}

impl<'a> Reader<'a> {
    /// What was found; ends the reading.
    pub(super) fn into_findings(self) -> Findings {
        Findings {
            report: self.report,
            literal_secret: self.literal_secret,
            settings: self.settings,
            secrets: self.secrets,
        }
    }

    /// Reads the whole file as `P`.
    pub(super) fn read<P: Part>(
        figment: &'a Figment,
        folder: Option<&'a Path>,
        dict: Dict,
    ) -> (P, Self) {
        let mut reader = Self {
            figment,
            folder,
            report: Report::default(),
            literal_secret: None,
            settings: Vec::new(),
            secrets: BTreeSet::new(),
            #[cfg(test)]
            patterns: BTreeSet::default(),
        };
        let part = P::read(Some(&Value::from(dict)), &Place::top(), &mut reader);
        (part, reader)
    }

    pub(super) fn is_from_environment(&self, value: &Value) -> bool {
        self.source(value) == SettingSource::Environment
    }

    /// Whether it was made in the console.
    fn is_made(&self, value: &Value) -> bool {
        self.source(value) == SettingSource::Console
    }

    fn source(&self, value: &Value) -> SettingSource {
        let metadata = self.figment.get_metadata(value.tag());
        match metadata.map(|metadata| metadata.name.as_ref()) {
            Some(layers::ENVIRONMENT) => SettingSource::Environment,
            Some(layers::CONSOLE) => SettingSource::Console,
            Some(_) | None => SettingSource::File,
        }
    }

    /// Notes a key for the list of all settings.
    fn note(&mut self, at: &Place, value: Option<&Value>, is_secret: bool) {
        let said = match value {
            Some(_) if is_secret => String::from("set"),
            Some(value) => Shown(value, SETTING_LEN_MAX).to_string(),
            None => match reference::default(&at.pattern) {
                Some("none") | None => String::from("not set"),
                Some(default) => default.to_owned(),
            },
        };
        let source = value.map(|value| self.source(value));
        self.settings.push(Setting {
            key: at.shown.clone(),
            value: said,
            source: source.unwrap_or(SettingSource::Default),
        });
    }

    /// The table at `at`, every key of it known. `None`: nothing there, or something else.
    pub(super) fn table<'v>(
        &mut self,
        value: Option<&'v Value>,
        at: &Place,
        known: &[&str],
    ) -> Option<&'v Dict> {
        let table = self.as_table(value?, at)?;
        for (key, value) in table {
            if !known.contains(&key.as_str()) {
                self.unknown(key, value, at, known);
            }
        }
        Some(table)
    }

    fn as_table<'v>(&mut self, value: &'v Value, at: &Place) -> Option<&'v Dict> {
        let table = value.as_dict();
        if table.is_none() {
            let remedy = format!("write [{}] and its keys on lines below it", at.shown);
            self.report
                .problem(&at.shown, NOT_SHOWN, "is a section, not a value", remedy);
        }
        table
    }

    fn unknown(&mut self, key: &str, value: &Value, at: &Place, known: &[&str]) {
        let remedy = if let Some(meant) = layers::flattened_key(key).filter(|_| at.shown.is_empty())
        {
            format!("from the environment, write {meant} (two underscores after a section)")
        } else if let Some(near) = nearest(key, known.iter().copied()) {
            format!("did you mean {near}?")
        } else {
            format!("known here: {}", known.join(", "))
        };
        let what = if self.is_from_environment(value) {
            "unknown key, set in the environment"
        } else {
            "unknown key"
        };
        self.report
            .problem(at.key(key).shown, NOT_SHOWN, what, remedy);
    }
}

/// One value. Its place and how it looks are kept for the problems that later checks find.
#[derive(Debug)]
pub(super) struct Field<T> {
    pub(super) at: Place,
    pub(super) shown: String,
    given: Given<T>,
}

#[derive(Debug)]
enum Given<T> {
    Absent,
    /// Already told.
    Wrong,
    Is(T),
}

impl<T> Field<T> {
    /// The value, if there is a good one.
    pub(super) fn get(&self) -> Option<&T> {
        match &self.given {
            Given::Is(value) => Some(value),
            Given::Absent | Given::Wrong => None,
        }
    }

    /// The value, if there is a good one.
    pub(super) fn copied(&self) -> Option<T>
    where
        T: Clone,
    {
        self.get().cloned()
    }

    /// Whether nothing stands there (an empty text counts as nothing).
    pub(super) fn is_absent(&self) -> bool {
        matches!(self.given, Given::Absent)
    }

    /// Reports this key with its value.
    pub(super) fn refuse(
        &self,
        report: &mut Report,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        report.problem(&self.at.shown, &self.shown, what, remedy);
    }

    /// The value; when nothing stands there, that is reported. `None` is told in both cases.
    pub(super) fn required(&self, report: &mut Report, remedy: &str) -> Option<T>
    where
        T: Clone,
    {
        if self.is_absent() {
            self.refuse(report, "is needed", remedy);
        }
        self.copied()
    }
}

/// What a [`Leaf`] is parsed from.
#[derive(Debug)]
pub(super) struct Raw<'a> {
    pub(super) value: &'a Value,
    /// From the environment everything comes as text.
    pub(super) from_environment: bool,
    /// Made in the console: over the network, perhaps.
    pub(super) is_made: bool,
    pub(super) folder: Option<&'a Path>,
}

impl Raw<'_> {
    /// The text. A number is none, except from the environment, where all is text.
    pub(super) fn text(&self) -> Result<&str, Wrong> {
        self.value
            .as_str()
            .ok_or_else(|| Wrong::new(format!("is {}, not text", kind_of(self.value))))
    }

    /// The texts of a list; from the environment, one text with commas.
    pub(super) fn texts(&self) -> Result<Vec<&str>, Wrong> {
        let text = self.value.as_str().filter(|_| self.from_environment);
        if let Some(text) = text {
            let texts = text.split(',').map(str::trim);
            return Ok(texts.filter(|text| !text.is_empty()).collect());
        }
        let Some(items) = self.value.as_array() else {
            return Err(Wrong::new(format!(
                "is {}, not a list",
                kind_of(self.value)
            )));
        };
        let texts = items.iter().map(|item| {
            let wrong = || Wrong::new(format!("holds {}, not text", kind_of(item)));
            item.as_str().ok_or_else(wrong)
        });
        texts.collect()
    }
}

/// Why a value cannot be taken, and a better remedy than the general one where there is one.
#[derive(Debug)]
pub(super) struct Wrong {
    what: String,
    remedy: Option<String>,
}

impl Wrong {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            remedy: None,
        }
    }

    pub(super) fn with_remedy(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            remedy: Some(remedy.into()),
        }
    }
}

/// A type that one value is parsed into.
pub(super) trait Leaf: Sized {
    /// The remedy: how to write one.
    const REMEDY: &'static str;
    /// Whether its text must never be shown.
    const SECRET: bool = false;

    fn parse(raw: &Raw<'_>) -> Result<Self, Wrong>;

    /// Whether this value is a secret in the clear.
    fn is_literal_secret(&self) -> bool {
        false
    }
}

impl<T: Leaf> Part for Field<T> {
    fn read(value: Option<&Value>, at: &Place, reader: &mut Reader<'_>) -> Self {
        #[cfg(test)]
        reader.patterns.insert(at.pattern.clone());
        let field = |shown: String, given: Given<T>| Self {
            at: at.clone(),
            shown,
            given,
        };
        let value = value.filter(|v| v.as_str() != Some(""));
        reader.note(at, value, T::SECRET);
        let Some(value) = value else {
            return field(NOT_SET.to_owned(), Given::Absent);
        };
        let raw = Raw {
            value,
            from_environment: reader.is_from_environment(value),
            is_made: reader.is_made(value),
            folder: reader.folder,
        };
        let mut shown = if T::SECRET {
            NOT_SHOWN.to_owned()
        } else {
            Shown(value, SHOWN_LEN_MAX).to_string()
        };
        if T::SECRET {
            reader.secrets.insert(at.shown.clone());
        }
        if raw.from_environment {
            shown.push_str(" from the environment");
        }
        if let Some(instead) = unbuilt::instead(&at.pattern, value) {
            let report = &mut reader.report;
            report.problem(&at.shown, &shown, "not in this version yet", instead);
            return field(shown, Given::Wrong);
        }
        match T::parse(&raw) {
            Ok(parsed) => {
                let is_elsewhere = raw.from_environment || raw.is_made;
                if parsed.is_literal_secret() && !is_elsewhere {
                    reader
                        .literal_secret
                        .get_or_insert_with(|| at.shown.clone());
                }
                field(shown, Given::Is(parsed))
            }
            Err(wrong) => {
                let remedy = wrong.remedy.unwrap_or_else(|| T::REMEDY.to_owned());
                let report = &mut reader.report;
                report.problem(&at.shown, &shown, wrong.what, remedy);
                field(shown, Given::Wrong)
            }
        }
    }
}

/// `[[sections]]` in their order; `None` when the key is not there at all.
#[derive(Debug)]
pub(super) struct Listed<S>(pub(super) Option<Vec<S>>);

impl<S: Part> Part for Listed<S> {
    fn read(value: Option<&Value>, at: &Place, reader: &mut Reader<'_>) -> Self {
        let Some(value) = value else {
            return Self(None);
        };
        let Value::Array(_, items) = value else {
            let (what, remedy) =
                if reader.is_from_environment(value) || has_environment(value, reader) {
                    (
                        "a list of sections cannot be set in the environment",
                        "use the file",
                    )
                } else {
                    (
                        "is a list of sections",
                        "write it in double brackets: [[..]]",
                    )
                };
            reader.report.problem(&at.shown, NOT_SHOWN, what, remedy);
            return Self(Some(Vec::new()));
        };
        let items = items.iter().enumerate();
        let read = items.map(|(index, item)| {
            // What was made has a name, and its number means nothing to anybody.
            let name = item.as_dict().and_then(|item| item.get("name"));
            let name = name.and_then(Value::as_str);
            let at = match name.filter(|_| reader.is_made(item)) {
                Some(name) => at.named(name),
                None => at.numbered(index),
            };
            S::read(Some(item), &at, reader)
        });
        Self(Some(read.collect()))
    }
}

fn has_environment(value: &Value, reader: &Reader<'_>) -> bool {
    let mut values = value.as_dict().into_iter().flat_map(Dict::values);
    values.any(|v| reader.is_from_environment(v))
}

/// `[section.NAME]`s by name. A bad name is told, and hides nothing that is wrong in its section.
#[derive(Debug)]
pub(super) struct Named<S>(pub(super) BTreeMap<String, S>);

/// Longer names break tables and paths.
const NAME_LEN_MAX: usize = 64;

impl<S: Part> Part for Named<S> {
    fn read(value: Option<&Value>, at: &Place, reader: &mut Reader<'_>) -> Self {
        let mut sections = BTreeMap::new();
        let table = value.and_then(|value| reader.as_table(value, at));
        for (name, value) in table.into_iter().flatten() {
            let section = S::read(Some(value), &at.named(name), reader);
            sections.insert(name.clone(), section);
            if !is_name(name) {
                let remedy = "use up to 64 letters, digits and any of . - _ @ +";
                let what = match name.as_str() {
                    "" => "is needed",
                    _ => "this name cannot be used",
                };
                // By its own key: what was made in the console is left out for what is its own.
                let key = if reader.is_made(value) {
                    at.named(name).shown
                } else {
                    at.shown.clone()
                };
                let report = &mut reader.report;
                report.problem(key, format!("{name:?}"), what, remedy);
            }
        }
        Self(sections)
    }
}

/// Whether a name can stand in paths, tables, log lines and variables as it is.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= NAME_LEN_MAX
        && name
            .chars()
            .all(|c| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | '@' | '+'))
}

/// A URL without the user name and password in it.
fn without_login(text: &str) -> Cow<'_, str> {
    let Some((scheme, rest)) = text.split_once("://") else {
        return Cow::Borrowed(text);
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    match authority.rfind('@') {
        Some(at) => Cow::Owned(format!("{scheme}://(not shown){}", rest.split_at(at).1)),
        None => Cow::Borrowed(text),
    }
}

/// A value as the operator wrote it, cut when longer than so many characters.
struct Shown<'a>(&'a Value, usize);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Value::String(_, text) => {
                let text = without_login(text);
                let cut: String = text.chars().take(self.1).collect();
                let dots = if cut.len() < text.len() { ".." } else { "" };
                write!(f, "{:?}", cut + dots)
            }
            Value::Char(_, c) => write!(f, "\"{c}\""),
            Value::Bool(_, value) => write!(f, "{value}"),
            Value::Num(_, number) => fmt_number(*number, f),
            Value::Empty(..) => f.write_str("nothing"),
            Value::Dict(..) => f.write_str("{ .. }"),
            Value::Array(_, items) => {
                f.write_str("[")?;
                for (index, item) in items.iter().enumerate() {
                    let comma = if index == 0 { "" } else { ", " };
                    write!(f, "{comma}{}", Shown(item, self.1))?;
                }
                f.write_str("]")
            }
        }
    }
}

fn fmt_number(number: Num, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match (number.to_i128(), number.to_u128(), number.to_f64()) {
        (Some(n), ..) => write!(f, "{n}"),
        (None, Some(n), _) => write!(f, "{n}"),
        (None, None, Some(n)) => write!(f, "{n}"),
        (None, None, None) => f.write_str("a number"),
    }
}

/// What a value is, in the operator's words.
pub(super) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::String(..) | Value::Char(..) => "text",
        Value::Bool(..) => "true or false",
        Value::Num(..) => "a number",
        Value::Empty(..) => "nothing",
        Value::Dict(..) => "a section",
        Value::Array(..) => "a list",
    }
}

impl Raw<'_> {
    /// A path; a relative one in the file starts at the file's folder.
    pub(super) fn path(&self, text: &str) -> PathBuf {
        match self.folder {
            Some(folder) if !self.from_environment => folder.join(text),
            _ => PathBuf::from(text),
        }
    }
}
