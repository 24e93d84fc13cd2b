//! A world in simulated time: lanes over a real queue and store, against providers played in this
//! process. What a provider publishes as its limits it counts, and every breach is noted.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    io,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream},
    sync::{Notify, RwLock},
    time::{Instant, sleep},
};

use super::{
    Account, Auth, BounceTo, Config, Delivery, Limits, OnUncertain, Parts, Tls, Transport,
};
use crate::{
    clock::Clock,
    delivery::{Smarthost, bounce, sender::SenderRule, transport::smtp::memory},
    mail::{AccountName, Address, BodyType, Envelope, Recipient, ReversePath},
    net::{dial, tasks::Tasks},
    oauth::{self, Kind, Oauth},
    queue::{
        self, NewEntry, Queue,
        trace::{Search, Story},
    },
    secret::Secret,
    store::{self, Store},
    telemetry::Metrics,
};

/// Chance that repeats itself (splitmix64).
#[derive(Debug, Clone)]
pub(super) struct Chance(pub(super) u64);

impl Chance {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(super) fn of(&mut self, range: Range<u64>) -> u64 {
        range.start + self.next() % (range.end - range.start)
    }

    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.of(0..n) == 0
    }
}

/// The time of day of the simulated world.
#[derive(Debug)]
struct SimClock(Instant);

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        let passed = SignedDuration::try_from(self.0.elapsed()).unwrap();
        Timestamp::from_second(1_800_000_000).unwrap() + passed
    }
}

/// What a provider does for a while, from and to seconds after the world's beginning.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fault {
    /// Nobody answers.
    Down,
    /// This instead of a welcome after AUTH.
    Auth(&'static str),
    /// This to every MAIL.
    Mail(&'static str),
    /// This after the end of the data.
    End(&'static str),
    /// A connection older than so many minutes is closed at MAIL.
    Ages(u64),
    /// The connection breaks at MAIL, one time in so many.
    Breaks(u64),
    /// The message is taken and the connection breaks, one time in so many.
    LosesReply(u64),
}

impl Fault {
    fn at_auth(self) -> Option<&'static str> {
        if let Self::Auth(reply) = self {
            return Some(reply);
        }
        None
    }

    fn at_mail(self) -> Option<&'static str> {
        if let Self::Mail(reply) = self {
            return Some(reply);
        }
        None
    }

    fn at_end(self) -> Option<&'static str> {
        if let Self::End(reply) = self {
            return Some(reply);
        }
        None
    }
}

/// What a provider publishes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Published {
    pub(super) connections: usize,
    pub(super) per_minute: usize,
    pub(super) recipients_per_day: usize,
}

/// A message that a provider has taken.
#[derive(Debug, Clone)]
pub(super) struct Taken {
    pub(super) at: Instant,
    /// When its connection was.
    pub(super) opened: Instant,
    pub(super) sender: String,
    /// Its number, if it is one of the world's own.
    pub(super) number: Option<u64>,
    pub(super) recipients: Vec<String>,
    pub(super) data: String,
    /// Its final reply was lost.
    pub(super) lost: bool,
}

/// One account's provider.
#[derive(Debug)]
pub(super) struct Provider {
    wakes: Arc<Notify>,
    published: Published,
    began: Instant,
    book: Mutex<Book>,
}

#[derive(Debug)]
struct Book {
    chance: Chance,
    faults: Vec<(Range<u64>, Fault)>,
    open: usize,
    /// Messages of the last minute and recipients of the last day.
    mails: VecDeque<Instant>,
    recipients: VecDeque<(Instant, usize)>,
    tries: HashMap<String, u32>,
    taken: Vec<Taken>,
    breaches: Vec<String>,
    /// Milliseconds of an answer.
    latency: Range<u64>,
}

impl Provider {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap()
    }

    pub(super) fn taken(&self) -> Vec<Taken> {
        self.book().taken.clone()
    }

    pub(super) fn breaches(&self) -> Vec<String> {
        self.book().breaches.clone()
    }

    pub(super) fn will(&self, when: Range<u64>, fault: Fault) {
        self.book().faults.push((when, fault));
    }

    pub(super) fn answers_within(&self, latency: Range<u64>) {
        self.book().latency = latency;
    }

    fn fault<T>(&self, pick: impl Fn(&mut Chance, Fault) -> Option<T>) -> Option<T> {
        let second = self.began.elapsed().as_secs();
        let mut book = self.book();
        let now: Vec<_> = book
            .faults
            .iter()
            .filter(|f| f.0.contains(&second))
            .map(|f| f.1)
            .collect();
        now.into_iter()
            .find_map(|fault| pick(&mut book.chance, fault))
    }

    fn refuses(&self, pick: impl Fn(Fault) -> Option<&'static str>) -> Option<&'static str> {
        self.fault(|_, fault| pick(fault))
    }

    fn is_down(&self) -> bool {
        self.fault(|_, fault| matches!(fault, Fault::Down).then_some(()))
            .is_some()
    }

    async fn think(&self) {
        self.wakes.notify_one();
        let wait = {
            let mut book = self.book();
            let latency = book.latency.clone();
            book.chance.of(latency)
        };
        sleep(Duration::from_millis(wait)).await;
    }

    fn opened(&self) {
        let mut book = self.book();
        book.open += 1;
        let open = book.open;
        if open > self.published.connections {
            book.breaches.push(format!("{open} connections"));
        }
    }

    /// Counts a message against the minute.
    fn mail(&self) {
        let now = Instant::now();
        let mut book = self.book();
        while book
            .mails
            .front()
            .is_some_and(|at| *at + Duration::from_secs(60) <= now)
        {
            book.mails.pop_front();
        }
        book.mails.push_back(now);
        let count = book.mails.len();
        if count > self.published.per_minute {
            book.breaches.push(format!("{count} messages in a minute"));
        }
    }

    fn take(&self, taken: Taken) {
        let now = Instant::now();
        let mut book = self.book();
        let day = Duration::from_secs(86_400);
        while book
            .recipients
            .front()
            .is_some_and(|(at, _)| *at + day <= now)
        {
            book.recipients.pop_front();
        }
        book.recipients.push_back((now, taken.recipients.len()));
        let count: usize = book.recipients.iter().map(|(_, n)| n).sum();
        if count > self.published.recipients_per_day {
            book.breaches.push(format!("{count} recipients in a day"));
        }
        book.taken.push(taken);
    }

    fn rcpt(&self, address: &str) -> &'static str {
        let tries = {
            let mut book = self.book();
            let tries = book.tries.entry(address.to_owned()).or_default();
            *tries += 1;
            *tries
        };
        match address.split('-').next() {
            Some("bad") => "550 5.1.1 no such user",
            Some("busy") if tries <= 2 => "450 4.2.1 busy",
            Some("poison") => "",
            _ => "250 2.1.5 ok",
        }
    }

    async fn serve(self: Arc<Self>, stream: DuplexStream) {
        self.opened();
        self.session(stream).await;
        self.book().open -= 1;
    }

    async fn session(&self, stream: DuplexStream) -> Option<()> {
        let mut peer = BufReader::new(stream);
        say(&mut peer, "220 provider").await?;
        let (mut sender, mut recipients) = (String::new(), Vec::new());
        let mut begun = false;
        let opened = Instant::now();
        loop {
            let line = hear(&mut peer).await?;
            self.think().await;
            let verb = line.split([' ', ':']).next().unwrap_or_default();
            match verb {
                "EHLO" => {
                    say(
                        &mut peer,
                        "250-provider\r\n250-PIPELINING\r\n250 AUTH PLAIN",
                    )
                    .await?
                }
                "AUTH" => {
                    say(&mut peer, "334 ").await?;
                    hear(&mut peer).await?;
                    let refused = self.refuses(Fault::at_auth);
                    say(&mut peer, refused.unwrap_or("235 2.7.0 welcome")).await?;
                }
                "MAIL" => {
                    recipients.clear();
                    begun = self.begin(&mut peer, opened).await?;
                    let path = line.trim_start_matches("MAIL FROM:");
                    sender = path.split(' ').next()?.to_owned();
                }
                "RCPT" if begun => {
                    let address = line.split(['<', '>']).nth(1)?;
                    let reply = self.rcpt(address);
                    if reply.is_empty() {
                        // Breaks off.
                        return None;
                    }
                    if reply.starts_with('2') {
                        recipients.push(address.to_owned());
                    }
                    say(&mut peer, reply).await?;
                }
                "DATA" if begun && !recipients.is_empty() => {
                    say(&mut peer, "354 go").await?;
                    let to = std::mem::take(&mut recipients);
                    self.data(&mut peer, (&sender, opened), to).await?;
                    begun = false;
                }
                "RCPT" | "DATA" => say(&mut peer, "503 5.5.1 out of order").await?,
                "RSET" => say(&mut peer, "250 ok").await?,
                _ => {
                    say(&mut peer, "221 bye").await?;
                    return None;
                }
            }
        }
    }

    /// MAIL: whether it is taken; `None`: the session is over.
    async fn begin(&self, peer: &mut BufReader<DuplexStream>, opened: Instant) -> Option<bool> {
        let breaks = |chance: &mut Chance, fault| {
            matches!(fault, Fault::Breaks(n) if chance.one_in(n)).then_some(())
        };
        if self.fault(breaks).is_some() {
            return None;
        }
        let age = opened.elapsed().as_secs() / 60;
        let ages = |_: &mut Chance, fault| {
            matches!(fault, Fault::Ages(minutes) if age >= minutes).then_some(())
        };
        if self.fault(ages).is_some() {
            say(peer, "421 4.4.1 Connection timed out").await?;
            return None;
        }
        self.mail();
        let refused = self.refuses(Fault::at_mail);
        say(peer, refused.unwrap_or("250 2.1.0 ok")).await?;
        Some(refused.is_none())
    }

    async fn data(
        &self,
        peer: &mut BufReader<DuplexStream>,
        (sender, opened): (&str, Instant),
        recipients: Vec<String>,
    ) -> Option<()> {
        let mut data = String::new();
        while !data.ends_with("\r\n.\r\n") {
            if peer.read_line(&mut data).await.ok()? == 0 {
                return None;
            }
        }
        self.think().await;
        let refused = self.refuses(Fault::at_end);
        if let Some(reply) = refused {
            return say(peer, reply).await;
        }
        let lost = self.fault(|chance, fault| {
            matches!(fault, Fault::LosesReply(n) if chance.one_in(n)).then_some(())
        });
        // A report has the number of what it reports on in it.
        let number = data
            .lines()
            .find_map(|line| line.strip_prefix("Subject: m")?.parse().ok())
            .filter(|_| sender != "<>");
        self.take(Taken {
            at: Instant::now(),
            opened,
            sender: sender.to_owned(),
            number,
            recipients,
            data,
            lost: lost.is_some(),
        });
        match lost {
            Some(()) => None,
            None => say(peer, "250 2.0.0 taken").await,
        }
    }
}

async fn hear(peer: &mut BufReader<DuplexStream>) -> Option<String> {
    let mut line = String::new();
    let read = peer.read_line(&mut line).await.ok()?;
    (read > 0).then(|| line.trim_end().to_owned())
}

async fn say(peer: &mut BufReader<DuplexStream>, reply: &str) -> Option<()> {
    peer.write_all(format!("{reply}\r\n").as_bytes()).await.ok()
}

/// A message that was accepted.
#[derive(Debug, Clone)]
pub(super) struct Accepted {
    pub(super) account: usize,
    pub(super) at: Instant,
    pub(super) sender: String,
    pub(super) recipients: Vec<String>,
}

/// The whole.
pub(super) struct World {
    wakes: Arc<Notify>,
    directory: tempfile::TempDir,
    pub(super) began: Instant,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    /// The world's own tasks; the relay's are in [`Running`].
    pub(super) tasks: Tasks,
    pub(super) providers: Vec<Arc<Provider>>,
    accounts: Vec<Account>,
    relay: RwLock<Option<Running>>,
    pub(super) accepted: Mutex<Vec<Accepted>>,
}

struct Running {
    queue: Queue,
    delivery: Delivery,
    tasks: Tasks,
}

/// An account by its number.
pub(super) fn name(number: usize) -> AccountName {
    AccountName::new(&format!("a{number}"))
}

/// An account with its provider's habits and its own limits.
pub(super) fn account(number: usize, kind: Kind, limits: Limits) -> Account {
    Account {
        name: name(number),
        mailbox: format!("a{number}@relay.example"),
        kind,
        smtp: Smarthost {
            host: format!("a{number}.example"),
            port: 587,
            tls: Tls::None,
            auth: Auth::Password {
                username: "u".into(),
                password: Secret::new("p"),
            },
            ca_file: None,
        },
        transport: Transport::Smtp,
        limits,
        sender: SenderRule::default(),
        fallback: None,
        is_stopped: false,
    }
}

/// The preset for Exchange.
pub(super) fn microsoft() -> Limits {
    Limits {
        connections: 2,
        messages_per_minute: Some(27),
        recipients_per_day: Some(9_500),
        recipients_per_message: 500,
    }
}

/// Limits nobody reaches.
pub(super) const GENEROUS: Published = Published {
    connections: usize::MAX,
    per_minute: usize::MAX,
    recipients_per_day: usize::MAX,
};

/// As Microsoft publishes them.
pub(super) const MICROSOFT: Published = Published {
    connections: 3,
    per_minute: 30,
    recipients_per_day: 10_000,
};

impl World {
    pub(super) async fn new(seed: u64, accounts: Vec<(Account, Published)>) -> Arc<Self> {
        let began = Instant::now();
        let tasks = Tasks::new();
        let wakes = Arc::new(Notify::new());
        let mut chance = Chance(seed);
        let provider = |published| {
            Arc::new(Provider {
                wakes: Arc::clone(&wakes),
                published,
                began,
                book: Mutex::new(Book {
                    chance: Chance(chance.next()),
                    faults: Vec::new(),
                    open: 0,
                    mails: VecDeque::new(),
                    recipients: VecDeque::new(),
                    tries: HashMap::new(),
                    taken: Vec::new(),
                    breaches: Vec::new(),
                    latency: 5..200,
                }),
            })
        };
        let (accounts, published): (Vec<_>, Vec<_>) = accounts.into_iter().unzip();
        let providers: Vec<_> = published.into_iter().map(provider).collect();
        let hosts: HashMap<String, Arc<Provider>> = accounts
            .iter()
            .map(|account| account.smtp.host.clone())
            .zip(providers.iter().cloned())
            .collect();
        let owner = tasks.clone();
        memory::install(Box::new(move |host, _| {
            let provider = Arc::clone(hosts.get(host)?);
            if provider.is_down() {
                return Some(Err(dial::Error::Connect {
                    address: ([192, 0, 2, 1], 587).into(),
                    source: io::ErrorKind::ConnectionRefused.into(),
                }));
            }
            let (ours, theirs) = tokio::io::duplex(64 * 1024);
            owner.spawn("session", provider.serve(theirs));
            Some(Ok(ours))
        }));
        // In memory where the system has it: this is about time, not about disks.
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let metrics = Arc::new(Metrics::new());
        let world = Arc::new(Self {
            wakes: Arc::clone(&wakes),
            directory: directory.unwrap(),
            began,
            clock: Arc::new(SimClock(began)),
            metrics: Arc::clone(&metrics),
            tasks: tasks.clone(),
            providers,
            accounts,
            relay: RwLock::new(None),
            accepted: Mutex::default(),
        });
        tasks.spawn("disk", disk(metrics, wakes));
        world.start().await;
        world
    }

    async fn start(&self) {
        let state_dir = self.directory.path().to_owned();
        let opened = Store::open(&store::Config { state_dir }, Arc::clone(&self.metrics));
        let store = opened.unwrap();
        let retry = queue::retry::Policy::default();
        let queue = Queue::new(
            queue::Config { retry },
            store.clone(),
            Arc::clone(&self.clock),
            Arc::clone(&self.metrics),
        );
        let tasks = Tasks::new();
        let oauth = oauth::Config {
            providers: Default::default(),
            accounts: Default::default(),
            key: oauth::Key::Given(Secret::new("00".repeat(32))),
        };
        let oauth = Oauth::start(
            oauth,
            store,
            Arc::clone(&self.clock),
            tasks.clone(),
            Arc::clone(&self.metrics),
        );
        let parts = Parts {
            queue: queue.clone(),
            oauth: oauth.await.unwrap(),
            clock: Arc::clone(&self.clock),
            tasks: tasks.clone(),
            metrics: Arc::clone(&self.metrics),
        };
        let config = Config {
            hostname: "relay.example".into(),
            bounce_to: BounceTo::Sender,
            delay_warning: Duration::from_secs(30 * 86_400),
            bounces_per_hour: None,
            on_uncertain: OnUncertain::Retry,
            accounts: self.accounts.clone(),
        };
        let delivery = Delivery::start(config, parts);
        *self.relay.write().await = Some(Running {
            queue,
            delivery,
            tasks,
        });
    }

    /// Stops the relay in order and starts it again on the same store.
    pub(super) async fn restart(&self) {
        let mut relay = self.relay.write().await;
        if let Some(running) = relay.take() {
            running.tasks.stop();
            running.tasks.drained().await;
        }
        drop(relay);
        self.start().await;
    }

    /// Sends a message with the next number; its recipients must be its own.
    pub(super) async fn send(&self, account: usize, sender: &str, recipients: &[&str]) -> u64 {
        self.wakes.notify_one();
        let relay = self.relay.read().await;
        let queue = &relay.as_ref().unwrap().queue;
        let (number, recipients) = {
            let mut accepted = self.accepted.lock().unwrap();
            let number = u64::try_from(accepted.len()).unwrap();
            let recipients: Vec<_> = recipients
                .iter()
                .map(|kind| format!("{kind}-{number}@x.example"))
                .collect();
            accepted.push(Accepted {
                account,
                at: Instant::now(),
                sender: sender.to_owned(),
                recipients: recipients.clone(),
            });
            (number, recipients)
        };
        let address = |text: &str| Address::parse(text).unwrap();
        let entry = NewEntry {
            id: queue.next_id(),
            account: name(account),
            envelope: Envelope {
                reverse_path: ReversePath::Address(address(sender)),
                recipients: recipients
                    .iter()
                    .map(|text| Recipient::new(address(text)))
                    .collect(),
                body: BodyType::SevenBit,
                smtputf8: false,
                ret: None,
                envid: None,
            },
            message: bounce::message(format!("Subject: m{number}\r\n\r\nhello\r\n").into_bytes()),
            client: None,
        };
        queue.accept(entry).await.unwrap();
        number
    }

    /// What waits.
    pub(super) async fn waiting(&self) -> Vec<store::Entry> {
        let relay = self.relay.read().await;
        let queue = &relay.as_ref().unwrap().queue;
        queue.list(store::Filter::default()).await.unwrap()
    }

    /// What happened to the messages of a sender.
    pub(super) async fn stories(&self, sender: &str) -> Vec<Story> {
        let relay = self.relay.read().await;
        let queue = &relay.as_ref().unwrap().queue;
        let search = Search {
            sender: Some(sender.to_owned()),
            ..Search::default()
        };
        let page = queue.search_trace(search, None, usize::MAX).await;
        page.unwrap().found
    }

    pub(super) async fn status(&self, account: usize) -> crate::delivery::LaneStatus {
        let relay = self.relay.read().await;
        let status = relay.as_ref().unwrap().delivery.status(&name(account));
        status.unwrap()
    }

    /// Until nothing waits any more, within so many hours.
    pub(super) async fn drained(&self, hours: u64) {
        for _ in 0..hours * 60 {
            if self.waiting().await.is_empty() {
                return;
            }
            sleep(Duration::from_secs(60)).await;
        }
        panic!("still waiting: {:#?}", self.waiting().await.first());
    }

    pub(super) async fn until(&self, second: u64) {
        tokio::time::sleep_until(self.began + Duration::from_secs(second)).await;
    }

    /// How long each message took to its first good recipient's provider, by number.
    pub(super) fn delays(&self) -> HashMap<u64, Duration> {
        let accepted = self.accepted.lock().unwrap();
        let mut delays = HashMap::new();
        for taken in self.providers.iter().flat_map(|provider| provider.taken()) {
            let Some(number) = taken.number else { continue };
            let sent = &accepted[usize::try_from(number).unwrap()];
            delays.entry(number).or_insert(taken.at - sent.at);
        }
        delays
    }

    /// Every recipient has had exactly one outcome; a second delivery only where a final reply was
    /// lost; no limit was ever breached.
    pub(super) fn judge(&self, seed: u64) {
        for (number, provider) in self.providers.iter().enumerate() {
            let breaches = provider.breaches();
            assert!(
                breaches.is_empty(),
                "seed {seed}, account {number}: {breaches:?}"
            );
        }
        let taken: Vec<Taken> = self.providers.iter().flat_map(|p| p.taken()).collect();
        let mut outcomes = HashMap::<String, (usize, usize)>::new();
        let mut reports = HashMap::<String, HashSet<String>>::new();
        for taken in &taken {
            if taken.number.is_some() {
                for recipient in &taken.recipients {
                    let (count, lost) = outcomes.entry(recipient.clone()).or_default();
                    *count += 1;
                    *lost += usize::from(taken.lost);
                }
            } else {
                assert_eq!(taken.sender, "<>", "seed {seed}: a report");
                let id = taken
                    .data
                    .lines()
                    .find(|line| line.starts_with("Message-ID:"));
                let about = taken
                    .data
                    .lines()
                    .filter_map(|line| line.strip_prefix("Final-Recipient: rfc822; "));
                for recipient in about {
                    let ids = reports.entry(recipient.to_owned()).or_default();
                    ids.insert(id.unwrap().to_owned());
                }
            }
        }
        for accepted in self.accepted.lock().unwrap().iter() {
            for recipient in &accepted.recipients {
                let (count, lost) = outcomes.remove(recipient).unwrap_or_default();
                let told = reports.remove(recipient).unwrap_or_default().len();
                let wanted = match recipient.starts_with("bad-") {
                    true => (0, 1),
                    false => (1 + lost, 0),
                };
                assert_eq!(
                    (count, told),
                    wanted,
                    "seed {seed}: {recipient} {accepted:?}"
                );
            }
        }
        assert!(
            outcomes.is_empty() && reports.is_empty(),
            "seed {seed}: {reports:?}"
        );
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

/// The store's thread is outside of simulated time: while it works, time must not pass by more than
/// a tick. Where nothing happens, there is nothing to wait for and time passes faster.
async fn disk(metrics: Arc<Metrics>, wakes: Arc<Notify>) {
    loop {
        tokio::select! {
            () = wakes.notified() => {}
            () = sleep(IDLE_TICK) => {}
        }
        for _ in 0..TICKS {
            while metrics.store_waiting.get() > 0 {
                tokio::task::yield_now().await;
            }
            sleep(TICK).await;
        }
    }
}

/// Simulated time that a commit may seem to take.
const TICK: Duration = Duration::from_millis(250);
/// After a sign of life, so many of them.
const TICKS: u32 = 4;
const IDLE_TICK: Duration = Duration::from_secs(5);
