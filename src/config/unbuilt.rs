//! Values of the contract that this version does not do yet: refused in so many words, so that
//! nobody believes in a protection or a delivery that is not there. A later change builds one and
//! deletes its row.

use figment::value::Value;

struct Unbuilt {
    /// The key, names and numbers as `*`.
    key: &'static str,
    /// Which of its values.
    which: Which,
    /// What to use meanwhile.
    instead: &'static str,
}

enum Which {
    /// Any but an empty text or list.
    Any,
    /// Texts that begin so.
    Begins(&'static str),
}

const fn row(key: &'static str, which: Which, instead: &'static str) -> Unbuilt {
    Unbuilt {
        key,
        which,
        instead,
    }
}

const WATCH: &str = "leave it out, and watch /metrics or the log";

const TABLE: [Unbuilt; 5] = [
    row(
        "store.url",
        Which::Begins("postgres"),
        "use \"sqlite\" (it is the default)",
    ),
    row("notify.webhook", Which::Any, WATCH),
    row("notify.command", Which::Any, WATCH),
    row("notify.account", Which::Any, WATCH),
    row("notify.to", Which::Any, WATCH),
];

/// What to use instead of a value that this version does not do yet.
pub(super) fn instead(pattern: &str, value: &Value) -> Option<&'static str> {
    let (text, is_empty) = match value {
        Value::String(_, text) => (text.as_str(), text.is_empty()),
        Value::Array(_, items) => ("", items.is_empty()),
        Value::Char(..) | Value::Bool(..) | Value::Num(..) | Value::Empty(..) | Value::Dict(..) => {
            ("", false)
        }
    };
    let is_meant = |row: &&Unbuilt| {
        row.key == pattern
            && match row.which {
                Which::Any => !is_empty,
                Which::Begins(unbuilt) => text.starts_with(unbuilt),
            }
    };
    TABLE.iter().find(is_meant).map(|row| row.instead)
}
