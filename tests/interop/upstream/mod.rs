//! Upstream servers that are not ours, and that fail: each phase, each way.

mod dns;
mod dovecot;
mod faults;
mod postfix;
mod reports;
mod tls;
mod truncation;

use crate::support::relay::Site;

/// The last time the account was paused for a reason with these words in it, as the log tells it.
fn paused(site: &Site, account: &str, words: &str) -> Option<String> {
    let log = std::fs::read_to_string(site.log()).ok()?;
    let account = format!("\"account\":\"{account}\"");
    let mut lines = log.lines().rev();
    lines
        .find(|line| {
            line.contains("\"event\":\"paused\"") && line.contains(&account) && line.contains(words)
        })
        .map(Into::into)
}
