//! Sending by an API over HTTP: one request a message, its recipients in the header section.
//!
//! What is sent are the octets of the message. They change in one way alone: the fields that name
//! recipients are made to name the recipients of this transaction and nobody else
//! ([`crate::mail::addressees`]), because an API has no envelope. Where a request goes and what its answer means
//! as a reply is each API's own ([`super::graph`], [`super::gmail`]).

use std::path::PathBuf;

use reqwest::{
    Method, Request,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue},
};
use url::Url;

use super::{
    Answers, Cause, Failure, Job, Phase, gmail, graph,
    outgoing::{Coding, Encoder, Fed, Outgoing},
    smtp::Journal,
};
use crate::{
    mail::{EnhancedCode, Reply, sanitise},
    net::{
        http::{Client, Clients, Interrupted, Reached, Response, Way},
        proxy::Proxy,
    },
    oauth::Service,
    secret::Secret,
};

/// An API that takes an account's mail.
#[derive(Debug, Clone, PartialEq)]
pub struct Api {
    /// Which.
    pub service: Service,
    /// Where every one of its URLs begins.
    pub url: Url,
    /// Whose mailbox a request names; `None`: whoever the token belongs to (`me`).
    pub user: Option<String>,
    /// Larger messages do not go by it (octets as accepted).
    pub mime_max: u64,
    /// Whether those go by SMTP; else they are returned to the sender.
    pub large_by_smtp: bool,
    /// Trust anchors in PEM besides the system's.
    pub ca_file: Option<PathBuf>,
    /// Between this machine and the API.
    pub proxy: Option<Proxy>,
}

impl Api {
    /// What it is called in replies, logs and remedies.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self.service {
            Service::Gmail => "Gmail",
            Service::Graph | Service::Smtp => "Graph",
        }
    }

    /// Its host, for logs.
    #[must_use]
    pub fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }

    /// `url` with these segments at the end of its path: none of them can leave its place.
    pub(super) fn at(&self, segments: &[&str]) -> Url {
        let mut url = self.url.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    /// The segments that name the mailbox.
    pub(super) fn user_segments(&self) -> Vec<&str> {
        match (&self.user, self.service) {
            (Some(user), _) => vec!["users", user],
            (None, Service::Gmail) => vec!["users", "me"],
            (None, Service::Graph | Service::Smtp) => vec!["me"],
        }
    }
}

/// A way to an API with a token: what an authenticated connection is to SMTP.
#[derive(Debug)]
pub(crate) struct Session {
    api: Api,
    client: Client,
    token: Secret,
    usable: bool,
    journal: Journal,
}

impl Session {
    /// Nothing is said to the API yet.
    ///
    /// # Errors
    /// [`Failure`] in [`Phase::Connect`]: trust anchors or proxy cannot be used.
    pub(crate) async fn open(
        api: &Api,
        clients: &Clients,
        token: Secret,
        journal: Journal,
    ) -> Result<Self, Failure> {
        let way = Way {
            ca_file: api.ca_file.as_deref(),
            proxy: api.proxy.as_ref(),
        };
        let client = clients.uploader(&api.url, way).await;
        let client = client.map_err(|error| before(Cause::Http(error)))?;
        Ok(Self {
            api: api.clone(),
            client,
            token,
            usable: true,
            journal,
        })
    }

    pub(crate) fn service(&self) -> Service {
        self.api.service
    }

    pub(crate) fn is_usable(&self) -> bool {
        self.usable
    }

    pub(crate) fn journal(&mut self) -> &mut Journal {
        &mut self.journal
    }

    /// Takes a newer token.
    pub(crate) fn renew(&mut self, token: Secret) {
        self.token = token;
    }

    /// Sends one message to exactly the recipients of `job`. Its last octets leave only after `ready`
    /// said yes: until then the API has no whole request and does nothing.
    ///
    /// # Errors
    /// [`Failure`] when no answer came; `uncertain` when the whole request had been sent.
    ///
    /// # Cancel safety
    /// Not cancel safe: the message may have been taken.
    pub(crate) async fn transact(
        &mut self,
        job: &Job<'_>,
        ready: impl Future<Output = bool>,
    ) -> Result<Answers, Failure> {
        let outgoing = Outgoing::new(job).await;
        let outgoing = outgoing.map_err(|error| within(Phase::Body, Cause::Body(error)))?;
        let (mut request, coding) = match self.api.service {
            Service::Gmail => (gmail::send(&self.api), Coding::Plain),
            Service::Graph | Service::Smtp => (graph::send(&self.api, job.id), Coding::Base64),
        };
        self.sign(&mut request)?;
        let len = coding.len(outgoing.len());
        let answer = self
            .client
            .upload(request, len, async |feed| {
                outgoing.feed(Encoder::new(feed, coding), ready).await
            })
            .await;
        let answer = answer.map_err(interrupted);
        self.usable = answer.is_ok();
        let answer = answer?;
        let (phase, reply) = self.reply(&answer);
        self.journal.reply("data", &reply);
        // A gateway that gave up waiting does not know whether its server went on.
        if matches!(answer.status.as_u16(), 500 | 502 | 504) {
            return Err(Failure {
                phase: Phase::End,
                cause: Cause::Refused {
                    reply,
                    challenge: None,
                },
                uncertain: true,
            });
        }
        Ok(job
            .recipients
            .iter()
            .map(|_| (phase, reply.clone()))
            .collect())
    }

    /// Asks for something that the API cannot grant, so that its refusal shows how far a real request
    /// would come. Nothing is sent to anybody. The reply: positive when only our request was wrong.
    ///
    /// # Errors
    /// [`Failure`] when no answer came.
    pub(crate) async fn knock(&mut self) -> Result<Reply, Failure> {
        let (mut request, body) = match self.api.service {
            Service::Gmail => gmail::knock(&self.api),
            Service::Graph | Service::Smtp => graph::knock(&self.api),
        };
        *request.body_mut() = Some(body.into());
        self.sign(&mut request)?;
        let answer = self.client.exchange(request).await;
        let answer = answer.map_err(|error| before(Cause::Http(error)))?;
        let (_, reply) = self.reply(&answer);
        let is_let_in = answer.status.as_u16() == 400;
        Ok(if is_let_in {
            let text = format!("{} would take mail", self.api.name());
            Reply::new(250, Some(EnhancedCode(2, 0, 0)), text)
        } else {
            reply
        })
    }

    /// The addresses as which the mailbox may send, where the API tells them to this token.
    pub(crate) async fn aliases(&mut self) -> Option<Vec<String>> {
        let mut request = match self.api.service {
            Service::Gmail => gmail::aliases(&self.api),
            Service::Graph | Service::Smtp => return None,
        };
        self.sign(&mut request).ok()?;
        let answer = self.client.exchange(request).await.ok()?;
        gmail::aliases_of(&answer)
    }

    fn sign(&self, request: &mut Request) -> Result<(), Failure> {
        let bearer = format!("Bearer {}", self.token.expose());
        let mut bearer = HeaderValue::from_str(&bearer).map_err(|_| {
            let cause = Cause::Credentials(crate::smtp::sasl::client::CredentialError);
            within(Phase::Auth, cause)
        })?;
        bearer.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, bearer);
        Ok(())
    }

    fn reply(&self, answer: &Response) -> (Phase, Reply) {
        match self.api.service {
            Service::Gmail => gmail::reply(answer),
            Service::Graph | Service::Smtp => graph::reply(answer),
        }
    }
}

/// A POST of this media type.
pub(super) fn post(url: Url, media_type: &'static str) -> Request {
    let mut request = Request::new(Method::POST, url);
    let media_type = HeaderValue::from_static(media_type);
    request.headers_mut().insert(CONTENT_TYPE, media_type);
    request
}

/// What an API said, in one line: `Graph: HTTP 429 ApplicationThrottled, retry after 30 s: text
/// [request-id x]`. The verdict table reads what stands before the second colon; what stands
/// there of the API's own words is letters and digits alone.
pub(super) fn line(api: &str, answer: &Response, code: &str, text: &str) -> String {
    let status = answer.status.as_u16();
    let word = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let code: String = code.chars().filter(word).take(CODE_LEN_MAX).collect();
    let mut line = format!("{api}: HTTP {status}");
    if !code.is_empty() {
        line.push(' ');
        line.push_str(&code);
    }
    if let Some(wait) = answer.retry_after {
        // A date is measured against the server's own clock: ours may differ.
        let wait = answer.date.map_or_else(
            || wait.wait(jiff::Timestamp::MAX),
            |server| wait.wait(server),
        );
        line.push_str(&format!(", retry after {} s", wait.as_secs()));
    }
    let text: String = sanitise(text).chars().take(TEXT_LEN_MAX).collect();
    if !text.is_empty() {
        line.push_str(": ");
        line.push_str(&text);
    }
    if let Some(id) = &answer.request_id {
        let id: String = id.chars().filter(word).take(CODE_LEN_MAX).collect();
        line.push_str(&format!(" [request-id {id}]"));
    }
    line
}

/// Each recipient's reply where the message does not go by the API at all.
pub(crate) fn too_large(api: &Api, size: u64) -> Reply {
    let (name, max) = (api.name(), api.mime_max);
    let text = format!(
        "{name}: above mime_max: a message of {size} octets is larger than the {max} octets that go by {name}"
    );
    Reply::new(552, Some(EnhancedCode(5, 3, 4)), text)
}

fn interrupted(interrupted: Interrupted<Fed>) -> Failure {
    let (cause, reached) = match interrupted {
        Interrupted::Exchange { error, reached } => (Cause::Http(error), reached),
        Interrupted::Timeout { limit, reached } => (Cause::Timeout(limit), reached),
        Interrupted::Fed(Fed::Body(error)) => return within(Phase::Body, Cause::Body(error)),
        Interrupted::Fed(Fed::Unsettled) => return within(Phase::Body, Cause::Unsettled),
    };
    match reached {
        Reached::Nothing => before(cause),
        Reached::Part => within(Phase::Body, cause),
        Reached::Whole => Failure {
            phase: Phase::End,
            cause,
            uncertain: true,
        },
    }
}

fn before(cause: Cause) -> Failure {
    within(Phase::Connect, cause)
}

fn within(phase: Phase, cause: Cause) -> Failure {
    Failure {
        phase,
        cause,
        uncertain: false,
    }
}

/// Longer than any code or id that the APIs give.
const CODE_LEN_MAX: usize = 100;
/// A reply stands in logs, listings and reports.
const TEXT_LEN_MAX: usize = 300;
