//! From replies to outcomes: what an attempt means for each recipient, for the message and for the
//! account. Pure; the rules are the verdict table's.

use std::time::Duration;

use super::{
    transport::{Answers, Failure, Phase},
    verdict::{self, Action, Scope, TRIES, Verdict},
};
use crate::{
    mail::Reply,
    oauth::Kind,
    store::{Entry, RecipientState},
};

/// What an attempt came to, before it is written down.
#[derive(Debug)]
pub(crate) struct Plan {
    /// By index into the entry's recipients.
    pub(crate) outcomes: Vec<(usize, RecipientState, Option<Reply>)>,
    /// Recipients given up, with what is told about them.
    pub(crate) failed: Vec<(usize, &'static str)>,
    /// The last reply's verdict that gave one up.
    pub(crate) bounce: Option<Verdict>,
    /// Recipients the provider has taken.
    pub(crate) delivered: Vec<usize>,
    /// What happens to recipients still open.
    pub(crate) next: Next,
    /// Whether it counts as an attempt.
    pub(crate) counted: bool,
    /// Whether the final reply was lost.
    pub(crate) uncertain: bool,
    /// Why, in plain words.
    pub(crate) reason: Option<String>,
    /// What it showed about the account.
    pub(crate) account: Option<(Verdict, Reply)>,
    /// What each reply, or the broken session, was judged to be.
    pub(crate) verdicts: Vec<Verdict>,
    /// Replies that only a general row fitted.
    pub(crate) unknown: Vec<(Phase, Reply)>,
    /// How many recipients the server takes in one transaction, if it has just shown that.
    pub(crate) width: Option<usize>,
}

/// What happens to recipients still open; the greater wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Next {
    /// By the schedule.
    Schedule,
    /// After so long, because it is not the message that has to wait.
    After(Duration),
    /// At a person's word.
    Hold,
}

impl Plan {
    fn new() -> Self {
        Self {
            outcomes: Vec::new(),
            failed: Vec::new(),
            bounce: None,
            delivered: Vec::new(),
            next: Next::Schedule,
            counted: false,
            uncertain: false,
            reason: None,
            account: None,
            verdicts: Vec::new(),
            unknown: Vec::new(),
            width: None,
        }
    }

    /// Judges the replies to the recipients at `tried`.
    pub(crate) fn from_answers(
        kind: Kind,
        entry: &Entry,
        tried: &[usize],
        answers: Answers,
    ) -> Self {
        let mut plan = Self::new();
        let mut split = 0;
        for (index, (phase, reply)) in tried.iter().copied().zip(answers) {
            let verdict = verdict::judge(kind, phase, &reply);
            split += usize::from(verdict.action == Action::Split);
            plan.verdicts.push(verdict);
            if !verdict.known && !plan.unknown.iter().any(|(_, known)| *known == reply) {
                plan.unknown.push((phase, reply.clone()));
            }
            plan.recipient(entry, index, verdict, reply);
        }
        if split > 0 {
            let taken = tried.len() - split;
            plan.width = Some(if taken > 0 { taken } else { tried.len() / 2 });
        }
        // A server that does not even take one recipient is not asked again at once, for nobody.
        if split == 1 && tried.len() == 1 {
            let had_its_turn = |(_, state, _): &mut (_, RecipientState, _)| {
                *state = RecipientState::Deferred;
            };
            plan.outcomes.iter_mut().for_each(had_its_turn);
            plan.next = Next::Schedule;
            plan.counted = true;
            return plan;
        }
        // So do those that this transaction had no room for: they have not had their turn.
        let untried = entry
            .recipients
            .iter()
            .enumerate()
            .any(|(index, recipient)| {
                recipient.state == RecipientState::Queued && !tried.contains(&index)
            });
        if untried && plan.next == Next::Schedule {
            plan.next = Next::After(Duration::ZERO);
        }
        plan
    }

    fn recipient(&mut self, entry: &Entry, index: usize, verdict: Verdict, reply: Reply) {
        let last_try = entry.attempts + 1 >= TRIES;
        let action = match verdict.action {
            Action::RetryThenBounce if last_try => Action::Bounce,
            Action::RetryThenHold if last_try => Action::Hold,
            Action::RetryThenBounce | Action::RetryThenHold => Action::Retry,
            Action::Delivered
            | Action::Retry
            | Action::Split
            | Action::Slow(_)
            | Action::Wait(_)
            | Action::Relogin
            | Action::Hold
            | Action::Bounce => verdict.action,
        };
        let state = match action {
            Action::Delivered => {
                self.delivered.push(index);
                RecipientState::Delivered
            }
            Action::Bounce => {
                self.failed.push((index, verdict.reason));
                self.bounce = Some(verdict);
                RecipientState::Bounced
            }
            // It has not had its turn.
            Action::Split => {
                self.open(action, verdict, &reply);
                RecipientState::Queued
            }
            Action::Retry
            | Action::RetryThenBounce
            | Action::RetryThenHold
            | Action::Slow(_)
            | Action::Wait(_)
            | Action::Relogin
            | Action::Hold => {
                self.open(action, verdict, &reply);
                RecipientState::Deferred
            }
        };
        self.outcomes.push((index, state, Some(reply)));
    }

    /// A recipient stays open.
    fn open(&mut self, action: Action, verdict: Verdict, reply: &Reply) {
        let next = match action {
            Action::Split => Next::After(Duration::ZERO),
            Action::Hold if verdict.scope != Scope::Account => Next::Hold,
            // The account waits as long as it must; its messages take turns in finding out.
            Action::Hold | Action::Relogin => Next::After(ACCOUNT_TURN),
            Action::Slow(wait) | Action::Wait(wait) => Next::After(wait.min(ACCOUNT_TURN)),
            Action::Retry
            | Action::RetryThenBounce
            | Action::RetryThenHold
            | Action::Bounce
            | Action::Delivered => {
                self.counted = true;
                Next::Schedule
            }
        };
        self.next = self.next.max(next);
        self.reason = Some(format!("{}: {reply}", verdict.reason));
        let about_account = matches!(verdict.scope, Scope::Account | Scope::Session);
        if about_account && self.account.is_none() {
            self.account = Some((Verdict { action, ..verdict }, reply.clone()));
        }
    }

    /// The session ended in the middle of the message: everybody tried is tried again.
    pub(crate) fn from_failure(kind: Kind, tried: &[usize], failure: &Failure) -> Self {
        let verdict = verdict::judge_failure(kind, failure);
        let mut plan = Self::new();
        plan.verdicts = vec![verdict];
        plan.outcomes = tried
            .iter()
            .map(|index| (*index, RecipientState::Deferred, None))
            .collect();
        plan.counted = true;
        plan.uncertain = failure.uncertain;
        plan.reason = Some(format!("{}: {}", verdict.reason, failure.cause));
        plan
    }

    /// Gives up everybody still open: the lifetime is over.
    pub(crate) fn expire(&mut self, entry: &Entry) {
        let closed: Vec<usize> = self
            .delivered
            .iter()
            .copied()
            .chain(self.failed.iter().map(|(i, _)| *i))
            .collect();
        for index in open_recipients(entry).filter(|index| !closed.contains(index)) {
            self.failed.push((index, EXPIRED));
            match self.outcomes.iter_mut().find(|(at, ..)| *at == index) {
                Some((_, state, _)) => *state = RecipientState::Expired,
                None => self.outcomes.push((index, RecipientState::Expired, None)),
            }
        }
    }

    /// Instead of giving recipients up, leaves them open for a person.
    pub(crate) fn hold_failed(&mut self, why: &str) {
        for (index, _) in self.failed.drain(..) {
            if let Some((_, state, _)) = self.outcomes.iter_mut().find(|(at, ..)| *at == index) {
                *state = RecipientState::Deferred;
            }
        }
        self.next = Next::Hold;
        self.reason = Some(match self.reason.take() {
            Some(reason) => format!("{why}; {reason}"),
            None => why.to_owned(),
        });
    }
}

/// Indices of the recipients that still wait for their outcome.
pub(crate) fn open_recipients(entry: &Entry) -> impl Iterator<Item = usize> {
    let recipients = entry.recipients.iter().enumerate();
    recipients
        .filter(|(_, r)| r.state.is_open())
        .map(|(index, _)| index)
}

/// The recipients of the next transaction, at most `width`: those who have not had a turn, and only
/// when there are none, those who were deferred: their wait is not over because others are in line.
pub(crate) fn next_recipients(width: usize, entry: &Entry) -> Vec<usize> {
    let state = |index: &usize| entry.recipients.get(*index).map(|r| r.state);
    let (mut next, tried): (Vec<_>, Vec<_>) =
        open_recipients(entry).partition(|index| state(index) == Some(RecipientState::Queued));
    if next.is_empty() {
        next = tried;
    }
    next.truncate(width.max(1));
    next
}

/// A message that met trouble of the account stands back so long, so that another finds out next.
const ACCOUNT_TURN: Duration = Duration::from_secs(60);
/// Told about a recipient whose time is up.
pub(crate) const EXPIRED: &str = "it could not be delivered within its lifetime";

#[cfg(test)]
pub(crate) mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::{
        delivery::transport::Cause,
        mail::{AccountName, Address, BodyType, EnhancedCode, QueueId, Recipient, ReversePath},
        store::{EntryState, RecipientEntry},
    };

    /// An entry with so many recipients that nobody has tried.
    pub(crate) fn entry(recipients: usize) -> Entry {
        let recipients = (0..recipients).map(|n| RecipientEntry {
            recipient: Recipient::new(Address::parse(&format!("r{n}@x.example")).expect("valid")),
            state: RecipientState::Queued,
            reply: None,
        });
        Entry {
            id: QueueId::from_i64(1),
            account: AccountName::new("alerts"),
            reverse_path: ReversePath::Address(Address::parse("app@b.example").expect("valid")),
            recipients: recipients.collect(),
            body: BodyType::SevenBit,
            smtputf8: false,
            ret: None,
            envid: None,
            size: 100,
            received_at: Timestamp::UNIX_EPOCH,
            client: None,
            state: EntryState::Queued,
            next_attempt_at: Timestamp::UNIX_EPOCH,
            attempts: 0,
            uncertain: false,
            reason: None,
            delay_warned: false,
        }
    }

    fn reply(code: u16, enhanced: &str, text: &str) -> Reply {
        Reply::new(code, EnhancedCode::parse(enhanced), text)
    }

    fn states(plan: &Plan) -> Vec<RecipientState> {
        plan.outcomes.iter().map(|(_, state, _)| *state).collect()
    }

    use RecipientState::{Bounced, Deferred, Delivered, Expired};

    #[test]
    fn each_recipient_has_its_own_outcome() {
        let entry = entry(3);
        let plan = Plan::from_answers(
            Kind::Custom,
            &entry,
            &[0, 1, 2],
            vec![
                (Phase::End, reply(250, "2.0.0", "queued")),
                (Phase::Rcpt, reply(450, "4.2.1", "busy")),
                (Phase::Rcpt, reply(550, "5.1.1", "unknown")),
            ],
        );
        assert_eq!(states(&plan), [Delivered, Deferred, Bounced]);
        assert_eq!(plan.delivered, [0]);
        assert_eq!(plan.failed.len(), 1);
        assert_eq!(plan.next, Next::Schedule);
        assert!(plan.counted && !plan.uncertain && plan.account.is_none());
    }

    #[test]
    fn too_many_recipients_go_on_at_once_while_some_pass() {
        let entry = entry(2);
        let split = (Phase::Rcpt, reply(452, "4.5.3", "too many recipients"));
        let sent = (Phase::End, reply(250, "2.0.0", "ok"));
        let plan = Plan::from_answers(
            Kind::Google,
            &entry,
            &[0, 1],
            vec![sent.clone(), split.clone()],
        );
        assert_eq!(states(&plan), [Delivered, RecipientState::Queued]);
        assert_eq!(plan.next, Next::After(Duration::ZERO));
        assert_eq!((plan.counted, plan.width), (false, Some(1)));
        // A server that takes nobody is asked with half as many, but not for ever.
        let all = vec![split.clone(), split.clone()];
        let plan = Plan::from_answers(Kind::Google, &entry, &[0, 1], all);
        assert_eq!(plan.next, Next::After(Duration::ZERO));
        assert_eq!((plan.counted, plan.width), (false, Some(1)));
        let plan = Plan::from_answers(Kind::Google, &entry, &[0], vec![split]);
        assert_eq!((plan.next, plan.counted), (Next::Schedule, true));
        assert_eq!(states(&plan), [Deferred]);
        // The rest of a long list is next, at once.
        let plan = Plan::from_answers(Kind::Google, &entry, &[0], vec![sent]);
        assert_eq!(plan.next, Next::After(Duration::ZERO));
    }

    #[test]
    fn the_accounts_trouble_burns_no_attempt_and_keeps_what_passed() {
        let entry = entry(2);
        let plan = Plan::from_answers(
            Kind::Microsoft,
            &entry,
            &[0, 1],
            vec![
                (Phase::End, reply(250, "2.0.0", "ok")),
                (Phase::Rcpt, reply(550, "5.7.233", "tenant limit")),
            ],
        );
        assert_eq!(states(&plan), [Delivered, Deferred]);
        assert!(!plan.counted && plan.next == Next::After(ACCOUNT_TURN));
        let (verdict, _) = plan.account.expect("trouble of the account");
        assert!(matches!(verdict.action, Action::Wait(_)));
    }

    #[test]
    fn some_refusals_get_three_tries() {
        let mut entry = entry(1);
        let answer = || {
            vec![(
                Phase::End,
                reply(554, "5.2.0", "STOREDRV.Submission.Exception"),
            )]
        };
        for attempts in 0..4 {
            entry.attempts = attempts;
            let plan = Plan::from_answers(Kind::Microsoft, &entry, &[0], answer());
            let wanted = if attempts < 2 { Deferred } else { Bounced };
            assert_eq!(states(&plan), [wanted], "after {attempts} attempts");
        }
        // The same with the account at stake ends in a hold.
        let answer = || vec![(Phase::End, reply(430, "4.2.0", "mailbox logon failure"))];
        entry.attempts = 0;
        let plan = Plan::from_answers(Kind::Microsoft, &entry, &[0], answer());
        assert!(matches!(
            plan.account,
            Some((
                Verdict {
                    action: Action::Retry,
                    ..
                },
                _
            ))
        ));
        entry.attempts = 2;
        let plan = Plan::from_answers(Kind::Microsoft, &entry, &[0], answer());
        assert!(matches!(
            plan.account,
            Some((
                Verdict {
                    action: Action::Hold,
                    ..
                },
                _
            ))
        ));
        assert_eq!(states(&plan), [Deferred]);
    }

    #[test]
    fn a_lost_final_reply_is_uncertain_and_tried_again() {
        let failure = |uncertain| Failure {
            phase: Phase::End,
            cause: Cause::Closed,
            uncertain,
        };
        let plan = Plan::from_failure(Kind::Google, &[0, 1], &failure(true));
        assert_eq!(states(&plan), [Deferred, Deferred]);
        assert!(plan.uncertain && plan.counted && plan.next == Next::Schedule);
        assert!(!Plan::from_failure(Kind::Google, &[0], &failure(false)).uncertain);
    }

    #[test]
    fn expiry_gives_up_all_that_are_open_and_nobody_else() {
        let mut entry = entry(4);
        entry.recipients[3].state = Delivered;
        let mut plan = Plan::from_answers(
            Kind::Custom,
            &entry,
            &[0, 1],
            vec![
                (Phase::End, reply(250, "2.0.0", "ok")),
                (Phase::Rcpt, reply(450, "4.2.1", "busy")),
            ],
        );
        plan.expire(&entry);
        assert_eq!(states(&plan), [Delivered, Expired, Expired]);
        assert_eq!(plan.failed, [(1, EXPIRED), (2, EXPIRED)]);
        assert!(
            plan.outcomes[1].2.is_some(),
            "the last reply is kept for the report"
        );
    }

    #[test]
    fn a_long_list_gives_everybody_a_turn() {
        let mut entry = entry(250);
        let busy = || (Phase::Rcpt, reply(450, "4.2.1", "busy"));
        for turn in 0..3 {
            let tried = next_recipients(100, &entry);
            let first = turn * 100;
            assert_eq!(tried.first(), Some(&first));
            let answers = tried.iter().map(|_| busy()).collect();
            let plan = Plan::from_answers(Kind::Google, &entry, &tried, answers);
            let last = turn == 2;
            assert_eq!(plan.next == Next::Schedule, last, "turn {turn}");
            for (index, state, _) in plan.outcomes {
                entry.recipients[index].state = state;
            }
        }
    }

    /// Who was told to come later is not asked again because others have not been asked yet.
    #[test]
    fn a_deferred_recipient_waits_while_others_have_their_turn() {
        let mut entry = entry(3);
        entry.recipients[0].state = Deferred;
        assert_eq!(next_recipients(100, &entry), [1, 2]);
        entry.recipients[1].state = Delivered;
        entry.recipients[2].state = Deferred;
        assert_eq!(next_recipients(100, &entry), [0, 2]);
        assert_eq!(next_recipients(0, &entry), [0]);
    }

    #[test]
    fn what_may_not_bounce_waits_for_a_person() {
        let entry = entry(2);
        let mut plan = Plan::from_answers(
            Kind::Custom,
            &entry,
            &[0, 1],
            vec![
                (Phase::End, reply(250, "2.0.0", "ok")),
                (Phase::Rcpt, reply(550, "5.1.1", "unknown")),
            ],
        );
        plan.hold_failed("no one to tell");
        assert_eq!(states(&plan), [Delivered, Deferred]);
        assert_eq!(plan.next, Next::Hold);
        assert!(plan.failed.is_empty());
    }
}
