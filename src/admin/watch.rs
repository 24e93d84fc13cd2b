//! Looks at what the parts say of themselves, again and again: for the gauges of `/metrics`, and for
//! the notices to people.
//!
//! A scrape reads what the last look has seen, so that no number of scrapers loads the disk.

use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use super::{
    Shared,
    api::{Account, AccountState, Transport},
    problem::chain,
};
use crate::{
    mail::AccountName,
    notify::{Condition, Kind, Observation},
    oauth::Diagnosis,
    queue::Counts,
    store,
    telemetry::Metrics,
};

/// Soon enough for whoever waits for a notice, and for a scraper.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// A look counts the queue. Of the time, it takes at most one part in so many, however long the
/// queue is.
const LOOK_SHARE: u32 = 50;
/// Also after a look that took long because the disk did: what is wrong then is told soon.
const LOOK_PAUSE_MAX: Duration = Duration::from_secs(120);
/// Providers take mail within seconds, or say why not: what waits so long waits for a reason that
/// nobody has seen.
const QUEUE_AGE_MAX: SignedDuration = SignedDuration::from_hours(1);

/// Looks until told to stop. A store that fails is told before the process ends of it.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut known = BTreeSet::new();
    loop {
        let started = Instant::now();
        let look = Look::take(&shared).await;
        look.show(&shared.parts.metrics, &mut known);
        let seen = look.observation(&shared.view().state_dir);
        shared.parts.notify.observe(seen);
        let pause = pause(started.elapsed());
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            error = shared.parts.queue.failed() => {
                shared.parts.notify.observe(Observation {
                    conditions: vec![failed(&error)],
                    blind: STANDING.to_vec(),
                    accounts: look.accounts.into_iter().map(|account| account.name).collect(),
                });
                return;
            }
            () = shared.parts.tasks.stopped() => return,
        }
    }
}

/// How long to wait after a look that took so long.
fn pause(took: Duration) -> Duration {
    took.saturating_mul(LOOK_SHARE)
        .clamp(LOOK_EVERY, LOOK_PAUSE_MAX)
}

/// What a look at the accounts and the disk tells of; a failed store says nothing about them.
const STANDING: [Kind; 7] = [
    Kind::AccountHeld,
    Kind::SignInNeeded,
    Kind::TransportSwitched,
    Kind::Expiring,
    Kind::QueueOld,
    Kind::DiskLow,
    Kind::DiskFull,
];

/// What one look has seen.
struct Look {
    now: Timestamp,
    accounts: Vec<Account>,
    /// What waits; `Err`: the store does not answer.
    counts: Result<Vec<(AccountName, Counts)>, store::Error>,
    space: Option<store::FreeSpace>,
    ready: Result<(), store::Error>,
}

impl Look {
    async fn take(shared: &Shared) -> Self {
        let queue = &shared.parts.queue;
        let counts = queue.counts().await;
        let accounts = match &counts {
            Ok(counts) => shared.accounts_with(counts),
            Err(_) => shared.accounts_with(&[]),
        };
        Self {
            now: shared.parts.clock.now(),
            accounts,
            counts,
            space: queue.space(),
            ready: queue.ready(),
        }
    }

    fn counts(&self, name: &AccountName) -> Counts {
        let counts = self.counts.as_ref().map_or(&[][..], Vec::as_slice);
        let found = counts.iter().find(|(account, _)| account == name);
        found.map_or_else(Counts::default, |(_, counts)| *counts)
    }

    /// How long the oldest message of an account has waited.
    fn oldest_age(&self, name: &AccountName) -> SignedDuration {
        let oldest = self.counts(name).oldest_at;
        let age = oldest.map(|oldest| self.now.duration_since(oldest));
        age.unwrap_or_default().max(SignedDuration::ZERO)
    }

    /// Sets the gauges; of accounts that are gone, they go.
    fn show(&self, metrics: &Metrics, known: &mut BTreeSet<AccountName>) {
        if let Some(space) = self.space {
            let octets = |octets: u64| i64::try_from(octets).unwrap_or(i64::MAX);
            metrics.disk_free_bytes.set(octets(space.free_bytes));
            metrics.disk_size_bytes.set(octets(space.size_bytes));
        }
        metrics.store_ready.set(i64::from(self.ready.is_ok()));
        let counted = self.counts.iter().flatten().map(|(name, _)| name.clone());
        let names = self.accounts.iter().map(|account| account.name.clone());
        let names: BTreeSet<_> = names.chain(counted).collect();
        for gone in known.difference(&names) {
            metrics.forget_account(gone.as_str());
        }
        if self.counts.is_ok() {
            names.iter().for_each(|name| self.show_queue(metrics, name));
        }
        for account in &self.accounts {
            show_account(metrics, account);
        }
        *known = names;
    }

    fn show_queue(&self, metrics: &Metrics, name: &AccountName) {
        let counts = self.counts(name);
        for (state, count) in [("queued", counts.queued), ("held", counts.held)] {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            let labels = [("account", name.to_string()), ("state", state.to_owned())];
            metrics.queue_messages.get_or_create(&labels).set(count);
        }
        let age = self.oldest_age(name).as_secs();
        let ages = &metrics.queue_oldest_age_seconds;
        ages.get_or_create(&[("account", name.to_string())])
            .set(age);
    }

    /// What is wrong.
    fn observation(&self, state_dir: &Path) -> Observation {
        let mut conditions: Vec<Condition> = Vec::new();
        for account in &self.accounts {
            self.look_at(account, &mut conditions);
        }
        conditions.extend(self.disk(&state_dir.display().to_string()));
        Observation {
            conditions,
            blind: match self.counts {
                Ok(_) => Vec::new(),
                Err(_) => vec![Kind::QueueOld],
            },
            accounts: self.accounts.iter().map(|a| a.name.clone()).collect(),
        }
    }

    fn look_at(&self, account: &Account, conditions: &mut Vec<Condition>) {
        let told = Diagnosis {
            reason: account.reason.clone().unwrap_or_default(),
            remedy: account.remedy.clone().unwrap_or_default(),
        };
        let of = |kind, told: Diagnosis| Condition {
            account: Some(account.name.clone()),
            ..condition(kind, told)
        };
        let is_stuck = match account.state {
            AccountState::SignInNeeded => {
                conditions.push(of(Kind::SignInNeeded, told));
                true
            }
            AccountState::Held => {
                conditions.push(of(Kind::AccountHeld, told));
                true
            }
            AccountState::Ready | AccountState::Refreshing | AccountState::Retrying => {
                let went_over =
                    account.transport == Transport::Auto && account.sends_by != Transport::Smtp;
                if went_over {
                    conditions.push(of(Kind::TransportSwitched, told));
                }
                false
            }
        };
        let warnings = account.warnings.iter().map(|warning| Condition {
            which: warning.expires_at.to_string(),
            stage: warning.step(self.now),
            ..of(
                Kind::Expiring,
                Diagnosis {
                    reason: warning.reason.clone(),
                    remedy: warning.remedy.clone(),
                },
            )
        });
        conditions.extend(warnings);
        // Of an account that is stuck it is known why its mail waits.
        let age = self.oldest_age(&account.name);
        if !is_stuck && age > QUEUE_AGE_MAX {
            let queued = self.counts(&account.name).queued;
            let hours = age.as_hours();
            conditions.push(of(
                Kind::QueueOld,
                Diagnosis {
                    reason: format!(
                        "{queued} messages wait, the oldest for {hours} h{}",
                        account.reason.as_deref().map_or_else(String::new, |r| format!("; {r}"))
                    ),
                    remedy: format!(
                        "`gatepost queue list` shows why each waits, `gatepost doctor {}` what is wrong with the account",
                        account.name
                    ),
                },
            ));
        }
    }

    /// What is wrong with the disk under `dir`.
    fn disk(&self, dir: &str) -> Option<Condition> {
        let free = self.space.map(|space| space.free_bytes / (1024 * 1024));
        let left = free.map_or_else(String::new, |mib| format!(", {mib} MiB are free"));
        let remedy = format!(
            "make room on the file system of {dir}, or enlarge it; mail that waits is kept"
        );
        match &self.ready {
            Err(store::Error::Full(_)) => Some(condition(
                Kind::DiskFull,
                Diagnosis {
                    reason: format!(
                        "the disk under {dir} is full{left}: clients are told to come again (452)"
                    ),
                    remedy,
                },
            )),
            Err(error @ store::Error::Broken { .. }) => Some(failed(error)),
            Ok(()) | Err(_) if self.space.is_some_and(store::FreeSpace::is_low) => Some(condition(
                Kind::DiskLow,
                Diagnosis {
                    reason: format!("the disk under {dir} is nearly full{left}"),
                    remedy,
                },
            )),
            Ok(()) | Err(_) => None,
        }
    }
}

fn show_account(metrics: &Metrics, account: &Account) {
    let name = || [("account", account.name.to_string())];
    for state in AccountState::ALL {
        let labels = [
            ("account", account.name.to_string()),
            ("state", state.name().to_owned()),
        ];
        let is_it = i64::from(state == account.state);
        metrics.account_state.get_or_create(&labels).set(is_it);
    }
    let expiry = account.token_expires_at.map_or(0, Timestamp::as_second);
    let gauge = &metrics.token_expiry_timestamp_seconds;
    gauge.get_or_create(&name()).set(expiry);
    let warnings = i64::try_from(account.warnings.len()).unwrap_or(i64::MAX);
    metrics
        .account_warnings
        .get_or_create(&name())
        .set(warnings);
    let limits = account.limits.as_ref();
    let throttled = i64::from(limits.is_some_and(|limits| limits.throttled));
    metrics
        .account_throttled
        .get_or_create(&name())
        .set(throttled);
    let paused = limits.and_then(|limits| limits.paused_until);
    let gauge = &metrics.account_paused_until_timestamp_seconds;
    gauge
        .get_or_create(&name())
        .set(paused.map_or(0, Timestamp::as_second));
}

fn condition(kind: Kind, told: Diagnosis) -> Condition {
    Condition {
        kind,
        account: None,
        which: String::new(),
        stage: 0,
        reason: told.reason,
        remedy: told.remedy,
    }
}

fn failed(error: &store::Error) -> Condition {
    condition(
        Kind::StoreFailed,
        Diagnosis {
            reason: format!(
                "{}: nothing more is accepted, the daemon ends for a restart",
                chain(error)
            ),
            remedy: "look at the disk and the system's log (dmesg); what was accepted is kept"
                .into(),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::api::AccountFacts;
    use crate::oauth::Warning;
    use crate::telemetry::{ACCOUNT_STATES, QUEUE_STATES};

    const HOUR: i64 = 3600;

    /// A look at an account whose oldest message came at the epoch, `hours` later.
    fn look(hours: i64, change: impl FnOnce(&mut Account)) -> Look {
        let facts = AccountFacts {
            name: AccountName::new("alerts"),
            mailbox: "alerts@example.com".into(),
            provider: None,
            grant: None,
            transport: Transport::Auto,
        };
        let now = Timestamp::from_second(hours * HOUR).unwrap();
        let mut account = Account::new(&facts, None, None, 3, now);
        change(&mut account);
        let counts = Counts {
            queued: 3,
            held: 1,
            oldest_at: Some(Timestamp::UNIX_EPOCH),
        };
        Look {
            now,
            accounts: vec![account],
            counts: Ok(vec![(AccountName::new("alerts"), counts)]),
            space: Some(store::FreeSpace {
                free_bytes: 1 << 40,
                size_bytes: 1 << 41,
            }),
            ready: Ok(()),
        }
    }

    fn kinds(look: &Look) -> Vec<Kind> {
        let seen = look.observation(Path::new("/state"));
        seen.conditions.iter().map(|seen| seen.kind).collect()
    }

    /// What an account shows becomes one condition for each trouble, and its old mail is one only
    /// where nothing else says why it waits.
    #[test]
    fn each_trouble_of_an_account_is_one_condition() {
        type Change = fn(&mut Account);
        let cases: [(i64, Change, &[Kind]); 8] = [
            (1, |_| {}, &[]),
            (2, |_| {}, &[Kind::QueueOld]),
            (2, |a| a.state = AccountState::Held, &[Kind::AccountHeld]),
            (
                2,
                |a| a.state = AccountState::SignInNeeded,
                &[Kind::SignInNeeded],
            ),
            (2, |a| a.state = AccountState::Retrying, &[Kind::QueueOld]),
            (
                1,
                |a| a.sends_by = Transport::Graph,
                &[Kind::TransportSwitched],
            ),
            (
                1,
                |a| {
                    a.transport = Transport::Graph;
                    a.sends_by = Transport::Graph;
                },
                &[],
            ),
            (
                1,
                |a| {
                    let warning = |second| Warning {
                        reason: "the client secret expires today".into(),
                        remedy: "renew it".into(),
                        expires_at: Timestamp::from_second(second).unwrap(),
                    };
                    a.warnings = vec![warning(5 * HOUR), warning(6 * HOUR)];
                },
                &[Kind::Expiring, Kind::Expiring],
            ),
        ];
        for (n, (hours, change, wanted)) in cases.into_iter().enumerate() {
            assert_eq!(kinds(&look(hours, change)), wanted, "case {n}");
        }
    }

    /// A disk that hung for a minute must not leave everybody blind for an hour.
    #[test]
    fn a_slow_look_is_followed_by_a_pause_with_a_bound() {
        for (took, wanted) in [(0, 5_000), (200, 10_000), (60_000, 120_000)] {
            let wanted = Duration::from_millis(wanted);
            assert_eq!(pause(Duration::from_millis(took)), wanted, "{took}");
        }
        assert_eq!(pause(Duration::MAX), LOOK_PAUSE_MAX);
    }

    #[test]
    fn the_disk_is_low_full_or_failed() {
        let error = || Arc::new(std::io::Error::other("EIO"));
        let space = |free_bytes| {
            Some(store::FreeSpace {
                free_bytes,
                size_bytes: 1 << 41,
            })
        };
        let broken = store::Error::Broken {
            operation: "committing to disk",
            source: error(),
        };
        for (free, ready, wanted) in [
            (1 << 40, Ok(()), &[][..]),
            (1 << 20, Ok(()), &[Kind::DiskLow]),
            (1 << 20, Err(store::Error::Full(error())), &[Kind::DiskFull]),
            (1 << 40, Err(broken), &[Kind::StoreFailed]),
        ] {
            let mut look = look(1, |_| {});
            (look.space, look.ready) = (space(free), ready);
            assert_eq!(kinds(&look), wanted);
        }
    }

    #[test]
    fn a_queue_that_cannot_be_read_is_not_taken_for_an_empty_one() {
        let mut look = look(2, |_| {});
        look.counts = Err(store::Error::Refused {
            operation: "counting messages",
            source: Arc::new(std::io::Error::other("EIO")),
        });
        let seen = look.observation(Path::new("/state"));
        assert_eq!(seen.blind, [Kind::QueueOld]);
    }

    /// What is shown of an account goes with it, whatever its state was.
    #[test]
    fn nothing_is_left_of_an_account_that_is_gone() {
        assert_eq!(AccountState::ALL.map(AccountState::name), ACCOUNT_STATES);
        let metrics = Metrics::new();
        let look = Look {
            now: Timestamp::UNIX_EPOCH,
            accounts: Vec::new(),
            counts: Ok(vec![(AccountName::new("gone"), Counts::default())]),
            space: None,
            ready: Ok(()),
        };
        let mut known = BTreeSet::new();
        look.show(&metrics, &mut known);
        for state in QUEUE_STATES {
            let line = format!("gatepost_queue_messages{{account=\"gone\",state=\"{state}\"}} 0");
            assert!(metrics.encode().contains(&line));
        }
        let after = Look {
            counts: Ok(Vec::new()),
            ..look
        };
        after.show(&metrics, &mut known);
        assert!(!metrics.encode().contains("gone"));
    }
}
