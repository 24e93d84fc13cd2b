use tokio::net::{TcpStream, UnixStream};

use super::{
    testing::{Bench, Peer, listener, rules},
    *,
};

async fn start(bench: &Bench, listeners: Vec<Listener>) -> Submission {
    let parts = bench.parts.clone();
    Submission::start(listeners, rules(), parts).await.unwrap()
}

fn first(submission: &Submission) -> SocketAddr {
    submission.addresses()[0].1.unwrap()
}

async fn connect(address: SocketAddr) -> Peer<TcpStream> {
    Peer::new(TcpStream::connect(address).await.unwrap())
}

#[tokio::test]
async fn connections_beyond_the_limit_are_told_and_closed() {
    let bench = Bench::new();
    let mut one = listener();
    one.max_connections_per_client = 1;
    let submission = start(&bench, vec![one]).await;
    let mut first_peer = connect(first(&submission)).await;
    first_peer.expect("220 ").await;
    let mut second = connect(first(&submission)).await;
    second.expect("421 4.7.0").await;
    second.expect_end().await;
    first_peer.say("QUIT", "221 ").await;
}

#[tokio::test]
async fn who_is_not_allowed_is_told_and_closed() {
    let bench = Bench::new();
    let mut one = listener();
    one.allow = vec!["192.0.2.0/24".parse().unwrap()];
    let submission = start(&bench, vec![one]).await;
    let mut peer = connect(first(&submission)).await;
    peer.expect("554 5.7.1").await;
    peer.expect_end().await;
}

fn listener_at(path: &std::path::Path) -> Listener {
    Listener {
        address: Address::Unix(path.to_owned()),
        ..listener()
    }
}

#[tokio::test]
async fn a_unix_socket_takes_mail_and_goes_with_its_listener() {
    let bench = Bench::new();
    let path = bench.folder.path().join("smtp.sock");
    let mut one = listener();
    one.address = Address::Unix(path.clone());
    let submission = start(&bench, vec![one.clone()]).await;
    let mut peer = Peer::new(UnixStream::connect(&path).await.unwrap());
    peer.begin_data().await;
    peer.say("x\r\n.", "250 ").await;
    let (_, text) = bench.only_message().await;
    assert!(
        text.starts_with("Received: from device (local)\r\n"),
        "{text}"
    );
    let in_use = Submission::start(vec![one], rules(), bench.parts.clone()).await;
    assert!(
        matches!(in_use, Err(Error::Bind { .. })),
        "somebody listens there"
    );
    // Gone and back again, before its loop has ended.
    for listeners in [vec![], vec![listener_at(&path)]] {
        submission.reconfigure(listeners, rules()).await.unwrap();
    }
    Peer::new(UnixStream::connect(&path).await.unwrap())
        .expect("220 ")
        .await;
    drop(submission);
    bench.parts.tasks.stop();
    peer.expect("421 ").await;
    drop(peer);
    bench.parts.tasks.drained().await;
    assert!(!path.exists());
}

#[tokio::test]
async fn reload_keeps_sockets_and_sessions_and_brings_rules_to_both() {
    let bench = Bench::new();
    let submission = start(&bench, vec![listener()]).await;
    let address = first(&submission);
    let mut open = connect(address).await;
    open.expect("220 relay.example").await;
    open.say("EHLO a", "250-").await;

    let mut new_rules = rules();
    new_rules.hostname = "new.example".to_owned();
    new_rules.router.default_account = None;
    let mut second = listener();
    (second.name, second.address) = (
        "second".to_owned(),
        Address::Tcp("[::1]:0".parse().unwrap()),
    );
    let listeners = vec![listener(), second];
    submission
        .reconfigure(listeners, new_rules.clone())
        .await
        .unwrap();
    assert_eq!(first(&submission), address);
    assert_eq!(submission.addresses().len(), 2);
    open.say("MAIL FROM:<root@a.example>", "250 ").await;
    open.say("RCPT TO:<x@b.example>", "250 ").await;
    open.say("DATA", "550 5.7.1").await;
    connect(address).await.expect("220 new.example").await;

    // A listener that cannot start leaves everything as it is.
    let somebody_else = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut broken = listener();
    broken.address = Address::Tcp(somebody_else.local_addr().unwrap());
    let taken = submission.reconfigure(vec![broken], rules()).await;
    assert!(matches!(taken, Err(Error::Bind { .. })));
    connect(address).await.expect("220 new.example").await;

    // A listener that is gone takes no more, but its sessions go on.
    submission.reconfigure(Vec::new(), new_rules).await.unwrap();
    assert!(submission.addresses().is_empty());
    open.say("NOOP", "250 ").await;
}

#[tokio::test]
async fn a_listener_without_its_certificate_or_socket_names_itself() {
    let bench = Bench::new();
    let mut tls = listener();
    tls.tls = Tls::Implicit;
    let mut missing = tls.clone();
    missing.certificate = Some(("/nowhere.crt".into(), "/nowhere.key".into()));
    let mut passed = listener();
    passed.address = Address::Systemd("smtp".to_owned());
    for (one, part) in [
        (tls, "certificate_file"),
        (missing, "/nowhere.crt"),
        (passed, "smtp"),
    ] {
        let parts = bench.parts.clone();
        let error = Submission::start(vec![one], rules(), parts)
            .await
            .unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn idle_accept_loops_show_that_they_live() {
    let bench = Bench::new();
    let submission = start(&bench, vec![listener()]).await;
    let mut seen = submission.progress();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(10)).await;
        let now = submission.progress();
        assert!(now > seen);
        seen = now;
    }
}

/// A proxy's connection for this client.
async fn through_proxy(address: SocketAddr, header: &str) -> Peer<TcpStream> {
    let mut peer = connect(address).await;
    peer.send(header).await;
    peer
}

fn behind_proxy() -> Listener {
    Listener {
        proxy_protocol_from: vec!["127.0.0.1/32".parse().unwrap()],
        allow: vec!["192.0.2.0/24".parse().unwrap()],
        max_connections_per_client: 1,
        ..listener()
    }
}

#[tokio::test]
async fn the_client_that_a_proxy_names_counts_everywhere() {
    let bench = Bench::new();
    let submission = start(&bench, vec![behind_proxy()]).await;
    let address = first(&submission);
    let header = "PROXY TCP4 192.0.2.7 127.0.0.1 4711 25\r\n";
    let mut client = through_proxy(address, header).await;
    client.begin_data().await;
    client.say("x\r\n.", "250 ").await;
    let (_, text) = bench.only_message().await;
    assert!(
        text.starts_with("Received: from device ([192.0.2.7])\r\n"),
        "{text}"
    );
    // Another machine's client, and so no password in clear.
    client.say("AUTH PLAIN AHByaW50ZXIAc2VjcmV0", "538 ").await;
    // One session for each client, not for the proxy.
    let mut again = through_proxy(address, header).await;
    again.expect("421 4.7.0").await;
    again.expect_end().await;
    let other = "PROXY TCP4 192.0.2.8 127.0.0.1 4711 25\r\n";
    through_proxy(address, other).await.expect("220 ").await;
    // The proxy's own address lets nobody in, nor does its health check.
    for header in [
        "PROXY TCP4 198.51.100.1 127.0.0.1 4711 25\r\n",
        "PROXY TCP4 127.0.0.1 127.0.0.1 4711 25\r\n",
        "PROXY UNKNOWN\r\n",
    ] {
        let mut peer = through_proxy(address, header).await;
        peer.expect("554 5.7.1").await;
        peer.expect_end().await;
    }
}

#[tokio::test]
async fn a_proxy_must_send_its_header_and_others_are_not_believed() {
    let bench = Bench::new();
    let mut open = behind_proxy();
    open.allow.push("127.0.0.0/8".parse().unwrap());
    let mut unlisted = open.clone();
    unlisted.proxy_protocol_from = vec!["192.0.2.1/32".parse().unwrap()];
    let submission = start(&bench, vec![open]).await;
    let mut peer = through_proxy(first(&submission), "EHLO device\r\n").await;
    peer.expect_end().await;
    // A health check comes from the proxy itself.
    let mut check = through_proxy(first(&submission), "PROXY UNKNOWN\r\n").await;
    check.expect("220 ").await;
    let submission = start(&bench, vec![unlisted]).await;
    let header = "PROXY TCP4 192.0.2.7 127.0.0.1 4711 25\r\n";
    let mut peer = through_proxy(first(&submission), header).await;
    peer.expect("220 ").await;
    peer.expect("500 ").await;
}

#[tokio::test]
async fn a_listener_widens_and_narrows_its_address_without_a_pause() {
    let bench = Bench::new();
    let submission = start(&bench, vec![listener()]).await;
    let port = first(&submission).port();
    let at = |address: &str| Listener {
        address: Address::Tcp(format!("{address}:{port}").parse().unwrap()),
        ..listener()
    };
    let mut open = connect(first(&submission)).await;
    open.expect("220 ").await;
    for addresses in [
        &["0.0.0.0"][..],
        &["127.0.0.1"],
        &["[::]"],
        &["[::]", "0.0.0.0"],
        &["127.0.0.1", "[::]"],
        &["127.0.0.1", "127.0.0.2"],
        &["0.0.0.0"],
    ] {
        let listeners = addresses.iter().map(|address| at(address)).collect();
        submission.reconfigure(listeners, rules()).await.unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        connect(address).await.expect("220 ").await;
        open.say("NOOP", "250 ").await;
    }
    // Again and again, faster than loops end: nothing piles up beside the three addresses.
    for n in 0..40 {
        let listener = at(if n % 2 == 0 { "127.0.0.1" } else { "0.0.0.0" });
        submission
            .reconfigure(vec![listener], rules())
            .await
            .unwrap();
        assert!(submission.addresses().len() <= 3);
        // Those of the seven changes before, at most.
        assert!(submission.listeners().closing.len() <= 7);
    }
    // Only for that moment could the port be shared.
    let taken = Submission::start(vec![at("127.0.0.1")], rules(), bench.parts.clone()).await;
    let error = taken.unwrap_err().to_string();
    assert!(error.contains("ss -ltnp"), "{error}");
}
