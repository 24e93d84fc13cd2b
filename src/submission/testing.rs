//! What the tests of this part share: parts over a real store, and a client that speaks lines.

use std::{path::Path, sync::Arc};

use jiff::Timestamp;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::*;
use crate::{
    clock::ManualClock,
    mail::{Body, Message},
    queue,
    secret::Secret,
    store::{self, Filter, Store},
};

/// A place for a daemon's parts; the folder goes with it.
pub(super) struct Bench {
    pub(super) parts: Parts,
    pub(super) folder: TempDir,
}

impl Bench {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let metrics = Arc::new(Metrics::new());
        let clock: Arc<dyn Clock> = ManualClock::new(Timestamp::UNIX_EPOCH);
        let config = store::Config {
            state_dir: folder.path().to_owned(),
        };
        let store = Store::open(&config, Arc::clone(&metrics)).unwrap();
        let config = queue::Config {
            retry: queue::retry::Policy::default(),
        };
        let queue = Queue::new(config, store, Arc::clone(&clock), Arc::clone(&metrics));
        let parts = Parts {
            queue,
            clock,
            tasks: Tasks::new(),
            metrics,
        };
        Self { parts, folder }
    }

    /// The only message that is queued: its entry, and its octets as text.
    pub(super) async fn only_message(&self) -> (store::Entry, String) {
        let entries = self.parts.queue.list(Filter::default()).await.unwrap();
        let [entry] = &entries[..] else {
            panic!("{} messages are queued", entries.len());
        };
        let read = self.parts.queue.read(entry.id).await.unwrap();
        let (entry, message) = read.unwrap();
        let text = String::from_utf8_lossy(&octets(&message)).into_owned();
        (entry, text)
    }

    pub(super) async fn queued(&self) -> usize {
        let entries = self.parts.queue.list(Filter::default()).await.unwrap();
        entries.len()
    }
}

fn octets(message: &Message) -> Vec<u8> {
    match &message.body {
        Body::Memory(octets) => octets.to_vec(),
        Body::File(file) => std::fs::read(&file.path).unwrap(),
    }
}

pub(crate) fn listener() -> Listener {
    Listener {
        name: "test".to_owned(),
        address: Address::Tcp("127.0.0.1:0".parse().unwrap()),
        tls: Tls::None,
        certificate: None,
        auth: Auth::Optional,
        auth_without_tls: AuthWithoutTls::Loopback,
        allow: Vec::new(),
        delivery: Contract::Queue,
        line_endings: LineEndings::Strict,
        long_lines: LongLines::Pass,
        hide_client_address: false,
        max_message_size: 2 * 1024 * 1024,
        max_recipients: 100,
        max_connections: 100,
        max_connections_per_client: 100,
        proxy_protocol_from: Vec::new(),
    }
}

/// Everything goes to one account; `printer` logs in with `secret` and sends as `*@a.example`.
pub(super) fn rules() -> Rules {
    let printer = Client {
        password_hash: hash_password(&Secret::new("secret")).unwrap(),
        account: None,
        senders: vec!["*@a.example".to_owned()],
        disabled: false,
    };
    Rules {
        hostname: "relay.example".to_owned(),
        clients: BTreeMap::from([("printer".to_owned(), printer)]),
        router: Router {
            routes: Vec::new(),
            default_account: Some(AccountName::new("alerts")),
        },
    }
}

/// A certificate for `localhost` in two files; gives the certificate in DER for the client.
pub(super) fn certificate(folder: &Path) -> ((PathBuf, PathBuf), rustls::RootCertStore) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let files = (folder.join("test.crt"), folder.join("test.key"));
    std::fs::write(&files.0, made.cert.pem()).unwrap();
    std::fs::write(&files.1, made.signing_key.serialize_pem()).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    (files, roots)
}

/// The other end of a session.
pub(super) struct Peer<S> {
    pub(super) stream: S,
    unread: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    pub(super) fn new(stream: S) -> Self {
        let unread = Vec::new();
        Self { stream, unread }
    }

    pub(super) async fn send(&mut self, text: impl AsRef<[u8]>) {
        self.stream.write_all(text.as_ref()).await.unwrap();
    }

    /// One whole reply, its lines joined by `|`; empty when the session is over.
    pub(super) async fn reply(&mut self) -> String {
        let mut lines = Vec::new();
        while let Some(line) = self.line().await {
            let last = line.as_bytes().get(3) != Some(&b'-');
            lines.push(line);
            if last {
                break;
            }
        }
        lines.join("|")
    }

    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.unread.windows(2).position(|two| two == b"\r\n") {
                let line: Vec<u8> = self.unread.drain(..end + 2).collect();
                return Some(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            let read = self.stream.read_buf(&mut self.unread).await;
            if read.is_ok_and(|read| read == 0) {
                return None;
            }
        }
    }

    /// Sends a line and wants a reply that begins so.
    pub(super) async fn say(&mut self, line: &str, wanted: &str) -> String {
        self.send(format!("{line}\r\n")).await;
        self.expect(wanted).await
    }

    pub(super) async fn expect(&mut self, wanted: &str) -> String {
        let reply = self.reply().await;
        assert!(reply.starts_with(wanted), "want {wanted:?}, got {reply:?}");
        reply
    }

    /// Wants the end of the session.
    pub(super) async fn expect_end(&mut self) {
        assert_eq!(self.reply().await, "");
    }

    /// Greets, and goes on to the 354.
    pub(super) async fn begin_data(&mut self) {
        self.expect("220 ").await;
        self.say("EHLO device", "250-").await;
        self.say("MAIL FROM:<root@a.example>", "250 ").await;
        self.say("RCPT TO:<x@b.example>", "250 ").await;
        self.say("DATA", "354 ").await;
    }
}
