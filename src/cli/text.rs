//! How values are said to a person.

pub(super) use crate::admin::text::{relative, size};

/// `1 message`, `2 messages`.
pub(super) fn messages(count: u64) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} message{plural}")
}

/// A value as its JSON word: `sign_in_needed`.
pub(super) fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}
