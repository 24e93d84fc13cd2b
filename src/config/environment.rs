//! What the process was started with: the one place that asks.

use std::path::PathBuf;

/// A variable of the process's environment, unless empty or not UTF-8.
#[expect(clippy::disallowed_methods, reason = "the one place that asks")]
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The system's host name, if it can be said in EHLO; else `localhost`.
pub(super) fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if is_hostname(name) {
        name.to_ascii_lowercase()
    } else {
        "localhost".to_owned()
    }
}

/// Letters, digits, hyphens and dots (RFC 5321 §4.1.2).
pub(super) fn is_hostname(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && name.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-')
        })
}

/// Where state is kept when nobody says: systemd's, else the user's.
pub(super) fn state_dir() -> PathBuf {
    let systemd =
        variable("STATE_DIRECTORY").and_then(|dirs| dirs.split(':').next().map(PathBuf::from));
    systemd
        .or_else(|| variable("XDG_STATE_HOME").map(|d| PathBuf::from(d).join("gatepost")))
        .or_else(|| variable("HOME").map(|d| PathBuf::from(d).join(".local/state/gatepost")))
        .unwrap_or_else(|| PathBuf::from("/var/lib/gatepost"))
}
