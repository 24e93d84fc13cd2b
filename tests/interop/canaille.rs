//! A second OAuth server that nobody of ours or of the first one's wrote: Canaille (PyPI), on Authlib. What it
//! and npm `oidc-provider` agree on is no habit of one server.

use std::{net::SocketAddr, path::PathBuf, process::Command, time::Duration};

use tempfile::TempDir;

use crate::{
    rig::{Dovecot, Provider, file, wait_listening},
    support::{
        free_address, login::Login, mail::message, process::Process, relay::Site, repository,
        scratch, sink::Sink, within,
    },
};

const MAILBOX: &str = "app@example.test";
const STRANGER: &str = "somebody.else@example.test";

/// Guard against hanging while two lives of a minute pass: below that the refresher takes a life for
/// a mistake of the provider.
const ROTATIONS_PATIENCE: Duration = Duration::from_secs(300);

/// The server, with everything in memory.
#[derive(Debug)]
struct Canaille {
    address: SocketAddr,
    process: Process,
    dir: TempDir,
}

impl Canaille {
    fn start(redirect: &str) -> Self {
        let address = free_address();
        let dir = scratch();
        let python = repository().join("target/tools/python-rig/bin/python");
        assert!(python.is_file(), "the Python packages: run ./test.sh");
        let mut command = Command::new(python);
        command
            .arg(file("canaille_server.py"))
            .args([&address.port().to_string(), redirect, "60"])
            .arg(format!("{MAILBOX},{STRANGER}"));
        let log = dir.path().join("canaille.log");
        let mut process = Process::spawn("canaille", &command, &log);
        wait_listening(&mut process, address);
        Self {
            address,
            process,
            dir,
        }
    }

    /// Where it tells, among other things, the secrets it issued.
    fn log_file(&self) -> PathBuf {
        self.dir.path().join("canaille.log")
    }

    /// How often the token endpoint gave this answer.
    fn count(&self, answer: &str) -> usize {
        let log = self.process.log();
        log.lines().filter(|line| line.contains(answer)).count()
    }
}

/// Everything is asked of the issuer; the code comes with PKCE, a nonce and `iss`; a stranger is refused;
/// refresh tokens rotate while mail flows; signing out revokes.
#[test]
fn a_sign_in_and_its_rotations() {
    let console = free_address();
    let redirect = format!("http://{console}/authorization/smtp_oauth/");
    let canaille = Canaille::start(&redirect);
    let issuer = format!("http://{}", canaille.address);
    let sink = Sink::start();
    let introspection = format!(
        "http://dovecot:dovecot-secret@{}/oauth/introspect",
        canaille.address
    );
    let dovecot = Dovecot::asking(&introspection, "sub", &sink);
    let site = Site::with_console(
        console,
        &format!(
            "[provider.canaille]\nkind = \"custom\"\nissuer = \"{issuer}\"\nclient_id = \"relay\"\n\
             client_secret = \"relay-secret\"\nscope = \"openid email\"\nredirect_url = \"{redirect}\"\n\
             [account.alerts]\nprovider = \"canaille\"\nmailbox = \"{MAILBOX}\"\n{}",
            dovecot.table("alerts", "starttls", "xoauth2")
        ),
    );
    site.transcript.beware_of(&canaille.log_file());
    let _relay = site.start();
    let sign_in = |user: &str| {
        let mut login = Login::start(&site, &["login", "alerts", "--no-browser"]);
        let url = login.url(&format!("{issuer}/oauth/authorize"));
        let page = Provider::press_trusting(None, &url, user, &[]);
        (login, page)
    };

    let (login, page) = sign_in(STRANGER);
    let said = login.refused();
    assert!(said.contains(STRANGER) && page.contains(STRANGER), "{page}");
    let (login, _) = sign_in(MAILBOX);
    login.succeeds();

    let passes = |id: &str| {
        site.submit(&message(id, format!("By Canaille: {id}.\r\n").as_bytes()));
        sink.find(&format!("By Canaille: {id}."));
    };
    passes("signed-in");
    within(ROTATIONS_PATIENCE, "the token rotates twice", || {
        (canaille.count("token refresh_token 200") >= 2).then_some(())
    });
    passes("rotated");
    assert_eq!(canaille.count("token refresh_token 4"), 0);

    let said = site.cli(&["logout", "alerts"]);
    assert!(said.contains("revoked"), "{said}");
    assert!(!said.contains("not revoked"), "{said}");
    site.wait_account("alerts", "sign_in_needed");
}
