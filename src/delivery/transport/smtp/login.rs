//! From nothing to an authenticated connection: dial, banner, EHLO, STARTTLS, AUTH.

use std::time::Duration;

use tokio::{sync::watch, time::Instant};
use zeroize::Zeroize;

use super::{CLOSING, Connection, stream::Stream};
use crate::{
    delivery::{
        Auth, ProbeStep, Smarthost, Tls,
        transport::{Cause, Failure, Phase},
    },
    mail::{Address, Reply},
    net::{
        dial,
        tls::client::{Connectors, issuer},
    },
    secret::Secret,
    smtp::{
        client::{self, Capabilities, Mechanism, ReplyReader},
        sasl::client as sasl,
    },
};

/// What went well, told as it happens: a probe reads every step, a delivery how long each took.
#[derive(Debug)]
pub(crate) struct Journal {
    steps: Option<watch::Sender<Vec<ProbeStep>>>,
    times: Vec<(&'static str, Duration)>,
    since: Instant,
}

impl Journal {
    /// One that keeps the times alone.
    pub(crate) fn silent() -> Self {
        Self {
            steps: None,
            times: Vec::new(),
            since: Instant::now(),
        }
    }

    /// One that tells every step.
    pub(crate) fn telling(steps: watch::Sender<Vec<ProbeStep>>) -> Self {
        Self {
            steps: Some(steps),
            times: Vec::new(),
            since: Instant::now(),
        }
    }

    /// A transaction begins; on a new connection it goes on from the sign-in.
    pub(super) fn begin(&mut self) {
        if self.times.is_empty() {
            self.since = Instant::now();
        }
    }

    /// How long each step took, taken out.
    pub(crate) fn take_times(&mut self) -> Vec<(&'static str, Duration)> {
        std::mem::take(&mut self.times)
    }

    pub(super) fn ok(&mut self, step: &'static str, detail: impl FnOnce() -> String) {
        self.record(step, true, detail);
    }

    pub(crate) fn reply(&mut self, step: &'static str, reply: &Reply) {
        self.record(step, reply.is_positive(), || reply.to_string());
    }

    /// Records a step that ends now.
    pub(crate) fn record(&mut self, step: &'static str, ok: bool, detail: impl FnOnce() -> String) {
        let elapsed = self.since.elapsed();
        self.since = Instant::now();
        let Some(steps) = &self.steps else {
            self.times.push((step, elapsed));
            return;
        };
        let step = ProbeStep {
            step: step.to_owned(),
            ok,
            detail: detail(),
            elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
        };
        steps.send_modify(|told| told.push(step));
    }
}

impl Connection {
    /// Connects and says EHLO, in TLS as the smarthost demands. Steps that went well are in
    /// `journal`, which the connection takes along.
    ///
    /// # Errors
    /// [`Failure`]; nothing secret was sent.
    ///
    /// # Cancel safety
    /// Cancel safe: dropping the future drops the connection.
    pub(crate) async fn open(
        smarthost: &Smarthost,
        hostname: &str,
        connectors: &Connectors,
        journal: &mut Journal,
    ) -> Result<Self, Failure> {
        let Smarthost { host, port, .. } = smarthost;
        let at = |phase| move |cause| failure(phase, cause);
        let stream = Stream::dial(host, *port).await.map_err(Cause::Dial);
        let stream = stream.map_err(at(Phase::Connect))?;
        journal.ok("connect", || match stream.peer() {
            Some(address) => format!("{host}:{port} ({address})"),
            None => format!("{host}:{port}"),
        });
        let mut connection = Self {
            stream,
            reader: ReplyReader::default(),
            capabilities: Capabilities::default(),
            host: host.clone(),
            out: Vec::new(),
            inbox: vec![0; INBOX].into_boxed_slice(),
            open: false,
            broken: false,
            journal: std::mem::replace(journal, Journal::silent()),
        };
        match connection.greet(smarthost, hostname, connectors).await {
            Ok(()) => Ok(connection),
            Err(failure) => {
                *journal = std::mem::replace(&mut connection.journal, Journal::silent());
                Err(failure)
            }
        }
    }

    async fn greet(
        &mut self,
        smarthost: &Smarthost,
        hostname: &str,
        connectors: &Connectors,
    ) -> Result<(), Failure> {
        if smarthost.tls == Tls::Implicit {
            self.handshake(smarthost, connectors).await?;
        }
        let banner = self.read(Phase::Banner, BANNER_TIMEOUT).await?;
        if !banner.is_positive() {
            return Err(refused(Phase::Banner, banner, None));
        }
        self.ehlo(hostname).await?;
        if smarthost.tls == Tls::Starttls {
            if !self.capabilities.starttls() {
                return Err(failure(Phase::Starttls, Cause::NoStarttls));
            }
            self.say("STARTTLS", "")?;
            let reply = self.exchange(Phase::Starttls, COMMAND_TIMEOUT).await?;
            if reply.code != READY {
                return Err(refused(Phase::Starttls, reply, None));
            }
            if !self.reader.is_drained() {
                return Err(failure(Phase::Starttls, Cause::Injected));
            }
            self.handshake(smarthost, connectors).await?;
            // RFC 3207 §4.2: what was learned in clear is forgotten.
            self.reader = ReplyReader::default();
            self.capabilities = Capabilities::default();
            self.ehlo(hostname).await?;
        }
        let capabilities = &self.capabilities;
        let pipelining = capabilities.pipelining();
        self.journal.ok("ehlo", || {
            let how = if pipelining { "" } else { ", no PIPELINING" };
            format!("{}{how}", banner.text)
        });
        Ok(())
    }

    async fn handshake(
        &mut self,
        smarthost: &Smarthost,
        connectors: &Connectors,
    ) -> Result<(), Failure> {
        let at = |cause| failure(Phase::Tls, cause);
        let connector = connectors.get(smarthost.ca_file.as_deref()).await;
        let connector = connector.map_err(|error| at(Cause::TlsSettings(error)))?;
        let plain = match std::mem::replace(&mut self.stream, Stream::Closed) {
            Stream::Plain(stream) => stream,
            Stream::Tls(_) | Stream::Closed => return Err(at(Cause::Closed)),
            #[cfg(test)]
            Stream::Memory(_) => return Err(at(Cause::Closed)),
        };
        let stream = dial::tls(plain, &connector, &smarthost.host).await;
        let stream = stream.map_err(|error| at(Cause::Tls(error)))?;
        self.journal.ok("tls", || {
            let session = stream.get_ref().1;
            let version = session.protocol_version().map(|v| format!("{v:?}"));
            let suite = session
                .negotiated_cipher_suite()
                .map(|s| format!("{:?}", s.suite()));
            let issuer = session
                .peer_certificates()
                .and_then(<[_]>::first)
                .map(issuer);
            format!(
                "{} {}, certificate by {}",
                version.unwrap_or_default(),
                suite.unwrap_or_default(),
                issuer.unwrap_or_default()
            )
        });
        self.stream = Stream::Tls(Box::new(stream));
        Ok(())
    }

    /// EHLO, or HELO where that is not known (RFC 5321 §3.2).
    async fn ehlo(&mut self, hostname: &str) -> Result<(), Failure> {
        self.say("EHLO", hostname)?;
        self.write(Phase::Ehlo, COMMAND_TIMEOUT).await?;
        let lines = self.read_lines(Phase::Ehlo, COMMAND_TIMEOUT).await?;
        if (200..300).contains(&lines.code) {
            self.capabilities = Capabilities::from_ehlo(&lines);
            return Ok(());
        }
        let reply = lines.into_reply();
        if !NOT_KNOWN.contains(&reply.code) {
            return Err(refused(Phase::Ehlo, reply, None));
        }
        self.say("HELO", hostname)?;
        let reply = self.exchange(Phase::Ehlo, COMMAND_TIMEOUT).await?;
        if !reply.is_positive() {
            return Err(refused(Phase::Ehlo, reply, None));
        }
        Ok(())
    }

    fn say(&mut self, verb: &str, argument: &str) -> Result<(), Failure> {
        self.out.clear();
        client::command(verb, argument, &mut self.out).map_err(|_| {
            let bad = Reply::new(501, None, format!("not a host name: {verb}"));
            refused(Phase::Ehlo, bad, None)
        })
    }

    /// Authenticates, in the two-step form: AUTH, the server's 334, then the credentials. They do
    /// not fit into the 512 octets of a command line (RFC 4954 §4), and long ones break servers.
    ///
    /// # Errors
    /// [`Failure`]; with [`Cause::Refused`] the challenge holds what the server explained.
    ///
    /// # Cancel safety
    /// Cancel safe: dropping the connection afterwards leaves nothing behind.
    pub(crate) async fn authenticate(
        &mut self,
        auth: &Auth,
        port: u16,
        token: Option<&Secret>,
    ) -> Result<(), Failure> {
        let at = |cause| failure(Phase::Auth, cause);
        let (username, password) = match auth {
            Auth::None => return Ok(()),
            Auth::Xoauth2 { username } | Auth::OauthBearer { username } => (username, None),
            Auth::Password { username, password } => (username, Some(password)),
        };
        if !self.stream.is_private() {
            return Err(at(Cause::Cleartext));
        }
        let mechanism = self.mechanism(auth).map_err(at)?;
        let credentials = match (mechanism, token, password) {
            (Mechanism::Xoauth2, Some(token), _) => {
                sasl::xoauth2(username, token).map(|line| vec![line])
            }
            (Mechanism::OauthBearer, Some(token), _) => {
                sasl::oauthbearer(username, &self.host, port, token).map(|line| vec![line])
            }
            (Mechanism::Plain, _, Some(password)) => {
                sasl::plain(username, password).map(|line| vec![line])
            }
            (Mechanism::Login, _, Some(password)) => sasl::login(username, password).map(Vec::from),
            (_, _, _) => return Err(at(Cause::NoMechanism(mechanism.name()))),
        };
        let credentials = credentials.map_err(|error| at(Cause::Credentials(error)))?;
        self.say("AUTH", mechanism.name())?;
        let mut reply = self.exchange(Phase::Auth, AUTH_TIMEOUT).await?;
        for line in credentials {
            if reply.code != CONTINUE {
                break;
            }
            reply = self.answer(line.expose()).await?;
        }
        let challenge = self.after_challenge(mechanism, &mut reply).await?;
        if reply.code != AUTHENTICATED {
            self.broken = true;
            return Err(refused(Phase::Auth, reply, challenge));
        }
        self.journal.reply("auth", &reply);
        Ok(())
    }

    /// A 334 after the credentials is an error that the server explains. It must be answered, or
    /// both sides wait for ever; the refusal comes then.
    async fn after_challenge(
        &mut self,
        mechanism: Mechanism,
        reply: &mut Reply,
    ) -> Result<Option<String>, Failure> {
        if reply.code != CONTINUE {
            return Ok(None);
        }
        let explained = sasl::challenge(&reply.text);
        let answer = match mechanism {
            Mechanism::OauthBearer => sasl::OAUTHBEARER_AFTER_ERROR,
            Mechanism::Xoauth2 => sasl::XOAUTH2_AFTER_ERROR,
            // A server that goes on asking is told that we give up (RFC 4954 §4).
            Mechanism::Plain | Mechanism::Login => "*",
        };
        *reply = self.answer(answer).await?;
        if !reply.is_permanent() && !reply.is_transient() {
            let cause = Cause::Unexpected(std::mem::replace(reply, Reply::new(CLOSING, None, "")));
            return Err(failure(Phase::Auth, cause));
        }
        Ok(explained)
    }

    async fn answer(&mut self, line: &str) -> Result<Reply, Failure> {
        self.out.clear();
        self.out.reserve_exact(line.len() + 2);
        self.out.extend_from_slice(line.as_bytes());
        self.out.extend_from_slice(b"\r\n");
        let reply = self.exchange(Phase::Auth, AUTH_TIMEOUT).await;
        self.out.zeroize();
        reply
    }

    /// What is offered and serves: the configured mechanism, else the other one that takes the same
    /// credentials.
    fn mechanism(&self, auth: &Auth) -> Result<Mechanism, Cause> {
        let wanted = match auth {
            Auth::Xoauth2 { .. } => [Mechanism::Xoauth2, Mechanism::OauthBearer],
            Auth::OauthBearer { .. } => [Mechanism::OauthBearer, Mechanism::Xoauth2],
            Auth::Password { .. } | Auth::None => [Mechanism::Plain, Mechanism::Login],
        };
        let offered = wanted.into_iter().find(|m| self.capabilities.offers(*m));
        offered.ok_or(Cause::NoMechanism(wanted[0].name()))
    }
}

impl Connection {
    /// What the server offers, in a few words.
    pub(crate) fn offers(&self) -> String {
        let capabilities = &self.capabilities;
        let size = capabilities.size_max().map(|size| format!("SIZE {size}"));
        let mechanisms = [
            Mechanism::Xoauth2,
            Mechanism::OauthBearer,
            Mechanism::Plain,
            Mechanism::Login,
        ];
        let offered = mechanisms.into_iter().filter(|m| capabilities.offers(*m));
        let offered: Vec<_> = offered.map(Mechanism::name).collect();
        let auth = format!("AUTH {}", offered.join(" "));
        let auth = (!offered.is_empty()).then_some(auth);
        let words = [
            auth,
            size,
            capabilities.pipelining().then(|| "PIPELINING".to_owned()),
            capabilities.eight_bit_mime().then(|| "8BITMIME".to_owned()),
            capabilities.smtputf8().then(|| "SMTPUTF8".to_owned()),
            capabilities.dsn().then(|| "DSN".to_owned()),
        ];
        let words: Vec<_> = words.into_iter().flatten().collect();
        words.join(", ")
    }

    /// Says MAIL and takes it back: whether the server lets this sender in. Nothing is sent.
    ///
    /// # Errors
    /// [`Failure`]; with [`Cause::Refused`] what the server said.
    pub(crate) async fn try_mail(&mut self, sender: &Address) -> Result<(), Failure> {
        self.say("MAIL", &format!("FROM:<{sender}>"))?;
        let reply = self.exchange(Phase::Mail, COMMAND_TIMEOUT).await?;
        if !reply.is_positive() {
            return Err(refused(Phase::Mail, reply, None));
        }
        self.journal.reply("mail", &reply);
        self.say("RSET", "")?;
        self.exchange(Phase::Mail, COMMAND_TIMEOUT).await?;
        Ok(())
    }
}

fn failure(phase: Phase, cause: Cause) -> Failure {
    Failure {
        phase,
        cause,
        uncertain: false,
    }
}

fn refused(phase: Phase, reply: Reply, challenge: Option<String>) -> Failure {
    failure(phase, Cause::Refused { reply, challenge })
}

const READY: u16 = 220;
const CONTINUE: u16 = 334;
const AUTHENTICATED: u16 = 235;
/// Command not recognised, in its variants: an old server that knows HELO alone.
const NOT_KNOWN: [u16; 4] = [500, 501, 502, 504];

/// RFC 5321 §4.5.3.2.1.
const BANNER_TIMEOUT: Duration = Duration::from_secs(300);
/// RFC 5321 §4.5.3.2 names none for EHLO; that of MAIL.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(300);
/// Servers delay the answer to bad credentials, by seconds, not minutes.
const AUTH_TIMEOUT: Duration = Duration::from_secs(120);
/// Octets read at once: replies are small, and an idle connection keeps this.
const INBOX: usize = 1024;
