//! Days and hours in simulated time: throttles, outages, limits, and who has to wait for whom.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use super::world::{Chance, Fault, GENEROUS, MICROSOFT, Published, World, account, microsoft};
use crate::{
    delivery::Limits,
    oauth::Kind,
    queue::trace::{Event, Fact},
    store::EntryState,
};

const MINUTE: u64 = 60;
const HOUR: u64 = 3600;
const DAY: u64 = 86_400;

/// The seed; another one by `GATEPOST_SIM_SEED`.
#[expect(
    clippy::disallowed_methods,
    reason = "a seed that failed elsewhere is replayed by it"
)]
fn seed() -> u64 {
    let given = std::env::var("GATEPOST_SIM_SEED").ok();
    given.and_then(|seed| seed.parse().ok()).unwrap_or(1)
}

const ACCOUNTS: usize = 20;
/// Sends a backlog beside single messages of another sender; nothing befalls it but its limits.
const BULK: usize = 0;
/// Nothing befalls it at all: what happens to the others must not show here.
const CALM: usize = 19;
/// Has a day's limit that it meets.
const SHORT: usize = 1;
const SHORT_DAY: u32 = 40;

fn accounts() -> Vec<(crate::delivery::Account, Published)> {
    let of = |number| match number {
        SHORT => {
            let limits = Limits {
                recipients_per_day: Some(SHORT_DAY),
                ..microsoft()
            };
            let published = Published {
                recipients_per_day: usize::try_from(SHORT_DAY).unwrap(),
                ..MICROSOFT
            };
            (account(number, Kind::Microsoft, limits), published)
        }
        0..14 => (account(number, Kind::Microsoft, microsoft()), MICROSOFT),
        14..17 => {
            let limits = Limits {
                connections: 2,
                messages_per_minute: None,
                recipients_per_day: Some(2_000),
                recipients_per_message: 100,
            };
            (account(number, Kind::Google, limits), GENEROUS)
        }
        _ => {
            let limits = Limits {
                connections: 5,
                messages_per_minute: None,
                recipients_per_day: None,
                recipients_per_message: 100,
            };
            let published = Published {
                connections: 5,
                ..GENEROUS
            };
            (account(number, Kind::Custom, limits), published)
        }
    };
    (0..ACCOUNTS).map(of).collect()
}

/// What befalls the providers.
fn befall(world: &World, chance: &mut Chance) {
    // Sooner than ours do: as a provider does that counts from another moment.
    world.providers[BULK].will(0..DAY, Fault::Ages(3));
    for (number, provider) in world.providers.iter().enumerate() {
        if number == CALM || number == BULK {
            continue;
        }
        provider.will(0..DAY, Fault::Breaks(50));
        provider.will(0..DAY, Fault::LosesReply(80));
        let mut while_ = |minutes: u64, fault| {
            let from = chance.of(0..DAY - minutes * MINUTE);
            let long = chance.of(MINUTE..minutes * MINUTE);
            provider.will(from..from + long, fault);
        };
        while_(90, Fault::Down);
        while_(20, Fault::Down);
        let throttle = match number % 4 {
            0 => "432 4.3.2 Concurrent connections limit exceeded",
            1 => "451 4.7.500 Server busy, please try again in 120 seconds",
            2 => "421 4.3.2 Service not active",
            _ => "421 4.7.28 unusual rate, try again later",
        };
        while_(30, Fault::Mail(throttle));
        while_(30, Fault::End("451 4.3.0 a passing problem"));
        match number {
            5 => while_(60, Fault::Auth("535 5.7.139 disabled for the Mailbox")),
            6 => while_(
                60,
                Fault::End(
                    "554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException",
                ),
            ),
            7 => while_(60, Fault::End("554 5.2.2 mailbox full")),
            _ => (),
        }
    }
}

/// An account's day: when which sender sends to whom.
fn day_of(number: usize, chance: &mut Chance) -> Vec<(u64, String, Vec<&'static str>)> {
    let mut day = Vec::new();
    if number == BULK {
        let bulk = |_| (HOUR, "bulk@b.example".to_owned(), vec!["r"]);
        day.extend((0..700).map(bulk));
        let single = |n| (n * 10 * MINUTE + 30, "ops@b.example".to_owned(), vec!["r"]);
        day.extend((0..144_u64).map(single));
    } else {
        for _ in 0..chance.of(30..70) {
            let sender = format!("s{}@b.example", chance.of(0..4));
            let mut recipients = vec!["r"];
            if chance.one_in(4) {
                recipients.push("busy");
            }
            if chance.one_in(6) {
                recipients.push("bad");
            }
            day.push((chance.of(0..DAY), sender, recipients));
        }
    }
    day.sort();
    day
}

#[tokio::test(start_paused = true)]
async fn a_day_with_twenty_accounts() {
    let seed = seed();
    let mut chance = Chance(seed);
    let world = World::new(seed, accounts()).await;
    befall(&world, &mut chance);
    for number in 0..ACCOUNTS {
        let day = day_of(number, &mut chance);
        let sending = Arc::clone(&world);
        world.tasks.spawn("sender", async move {
            for (second, sender, recipients) in day {
                sending.until(second).await;
                sending.send(number, &sender, &recipients).await;
            }
        });
    }
    world.until(DAY / 2).await;
    world.restart().await;
    world.until(DAY + 1).await;
    world.drained(72).await;
    world.judge(seed);

    // Connections that the provider closes cost nobody an attempt.
    for story in world.stories("bulk@b.example").await {
        let attempted = |fact: &&Fact| matches!(fact.event, Event::Attempted(_));
        let attempts = story.facts.iter().filter(attempted).count();
        assert_eq!(attempts, 1, "seed {seed}: {story:?}");
    }
    let delays = world.delays();
    let accepted = world.accepted.lock().unwrap();
    let delay = |fits: &dyn Fn(&super::world::Accepted) -> bool| {
        let fitting = accepted
            .iter()
            .zip(0..)
            .filter(|(accepted, _)| fits(accepted));
        fitting.map(|(_, number)| delays[&number]).max().unwrap()
    };
    let bulk = delay(&|a| a.sender == "bulk@b.example");
    assert!(
        bulk > Duration::from_secs(20 * MINUTE),
        "seed {seed}: the backlog lasts: {bulk:?}"
    );
    let single = delay(&|a| a.sender == "ops@b.example");
    assert!(
        single < Duration::from_secs(3 * MINUTE),
        "seed {seed}: one waits: {single:?}"
    );
    let calm = delay(&|a| a.account == CALM && a.recipients.len() == 1);
    assert!(
        calm < Duration::from_secs(30),
        "seed {seed}: the calm one: {calm:?}"
    );
}

/// Row 29 of the reliability table: each of Exchange's limits, on an account with a backlog.
#[tokio::test(start_paused = true)]
async fn exchange_limits_pause_or_hold_and_bounce_nothing() {
    let cases = [
        (
            "432 4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded",
            false,
        ),
        ("421 4.3.2 Service not available", false),
        ("451 4.7.500 Server busy. Please try again later", false),
        (
            "554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException",
            false,
        ),
        (
            "554 5.2.2 mailbox full; STOREDRV.Submission.Exception:QuotaExceededException",
            true,
        ),
    ];
    let of = |number| (account(number, Kind::Microsoft, microsoft()), MICROSOFT);
    let world = World::new(1, (0..cases.len()).map(of).collect()).await;
    for (number, (reply, _)) in cases.iter().enumerate() {
        let fault = match reply.starts_with('5') {
            true => Fault::End(reply),
            false => Fault::Mail(reply),
        };
        world.providers[number].will(0..HOUR, fault);
        for _ in 0..50 {
            world.send(number, "app@b.example", &["r"]).await;
        }
    }
    world.until(HOUR / 2).await;
    let waiting = world.waiting().await;
    assert_eq!(
        waiting.len(),
        50 * cases.len(),
        "nothing has left, nothing is lost"
    );
    for (number, (reply, held)) in cases.iter().enumerate() {
        let status = world.status(number).await;
        let diagnosis = status.held.map(|held| held.reason);
        assert_eq!(diagnosis.is_some(), *held, "{reply}");
        assert!(!held || diagnosis.unwrap().contains("the mailbox is full"));
        let name = super::world::name(number);
        let own = waiting.iter().filter(|entry| entry.account == name);
        for entry in own {
            assert_eq!(entry.state, EntryState::Queued, "{reply}");
            // 421 says nothing about throttling: it is a failed session.
            assert!(entry.attempts == 0 || reply.starts_with("421"), "{reply}");
        }
    }
    world.drained(24).await;
    world.judge(1);
    sleep(Duration::from_secs(HOUR / 2)).await;
    assert!(!world.status(0).await.pace.throttled, "recovered");
}

/// Row 34: an hour without network, and a backlog when it is back.
#[tokio::test(start_paused = true)]
async fn after_an_outage_a_backlog_leaves_without_a_burst() {
    const BACKLOG: u64 = 10_000;
    let limits = Limits {
        connections: 4,
        messages_per_minute: Some(600),
        recipients_per_day: None,
        recipients_per_message: 100,
    };
    let published = Published {
        connections: 4,
        per_minute: 630,
        ..GENEROUS
    };
    let world = World::new(2, vec![(account(0, Kind::Custom, limits), published)]).await;
    world.providers[0].will(0..HOUR, Fault::Down);
    world.providers[0].answers_within(5..20);
    for n in 0..BACKLOG {
        world.send(0, "app@b.example", &["r"]).await;
        if n % (BACKLOG / 100) == 0 {
            sleep(Duration::from_secs(20)).await;
        }
    }
    assert!(world.providers[0].taken().is_empty());
    world.until(HOUR).await;
    let healed = Instant::now();
    world.drained(6).await;
    world.judge(2);
    let lasted = healed.elapsed();
    assert!(
        lasted < Duration::from_secs(HOUR),
        "and the limit is used: {lasted:?}"
    );
}

/// Row 33: a connection in steady use is not kept for ever, or a name that moves would never be followed;
/// it is reused all the same, and never is one more open than the account has.
#[tokio::test(start_paused = true)]
async fn a_busy_connection_is_replaced_every_few_minutes() {
    const EVERY: u64 = 10;
    let limits = Limits {
        connections: 1,
        messages_per_minute: None,
        recipients_per_day: None,
        recipients_per_message: 100,
    };
    let published = Published {
        connections: 1,
        ..GENEROUS
    };
    let accounts = vec![(account(0, Kind::Custom, limits), published)];
    let world = World::new(4, accounts).await;
    for n in 0..HOUR / EVERY {
        world.until(n * EVERY).await;
        world.send(0, "app@b.example", &["r"]).await;
    }
    world.drained(1).await;
    world.judge(4);
    let taken = world.providers[0].taken();
    let oldest = taken.iter().map(|taken| taken.at - taken.opened).max();
    assert!(
        oldest < Some(Duration::from_secs(6 * MINUTE)),
        "a connection carried mail for {oldest:?}"
    );
    let connections: BTreeSet<_> = taken.iter().map(|taken| taken.opened).collect();
    assert!(
        connections.len() <= 13,
        "{} connections in an hour",
        connections.len()
    );
}

/// Row 63: a message at which the server always breaks off delays nobody.
#[tokio::test(start_paused = true)]
async fn a_message_that_breaks_every_session_delays_no_other() {
    let mut slowest = Vec::new();
    for poison in [false, true] {
        let limits = Limits {
            connections: 2,
            messages_per_minute: None,
            recipients_per_day: None,
            recipients_per_message: 100,
        };
        let accounts = vec![(account(0, Kind::Custom, limits), GENEROUS)];
        let world = World::new(3, accounts).await;
        if poison {
            world.send(0, "app@b.example", &["poison"]).await;
        }
        for _ in 0..200 {
            world.send(0, "app@b.example", &["r"]).await;
            sleep(Duration::from_secs(2)).await;
        }
        sleep(Duration::from_secs(HOUR)).await;
        let mut delays: Vec<_> = world.delays().into_values().collect();
        assert_eq!(delays.len(), 200, "all others have left");
        delays.sort();
        slowest.push(delays[197]);
        let waiting = world.waiting().await;
        assert_eq!(waiting.len(), usize::from(poison), "it waits, and is tried");
        assert!(waiting.iter().all(|entry| entry.attempts > 0));
    }
    assert!(slowest[1] <= slowest[0] * 2, "{slowest:?}");
}
