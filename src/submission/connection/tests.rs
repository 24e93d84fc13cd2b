use std::sync::{Mutex, atomic::AtomicU64};

use rustls::{ClientConfig, pki_types::ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::TlsConnector;

use super::*;
use crate::net::limits::Limits;
use crate::submission::{
    Auth, AuthWithoutTls, Listener,
    door::{Live, Peer, Shared},
    intake::Room,
    login::Logins,
    seen::Seen,
    testing::{Bench, Peer as Client, certificate, listener, rules},
};

/// A session of `listener` on a stream in memory, and its client.
pub(super) fn session(bench: &Bench, listener: Listener) -> Client<DuplexStream> {
    session_of(&shared(bench), listener)
}

fn session_under(bench: &Bench, listener: Listener, rules: Rules) -> Client<DuplexStream> {
    let shared = shared(bench);
    *shared.rules.lock().unwrap() = Arc::new(rules);
    session_of(&shared, listener)
}

/// What sessions share; room for messages in memory as for two or three of the largest.
pub(super) fn shared(bench: &Bench) -> Arc<Shared> {
    let parts = bench.parts.clone();
    Arc::new(Shared {
        queue: parts.queue,
        clock: parts.clock,
        tasks: parts.tasks,
        metrics: parts.metrics,
        rules: Mutex::new(Arc::new(rules())),
        logins: Logins::new(),
        deadlines: Deadlines::default(),
        seen: Seen::default(),
        room: Room::new(ROOM),
        sessions: AtomicU64::new(0),
    })
}

const ROOM: usize = 3 * 1024 * 1024;

pub(super) fn session_of(shared: &Arc<Shared>, listener: Listener) -> Client<DuplexStream> {
    let live = Arc::new(Live::new(listener, &shared.rules()).unwrap());
    let permit = Arc::new(Limits::default()).admit(None, 1, 1).unwrap();
    let peer = Peer::direct(Some("127.0.0.1:4711".parse().unwrap()));
    let context = Context::new(Arc::clone(shared), live, peer, permit);
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    shared
        .tasks
        .spawn("session", serve(Begun::new(ours), context));
    Client::new(theirs)
}

#[tokio::test]
async fn a_message_is_queued_with_its_trace_and_what_it_lacked() {
    let bench = Bench::new();
    let mut client = session(&bench, listener());
    client.begin_data().await;
    client
        .send("Bcc: secret@b.example\r\nSubject: t\u{e9}st\r\n\r\n..dot\r\n.\r\n")
        .await;
    let reply = client.expect("250 2.0.0 queued as ").await;
    let (entry, text) = bench.only_message().await;
    let id = entry.id;
    assert_eq!(reply, format!("250 2.0.0 queued as {id}"));
    assert_eq!(
        text,
        format!(
            "Received: from device ([127.0.0.1])\r\n\tby relay.example with ESMTP id {id}\r\n\
             \tfor <x@b.example>;\r\n\tThu, 1 Jan 1970 00:00:00 +0000\r\nSubject: t\u{e9}st\r\n\
             Date: Thu, 1 Jan 1970 00:00:00 +0000\r\nFrom: <root@a.example>\r\n\
             Message-ID: <{id}@relay.example>\r\nMIME-Version: 1.0\r\n\r\n.dot\r\n"
        )
    );
    assert_eq!(entry.account.as_str(), "alerts");
    assert_eq!(entry.body, BodyType::EightBitMime, "whatever MAIL declared");
    client.say("QUIT", "221 ").await;
    client.expect_end().await;
}

#[tokio::test]
async fn pipelined_commands_are_answered_in_one_write() {
    let bench = Bench::new();
    let mut client = session(&bench, listener());
    client.expect("220 ").await;
    let whole = "EHLO a\r\nMAIL FROM:<root@a.example>\r\nRCPT TO:<x@b.example>\r\nDATA\r\n";
    client.send(whole).await;
    let mut read = vec![0; 4096];
    let length = client.stream.read(&mut read).await.unwrap();
    let text = String::from_utf8_lossy(&read[..length]).into_owned();
    assert!(
        text.starts_with("250-relay.example\r\n") && text.contains("\r\n354 "),
        "{text}"
    );
    // Two messages, and the end of the session, in one go.
    let message = "Subject: x\r\n\r\nx\r\n.\r\n";
    let again = whole.split_once("\r\n").unwrap().1;
    client
        .send(format!("{message}{again}{message}QUIT\r\n"))
        .await;
    for wanted in [
        "250 2.0.0",
        "250 2.1.0",
        "250 2.1.5",
        "354",
        "250 2.0.0",
        "221",
    ] {
        client.expect(wanted).await;
    }
    client.expect_end().await;
    assert_eq!(bench.queued().await, 2);
}

#[tokio::test]
async fn a_large_message_arrives_whole() {
    let bench = Bench::new();
    let mut client = session(&bench, listener());
    client.begin_data().await;
    let line = format!("{}\r\n", "0123456789".repeat(7));
    let body = line.repeat(1_000_000 / line.len());
    client
        .send(format!("From: a@b.example\r\n\r\n{body}.\r\n"))
        .await;
    client.expect("250 2.0.0").await;
    let (entry, text) = bench.only_message().await;
    assert_eq!(usize::try_from(entry.size).unwrap(), text.len());
    let (header, rest) = text.split_once("\r\n\r\n").unwrap();
    assert!(
        header.contains("\r\nFrom: a@b.example\r\nDate: "),
        "{header}"
    );
    assert!(rest == body, "the body is as sent");
}

#[tokio::test]
async fn what_may_not_be_relayed_is_refused_and_the_session_goes_on() {
    let header = "X: y\r\n".repeat(25_000);
    let loops = "Received: x\r\n".repeat(51);
    let big = "x\r\n".repeat(800_000);
    let again = "Received: from x\r\n\tby relay.example with ESMTP id 0000000000001;\r\n".repeat(3);
    for (data, reply) in [
        ("a\r\nb\nc\r\n.\r\n", "550 5.6.11"),
        ("a\r\n\n.\n\r\n.\r\n", "550 5.6.11"),
        ("a\0b\r\n.\r\n", "550 5.6.0"),
        (&*format!("{loops}\r\n.\r\n"), "554 5.4.6"),
        (&*format!("{again}\r\n.\r\n"), "554 5.4.6"),
        (&*format!("{header}\r\n.\r\n"), "552 5.3.4"),
        (&*format!("{big}.\r\n"), "552 5.3.4"),
    ] {
        let bench = Bench::new();
        let mut client = session(&bench, listener());
        client.begin_data().await;
        client.send(data).await;
        client.expect(reply).await;
        client.say("NOOP", "250 ").await;
        assert_eq!(bench.queued().await, 0);
        let metrics = bench.parts.metrics.encode();
        let counted = format!(
            "messages_refused_total{{code=\"{}\"}} 1",
            reply.split(' ').next().unwrap()
        );
        assert!(metrics.contains(&counted), "{metrics}");
    }
}

/// One that came back twice may be meant.
#[tokio::test]
async fn a_message_may_pass_again_but_not_for_ever() {
    let bench = Bench::new();
    let mut client = session(&bench, listener());
    client.begin_data().await;
    let field = "Received: by relay.example with ESMTP id 0000000000001; now\r\n";
    client
        .send(format!("{}\r\nx\r\n.\r\n", field.repeat(2)))
        .await;
    client.expect("250 2.0.0").await;
}

#[tokio::test]
async fn long_lines_pass_or_are_refused_and_header_lines_are_folded() {
    let word = "x".repeat(600);
    let header = format!("Subject: {word} {word}\r\n");
    let long = "y".repeat(999);
    for (rule, data, reply) in [
        (
            LongLines::Pass,
            format!("{header}\r\n{long}\r\n.\r\n"),
            "250 2.0.0",
        ),
        (
            LongLines::Refuse,
            format!("{header}\r\n{long}\r\n.\r\n"),
            "554 5.6.0",
        ),
        (
            LongLines::Refuse,
            format!("{header}\r\nshort\r\n.\r\n"),
            "250 2.0.0",
        ),
        (
            LongLines::Refuse,
            format!("X: {long}\r\n\r\nshort\r\n.\r\n"),
            "554 5.6.0",
        ),
        (
            LongLines::Pass,
            format!("X: {long}\r\n\r\nshort\r\n.\r\n"),
            "250 2.0.0",
        ),
    ] {
        let bench = Bench::new();
        let mut listener = listener();
        listener.long_lines = rule;
        let mut client = session(&bench, listener);
        client.begin_data().await;
        client.send(&data).await;
        client.expect(reply).await;
        client.say("NOOP", "250 ").await;
        if reply == "250 2.0.0" {
            let (_, text) = bench.only_message().await;
            let folded = data.contains(&word);
            assert_eq!(text.contains(&format!("{word}\r\n {word}\r\n")), folded);
            assert!(
                text.contains(&long) == data.contains(&long),
                "nothing is cut"
            );
        }
    }
}

#[tokio::test]
async fn a_hidden_client_leaves_no_trace_of_where_it_is() {
    let bench = Bench::new();
    let mut listener = listener();
    listener.hide_client_address = true;
    let mut client = session(&bench, listener);
    client.begin_data().await;
    client.send("Subject: x\r\n\r\nx\r\n.\r\n").await;
    client.expect("250 2.0.0").await;
    let (entry, text) = bench.only_message().await;
    let begins = format!("Received: by relay.example with ESMTP id {}\r\n", entry.id);
    assert!(text.starts_with(&begins), "{text}");
    assert!(
        !text.contains("127.0.0.1") && !text.contains("device"),
        "{text}"
    );
}

/// No route is known only at DATA: the message behind it is not read as commands.
#[tokio::test]
async fn a_message_sent_without_waiting_for_a_refused_data_ends_the_session() {
    let bench = Bench::new();
    let mut rules = rules();
    rules.router.default_account = None;
    let mut client = session_under(&bench, listener(), rules);
    client.expect("220 ").await;
    client
        .send("EHLO a\r\nMAIL FROM:<a@a.example>\r\nRCPT TO:<x@b.example>\r\nDATA\r\nRSET\r\n.\r\n")
        .await;
    for wanted in ["250-", "250 ", "250 ", "550 5.7.1", "554 5.5.0"] {
        client.expect(wanted).await;
    }
    client.expect_end().await;
}

#[tokio::test]
async fn a_tls_handshake_on_a_plain_listener_is_answered_at_once() {
    let bench = Bench::new();
    let mut client = session(&bench, listener());
    client.expect("220 ").await;
    client
        .send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        .await;
    client.expect("421 4.7.0").await;
    client.expect_end().await;
}

#[tokio::test]
async fn a_client_that_ignores_the_size_limit_is_cut_off() {
    let bench = Bench::new();
    let mut client = session(&bench, listener());
    client.begin_data().await;
    let (mut reader, mut writer) = tokio::io::split(client.stream);
    let write = async {
        let line = vec![b'x'; 64 * 1024];
        let mut sent = 0;
        while writer.write_all(&line).await.is_ok() {
            sent += line.len();
            assert!(sent < 16 * 1024 * 1024, "reads without bound");
        }
    };
    let mut text = String::new();
    let (read, ()) = tokio::join!(reader.read_to_string(&mut text), write);
    read.unwrap();
    assert!(text.starts_with("552 5.3.4"), "{text}");
}

#[tokio::test]
async fn a_login_decides_who_may_send_as_whom() {
    let bench = Bench::new();
    let mut listener = listener();
    listener.auth = Auth::Required;
    let mut client = session(&bench, listener);
    client.expect("220 ").await;
    client.say("EHLO a", "250-").await;
    client.say("MAIL FROM:<root@a.example>", "530 5.7.0").await;
    client
        .say("AUTH PLAIN AHByaW50ZXIAd3Jvbmc=", "535 5.7.8")
        .await;
    client
        .say("AUTH PLAIN AHByaW50ZXIAc2VjcmV0", "235 2.7.0")
        .await;
    client
        .say("MAIL FROM:<root@other.example>", "550 5.7.1")
        .await;
    client.say("MAIL FROM:<>", "550 5.7.1").await;
    client.say("MAIL FROM:<root@a.example>", "250 ").await;
    client.say("RCPT TO:<x@b.example>", "250 ").await;
    client.say("RCPT TO:<y@b.example>", "250 ").await;
    client.say("DATA", "354 ").await;
    client.say("x\r\n.", "250 ").await;
    let (entry, text) = bench.only_message().await;
    assert_eq!(entry.client.as_deref(), Some("printer"));
    assert!(
        text.contains("with ESMTPA id ") && !text.contains("for <"),
        "{text}"
    );
}

async fn under_tls(
    stream: DuplexStream,
    roots: rustls::RootCertStore,
) -> tokio_rustls::client::TlsStream<DuplexStream> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    connector.connect(name, stream).await.unwrap()
}

#[tokio::test]
async fn the_first_octet_decides_whether_a_client_speaks_tls() {
    let bench = Bench::new();
    let (files, roots) = certificate(bench.folder.path());
    let mut auto = listener();
    (auto.tls, auto.certificate) = (Tls::Auto, Some(files));
    auto.auth_without_tls = AuthWithoutTls::Never;
    // TLS at once.
    let stream = under_tls(session(&bench, auto.clone()).stream, roots.clone()).await;
    let mut client = Client::new(stream);
    client.expect("220 ").await;
    let list = client.say("EHLO a", "250-").await;
    assert!(
        !list.contains("STARTTLS") && list.contains("AUTH PLAIN"),
        "{list}"
    );
    client.say("AUTH PLAIN AHByaW50ZXIAc2VjcmV0", "235 ").await;
    // One that waits to be greeted, and asks for TLS then.
    time::pause();
    let mut client = session(&bench, auto.clone());
    client.expect("220 ").await;
    let list = client.say("EHLO a", "250-").await;
    assert!(
        list.contains("STARTTLS") && !list.contains("AUTH"),
        "{list}"
    );
    client.say("STARTTLS", "220 2.0.0").await;
    time::resume();
    let mut client = Client::new(under_tls(client.stream, roots).await);
    client.say("EHLO a", "250-").await;
    // One that does not wait.
    let mut client = session(&bench, auto.clone());
    client.send("EHLO a\r\n").await;
    client.expect("220 ").await;
    client.expect("250-").await;
    // One that is gone, and one whose handshake never ends.
    drop(session(&bench, auto.clone()));
    let mut silent = session(&bench, auto);
    silent.send([0x16]).await;
    time::pause();
    silent.expect_end().await;
}

#[tokio::test]
async fn starttls_forgets_the_session_and_takes_the_login() {
    let bench = Bench::new();
    let (files, roots) = certificate(bench.folder.path());
    let mut listener = listener();
    (listener.tls, listener.certificate) = (Tls::Starttls, Some(files));
    listener.auth_without_tls = AuthWithoutTls::Never;
    let mut client = session(&bench, listener);
    client.expect("220 ").await;
    let list = client.say("EHLO a", "250-").await;
    assert!(
        list.contains("STARTTLS") && !list.contains("AUTH"),
        "{list}"
    );
    client
        .say("AUTH PLAIN AHByaW50ZXIAc2VjcmV0", "538 5.7.11")
        .await;
    client.say("STARTTLS", "220 2.0.0").await;
    let stream = under_tls(client.stream, roots).await;
    let mut client = Client::new(stream);
    client.say("MAIL FROM:<root@a.example>", "503 ").await;
    let list = client.say("EHLO a", "250-").await;
    assert!(
        !list.contains("STARTTLS") && list.contains("AUTH PLAIN LOGIN"),
        "{list}"
    );
    client
        .say("AUTH LOGIN cHJpbnRlcg==", "334 UGFzc3dvcmQ6")
        .await;
    client.say("c2VjcmV0", "235 ").await;
    client.say("QUIT", "221 ").await;
    client.expect_end().await;
}

#[tokio::test]
async fn octets_in_clear_behind_starttls_end_the_session() {
    let bench = Bench::new();
    let (files, _) = certificate(bench.folder.path());
    let mut listener = listener();
    (listener.tls, listener.certificate) = (Tls::Starttls, Some(files));
    let mut client = session(&bench, listener);
    client.expect("220 ").await;
    client.send("EHLO a\r\nSTARTTLS\r\nEHLO b\r\n").await;
    client.expect("250-").await;
    client.expect("554 5.5.1").await;
    client.expect_end().await;
}

#[tokio::test]
async fn told_to_stop_an_idle_session_ends_and_a_message_is_finished_first() {
    let bench = Bench::new();
    let mut idle = session(&bench, listener());
    let mut sending = session(&bench, listener());
    idle.expect("220 ").await;
    sending.begin_data().await;
    sending.send("Subject: x\r\n\r\n").await;
    bench.parts.tasks.stop();
    idle.expect("421 4.3.2").await;
    idle.expect_end().await;
    sending.send("the rest\r\n.\r\n").await;
    sending.expect("250 2.0.0").await;
    sending.expect("421 4.3.2").await;
    sending.expect_end().await;
    assert_eq!(bench.queued().await, 1);
    drop((idle, sending));
    bench.parts.tasks.drained().await;
}

#[tokio::test]
async fn a_bare_lf_is_answered_at_once_and_ends_the_session() {
    let bench = Bench::new();
    let mut client = session(&bench, listener());
    client.expect("220 ").await;
    client.send("EHLO device\n").await;
    client.expect("500 5.5.2 bare LF").await;
    client.expect_end().await;
}

#[tokio::test]
async fn silence_and_slowness_have_an_end() {
    let bench = Bench::new();
    let mut silent = session(&bench, listener());
    silent.expect("220 ").await;
    let mut slow = session(&bench, listener());
    slow.begin_data().await;
    slow.send("Subject: never ends\r\n").await;
    time::pause();
    silent.expect("421 4.4.2").await;
    slow.expect("421 4.4.2").await;
    assert_eq!(bench.queued().await, 0);
}

/// What a client reads that sends an octet every ten seconds until its session ends.
async fn trickled(stream: DuplexStream) -> String {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut said = Vec::new();
    let read = reader.read_to_end(&mut said);
    let write = async {
        while writer.write_all(&[3]).await.is_ok() {
            time::sleep(Duration::from_secs(10)).await;
        }
    };
    let (read, ()) = tokio::join!(read, write);
    read.unwrap();
    String::from_utf8(said).unwrap()
}

/// An octet every ten seconds buys nobody time: each phase has one deadline.
#[tokio::test]
async fn whatever_trickles_in_each_phase_ends() {
    let bench = Bench::new();
    let (files, _) = certificate(bench.folder.path());
    let mut implicit = listener();
    (implicit.tls, implicit.certificate) = (Tls::Implicit, Some(files));
    let deadlines = Deadlines::default();
    for (phase, limit, last) in [
        ("command", deadlines.command, "421 4.4.2"),
        ("data", deadlines.data_block, "421 4.4.2"),
        // In clear nothing can be said to it.
        ("handshake", deadlines.handshake, ""),
    ] {
        let listener = if phase == "handshake" {
            implicit.clone()
        } else {
            listener()
        };
        let mut client = session(&bench, listener);
        match phase {
            "command" => drop(client.expect("220 ").await),
            "data" => client.begin_data().await,
            _ => client.send([0x16]).await,
        }
        time::pause();
        let began = Instant::now();
        let said = trickled(client.stream).await;
        assert!(
            said.starts_with(last) && said.is_empty() == last.is_empty(),
            "{said}"
        );
        // On the clock of the test, which stands still between deadlines.
        let took = began.elapsed();
        assert!(took < limit + Duration::from_secs(60), "{phase}: {took:?}");
        time::resume();
    }
}

#[tokio::test]
async fn overlong_lines_do_not_grow_the_buffer() {
    let bench = Bench::new();
    let mut client = session(&bench, listener());
    client.expect("220 ").await;
    client
        .send(format!("EHLO {}\r\nNOOP\r\n", "x".repeat(100_000)))
        .await;
    client.expect("500 5.5.2 line too long").await;
    client.expect("250 ").await;
}

/// The seeds of the fuzz target through the real driver: whatever is said, the session ends when its
/// client does, and as many messages are queued as were answered so.
#[tokio::test]
async fn sessions_of_all_kinds_end_and_queue_what_they_say() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/session");
    let bench = Bench::new();
    let mut answered = 0;
    for (count, entry) in std::fs::read_dir(folder).unwrap().enumerate() {
        let seed = std::fs::read(entry.unwrap().path()).unwrap();
        let mut listener = listener();
        if count % 2 == 0 {
            listener.line_endings = LineEndings::Normalize;
        }
        let client = session(&bench, listener);
        let (mut reader, mut writer) = tokio::io::split(client.stream);
        let write = async {
            // One that was closed early writes no more.
            let written = AsyncWriteExt::write_all(&mut writer, &seed[2..]).await;
            written.unwrap_or_default();
            let ended = AsyncWriteExt::shutdown(&mut writer).await;
            ended.unwrap_or_default();
        };
        let mut text = String::new();
        let (read, ()) = tokio::join!(reader.read_to_string(&mut text), write);
        read.unwrap();
        assert!(text.starts_with("220 ") && text.ends_with("\r\n"), "{text}");
        answered += text.matches(" queued as ").count();
    }
    assert!(answered >= 5, "{answered} messages");
    assert_eq!(bench.queued().await, answered);
}

/// A thousand idle sessions must not cost more than what their buffers need.
#[tokio::test]
async fn an_idle_session_is_small() {
    let bench = Bench::new();
    let shared = shared(&bench);
    let live = Arc::new(Live::new(listener(), &shared.rules()).unwrap());
    let permit = Arc::new(Limits::default()).admit(None, 1, 1).unwrap();
    let context = Context::new(shared, live, Peer::direct(None), permit);
    let (ours, _theirs) = tokio::io::duplex(64);
    let future = serve(Begun::new(ours), context);
    let size = size_of_val(&future);
    assert!(size < 8 * 1024, "{size} octets before any buffer");
}
