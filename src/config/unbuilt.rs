//! Values of the contract that this version does not do yet: refused in so many words, so that
//! nobody believes in a protection or a delivery that is not there. A later change builds one and
//! deletes its row.

use figment::value::Value;

struct Unbuilt {
    /// The key, names and numbers as `*`.
    key: &'static str,
    /// What its unbuilt values begin with.
    begins: &'static str,
    /// What to use meanwhile.
    instead: &'static str,
}

const TABLE: [Unbuilt; 1] = [Unbuilt {
    key: "store.url",
    begins: "postgres",
    instead: "use \"sqlite\" (it is the default)",
}];

/// What to use instead of a value that this version does not do yet.
pub(super) fn instead(pattern: &str, value: &Value) -> Option<&'static str> {
    let text = value.as_str().unwrap_or_default();
    let is_meant = |row: &&Unbuilt| row.key == pattern && text.starts_with(row.begins);
    TABLE.iter().find(is_meant).map(|row| row.instead)
}
