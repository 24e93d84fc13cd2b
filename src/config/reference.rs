//! What a key is when nobody sets it, in the words of the reference file: `config/gatepost.toml` tells
//! every key's default, and tests hold it to the truth.

use std::{collections::BTreeMap, sync::LazyLock};

const REFERENCE: &str = include_str!("../../config/gatepost.toml");

static DEFAULTS: LazyLock<BTreeMap<String, String>> = LazyLock::new(|| read(REFERENCE));

/// The default of a key, names and numbers as `*`. None: the key is needed in its section.
pub(super) fn default(pattern: &str) -> Option<&'static str> {
    DEFAULTS.get(pattern).map(String::as_str)
}

/// A line is text (`# ..`), a section, or a key; the sentence from `Default:` on is for the keys after
/// it.
fn read(reference: &str) -> BTreeMap<String, String> {
    let mut defaults = BTreeMap::new();
    let mut section = String::new();
    let mut told: Option<String> = None;
    let mut is_text_before = true;
    for line in reference.lines() {
        if let Some(text) = line.strip_prefix("# ") {
            if !is_text_before {
                told = None;
            }
            match (text.strip_prefix("Default: "), &mut told) {
                (Some(begin), _) => told = Some(begin.to_owned()),
                (None, Some(told)) => {
                    told.push(' ');
                    told.push_str(text.trim());
                }
                (None, None) => {}
            }
            is_text_before = true;
            continue;
        }
        is_text_before = line.is_empty();
        let line = line.strip_prefix('#').unwrap_or(line);
        if line.starts_with('[') {
            section = pattern(line);
            told = None;
        } else if let (Some((key, _)), Some(told)) = (line.split_once(" = "), &told) {
            // What follows in sentences of its own is advice.
            let told = told.split(". ").next().unwrap_or_default();
            let told = told.trim_end_matches('.').to_owned();
            defaults.insert(format!("{section}{key}"), told);
        } else if line.is_empty() {
            told = None;
        }
    }
    defaults
}

/// `[account.alerts.smtp]` as `account.*.smtp.`, `[[listener]]` as `listener.*.`
fn pattern(header: &str) -> String {
    let is_list = header.starts_with("[[");
    let path = header.trim_matches(['[', ']']);
    let mut parts: Vec<&str> = path.split('.').collect();
    if is_list {
        parts.push("*");
    } else if let Some(name) = parts.get_mut(1) {
        *name = "*";
    }
    let mut pattern = parts.join(".");
    pattern.push('.');
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plain keys, keys that share a line of text, sections with names, lists, and text over two lines.
    #[test]
    fn defaults_are_found_for_every_kind_of_key() {
        for (key, wanted) in [
            ("store.url", "\"sqlite\""),
            ("hostname", "the system's name"),
            ("listener.*.key_file", "none"),
            ("listener.*.max_connections_per_client", "50"),
            ("account.*.smtp.tls", "the provider's, else \"starttls\""),
            ("client.*.disabled", "false"),
            ("console.address", "\"127.0.0.1:8025\""),
        ] {
            assert_eq!(default(key), Some(wanted), "{key}");
        }
        assert_eq!(default("client.*.name"), None);
        let long = default("account.*.limits.connections").unwrap();
        assert!(long.ends_with("20 without a provider"), "{long}");
        assert!(
            default("account.*.smtp.host")
                .unwrap()
                .contains("others need host")
        );
        let advice = |told: &&String| told.contains(". ");
        assert_eq!(
            DEFAULTS.values().find(advice),
            None,
            "a value, and no advice"
        );
    }
}
