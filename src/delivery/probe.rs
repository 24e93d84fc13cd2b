//! One test message past the queue, each step told: what `gatepost test` shows.

use jiff::Timestamp;
use tokio::{sync::watch, time::Instant};

use super::{
    ProbeStep, Transport, bounce,
    lane::{Lane, millis},
    transport::{
        Answers, Cause, Failure, Job, Link, Phase,
        smtp::{Connection, Journal},
    },
    verdict::{self, Action},
};
use crate::{
    mail::{Address, BodyType, QueueId, Recipient, Reply, ReversePath},
    oauth::{AccessToken, Diagnosis, Service, TokenError},
};

/// A probe that goes on or has come to its end.
pub(super) type Step<T> = Result<T, ()>;

/// Walks an account's way and tells each step.
pub(super) struct Probe<'a> {
    pub(super) lane: &'a Lane,
    /// Told as they happen.
    pub(super) told: &'a watch::Sender<Vec<ProbeStep>>,
    pub(super) since: Instant,
    /// SMTP said that it is switched off.
    pub(super) smtp_off: bool,
}

impl Lane {
    /// Sends a test message to `to`. The account may be on hold: a message that passes ends that.
    /// Each step is in `told` as it happens; one that turns out to mean something else is replaced.
    pub(crate) async fn probe(
        &self,
        to: &Address,
        id: QueueId,
        told: &watch::Sender<Vec<ProbeStep>>,
    ) {
        let mut probe = Probe::new(self, told);
        let passed = match &self.account.transport {
            Transport::Smtp => probe.run(to, id).await,
            Transport::Api(api) => probe.run_api(api, to, id).await,
            Transport::Auto(api) => match probe.run(to, id).await {
                Err(()) if probe.smtp_off => probe.run_api(api, to, id).await,
                ended => ended,
            },
        };
        let passed = passed.is_ok();
        if passed {
            self.wake();
        }
    }
}

impl<'a> Probe<'a> {
    pub(super) fn new(lane: &'a Lane, told: &'a watch::Sender<Vec<ProbeStep>>) -> Self {
        Self {
            lane,
            told,
            since: Instant::now(),
            smtp_off: false,
        }
    }

    async fn run(&mut self, to: &Address, id: QueueId) -> Step<()> {
        let token = self.token(None).await?;
        self.tell_token(token.as_ref());
        let mut connection = self.open().await?;
        if let Err(failure) = self.authenticate(&mut connection, token.as_ref()).await {
            let verdict = verdict::judge_failure(self.lane.account.kind, &failure);
            let refused = token.filter(|_| verdict.action == Action::Relogin);
            let Some(refused) = refused else {
                return self.fail(&failure);
            };
            // Rights given a minute ago are in no token from before: one new one, as in delivery.
            self.tell(
                "auth",
                false,
                format!("{}; asking for a new token", failure.cause),
            );
            let token = self.token(Some(refused.generation)).await?;
            connection = self.open().await?;
            let again = self.authenticate(&mut connection, token.as_ref()).await;
            again.or_else(|failure| self.fail(&failure))?;
        }
        self.send(connection, to, id).await
    }

    pub(super) async fn open(&mut self) -> Step<Connection> {
        let lane = self.lane;
        let smarthost = &lane.account.smtp;
        let hostname = &lane.common.hostname;
        let mut journal = Journal::telling(self.told.clone());
        let opened = Connection::open(smarthost, hostname, &lane.connectors, &mut journal).await;
        self.since = Instant::now();
        opened.or_else(|failure| self.fail(&failure))
    }

    pub(super) async fn authenticate(
        &mut self,
        connection: &mut Connection,
        token: Option<&AccessToken>,
    ) -> Result<(), Failure> {
        let smarthost = &self.lane.account.smtp;
        let secret = token.map(|token| &token.token);
        let done = connection
            .authenticate(&smarthost.auth, smarthost.port, secret)
            .await;
        self.since = Instant::now();
        done
    }

    /// The account's token, newer than `stale`; `None`: it needs none.
    pub(super) async fn token(&mut self, stale: Option<u64>) -> Step<Option<AccessToken>> {
        if !self.lane.wants_token() {
            return Ok(None);
        }
        self.token_for(Service::Smtp, stale).await
    }

    /// The account's token for `service`, newer than `stale`.
    pub(super) async fn token_for(
        &mut self,
        service: Service,
        stale: Option<u64>,
    ) -> Step<Option<AccessToken>> {
        let (oauth, name) = (&self.lane.parts.oauth, &self.lane.account.name);
        let token = match stale {
            None => oauth.access_token(name, service).await,
            Some(stale) => oauth.refresh_after(name, service, stale).await,
        };
        token.map(Some).map_err(|error| {
            let (TokenError::SignInNeeded(diagnosis)
            | TokenError::Retrying(diagnosis)
            | TokenError::JustReplaced(diagnosis)) = error;
            self.tell("auth", false, diagnosis.to_string());
        })
    }

    async fn send(&mut self, connection: Connection, to: &Address, id: QueueId) -> Step<()> {
        let mut link = Link::Smtp(Box::new(connection));
        let sent = self.say(&mut link, to, id).await?;
        link.quit().await;
        self.judge_all(sent)
    }

    /// Says the test message.
    pub(super) async fn say(
        &mut self,
        link: &mut Link,
        to: &Address,
        id: QueueId,
    ) -> Step<Result<Answers, Failure>> {
        let lane = self.lane;
        let Ok(mailbox) = Address::parse(&lane.account.mailbox) else {
            self.tell(
                "mail",
                false,
                "the account's mailbox is no mail address".to_owned(),
            );
            return Err(());
        };
        let recipient = Recipient::new(to.clone());
        let text = message(
            &mailbox,
            to,
            lane.parts.clock.now(),
            &id.to_string(),
            &lane.common.hostname,
        );
        let message = bounce::message(text.into_bytes());
        let sender = ReversePath::Address(mailbox);
        let job = Job {
            id,
            sender: &sender,
            recipients: vec![&recipient],
            body: BodyType::SevenBit,
            smtputf8: !to.is_ascii(),
            ret: None,
            envid: None,
            message: &message,
            head: None,
            all_or_none: false,
        };
        self.since = Instant::now();
        let sent = link.transact(&job, std::future::ready(true)).await;
        self.since = Instant::now();
        Ok(sent)
    }

    /// What came of it.
    pub(super) fn judge_all(&mut self, answers: Result<Answers, Failure>) -> Step<()> {
        match answers {
            Err(failure) => self.fail(&failure),
            Ok(answers) => match answers.first() {
                Some((phase, reply)) => self.judge(*phase, reply),
                None => Err(()),
            },
        }
    }

    fn judge(&mut self, phase: Phase, reply: &Reply) -> Step<()> {
        let verdict = verdict::judge(self.lane.account.kind, phase, reply);
        if verdict.action == Action::Delivered {
            return Ok(());
        }
        // The transaction told the reply; here follows what it means.
        self.told.send_modify(|told| told.retain(|step| step.ok));
        let detail = match self.lane.remedy(&verdict).as_str() {
            "" => format!("{}: {reply}", verdict.reason),
            remedy => format!("{}: {reply}; {remedy}", verdict.reason),
        };
        self.tell(phase.name(), false, detail);
        Err(())
    }

    pub(super) fn fail<T>(&mut self, failure: &Failure) -> Step<T> {
        if let Cause::Refused { reply, .. } = &failure.cause {
            self.smtp_off |= verdict::is_smtp_off(self.lane.account.kind, reply);
        }
        let verdict = verdict::judge_failure(self.lane.account.kind, failure);
        let Diagnosis { reason, remedy } = self.lane.diagnosis(verdict, failure);
        let detail = if remedy.is_empty() {
            reason
        } else {
            format!("{reason}; {remedy}")
        };
        self.tell(failure.phase.name(), false, detail);
        Err(())
    }

    pub(super) fn tell(&mut self, step: &str, ok: bool, detail: String) {
        let elapsed_ms = millis(self.since.elapsed());
        self.since = Instant::now();
        let step = ProbeStep {
            step: step.to_owned(),
            ok,
            detail,
            elapsed_ms,
        };
        self.told.send_modify(|told| told.push(step));
    }

    /// That there is a token, and how long it took: the longest step where it had to be fetched.
    pub(super) fn tell_token(&mut self, token: Option<&AccessToken>) {
        if token.is_some() {
            self.tell("token", true, "an access token is at hand".to_owned());
        }
    }
}

fn message(from: &Address, to: &Address, now: Timestamp, id: &str, hostname: &str) -> String {
    let date = crate::dsn::date(now);
    format!(
        "From: <{from}>\r\n\
         To: <{to}>\r\n\
         Subject: Gatepost test message\r\n\
         Date: {date}\r\n\
         Message-ID: <{id}@{hostname}>\r\n\
         Auto-Submitted: auto-generated\r\n\
         MIME-Version: 1.0\r\n\
         Content-Type: text/plain; charset=us-ascii\r\n\
         \r\n\
         This message was sent by `gatepost test`. If you read it, the account works.\r\n"
    )
}
