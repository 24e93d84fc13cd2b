//! When to try again: exponential, jittered, bounded. Pure.

use std::time::Duration;

/// The retry schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Wait after the first attempt.
    pub first: Duration,
    /// No wait is longer.
    pub max: Duration,
    /// After this the message is given up and its sender told.
    pub lifetime: Duration,
    /// After this the sender is told that it is late.
    pub delay_warning: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(60),
            max: Duration::from_secs(3600),
            lifetime: Duration::from_secs(5 * 86_400),
            delay_warning: Duration::from_secs(4 * 3600),
        }
    }
}
