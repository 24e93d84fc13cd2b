//! Lanes over a real queue and store, against an upstream played here.

mod apis;
mod day;
mod outcomes;
mod senders;
mod storm;
mod world;

use std::{collections::HashSet, sync::atomic::AtomicUsize};

use base64::{Engine, engine::general_purpose::STANDARD};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::watch,
};

use super::*;
use crate::{
    clock::SystemClock,
    mail::{BodyType, Envelope, Notify, Recipient, ReversePath},
    oauth,
    queue::{self, NewEntry},
    store::{self, Entry, EntryState, Filter, RecipientState, Store},
    telemetry::Metrics,
};

/// How the upstream behaves. Replies are whole lines without CRLF; empty: the good one.
#[derive(Debug, Clone, Default)]
struct Manners {
    banner: &'static str,
    /// Tokens or passwords it takes; `None`: any.
    takes: Option<HashSet<String>>,
    /// To any login; empty: by `takes`.
    auth: &'static str,
    mail: &'static str,
    /// Only for the null reverse-path.
    mail_null: &'static str,
    /// For recipients that begin with `bad`.
    rcpt_bad: &'static str,
    /// Recipients of one transaction; the rest get 452.
    recipients_max: Option<usize>,
    end: &'static str,
    /// Takes the message and closes without a word.
    vanishes: bool,
    /// Closes after each message, without a word.
    closes_after: bool,
    /// Closes at MAIL, without a word, so many times.
    breaks_at_mail: Option<Arc<AtomicUsize>>,
}

impl Manners {
    /// The reply to a recipient, who is noted unless refused.
    fn rcpt(&self, line: String, recipients: &mut Vec<String>) -> String {
        let full = self.recipients_max.is_some_and(|n| recipients.len() >= n);
        if !self.rcpt_bad.is_empty() && line.contains("<bad") {
            return format!("{}\r\n", self.rcpt_bad);
        }
        if full {
            return "452 4.5.3 too many recipients\r\n".to_owned();
        }
        recipients.push(line);
        "250 ok\r\n".to_owned()
    }

    /// Whether the connection breaks now.
    fn breaks(&self) -> bool {
        let order = Ordering::SeqCst;
        let one_less = |left: usize| left.checked_sub(1);
        let left = self.breaks_at_mail.as_ref();
        left.is_some_and(|left| left.fetch_update(order, order, one_less).is_ok())
    }
}

/// A message the upstream has taken.
#[derive(Debug, Clone)]
struct Taken {
    sender: String,
    recipients: Vec<String>,
    data: String,
}

#[derive(Debug)]
struct Upstream {
    port: u16,
    manners: Mutex<Manners>,
    taken: watch::Sender<Vec<Taken>>,
    connections: AtomicUsize,
    open: AtomicUsize,
    open_most: AtomicUsize,
    auths: AtomicUsize,
}

impl Upstream {
    async fn start(tasks: &Tasks) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let upstream = Arc::new(Self {
            port: listener.local_addr().expect("bound").port(),
            manners: Mutex::default(),
            taken: watch::Sender::new(Vec::new()),
            connections: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            open_most: AtomicUsize::new(0),
            auths: AtomicUsize::new(0),
        });
        let (shared, owner) = (Arc::clone(&upstream), tasks.clone());
        tasks.spawn("upstream", async move {
            while let Ok((stream, _)) = listener.accept().await {
                let session = Arc::clone(&shared);
                owner.spawn("session", async move {
                    session.connections.fetch_add(1, Ordering::SeqCst);
                    let open = session.open.fetch_add(1, Ordering::SeqCst) + 1;
                    session.open_most.fetch_max(open, Ordering::SeqCst);
                    session.serve(stream).await.unwrap_or_default();
                    session.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        upstream
    }

    fn manners(&self) -> Manners {
        self.manners.lock().expect("no panic").clone()
    }

    fn behave(&self, manners: Manners) {
        *self.manners.lock().expect("no panic") = manners;
    }

    async fn serve(&self, stream: TcpStream) -> Option<()> {
        // Replies to pipelined commands leave one by one: each but the first would wait 40 ms.
        stream.set_nodelay(true).ok()?;
        let mut peer = BufReader::new(stream);
        let or = |reply: &str, good: &str| {
            let reply = if reply.is_empty() { good } else { reply };
            format!("{reply}\r\n")
        };
        let banner = or(self.manners().banner, "220 upstream");
        peer.write_all(banner.as_bytes()).await.ok()?;
        let (mut sender, mut recipients, mut begun) = (String::new(), Vec::new(), false);
        loop {
            let line = hear(&mut peer).await?;
            let manners = self.manners();
            let reply = match line.split([' ', ':']).next().unwrap_or_default() {
                "EHLO" => "250-upstream\r\n250-PIPELINING\r\n250 AUTH XOAUTH2 PLAIN\r\n".to_owned(),
                "AUTH" => self.auth(&mut peer).await?,
                "RSET" => "250 ok\r\n".to_owned(),
                "MAIL" if manners.breaks() => return None,
                "MAIL" => {
                    sender = line.clone();
                    recipients.clear();
                    let null = line == "MAIL FROM:<>";
                    let reply = or(
                        if null {
                            manners.mail_null
                        } else {
                            manners.mail
                        },
                        "250 ok",
                    );
                    begun = reply.starts_with('2');
                    reply
                }
                "RCPT" if !begun => "503 5.5.1 MAIL first\r\n".to_owned(),
                "RCPT" => manners.rcpt(line, &mut recipients),
                "DATA" if recipients.is_empty() => "503 5.5.1 no recipients\r\n".to_owned(),
                "DATA" => {
                    peer.write_all(b"354 go\r\n").await.ok()?;
                    let data = data(&mut peer).await?;
                    if manners.vanishes {
                        return None;
                    }
                    let reply = or(manners.end, "250 2.0.0 taken");
                    if reply.starts_with('2') {
                        let taken = Taken {
                            sender: sender.clone(),
                            recipients: recipients.clone(),
                            data,
                        };
                        self.taken.send_modify(|all| all.push(taken));
                    }
                    peer.write_all(reply.as_bytes()).await.ok()?;
                    if manners.closes_after {
                        return None;
                    }
                    continue;
                }
                _ => {
                    peer.write_all(b"221 bye\r\n").await.ok()?;
                    return None;
                }
            };
            peer.write_all(reply.as_bytes()).await.ok()?;
        }
    }

    async fn auth(&self, peer: &mut BufReader<TcpStream>) -> Option<String> {
        self.auths.fetch_add(1, Ordering::SeqCst);
        peer.write_all(b"334 \r\n").await.ok()?;
        let line = hear(peer).await?;
        let clear = String::from_utf8(STANDARD.decode(line).ok()?).ok()?;
        let secret = match clear.split_once("auth=Bearer ") {
            Some((_, token)) => token.trim_end_matches('\x01'),
            None => clear.rsplit('\0').next()?,
        };
        let Manners { takes, auth, .. } = self.manners();
        if !auth.is_empty() {
            return Some(format!("{auth}\r\n"));
        }
        Some(match takes.is_none_or(|takes| takes.contains(secret)) {
            true => "235 2.7.0 welcome\r\n".to_owned(),
            false => "535 5.7.8 no\r\n".to_owned(),
        })
    }

    fn count(&self) -> usize {
        self.taken.borrow().len()
    }

    /// Waits until so many messages were taken.
    async fn taken(&self, count: usize) -> Vec<Taken> {
        let mut changes = self.taken.subscribe();
        let enough = changes.wait_for(|all| all.len() >= count);
        let all = tokio::time::timeout(PATIENCE, enough).await;
        all.expect("in time").expect("the upstream lives").clone()
    }
}

async fn hear(peer: &mut BufReader<TcpStream>) -> Option<String> {
    let mut line = String::new();
    let read = peer.read_line(&mut line).await.ok()?;
    (read > 0).then(|| line.trim_end().to_owned())
}

async fn data(peer: &mut BufReader<TcpStream>) -> Option<String> {
    let mut data = String::new();
    while !data.ends_with("\r\n.\r\n") {
        if peer.read_line(&mut data).await.ok()? == 0 {
            return None;
        }
    }
    Some(data)
}

/// A token endpoint that gives `token-1`, `token-2` ..
async fn token_endpoint(tasks: &Tasks) -> (url::Url, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let given = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&given);
    tasks.spawn("token_endpoint", async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 16 * 1024];
            stream.read(&mut request).await.unwrap_or_default();
            let n = counter.fetch_add(1, Ordering::SeqCst) + 1;
            let body = format!(
                r#"{{"access_token":"token-{n}","token_type":"Bearer","expires_in":3600}}"#
            );
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n";
            let answer = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
            stream
                .write_all(answer.as_bytes())
                .await
                .unwrap_or_default();
        }
    });
    let url = format!("http://127.0.0.1:{port}/token");
    (url.parse().expect("a URL"), given)
}

struct Rig {
    _directory: tempfile::TempDir,
    /// The upstream's; the lanes have their own.
    world: Tasks,
    parts: Parts,
    upstream: Arc<Upstream>,
    config: Config,
    tokens: Arc<AtomicUsize>,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.world.stop();
        self.parts.tasks.stop();
    }
}

impl Rig {
    /// `auth`: with none, with a password, or with a token.
    async fn new(auth: Auth, change: impl FnOnce(&mut Config)) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let world = Tasks::new();
        let upstream = Upstream::start(&world).await;
        let metrics = Arc::new(Metrics::new());
        let state_dir = directory.path().to_owned();
        let opened = Store::open(&store::Config { state_dir }, Arc::clone(&metrics));
        let store = opened.expect("a store");
        let retry = queue::retry::Policy::default();
        let clock = SystemClock::shared();
        let queue = Queue::new(
            queue::Config { retry },
            store.clone(),
            Arc::clone(&clock),
            Arc::clone(&metrics),
        );
        let tasks = Tasks::new();
        let (token_url, tokens) = token_endpoint(&world).await;
        let uses_token = matches!(auth, Auth::Xoauth2 { .. });
        let oauth_config = oauth_config(token_url, uses_token);
        let started = Oauth::start(
            oauth_config,
            store,
            Arc::clone(&clock),
            tasks.clone(),
            Arc::clone(&metrics),
        );
        let oauth = started.await.expect("a token keeper");
        let mut config = Config {
            hostname: "relay.example".into(),
            bounce_to: BounceTo::Sender,
            bounces_per_hour: None,
            delay_warning: Duration::from_secs(4 * 3600),
            on_uncertain: OnUncertain::Retry,
            accounts: vec![account(auth, upstream.port)],
        };
        change(&mut config);
        Self {
            _directory: directory,
            world,
            parts: Parts {
                queue,
                oauth,
                clock,
                tasks,
                metrics,
            },
            upstream,
            config,
            tokens,
        }
    }

    fn start(&self) -> Delivery {
        Delivery::start(self.config.clone(), self.parts.clone())
    }

    async fn accept(&self, sender: &str, recipients: &[&str], text: &str) {
        self.accept_envelope(envelope(sender, recipients), text)
            .await;
    }

    async fn accept_envelope(&self, envelope: Envelope, text: &str) {
        let text = format!("Subject: {text}\r\n\r\n{text}\r\n");
        self.accept_message(envelope, text).await;
    }

    async fn accept_message(&self, envelope: Envelope, text: String) {
        let entry = NewEntry {
            id: self.parts.queue.next_id(),
            account: name(),
            envelope,
            message: bounce::message(text.into_bytes()),
            client: None,
        };
        self.parts.queue.accept(entry).await.expect("stored");
    }

    /// What waits, when `fits` says it is as it must be.
    async fn queue(&self, fits: impl Fn(&[Entry]) -> bool) -> Vec<Entry> {
        let looking = async {
            let mut ticks = tokio::time::interval(Duration::from_millis(5));
            loop {
                ticks.tick().await;
                let all = self
                    .parts
                    .queue
                    .list(Filter::default())
                    .await
                    .expect("listed");
                if fits(&all) {
                    return all;
                }
            }
        };
        match tokio::time::timeout(PATIENCE, looking).await {
            Ok(found) => found,
            Err(_) => {
                let all = self.parts.queue.list(Filter::default()).await;
                panic!("did not come true; the queue: {:#?}", all.expect("listed"))
            }
        }
    }

    async fn empty(&self) {
        self.queue(<[Entry]>::is_empty).await;
    }
}

fn envelope(sender: &str, recipients: &[&str]) -> Envelope {
    let address = |text: &str| Address::parse(text).expect("valid");
    Envelope {
        reverse_path: match sender {
            "" => ReversePath::Null,
            sender => ReversePath::Address(address(sender)),
        },
        recipients: recipients
            .iter()
            .map(|text| Recipient::new(address(text)))
            .collect(),
        body: BodyType::SevenBit,
        smtputf8: false,
        ret: None,
        envid: None,
    }
}

fn name() -> AccountName {
    AccountName::new("alerts")
}

fn account(auth: Auth, port: u16) -> Account {
    Account {
        name: name(),
        mailbox: "alerts@contoso.example".into(),
        kind: Kind::Custom,
        transport: Transport::Smtp,
        smtp: Smarthost {
            host: "127.0.0.1".into(),
            port,
            tls: Tls::None,
            auth,
            ca_file: None,
        },
        limits: Limits {
            connections: 3,
            messages_per_minute: None,
            recipients_per_day: None,
            recipients_per_message: 100,
        },
        sender: SenderRule::default(),
        fallback: None,
        is_stopped: false,
    }
}

fn oauth_config(token_url: url::Url, uses_token: bool) -> oauth::Config {
    let provider = oauth::Provider {
        kind: Kind::Custom,
        description: String::new(),
        client_id: "client".into(),
        client_secret: Some(Secret::new("secret")),
        client_authentication: oauth::ClientAuthentication::Post,
        issuer: None,
        client_secret_expires_at: None,
        client_key: None,
        certificate_expires_at: None,
        service_account: None,
        federated_token_file: None,
        managed_identity: None,
        tenant_id: None,
        authorization_url: None,
        redirect_url: "http://localhost/authorization/".parse().expect("a URL"),
        token_url: Some(token_url),
        device_authorization_url: None,
        revocation_url: None,
        scope: "mail".into(),
        ca_file: None,
        proxy: None,
    };
    let account = oauth::Account {
        provider: "p".into(),
        mailbox: "alerts@contoso.example".into(),
        sign_in_user: None,
        grant: oauth::Grant::ClientCredentials,
        services: BTreeMap::from([(Service::Smtp, "mail".to_owned())]),
    };
    oauth::Config {
        providers: BTreeMap::from([("p".to_owned(), provider)]),
        accounts: uses_token.then(|| (name(), account)).into_iter().collect(),
        key: oauth::Key::Given(Secret::new("00".repeat(32))),
    }
}

fn password() -> Auth {
    Auth::Password {
        username: "u".into(),
        password: Secret::new("p"),
    }
}

fn bearer() -> Auth {
    Auth::Xoauth2 {
        username: "alerts@contoso.example".into(),
    }
}

/// Far above what anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_backlog_goes_out_once_each_over_few_connections() {
    let rig = Rig::new(password(), |_| ()).await;
    for n in 0..200 {
        rig.accept("app@b.example", &["r@x.example"], &format!("message {n}."))
            .await;
    }
    let delivery = rig.start();
    let taken = rig.upstream.taken(200).await;
    rig.empty().await;
    assert_eq!(rig.upstream.count(), 200, "once each");
    let texts: HashSet<_> = taken.iter().map(|t| t.data.clone()).collect();
    assert_eq!(texts.len(), 200);
    assert!(rig.upstream.open_most.load(Ordering::SeqCst) <= 3);
    assert!(
        rig.upstream.connections.load(Ordering::SeqCst) <= 3,
        "reused"
    );
    let status = delivery.status(&name()).expect("a lane");
    assert!(status.held.is_none() && status.last_delivery_at.is_some());
    // The fresh message of an idle lane goes on a connection that is still open.
    rig.accept("app@b.example", &["r@x.example"], "later").await;
    rig.upstream.taken(201).await;
    assert!(rig.upstream.connections.load(Ordering::SeqCst) <= 3);
}

#[tokio::test]
async fn a_refused_recipient_is_reported_and_the_others_are_not() {
    let rig = Rig::new(Auth::None, |_| ()).await;
    rig.upstream.behave(Manners {
        rcpt_bad: "550 5.1.1 no such user",
        ..Manners::default()
    });
    let recipients = ["ok@x.example", "bad@x.example"];
    rig.accept("app@b.example", &recipients, "hello").await;
    let _delivery = rig.start();
    let taken = rig.upstream.taken(2).await;
    rig.empty().await;
    assert_eq!(taken[0].recipients, ["RCPT TO:<ok@x.example>"]);
    let report = &taken[1];
    assert_eq!(report.sender, "MAIL FROM:<>");
    assert_eq!(report.recipients, ["RCPT TO:<app@b.example>"]);
    assert!(
        report
            .data
            .contains("Final-Recipient: rfc822; bad@x.example")
    );
    assert!(!report.data.contains("ok@x.example"));
    assert_eq!(rig.upstream.count(), 2);
}

#[tokio::test]
async fn a_report_goes_as_the_mailbox_where_the_null_path_is_refused() {
    let rig = Rig::new(Auth::None, |_| ()).await;
    rig.upstream.behave(Manners {
        rcpt_bad: "550 5.1.1 no such user",
        mail_null: "550 5.7.60 may not send as <>",
        ..Manners::default()
    });
    rig.accept("app@b.example", &["bad@x.example"], "hello")
        .await;
    let _delivery = rig.start();
    let taken = rig.upstream.taken(1).await;
    assert_eq!(taken[0].sender, "MAIL FROM:<alerts@contoso.example>");
    assert!(taken[0].data.contains("Auto-Submitted: auto-replied"));
    rig.empty().await;

    // A report that nobody takes is not answered with another: it waits for a person.
    rig.accept("bad@b.example", &["bad@x.example"], "hello")
        .await;
    let held = rig
        .queue(|all| all.iter().any(|e| e.state == EntryState::Held))
        .await;
    assert_eq!(held.len(), 1);
    assert_eq!(held[0].reverse_path, ReversePath::Null);
    assert!(
        held[0]
            .reason
            .as_deref()
            .is_some_and(|r| r.contains("null path"))
    );
    assert_eq!(rig.upstream.count(), 1);
}

#[tokio::test]
async fn refused_credentials_hold_the_account_and_mail_flows_once_they_are_mended() {
    let rig = Rig::new(password(), |_| ()).await;
    rig.upstream.behave(Manners {
        takes: Some(HashSet::from(["another".to_owned()])),
        ..Manners::default()
    });
    for n in 0..20 {
        rig.accept("app@b.example", &["r@x.example"], &format!("{n}"))
            .await;
    }
    let delivery = rig.start();
    let held = || delivery.status(&name()).and_then(|status| status.held);
    let waiting = rig.queue(|_| held().is_some()).await;
    assert_eq!(waiting.len(), 20);
    let untouched = waiting
        .iter()
        .all(|e| e.attempts == 0 && e.state == EntryState::Queued);
    assert!(untouched, "no retry burnt, nothing bounced");
    assert!(held().is_some_and(|d| d.reason.contains("535 5.7.8 no") && !d.remedy.is_empty()));
    assert_eq!(
        rig.upstream.auths.load(Ordering::SeqCst),
        1,
        "not once a connection"
    );

    rig.upstream.behave(Manners::default());
    delivery.wake(&name());
    rig.upstream.taken(20).await;
    rig.empty().await;
    assert!(held().is_none());
    assert_eq!(rig.upstream.count(), 20);
}

#[tokio::test]
async fn a_refused_token_is_replaced_once_then_the_account_is_held() {
    let rig = Rig::new(bearer(), |_| ()).await;
    rig.upstream.behave(Manners {
        takes: Some(HashSet::new()),
        ..Manners::default()
    });
    for n in 0..20 {
        rig.accept("app@b.example", &["r@x.example"], &format!("{n}"))
            .await;
    }
    let delivery = rig.start();
    let held = || delivery.status(&name()).and_then(|status| status.held);
    rig.queue(|_| held().is_some()).await;
    assert_eq!(rig.tokens.load(Ordering::SeqCst), 2, "one forced refresh");
    assert_eq!(rig.upstream.auths.load(Ordering::SeqCst), 2, "one retry");

    // Only a token that is newer still is taken: the hold ends all the same, by asking once more.
    rig.upstream.behave(Manners::default());
    delivery.wake(&name());
    rig.upstream.taken(20).await;
    rig.empty().await;
    assert!(held().is_none());
}

/// It went on trying, and said that nobody needed to act.
#[tokio::test]
async fn a_token_that_is_new_already_holds_the_account_when_it_is_refused() {
    let rig = Rig::new(bearer(), |_| ()).await;
    rig.upstream.behave(Manners {
        takes: Some(HashSet::new()),
        ..Manners::default()
    });
    let oauth = &rig.parts.oauth;
    let first = oauth.access_token(&name(), Service::Smtp).await;
    let stale = first.expect("a token").generation;
    let renewed = oauth.refresh_after(&name(), Service::Smtp, stale).await;
    renewed.expect("a forced refresh, by a test of the account say");
    rig.accept("app@b.example", &["r@x.example"], "text").await;
    let delivery = rig.start();
    let held = || delivery.status(&name()).and_then(|status| status.held);
    rig.queue(|_| held().is_some()).await;
    let told = held().expect("on hold");
    assert!(told.reason.contains("535 5.7.8 no"), "{told:?}");
    assert!(told.remedy.contains("gatepost login alerts"), "{told:?}");
    assert_eq!(rig.tokens.load(Ordering::SeqCst), 2, "no other refresh");
}

#[tokio::test]
async fn a_stale_token_costs_nothing_but_a_refresh() {
    let rig = Rig::new(bearer(), |_| ()).await;
    rig.upstream.behave(Manners {
        takes: Some(HashSet::from(["token-2".to_owned()])),
        ..Manners::default()
    });
    for n in 0..20 {
        rig.accept("app@b.example", &["r@x.example"], &format!("{n}"))
            .await;
    }
    let delivery = rig.start();
    rig.upstream.taken(20).await;
    rig.empty().await;
    assert_eq!(rig.tokens.load(Ordering::SeqCst), 2);
    assert!(delivery.status(&name()).is_some_and(|s| s.held.is_none()));
}

#[tokio::test]
async fn a_banner_that_refuses_bounces_nothing() {
    let rig = Rig::new(Auth::None, |_| ()).await;
    rig.upstream.behave(Manners {
        banner: "554 go away",
        ..Manners::default()
    });
    rig.accept("app@b.example", &["r@x.example"], "hello").await;
    let delivery = rig.start();
    let held = || delivery.status(&name()).is_some_and(|s| s.held.is_some());
    let waiting = rig.queue(|_| held()).await;
    assert_eq!((waiting.len(), waiting[0].attempts), (1, 0));
}

#[tokio::test]
async fn a_lost_final_reply_is_counted_and_tried_again_later() {
    let rig = Rig::new(Auth::None, |_| ()).await;
    rig.upstream.behave(Manners {
        vanishes: true,
        ..Manners::default()
    });
    rig.accept("app@b.example", &["r@x.example"], "hello").await;
    let _delivery = rig.start();
    let waiting = rig.queue(|all| all.iter().any(|e| e.attempts == 1)).await;
    assert!(waiting[0].uncertain);
    assert_eq!(waiting[0].recipients[0].state, RecipientState::Deferred);
    assert_eq!(rig.parts.metrics.possible_duplicates.get(), 1);
}

#[tokio::test]
async fn a_connection_that_died_while_idle_costs_no_attempt() {
    let rig = Rig::new(Auth::None, |_| ()).await;
    rig.upstream.behave(Manners {
        closes_after: true,
        ..Manners::default()
    });
    let _delivery = rig.start();
    for n in 1..=10 {
        rig.accept("app@b.example", &["r@x.example"], &format!("{n}"))
            .await;
        rig.upstream.taken(n).await;
        rig.empty().await;
    }
    assert_eq!(rig.upstream.count(), 10);
}

#[tokio::test]
async fn throttling_pauses_the_account_without_burning_an_attempt() {
    let rig = Rig::new(Auth::None, |config| {
        config.accounts[0].kind = Kind::Microsoft;
    })
    .await;
    rig.upstream.behave(Manners {
        mail: "432 4.3.2 Concurrent connections limit exceeded",
        ..Manners::default()
    });
    for n in 0..5 {
        rig.accept("app@b.example", &["r@x.example"], &format!("{n}"))
            .await;
    }
    let delivery = rig.start();
    let paused = || {
        delivery
            .status(&name())
            .is_some_and(|s| s.paused_until.is_some())
    };
    let waiting = rig.queue(|_| paused()).await;
    assert_eq!(waiting.len(), 5);
    assert!(waiting.iter().all(|e| e.attempts == 0));
}

#[tokio::test]
async fn a_long_list_goes_in_several_transactions() {
    let rig = Rig::new(Auth::None, |_| ()).await;
    rig.upstream.behave(Manners {
        recipients_max: Some(10),
        ..Manners::default()
    });
    let recipients: Vec<_> = (0..25).map(|n| format!("r{n}@x.example")).collect();
    let recipients: Vec<_> = recipients.iter().map(String::as_str).collect();
    rig.accept("app@b.example", &recipients, "hello").await;
    let _delivery = rig.start();
    let taken = rig.upstream.taken(3).await;
    rig.empty().await;
    let all: Vec<_> = taken.iter().flat_map(|t| t.recipients.clone()).collect();
    let each: HashSet<_> = all.iter().collect();
    assert_eq!((all.len(), each.len()), (25, 25), "everybody once");
}

#[tokio::test]
async fn where_nobody_may_be_told_a_failure_is_held() {
    let rig = Rig::new(Auth::None, |config| config.bounce_to = BounceTo::None).await;
    rig.upstream.behave(Manners {
        rcpt_bad: "550 5.1.1 no such user",
        ..Manners::default()
    });
    rig.accept("app@b.example", &["ok@x.example", "bad@x.example"], "hello")
        .await;
    let _delivery = rig.start();
    let held = rig
        .queue(|all| all.iter().any(|e| e.state == EntryState::Held))
        .await;
    let states: Vec<_> = held[0].recipients.iter().map(|r| r.state).collect();
    assert_eq!(
        states,
        [RecipientState::Delivered, RecipientState::Deferred]
    );
}

#[tokio::test]
async fn a_sender_that_wants_silence_gets_it() {
    let rig = Rig::new(Auth::None, |_| ()).await;
    rig.upstream.behave(Manners {
        rcpt_bad: "550 5.1.1 no such user",
        ..Manners::default()
    });
    let recipient = Recipient {
        notify: Notify::Never,
        ..Recipient::new(Address::parse("bad@x.example").expect("valid"))
    };
    let envelope = Envelope {
        reverse_path: ReversePath::Address(Address::parse("a@b.example").expect("valid")),
        recipients: vec![recipient],
        body: BodyType::SevenBit,
        smtputf8: false,
        ret: None,
        envid: None,
    };
    rig.accept_envelope(envelope, "hello").await;
    let _delivery = rig.start();
    rig.empty().await;
    assert_eq!(rig.upstream.count(), 0);
}

#[tokio::test]
async fn stopping_finishes_and_settles_what_is_under_way() {
    let rig = Rig::new(Auth::None, |_| ()).await;
    for n in 0..300 {
        rig.accept("app@b.example", &["r@x.example"], &format!("message {n}."))
            .await;
    }
    let _delivery = rig.start();
    rig.upstream.taken(20).await;
    rig.parts.tasks.stop();
    let drained = tokio::time::timeout(PATIENCE, rig.parts.tasks.drained());
    drained.await.expect("in time");
    let waiting = rig.queue(|_| true).await;
    assert_eq!(
        waiting.len() + rig.upstream.count(),
        300,
        "none lost, none twice"
    );
    assert_eq!(rig.parts.queue.leased(), []);
}

#[tokio::test]
async fn a_changed_account_restarts_and_an_unchanged_one_goes_on() {
    let rig = Rig::new(Auth::None, |_| ()).await;
    let delivery = rig.start();
    rig.accept("app@b.example", &["r@x.example"], "one").await;
    rig.upstream.taken(1).await;
    let before = delivery.inner.lane(&name()).expect("a lane");
    delivery.reconfigure(rig.config.clone());
    assert!(Arc::ptr_eq(
        &before,
        &delivery.inner.lane(&name()).expect("a lane")
    ));

    let mut changed = rig.config.clone();
    changed.accounts[0].limits.connections = 1;
    delivery.reconfigure(changed);
    assert!(!Arc::ptr_eq(
        &before,
        &delivery.inner.lane(&name()).expect("a lane")
    ));
    rig.accept("app@b.example", &["r@x.example"], "two").await;
    rig.upstream.taken(2).await;

    delivery.reconfigure(Config {
        accounts: Vec::new(),
        ..rig.config.clone()
    });
    assert!(delivery.status(&name()).is_none());
}

#[tokio::test]
async fn a_probe_tells_each_step_and_ends_a_hold() {
    let rig = Rig::new(bearer(), |_| ()).await;
    let delivery = rig.start();
    let to = Address::parse("me@x.example").expect("valid");
    let steps = delivery.probe(&name(), to.clone()).await;
    let told: Vec<_> = steps.iter().map(|s| (s.step.as_str(), s.ok)).collect();
    assert_eq!(
        told,
        ["token", "connect", "ehlo", "auth", "mail", "rcpt", "data"].map(|step| (step, true))
    );
    assert_eq!(rig.upstream.count(), 1);

    rig.upstream.behave(Manners {
        takes: Some(HashSet::new()),
        ..Manners::default()
    });
    let steps = delivery.probe(&name(), to).await;
    let last = steps.last().expect("a step");
    assert!(!last.ok && last.step == "auth" && last.detail.contains("535 5.7.8 no"));
    assert!(
        !steps.iter().any(|s| s.detail.contains("token-")),
        "no secret"
    );
}
