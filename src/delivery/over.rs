//! By which way an account's mail goes now: SMTP, an API, or the one until it is switched off.
//!
//! An account with `transport = "auto"` begins with SMTP. When its provider says that SMTP AUTH is
//! switched off, and the account's token for the API can be had, the lane goes over to the API, and
//! looks once a day whether SMTP is back. Where it stands is forgotten at a restart: the first message
//! finds it out again.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use tokio::time::Instant;

use super::{
    Auth, Switched, Transport,
    lane::Lane,
    pool::Live,
    sign_in::{Trouble, no_token},
    transport::{
        Answers, Api, Link, Phase,
        api::{self, Session},
        smtp::Journal,
    },
    verdict::{self, Action},
};
use crate::{
    mail::{EnhancedCode, Reply},
    net::http::Clients,
    oauth::{AccessToken, Diagnosis, Service},
};

/// The way of a lane.
#[derive(Debug, Default)]
pub(crate) struct Over {
    switched: Mutex<Option<State>>,
    pub(crate) clients: Clients,
}

#[derive(Debug)]
struct State {
    switched: Switched,
    /// When SMTP is tried again.
    again_at: Instant,
}

impl Over {
    fn lock(&self) -> MutexGuard<'_, Option<State>> {
        self.switched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why mail goes by the API though SMTP comes first; `None`: it does not.
    pub(crate) fn switched(&self) -> Option<Switched> {
        self.lock().as_ref().map(|state| state.switched.clone())
    }

    /// Whether it is time to try SMTP again; whoever asks first does.
    fn is_due(&self, now: Instant) -> bool {
        match &mut *self.lock() {
            Some(state) if now >= state.again_at => {
                state.again_at = now + SMTP_AGAIN_EVERY;
                true
            }
            Some(_) | None => false,
        }
    }
}

impl Lane {
    /// The API by which mail goes now; `None`: it goes by SMTP.
    pub(crate) fn api(&self) -> Option<&Api> {
        match &self.account.transport {
            Transport::Smtp => None,
            Transport::Api(api) => Some(api),
            Transport::Auto(api) => self.over.lock().is_some().then_some(api),
        }
    }

    /// What the account's token must open now.
    pub(crate) fn service(&self) -> Service {
        self.api().map_or(Service::Smtp, |api| api.service)
    }

    /// Where mail goes now, for the log.
    pub(crate) fn smarthost(&self) -> &str {
        self.api().map_or(&self.account.smtp.host, Api::host)
    }

    /// What can carry a message of `size` octets: an idle connection or session, else a new one.
    pub(crate) async fn link(&self, size: u64, fresh: bool) -> Result<Live, Trouble> {
        if self.over.is_due(Instant::now()) {
            self.try_smtp_again().await;
        }
        match self.api() {
            None => self.connection(fresh).await,
            Some(api) if size > api.mime_max => Ok(self.large(api, size).await),
            Some(api) => self.session(api, fresh).await,
        }
    }

    /// Replaces a token that the API refused; `Ok(true)`: the message is to be said once more.
    ///
    /// # Errors
    /// The second refusal in a row holds the account.
    pub(crate) async fn token_again(
        &self,
        live: &Live,
        answers: &Answers,
    ) -> Result<bool, Trouble> {
        let is_api = matches!(live.connection, Link::Api(_));
        let refused = answers.first().filter(|(phase, _)| *phase == Phase::Auth);
        let Some((phase, reply)) = refused.filter(|_| is_api) else {
            return Ok(false);
        };
        let verdict = verdict::judge(self.account.kind, *phase, reply);
        let diagnosis = Diagnosis {
            reason: format!("{}: {reply}", verdict.reason),
            remedy: self.remedy(&verdict),
        };
        self.part_with(self.pool.drain());
        self.replace_token(live.generation, diagnosis).await?;
        Ok(true)
    }

    async fn session(&self, api: &Api, fresh: bool) -> Result<Live, Trouble> {
        let Some(AccessToken { token, generation }) = self.token().await? else {
            return Err(Trouble::Moot);
        };
        while let Some(mut live) = self.pool.take().filter(|_| !fresh) {
            if live.connection.service() == Some(api.service) {
                live.connection.renew(token);
                return Ok(Live { generation, ..live });
            }
            self.part_with(vec![live.connection]);
        }
        let session = Session::open(api, &self.over.clients, token, Journal::silent()).await;
        let session = session.map_err(|failure| self.trouble(&failure))?;
        Ok(Live {
            generation,
            ..Live::new(Link::Api(Box::new(session)))
        })
    }

    /// What carries a message that is too large for the API: SMTP where the account has it, else
    /// nothing, and then its sender is told.
    async fn large(&self, api: &Api, size: u64) -> Live {
        let refused = api::too_large(api, size);
        let has_smtp = api.large_by_smtp && self.over.switched().is_none();
        if !has_smtp {
            return Live::new(Link::Closed(refused));
        }
        let (code, enhanced, why) = match self.smtp_aside().await {
            Ok(live) => return live,
            Err(Trouble::Hold(diagnosis)) => (552, (5, 3, 4), diagnosis.reason),
            Err(Trouble::NoToken(diagnosis)) => (451, (4, 4, 0), diagnosis.reason),
            Err(Trouble::Fails(why) | Trouble::Waits { reason: why, .. }) => (451, (4, 4, 0), why),
            Err(Trouble::Moot) => (451, (4, 4, 0), "stopping".to_owned()),
        };
        let (class, subject, detail) = enhanced;
        let enhanced = EnhancedCode(class, subject, detail);
        let text = format!("{}; by SMTP: {why}", refused.text);
        Live::new(Link::Closed(Reply::new(code, Some(enhanced), text)))
    }

    /// An SMTP connection beside the account's usual way. What fails here closes no gate: the usual
    /// way goes on.
    async fn smtp_aside(&self) -> Result<Live, Trouble> {
        let smarthost = &self.account.smtp;
        let mut stale = None;
        loop {
            let token = self.smtp_token(stale).await?;
            let mut connection = self.open().await?;
            let secret = token.as_ref().map(|token| &token.token);
            let done = connection
                .authenticate(&smarthost.auth, smarthost.port, secret)
                .await;
            let generation = token.as_ref().map(|token| token.generation);
            let Err(failure) = done else {
                return Ok(Live {
                    generation: generation.unwrap_or_default(),
                    ..Live::new(Link::Smtp(Box::new(connection)))
                });
            };
            let verdict = verdict::judge_failure(self.account.kind, &failure);
            if verdict.action != Action::Relogin || stale.is_some() || generation.is_none() {
                return Err(self.trouble(&failure));
            }
            stale = generation;
        }
    }

    async fn smtp_token(&self, stale: Option<u64>) -> Result<Option<AccessToken>, Trouble> {
        match self.account.smtp.auth {
            Auth::Password { .. } | Auth::None => return Ok(None),
            Auth::Xoauth2 { .. } | Auth::OauthBearer { .. } => {}
        }
        let (oauth, name) = (&self.parts.oauth, &self.account.name);
        let token = match stale {
            None => oauth.access_token(name, Service::Smtp).await,
            Some(stale) => oauth.refresh_after(name, Service::Smtp, stale).await,
        };
        token.map(Some).map_err(no_token)
    }

    /// Goes over to the API, because SMTP is switched off for `diagnosis`; whether it did.
    pub(crate) async fn switch_over(&self, diagnosis: &Diagnosis) -> bool {
        let Transport::Auto(api) = &self.account.transport else {
            return false;
        };
        let token = self
            .parts
            .oauth
            .access_token(&self.account.name, api.service);
        if let Err(error) = token.await {
            tracing::warn!(
                event = "transport_kept",
                account = %self.account.name,
                transport = "smtp",
                reason = %diagnosis.reason,
                %error,
            );
            return false;
        }
        let was_switched = self.over.lock().replace(State {
            switched: Switched {
                to: api.service,
                since: self.parts.clock.now(),
                diagnosis: diagnosis.clone(),
            },
            again_at: Instant::now() + SMTP_AGAIN_EVERY,
        });
        if was_switched.is_none() {
            self.part_with(self.pool.drain());
            self.told_way(api.service, diagnosis);
        }
        true
    }

    async fn try_smtp_again(&self) {
        let Ok(live) = self.smtp_aside().await else {
            return;
        };
        self.over.lock().take();
        self.part_with(self.pool.drain());
        self.pool.put(live, Instant::now());
        let diagnosis = Diagnosis {
            reason: "SMTP AUTH is switched on again".to_owned(),
            remedy: String::new(),
        };
        self.told_way(Service::Smtp, &diagnosis);
    }

    fn told_way(&self, to: Service, diagnosis: &Diagnosis) {
        let switches = &self.parts.metrics.transport_switches;
        switches.get_or_create(&[("to", to.name())]).inc();
        self.tell();
        tracing::warn!(
            event = "transport_switched",
            account = %self.account.name,
            to = to.name(),
            reason = %diagnosis.reason,
            remedy = %diagnosis.remedy,
        );
    }
}

impl Switched {
    /// In words, for listings.
    #[must_use]
    pub fn told(&self) -> Diagnosis {
        let Self {
            to,
            since,
            diagnosis: Diagnosis { reason, remedy },
        } = self;
        let since = Timestamp::from_second(since.as_second()).unwrap_or(*since);
        Diagnosis {
            reason: format!("mail flows, by {to} since {since}; by SMTP it does not: {reason}"),
            remedy: remedy.clone(),
        }
    }
}

/// A switch that somebody flips back is found within a day; more often would be a failed sign-in
/// more often.
const SMTP_AGAIN_EVERY: Duration = Duration::from_secs(86_400);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smtp_is_tried_again_once_a_day_by_whoever_comes_first() {
        let over = Over::default();
        let now = Instant::now();
        assert!(
            !over.is_due(now + SMTP_AGAIN_EVERY),
            "nothing to come back from"
        );
        *over.lock() = Some(State {
            switched: Switched {
                to: Service::Graph,
                since: Timestamp::UNIX_EPOCH,
                diagnosis: Diagnosis {
                    reason: "off".to_owned(),
                    remedy: "on".to_owned(),
                },
            },
            again_at: now + SMTP_AGAIN_EVERY,
        });
        assert!(!over.is_due(now));
        let later = now + SMTP_AGAIN_EVERY;
        assert!(over.is_due(later));
        assert!(!over.is_due(later), "one tries");
        assert!(over.is_due(later + SMTP_AGAIN_EVERY));
        let told = over.switched().map(|switched| switched.told());
        assert!(
            told.is_some_and(|told| told.reason.contains("by graph since 1970-01-01T00:00:00Z"))
        );
    }
}
