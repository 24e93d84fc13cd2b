//! The pages about clients, API keys and notices: a device that is turned away is let in, a password
//! and a key are shown once and work, and each way of telling people is tried.

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::support::{
    browser::{Answer, Browser},
    eventually,
    relay::Site,
    sink::Sink,
    smtp::Client,
};

/// What stands between two texts of a page.
fn between<'p>(page: &'p str, before: &str, after: &str) -> &'p str {
    let (_, rest) = page
        .split_once(before)
        .unwrap_or_else(|| panic!("no {before}: {page}"));
    rest.split_once(after).unwrap().0
}

/// What a page shows this once.
fn once(answer: &Answer) -> String {
    assert_eq!(answer.field("cache-control"), Some("no-store"));
    assert_eq!(answer.field("location"), None);
    between(&answer.body, "class=\"once\">", "<").to_owned()
}

/// The code of the reply to a login.
fn log_in(site: &Site, name: &str, password: &str) -> u16 {
    let mut client = Client::ehlo(site.smtp).unwrap();
    let words = STANDARD.encode(format!("\0{name}\0{password}"));
    client.command(&format!("AUTH PLAIN {words}")).unwrap().code
}

#[test]
fn a_device_that_was_turned_away_is_let_in_and_out() {
    let sink = Sink::start();
    let site = Site::plain(&sink);
    site.edit(
        "address = \"@SMTP@\"",
        "address = \"@SMTP@\"\nallow = [\"192.168.7.0/24\"]",
    );
    let _relay = site.spawn();
    let knock = || Client::connect(site.smtp).map(|client| client.greeting().code);
    eventually("the device is turned away", || {
        (knock().ok()? == 554).then_some(())
    });
    let browser = Browser::logged_in(&site);
    let page = browser.get("/clients").body;
    assert!(
        page.contains("its address is not in the allow list"),
        "{page}"
    );
    assert!(page.contains("<strong>What to do:</strong>"), "{page}");
    let form = between(&page, "href=\"/clients/allow?", "\"").replace("&#38;", "&");
    let form = browser.get(&format!("/clients/allow?{form}")).body;
    assert!(form.contains("value=\"127.0.0.1\""), "{form}");
    let listener = site.smtp.to_string();
    assert!(
        form.contains(&format!("value=\"{listener}\" selected")),
        "{form}"
    );

    let submit = |network: &str, note: &str| {
        let fields = [
            ("network", network),
            ("listener", &listener),
            ("note", note),
        ];
        browser.submit("/clients/allow", "/clients/allow", &fields)
    };
    wrong_networks_are_told(submit);
    let right = submit("127.0.0.1", "<b>mine</b>");
    assert_eq!(
        (right.status, right.field("location")),
        (303, Some("/clients")),
        "{}",
        right.body
    );
    assert_eq!(knock().unwrap(), 220, "at once");
    let page = browser.get("/clients").body;
    assert!(page.contains("127.0.0.1/32 may connect now."), "{page}");
    assert!(page.contains("&#60;b&#62;mine"), "{page}");
    assert!(!page.contains("Allow this device"), "{page}");
    // What was refused is history: the state is another one.
    assert!(page.contains(">allowed now</span>"), "{page}");
    assert!(page.contains("Refused earlier"), "{page}");
    assert!(!page.contains("<strong>What to do:</strong>"), "{page}");

    let remove =
        |fields: &[(&str, &str)]| browser.submit("/clients", "/clients/allow/remove", fields);
    let asked = remove(&[("network", "127.0.0.1/32")]);
    assert!(asked.body.contains("name=\"confirmed\""), "{}", asked.body);
    assert_eq!(knock().unwrap(), 220, "asked first");
    remove(&[("network", "127.0.0.1/32"), ("confirmed", "yes")]);
    assert_eq!(knock().unwrap(), 554);
    assert!(
        browser
            .get("/clients")
            .body
            .contains("None was let in here.")
    );
}

/// What is no network, or the Internet's, is told at its field, and what was typed is kept, as text.
fn wrong_networks_are_told(submit: impl Fn(&str, &str) -> Answer) {
    for (network, said) in [
        ("printers", "is not a network"),
        ("8.8.8.8", "an open relay"),
    ] {
        let wrong = submit(network, "<b>mine</b>");
        assert_eq!(wrong.status, 422, "{}", wrong.body);
        let error = between(&wrong.body, "id=\"network-error\">", "</p>");
        assert!(error.contains(said), "{error}");
        assert!(wrong.body.contains(&format!("value=\"{network}\"")), "kept");
        assert!(!wrong.body.contains("<b>mine"), "{}", wrong.body);
    }
}

#[test]
fn a_login_is_made_shown_once_rotated_locked_and_removed() {
    let sink = Sink::start();
    let site = Site::plain(&sink);
    site.edit(
        "auth = \"none\"\n\n[console]",
        "auth = \"optional\"\n\n[console]",
    );
    let relay = site.start();
    let browser = Browser::logged_in(&site);
    let post = |what: &str, fields: &[(&str, &str)]| {
        browser.submit("/clients", &format!("/clients/logins{what}"), fields)
    };
    let made = post(
        "",
        &[
            ("name", "scanner"),
            ("senders", "*@example.test, root@other.test"),
            ("account", "alerts"),
        ],
    );
    assert_eq!(made.status, 201, "{}", made.body);
    let first = once(&made);
    let port = format!("<code>{}</code>", site.smtp.port());
    for wanted in ["data-copy=\"password\"", "<code>127.0.0.1</code>", &port] {
        assert!(made.body.contains(wanted), "{wanted}: {}", made.body);
    }
    assert_eq!(log_in(&site, "scanner", &first), 235);
    let taken = post("", &[("name", "scanner")]);
    assert_eq!(taken.status, 409);
    assert!(taken.body.contains("already"), "{}", taken.body);

    let name = [("name", "scanner")];
    let sure = [("name", "scanner"), ("confirmed", "yes")];
    let asked = post("/rotate", &name);
    assert!(asked.body.contains("name=\"confirmed\""), "{}", asked.body);
    assert_eq!(log_in(&site, "scanner", &first), 235, "asked first");
    let rotated = post("/rotate", &sure);
    assert_eq!(rotated.status, 200);
    let second = once(&rotated);
    assert_eq!(log_in(&site, "scanner", &first), 535);
    assert_eq!(log_in(&site, "scanner", &second), 235);
    assert_eq!(post("/disable", &name).status, 303);
    assert_eq!(log_in(&site, "scanner", &second), 535);
    let page = browser.get("/clients").body;
    assert!(page.contains("scanner may log in no more."), "{page}");
    assert!(page.contains("Enable scanner"), "{page}");
    assert!(page.contains("*@example.test, root@other.test"), "{page}");
    for password in [&first, &second] {
        assert!(!page.contains(password), "{page}");
    }
    post("/enable", &name);
    assert_eq!(log_in(&site, "scanner", &second), 235);
    assert!(post("/remove", &name).body.contains("name=\"confirmed\""));
    post("/remove", &sure);
    // It was the last one: there is nothing to log in to.
    assert_eq!(log_in(&site, "scanner", &second), 502);
    let page = browser.get("/clients").body;
    assert!(page.contains("There is none yet."), "{page}");
    let log = relay.process.log();
    for password in [first, second] {
        assert!(!log.contains(&password), "{log}");
    }
}

/// Whom a login sends as is changed without another password: the device needs no visit.
#[test]
fn a_login_is_edited() {
    let sink = Sink::start();
    let site = Site::plain(&sink);
    site.edit(
        "auth = \"none\"\n\n[console]",
        "auth = \"optional\"\n\n[console]",
    );
    let _relay = site.start();
    let browser = Browser::logged_in(&site);
    let made = browser.submit(
        "/clients",
        "/clients/logins",
        &[("name", "in <2nd> floor"), ("senders", "*@example.test")],
    );
    let password = once(&made);
    let name = ("name", "in <2nd> floor");
    browser.submit("/clients", "/clients/logins/disable", &[name]);

    let edit = "/clients/logins/edit?name=in+%3C2nd%3E+floor";
    let page = browser.get("/clients").body;
    assert!(page.contains(edit), "{page}");
    let form = browser.get(edit).body;
    assert!(form.contains("value=\"*@example.test\""), "{form}");
    assert!(!form.contains("<2nd>"), "{form}");
    let save = |senders: &str, account: &str| {
        let fields = [name, ("senders", senders), ("account", account)];
        browser.submit(edit, "/clients/logins/edit", &fields)
    };
    for (senders, account, wrong) in [
        ("two@at@example.test", "", "senders-error"),
        ("*@other.test", "nobody", "account-error"),
    ] {
        let refused = save(senders, account);
        assert_eq!(refused.status, 422, "{}", refused.body);
        assert!(refused.body.contains(wrong), "{}", refused.body);
        assert!(refused.body.contains(senders), "kept: {}", refused.body);
    }
    let saved = save("*@other.test, root@example.test", "alerts");
    assert_eq!(saved.field("location"), Some("/clients"), "{}", saved.body);
    let page = browser.get("/clients").body;
    assert!(page.contains("*@other.test, root@example.test"), "{page}");
    assert_eq!(log_in(&site, name.1, &password), 535, "still disabled");
    browser.submit("/clients", "/clients/logins/enable", &[name]);
    assert_eq!(log_in(&site, name.1, &password), 235, "the same password");

    save("", "");
    let page = browser.get("/clients").body;
    assert!(page.contains("by the routes"), "{page}");
    let nobody = "/clients/logins/edit?name=nobody";
    assert_eq!(browser.get(nobody).status, 404);
}

/// What the file has is read-only here.
#[test]
fn a_login_of_the_file_stays_as_it_is() {
    let sink = Sink::start();
    let site = Site::plain(&sink);
    let hash = {
        let mut hashing = site.command(&["hash-password"]);
        hashing.stdin(std::process::Stdio::piped());
        hashing.stdout(std::process::Stdio::piped());
        let mut child = hashing.spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        std::io::Write::write_all(&mut input, b"of the file").unwrap();
        drop(input);
        let output = child.wait_with_output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    site.extend(&[format!(
        "[[client]]\nname = \"filed\"\npassword_hash = \"{hash}\"\n"
    )]);
    let _relay = site.start();
    let browser = Browser::logged_in(&site);
    let page = browser.get("/clients").body;
    assert!(page.contains("stands in the file"), "{page}");
    assert!(!page.contains("Disable filed"), "{page}");
    assert!(!page.contains(&hash), "{page}");
    let wrong = browser.submit(
        "/clients",
        "/clients/logins",
        &[("name", ""), ("senders", "no address")],
    );
    assert_eq!(wrong.status, 422);
    assert!(
        between(&wrong.body, "id=\"name-error\">", "</p>").contains("is needed"),
        "{}",
        wrong.body
    );
    let nobody = [("name", "nobody"), ("confirmed", "yes")];
    let gone = browser.submit("/clients", "/clients/logins/rotate", &nobody);
    assert_eq!(gone.status, 303, "it says so on the next page");
    assert!(browser.get("/clients").body.contains("role=\"alert\""));
    for what in ["rotate", "disable", "enable", "remove"] {
        let path = format!("/clients/logins/{what}");
        let sure = [("name", "filed"), ("confirmed", "yes")];
        let answer = browser.submit("/clients", &path, &sure);
        assert_eq!(answer.status, 303, "{what}");
        let told = browser.get("/clients").body;
        assert!(told.contains("gatepost reload"), "{what}: {told}");
    }
}

#[test]
fn a_key_is_made_shown_once_used_and_removed() {
    let sink = Sink::start();
    let site = Site::plain(&sink);
    let relay = site.start();
    let browser = Browser::logged_in(&site);
    let program = Browser::new(site.console);
    let add = |name: &str| browser.submit("/settings", "/settings/keys", &[("name", name)]);
    let wrong = add("no name");
    assert_eq!(wrong.status, 422);
    let error = between(&wrong.body, "id=\"name-error\">", "</p>");
    assert!(error.contains("cannot be used"), "{error}");
    assert!(wrong.body.contains("value=\"no name\""), "{}", wrong.body);
    let made = add("prometheus");
    assert_eq!(made.status, 201, "{}", made.body);
    let key = once(&made);
    let ask = || {
        let bearer = format!("Bearer {key}");
        let fields = [("Authorization", bearer.as_str())];
        program.send("GET", "/api/v1/accounts", &fields, "").status
    };
    let page = browser.get("/settings").body;
    assert!(page.contains("never"), "{page}");
    assert!(!page.contains(&key), "{page}");
    assert_eq!(ask(), 200);
    let cell = "<td data-label=\"Last used\"><time";
    assert!(browser.get("/settings").body.contains(cell));
    assert_eq!(add("prometheus").status, 303);
    assert!(browser.get("/settings").body.contains("already"));

    let remove =
        |fields: &[(&str, &str)]| browser.submit("/settings", "/settings/keys/remove", fields);
    assert!(
        remove(&[("name", "prometheus")])
            .body
            .contains("name=\"confirmed\"")
    );
    assert_eq!(ask(), 200);
    remove(&[("name", "prometheus"), ("confirmed", "yes")]);
    assert_eq!(ask(), 401);
    assert!(!relay.process.log().contains(&key));
}

#[test]
fn each_way_of_telling_is_shown_and_tried() {
    let sink = Sink::start();
    let site = Site::plain(&sink);
    site.extend(&[
        "[notify]\nwebhook = \"http://127.0.0.1:9/services/canary-webhook\"\n\
         command = [\"sh\", \"-c\", \"exit 0\"]\n"
            .to_owned(),
    ]);
    let _relay = site.start();
    let browser = Browser::logged_in(&site);
    let page = browser.get("/settings").body;
    for shown in [
        "a URL, kept secret",
        "sh and 2 more words",
        "notify.account and notify.to",
        "Send a test notice by webhook",
    ] {
        assert!(page.contains(shown), "{shown}: {page}");
    }
    assert!(!page.contains("Send a test notice by mail"), "{page}");
    assert!(!page.contains("canary"), "{page}");
    let test = |channel: &str| {
        let fields = [("channel", channel)];
        let answer = browser.submit("/settings", "/settings/notify/test", &fields);
        assert_eq!(answer.status, 303);
        let page = browser.get("/settings").body;
        between(&page, "class=\"flash", "</div>").to_owned()
    };
    let told = test("command");
    assert!(
        told.contains("status") && told.contains("command: sent"),
        "{told}"
    );
    assert!(!told.contains("webhook"), "that way alone: {told}");
    let told = test("webhook");
    assert!(
        told.contains("alert") && told.contains("webhook: failed"),
        "{told}"
    );
    assert!(!told.contains("canary"), "{told}");
    assert!(test("mail").contains("nobody is told"));
}
