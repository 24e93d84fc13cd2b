//! A connection that may send: token, connection, AUTH; and what follows when one of them fails.
//!
//! A refused token is replaced by exactly one forced refresh and tried once more; then the account
//! goes on hold. AUTH is said on one connection at a time, so that a backlog does not turn one bad
//! token into a locked account.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    Transport,
    lane::{Lane, jitter, millis},
    limits,
    pool::Live,
    transport::{
        Failure, Link,
        smtp::{Connection, Journal},
    },
    verdict::{self, Action, TRIES, Verdict},
};
use crate::{
    delivery::transport::Cause,
    mail::Reply,
    oauth::{AccessToken, Diagnosis, TokenError},
};

/// Why the account cannot send now. The message is not to blame.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The lane stops, or somebody else found the account closed: nothing to tell.
    Moot,
    /// A person must act.
    Hold(Diagnosis),
    /// No token for now.
    NoToken(Diagnosis),
    /// The server cannot be reached or does not want us.
    Fails(String),
    /// The provider wants us to wait, and perhaps to send less at a time.
    Waits {
        wait: Duration,
        narrower: bool,
        reason: String,
    },
}

/// Why AUTH did not succeed.
enum Refusal {
    /// The token of this generation, for this reason: a new one may help.
    Token(u64, Diagnosis),
    /// SMTP is switched off for the account, which may have another way.
    SmtpOff(Diagnosis),
    Other(Trouble),
}

impl Lane {
    /// A connection on which MAIL can be said: an idle one, else a new one.
    pub(crate) async fn connection(&self, fresh: bool) -> Result<Live, Trouble> {
        while !fresh && let Some(live) = self.pool.take() {
            if !live.is_old(Instant::now()) {
                return Ok(live);
            }
            // Before another is opened: both at once may be one more than the provider takes.
            live.retire().await;
        }
        tokio::select! {
            biased;
            () = self.stopped() => Err(Trouble::Moot),
            live = self.sign_in() => live,
        }
    }

    /// A new connection, authenticated.
    async fn sign_in(&self) -> Result<Live, Trouble> {
        // Asked first, so that no server waits while a token is being fetched.
        self.token().await?;
        let connection = self.open().await?;
        // Held until this sign-in has succeeded or told its trouble: who waits here shall not show
        // the provider what it has just refused.
        let one_at_a_time = self.sign_in.acquire().await;
        let is_moot = self.closed_by_others() || self.api().is_some();
        if one_at_a_time.is_err() || is_moot {
            return Err(Trouble::Moot);
        }
        let (generation, diagnosis) = match self.authenticate(connection).await {
            Ok(live) => return Ok(live),
            Err(Refusal::Token(generation, diagnosis)) => (generation, diagnosis),
            Err(Refusal::SmtpOff(diagnosis)) => return self.smtp_off(diagnosis).await,
            Err(Refusal::Other(trouble)) => return self.told(trouble),
        };
        let again = async {
            self.replace_token(generation, diagnosis).await?;
            let connection = self.open().await?;
            self.authenticate(connection)
                .await
                .map_err(|refusal| match refusal {
                    Refusal::Token(_, diagnosis) | Refusal::SmtpOff(diagnosis) => {
                        Trouble::Hold(diagnosis)
                    }
                    Refusal::Other(trouble) => trouble,
                })
        };
        again.await.or_else(|trouble| self.told(trouble))
    }

    /// Where the account may go by an API, it does from now on; the message at once.
    async fn smtp_off<T>(&self, diagnosis: Diagnosis) -> Result<T, Trouble> {
        if self.switch_over(&diagnosis).await {
            return Err(Trouble::Moot);
        }
        self.told(Trouble::Hold(diagnosis))
    }

    /// Closes the gate before the next one in line looks at it.
    fn told<T>(&self, trouble: Trouble) -> Result<T, Trouble> {
        self.suffer(trouble);
        Err(Trouble::Moot)
    }

    pub(crate) async fn open(&self) -> Result<Connection, Trouble> {
        let mut journal = Journal::silent();
        let (smarthost, hostname) = (&self.account.smtp, &self.common.hostname);
        let opened = Connection::open(smarthost, hostname, &self.connectors, &mut journal).await;
        let connection = opened.map_err(|failure| self.trouble(&failure))?;
        self.parts.metrics.upstream_connections.inc();
        Ok(connection)
    }

    async fn authenticate(&self, mut connection: Connection) -> Result<Live, Refusal> {
        let token = self.token().await.map_err(Refusal::Other)?;
        let generation = token.as_ref().map_or(0, |token| token.generation);
        let secret = token.as_ref().map(|token| &token.token);
        let smarthost = &self.account.smtp;
        let done = connection
            .authenticate(&smarthost.auth, smarthost.port, secret)
            .await;
        let Err(failure) = done else {
            return Ok(Live {
                generation,
                ..Live::new(Link::Smtp(Box::new(connection)))
            });
        };
        let verdict = verdict::judge_failure(self.account.kind, &failure);
        if verdict.action == Action::Relogin && token.is_some() {
            self.judged(verdict);
            return Err(Refusal::Token(
                generation,
                self.diagnosis(verdict, &failure),
            ));
        }
        if let Cause::Refused { reply, .. } = &failure.cause
            && matches!(self.account.transport, Transport::Auto(_))
            && verdict::is_smtp_off(self.account.kind, reply)
        {
            self.judged(verdict);
            return Err(Refusal::SmtpOff(self.diagnosis(verdict, &failure)));
        }
        Err(Refusal::Other(self.trouble(&failure)))
    }

    /// The account's token, if it authenticates with one.
    pub(crate) async fn token(&self) -> Result<Option<AccessToken>, Trouble> {
        if !self.wants_token() {
            return Ok(None);
        }
        let token = self
            .parts
            .oauth
            .access_token(&self.account.name, self.service())
            .await;
        let token = token.map_err(no_token)?;
        self.state().generation = token.generation;
        Ok(Some(token))
    }

    /// Has a token that the provider refused replaced, once.
    pub(crate) async fn replace_token(
        &self,
        refused: u64,
        diagnosis: Diagnosis,
    ) -> Result<(), Trouble> {
        let again = {
            let mut state = self.state();
            let again = state.forced.is_some_and(|forced| forced != refused);
            state.forced.get_or_insert(refused);
            again
        };
        if again {
            return Err(Trouble::Hold(diagnosis));
        }
        let name = &self.account.name;
        let token = self
            .parts
            .oauth
            .refresh_after(name, self.service(), refused)
            .await;
        let token = token.map_err(|error| match error {
            // What the server said of it tells more.
            TokenError::JustReplaced(_) => Trouble::Hold(diagnosis),
            // None came in its place that could be refused as well: what is refused next is a first one.
            error @ (TokenError::SignInNeeded(_) | TokenError::Retrying(_)) => {
                let mut state = self.state();
                state.forced.take_if(|forced| *forced == refused);
                no_token(error)
            }
        })?;
        self.state().generation = token.generation;
        Ok(())
    }

    /// Whether the gate was closed while this message was on its way in, and it is not the trial.
    fn closed_by_others(&self) -> bool {
        self.state().gate.is_shut(Instant::now())
    }

    /// What a session that ended before MAIL means for the account.
    pub(crate) fn trouble(&self, failure: &Failure) -> Trouble {
        let verdict = verdict::judge_failure(self.account.kind, failure);
        self.judged(verdict);
        let mut said = None;
        if let Cause::Refused { reply, .. } = &failure.cause {
            said = Some(reply);
            if !verdict.known {
                self.unknown(failure.phase.name(), reply);
            }
        }
        self.account_trouble(verdict, self.diagnosis(verdict, failure), said)
    }

    /// Counts a verdict.
    pub(crate) fn judged(&self, verdict: Verdict) {
        let labels = [
            ("scope", verdict.scope.name()),
            ("action", verdict.action.name()),
        ];
        self.parts.metrics.verdicts.get_or_create(&labels).inc();
    }

    /// What a verdict about the account asks for.
    /// `reply` is what the provider said, if it said anything.
    pub(crate) fn account_trouble(
        &self,
        verdict: Verdict,
        diagnosis: Diagnosis,
        reply: Option<&Reply>,
    ) -> Trouble {
        let asked = reply.and_then(limits::retry_after);
        self.state().asked_until = asked.map(|wait| Instant::now() + wait);
        match verdict.action {
            Action::Slow(wait) | Action::Wait(wait) => Trouble::Waits {
                wait: asked.unwrap_or(wait),
                narrower: matches!(verdict.action, Action::Slow(_)),
                reason: diagnosis.reason,
            },
            Action::Hold | Action::Relogin => Trouble::Hold(diagnosis),
            Action::RetryThenHold if self.state().gate.strikes() + 1 >= TRIES => {
                Trouble::Hold(diagnosis)
            }
            Action::RetryThenHold
            | Action::RetryThenBounce
            | Action::Retry
            | Action::Split
            | Action::Bounce
            | Action::Delivered => Trouble::Fails(diagnosis.reason),
        }
    }

    /// Closes the gate as the trouble demands, and tells it.
    pub(crate) fn suffer(&self, trouble: Trouble) {
        let now = Instant::now();
        let (reason, wait) = match trouble {
            Trouble::Moot => return,
            Trouble::Hold(diagnosis) => return self.hold(&diagnosis),
            Trouble::NoToken(diagnosis) => {
                let wait = self.state().gate.no_token(jitter(), now);
                (diagnosis.reason, wait)
            }
            Trouble::Fails(reason) => {
                let mut state = self.state();
                let mut wait = state.gate.fails(jitter(), now);
                if let Some(asked) = state.asked_until.take() {
                    state.gate.not_before(asked);
                    wait = wait.max(asked.saturating_duration_since(now));
                }
                (reason, wait)
            }
            Trouble::Waits {
                wait,
                narrower,
                reason,
            } => {
                self.slow(wait, narrower, now);
                (reason, wait)
            }
        };
        self.state().trouble.clone_from(&reason);
        self.tell();
        tracing::warn!(
            event = "paused",
            account = %self.account.name,
            smarthost = %self.smarthost(),
            %reason,
            wait_ms = millis(wait),
        );
    }

    /// The provider wants less: a pause, then fewer connections and a lower rate for a while.
    fn slow(&self, wait: Duration, narrower: bool, now: Instant) {
        {
            let mut state = self.state();
            state.gate.slow(wait, narrower, now);
            if narrower {
                state.pace.throttle(now + wait, now);
            }
        }
        let meant = match narrower {
            true => "slow",
            false => "quota",
        };
        let throttles = &self.parts.metrics.throttles;
        throttles.get_or_create(&[("meant", meant)]).inc();
        // Idle connections count at the provider as well.
        self.part_with(self.pool.drain());
    }

    /// The verdict with what was seen, for a person.
    pub(crate) fn diagnosis(&self, verdict: Verdict, failure: &Failure) -> Diagnosis {
        let mut reason = format!("{}: {}", verdict.reason, chain(failure));
        if let Cause::Refused {
            challenge: Some(challenge),
            ..
        } = &failure.cause
        {
            reason = format!("{reason} ({challenge})");
        }
        Diagnosis {
            reason,
            remedy: self.remedy(&verdict),
        }
    }

    /// What a person does about it.
    pub(crate) fn remedy(&self, verdict: &Verdict) -> String {
        verdict.remedy_for(&self.account.name, &self.account.mailbox)
    }

    /// A reply that no row of the verdict table knows: told in full, so that one can be added.
    pub(crate) fn unknown(&self, phase: &'static str, reply: &Reply) {
        tracing::warn!(
            event = "unknown_reply",
            account = %self.account.name,
            smarthost = %self.smarthost(),
            phase,
            %reply,
        );
    }
}

/// The cause of a failure with its own causes.
pub(crate) fn chain(failure: &Failure) -> String {
    let mut text = failure.cause.to_string();
    let mut source = std::error::Error::source(&failure.cause);
    while let Some(error) = source {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}

pub(crate) fn no_token(error: TokenError) -> Trouble {
    match error {
        TokenError::SignInNeeded(diagnosis) | TokenError::JustReplaced(diagnosis) => {
            Trouble::Hold(diagnosis)
        }
        TokenError::Retrying(diagnosis) => Trouble::NoToken(diagnosis),
    }
}
