//! From what is wrong to what a person is told: once when it stands, seldom again, once when it is
//! over. Pure: time comes in as an argument.
//!
//! What is known lives in memory. After a restart a condition that still stands is told once more;
//! the other choice, a file of what was told, would keep quiet about an account that broke while
//! nobody looked, whenever that file is older than the world.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use serde::Serialize;
use tokio::time::Instant;

use crate::mail::AccountName;

/// A condition is told when it has stood so long, and its end when that has: what comes and goes
/// within is nobody's business.
const STANDS: Duration = Duration::from_secs(30);
/// What keeps mail from flowing is told again.
const REMIND_FAULT: Duration = Duration::from_secs(24 * 3600);
/// What will do so one day is told again; a mail a day for a month would be filtered away.
const REMIND_WARNING: Duration = Duration::from_secs(7 * 24 * 3600);

/// What can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The provider refuses the account: mail waits.
    AccountHeld,
    /// A person must sign in or mend the provider's settings.
    SignInNeeded,
    /// `transport = "auto"` went over to the API.
    TransportSwitched,
    /// A client secret, a certificate or a consent ends soon.
    Expiring,
    /// The oldest message of an account has waited too long.
    QueueOld,
    /// Little space is left under the state directory.
    DiskLow,
    /// So little that no mail is accepted.
    DiskFull,
    /// The store failed; the daemon restarts.
    StoreFailed,
    /// Somebody tries whether notices arrive.
    Test,
}

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Mail does not flow, or may be lost sight of.
    Error,
    /// It will come to that if nobody acts.
    Warning,
    /// Nothing to do.
    Info,
}

impl Kind {
    /// The word for it in notices.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AccountHeld => "account_held",
            Self::SignInNeeded => "sign_in_needed",
            Self::TransportSwitched => "transport_switched",
            Self::Expiring => "expiring",
            Self::QueueOld => "queue_old",
            Self::DiskLow => "disk_low",
            Self::DiskFull => "disk_full",
            Self::StoreFailed => "store_failed",
            Self::Test => "test",
        }
    }

    fn severity(self) -> Severity {
        match self {
            Self::AccountHeld
            | Self::SignInNeeded
            | Self::QueueOld
            | Self::DiskFull
            | Self::StoreFailed => Severity::Error,
            Self::TransportSwitched | Self::Expiring | Self::DiskLow => Severity::Warning,
            Self::Test => Severity::Info,
        }
    }

    /// What stands for the same trouble is one condition that changes, not two that meet.
    fn topic(self) -> Self {
        match self {
            Self::AccountHeld | Self::SignInNeeded => Self::AccountHeld,
            Self::DiskLow | Self::DiskFull => Self::DiskFull,
            Self::TransportSwitched
            | Self::Expiring
            | Self::QueueOld
            | Self::StoreFailed
            | Self::Test => self,
        }
    }

    /// The process ends within seconds of a failed store, so that alone is told at once.
    fn stands(self) -> Duration {
        match self {
            Self::StoreFailed => Duration::ZERO,
            Self::AccountHeld
            | Self::SignInNeeded
            | Self::TransportSwitched
            | Self::Expiring
            | Self::QueueOld
            | Self::DiskLow
            | Self::DiskFull
            | Self::Test => STANDS,
        }
    }

    fn remind_after(self) -> Duration {
        match self.severity() {
            Severity::Error => REMIND_FAULT,
            Severity::Warning | Severity::Info => REMIND_WARNING,
        }
    }
}

/// Something that is wrong at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// What.
    pub kind: Kind,
    /// Whose; none: the daemon's.
    pub account: Option<AccountName>,
    /// Tells two of a kind apart (two secrets that expire).
    pub which: String,
    /// How far it has come; a higher number is told at once.
    pub stage: usize,
    /// What is wrong, in plain words.
    pub reason: String,
    /// What to do.
    pub remedy: String,
}

/// What was seen at one look.
#[derive(Debug, Clone, Default)]
pub struct Observation {
    /// Everything that is wrong.
    pub conditions: Vec<Condition>,
    /// What could not be looked at: of these, what was stays as it was.
    pub blind: Vec<Kind>,
    /// The accounts there are. What is known of others is forgotten without a word.
    pub accounts: Vec<AccountName>,
}

/// What a notice is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// It has come up.
    Problem,
    /// It still stands.
    Reminder,
    /// It is over.
    Recovered,
    /// Somebody tries whether notices arrive.
    Test,
}

impl Event {
    /// The word for it in notices.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Problem => "problem",
            Self::Reminder => "reminder",
            Self::Recovered => "recovered",
            Self::Test => "test",
        }
    }
}

/// What a person is told. Its JSON form is a contract.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Notice {
    /// Come up, still there, over.
    pub event: Event,
    /// What it is about.
    pub kind: Kind,
    /// How much it matters.
    pub severity: Severity,
    /// Whose; none: the daemon's.
    pub account: Option<AccountName>,
    /// In one line.
    pub title: String,
    /// What is wrong, in plain words; of what is over: what was.
    pub reason: String,
    /// What to do; empty when it is over.
    pub remedy: String,
    /// Since when it stands.
    pub since: Timestamp,
    /// When this was written.
    pub at: Timestamp,
}

impl Notice {
    fn of(event: Event, condition: &Condition, since: Timestamp, at: Timestamp) -> Self {
        let over = event == Event::Recovered;
        Self {
            event,
            kind: condition.kind,
            severity: if over {
                Severity::Info
            } else {
                condition.kind.severity()
            },
            account: condition.account.clone(),
            title: if over {
                recovered(condition)
            } else {
                title(condition)
            },
            reason: condition.reason.clone(),
            remedy: if over {
                String::new()
            } else {
                condition.remedy.clone()
            },
            since,
            at,
        }
    }

    /// The one that somebody asks for.
    #[must_use]
    pub fn test(at: Timestamp) -> Self {
        Self {
            event: Event::Test,
            kind: Kind::Test,
            severity: Severity::Info,
            account: None,
            title: "this is a test: notices arrive".to_owned(),
            reason: "somebody asked for a test notice".to_owned(),
            remedy: "nothing to do".to_owned(),
            since: at,
            at,
        }
    }
}

fn owner(condition: &Condition) -> String {
    let account = condition.account.as_ref();
    account.map_or_else(String::new, |account| format!("account {account}"))
}

fn title(condition: &Condition) -> String {
    let owner = owner(condition);
    match condition.kind {
        Kind::AccountHeld => format!("{owner} is on hold, its mail waits"),
        Kind::SignInNeeded => format!("{owner} needs you, its mail waits"),
        Kind::TransportSwitched => format!("{owner} no longer sends by SMTP"),
        Kind::Expiring => format!("{owner}: {}", condition.reason),
        Kind::QueueOld => format!("mail of {owner} waits too long"),
        Kind::DiskLow => "the disk is nearly full".to_owned(),
        Kind::DiskFull => "the disk is full, no mail is accepted".to_owned(),
        Kind::StoreFailed => "the store failed, the daemon restarts".to_owned(),
        Kind::Test => "test".to_owned(),
    }
}

fn recovered(condition: &Condition) -> String {
    let owner = owner(condition);
    match condition.kind {
        Kind::AccountHeld | Kind::SignInNeeded => format!("{owner} sends again"),
        Kind::TransportSwitched => format!("{owner} sends by SMTP again"),
        Kind::Expiring => format!("{owner}: renewed what would have expired"),
        Kind::QueueOld => format!("mail of {owner} flows again"),
        Kind::DiskLow | Kind::DiskFull => "the disk has room again".to_owned(),
        Kind::StoreFailed => "the store works again".to_owned(),
        Kind::Test => "test".to_owned(),
    }
}

type Key = (Kind, Option<AccountName>, String);

/// What is known to be wrong, and what of it was told.
#[derive(Debug, Default)]
pub struct Conditions {
    known: BTreeMap<Key, Known>,
}

#[derive(Debug)]
struct Known {
    condition: Condition,
    since: Timestamp,
    /// Since when it is of this kind.
    stands_from: Instant,
    told: Option<Told>,
    /// Since when it is not seen any more.
    gone_from: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Told {
    kind: Kind,
    stage: usize,
    at: Instant,
}

impl Conditions {
    /// Takes what one look has seen; what is to be told of it. `at` is the wall clock at `now`.
    pub fn observe(&mut self, seen: Observation, now: Instant, at: Timestamp) -> Vec<Notice> {
        for known in self.known.values_mut() {
            let is_blind = seen.blind.contains(&known.condition.kind);
            if !is_blind && known.gone_from.is_none() {
                known.gone_from = Some(now);
            }
        }
        for condition in seen.conditions {
            self.see(condition, now, at);
        }
        self.known.retain(|(_, account, _), known| {
            let exists = account.as_ref().is_none_or(|a| seen.accounts.contains(a));
            exists && (known.told.is_some() || known.gone_from.is_none())
        });
        let known = self.known.values_mut();
        let notices = known.filter_map(|known| known.due(now, at)).collect();
        self.known.retain(|_, known| !known.is_over(now));
        notices
    }

    /// What was told and is not over, as whoever has not heard of it is told.
    pub fn standing(&self, at: Timestamp) -> Vec<Notice> {
        let known = self.known.values();
        let told = known.filter(|known| known.told.is_some());
        told.map(|known| Notice::of(Event::Problem, &known.condition, known.since, at))
            .collect()
    }

    fn see(&mut self, condition: Condition, now: Instant, at: Timestamp) {
        let key = (
            condition.kind.topic(),
            condition.account.clone(),
            condition.which.clone(),
        );
        let known = self.known.entry(key).or_insert_with(|| Known {
            condition: condition.clone(),
            since: at,
            stands_from: now,
            told: None,
            gone_from: None,
        });
        if known.condition.kind != condition.kind {
            known.stands_from = now;
        }
        known.condition = condition;
        known.gone_from = None;
    }
}

impl Known {
    /// What is to be told now.
    fn due(&mut self, now: Instant, at: Timestamp) -> Option<Notice> {
        if self.gone_from.is_some() {
            let event = Event::Recovered;
            return (self.is_over(now)).then(|| Notice::of(event, &self.condition, self.since, at));
        }
        let Condition { kind, stage, .. } = self.condition;
        let stands = now.duration_since(self.stands_from) >= kind.stands();
        let event = match self.told {
            None if stands => Event::Problem,
            Some(told) if told.kind != kind && stands => Event::Problem,
            Some(told) if told.kind == kind && stage > told.stage => Event::Reminder,
            Some(told) if now.duration_since(told.at) >= kind.remind_after() => Event::Reminder,
            None | Some(_) => return None,
        };
        self.told = Some(Told {
            kind,
            stage,
            at: now,
        });
        Some(Notice::of(event, &self.condition, self.since, at))
    }

    fn is_over(&self, now: Instant) -> bool {
        let gone = self.gone_from.map(|from| now.duration_since(from));
        gone.is_some_and(|gone| gone >= STANDS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A world whose time the test moves, looked at every five seconds as the daemon does.
    struct World {
        conditions: Conditions,
        start: Instant,
        passed: Duration,
        wrong: Vec<Condition>,
        blind: Vec<Kind>,
        accounts: Vec<AccountName>,
    }

    const LOOK_EVERY: Duration = Duration::from_secs(5);

    impl World {
        fn new() -> Self {
            Self {
                conditions: Conditions::default(),
                start: Instant::now(),
                passed: Duration::ZERO,
                wrong: Vec::new(),
                blind: Vec::new(),
                accounts: vec![AccountName::new("alerts"), AccountName::new("other")],
            }
        }

        /// Lets time pass; what was told meanwhile.
        fn pass(&mut self, time: Duration) -> Vec<String> {
            let until = self.passed + time;
            let mut told = Vec::new();
            while self.passed < until {
                self.passed += LOOK_EVERY;
                let seen = Observation {
                    conditions: self.wrong.clone(),
                    blind: self.blind.clone(),
                    accounts: self.accounts.clone(),
                };
                let at = Timestamp::UNIX_EPOCH + self.passed;
                let notices = self.conditions.observe(seen, self.start + self.passed, at);
                told.extend(
                    notices
                        .into_iter()
                        .map(|notice| format!("{}: {}", notice.event.name(), notice.title)),
                );
            }
            told
        }
    }

    const MINUTE: Duration = Duration::from_secs(60);
    const DAY: Duration = Duration::from_secs(86_400);

    fn condition(kind: Kind, account: Option<&str>) -> Condition {
        Condition {
            kind,
            account: account.map(AccountName::new),
            which: String::new(),
            stage: 0,
            reason: "the reason".to_owned(),
            remedy: "the remedy".to_owned(),
        }
    }

    #[test]
    fn a_condition_is_told_once_and_so_is_its_end() {
        let mut world = World::new();
        assert!(world.pass(MINUTE).is_empty(), "nothing is wrong");
        world.wrong = vec![condition(Kind::AccountHeld, Some("alerts"))];
        assert_eq!(
            world.pass(MINUTE),
            ["problem: account alerts is on hold, its mail waits"]
        );
        assert!(world.pass(23 * 60 * MINUTE).is_empty(), "told already");
        world.wrong.clear();
        assert_eq!(
            world.pass(MINUTE),
            ["recovered: account alerts sends again"]
        );
        assert!(world.pass(3 * DAY).is_empty(), "told already");
    }

    #[test]
    fn what_flaps_is_quiet_before_and_after_it_is_told() {
        let mut world = World::new();
        let held = vec![condition(Kind::AccountHeld, Some("alerts"))];
        for _ in 0..100 {
            world.wrong = held.clone();
            assert!(world.pass(STANDS - LOOK_EVERY).is_empty());
            world.wrong.clear();
            assert!(world.pass(STANDS - LOOK_EVERY).is_empty());
        }
        world.wrong = held.clone();
        assert_eq!(world.pass(MINUTE).len(), 1);
        for _ in 0..100 {
            world.wrong.clear();
            assert!(world.pass(STANDS - LOOK_EVERY).is_empty());
            world.wrong = held.clone();
            assert!(world.pass(STANDS - LOOK_EVERY).is_empty());
        }
    }

    #[test]
    fn a_fault_is_told_again_once_a_day_and_a_warning_once_a_week() {
        let mut world = World::new();
        world.wrong = vec![
            condition(Kind::QueueOld, Some("alerts")),
            condition(Kind::DiskLow, None),
        ];
        let told = world.pass(7 * DAY + 2 * MINUTE);
        let count = |text: &str| told.iter().filter(|told| *told == text).count();
        assert_eq!(count("problem: mail of account alerts waits too long"), 1);
        assert_eq!(count("reminder: mail of account alerts waits too long"), 7);
        assert_eq!(count("problem: the disk is nearly full"), 1);
        assert_eq!(count("reminder: the disk is nearly full"), 1);
        assert_eq!(told.len(), 10, "{told:?}");
    }

    #[test]
    fn a_warning_that_comes_nearer_is_told_at_each_step() {
        let mut world = World::new();
        let mut expiring = condition(Kind::Expiring, Some("alerts"));
        for stage in 0..5 {
            expiring.stage = stage;
            world.wrong = vec![expiring.clone()];
            assert_eq!(world.pass(DAY).len(), 1, "stage {stage}");
        }
        let other = Condition {
            which: "certificate".to_owned(),
            ..expiring
        };
        world.wrong.push(other);
        assert_eq!(world.pass(MINUTE).len(), 1, "another one of the kind");
    }

    #[test]
    fn what_changes_its_kind_is_told_as_what_it_has_become() {
        let mut world = World::new();
        world.wrong = vec![condition(Kind::AccountHeld, Some("alerts"))];
        assert_eq!(world.pass(MINUTE).len(), 1);
        world.wrong = vec![condition(Kind::SignInNeeded, Some("alerts"))];
        assert_eq!(
            world.pass(10 * MINUTE),
            ["problem: account alerts needs you, its mail waits"]
        );
        world.wrong.clear();
        assert_eq!(
            world.pass(MINUTE),
            ["recovered: account alerts sends again"]
        );
    }

    #[test]
    fn accounts_are_told_apart_and_one_that_is_gone_is_forgotten() {
        let mut world = World::new();
        world.wrong = ["alerts", "other"]
            .map(|name| condition(Kind::AccountHeld, Some(name)))
            .into();
        assert_eq!(world.pass(MINUTE).len(), 2);
        world.wrong.truncate(1);
        world.accounts.truncate(1);
        assert!(world.pass(10 * MINUTE).is_empty(), "it did not recover");
    }

    #[test]
    fn what_cannot_be_seen_has_not_ended() {
        let mut world = World::new();
        world.wrong = vec![condition(Kind::QueueOld, Some("alerts"))];
        assert_eq!(world.pass(MINUTE).len(), 1);
        world.wrong.clear();
        world.blind = vec![Kind::QueueOld];
        assert!(world.pass(10 * MINUTE).is_empty());
        world.blind.clear();
        assert_eq!(world.pass(MINUTE).len(), 1);
    }

    #[test]
    fn a_failed_store_is_told_at_once() {
        let mut world = World::new();
        world.wrong = vec![condition(Kind::StoreFailed, None)];
        assert_eq!(world.pass(LOOK_EVERY).len(), 1);
    }
}
