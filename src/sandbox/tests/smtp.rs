//! The SMTP server: dialogues over a loopback socket, with the practice certificate verified.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{MAILBOX, Rig};
use crate::sandbox::{Fault, Sandbox};

const MESSAGE: &str = "Subject: <script>x</script>\r\n\r\n..a dot\r\n.\r\n";

/// One end of a dialogue.
struct Peer<S>(BufReader<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    /// A whole reply, lines joined by `|`; empty when the connection is closed.
    async fn reply(&mut self) -> String {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).await.unwrap_or(0) == 0 {
                return lines.join("|");
            }
            let more = line.as_bytes().get(3) == Some(&b'-');
            lines.push(line.trim_end().to_owned());
            if !more {
                return lines.join("|");
            }
        }
    }

    async fn say(&mut self, line: &str) -> String {
        let text = format!("{line}\r\n");
        self.0.get_mut().write_all(text.as_bytes()).await.unwrap();
        self.reply().await
    }

    /// Says each line; its reply must begin as given.
    async fn dialogue(&mut self, lines: &[(&str, &str)]) {
        for (line, want) in lines {
            let reply = self.say(line).await;
            assert!(reply.starts_with(want), "{line:.60}: {reply}");
        }
    }
}

async fn connect(sandbox: &Sandbox) -> Peer<TcpStream> {
    let stream = TcpStream::connect(sandbox.smtp()).await.unwrap();
    Peer(BufReader::new(stream))
}

/// Connected, under TLS, EHLO said.
async fn secured(sandbox: &Sandbox) -> Peer<TlsStream<TcpStream>> {
    let mut clear = connect(sandbox).await;
    assert!(clear.reply().await.starts_with("220 "));
    clear
        .dialogue(&[("EHLO relay.example.com", "250"), ("STARTTLS", "220")])
        .await;
    let ca = CertificateDer::from_pem_slice(sandbox.ca_pem().as_bytes()).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let stream = connector.connect(name, clear.0.into_inner()).await.unwrap();
    let mut peer = Peer(BufReader::new(stream));
    let ehlo = peer.say("EHLO relay.example.com").await;
    assert!(
        ehlo.contains("AUTH XOAUTH2 OAUTHBEARER") && !ehlo.contains("STARTTLS"),
        "{ehlo}"
    );
    peer
}

fn xoauth2(mailbox: &str, token: &str) -> String {
    STANDARD.encode(format!("user={mailbox}\x01auth=Bearer {token}\x01\x01"))
}

fn oauthbearer(mailbox: &str, token: &str) -> String {
    STANDARD.encode(format!("n,a={mailbox},\x01auth=Bearer {token}\x01\x01"))
}

/// Logged in as the mailbox of `rig`.
async fn logged_in(rig: &Rig) -> Peer<TlsStream<TcpStream>> {
    let (access, _) = rig.sign_in(MAILBOX).await;
    let mut peer = secured(&rig.sandbox).await;
    peer.dialogue(&[("AUTH XOAUTH2", "334"), (&xoauth2(MAILBOX, &access), "235")])
        .await;
    peer
}

#[tokio::test]
async fn nothing_is_taken_in_clear() {
    let rig = Rig::start().await;
    let mut peer = connect(&rig.sandbox).await;
    peer.reply().await;
    let ehlo = peer.say("EHLO relay.example.com").await;
    let offered = [
        "PIPELINING",
        "SIZE 36700160",
        "8BITMIME",
        "DSN",
        "SMTPUTF8",
        "ENHANCEDSTATUSCODES",
        "STARTTLS",
    ];
    for keyword in offered {
        assert!(ehlo.contains(keyword), "{keyword}: {ehlo}");
    }
    assert!(!ehlo.contains("AUTH"), "{ehlo}");
    peer.dialogue(&[
        ("AUTH XOAUTH2", "538"),
        ("MAIL FROM:<a@example.com>", "530"),
    ])
    .await;
}

#[tokio::test]
async fn a_live_token_of_the_mailbox_sends_and_the_message_is_shown() {
    let rig = Rig::start().await;
    let mut peer = logged_in(&rig).await;
    peer.dialogue(&[
        ("MAIL FROM:<scanner@example.com> SIZE=100", "250"),
        ("RCPT TO:<a@example.com>", "250"),
        ("RCPT TO:<b@example.com>", "250"),
        ("DATA", "354"),
        (MESSAGE.trim_end(), "250"),
        ("QUIT", "221"),
    ])
    .await;
    rig.sandbox.delivered_at_least(1).await;
    let delivered = rig.sandbox.delivered();
    let only = delivered.first().unwrap();
    assert_eq!(only.mailbox, MAILBOX);
    assert_eq!(only.sender, "scanner@example.com");
    assert_eq!(only.recipients, ["a@example.com", "b@example.com"]);
    assert_eq!(
        only.message,
        "Subject: <script>x</script>\r\n\r\n.a dot\r\n"
    );

    for path in ["/mailbox", "/mailbox/1"] {
        let page = rig.get(&rig.url(path)).await.text().await.unwrap();
        assert!(page.contains("scanner@example.com"), "{page}");
        assert!(
            !page.contains("<script>"),
            "what came from outside is escaped"
        );
    }
    let eml = rig.get(&rig.url("/messages/1.eml")).await.text().await;
    assert_eq!(eml.unwrap(), only.message);
    let listed: serde_json::Value = rig.get(&rig.url("/messages")).await.json().await.unwrap();
    assert_eq!(listed[0]["number"], 1);
    assert_eq!(listed[0]["recipients"][1], "b@example.com");
}

#[tokio::test]
async fn dead_and_foreign_tokens_hear_the_challenge_and_then_the_refusal() {
    let rig = Rig::start().await;
    let (access, _) = rig.sign_in(MAILBOX).await;
    let mut peer = secured(&rig.sandbox).await;
    for response in [
        xoauth2(MAILBOX, "made-up"),
        oauthbearer("boss@example.com", &access),
    ] {
        let mechanism = if response.starts_with("dXNlc") {
            "XOAUTH2"
        } else {
            "OAUTHBEARER"
        };
        let challenge = peer.say(&format!("AUTH {mechanism} {response}")).await;
        let json = STANDARD
            .decode(challenge.strip_prefix("334 ").unwrap())
            .unwrap();
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(json["status"], "400");
        let answer = if mechanism == "XOAUTH2" { "" } else { "AQ==" };
        assert!(peer.say(answer).await.starts_with("535 5.7.8"));
    }
    let bearer = oauthbearer(&MAILBOX.to_uppercase(), &access);
    peer.dialogue(&[("AUTH OAUTHBEARER", "334"), (&bearer, "235")])
        .await;
}

#[tokio::test]
async fn an_expired_token_is_dead() {
    let rig = Rig::start().await;
    let (access, refresh) = rig.sign_in(MAILBOX).await;
    rig.sandbox.play(Fault::Expire);
    let mut peer = secured(&rig.sandbox).await;
    peer.dialogue(&[("AUTH XOAUTH2", "334"), (&xoauth2(MAILBOX, &access), "334")])
        .await;
    assert!(peer.say("").await.starts_with("535"));
    let (access, _) = super::tokens(&rig.refresh(&refresh).await.1);
    peer.dialogue(&[("AUTH XOAUTH2", "334"), (&xoauth2(MAILBOX, &access), "235")])
        .await;
}

#[tokio::test]
async fn the_script_answers_in_each_phase() {
    let rig = Rig::start().await;
    let mut peer = logged_in(&rig).await;
    for phase in ["ehlo", "mail", "rcpt", "data", "end_of_data", "accepted"] {
        rig.sandbox.play(Fault::Reply {
            phase: phase.to_owned(),
            reply: format!("451 4.3.0 {phase}"),
            times: Some(1),
        });
    }
    peer.dialogue(&[
        ("EHLO relay.example.com", "451 4.3.0 ehlo"),
        ("MAIL FROM:<a@example.com>", "451 4.3.0 mail"),
        ("MAIL FROM:<a@example.com>", "250"),
        ("RCPT TO:<b@example.com>", "451 4.3.0 rcpt"),
        ("RCPT TO:<b@example.com>", "250"),
        ("DATA", "451 4.3.0 data"),
        ("RSET", "250"),
    ])
    .await;
    for (want, taken) in [
        ("451 4.3.0 end_of_data", 0),
        ("451 4.3.0 accepted", 1),
        ("250", 2),
    ] {
        peer.dialogue(&[
            ("MAIL FROM:<a@example.com>", "250"),
            ("RCPT TO:<b@example.com>", "250"),
            ("DATA", "354"),
            (".", want),
        ])
        .await;
        assert_eq!(rig.sandbox.delivered().len(), taken);
    }
}

#[tokio::test]
async fn a_drop_comes_before_or_after_the_message_was_taken() {
    let rig = Rig::start().await;
    for (phase, taken) in [("end_of_data", 0), ("accepted", 1)] {
        let mut peer = logged_in(&rig).await;
        let phase = phase.to_owned();
        rig.sandbox.play(Fault::Drop {
            phase,
            times: Some(1),
        });
        peer.dialogue(&[
            ("MAIL FROM:<a@example.com>", "250"),
            ("RCPT TO:<b@example.com>", "250"),
            ("DATA", "354"),
        ])
        .await;
        assert_eq!(peer.say("Subject: x\r\n\r\nx\r\n.").await, "", "no reply");
        assert_eq!(rig.sandbox.delivered().len(), taken);
    }
}

#[tokio::test]
async fn a_cut_ends_in_the_middle_of_the_reply_to_a_message_that_was_taken() {
    let rig = Rig::start().await;
    for (octets, said) in [(0, ""), (1, "2"), (3, "250"), (12, "250 2.0.0 ok")] {
        let mut peer = logged_in(&rig).await;
        let before = rig.sandbox.delivered().len();
        let times = Some(1);
        rig.sandbox.play(Fault::Cut {
            octets,
            reset: false,
            times,
        });
        peer.dialogue(&[
            ("MAIL FROM:<a@example.com>", "250"),
            ("RCPT TO:<b@example.com>", "250"),
            ("DATA", "354"),
        ])
        .await;
        assert_eq!(peer.say("Subject: x\r\n\r\nx\r\n.").await, said);
        assert_eq!(rig.sandbox.delivered().len(), before + 1);
    }
}

#[tokio::test]
async fn a_421_closes_and_a_refusing_banner_too() {
    let rig = Rig::start().await;
    let mut peer = logged_in(&rig).await;
    rig.sandbox.play(Fault::Reply {
        phase: "mail".to_owned(),
        reply: "421 4.3.2 Service not available".to_owned(),
        times: Some(1),
    });
    let reply = peer.say("MAIL FROM:<a@example.com>").await;
    assert!(reply.starts_with("421"));
    assert_eq!(peer.reply().await, "");
    rig.sandbox.play(Fault::Reply {
        phase: "banner".to_owned(),
        reply: "554 5.7.1 go away".to_owned(),
        times: Some(1),
    });
    let mut refused = connect(&rig.sandbox).await;
    assert_eq!(refused.reply().await, "554 5.7.1 go away");
    assert_eq!(refused.reply().await, "");
}

#[tokio::test]
async fn a_stop_ends_sessions_with_a_word() {
    let rig = Rig::start().await;
    let mut peer = connect(&rig.sandbox).await;
    assert!(peer.reply().await.starts_with("220"));
    rig.tasks.stop();
    assert!(peer.reply().await.starts_with("421"));
    rig.tasks.drained().await;
}
