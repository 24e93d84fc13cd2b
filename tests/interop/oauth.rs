//! Upstream = Dovecot with XOAUTH2 and OAUTHBEARER, which asks a certified OAuth server about each
//! token; tokens got and rotated there by our own grants through its real pages.

use std::{path::Path, process::Command, time::Duration};

use crate::{
    rig::{Dovecot, Provider, certificates, file},
    support::{
        eventually, free_address, login::Login, mail::message, program, relay::Site, scratch,
        sink::Sink, within,
    },
};

/// The mailbox that may send.
pub(crate) const MAILBOX: &str = "app@example.test";

/// A life in seconds short enough to see several rotations, and not below what the refresher takes
/// for a mistake of the provider.
const SHORT_LIFE: &str = "60";

/// Rotations to see while mail flows. Each comes at about 80 % of [`SHORT_LIFE`].
const ROTATIONS: usize = 3;

/// Guard against hanging while [`ROTATIONS`] lives pass.
const ROTATIONS_PATIENCE: Duration = Duration::from_secs(400);

/// Everything between a client and the ledger.
pub(crate) struct Rig {
    // First, so that it is looked for secrets while the provider's list of them is there.
    pub(crate) site: Site,
    pub(crate) provider: Provider,
    sink: Sink,
    dovecot: Dovecot,
}

impl Rig {
    /// One account, `alerts`, with this grant and mechanism.
    pub(crate) fn new(grant: &str, tls: &str, mechanism: &str) -> Self {
        Self::with(grant, tls, mechanism, &[])
    }

    fn with(grant: &str, tls: &str, mechanism: &str, settings: &[(&'static str, &str)]) -> Self {
        // The redirect address must be registered before the provider starts.
        let console = free_address();
        let redirects = format!("http://{console}/authorization/smtp_oauth/");
        let settings = [
            settings,
            &[("REDIRECTS", redirects.as_str()), ("MAILBOX", MAILBOX)],
        ];
        let provider = Provider::start(&settings.concat());
        let sink = Sink::start();
        let dovecot = Dovecot::start(&provider, &sink);
        let account = format!(
            "[account.alerts]\nprovider = \"rig\"\nmailbox = \"{MAILBOX}\"\ngrant = \"{grant}\"\n{}",
            dovecot.table("alerts", tls, mechanism)
        );
        let site = Site::with_console(console, &format!("{}{account}", provider.table()));
        site.transcript.beware_of(&provider.log_file());
        Self {
            provider,
            sink,
            site,
            dovecot,
        }
    }

    /// A message passes, whole.
    pub(crate) fn passes(&self, id: &str) {
        let sent = message(id, format!("Through Dovecot: {id}.\r\n").as_bytes());
        self.site.submit(&sent);
        let came = self.sink.find(&format!("Through Dovecot: {id}."));
        assert_eq!(came.from, MAILBOX);
        assert!(
            came.octets.ends_with(&sent),
            "{}",
            String::from_utf8_lossy(&came.octets)
        );
    }

    /// No refresh token was ever shown twice.
    fn no_reuse(&self) {
        let log = self.provider.log();
        assert_eq!(self.provider.count("grant-revoked"), 0, "{log}");
        assert!(
            !log.contains("already used") && !log.contains("already consumed"),
            "{log}"
        );
    }

    /// Begins a device sign-in; its code.
    fn device_login(&self) -> (Login, String) {
        let mut login = Login::start(&self.site, &["login", "alerts", "--device"]);
        let code = login.word(|word| {
            let (first, second) = word.split_once('-').unwrap_or_default();
            let upper =
                |part: &str| part.len() == 4 && part.bytes().all(|c| c.is_ascii_uppercase());
            upper(first) && upper(second)
        });
        (login, code)
    }

    /// Signs in by browser on this machine.
    pub(crate) fn sign_in(&self, user: &str) {
        let mut login = Login::start(&self.site, &["login", "alerts", "--no-browser"]);
        let url = login.url(&format!("http://{}/auth", self.provider.address));
        let said = self.provider.press(&url, user, &[]);
        assert!(
            said.contains("/authorization/smtp_oauth/"),
            "never came to our callback: {said}"
        );
        login.succeeds();
    }
}

/// The rig by itself: Dovecot takes a live token of the right user only. When this fails, the others
/// say nothing about us.
#[test]
fn the_rig_itself() {
    let rig = Rig::new("client_credentials", "starttls", "xoauth2");
    let fetched = Command::new(program("curl", "curl"))
        .args([
            "-sS",
            "-u",
            "relay:relay-secret",
            "-d",
            "grant_type=client_credentials&scope=smtp",
        ])
        .arg(format!("http://{}/token", rig.provider.address))
        .output()
        .unwrap();
    let fetched: serde_json::Value = serde_json::from_slice(&fetched.stdout).unwrap();
    let token = fetched["access_token"].as_str().unwrap();
    let port = rig.dovecot.starttls.port().to_string();
    for (user, token, mechanism, expected) in [
        (MAILBOX, token, "xoauth2", "235 "),
        (MAILBOX, token, "oauthbearer", "235 "),
        (MAILBOX, "wrong", "xoauth2", "334 {\"status\":\"401\""),
        (
            MAILBOX,
            "wrong",
            "oauthbearer",
            "334 {\"status\":\"invalid_token\"",
        ),
        ("other@example.test", token, "xoauth2", "334 "),
    ] {
        let output = Command::new(program("python3", "python3"))
            .arg(file("xoauth2.py"))
            .args(["127.0.0.1", &port, user, token, mechanism])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            said.lines().any(|line| line.starts_with(expected)),
            "{expected}: {said}"
        );
    }
    assert_eq!(rig.sink.ledger().deliveries.len(), 2);
}

/// Client credentials: no person at all. Every mechanism over every kind of TLS.
#[test]
fn client_credentials() {
    for (tls, mechanism) in [
        ("starttls", "xoauth2"),
        ("starttls", "oauthbearer"),
        ("implicit", "xoauth2"),
    ] {
        let rig = Rig::new("client_credentials", tls, mechanism);
        let _relay = rig.site.start();
        rig.passes(&format!("{tls}-{mechanism}"));
        let account = rig.site.wait_account("alerts", "ready");
        assert!(account["token_expires_at"].is_string(), "{account}");
        assert_eq!(account["grant"], "client_credentials");
    }
}

/// The client id and secret in the form instead of HTTP Basic.
#[test]
fn client_credentials_post() {
    let rig = Rig::new("client_credentials", "starttls", "xoauth2");
    rig.site.edit(
        "client_id = \"relay\"\nclient_secret = \"relay-secret\"",
        "client_id = \"relay-post\"\nclient_secret = \"relay-post-secret\"\n\
         client_authentication = \"post\"",
    );
    rig.site
        .edit("scope = \"openid offline_access smtp\"", "scope = \"smtp\"");
    let _relay = rig.site.start();
    rig.passes("post");
}

/// A certificate with its key as openssl makes them: `cert.pem`, `key.pem`, and both in `client.pfx`.
fn openssl_certificate(dir: &Path) {
    let openssl = |arguments: &str| {
        let mut command = Command::new(program("openssl", "openssl"));
        let output = command
            .args(arguments.split(' '))
            .current_dir(dir)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments}: {said}");
    };
    openssl(
        "req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 30 -subj /CN=relay",
    );
    openssl("pkcs12 -export -in cert.pem -inkey key.pem -out client.pfx -passout pass:canary-pfx");
}

/// A certificate instead of a secret, in every form it is kept in, checked by the OAuth server: code,
/// refresh and client credentials.
#[test]
fn private_key_jwt() {
    let dir = scratch();
    openssl_certificate(dir.path());
    let file = |name: &str| dir.path().join(name).display().to_string();
    let certificate = file("cert.pem");
    for (grant, key, algorithm) in [
        (
            "authorization_code",
            format!(
                "client_certificate_file = \"{certificate}\"\nclient_key_file = \"{}\"",
                file("key.pem")
            ),
            "PS256",
        ),
        (
            "client_credentials",
            format!(
                "client_certificate_file = \"{}\"\nclient_key_password = \"canary-pfx\"",
                file("client.pfx")
            ),
            "PS256",
        ),
        (
            "client_credentials",
            format!("client_key_file = \"{}\"", file("key.pem")),
            "RS256",
        ),
    ] {
        let settings = [
            ("AT_TTL", SHORT_LIFE),
            ("CLIENT_CERT", certificate.as_str()),
        ];
        let rig = Rig::with(grant, "starttls", "xoauth2", &settings);
        rig.site.edit(
            "client_id = \"relay\"\nclient_secret = \"relay-secret\"",
            &format!(
                "client_id = \"relay-{algorithm}\"\n{key}\nclient_assertion_algorithm = \"{algorithm}\""
            ),
        );
        let _relay = rig.site.start();
        if grant == "authorization_code" {
            rig.sign_in(MAILBOX);
            within(ROTATIONS_PATIENCE, "the token is refreshed", || {
                (rig.provider.count("granted refresh_token") > 0).then_some(())
            });
        }
        rig.passes(&format!("signed-{algorithm}-{grant}"));
    }
}

/// The redirect address of the document this project began with: https on this machine's own address,
/// a fixed path with its slash at the end. The console has a certificate and listens everywhere.
#[test]
fn https_redirect() {
    let dir = scratch();
    certificates(dir.path());
    let file = |name: &str| dir.path().join(name);
    let console = free_address();
    let redirect = format!("https://{console}/authorization/smtp_oauth/");
    let provider = Provider::start(&[("REDIRECTS", redirect.as_str()), ("MAILBOX", MAILBOX)]);
    let sink = Sink::start();
    let dovecot = Dovecot::start(&provider, &sink);
    let account = format!(
        "[account.alerts]\nprovider = \"rig\"\nmailbox = \"{MAILBOX}\"\n{}",
        dovecot.table("alerts", "starttls", "xoauth2")
    );
    let site = Site::with_console(console, &format!("{}{account}", provider.table()));
    site.edit(
        "http://@CONSOLE@/authorization/smtp_oauth/",
        "https://@CONSOLE@/authorization/smtp_oauth/",
    );
    site.edit(
        "[console]\naddress = \"@CONSOLE@\"",
        &format!(
            "[console]\naddress = \"0.0.0.0:@CONSOLE_PORT@\"\ncertificate_file = \"{}\"\nkey_file = \"{}\"",
            file("cert.pem").display(),
            file("key.pem").display()
        ),
    );
    // With the daemon, and without: then the verb takes the callback itself.
    for with_daemon in [true, false] {
        let relay = with_daemon.then(|| site.start());
        let mut login = Login::start(&site, &["login", "alerts", "--no-browser"]);
        let url = login.url(&format!("http://{}/auth", provider.address));
        let authority = file("ca.pem");
        let said = Provider::press_trusting(Some(&authority), &url, MAILBOX, &[]);
        assert!(said.starts_with(&redirect), "{said}");
        assert!(said.contains("200 Signed in"), "{said}");
        login.succeeds();
        drop(relay);
    }
    let _relay = site.start();
    site.submit(&message("secured", b"After an https redirect.\r\n"));
    sink.find("After an https redirect.");
    let plain = Command::new(program("curl", "curl"))
        .args(["-s", "-o", "/dev/null", "-w", "%{http_code}"])
        .arg(format!("http://{console}/healthz"))
        .output()
        .unwrap();
    assert_eq!(plain.stdout, b"000", "nothing is answered in clear");
}

/// Mail accepted before anybody signed in waits, and flows by itself after the browser came back to
/// our callback. The token survives a restart.
#[test]
fn authorization_code() {
    let rig = Rig::new("authorization_code", "starttls", "xoauth2");
    let relay = rig.site.start();
    rig.site
        .submit(&message("early", b"Before the sign-in.\r\n"));
    let account = rig.site.wait_account("alerts", "sign_in_needed");
    assert!(
        account["remedy"].as_str().unwrap().contains("login"),
        "{account}"
    );
    assert_eq!(account["queued"], 1);
    assert!(rig.sink.ledger().deliveries.is_empty());

    rig.sign_in(MAILBOX);
    rig.sink.find("Before the sign-in.");
    rig.site.wait_account("alerts", "ready");
    drop(relay);
    let _relay = rig.site.start();
    rig.passes("after-restart");
    rig.no_reuse();
}

/// The browser is elsewhere and can't reach us: the address it was sent to is pasted.
#[test]
fn authorization_code_pasted() {
    let rig = Rig::new("authorization_code", "implicit", "oauthbearer");
    let _relay = rig.site.start();
    let mut login = Login::start(&rig.site, &["login", "alerts", "--no-browser"]);
    let url = login.url(&format!("http://{}/auth", rig.provider.address));
    let ours = rig.site.fill("http://@CONSOLE@/authorization/smtp_oauth/");
    let redirect = rig.provider.press(&url, MAILBOX, &["--stop-before", &ours]);
    assert!(
        redirect.starts_with(&ours) && redirect.contains("code="),
        "{redirect}"
    );
    login.paste(redirect.trim());
    login.succeeds();
    rig.passes("pasted");
    rig.no_reuse();
}

/// On a terminal without a desktop (ssh, `docker exec -it`) nothing needs to be known: the verb says
/// each way by itself, takes a pasted address, says what is wrong with another, and what came of it.
#[test]
fn a_terminal_without_a_desktop() {
    let rig = Rig::new("authorization_code", "starttls", "xoauth2");
    let _relay = rig.site.start();
    rig.site
        .submit(&message("waited", b"Through Dovecot: waited.\r\n"));
    rig.site.wait_account("alerts", "sign_in_needed");
    let mut login = Login::on_terminal(&rig.site, &["login", "alerts"]);
    let url = login.url(&format!("http://{}/auth", rig.provider.address));
    let port = rig.site.console.port();
    login.says(&format!("ssh -L {port}:localhost:{port} "));
    login.says("gatepost login alerts --device");
    login.says("it runs out in");
    login.paste(&url);
    login.says("that is the address to sign in at");
    login.paste("http://localhost/?code=x&state=guessed");
    login.says("this sign-in is not known");
    let ours = rig.site.fill("http://@CONSOLE@/authorization/smtp_oauth/");
    let redirect = rig.provider.press(&url, MAILBOX, &["--stop-before", &ours]);
    login.paste(redirect.trim());
    let said = login.succeeds();
    for word in [
        "alerts is signed in",
        &format!("mail goes out as {MAILBOX}"),
        "its token is there",
        "mail flows: 1 message that waited",
    ] {
        assert!(said.contains(word), "{word}: {said}");
    }
    rig.sink.find("Through Dovecot: waited.");

    // Ctrl-C, as the terminal sends it.
    let mut login = Login::on_terminal(&rig.site, &["login", "alerts"]);
    login.says("Ctrl-C gives up");
    login.paste("\u{3}");
    let said = login.refused();
    assert!(said.contains("interrupted"), "{said}");

    let said = rig.site.cli(&["logout", "alerts"]);
    assert!(said.contains("not revoked"), "{said}");
    rig.site.wait_account("alerts", "sign_in_needed");
}

/// The issuer's name is enough: endpoints are asked of it, and an answer that does not name it, or
/// names another, is refused before the code is shown to anybody.
#[test]
fn discovery() {
    let rig = Rig::new("authorization_code", "starttls", "xoauth2");
    rig.site
        .edit(&rig.provider.table(), &rig.provider.table_by_issuer());
    let _relay = rig.site.start();
    let ours = rig.site.fill("http://@CONSOLE@/authorization/smtp_oauth/");
    let iss = format!(
        "iss=http%3A%2F%2F127.0.0.1%3A{}",
        rig.provider.address.port()
    );
    for (other, said) in [
        ("iss=https%3A%2F%2Fevil.example", "names another issuer"),
        ("not=there", "does not say who issued it"),
    ] {
        let mut login = Login::start(&rig.site, &["login", "alerts", "--no-browser"]);
        let url = login.url(&format!("http://{}/auth", rig.provider.address));
        let redirect = rig.provider.press(&url, MAILBOX, &["--stop-before", &ours]);
        assert!(redirect.contains(&iss), "the rig's part: {redirect}");
        let path = redirect.trim().replace(&iss, other);
        let path = path.split_once(&rig.site.console.to_string()).unwrap().1;
        let (status, page) = rig.site.get(path).unwrap();
        assert_eq!(status, 400);
        assert!(page.contains(said), "{page}");
        assert!(login.refused().contains(said));
    }
    assert_eq!(rig.provider.count("granted authorization_code"), 0);
    rig.sign_in(MAILBOX);
    rig.passes("discovered");
    rig.no_reuse();
}

/// Somebody else signs in, by browser or by device, named in the id token or by the userinfo endpoint:
/// refused on the spot, with both names and the remedy, on the page, by `login` and by `accounts`. The
/// right user's sign-in then lets the mail flow.
#[test]
fn wrong_user_refused() {
    const STRANGER: &str = "somebody.else@example.test";
    let said_by = |text: &str| {
        for word in [STRANGER, MAILBOX, "sign_in_user"] {
            assert!(text.contains(word), "{word} is not told: {text}");
        }
    };
    for place in ["id_token", "userinfo"] {
        let settings = [("EMAIL_IN", place)];
        let rig = Rig::with("authorization_code", "starttls", "xoauth2", &settings);
        rig.site
            .edit(&rig.provider.table(), &rig.provider.table_by_issuer());
        rig.site
            .edit("openid offline_access smtp", "offline_access smtp");
        let _relay = rig.site.start();
        let mut login = Login::start(&rig.site, &["login", "alerts", "--no-browser"]);
        let url = login.url(&format!("http://{}/auth", rig.provider.address));
        let page = rig.provider.press(&url, STRANGER, &[]);
        assert!(page.contains("\n400 "), "{page}");
        said_by(&page);
        said_by(&login.refused());
        // Who it was is personal data: in the log with log.addresses alone.
        let log = rig.site.log_with("sign_in_failed");
        let line = log.lines().find(|line| line.contains("sign_in_failed"));
        assert!(!line.unwrap().contains('@'), "{log}");
        let account = rig.site.wait_account("alerts", "sign_in_needed");
        said_by(&format!("{} {}", account["reason"], account["remedy"]));

        let (mut login, code) = rig.device_login();
        let url = login.url(&format!("http://{}/device", rig.provider.address));
        rig.provider.press(&url, STRANGER, &["--code", &code]);
        said_by(&login.refused());

        rig.site.submit(&message(place, b"For the right user.\r\n"));
        assert_eq!(rig.site.queue().len(), 1);
        rig.sign_in(MAILBOX);
        rig.sink.find("For the right user.");
        rig.site.wait_account("alerts", "ready");
        rig.no_reuse();
    }
}

/// A person who says no: `login` exits with 1 and says why and what to do.
#[test]
fn authorization_code_denied() {
    let rig = Rig::new("authorization_code", "starttls", "xoauth2");
    let _relay = rig.site.start();
    let mut login = Login::start(&rig.site, &["login", "alerts", "--no-browser"]);
    let url = login.url(&format!("http://{}/auth", rig.provider.address));
    rig.provider.press(&url, MAILBOX, &["--abort"]);
    let said = login.refused();
    assert!(!said.trim().is_empty(), "it must say why");
    rig.site.wait_account("alerts", "sign_in_needed");
}

/// Device code: URL and code are printed, the code typed on the provider's page.
#[test]
fn device_code() {
    let rig = Rig::new("device_code", "starttls", "xoauth2");
    let _relay = rig.site.start();
    let (mut login, code) = rig.device_login();
    let url = login.url(&format!("http://{}/device", rig.provider.address));
    rig.provider.press(&url, MAILBOX, &["--code", &code]);
    login.succeeds();
    rig.passes("device");
    rig.no_reuse();
}

/// The background refresher rotates the refresh token several times while mail flows without a gap,
/// through a restart, and never shows the provider a token twice: reuse would kill the whole grant.
#[test]
fn rotation() {
    let rig = Rig::with(
        "authorization_code",
        "starttls",
        "xoauth2",
        &[("AT_TTL", SHORT_LIFE)],
    );
    let mut relay = rig.site.start();
    rig.sign_in(MAILBOX);
    // Told once it is stored.
    let refreshed_at = || rig.site.account("alerts")["last_refresh_at"].clone();
    let signed_in = refreshed_at();
    let mut sent = 0;
    let mut restarted = false;
    within(
        ROTATIONS_PATIENCE,
        "the token rotates while mail flows",
        || {
            sent += 1;
            rig.passes(&format!("rotation-{sent}"));
            let rotations = rig.provider.count("granted refresh_token");
            if rotations > 0 && !restarted {
                restarted = true;
                // Killed between the provider's answer and the disk, it could only sign in again
                // (`rotation_kill` has that).
                eventually("the new token is stored", || {
                    (refreshed_at() != signed_in).then_some(())
                });
                relay.process.kill();
                relay = rig.site.start();
            }
            (rotations >= ROTATIONS).then_some(())
        },
    );
    rig.site.wait_account("alerts", "ready");
    rig.no_reuse();
    let consumed = rig.provider.count("refresh-token-consumed");
    assert!(
        consumed >= ROTATIONS,
        "rotation with reuse detection was off: {}",
        rig.provider.log()
    );
}

/// A shared mailbox: a delegate signs in and authenticates, mail leaves as the mailbox (Send As).
#[test]
fn shared_mailbox() {
    const SHARED: &str = "shared@example.test";
    let rig = Rig::new("authorization_code", "starttls", "xoauth2");
    rig.site.edit(
        &format!("mailbox = \"{MAILBOX}\""),
        &format!("mailbox = \"{SHARED}\"\nsign_in_user = \"{MAILBOX}\""),
    );
    rig.site.edit(
        "auth = \"xoauth2\"",
        &format!("auth = \"xoauth2\"\nusername = \"{MAILBOX}\""),
    );
    rig.site
        .extend(&["[account.alerts.sender]\nrewrite = \"both\"\n".to_owned()]);
    let _relay = rig.site.start();
    // Dovecot takes a token with its own user alone: it is the delegate's that AUTH names.
    rig.sign_in(MAILBOX);
    rig.site.submit(&message("shared", b"As the mailbox.\r\n"));
    let came = rig.sink.find("As the mailbox.");
    assert_eq!(came.from, SHARED);
    let text = String::from_utf8_lossy(&came.octets);
    let from = text.lines().find(|line| line.starts_with("From:"));
    assert!(from.unwrap().contains(SHARED), "{text}");
    assert!(text.contains("Reply-To:"), "{text}");
    rig.site.wait_account("alerts", "ready");
}

/// The wrong person signed in: Dovecot's challenge is told, the mail is kept and not bounced, and after
/// the right sign-in it flows with no further command.
#[test]
fn wrong_mailbox_holds() {
    let rig = Rig::new("authorization_code", "starttls", "xoauth2");
    let _relay = rig.site.start();
    rig.sign_in("somebody.else@example.test");
    rig.site
        .submit(&message("kept", b"Kept until it is fixed.\r\n"));
    let account = rig.site.wait_account("alerts", "held");
    let reason = account["reason"].as_str().unwrap();
    assert!(
        reason.contains("\"status\""),
        "the challenge is not told: {reason}"
    );
    assert!(
        account["remedy"]
            .as_str()
            .is_some_and(|remedy| !remedy.is_empty()),
        "{account}"
    );
    let queue = rig.site.queue();
    assert_eq!(
        queue.len(),
        1,
        "it must be kept, and nothing bounced: {queue:?}"
    );
    assert!(rig.sink.ledger().deliveries.is_empty());

    rig.sign_in(MAILBOX);
    rig.sink.find("Kept until it is fixed.");
    rig.site.wait_account("alerts", "ready");
    rig.site.wait_empty();
}

/// `doctor` against servers that are not ours: all well with a daemon and without, then a token of
/// somebody else, a certificate from an authority nobody expects, and a provider that is gone.
#[test]
fn doctor() {
    let mut rig = Rig::new("client_credentials", "starttls", "xoauth2");
    let examine = |site: &Site, wanted: i32| -> Vec<(String, bool, String)> {
        let output = site.run(&["doctor", "alerts", "--json"]);
        assert_eq!(output.status.code(), Some(wanted), "{output:?}");
        let examined: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let steps = examined[0]["steps"].as_array().unwrap().iter().map(|step| {
            let text = |key: &str| step[key].as_str().unwrap().to_owned();
            (text("step"), step["ok"].as_bool().unwrap(), text("detail"))
        });
        steps.collect()
    };
    let way = [
        "endpoint", "token", "connect", "tls", "ehlo", "offers", "auth", "mail",
    ];
    let names = |steps: &[(String, bool, String)]| -> Vec<String> {
        steps.iter().map(|step| step.0.clone()).collect()
    };
    let relay = rig.site.start();
    assert_eq!(names(&examine(&rig.site, 0)), way);
    drop(relay);
    let steps = examine(&rig.site, 0);
    assert_eq!(names(&steps), way, "without a daemon");
    let detail = |steps: &[(String, bool, String)], name: &str| -> String {
        let step = steps.iter().rev().find(|step| step.0 == name);
        step.unwrap_or_else(|| panic!("no step {name} in {steps:?}"))
            .2
            .clone()
    };
    assert!(
        detail(&steps, "endpoint").contains("clocks agree"),
        "{steps:?}"
    );
    assert!(
        detail(&steps, "tls").contains("certificate by CN=rig authority"),
        "{steps:?}"
    );
    assert!(
        detail(&steps, "offers").contains("AUTH XOAUTH2"),
        "{steps:?}"
    );
    assert!(rig.sink.ledger().deliveries.is_empty(), "nothing is sent");

    let mailbox = format!("mailbox = \"{MAILBOX}\"");
    rig.site.edit(&mailbox, "mailbox = \"other@example.test\"");
    let steps = examine(&rig.site, 1);
    assert!(detail(&steps, "auth").contains("535"), "{steps:?}");
    rig.site.edit("mailbox = \"other@example.test\"", &mailbox);

    // What a proxy that inspects TLS looks like: a certificate by somebody else.
    let stranger = scratch();
    certificates(stranger.path());
    let own = rig.dovecot.ca_file();
    let other = stranger.path().join("ca.pem").display().to_string();
    rig.site.edit(&own, &other);
    let steps = examine(&rig.site, 1);
    let told = detail(&steps, "tls");
    assert!(
        told.contains("issued by CN=rig authority") && told.contains("inspects TLS"),
        "{told}"
    );
    rig.site.edit(&other, &own);

    rig.provider.stop();
    let steps = examine(&rig.site, 1);
    assert!(
        detail(&steps, "endpoint").contains("cannot be reached"),
        "{steps:?}"
    );
}

/// The provider forgot every grant (revoked by an administrator): mail is kept, a person is asked to
/// sign in again, then it flows.
#[test]
fn revoked_grant() {
    let mut rig = Rig::new("authorization_code", "starttls", "oauthbearer");
    let mut relay = rig.site.start();
    rig.sign_in(MAILBOX);
    rig.passes("before");
    rig.provider.forget_everything();
    // A pooled connection would carry it still: the restart makes a new one necessary.
    relay.process.kill();
    relay = rig.site.start();
    rig.site
        .submit(&message("revoked", b"After the grant was gone.\r\n"));
    rig.site.wait_account("alerts", "sign_in_needed");
    assert_eq!(rig.site.queue().len(), 1);
    rig.sign_in(MAILBOX);
    rig.sink.find("After the grant was gone.");
    rig.site.wait_empty();
    drop(relay);
}

/// The provider is away: mail is accepted and waits; when it is back, mail flows by itself.
#[test]
fn provider_away() {
    let mut rig = Rig::new("client_credentials", "starttls", "xoauth2");
    rig.provider.stop();
    let _relay = rig.site.start();
    rig.site
        .submit(&message("away", b"While the provider is away.\r\n"));
    let account = eventually("the account retries", || {
        let account = rig.site.account("alerts");
        account["reason"].is_string().then_some(account)
    });
    assert_ne!(
        account["state"], "sign_in_needed",
        "an outage is no refusal: {account}"
    );
    rig.provider.resume();
    rig.sink.find("While the provider is away.");
}

/// `logout` forgets the tokens, here and at the provider; mail waits for the next sign-in.
#[test]
fn logout() {
    let rig = Rig::new("authorization_code", "starttls", "xoauth2");
    let mut relay = rig.site.start();
    rig.sign_in(MAILBOX);
    rig.passes("signed-in");
    rig.site.cli(&["logout", "alerts"]);
    rig.site.wait_account("alerts", "sign_in_needed");
    relay.process.kill();
    relay = rig.site.start();
    rig.site.wait_account("alerts", "sign_in_needed");
    rig.site.submit(&message("later", b"Signed in again.\r\n"));
    rig.sign_in(MAILBOX);
    rig.sink.find("Signed in again.");
    drop(relay);
}
