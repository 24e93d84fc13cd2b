//! Accounts in the console: signing in by browser and by device code, what a refusal looks like, test
//! messages step by step, and the form.

use crate::{
    sign_in::{MAILBOX, Practice},
    support::{
        browser::{Answer, Browser, form},
        eventually,
        mail::message,
        relay::Site,
        sink::Sink,
    },
};

const ACCOUNT: &str = "/accounts/practice";

/// The practice provider with its account from the file, and somebody at the console.
struct Desk {
    practice: Practice,
    browser: Browser,
}

impl Desk {
    fn start(change: impl FnOnce(String) -> String) -> Self {
        let practice = Practice::start_with(|site, config| site.extend(&[change(config)]));
        let browser = Browser::logged_in(&practice.site);
        Self { practice, browser }
    }

    /// Begins a sign-in with a button of the account's page; where its page is.
    fn begin(&self, fields: &[(&str, &str)]) -> String {
        let answer = self
            .browser
            .submit(ACCOUNT, &format!("{ACCOUNT}/sign-in"), fields);
        assert_eq!(answer.status, 303, "{answer:?}");
        let page = answer.field("location").unwrap().to_owned();
        assert!(page.starts_with("/sign-ins/"), "{page}");
        page
    }

    /// The address that the button of a sign-in's page opens.
    fn authorization_url(&self, page: &str) -> String {
        let shown = self.page(page);
        assert!(shown.contains("Waiting for the browser."), "{shown}");
        let (_, rest) = shown.split_once("class=\"button first\" href=\"").unwrap();
        let (url, _) = rest.split_once('"').unwrap();
        url.replace("&#38;", "&")
    }

    /// Decides at the provider and follows the browser back; the page that it then shows.
    fn decide(&self, page: &str, decision: &str) -> Answer {
        let url = self.authorization_url(page);
        let back = self.practice.decide(&url, MAILBOX, decision);
        // As a browser comes from another site: without its cookie.
        let stranger = Browser::new(self.practice.site.console);
        stranger.send("GET", &back, &[("Sec-Fetch-Site", "cross-site")], "")
    }

    fn page(&self, path: &str) -> String {
        let answer = self.browser.get(path);
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        answer.body
    }

    /// Waits until a page says this.
    fn waits(&self, path: &str, said: &str) -> String {
        eventually(&format!("{path} says {said:?}"), || {
            Some(self.page(path)).filter(|page| page.contains(said))
        })
    }

    fn signed_in() -> Self {
        let desk = Self::start(|config| config);
        let page = desk.begin(&[]);
        assert_eq!(desk.decide(&page, "allow").status, 200);
        desk
    }
}

/// The button leads to the provider, the way back to the page that says how it ended; what was cancelled
/// there, or here, says so and can be tried again.
#[test]
fn signing_in_with_a_browser() {
    let desk = Desk::start(|config| config);
    let site = &desk.practice.site;
    site.wait_account("practice", "sign_in_needed");
    let list = desk.page("/accounts");
    assert!(
        list.contains("sign-in needed") && list.contains(ACCOUNT),
        "{list}"
    );

    let page = desk.begin(&[]);
    let told = desk.decide(&page, "deny");
    assert_eq!(told.status, 400);
    let way = format!("href=\"http://{}{page}\"", site.console);
    assert!(told.body.contains(&way), "{way}: {}", told.body);
    let refused = desk.page(&page);
    for said in ["Not signed in.", "access was denied", "Try again", ACCOUNT] {
        assert!(refused.contains(said), "{said}: {refused}");
    }

    let page = desk.begin(&[]);
    assert!(desk.page(&page).contains("Cancel"));
    let cancelled = desk.browser.submit(&page, &format!("{page}/cancel"), &[]);
    assert_eq!(cancelled.field("location"), Some(page.as_str()));
    assert!(desk.page(&page).contains("the sign-in was cancelled"));

    let page = desk.begin(&[]);
    let told = desk.decide(&page, "allow");
    assert_eq!(told.status, 200);
    assert!(told.body.contains(&format!("{page}\"")), "{}", told.body);
    let done = desk.page(&page);
    assert!(
        done.contains("Signed in.") && !done.contains("/authorize"),
        "{done}"
    );
    let account = desk.page(ACCOUNT);
    for said in ["ready", "Token expires", MAILBOX, "Sign out"] {
        assert!(account.contains(said), "{said}: {account}");
    }
    let out = format!("{ACCOUNT}/sign-out");
    let asked = desk.browser.submit(ACCOUNT, &out, &[]);
    assert!(asked.body.contains("name=\"confirmed\""), "{}", asked.body);
    assert_eq!(site.account("practice")["state"], "ready", "asked first");
    desk.browser.submit(ACCOUNT, &out, &[("confirmed", "yes")]);
    site.wait_account("practice", "sign_in_needed");
    let account = desk.page(ACCOUNT);
    assert!(account.contains("Signed out"), "{account}");
    assert!(!account.contains(&out), "there is nothing to sign out of");
}

/// What the provider takes no more may be forgotten here as well, whoever looks first.
#[test]
fn signing_out_of_a_sign_in_that_has_ended() {
    let mut desk = Desk::signed_in();
    let out = format!("{ACCOUNT}/sign-out");
    desk.practice.ask("POST /faults", r#"{"fault":"revoke"}"#);
    desk.practice.site.submit(&message("waits", b"Hello.\r\n"));
    desk.practice
        .site
        .wait_account("practice", "sign_in_needed");
    assert!(desk.page(ACCOUNT).contains(&out), "{}", desk.page(ACCOUNT));

    desk.practice.relay.process.kill();
    desk.practice.relay = desk.practice.site.start();
    desk.browser = Browser::logged_in(&desk.practice.site);
    desk.practice
        .site
        .wait_account("practice", "sign_in_needed");
    assert!(desk.page(ACCOUNT).contains(&out), "{}", desk.page(ACCOUNT));
    desk.browser.submit(ACCOUNT, &out, &[("confirmed", "yes")]);
    let account = desk.page(ACCOUNT);
    assert!(account.contains("Signed out"), "{account}");
    assert!(!account.contains(&out), "there is nothing to sign out of");
}

/// A browser elsewhere was sent to an address that it cannot open: that address is pasted.
#[test]
fn the_address_is_pasted() {
    let desk = Desk::start(|config| config);
    let page = desk.begin(&[]);
    let shown = desk.page(&page);
    assert!(shown.contains("ssh -L"), "{shown}");
    let paste = |address: &str| {
        let to = format!("{page}/address");
        let answer = desk.browser.submit(&page, &to, &[("address", address)]);
        assert_eq!(answer.field("location"), Some(page.as_str()));
    };
    paste("http://localhost/?code=x");
    let told = desk.page(&page);
    assert!(
        told.contains("role=\"alert\"") && told.contains("Waiting"),
        "{told}"
    );
    let url = desk.authorization_url(&page);
    let back = desk.practice.decide(&url, MAILBOX, "allow");
    paste(&format!("http://{}{back}", desk.practice.site.console));
    assert!(desk.page(&page).contains("Signed in."));
}

/// The secret that the provider does not know is named, with what to do.
#[test]
fn a_wrong_secret_is_told() {
    let wrong = |config: String| config.replace("client_secret = \"", "client_secret = \"wrong-");
    let desk = Desk::start(wrong);
    let page = desk.begin(&[]);
    assert_eq!(desk.decide(&page, "allow").status, 400);
    let told = desk.page(&page);
    for said in [
        "Not signed in.",
        "invalid_client",
        "compare client_id and client_secret",
        "What to do:",
        "Try again",
    ] {
        assert!(told.contains(said), "{said}: {told}");
    }
    assert!(!told.contains("wrong-"), "{told}");
}

/// The code and its QR code are shown until somebody has entered it somewhere.
#[test]
fn signing_in_by_device_code() {
    let desk = Desk::start(|config| config);
    let answered = |decision: &str| {
        let page = desk.begin(&[("device", "yes")]);
        let shown = desk.page(&page);
        assert!(shown.contains("<svg class=\"qr\""), "{shown}");
        let (_, rest) = shown.split_once("id=\"user-code\">").unwrap();
        let (code, _) = rest.split_once('<').unwrap();
        let fields = [
            ("user_code", code),
            ("mailbox", MAILBOX),
            ("decision", decision),
        ];
        let told = desk.practice.ask("POST /device", &form(&fields));
        assert!(told.contains("You can close this page"), "{told}");
        page
    };
    let page = answered("deny");
    let told = desk.waits(&page, "Not signed in.");
    assert!(told.contains("Try again"), "{told}");
    let page = answered("allow");
    let told = desk.waits(&page, "Signed in.");
    assert!(!told.contains("user-code"), "{told}");
}

/// What is not known is said to a person, and shown to the script that renews the page; a foreign site
/// leads to a page through another that brings the cookie.
#[test]
fn a_stale_or_foreign_link() {
    let desk = Desk::start(|config| config);
    assert_eq!(desk.browser.get("/sign-ins/nothing").status, 404);
    let renewed = desk
        .browser
        .send("GET", "/sign-ins/nothing", &[("X-Live", "1")], "");
    assert!(renewed.status == 200 && renewed.body.contains("not known any more"));
    let stranger = Browser::new(desk.practice.site.console);
    let foreign = [("Sec-Fetch-Site", "cross-site")];
    let onward = stranger.send("GET", ACCOUNT, &foreign, "");
    assert_eq!(onward.status, 200);
    assert_eq!(onward.field("refresh"), Some("0; url=/accounts/practice"));
    assert!(!onward.body.contains(MAILBOX), "{}", onward.body);
    let own = [("Sec-Fetch-Site", "same-origin")];
    let login = stranger.send("GET", ACCOUNT, &own, "");
    assert_eq!(
        login.field("location"),
        Some("/login?next=%2Faccounts%2Fpractice")
    );
}

/// A test message and the doctor show each step and how it ended, also to who comes later.
#[test]
fn a_test_message_step_by_step() {
    let desk = Desk::signed_in();
    let run = |what: &str, fields: &[(&str, &str)]| {
        let answer = desk
            .browser
            .submit(ACCOUNT, &format!("{ACCOUNT}/{what}"), fields);
        answer.field("location").unwrap().to_owned()
    };
    assert_eq!(run("test", &[("to", "nobody")]), ACCOUNT);
    assert!(desk.page(ACCOUNT).contains("role=\"alert\""));
    let page = run("test", &[("to", "me@example.com")]);
    let told = desk.waits(&page, "The provider has taken the message.");
    for step in [
        "Token",
        "Connection",
        "Encryption (TLS)",
        "Sign-in at the mail server",
        "Message",
    ] {
        assert!(
            told.contains(&format!("<th scope=\"row\">{step}</th>")),
            "{step}: {told}"
        );
    }
    let sent = desk.practice.ask("GET /messages", "");
    assert!(sent.contains("Gatepost test message"), "{sent}");

    let doctor = run("doctor", &[]);
    assert_ne!(doctor, page);
    desk.waits(&doctor, "Everything is as it should be.");
    let account = desk.page(ACCOUNT);
    assert!(
        account.contains(&page) && account.contains(&doctor),
        "{account}"
    );
    assert!(account.contains("value=\"me@example.com\""), "{account}");
    assert_eq!(desk.browser.get("/accounts/practice/trials/99").status, 404);
    assert_eq!(desk.browser.get("/accounts/other/trials/1").status, 404);

    // Without a token there is nothing to send with, and the page says what to do.
    let out = format!("{ACCOUNT}/sign-out");
    desk.browser.submit(ACCOUNT, &out, &[("confirmed", "yes")]);
    let page = run("test", &[("to", "me@example.com")]);
    desk.waits(&page, "It did not work.");
}

/// What makes a plain mail server with a password.
const SMARTHOST: [(&str, &str); 5] = [
    ("name", "smarthost"),
    ("smtp.host", "mail.example"),
    ("smtp.auth", "password"),
    ("smtp.username", "joe"),
    ("smtp.password", "hunter2-<x>"),
];

/// Sends the form of a new account.
fn create(browser: &Browser, fields: &[(&str, &str)]) -> Answer {
    browser.submit("/accounts/new", "/accounts/new", fields)
}

/// What is wrong is said beside its field, and what was typed stays, but for the password.
#[test]
fn a_wrong_field_is_told_beside_it() {
    let sink = Sink::start();
    let site = Site::plain(&sink);
    let _relay = site.start();
    let browser = Browser::logged_in(&site);
    let with = |field| [SMARTHOST.as_slice(), &[field]].concat();
    for (fields, field) in [
        (with(("smtp.port", "many")), "smtp.port-error"),
        (with(("mailbox", "no address")), "mailbox-error"),
        (SMARTHOST[1..].to_vec(), "name-error"),
        (vec![("name", "alerts")], "name-error"),
    ] {
        let answer = create(&browser, &fields);
        assert_eq!(answer.status, 422, "{field}: {}", answer.body);
        let is_told = answer.body.contains(&format!("id=\"{field}\""));
        assert!(is_told, "{field}: {}", answer.body);
        // A long form's top says so, too.
        let at = field.trim_end_matches("-error");
        let is_linked = answer.body.contains(&format!("<a href=\"#{at}\">"));
        assert!(is_linked, "{field}: {}", answer.body);
        assert!(!answer.body.contains("hunter2"), "{}", answer.body);
    }
    let both = [&SMARTHOST[1..], &[("mailbox", "no address")]].concat();
    let refused = create(&browser, &both).body;
    for error in ["name-error", "mailbox-error"] {
        assert!(refused.contains(error), "{error}: {refused}");
    }
    let refused = create(&browser, &with(("smtp.port", "many"))).body;
    assert!(refused.contains("value=\"mail.example\""), "{refused}");
    assert_eq!(browser.get("/accounts/smarthost").status, 404);

    let file = browser.get("/accounts/alerts").body;
    assert!(file.contains("configuration file"), "{file}");
    assert!(!file.contains("/edit"), "{file}");
    assert_eq!(browser.get("/accounts/alerts/edit").status, 409);
}

/// A second account takes no mail away from the first; which of them is the default is chosen.
#[test]
fn the_only_account_stays_the_default_beside_another() {
    let sink = Sink::start();
    let site = Site::plain(&sink);
    let _relay = site.start();
    let browser = Browser::logged_in(&site);
    assert_eq!(create(&browser, &SMARTHOST).status, 303);
    site.submit(&message("after-a-second-account", b"Hello.\r\n"));
    let is_default = |name: &str| {
        let page = browser.get(&format!("/accounts/{name}")).body;
        !page.contains("Make it the default")
    };
    assert!(is_default("alerts") && !is_default("smarthost"));
    let chosen = browser.submit("/accounts", "/accounts/smarthost/default", &[]);
    assert_eq!(chosen.field("location"), Some("/accounts/smarthost"));
    assert!(!is_default("alerts") && is_default("smarthost"));

    // Nobody is asked about what cannot be done.
    let page = "/accounts/smarthost";
    browser.submit(page, "/accounts/smarthost/hold", &[]);
    site.submit(&message("in-its-way", b"Hello.\r\n"));
    let refused = browser.submit(page, "/accounts/smarthost/remove", &[]);
    assert_eq!(refused.field("location"), Some(page), "{}", refused.body);
    let shown = browser.get(page).body;
    assert!(
        shown.contains("1 message waits for this account"),
        "{shown}"
    );
    let id = site.queue()[0]["id"].as_str().unwrap().to_owned();
    site.cli(&["queue", "delete", &id]);
    let yes = [("confirmed", "yes")];
    browser.submit("/accounts", "/accounts/smarthost/remove", &yes);
    assert!(is_default("alerts"), "the only one again");
}

/// What was made can be changed, held and removed; its password stays where it was entered for.
#[test]
fn an_account_is_made_changed_and_removed() {
    let sink = Sink::start();
    let site = Site::plain(&sink);
    let _relay = site.start();
    let browser = Browser::logged_in(&site);
    let (page, edit) = ("/accounts/smarthost", "/accounts/smarthost/edit");
    let says = |path: &str, words: &[&str]| {
        let shown = browser.get(path).body;
        for word in words {
            assert!(shown.contains(word), "{word}: {shown}");
        }
        assert!(!shown.contains("hunter2"), "{shown}");
    };
    let saved = create(&browser, &SMARTHOST);
    assert_eq!(saved.field("location"), Some(page), "{}", saved.body);
    says(page, &["Saved, and in force."]);
    says(edit, &["One is set", "value=\"joe\""]);
    let seen = browser.get(edit).body;
    let seen = seen.split("name=\"seen\" value=\"").nth(1).unwrap();
    let seen = seen.split('"').next().unwrap().to_owned();
    let change = |host, user| {
        let auth = ("smtp.auth", "password");
        let fields = [("smtp.host", host), auth, ("smtp.username", user)];
        browser.submit(edit, edit, &fields)
    };
    let changed = change("mail.example", "jane");
    assert_eq!(changed.field("location"), Some(page), "{}", changed.body);
    says(edit, &["One is set", "value=\"jane\""]);
    // A form that was opened before that writes nothing over.
    let late = [("smtp.username", "jim"), ("seen", seen.as_str())];
    let late = browser.submit(edit, edit, &late);
    assert_eq!(late.status, 409);
    assert!(late.body.contains("by somebody else"), "{}", late.body);
    says(edit, &["value=\"jane\""]);
    // The password would go to another server than the one it was entered for.
    let refused = change("evil.example", "jane");
    assert_eq!(refused.status, 422);
    let is_told = refused.body.contains("id=\"smtp.password-error\"");
    assert!(is_told, "{}", refused.body);

    browser.submit(page, "/accounts/smarthost/hold", &[]);
    says(page, &["An operator has put this account on hold."]);
    browser.submit(page, "/accounts/smarthost/release", &[]);
    says(page, &["Put on hold"]);
    let remove = "/accounts/smarthost/remove";
    let asked = browser.submit(page, remove, &[]);
    assert!(asked.body.contains("name=\"confirmed\""), "{}", asked.body);
    says(page, &["Edit"]);
    let removed = browser.submit(page, remove, &[("confirmed", "yes")]);
    assert_eq!(removed.field("location"), Some("/accounts"));
    assert_eq!(browser.get(page).status, 404);
}
