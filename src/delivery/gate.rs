//! Whether an account may send now: open, closed until an instant, or on hold. Pure; time comes in.
//!
//! A closed gate is opened by one trial: a single message finds out while the others wait. That is
//! how a hold ends by itself, and why a server that is down is not hammered by a backlog.

use std::time::Duration;

use tokio::time::Instant;

use crate::oauth::Diagnosis;

/// The state of an account's gate.
#[derive(Debug)]
pub(crate) struct Gate {
    closed: Option<Closed>,
    /// Transactions under way.
    busy: usize,
    /// Transactions allowed at once now, and at best.
    width: usize,
    width_max: usize,
    /// When the width may grow by one.
    widen_at: Instant,
    /// Until when a narrowed width is not narrowed again: what was on its way together is told off
    /// together, once.
    narrowed_until: Instant,
    /// Account failures in a row.
    strikes: u32,
}

#[derive(Debug)]
struct Closed {
    why: Why,
    until: Instant,
    /// A message is finding out.
    trial: bool,
}

/// Why a gate is closed.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Why {
    /// A person must act; a new token ends it.
    Held(Diagnosis),
    /// No token for now; a new one ends it.
    Token,
    /// The server cannot be reached or used.
    Away,
    /// The server wants us to go slower.
    Paused,
    /// A limit must pass: the day's recipients, ours or the provider's.
    Quota,
    /// An operator said so; nothing else ends it.
    Stopped(Diagnosis),
}

impl Closed {
    fn is_stopped(&self) -> bool {
        matches!(self.why, Why::Stopped(_))
    }
}

/// What a message may do now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Pass {
    /// Go; [`Gate::leave`] must follow.
    Go,
    /// Wait until then, or until the gate changes.
    Closed {
        /// When a trial may go.
        until: Instant,
        /// Whether a new token ends it earlier.
        token: bool,
    },
    /// Wait until another transaction is over.
    Busy,
}

impl Gate {
    pub(crate) fn new(connections: usize, now: Instant) -> Self {
        let width = connections.max(1);
        Self {
            closed: None,
            busy: 0,
            width,
            width_max: width,
            widen_at: now,
            narrowed_until: now,
            strikes: 0,
        }
    }

    /// An operator has stopped the account: closed for the life of the gate.
    pub(crate) fn stop(&mut self, account: &str, now: Instant) {
        let diagnosis = Diagnosis {
            reason: "stopped by an operator".into(),
            remedy: format!(
                "release it in the console (Accounts), or POST /api/v1/accounts/{account}/release"
            ),
        };
        self.close(Why::Stopped(diagnosis), now + STOPPED_FOR);
    }

    /// Asks without entering.
    pub(crate) fn peek(&self, now: Instant) -> Pass {
        match &self.closed {
            None => Pass::Go,
            Some(closed) if closed.trial => Pass::Busy,
            Some(closed) if now < closed.until => Pass::Closed {
                until: closed.until,
                token: matches!(closed.why, Why::Held(_) | Why::Token),
            },
            Some(_) => Pass::Go,
        }
    }

    /// Enters if possible.
    pub(crate) fn enter(&mut self, now: Instant) -> Pass {
        let pass = self.peek(now);
        if pass != Pass::Go {
            return pass;
        }
        if self.width < self.width_max && now >= self.widen_at {
            self.width += 1;
            self.widen_at = now + WIDEN_AFTER;
        }
        let width = if self.closed.is_some() { 1 } else { self.width };
        if self.busy >= width {
            return Pass::Busy;
        }
        if let Some(closed) = &mut self.closed {
            closed.trial = true;
        }
        self.busy += 1;
        Pass::Go
    }

    /// A transaction is over, whatever it came to. Call what it showed first.
    pub(crate) fn leave(&mut self) {
        self.busy = self.busy.saturating_sub(1);
        if let Some(closed) = &mut self.closed {
            closed.trial = false;
        }
    }

    /// The provider takes mail. Whether that ended a hold.
    pub(crate) fn works(&mut self) -> bool {
        self.strikes = 0;
        // What was on its way when the gate closed does not open it: the trial does.
        if !self.closed.as_ref().is_some_and(|closed| closed.trial) {
            return false;
        }
        let closed = self.closed.take();
        closed.is_some_and(|closed| matches!(closed.why, Why::Held(_)))
    }

    /// A person must act. Whether that is news.
    pub(crate) fn hold(&mut self, diagnosis: Diagnosis, now: Instant) -> bool {
        let news = self.held() != Some(&diagnosis) && !self.is_stopped();
        self.close(Why::Held(diagnosis), now + PROBE_EVERY);
        news
    }

    /// No token for now. `jitter` from 0 to 1.
    pub(crate) fn no_token(&mut self, jitter: f64, now: Instant) -> Duration {
        let wait = self.strike(jitter);
        self.close(Why::Token, now + wait);
        wait
    }

    /// The server cannot be reached or does not want us: longer each time. `jitter` from 0 to 1.
    pub(crate) fn fails(&mut self, jitter: f64, now: Instant) -> Duration {
        // One outage is one strike, however many sessions it ends.
        if let Some(closed) = self.closed.as_ref().filter(|c| now < c.until) {
            return closed.until - now;
        }
        let wait = self.strike(jitter);
        self.close(Why::Away, now + wait);
        wait
    }

    /// The provider wants less: waits so long, then sends less at a time for a while.
    pub(crate) fn slow(&mut self, wait: Duration, narrower: bool, now: Instant) {
        if narrower && now >= self.narrowed_until {
            self.width = (self.width / 2).max(1);
            self.widen_at = now + wait + WIDEN_AFTER;
            self.narrowed_until = now + wait;
        }
        let why = if narrower { Why::Paused } else { Why::Quota };
        let is_pause = |closed: &Closed| matches!(closed.why, Why::Away | Why::Paused | Why::Quota);
        if !matches!(&self.closed, Some(c) if c.until > now + wait || !is_pause(c)) {
            self.close(why, now + wait);
        }
    }

    /// Stays closed until then at least, if it is closed: the provider asked for it.
    pub(crate) fn not_before(&mut self, until: Instant) {
        if let Some(closed) = &mut self.closed {
            closed.until = closed.until.max(until);
        }
    }

    /// Whether it is closed for so long that mail had better go by another account.
    pub(crate) fn gives_way(&self, now: Instant) -> bool {
        self.closed.as_ref().is_some_and(|closed| {
            let gives_way = matches!(closed.why, Why::Held(_) | Why::Stopped(_) | Why::Quota);
            now < closed.until && gives_way
        })
    }

    /// A person or a new token says: try now. The diagnosis stays until a message has passed.
    pub(crate) fn try_now(&mut self, now: Instant) {
        if let Some(closed) = self.closed.as_mut().filter(|it| !it.is_stopped()) {
            closed.until = now;
        }
    }

    /// The hold's diagnosis.
    pub(crate) fn held(&self) -> Option<&Diagnosis> {
        match &self.closed.as_ref()?.why {
            Why::Held(diagnosis) | Why::Stopped(diagnosis) => Some(diagnosis),
            Why::Token | Why::Away | Why::Paused | Why::Quota => None,
        }
    }

    /// Whether it is closed, for whatever reason.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.is_some()
    }

    /// Whether nobody may pass, not even as a trial.
    pub(crate) fn is_shut(&self, now: Instant) -> bool {
        self.closed
            .as_ref()
            .is_some_and(|closed| now < closed.until)
    }

    /// Transactions allowed at once now.
    pub(crate) fn width(&self, now: Instant) -> usize {
        match self.width < self.width_max && now >= self.widen_at {
            true => self.width + 1,
            false => self.width,
        }
    }

    /// What it does instead of letting everything through; `None`: it is wide open.
    pub(crate) fn state(&self, now: Instant) -> Option<&'static str> {
        match &self.closed {
            Some(closed) => Some(match closed.why {
                Why::Held(_) | Why::Stopped(_) => "held",
                Why::Token => "token",
                Why::Away | Why::Paused => "paused",
                Why::Quota => "quota",
            }),
            None => (self.width(now) < self.width_max).then_some("throttled"),
        }
    }

    /// Account failures in a row.
    pub(crate) fn strikes(&self) -> u32 {
        self.strikes
    }

    /// Whether it is closed because the server or the token could not be had, until a message has
    /// passed. A server that only wants us to go slower fails nothing.
    pub(crate) fn is_failing(&self) -> bool {
        let closed = self.closed.as_ref();
        closed.is_some_and(|closed| matches!(closed.why, Why::Away | Why::Token))
    }

    /// Until when it is closed without being on hold.
    pub(crate) fn paused_until(&self, now: Instant) -> Option<Instant> {
        let closed = self.closed.as_ref()?;
        let is_held = matches!(closed.why, Why::Held(_) | Why::Stopped(_));
        (!is_held && closed.until > now).then_some(closed.until)
    }

    fn is_stopped(&self) -> bool {
        self.closed.as_ref().is_some_and(Closed::is_stopped)
    }

    fn close(&mut self, why: Why, until: Instant) {
        if self.is_stopped() {
            return;
        }
        let (was, trial) = match self.closed.take() {
            Some(closed) => (Some(closed.why), closed.trial),
            None => (None, false),
        };
        // Other trouble on top of a hold does not hide what a person must do.
        let why = match (was, why) {
            (Some(held @ Why::Held(_)), Why::Token | Why::Away | Why::Paused | Why::Quota) => held,
            (Some(quota @ Why::Quota), Why::Away | Why::Paused) => quota,
            (_, why) => why,
        };
        self.closed = Some(Closed { why, until, trial });
    }

    fn strike(&mut self, jitter: f64) -> Duration {
        let wait = STRIKE_FIRST * 2u32.saturating_pow(self.strikes.min(STRIKES_DOUBLING));
        self.strikes = self.strikes.saturating_add(1);
        // From half to the whole: accounts that failed together do not come back together.
        wait.min(STRIKE_MAX)
            .mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
    }
}

/// No gate lives as long: a release starts the lane anew.
const STOPPED_FOR: Duration = Duration::from_secs(10 * 365 * 86_400);
/// A hold is tried again so often without anybody asking: a switch flipped at the provider tells
/// nobody.
const PROBE_EVERY: Duration = Duration::from_secs(600);
/// After a throttling reply, one connection more so often.
const WIDEN_AFTER: Duration = Duration::from_secs(300);
const STRIKE_FIRST: Duration = Duration::from_secs(2);
const STRIKE_MAX: Duration = Duration::from_secs(300);
/// 2 s doubled so often is above the maximum.
const STRIKES_DOUBLING: u32 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn diagnosis(reason: &str) -> Diagnosis {
        Diagnosis {
            reason: reason.into(),
            remedy: String::new(),
        }
    }

    #[test]
    fn no_more_transactions_than_connections() {
        let now = Instant::now();
        let mut gate = Gate::new(2, now);
        assert_eq!(gate.enter(now), Pass::Go);
        assert_eq!(gate.enter(now), Pass::Go);
        assert_eq!(gate.enter(now), Pass::Busy);
        gate.leave();
        assert_eq!(gate.enter(now), Pass::Go);
    }

    #[test]
    fn a_hold_is_told_once_and_ends_with_the_first_message_that_passes() {
        let now = Instant::now();
        let mut gate = Gate::new(2, now);
        assert!(gate.hold(diagnosis("off"), now));
        assert!(!gate.hold(diagnosis("off"), now));
        assert!(gate.hold(diagnosis("other"), now));
        assert_eq!(
            gate.enter(now),
            Pass::Closed {
                until: now + PROBE_EVERY,
                token: true
            }
        );
        gate.try_now(now);
        assert_eq!(gate.enter(now), Pass::Go);
        assert_eq!(gate.enter(now), Pass::Busy, "one message finds out");
        assert!(gate.held().is_some(), "until then it is on hold");
        assert!(gate.works());
        gate.leave();
        assert!(gate.held().is_none());
        assert_eq!(gate.enter(now), Pass::Go);
        assert_eq!(gate.enter(now), Pass::Go);
    }

    #[test]
    fn a_trial_that_shows_nothing_lets_the_next_one_try() {
        let now = Instant::now();
        let mut gate = Gate::new(2, now);
        gate.hold(diagnosis("off"), now);
        gate.try_now(now);
        assert_eq!(gate.enter(now), Pass::Go);
        gate.leave();
        assert_eq!(gate.enter(now), Pass::Go);
    }

    #[test]
    fn failures_back_off_to_minutes_and_one_outage_counts_once() {
        let mut now = Instant::now();
        let mut gate = Gate::new(2, now);
        let mut waits = Vec::new();
        for _ in 0..12 {
            waits.push(gate.fails(1.0, now));
            gate.fails(1.0, now);
            now += *waits.last().expect("a wait");
            assert_eq!(gate.enter(now), Pass::Go);
            gate.leave();
        }
        assert!(gate.is_failing(), "the trial has shown nothing yet");
        assert_eq!(waits.first(), Some(&STRIKE_FIRST));
        assert_eq!(waits.last(), Some(&STRIKE_MAX));
        assert!(waits.is_sorted());
        assert_eq!(gate.enter(now), Pass::Go);
        gate.works();
        gate.leave();
        assert!(!gate.is_failing());
        assert_eq!(
            gate.fails(0.0, now),
            STRIKE_FIRST / 2,
            "forgotten after a success"
        );
    }

    #[test]
    fn throttling_narrows_and_recovers_slowly() {
        let now = Instant::now();
        let mut gate = Gate::new(4, now);
        assert_eq!(gate.enter(now), Pass::Go);
        gate.slow(Duration::from_secs(60), true, now);
        assert!(
            !gate.works(),
            "a message that still passed does not lift a pause"
        );
        assert!(gate.paused_until(now).is_some());
        assert!(!gate.is_failing());
        gate.leave();
        let mut later = now + Duration::from_secs(60);
        assert_eq!(gate.enter(later), Pass::Go);
        gate.works();
        assert_eq!(gate.enter(later), Pass::Go);
        assert_eq!(gate.enter(later), Pass::Busy, "two of four at once");
        later += WIDEN_AFTER;
        assert_eq!(gate.enter(later), Pass::Go);
        assert_eq!(gate.enter(later), Pass::Busy);
        later += WIDEN_AFTER;
        assert_eq!(gate.enter(later), Pass::Go);
    }

    #[test]
    fn a_server_that_is_back_and_throttles_fails_no_longer() {
        let mut now = Instant::now();
        let mut gate = Gate::new(2, now);
        now += gate.fails(1.0, now);
        assert_eq!(gate.enter(now), Pass::Go);
        assert!(gate.is_failing());
        gate.slow(Duration::from_secs(60), true, now);
        gate.leave();
        assert!(!gate.is_failing());
        assert!(gate.paused_until(now).is_some());
    }

    #[test]
    fn what_was_on_its_way_together_narrows_once() {
        let now = Instant::now();
        let wait = Duration::from_secs(60);
        let mut gate = Gate::new(8, now);
        for _ in 0..8 {
            gate.slow(wait, true, now);
        }
        assert_eq!(gate.width(now), 4);
        gate.slow(wait, true, now + wait);
        assert_eq!(gate.width(now), 2, "told off again after the pause");
        assert_eq!(gate.state(now + wait), Some("paused"));
    }

    #[test]
    fn a_hold_and_a_quota_give_way_and_an_outage_does_not() {
        let now = Instant::now();
        let wait = Duration::from_secs(60);
        let closed = |close: &dyn Fn(&mut Gate)| {
            let mut gate = Gate::new(1, now);
            close(&mut gate);
            (gate.gives_way(now), gate.gives_way(now + PROBE_EVERY))
        };
        assert_eq!(
            closed(&|gate| {
                gate.hold(diagnosis("off"), now);
            }),
            (true, false)
        );
        assert_eq!(closed(&|gate| gate.slow(wait, false, now)), (true, false));
        assert_eq!(closed(&|gate| gate.slow(wait, true, now)), (false, false));
        assert_eq!(
            closed(&|gate| {
                gate.fails(0.5, now);
            }),
            (false, false)
        );
        assert_eq!(
            closed(&|gate| {
                gate.no_token(0.5, now);
            }),
            (false, false)
        );
        // Trouble on top does not make a day's limit shorter.
        let both = closed(&|gate| {
            gate.slow(wait, false, now);
            gate.slow(wait * 2, true, now);
        });
        assert_eq!(both, (true, false));
    }

    /// Whatever happens: a new token, `retry`, trouble of other kinds, time.
    #[test]
    fn what_an_operator_stopped_stays_stopped() {
        let now = Instant::now();
        let mut gate = Gate::new(2, now);
        gate.stop("alerts", now);
        let reason = |gate: &Gate| gate.held().map(|told| told.reason.clone());
        let told = reason(&gate);
        assert!(told.is_some());
        gate.try_now(now);
        assert!(!gate.hold(diagnosis("off"), now));
        gate.no_token(0.5, now);
        gate.fails(0.5, now);
        gate.slow(Duration::from_secs(1), true, now);
        let later = now + Duration::from_secs(86_400);
        let pass = gate.enter(later);
        assert!(
            matches!(pass, Pass::Closed { token: false, .. }),
            "{pass:?}"
        );
        assert!(!gate.works());
        assert_eq!((reason(&gate), gate.state(later)), (told, Some("held")));
        assert_eq!(gate.paused_until(later), None);
        assert!(gate.gives_way(later));
    }

    #[test]
    fn a_pause_never_hides_a_hold() {
        let now = Instant::now();
        let mut gate = Gate::new(1, now);
        gate.hold(diagnosis("off"), now);
        gate.slow(Duration::from_secs(1), true, now);
        gate.fails(0.5, now);
        assert!(gate.held().is_some());
    }
}
