//! Taking keys out of a table one by one: each problem is noted, none hides another, and what
//! nobody took is an unknown key.

use std::{collections::BTreeMap, fmt::Display, str::FromStr, time::Duration};

use figment::value::{Dict, Value};

use super::{Problem, secret_source};
use crate::secret::Secret;

/// What is wrong, gathered.
pub(super) type Problems = Vec<Problem>;

/// One table of the configuration.
#[derive(Debug, Default)]
pub(super) struct Section {
    path: String,
    dict: Dict,
    asked: Vec<&'static str>,
}

impl Section {
    pub(super) fn new(path: &str, dict: Dict) -> Self {
        Self {
            path: path.to_owned(),
            dict,
            asked: Vec::new(),
        }
    }

    pub(super) fn key(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    pub(super) fn problem(
        &self,
        key: &str,
        value: impl Display,
        what: &str,
        remedy: &str,
    ) -> Problem {
        Problem {
            key: self.key(key),
            value: value.to_string(),
            what: what.to_owned(),
            remedy: remedy.to_owned(),
        }
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.asked.push(key);
        self.dict
            .remove(key)
            .filter(|v| !matches!(v, Value::Empty(..)))
    }

    /// Text; numbers and booleans of the environment count as text. Empty text is no text.
    pub(super) fn text(&mut self, key: &'static str, problems: &mut Problems) -> Option<String> {
        let value = self.take(key)?;
        match plain(&value) {
            Some(text) => Some(text).filter(|t| !t.is_empty()),
            None => {
                problems.push(self.problem(key, "..", "not a text", "write it in quotes"));
                None
            }
        }
    }

    /// Text in a form of its own.
    pub(super) fn parsed<T>(
        &mut self,
        key: &'static str,
        problems: &mut Problems,
        parse: impl Fn(&str) -> Option<T>,
        want: &str,
    ) -> Option<T> {
        let text = self.text(key, problems)?;
        let value = parse(&text);
        if value.is_none() {
            let text = format!("{text:?}");
            problems.push(self.problem(key, text, "not understood", &format!("use {want}")));
        }
        value
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        problems: &mut Problems,
        words: &[(&str, T)],
    ) -> Option<T> {
        let want = words
            .iter()
            .map(|(w, _)| format!("\"{w}\""))
            .collect::<Vec<_>>()
            .join(", ");
        let find = |t: &str| words.iter().find(|(w, _)| *w == t).map(|(_, v)| *v);
        self.parsed(key, problems, find, &format!("one of {want}"))
    }

    pub(super) fn number<T: FromStr>(
        &mut self,
        key: &'static str,
        problems: &mut Problems,
    ) -> Option<T> {
        self.parsed(key, problems, |t| t.parse().ok(), "a whole number in range")
    }

    pub(super) fn flag(&mut self, key: &'static str, problems: &mut Problems) -> Option<bool> {
        self.choice(key, problems, &[("true", true), ("false", false)])
    }

    pub(super) fn duration(
        &mut self,
        key: &'static str,
        problems: &mut Problems,
    ) -> Option<Duration> {
        self.parsed(
            key,
            problems,
            duration,
            "a duration such as \"30s\", \"5m\", \"4h\" or \"5d\"",
        )
    }

    pub(super) fn size(&mut self, key: &'static str, problems: &mut Problems) -> Option<u64> {
        self.parsed(
            key,
            problems,
            size,
            "a size such as \"512KiB\" or \"35MiB\"",
        )
    }

    pub(super) fn texts(
        &mut self,
        key: &'static str,
        problems: &mut Problems,
    ) -> Option<Vec<String>> {
        let value = self.take(key)?;
        let all = value
            .as_array()
            .and_then(|a| a.iter().map(plain).collect::<Option<Vec<_>>>());
        if all.is_none() {
            problems.push(self.problem(key, "..", "not a list of texts", "use [\"..\", \"..\"]"));
        }
        all
    }

    /// A secret, from wherever it is kept. Its value never stands in a problem.
    pub(super) fn secret(&mut self, key: &'static str, problems: &mut Problems) -> Option<Secret> {
        let value = self.take(key)?;
        match secret_source::read(&value) {
            Ok(secret) => secret,
            Err(what) => {
                let remedy = "use \"text\", { file = \"..\" }, { env = \"..\" }, \
                              { credential = \"..\" } or { command = [\"..\"] }";
                problems.push(self.problem(key, "(secret)", &what, remedy));
                None
            }
        }
    }

    /// A table within this one; empty when missing.
    pub(super) fn section(&mut self, key: &'static str, problems: &mut Problems) -> Self {
        match self.take(key) {
            None => Self::new(&self.key(key), Dict::new()),
            Some(Value::Dict(_, dict)) => Self::new(&self.key(key), dict),
            Some(_) => {
                problems.push(self.problem(key, "..", "not a table", &format!("use [{key}]")));
                Self::new(&self.key(key), Dict::new())
            }
        }
    }

    /// `[key.NAME]` tables.
    pub(super) fn named(
        &mut self,
        key: &'static str,
        problems: &mut Problems,
    ) -> BTreeMap<String, Self> {
        let outer = self.section(key, problems);
        let mut named = BTreeMap::new();
        for (name, value) in outer.dict.clone() {
            if let Value::Dict(_, dict) = value {
                named.insert(name.clone(), Self::new(&outer.key(&name), dict));
            } else {
                let remedy = format!("use [{key}.{name}]");
                problems.push(outer.problem(&name, "..", "not a table", &remedy));
            }
        }
        named
    }

    /// `[[key]]` tables; `None` when there is none.
    pub(super) fn array(
        &mut self,
        key: &'static str,
        problems: &mut Problems,
    ) -> Option<Vec<Self>> {
        let Some(Value::Array(_, values)) = self.take(key) else {
            return None;
        };
        let mut sections = Vec::new();
        for (n, value) in values.into_iter().enumerate() {
            let path = format!("{}[{n}]", self.key(key));
            if let Value::Dict(_, dict) = value {
                sections.push(Self::new(&path, dict));
            } else {
                let remedy = format!("use [[{key}]]");
                problems.push(self.problem(key, "..", "not a table", &remedy));
            }
        }
        Some(sections)
    }

    /// Notes every key that nobody asked for.
    pub(super) fn finish(self, problems: &mut Problems) {
        for key in self.dict.keys() {
            let near = self.asked.iter().min_by_key(|a| distance(a, key));
            let remedy = near.map_or_else(
                || "remove it".to_owned(),
                |near| format!("did you mean \"{near}\"? Otherwise remove it"),
            );
            problems.push(self.problem(key, "..", "unknown key", &remedy));
        }
    }
}

fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(_, text) => Some(text.clone()),
        Value::Char(_, c) => Some(c.to_string()),
        Value::Bool(_, b) => Some(b.to_string()),
        Value::Num(_, n) => n
            .to_i128()
            .map(|n| n.to_string())
            .or_else(|| n.to_u128().map(|n| n.to_string()))
            .or_else(|| n.to_f64().map(|n| n.to_string())),
        Value::Empty(..) | Value::Dict(..) | Value::Array(..) => None,
    }
}

/// Levenshtein's distance: how many letters were mistyped.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(b.bytes()) {
            let above = *cell;
            left = (diagonal + usize::from(x != y))
                .min(above + 1)
                .min(left + 1);
            diagonal = above;
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

fn split_unit(text: &str) -> Option<(u64, &str)> {
    let at = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(at)?;
    Some((number.parse().ok()?, unit.trim()))
}

fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = split_unit(text)?;
    let seconds = match unit {
        "ms" => return Some(Duration::from_millis(number)),
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    number.checked_mul(seconds).map(Duration::from_secs)
}

fn size(text: &str) -> Option<u64> {
    let (number, unit) = split_unit(text)?;
    let factor = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "KB" | "kB" => 1_000,
        "MB" => 1_000_000,
        _ => return None,
    };
    number.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read_and_nothing_is_guessed() {
        assert_eq!(duration("5d"), Some(Duration::from_secs(432_000)));
        assert_eq!(size("35MiB"), Some(36_700_160));
        for bad in ["", "5", "d", "5 weeks", "-1s"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
        assert_eq!(size("35XB"), None);
        assert_eq!(distance("tls", "tsl"), 2);
    }
}
