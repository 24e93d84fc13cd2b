//! The console through real sockets: who gets in, who does not, and what no page does.

use std::io::BufRead;

use crate::support::{
    browser::{Browser, code, form},
    eventually, free_address,
    mail::message,
    relay::Site,
    sink::Sink,
};

/// The only address of another's page in these tests.
const EVIL: &str = "http://evil.example";

/// Without a cookie there is the login and nothing else; a strange Host gets nothing at all.
#[test]
fn a_stranger_sees_the_login() {
    let sink = Sink::start();
    let site = Site::plain(&sink);
    let _relay = site.start();
    let stranger = Browser::new(site.console);
    for (path, to) in [
        ("/", "/login"),
        ("/settings", "/login?next=%2Fsettings"),
        ("/settings?x=1", "/login?next=%2Fsettings%3Fx%3D1"),
    ] {
        let answer = stranger.get(path);
        assert_eq!(answer.status, 303, "{path}");
        assert_eq!(answer.field("location"), Some(to), "{path}");
    }
    let page = stranger.get("/login?code=%22%3E%3Cscript%3E");
    assert_eq!(page.status, 200);
    assert!(page.body.contains("One-time code"), "{}", page.body);
    assert!(!page.body.contains("\"><script"), "{}", page.body);
    for (path, status) in [
        ("/events", 401),
        ("/api/v1", 401),
        ("/api/v1/queue", 401),
        ("/api/v1/openapi.json", 401),
        ("/api/v1/nothing", 401),
        ("/nothing", 404),
        ("/healthz", 200),
    ] {
        assert_eq!(stranger.get(path).status, status, "{path}");
    }
    let posted = stranger.send("POST", "/settings/reload", &[], "csrf=x");
    assert_eq!(posted.field("location"), Some("/login"));
    for path in ["/", "/login", "/healthz", "/assets/style.css"] {
        let rebound = stranger.send("GET", path, &[("Host", "evil.example")], "");
        assert_eq!(rebound.status, 421, "{path}");
    }
}

/// A code makes one session; the session reads pages and the API, and ends.
#[test]
fn a_code_opens_one_session() {
    let sink = Sink::start();
    let site = Site::plain(&sink);
    let relay = site.start();
    // The one that was shown at the start is as good as one from the command line.
    let shown = eventually("the code is shown", || {
        let log = relay.process.log();
        let (_, code) = log.split_once("/login?code=")?;
        let end = code.find(|c: char| c != '-' && c != '_' && !c.is_ascii_alphanumeric())?;
        Some(code.get(..end)?.to_owned())
    });
    let mut browser = Browser::new(site.console);
    let entered = browser.log_in(&[("code", &shown), ("next", "/settings?a=1")]);
    assert_eq!(entered.status, 303, "{entered:?}");
    assert_eq!(entered.field("location"), Some("/settings?a=1"));
    let cookie = entered.field("set-cookie").unwrap();
    for attribute in ["; Path=/", "; HttpOnly", "; SameSite=Strict"] {
        assert!(cookie.contains(attribute), "{cookie}");
    }
    assert!(!cookie.contains("Secure"), "{cookie}");
    assert!(browser.get("/").body.contains("Mail is flowing."));
    assert_eq!(browser.get("/login").field("location"), Some("/"));

    let mut second = Browser::new(site.console);
    assert_eq!(second.log_in(&[("code", &shown)]).status, 403, "used");
    let (old, new) = (code(&site), code(&site));
    assert_eq!(second.log_in(&[("code", &old)]).status, 403, "replaced");
    assert_eq!(second.log_in(&[("code", &new)]).status, 303);

    let gone = browser.submit("/", "/logout", &[]);
    assert_eq!(gone.field("location"), Some("/login"));
    assert!(gone.field("set-cookie").unwrap().contains("Max-Age=0"));
    assert_eq!(browser.get("/").status, 303);
    assert_eq!(second.get("/").status, 200);
    let asked = second.submit("/settings", "/settings/log-out-all", &[]);
    assert!(asked.body.contains("name=\"confirmed\""), "{}", asked.body);
    assert_eq!(second.get("/").status, 200, "asked first");
    second.submit(
        "/settings",
        "/settings/log-out-all",
        &[("confirmed", "yes")],
    );
    assert_eq!(second.get("/").status, 303);
}

/// What changes something needs the session's own token, and no other site's page can send it.
#[test]
fn a_foreign_form_changes_nothing() {
    let sink = Sink::start();
    let site = Site::plain(&sink);
    let _relay = site.start();
    let browser = Browser::logged_in(&site);
    let other = Browser::logged_in(&site).token("/");
    let own = browser.token("/");
    let here = format!("http://{}", site.console);
    let reload = |token: &str, fields: &[(&str, &str)]| {
        let body = form(&[("csrf", token)]);
        browser
            .send("POST", "/settings/reload", fields, &body)
            .status
    };
    assert_eq!(reload("", &[]), 403);
    assert_eq!(reload(&other, &[]), 403);
    assert_eq!(reload(&own, &[("Origin", EVIL)]), 403);
    assert_eq!(reload(&own, &[("Origin", "null")]), 403);
    assert_eq!(reload(&own, &[("Sec-Fetch-Site", "cross-site")]), 403);
    assert_eq!(reload(&own, &[("Sec-Fetch-Site", "same-site")]), 403);
    assert_eq!(
        reload(
            &own,
            &[("Origin", &here), ("Sec-Fetch-Site", "same-origin")]
        ),
        303
    );
    let log = site.log_with("config_reloaded");
    assert_eq!(log.matches("config_reloaded").count(), 1, "{log}");
    let told = browser.get("/settings").body;
    assert!(told.contains("role=\"status\""), "{told}");
    assert!(
        !browser.get("/settings").body.contains("role=\"status\""),
        "once"
    );
    // A login is a change as well: a page must not log somebody in as somebody else.
    let mut victim = Browser::new(site.console);
    let body = form(&[("code", &code(&site))]);
    let answer = victim.send("POST", "/login", &[("Origin", EVIL)], &body);
    assert_eq!((answer.status, answer.field("set-cookie")), (403, None));
    assert_eq!(victim.log_in(&[("code", &code(&site))]).status, 303);
    site.log_with("POST /settings/reload");
}

/// The API on the TCP address is the one of the control socket, for a session; a change needs its
/// token, and a way in is not made there.
#[test]
fn the_api_takes_a_session() {
    let sink = Sink::start();
    let site = Site::plain(&sink);
    let _relay = site.start();
    let browser = Browser::logged_in(&site);
    let token = browser.token("/");
    let accounts = browser.get("/api/v1/accounts");
    assert_eq!(accounts.status, 200);
    assert!(accounts.body.contains("\"alerts\""), "{}", accounts.body);
    assert_eq!(browser.get("/api/v1/nothing").status, 404);
    let reload =
        |fields: &[(&str, &str)]| browser.send("POST", "/api/v1/reload", fields, "").status;
    assert_eq!(reload(&[]), 401);
    assert_eq!(reload(&[("X-CSRF-Token", "x")]), 401);
    assert_eq!(reload(&[("X-CSRF-Token", &token), ("Origin", EVIL)]), 401);
    assert_eq!(reload(&[("X-CSRF-Token", &token)]), 200);
    let invite = browser.send(
        "POST",
        "/api/v1/console/invitation",
        &[("X-CSRF-Token", &token)],
        "",
    );
    assert_eq!(invite.status, 403);
    // A key that nobody made is none, and a session beside it does not help.
    let keyed = browser.send(
        "GET",
        "/api/v1/accounts",
        &[("Authorization", "Bearer x")],
        "",
    );
    assert_eq!(keyed.status, 401);
    assert_eq!(keyed.field("www-authenticate"), Some("Bearer"));
}

/// With a password there is no code; guesses are slowed; another password ends the sessions.
#[test]
fn a_password_opens_the_console() {
    let sink = Sink::start();
    let site = Site::plain(&sink);
    let hash = |password: &str| {
        let mut hashing = site.command(&["hash-password"]);
        hashing.stdin(std::process::Stdio::piped());
        hashing.stdout(std::process::Stdio::piped());
        let mut child = hashing.spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        std::io::Write::write_all(&mut input, password.as_bytes()).unwrap();
        drop(input);
        let output = child.wait_with_output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let (first, second) = (hash("correct horse"), hash("battery staple"));
    site.edit(
        "[console]",
        &format!("[console]\npassword_hash = \"{first}\""),
    );
    let relay = site.start();
    assert!(!relay.process.log().contains("code="));
    let told = site.cli(&["console"]);
    assert!(
        told.contains("http://") && !told.contains("code="),
        "{told}"
    );

    let mut browser = Browser::new(site.console);
    assert!(browser.get("/login").body.contains("type=\"password\""));
    assert_eq!(browser.log_in(&[("password", "Correct horse")]).status, 403);
    assert_eq!(browser.log_in(&[("password", "correct horse")]).status, 303);
    assert_eq!(browser.get("/").status, 200);
    site.edit(&first, &second);
    site.cli(&["reload"]);
    assert_eq!(browser.get("/").status, 303, "ended with its password");

    let mut guesser = Browser::new(site.console);
    let mut last = 0;
    for _ in 0..12 {
        last = guesser.log_in(&[("password", "guess")]).status;
    }
    assert_eq!(last, 429);
    let early = guesser.log_in(&[("password", "battery staple")]);
    assert_eq!(early.status, 429);
    let after: u64 = early.field("retry-after").unwrap().parse().unwrap();
    assert!((1..=15 * 60 + 1).contains(&after), "{after}");
    let log = relay.process.log();
    assert!(
        !log.contains("battery staple") && !log.contains(&second),
        "{log}"
    );
}

/// Beyond loopback and without a password the pages stay closed, and `check` says so.
#[test]
fn without_a_password_others_stay_out() {
    let sink = Sink::start();
    let console = free_address();
    let wide = format!("0.0.0.0:{}", console.port());
    let site = Site::with_console(console, &sink.account("alerts"));
    site.edit("address = \"@CONSOLE@\"", &format!("address = \"{wide}\""));
    let checked = site.run(&["check"]);
    let told = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(told.contains("console.password_hash"), "{told}");
    let relay = site.start();
    let mut visitor = Browser::new(site.console);
    let page = visitor.get("/login").body;
    assert!(page.contains("console.password_hash"), "{page}");
    assert!(!page.contains("<form"), "{page}");
    assert_eq!(
        visitor.log_in(&[("code", ""), ("password", "")]).status,
        403
    );
    assert_eq!(visitor.get("/").status, 303);
    assert_eq!(site.run(&["console"]).status.code(), Some(1));
    assert!(!relay.process.log().contains("code="));
}

/// What is in force is listed with where it comes from; a reload that is refused lists every problem.
#[test]
fn settings_and_reload() {
    let sink = Sink::start();
    let site = Site::plain(&sink);
    let _relay = site.start();
    let browser = Browser::logged_in(&site);
    let settings: serde_json::Value =
        serde_json::from_str(&browser.get("/api/v1/settings").body).unwrap();
    let host = settings.as_array().unwrap().iter();
    let host = host
        .clone()
        .find(|s| s["key"] == "account.alerts.smtp.host");
    assert_eq!(host.unwrap()["source"], "file");
    let page = browser.get("/settings").body;
    assert!(page.contains("<code>account.alerts.smtp</code>"), "{page}");

    site.edit("tls = \"none\"\nauth", "tls = \"startls\"\nauht");
    let answer = browser.submit("/settings", "/settings/reload", &[]);
    assert_eq!(answer.status, 303);
    let told = browser.get("/settings").body;
    for word in ["role=\"alert\"", "startls", "auht"] {
        assert!(told.contains(word), "{word}: {told}");
    }
}

/// A page that listens hears of a change, and the stream ends with its session.
#[test]
fn events_tell_of_changes() {
    let sink = Sink::start();
    let site = Site::plain(&sink);
    let _relay = site.start();
    let browser = Browser::logged_in(&site);
    let mut stream = browser.open("/events");
    let mut line = String::new();
    while !line.starts_with("retry:") {
        line.clear();
        assert!(stream.read_line(&mut line).unwrap() > 0);
    }
    site.submit(&message("one", b"Hello.\r\n"));
    while line.trim() != "event: changed" {
        line.clear();
        assert!(stream.read_line(&mut line).unwrap() > 0);
    }
    let page = eventually("the delivery is counted", || {
        let page = browser.get("/").body;
        page.contains("1 delivered in the last hour")
            .then_some(page)
    });
    assert!(page.contains("<rect"), "{page}");
    browser.submit("/", "/logout", &[]);
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut stream, &mut rest).unwrap();
}

/// Every answer has the security headers; no page has anything inline; what others wrote is text.
#[test]
fn pages_hold_no_script_of_anybody() {
    let sink = Sink::start();
    let site = Site::plain(&sink);
    let _relay = site.start();
    sink.answer_mail(Some("421 4.3.2 <script>alert(1)</script> not now"));
    site.submit(&message("one", b"Hello.\r\n"));
    let browser = Browser::logged_in(&site);
    eventually("the provider's words are shown, as text", || {
        let page = browser.get("/").body;
        assert!(!page.contains("<script>alert"), "{page}");
        page.contains("script&#62; not now").then_some(())
    });
    for path in [
        "/",
        "/settings",
        "/login",
        "/nothing",
        "/assets/console.js",
        "/api/v1/status",
    ] {
        let answer = browser.get(path);
        assert_eq!(
            answer.field("x-content-type-options"),
            Some("nosniff"),
            "{path}"
        );
        let policy = answer.field("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'"), "{path}: {policy}");
        assert!(
            policy.contains("frame-ancestors 'none'"),
            "{path}: {policy}"
        );
        assert!(!policy.contains("unsafe"), "{path}: {policy}");
        if answer
            .field("content-type")
            .is_some_and(|kind| kind.starts_with("text/html"))
        {
            let page = answer.body.to_ascii_lowercase();
            assert_eq!(
                answer.field("referrer-policy"),
                Some("same-origin"),
                "{path}"
            );
            for inline in [" style=", "<style", " onclick", "javascript:", "<script>"] {
                assert!(!page.contains(inline), "{path} has {inline}");
            }
            assert!(page.contains("<html lang=\"en\">"), "{path}");
        }
    }
    let style = browser.get("/assets/style.css");
    let tag = style.field("etag").unwrap();
    let again = browser.send("GET", "/assets/style.css", &[("If-None-Match", tag)], "");
    assert_eq!((again.status, again.body.len()), (304, 0));
}
