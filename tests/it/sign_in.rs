//! Signing in through the real callback, at the practice provider: what an attacker's link, a broken
//! provider or the wrong person may bring, and that nothing of it is stored (reliability rows 46, 47).

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

use url::form_urlencoded;

use crate::support::{
    eventually, free_address,
    login::Login,
    mail::message,
    process::Process,
    relay::{BINARY, Relay, Site, bare},
};

/// The mailbox of the account.
pub(crate) const MAILBOX: &str = "alerts@example.com";

/// Somebody else.
pub(crate) const STRANGER: &str = "bob@example.com";

/// The practice provider and a relay that knows it by its issuer.
pub(crate) struct Practice {
    pub(crate) http: SocketAddr,
    pub(crate) site: Site,
    pub(crate) relay: Relay,
    _sandbox: Process,
}

impl Practice {
    fn start() -> Self {
        Self::start_with(|site, config| site.extend(&[config]))
    }

    /// `configure` gets what the practice provider says of itself, in the file's own form.
    pub(crate) fn start_with(configure: impl FnOnce(&Site, String)) -> Self {
        let (http, smtp, console) = (free_address(), free_address(), free_address());
        let site = Site::with_console(console, "");
        let config = site.path().join("practice.toml");
        let mut command = std::process::Command::new(BINARY);
        command.args(["sandbox", "--http", &http.to_string()]);
        command.args(["--smtp", &smtp.to_string(), "--mailbox", MAILBOX]);
        command.args([
            "--redirect-url",
            &format!("http://{console}/authorization/smtp_oauth/"),
        ]);
        command.arg("--write-config").arg(&config);
        bare(&mut command);
        let sandbox = Process::spawn("sandbox", &command, &site.path().join("sandbox.log"));
        eventually("the sandbox is up", || {
            sandbox.log().contains("Ctrl-C stops it").then_some(())
        });
        configure(&site, fs::read_to_string(config).unwrap());
        let relay = site.start();
        Self {
            http,
            site,
            relay,
            _sandbox: sandbox,
        }
    }

    fn login(&self) -> (Login, String) {
        let mut login = Login::start(&self.site, &["login", "practice", "--no-browser"]);
        let url = login.url(&format!("http://{}/authorize", self.http));
        (login, url)
    }

    /// Decides on the consent page; path and query of the callback that the browser is sent to.
    pub(crate) fn decide(&self, url: &str, mailbox: &str, decision: &str) -> String {
        let form = form_urlencoded::Serializer::new(String::new())
            .append_pair("mailbox", mailbox)
            .append_pair("decision", decision)
            .finish();
        let (_, path) = url.split_once(&self.http.to_string()).unwrap();
        let answer = self.ask(&format!("POST {path}"), &form);
        let location = answer.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("location").then_some(value)
        });
        let location = location.unwrap_or_else(|| panic!("no way back: {answer}"));
        let (_, path) = location.split_once(&self.site.console.to_string()).unwrap();
        path.to_owned()
    }

    /// A request to the practice provider; the whole answer.
    pub(crate) fn ask(&self, request: &str, form: &str) -> String {
        let kind = if form.starts_with('{') {
            "application/json"
        } else {
            "application/x-www-form-urlencoded"
        };
        let mut stream = TcpStream::connect(self.http).unwrap();
        write!(
            stream,
            "{request} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n\
             Content-Type: {kind}\r\n\r\n{form}",
            self.http,
            form.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// A request to the callback that must be refused, saying this; the page.
    fn refused(&self, path: &str, said: &str) -> String {
        let (status, page) = self.site.get(path).unwrap();
        assert_eq!(status, 400, "{path}: {page}");
        assert!(page.contains(said), "{path}: not {said:?}: {page}");
        page
    }

    fn is_signed_in(&self) -> bool {
        self.site.account("practice")["state"] == "ready"
    }
}

/// One parameter of a callback's query, replaced or taken out.
fn changed(path: &str, name: &str, value: Option<&str>) -> String {
    let (path, query) = path.split_once('?').unwrap();
    let mut made = form_urlencoded::Serializer::new(String::new());
    for (key, old) in form_urlencoded::parse(query.as_bytes()) {
        match (key == name, value) {
            (false, _) => made.append_pair(&key, &old),
            (true, Some(new)) => made.append_pair(&key, new),
            (true, None) => &mut made,
        };
    }
    format!("{path}?{}", made.finish())
}

/// Every callback that is not the answer of the provider to this very sign-in gets 400 and stores
/// nothing; one that names no sign-in leaves the one under way alone.
#[test]
fn a_callback_that_is_wrong_in_any_way() {
    let practice = Practice::start();
    practice.site.wait_account("practice", "sign_in_needed");

    // What does not touch the sign-in under way: no state, a guessed one, one that is given twice.
    let (login, url) = practice.login();
    let good = practice.decide(&url, MAILBOX, "allow");
    let script = "%3Cscript%3Ealert(1)%3C%2Fscript%3E";
    for (path, said) in [
        ("/authorization/smtp_oauth/".to_owned(), "parameters"),
        (changed(&good, "state", None), "parameters"),
        (changed(&good, "state", Some("")), "parameters"),
        (changed(&good, "state", Some("guessed")), "not known"),
        (format!("{good}&state=another"), "parameters"),
        (format!("{good}&code=another"), "parameters"),
        (
            format!("{good}&iss=http%3A%2F%2F{}", practice.http),
            "parameters",
        ),
        (
            format!("/authorization/smtp_oauth/?error={script}&state={script}"),
            "not known",
        ),
    ] {
        let page = practice.refused(&path, said);
        assert!(!page.contains("<script"), "{page}");
    }
    assert!(!practice.is_signed_in());

    // The right answer, and then the same again: the state served once.
    let (status, page) = practice.site.get(&good).unwrap();
    assert_eq!(status, 200, "{page}");
    login.succeeds();
    assert!(practice.is_signed_in());
    practice.refused(&good, "not known");
    practice.refused(&changed(&good, "code", Some("second")), "not known");
    assert!(practice.is_signed_in(), "a replay ends nothing");
}

/// What an attacker makes of the provider's answer.
type Change<'a> = dyn Fn(&str) -> String + 'a;

/// What names the sign-in under way but is not the provider's good answer ends it: a wrong or missing
/// issuer, an error, markup in an error, a code of another sign-in.
#[test]
fn a_callback_that_ends_the_sign_in() {
    let practice = Practice::start();
    let (other, url) = practice.login();
    let foreign = practice.decide(&url, MAILBOX, "allow");
    let foreign = foreign
        .split(['?', '&'])
        .find(|part| part.starts_with("code="))
        .unwrap();
    let foreign = foreign.trim_start_matches("code=").to_owned();
    let cases: [(&str, &Change<'_>, &str); 6] = [
        (
            "allow",
            &|path| changed(path, "iss", Some("https://evil.example")),
            "another issuer",
        ),
        (
            "allow",
            &|path| changed(path, "iss", None),
            "does not say who issued it",
        ),
        (
            "allow",
            &|path| changed(path, "code", Some("")),
            "parameters",
        ),
        // PKCE: a code that was given for another challenge is worth nothing here.
        (
            "allow",
            &|path| changed(path, "code", Some(&foreign)),
            "no longer accepts",
        ),
        ("deny", &str::to_owned, "access was denied"),
        (
            "deny",
            &|path| {
                let path = changed(path, "error", Some("<script>alert(1)</script>"));
                changed(
                    &path,
                    "error_description",
                    Some("<img src=x onerror=alert(1)>"),
                )
            },
            "cannot answer",
        ),
    ];
    for (decision, change, said) in cases {
        let (login, url) = practice.login();
        let path = change(&practice.decide(&url, MAILBOX, decision));
        let page = practice.refused(&path, said);
        assert!(
            !page.contains("<script") && !page.contains("<img"),
            "{page}"
        );
        let told = login.refused();
        assert!(told.contains(said), "{told}");
        practice.refused(&path, "not known");
        assert!(!practice.is_signed_in());
    }
    // The first one was replaced by those after it.
    assert!(other.refused().contains("another sign-in"));
}

/// Somebody else consents: the page, `login`, `accounts` and, where addresses may be logged, the log
/// name both and the remedy; nothing is stored. A later mistake stops nothing that works.
#[test]
fn the_wrong_mailbox() {
    let practice = Practice::start();
    practice
        .site
        .edit("level = \"debug\"", "level = \"debug\"\naddresses = true");
    drop(practice.relay);
    let relay = practice.site.start();
    let practice = Practice { relay, ..practice };
    let told = |text: &str| {
        for word in [STRANGER, MAILBOX, "sign_in_user"] {
            assert!(text.contains(word), "{word} is not told: {text}");
        }
    };
    let (login, url) = practice.login();
    let back = practice.decide(&url, STRANGER, "allow");
    told(&practice.refused(&back, "signed in, but the mailbox of the account is"));
    told(&login.refused());
    let account = practice.site.wait_account("practice", "sign_in_needed");
    told(&format!("{} {}", account["reason"], account["remedy"]));
    let log = practice.site.log_with("sign_in_failed");
    let line = log
        .lines()
        .find(|line| line.contains("sign_in_failed"))
        .unwrap();
    assert!(line.contains(STRANGER) && line.contains(MAILBOX), "{line}");

    let (login, url) = practice.login();
    let back = practice.decide(&url, MAILBOX, "allow");
    assert_eq!(practice.site.get(&back).unwrap().0, 200);
    login.succeeds();

    let (login, url) = practice.login();
    let back = practice.decide(&url, STRANGER, "allow");
    told(&practice.refused(&back, STRANGER));
    told(&login.refused());
    assert!(practice.is_signed_in());
    practice
        .site
        .submit(&message("after", b"Sent all the same.\r\n"));
    practice.site.wait_empty();
    assert!(
        practice
            .ask("GET /messages", "")
            .contains("Sent all the same.")
    );
}
