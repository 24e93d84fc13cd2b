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
    let mut broken = listener();
    broken.address = Address::Tcp(address);
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
