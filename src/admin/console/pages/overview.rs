//! The overview: is mail flowing, and if not, what to do.

use std::sync::Arc;

use askama::Template;
use axum::{extract::State, http::StatusCode};
use jiff::{SignedDuration, Timestamp};

use crate::{
    admin::{
        Shared,
        api::{self, Account, AccountState},
        console::{
            Frame, Page, Visitor,
            history::Minute,
            render,
            view::{Badge, Chart, Moment},
        },
        handlers::{self, AppState},
        text,
    },
    mail::AccountName,
    queue::Counts,
    store::{EntryState, Filter},
};

#[derive(Template)]
#[template(path = "admin/console/pages/overview.html")]
struct Overview {
    frame: Frame,
    flow: Flow,
    accounts: Vec<Row>,
    queue: QueueFigures,
    status: api::Status,
    delivered: Chart,
    failed: Chart,
    /// Since when these two count, where it is less than an hour.
    counted_since: Option<Moment>,
    disk: Option<Disk>,
    /// What will end by itself, and remarks on the configuration: reason and remedy.
    warnings: Vec<(String, String)>,
}

/// Whether mail is flowing, in a sentence.
#[derive(Debug, PartialEq, Eq)]
struct Flow {
    /// As a badge's.
    tone: &'static str,
    /// The answer.
    answer: &'static str,
    /// What goes with it.
    more: String,
}

/// An account of the table.
struct Row {
    account: Account,
    /// Its page.
    path: String,
    badge: Badge,
    /// When its access token expires.
    token: Option<Moment>,
}

/// How much waits, and for how long.
#[derive(Debug, Default)]
struct QueueFigures {
    queued: u64,
    held: u64,
    oldest: Option<Moment>,
}

/// The file system under the state directory.
struct Disk {
    free: String,
    percent_used: u64,
}

pub(in crate::admin::console) async fn show(State(shared): AppState, visitor: Visitor) -> Page {
    let now = shared.parts.clock.now();
    let counts = shared.parts.queue.counts().await?;
    let accounts = shared.accounts_with(&counts);
    let status = handlers::status(State(Arc::clone(&shared))).await.0;
    let queue = figures(&shared, &counts, now).await?;
    let hour = shared.history.last_hour();
    let lane = |account: &Account| shared.parts.delivery.status(&account.name);
    let is_failing = |account: &Account| lane(account).is_some_and(|lane| lane.failing);
    let chart =
        |what, of: fn(&Minute) -> u64| Chart::new(what, &hour.iter().map(of).collect::<Vec<_>>());
    let begun = shared.history.begun();
    let page = Overview {
        counted_since: begun.map(|ago| Moment::new(minutes_before(now, ago), now)),
        delivered: chart("delivered", |minute| minute.delivered),
        failed: chart("returned", |minute| minute.failed),
        warnings: warnings(&accounts, &shared.view().warnings),
        frame: Frame::new(&shared, &visitor, "/"),
        flow: flow(&accounts, is_failing, &counts, &status.not_ready, now),
        queue,
        disk: disk(&status.state_dir),
        status,
        accounts: accounts.into_iter().map(|a| Row::new(a, now)).collect(),
    };
    Ok(render(StatusCode::OK, &page))
}

fn minutes_before(now: Timestamp, minutes: u64) -> Timestamp {
    let minutes = SignedDuration::from_mins(i64::try_from(minutes).unwrap_or(i64::MAX / 60));
    now.saturating_sub(minutes).unwrap_or(now)
}

impl Row {
    fn new(account: Account, now: Timestamp) -> Self {
        Self {
            badge: account.state.into(),
            token: account.token_expires_at.map(|at| Moment::new(at, now)),
            path: super::account::path(account.name.as_str()),
            account,
        }
    }

    fn needs_sign_in(&self) -> bool {
        self.account.state == AccountState::SignInNeeded
    }
}

/// Each once: accounts of one provider share its secret. A remedy names the account, which is the
/// first one's then.
fn warnings(accounts: &[Account], configuration: &[String]) -> Vec<(String, String)> {
    let mut warnings: Vec<(String, String)> = Vec::new();
    for account in accounts {
        let of = account.provider.as_deref().unwrap_or(account.name.as_str());
        for warning in &account.warnings {
            let reason = format!("{of}: {}", warning.reason);
            if !warnings.iter().any(|(told, _)| *told == reason) {
                warnings.push((reason, warning.remedy.clone()));
            }
        }
    }
    let configuration = configuration.iter();
    warnings.extend(configuration.map(|warning| (warning.clone(), String::new())));
    warnings
}

/// A server that is away for a moment is nobody's business; mail that has waited so long for it is.
const WAIT_MAX: SignedDuration = SignedDuration::from_mins(2);

/// The one sentence at the top. Stricter than readiness: an account whose server is away takes mail,
/// and sends none.
fn flow(
    accounts: &[Account],
    is_failing: impl Fn(&Account) -> bool,
    counts: &[(AccountName, Counts)],
    not_ready: &[String],
    now: Timestamp,
) -> Flow {
    let waits_too_long = |account: &Account| {
        let mut counts = counts.iter().filter(|(name, _)| *name == account.name);
        let oldest = counts.find_map(|(_, counts)| counts.oldest_at);
        oldest.is_some_and(|at| now.duration_since(at) > WAIT_MAX)
    };
    // The state alone does not tell: a token that cannot be refreshed for now still sends until it ends.
    let is_stuck = |account: &&Account| {
        !account.can_send(now) || (is_failing(account) && waits_too_long(account))
    };
    let stuck: Vec<&str> = (accounts.iter().filter(is_stuck))
        .map(|account| account.name.as_str())
        .collect();
    if accounts.is_empty() {
        return Flow {
            tone: "warn",
            answer: "Nothing is set up to send mail yet.",
            more: String::new(),
        };
    }
    let waits = format!("In the queue waits what goes through {}.", stuck.join(", "));
    if stuck.len() == accounts.len() || !not_ready.is_empty() {
        return Flow {
            tone: "bad",
            answer: "Mail is not flowing.",
            more: match not_ready {
                [] => waits,
                missing => missing.join("; "),
            },
        };
    }
    match stuck.as_slice() {
        [] => Flow {
            tone: "good",
            answer: "Mail is flowing.",
            more: String::new(),
        },
        _ => Flow {
            tone: "warn",
            answer: "Mail is flowing, but not through every account.",
            more: waits,
        },
    }
}

async fn figures(
    shared: &Shared,
    counts: &[(AccountName, Counts)],
    now: Timestamp,
) -> Result<QueueFigures, crate::store::Error> {
    let oldest = Filter {
        state: Some(EntryState::Queued),
        limit: Some(1),
        ..Filter::default()
    };
    let oldest = shared.parts.queue.list(oldest).await?;
    Ok(QueueFigures {
        queued: counts.iter().map(|(_, counts)| counts.queued).sum(),
        held: counts.iter().map(|(_, counts)| counts.held).sum(),
        oldest: oldest
            .first()
            .map(|entry| Moment::new(entry.received_at, now)),
    })
}

/// One cheap system call; none where it cannot be told.
fn disk(state_dir: &std::path::Path) -> Option<Disk> {
    let stat = rustix::fs::statvfs(state_dir).ok()?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let used = stat.f_blocks.saturating_sub(stat.f_bfree);
    Some(Disk {
        free: text::size(free),
        percent_used: used.saturating_mul(100).checked_div(stat.f_blocks)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        admin::api::{AccountFacts, AccountState, Transport},
        oauth::Warning,
    };

    fn account(name: &str, state: AccountState) -> Account {
        let facts = AccountFacts {
            name: AccountName::new(name),
            mailbox: String::new(),
            provider: Some("contoso".into()),
            grant: None,
            transport: Transport::Smtp,
        };
        Account {
            state,
            ..Account::new(&facts, None, None, 0, Timestamp::UNIX_EPOCH)
        }
    }

    /// The answer is no only when nothing can leave.
    #[test]
    fn the_sentence_says_whether_mail_flows() {
        use AccountState::{Held, Ready, SignInNeeded};
        let cases: [(&[AccountState], &[&str], &str); 5] = [
            (&[], &["no account can send"], "warn"),
            (&[Ready, Ready], &[], "good"),
            (&[Ready, Held], &[], "warn"),
            (&[SignInNeeded], &["no account can send"], "bad"),
            (&[Ready], &["the store takes no mail: full"], "bad"),
        ];
        for (states, not_ready, tone) in cases {
            let accounts: Vec<_> = states.iter().map(|state| account("a", *state)).collect();
            let not_ready: Vec<_> = not_ready.iter().map(ToString::to_string).collect();
            let flow = flow(&accounts, |_| false, &[], &not_ready, Timestamp::UNIX_EPOCH);
            assert_eq!(flow.tone, tone, "{states:?} {not_ready:?}: {flow:?}");
        }
    }

    /// Ready to take mail is not the same as mail that flows: that server refused every session.
    #[test]
    fn mail_that_waits_for_a_server_does_not_flow() {
        let mut retrying = account("a", AccountState::Retrying);
        retrying.provider = None;
        let ready = account("b", AccountState::Ready);
        let now = Timestamp::UNIX_EPOCH + SignedDuration::from_hours(1);
        let told = |accounts: &[Account], failing: &str, waited: SignedDuration| {
            let counts = Counts {
                queued: 1,
                oldest_at: Some(now - waited),
                ..Counts::default()
            };
            let counts: Vec<_> = (accounts.iter())
                .map(|account| (account.name.clone(), counts))
                .collect();
            let is_failing = |account: &Account| account.name.as_str() == failing;
            flow(accounts, is_failing, &counts, &[], now).tone
        };
        let tone = |accounts: &[Account], waited| told(accounts, "a", waited);
        let (moment, minutes) = (SignedDuration::from_secs(5), SignedDuration::from_mins(3));
        let alone = [retrying.clone()];
        assert_eq!(
            (tone(&alone, moment), tone(&alone, minutes)),
            ("good", "bad")
        );
        assert_eq!(tone(&[retrying, ready.clone()], minutes), "warn");
        // A recipient that is asked to wait is nothing of the account's.
        assert_eq!(tone(&[ready], minutes), "good");
        // Nor is a token that cannot be refreshed while the old one sends.
        let mut refreshing = account("a", AccountState::Retrying);
        refreshing.token_expires_at = Some(now + SignedDuration::from_mins(4));
        assert_eq!(told(&[refreshing], "", minutes), "good");
    }

    #[test]
    fn a_warning_of_a_shared_profile_is_told_once() {
        let mut accounts = [
            account("a", AccountState::Ready),
            account("b", AccountState::Ready),
        ];
        for account in &mut accounts {
            account.warnings.push(Warning {
                reason: "the client secret expires in 12 days".into(),
                remedy: "make a new one".into(),
                expires_at: Timestamp::UNIX_EPOCH,
            });
        }
        let told = warnings(&accounts, &["remark".into()]);
        let reasons: Vec<&str> = told.iter().map(|(reason, _)| reason.as_str()).collect();
        let wanted = ["contoso: the client secret expires in 12 days", "remark"];
        assert_eq!(reasons, wanted);
    }
}
