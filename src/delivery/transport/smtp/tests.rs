//! Dialogues with servers that are played here, on loopback.

use std::{future::Future, sync::Arc};

use bytes::Bytes;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    join,
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::{
    delivery::{Auth, Smarthost, Tls, bounce::message},
    mail::{Address, BodyFile, Recipient, ReversePath},
    net::{dial, tls::client::Connectors},
    secret::Secret,
};

/// A played server's end of a connection.
struct Peer<S = TcpStream>(BufReader<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    async fn say(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.expect("writable");
        self.0.flush().await.expect("writable");
    }

    /// One line, without its CRLF.
    async fn hear(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).await.expect("readable");
        line.strip_suffix("\r\n").expect("a whole line").to_owned()
    }

    async fn expect(&mut self, line: &str, answer: &str) {
        assert_eq!(self.hear().await, line);
        self.say(answer).await;
    }

    /// Message data with its end.
    async fn data(&mut self) -> Vec<u8> {
        let mut data = Vec::new();
        while !(data.ends_with(b"\r\n.\r\n") || data == b".\r\n") {
            let read = self.0.read_until(b'\n', &mut data).await.expect("readable");
            assert!(read > 0, "closed before the end of data");
        }
        data
    }

    /// Nothing more comes: the peer closes.
    async fn gone(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        self.0.read_to_end(&mut rest).await.unwrap_or_default();
        rest
    }
}

struct Server(TcpListener);

impl Server {
    async fn new() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.expect("a port"))
    }

    async fn accept(&self) -> Peer {
        let (stream, _) = self.0.accept().await.expect("a connection");
        Peer(BufReader::new(stream))
    }

    /// A connection that has got through EHLO, with these capabilities.
    async fn greeted(&self, capabilities: &[&str]) -> Peer {
        let mut peer = self.accept().await;
        peer.say("220 mock ESMTP\r\n").await;
        peer.expect("EHLO relay.example", &ehlo(capabilities)).await;
        peer
    }

    fn smarthost(&self, tls: Tls, auth: Auth) -> Smarthost {
        Smarthost {
            host: "127.0.0.1".into(),
            port: self.0.local_addr().expect("bound").port(),
            tls,
            auth,
            ca_file: None,
        }
    }

    async fn open(&self) -> Result<Connection, Failure> {
        open(&self.smarthost(Tls::None, Auth::None)).await
    }
}

async fn open(smarthost: &Smarthost) -> Result<Connection, Failure> {
    let mut journal = Journal::silent();
    Connection::open(smarthost, "relay.example", &Connectors::new(), &mut journal).await
}

fn ehlo(capabilities: &[&str]) -> String {
    let lines = capabilities.iter().map(|c| format!("250-{c}\r\n"));
    format!("250-mock\r\n{}250 HELP\r\n", lines.collect::<String>())
}

/// Plays a server against a client; both must come to their end.
async fn play<A, B>(server: impl Future<Output = A>, client: impl Future<Output = B>) -> (A, B) {
    join!(server, client)
}

/// What a message is sent to.
struct Draft {
    sender: ReversePath,
    recipients: Vec<Recipient>,
    message: Message,
    body: BodyType,
}

impl Draft {
    fn new(recipients: usize, text: &str) -> Self {
        let address = |n| Address::parse(&format!("r{n}@x.example")).expect("valid");
        Self {
            sender: ReversePath::Address(Address::parse("s@b.example").expect("valid")),
            recipients: (0..recipients)
                .map(|n| Recipient::new(address(n)))
                .collect(),
            message: message(text.as_bytes().to_vec()),
            body: BodyType::SevenBit,
        }
    }

    fn job(&self) -> Job<'_> {
        Job {
            id: crate::mail::QueueId::from_i64(1),
            sender: &self.sender,
            recipients: self.recipients.iter().collect(),
            body: self.body,
            smtputf8: false,
            ret: None,
            envid: None,
            message: &self.message,
            head: None,
            all_or_none: false,
        }
    }

    async fn send(&self, connection: &mut Connection) -> Result<Answers, Failure> {
        connection
            .transact(&self.job(), std::future::ready(true))
            .await
    }
}

fn codes(answers: &Result<Answers, Failure>) -> Vec<(Phase, u16)> {
    let answers = answers.as_ref().expect("answers");
    answers
        .iter()
        .map(|(phase, reply)| (*phase, reply.code))
        .collect()
}

fn cause<T>(result: Result<T, Failure>) -> (Phase, Cause, bool) {
    match result {
        Ok(_) => panic!("should have failed"),
        Err(failure) => (failure.phase, failure.cause, failure.uncertain),
    }
}

#[tokio::test]
async fn the_envelope_goes_in_one_write_and_every_recipient_has_its_own_reply() {
    let server = Server::new().await;
    let draft = Draft::new(3, "Subject: x\r\n\r\n.dot\r\nlast\r\n");
    let (data, ()) = play(
        async {
            let mut peer = server.greeted(&["PIPELINING", "SIZE 1000"]).await;
            // Answering nothing before all of it is here: a client in steps would hang.
            let size = draft.message.size;
            assert_eq!(
                peer.hear().await,
                format!("MAIL FROM:<s@b.example> SIZE={size}")
            );
            for n in 0..3 {
                assert_eq!(peer.hear().await, format!("RCPT TO:<r{n}@x.example>"));
            }
            assert_eq!(peer.hear().await, "DATA");
            peer.say("250 ok\r\n250 ok\r\n550 5.1.1 no\r\n450 4.2.1 busy\r\n354 go\r\n")
                .await;
            let data = peer.data().await;
            peer.say("250 2.0.0 queued\r\n").await;
            data
        },
        async {
            let mut connection = server.open().await.expect("opens");
            let answers = draft.send(&mut connection).await;
            assert_eq!(
                codes(&answers),
                [(Phase::End, 250), (Phase::Rcpt, 550), (Phase::Rcpt, 450)]
            );
            assert!(connection.is_usable());
        },
    )
    .await;
    assert_eq!(data, b"Subject: x\r\n\r\n..dot\r\nlast\r\n.\r\n");
}

#[tokio::test]
async fn an_address_that_cannot_be_said_keeps_nobody_else_from_the_message() {
    let server = Server::new().await;
    let mut draft = Draft::new(3, "x\r\n");
    draft.recipients[1] = Recipient::new(Address::parse("gr\u{fc}n@x.example").expect("valid"));
    play(
        async {
            let mut peer = server.greeted(&[]).await;
            peer.expect("MAIL FROM:<s@b.example>", "250 ok\r\n").await;
            peer.expect("RCPT TO:<r0@x.example>", "250 ok\r\n").await;
            peer.expect("RCPT TO:<r2@x.example>", "250 ok\r\n").await;
            peer.expect("DATA", "354 go\r\n").await;
            assert_eq!(peer.data().await, b"x\r\n.\r\n");
            peer.say("250 done\r\n").await;
        },
        async {
            let mut connection = server.open().await.expect("opens");
            let answers = draft.send(&mut connection).await;
            let each = [(Phase::End, 250), (Phase::Rcpt, 553), (Phase::End, 250)];
            assert_eq!(codes(&answers), each);
            // Where all must have it or nobody, nothing is said at all.
            let job = Job {
                all_or_none: true,
                ..draft.job()
            };
            let none = connection.transact(&job, std::future::ready(true)).await;
            assert_eq!(codes(&none), [(Phase::Rcpt, 553); 3]);
            assert!(connection.is_usable());
        },
    )
    .await;
}

#[tokio::test]
async fn without_pipelining_each_command_waits_for_its_reply() {
    let server = Server::new().await;
    let draft = Draft::new(2, "x\r\n");
    play(
        async {
            let mut peer = server.greeted(&[]).await;
            peer.expect("MAIL FROM:<s@b.example>", "250 ok\r\n").await;
            peer.expect("RCPT TO:<r0@x.example>", "550 no\r\n").await;
            peer.expect("RCPT TO:<r1@x.example>", "251 ok\r\n").await;
            peer.expect("DATA", "354 go\r\n").await;
            assert_eq!(peer.data().await, b"x\r\n.\r\n");
            peer.say("250 done\r\n").await;
            // A sender that is refused ends it there.
            peer.expect("MAIL FROM:<s@b.example>", "550 5.7.60 no\r\n")
                .await;
        },
        async {
            let mut connection = server.open().await.expect("opens");
            let first = draft.send(&mut connection).await;
            assert_eq!(codes(&first), [(Phase::Rcpt, 550), (Phase::End, 250)]);
            let second = draft.send(&mut connection).await;
            assert_eq!(codes(&second), [(Phase::Mail, 550), (Phase::Mail, 550)]);
        },
    )
    .await;
}

#[tokio::test]
async fn an_unwanted_354_is_answered_with_a_dot_and_an_open_transaction_reset() {
    let server = Server::new().await;
    let draft = Draft::new(1, "secret\r\n");
    let envelope = async |peer: &mut Peer, answer: &str| {
        for _ in 0..3 {
            peer.hear().await;
        }
        peer.say(answer).await;
    };
    play(
        async {
            let mut peer = server.greeted(&["PIPELINING"]).await;
            envelope(&mut peer, "250 ok\r\n550 no\r\n354 go\r\n").await;
            assert_eq!(peer.data().await, b".\r\n", "nothing of the message");
            peer.say("554 no valid recipients\r\n").await;
            // The next one needs no RSET; this time the server refuses DATA and keeps MAIL open.
            envelope(&mut peer, "250 ok\r\n550 no\r\n503 no recipients\r\n").await;
            assert_eq!(peer.hear().await, "RSET");
            envelope(&mut peer, "250 ok\r\n250 ok\r\n451 later\r\n503 no\r\n").await;
        },
        async {
            let mut connection = server.open().await.expect("opens");
            assert_eq!(
                codes(&draft.send(&mut connection).await),
                [(Phase::Rcpt, 550)]
            );
            assert_eq!(
                codes(&draft.send(&mut connection).await),
                [(Phase::Rcpt, 550)]
            );
            assert_eq!(
                codes(&draft.send(&mut connection).await),
                [(Phase::Rcpt, 451)]
            );
            assert!(connection.is_usable());
        },
    )
    .await;
}

#[tokio::test]
async fn a_large_message_from_a_file_arrives_whole() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("body");
    let text: String = (0..40_000).map(|n| format!(".{n} a line\r\n")).collect();
    std::fs::write(&path, &text).expect("writable");
    let mut in_file = Draft::new(1, &text);
    in_file.message.body = Body::File(Arc::new(BodyFile { path }));
    let mut in_memory = Draft::new(1, &text);
    in_memory.message.body = Body::Memory(Bytes::from(text.clone()));
    let stuffed = format!("{}.\r\n", text.replace("\r\n.", "\r\n..")).replacen('.', "..", 1);
    for draft in [in_file, in_memory] {
        let server = Server::new().await;
        let (data, ()) = play(
            async {
                let mut peer = server.greeted(&["PIPELINING"]).await;
                for _ in 0..3 {
                    peer.hear().await;
                }
                peer.say("250 ok\r\n250 ok\r\n354 go\r\n").await;
                let data = peer.data().await;
                peer.say("250 done\r\n").await;
                data
            },
            async {
                let mut connection = server.open().await.expect("opens");
                assert_eq!(
                    codes(&draft.send(&mut connection).await),
                    [(Phase::End, 250)]
                );
            },
        )
        .await;
        assert!(data == stuffed.as_bytes(), "every octet, dots stuffed");
    }
}

#[tokio::test]
async fn the_end_of_data_waits_for_permission() {
    let server = Server::new().await;
    let draft = Draft::new(1, "x\r\n");
    let (allow, allowed) = tokio::sync::oneshot::channel();
    play(
        async {
            let mut peer = server.greeted(&["PIPELINING"]).await;
            for _ in 0..3 {
                peer.hear().await;
            }
            peer.say("250 ok\r\n250 ok\r\n354 go\r\n").await;
            // The envelope is through before permission is given: that is what overlaps.
            allow.send(()).expect("somebody waits");
            peer.data().await;
            peer.say("250 done\r\n").await;
            for _ in 0..3 {
                peer.hear().await;
            }
            peer.say("250 ok\r\n250 ok\r\n354 go\r\n").await;
            assert_eq!(
                peer.gone().await,
                b"",
                "not allowed: nothing of the message, no end"
            );
        },
        async {
            let mut connection = server.open().await.expect("opens");
            let ready = async { allowed.await.is_ok() };
            let answers = connection.transact(&draft.job(), ready).await;
            assert_eq!(codes(&answers), [(Phase::End, 250)]);
            let refused = connection
                .transact(&draft.job(), std::future::ready(false))
                .await;
            assert!(matches!(cause(refused), (_, Cause::Unsettled, false)));
            assert!(!connection.is_usable());
        },
    )
    .await;
}

#[tokio::test]
async fn a_server_that_refuses_in_the_middle_is_heard() {
    let server = Server::new().await;
    // More than any socket buffer: the client blocks, and must hear the reply while it does.
    let draft = Draft::new(1, &"a line of text that goes on\r\n".repeat(1_000_000));
    play(
        async {
            let mut peer = server.greeted(&["PIPELINING"]).await;
            for _ in 0..3 {
                peer.hear().await;
            }
            peer.say("250 ok\r\n250 ok\r\n354 go\r\n").await;
            peer.say("552 5.3.4 too much\r\n").await;
            peer
        },
        async {
            let mut connection = server.open().await.expect("opens");
            let answers = draft.send(&mut connection).await;
            assert_eq!(codes(&answers), [(Phase::Body, 552)]);
            assert!(!connection.is_usable());
        },
    )
    .await;
}

#[tokio::test]
async fn a_reply_before_the_end_delivers_nothing() {
    let server = Server::new().await;
    let draft = Draft::new(1, "x\r\n");
    play(
        async {
            let mut peer = server.greeted(&["PIPELINING"]).await;
            for _ in 0..3 {
                peer.hear().await;
            }
            peer.say("250 ok\r\n250 ok\r\n354 go\r\n250 thanks already\r\n")
                .await;
            peer.gone().await;
        },
        async {
            let mut connection = server.open().await.expect("opens");
            let (_, why, uncertain) = cause(draft.send(&mut connection).await);
            assert!(matches!(why, Cause::Unexpected(_)) && !uncertain, "{why}");
        },
    )
    .await;
}

#[tokio::test]
async fn only_after_the_end_of_data_a_lost_connection_is_uncertain() {
    // What the server still says before it closes, and how that is seen.
    for (said, phase, uncertain) in [
        ("", Phase::Mail, false),
        ("250 ok\r\n", Phase::Rcpt, false),
        ("250 ok\r\n250 ok\r\n", Phase::Data, false),
        ("250 ok\r\n250 ok\r\n354 go\r\n", Phase::End, true),
        ("250 ok\r\n250 ok\r\n354 go\r\n250 do", Phase::End, true),
    ] {
        let server = Server::new().await;
        let draft = Draft::new(1, "x\r\n");
        play(
            async {
                let mut peer = server.greeted(&["PIPELINING"]).await;
                for _ in 0..3 {
                    peer.hear().await;
                }
                let (before, after) = said.split_at(said.find("250 do").unwrap_or(said.len()));
                peer.say(before).await;
                if uncertain {
                    peer.data().await;
                    peer.say(after).await;
                }
            },
            async {
                let mut connection = server.open().await.expect("opens");
                let (at, why, unsure) = cause(draft.send(&mut connection).await);
                assert!(why.is_disconnect(), "{why}");
                assert_eq!((at, unsure), (phase, uncertain), "after {said:?}");
            },
        )
        .await;
    }
}

/// Plays a server that takes a whole message and answers with these octets, then closes: in order, or
/// (`resets`) as a crashed peer does. What the client makes of it, whether it would use the connection
/// again, and how many octets it keeps.
async fn answered(last_words: &[u8], resets: bool) -> (Result<Answers, Failure>, bool, usize) {
    let server = Server::new().await;
    let draft = Draft::new(1, "x\r\n");
    let (_, done) = play(
        async {
            let mut peer = server.greeted(&["PIPELINING"]).await;
            for _ in 0..3 {
                peer.hear().await;
            }
            peer.say("250 ok\r\n250 ok\r\n354 go\r\n").await;
            peer.data().await;
            // The client may hang up before all of it is written.
            peer.0.write_all(last_words).await.unwrap_or_default();
            peer.0.flush().await.unwrap_or_default();
            if resets {
                peer.0.get_ref().set_zero_linger().expect("a socket");
            }
        },
        async {
            let mut connection = server.open().await.expect("opens");
            let answers = draft.send(&mut connection).await;
            (answers, connection.is_usable(), connection.reader.unread())
        },
    )
    .await;
    done
}

/// Cut after every octet of the final reply: until its line end has come, nobody knows.
#[tokio::test]
async fn a_final_reply_counts_only_when_it_is_whole() {
    let last_words = b"250-2.0.0 taken\r\n250 2.0.0 as 4711\r\n";
    for length in 0..=last_words.len() {
        for resets in [false, true] {
            let (answers, usable, _) = answered(&last_words[..length], resets).await;
            if length == last_words.len() && !resets {
                assert_eq!(codes(&answers), [(Phase::End, 250)]);
            } else if length < last_words.len() {
                let (phase, why, uncertain) = cause(answers);
                assert!(why.is_disconnect(), "after {length} octets: {why}");
                assert_eq!((phase, uncertain), (Phase::End, true), "after {length}");
                assert!(!usable);
            }
        }
    }
}

/// An answer that is none, in place of the final reply: bounded, and as uncertain as silence.
#[tokio::test]
async fn nonsense_in_place_of_the_final_reply_is_uncertain_and_bounded() {
    let long_line = [b"250 ".as_slice(), &vec![b'a'; 10_000_000]].concat();
    let endless = b"250-still thinking\r\n".repeat(500_000);
    let text: [(&str, &[u8]); 6] = [
        ("10 MB in a line", &long_line),
        ("a reply without end", &endless),
        ("no code", b"thank you\r\n"),
        ("NUL", b"\0\0\0\0\0\r\n"),
        ("two codes", b"250-yes\r\n550 no\r\n"),
        ("354 once more", b"354 go on\r\n"),
    ];
    for (what, octets) in text {
        let (answers, usable, kept) = answered(octets, false).await;
        let (phase, why, uncertain) = cause(answers);
        assert!(
            matches!(why, Cause::Garbage(_) | Cause::Unexpected(_)),
            "{what}: {why}"
        );
        assert_eq!((phase, uncertain), (Phase::End, true), "{what}");
        assert!(!usable, "{what}");
        assert!(
            kept <= client::REPLY_LEN_MAX + 4096,
            "{what}: {kept} octets"
        );
    }
}

/// Nothing was taken while the last octet of the message's end is still here.
#[tokio::test(start_paused = true)]
async fn an_end_that_never_left_is_not_uncertain() {
    let server = Server::new().await;
    // More than the sockets' buffers of both sides hold.
    let draft = Draft::new(1, &"x\r\n".repeat(6_000_000));
    play(
        async {
            let mut peer = server.greeted(&["PIPELINING"]).await;
            for _ in 0..3 {
                peer.hear().await;
            }
            peer.say("250 ok\r\n250 ok\r\n354 go\r\n").await;
            // It stops reading; the connection stays open until the client gives up.
            tokio::time::sleep(2 * BLOCK_TIMEOUT).await;
            peer
        },
        async {
            let mut connection = server.open().await.expect("opens");
            let (_, why, uncertain) = cause(draft.send(&mut connection).await);
            assert!(matches!(why, Cause::Timeout(limit) if limit == BLOCK_TIMEOUT));
            assert!(!uncertain);
        },
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn every_phase_has_its_deadline() {
    for (script, phase, seconds) in [
        (&[][..], Phase::Banner, 300),
        (&["220 hi\r\n"], Phase::Ehlo, 300),
        (
            &["220 hi\r\n", "250-x\r\n250 PIPELINING\r\n"],
            Phase::Mail,
            300,
        ),
        (
            &["220 hi\r\n", "250-x\r\n250 PIPELINING\r\n", "250 ok\r\n"],
            Phase::Rcpt,
            300,
        ),
        (
            &[
                "220 hi\r\n",
                "250-x\r\n250 PIPELINING\r\n",
                "250 a\r\n250 b\r\n",
            ],
            Phase::Data,
            120,
        ),
        (
            &[
                "220 hi\r\n",
                "250-x\r\n250 PIPELINING\r\n",
                "250 a\r\n250 b\r\n354 c\r\n",
            ],
            Phase::End,
            600,
        ),
    ] {
        let server = Server::new().await;
        let draft = Draft::new(1, "x\r\n");
        let client = async {
            let started = Instant::now();
            let result = match server.open().await {
                Ok(mut connection) => draft.send(&mut connection).await.map(|_| ()),
                Err(failure) => Err(failure),
            };
            let (at, why, _) = cause(result);
            assert!(matches!(why, Cause::Timeout(_)), "{why}");
            assert_eq!((at, started.elapsed().as_secs()), (phase, seconds));
        };
        let silent = async {
            let mut peer = server.accept().await;
            for line in script {
                peer.say(line).await;
            }
            peer.gone().await
        };
        play(silent, client).await;
    }
}

#[tokio::test]
async fn what_is_no_smtp_ends_the_session() {
    let long = format!("220 {}", "a".repeat(200_000));
    for banner in ["HTTP/1.1 200 OK\r\n", "SSH-2.0-x\r\n", &long] {
        let server = Server::new().await;
        let (_, opened) = play(
            async {
                let mut peer = server.accept().await;
                // The client may be gone before all of it is written.
                peer.0
                    .write_all(banner.as_bytes())
                    .await
                    .unwrap_or_default();
                peer
            },
            server.open(),
        )
        .await;
        let (phase, why, _) = cause(opened);
        assert!(
            phase == Phase::Banner && matches!(why, Cause::Garbage(_)),
            "{why}"
        );
    }
}

#[tokio::test]
async fn what_cannot_be_sent_there_is_refused_before_anything_is_said() {
    let server = Server::new().await;
    let mut eight_bit = Draft::new(2, "caf\u{e9}\r\n");
    eight_bit.body = BodyType::EightBitMime;
    let mut declared = Draft::new(1, "cafe\r\n");
    declared.body = BodyType::EightBitMime;
    play(
        async {
            let mut peer = server.greeted(&["SIZE 100"]).await;
            peer.expect("MAIL FROM:<s@b.example> SIZE=6", "421 bye\r\n")
                .await;
        },
        async {
            let mut connection = server.open().await.expect("opens");
            let large = Draft::new(1, &"x\r\n".repeat(100));
            for (draft, code) in [(&large, 552), (&eight_bit, 554)] {
                let answers = draft.send(&mut connection).await;
                assert!(
                    codes(&answers)
                        .iter()
                        .all(|found| *found == (Phase::Mail, code))
                );
                assert_eq!(answers.map(|a| a.len()).ok(), Some(draft.recipients.len()));
            }
            // Declared, not used: it goes as what it is.
            assert_eq!(
                codes(&declared.send(&mut connection).await),
                [(Phase::Mail, 421)]
            );
            assert!(!connection.is_usable());
        },
    )
    .await;
}

const TOKEN: &str = "canary-token";

async fn authenticate(server: &Server, auth: Auth) -> Result<(), Failure> {
    let smarthost = server.smarthost(Tls::None, auth);
    let mut connection = open(&smarthost).await?;
    let token = Secret::new(TOKEN);
    connection
        .authenticate(&smarthost.auth, smarthost.port, Some(&token))
        .await
}

fn xoauth2() -> Auth {
    Auth::Xoauth2 {
        username: "u@b.example".into(),
    }
}

#[tokio::test]
async fn tokens_go_in_a_line_of_their_own() {
    for (offer, auth, command) in [
        ("AUTH LOGIN XOAUTH2", xoauth2(), "AUTH XOAUTH2"),
        (
            "AUTH OAUTHBEARER",
            Auth::OauthBearer {
                username: "u@b.example".into(),
            },
            "AUTH OAUTHBEARER",
        ),
        // What is configured is not offered, the other one is and takes the same token.
        ("AUTH OAUTHBEARER", xoauth2(), "AUTH OAUTHBEARER"),
    ] {
        let server = Server::new().await;
        let (line, done) = play(
            async {
                let mut peer = server.greeted(&[offer]).await;
                peer.expect(command, "334 \r\n").await;
                let line = peer.hear().await;
                peer.say("235 2.7.0 welcome\r\n").await;
                line
            },
            authenticate(&server, auth),
        )
        .await;
        assert!(done.is_ok());
        use base64::Engine;
        let clear = base64::engine::general_purpose::STANDARD
            .decode(line)
            .expect("base64");
        let clear = String::from_utf8(clear).expect("text");
        assert!(
            clear.contains("u@b.example") && clear.contains(&format!("auth=Bearer {TOKEN}\x01"))
        );
    }
}

#[tokio::test]
async fn an_error_challenge_is_answered_and_kept() {
    let google = "eyJzdGF0dXMiOiI0MDEiLCJzY2hlbWVzIjoiYmVhcmVyIG1hYyIsInNjb3BlIjoiaHR0cHM6Ly9tYWlsLmdvb2dsZS5jb20vIn0K";
    for (mechanism, answer) in [("XOAUTH2", ""), ("OAUTHBEARER", "AQ==")] {
        let server = Server::new().await;
        let (_, done) = play(
            async {
                let mut peer = server.greeted(&[&format!("AUTH {mechanism}")]).await;
                peer.expect(&format!("AUTH {mechanism}"), "334 \r\n").await;
                peer.hear().await;
                peer.say(&format!("334 {google}\r\n")).await;
                peer.expect(
                    answer,
                    "535-5.7.8 Username and Password\r\n535 5.7.8 not accepted\r\n",
                )
                .await;
            },
            authenticate(&server, xoauth2()),
        )
        .await;
        let (phase, why, _) = cause(done);
        let Cause::Refused { reply, challenge } = why else {
            panic!("refused, not {why}");
        };
        assert_eq!((phase, reply.code), (Phase::Auth, 535));
        assert!(challenge.is_some_and(|json| json.contains("\"status\":\"401\"")));
    }
}

#[tokio::test]
async fn a_refusal_at_any_step_of_auth_is_the_servers_reply() {
    for (first, then) in [
        ("504 5.7.4 unrecognized\r\n", None),
        (
            "334 \r\n",
            Some("535 5.7.3 Authentication unsuccessful\r\n"),
        ),
        ("454 4.7.0 later\r\n", None),
    ] {
        let server = Server::new().await;
        let (_, done) = play(
            async {
                let mut peer = server.greeted(&["AUTH XOAUTH2"]).await;
                peer.expect("AUTH XOAUTH2", first).await;
                if let Some(then) = then {
                    peer.hear().await;
                    peer.say(then).await;
                }
                peer.gone().await
            },
            authenticate(&server, xoauth2()),
        )
        .await;
        let (_, why, _) = cause(done);
        assert!(
            matches!(why, Cause::Refused { reply, .. } if then.unwrap_or(first).starts_with(&reply.code.to_string()))
        );
    }
}

#[tokio::test]
async fn passwords_go_by_plain_or_login() {
    for (offer, dialogue) in [
        (
            "AUTH PLAIN LOGIN",
            &[("AUTH PLAIN", "334 \r\n"), ("AHUAcA==", "235 ok\r\n")][..],
        ),
        (
            "AUTH=LOGIN",
            &[
                ("AUTH LOGIN", "334 VXNlcm5hbWU6\r\n"),
                ("dQ==", "334 UGFzc3dvcmQ6\r\n"),
                ("cA==", "235 ok\r\n"),
            ],
        ),
    ] {
        let server = Server::new().await;
        let auth = Auth::Password {
            username: "u".into(),
            password: Secret::new("p"),
        };
        let (_, done) = play(
            async {
                let mut peer = server.greeted(&[offer]).await;
                for (line, answer) in dialogue {
                    peer.expect(line, answer).await;
                }
            },
            authenticate(&server, auth),
        )
        .await;
        assert!(done.is_ok());
    }
}

#[tokio::test]
async fn a_server_that_offers_no_auth_gets_no_credentials() {
    let server = Server::new().await;
    let (rest, done) = play(
        async {
            let mut peer = server.greeted(&["PIPELINING"]).await;
            peer.gone().await
        },
        authenticate(&server, xoauth2()),
    )
    .await;
    assert!(matches!(cause(done).1, Cause::NoMechanism("XOAUTH2")));
    assert_eq!(rest, b"");
}

#[tokio::test]
async fn an_old_server_is_greeted_with_helo() {
    let server = Server::new().await;
    let draft = Draft::new(1, "x\r\n");
    play(
        async {
            let mut peer = server.accept().await;
            peer.say("220 old\r\n").await;
            peer.expect("EHLO relay.example", "502 what?\r\n").await;
            peer.expect("HELO relay.example", "250 hello\r\n").await;
            peer.expect("MAIL FROM:<s@b.example>", "550 no\r\n").await;
        },
        async {
            let mut connection = server.open().await.expect("opens");
            draft.send(&mut connection).await.expect("an answer");
        },
    )
    .await;
}

/// A server certificate for `name`, its key, and the PEM file of who signed it (itself).
fn certificate(name: &str) -> (tokio_rustls::TlsAcceptor, tempfile::NamedTempFile) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
    let pem = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(pem.path(), made.cert.pem()).expect("writable");
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.expect("a key"))
        .expect("a configuration");
    (Arc::new(config).into(), pem)
}

#[tokio::test]
async fn starttls_is_demanded_and_verified() {
    let (acceptor, pem) = certificate("127.0.0.1");
    let server = Server::new().await;
    let mut smarthost = server.smarthost(Tls::Starttls, xoauth2());
    smarthost.ca_file = Some(pem.path().to_owned());
    let (_, opened) = play(
        async {
            let mut peer = server.greeted(&["STARTTLS", "AUTH PLAIN"]).await;
            peer.expect("STARTTLS", "220 go\r\n").await;
            let stream = acceptor
                .accept(peer.0.into_inner())
                .await
                .expect("a handshake");
            let mut peer = Peer(BufReader::new(stream));
            peer.expect("EHLO relay.example", &ehlo(&["AUTH XOAUTH2"]))
                .await;
            peer.expect("QUIT", "221 bye\r\n").await;
        },
        async {
            let connection = open(&smarthost).await?;
            let seen = connection.capabilities().clone();
            connection.quit().await;
            Ok::<_, Failure>(seen)
        },
    )
    .await;
    let seen = opened.expect("opens");
    assert!(seen.offers(client::Mechanism::Xoauth2));
    assert!(
        !seen.offers(client::Mechanism::Plain),
        "what was said in clear is forgotten"
    );
}

#[tokio::test]
async fn implicit_tls_begins_at_once() {
    let (acceptor, pem) = certificate("127.0.0.1");
    let server = Server::new().await;
    let mut smarthost = server.smarthost(Tls::Implicit, Auth::None);
    smarthost.ca_file = Some(pem.path().to_owned());
    let (_, opened) = play(
        async {
            let (stream, _) = server.0.accept().await.expect("a connection");
            let stream = acceptor.accept(stream).await.expect("a handshake");
            let mut peer = Peer(BufReader::new(stream));
            peer.say("220 hi\r\n").await;
            peer.expect("EHLO relay.example", &ehlo(&[])).await;
            peer
        },
        open(&smarthost),
    )
    .await;
    assert!(opened.is_ok());
}

#[tokio::test]
async fn a_certificate_that_does_not_fit_gets_nothing() {
    // For another name; and for the right name, by somebody unknown.
    for (name, trusted) in [("other.example", true), ("127.0.0.1", false)] {
        let (acceptor, pem) = certificate(name);
        let (_, other) = certificate("127.0.0.1");
        let server = Server::new().await;
        let mut smarthost = server.smarthost(Tls::Starttls, xoauth2());
        let ca_file = if trusted { &pem } else { &other };
        smarthost.ca_file = Some(ca_file.path().to_owned());
        let (refused, opened) = play(
            async {
                let mut peer = server.greeted(&["STARTTLS"]).await;
                peer.expect("STARTTLS", "220 go\r\n").await;
                acceptor.accept(peer.0.into_inner()).await.is_err()
            },
            open(&smarthost),
        )
        .await;
        let (phase, why, _) = cause(opened.map(|_| ()));
        assert!(refused && phase == Phase::Tls, "{why}");
        assert!(
            matches!(&why, Cause::Tls(dial::TlsError::Certificate(refused)) if refused.issuer == "CN=rcgen self signed cert"),
            "{why}"
        );
    }
}

#[tokio::test]
async fn a_stripped_or_injected_starttls_ends_it_without_a_word() {
    for (capabilities, answer) in [
        (&[][..], None),
        (&["STARTTLS"], Some("220 go\r\n250 injected\r\n")),
    ] {
        let server = Server::new().await;
        let smarthost = server.smarthost(Tls::Starttls, xoauth2());
        let (rest, opened) = play(
            async {
                let mut peer = server.greeted(capabilities).await;
                if let Some(answer) = answer {
                    peer.expect("STARTTLS", answer).await;
                }
                peer.gone().await
            },
            async { open(&smarthost).await.map(|_| ()) },
        )
        .await;
        let (_, why, _) = cause(opened);
        assert!(matches!(why, Cause::NoStarttls | Cause::Injected), "{why}");
        assert_eq!(rest, b"", "no AUTH, no hello, nothing");
    }
}
