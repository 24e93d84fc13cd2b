//! What is made and changed through the API while the daemon runs: a provider is in force only after
//! somebody has signed in with it, what was made outlives restarts, what the file has is the file's,
//! and no secret is told or lies in clear.

use std::{
    cell::RefCell,
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixStream,
    thread,
};

use figment::{
    Figment,
    providers::{Format, Toml},
};
use serde_json::{Value, json};

use crate::{
    sign_in::{MAILBOX, Practice, STRANGER},
    support::{eventually, mail::message, relay::Site, sink::Sink},
};

/// An answer of the API over the control socket: status and JSON (null: none).
pub(crate) fn api(site: &Site, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let (status, answer) = ask(site, method, path, body);
    site.transcript.add(answer.to_string());
    (status, answer)
}

/// The same for answers that tell a secret once, as they should.
fn ask(site: &Site, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let mut stream = UnixStream::connect(site.state().join("control.sock")).unwrap();
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    write!(
        stream,
        "{method} /api/v1{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}

fn get(site: &Site, path: &str) -> Value {
    let (status, answer) = api(site, "GET", path, &Value::Null);
    assert_eq!(status, 200, "{path}: {answer}");
    answer
}

/// The keys of the fields that are told to be wrong.
fn wrong_fields(answer: &Value) -> Vec<&str> {
    let fields = answer["fields"].as_array().map(Vec::as_slice);
    let keys = fields.unwrap_or_default().iter();
    keys.map(|field| field["key"].as_str().unwrap()).collect()
}

/// A relay without any provider, and what a form for the practice provider would send.
pub(crate) struct Desk {
    practice: Practice,
    pub(crate) provider: Value,
    pub(crate) account: Value,
}

impl Desk {
    pub(crate) fn start() -> Self {
        let told = RefCell::new(Value::Null);
        let practice = Practice::start_with(|site, config| {
            let config: Value = Figment::from(Toml::string(&config)).extract().unwrap();
            let secret = config["provider"]["sandbox"]["client_secret"].as_str();
            let known = site.path().join("known-secrets");
            fs::write(&known, format!("secret {}\n", secret.unwrap())).unwrap();
            site.transcript.beware_of(&known);
            *told.borrow_mut() = config;
        });
        let told = told.into_inner();
        let mut account = told["account"]["practice"].clone();
        account.as_object_mut().unwrap().remove("provider");
        Self {
            practice,
            provider: told["provider"]["sandbox"].clone(),
            account,
        }
    }

    pub(crate) fn site(&self) -> &Site {
        &self.practice.site
    }

    /// The form of the provider with its first account.
    fn form(&self) -> Value {
        let mut account = self.account.clone();
        account["name"] = "alerts".into();
        changed(&self.provider, "account", account)
    }

    /// Sends a form; the sign-in that it begins: its id and where the browser goes.
    fn save(&self, form: &Value) -> (String, String) {
        let (status, begun) = api(self.site(), "PUT", "/providers/contoso", form);
        assert_eq!(
            (status, begun["kind"].as_str()),
            (202, Some("browser")),
            "{begun}"
        );
        let text = |key: &str| begun[key].as_str().unwrap().to_owned();
        (text("id"), text("url"))
    }

    /// Goes through the consent page and comes back; the status of the page then shown.
    fn consent(&self, url: &str, mailbox: &str, decision: &str) -> u16 {
        let back = self.practice.decide(url, mailbox, decision);
        self.site().get(&back).unwrap().0
    }

    /// Saves and signs in.
    fn saved(&self, form: &Value) {
        let (id, url) = self.save(form);
        assert_eq!(self.consent(&url, MAILBOX, "allow"), 200);
        assert_eq!(self.outcome(&id)["state"], "signed_in");
    }

    pub(crate) fn outcome(&self, id: &str) -> Value {
        get(self.site(), &format!("/sign-ins/{id}?wait=60"))
    }

    /// Sends a message that the practice provider must get.
    pub(crate) fn mail(&self, id: &str) {
        self.site().submit(&message(id, b"Hello.\r\n"));
        self.site().wait_empty();
        let messages = self.practice.ask("GET /messages", "");
        assert!(messages.contains(&format!("test {id}")), "{messages}");
    }

    fn restart(mut self) -> Self {
        self.practice.relay.process.kill();
        self.practice.relay = self.practice.site.start();
        self
    }
}

fn changed(form: &Value, key: &str, value: impl Into<Value>) -> Value {
    let mut form = form.clone();
    form[key] = value.into();
    form
}

/// No file of the store has this text in it.
fn is_nowhere(site: &Site, secret: &str) {
    for file in fs::read_dir(site.state()).unwrap().flatten() {
        let octets = fs::read(file.path()).unwrap_or_default();
        let found = memchr::memmem::find(&octets, secret.as_bytes()).is_some();
        assert!(!found, "a secret lies in clear in {:?}", file.path());
    }
}

#[test]
fn a_provider_is_in_force_when_somebody_has_signed_in_with_it() {
    let desk = Desk::start();
    let site = desk.site();
    let (id, url) = desk.save(&desk.form());
    assert_eq!(get(site, "/providers"), json!([]));
    assert_eq!(get(site, "/accounts"), json!([]));
    assert_eq!(get(site, &format!("/sign-ins/{id}"))["state"], "pending");
    assert_eq!(desk.consent(&url, MAILBOX, "allow"), 200);
    assert_eq!(desk.outcome(&id)["state"], "signed_in");

    let shown = get(site, "/providers/contoso");
    assert_eq!(shown["client_id"], desk.provider["client_id"]);
    assert_eq!(shown["client_secret_set"], true);
    assert_eq!(shown["read_only"], false);
    assert_eq!(shown["accounts"], json!(["alerts"]));
    assert!(shown.get("client_secret").is_none(), "{shown}");
    assert_eq!(site.account("alerts")["state"], "ready");
    desk.mail("made-and-sent");
    let secret = desk.provider["client_secret"].as_str().unwrap().to_owned();
    is_nowhere(site, &secret);

    site.cli(&["rotate-key"]);
    let desk = desk.restart();
    desk.site().wait_account("alerts", "ready");
    assert_eq!(get(desk.site(), "/providers/contoso"), shown);
    desk.mail("after-a-restart");
    // The secret is the one that was entered: it serves another sign-in.
    desk.saved(&changed(
        &without(&desk.provider, "client_secret"),
        "scope",
        "smtp.send offline_access openid",
    ));
    is_nowhere(desk.site(), &secret);
    eventually("both are in the audit log", || {
        let log = desk.practice.relay.process.log();
        let changed = log.lines().filter(|line| line.contains("\"changed\""));
        let saved = changed.filter(|line| line.contains("\"save\"") && line.contains("contoso"));
        (saved.count() == 2).then_some(())
    });
}

fn without(form: &Value, key: &str) -> Value {
    let mut form = form.clone();
    form.as_object_mut().unwrap().remove(key);
    form
}

/// Whatever a sign-in comes to but success: nothing of the new provider is there, also after a restart.
#[test]
fn a_provider_whose_sign_in_fails_is_not_in_force() {
    let desk = Desk::start();
    let site = desk.site();
    let wrong = changed(&desk.form(), "client_secret", "not-the-right-one");
    let form = desk.form();
    for (form, mailbox, decision, said) in [
        (&wrong, MAILBOX, "allow", "client"),
        (&form, MAILBOX, "deny", "access was denied"),
        (&form, STRANGER, "allow", STRANGER),
    ] {
        let (id, url) = desk.save(form);
        assert_eq!(desk.consent(&url, mailbox, decision), 400);
        let outcome = desk.outcome(&id);
        assert_eq!(outcome["state"], "refused", "{outcome}");
        let reason = outcome["reason"].as_str().unwrap();
        assert!(reason.contains(said), "not {said:?}: {reason}");
        assert_eq!(get(site, "/providers"), json!([]));
        assert_eq!(get(site, "/accounts"), json!([]));
    }
    // Cancelled by who began it: the browser then comes back for nothing.
    let (id, url) = desk.save(&form);
    let (status, _) = api(site, "DELETE", &format!("/sign-ins/{id}"), &Value::Null);
    assert_eq!(status, 204);
    assert_eq!(desk.consent(&url, MAILBOX, "allow"), 400);
    let desk = desk.restart();
    assert_eq!(get(desk.site(), "/providers"), json!([]));
}

#[test]
fn a_change_that_fails_leaves_the_provider_as_it_was() {
    let desk = Desk::start();
    let site = desk.site();
    desk.saved(&desk.form());
    let before = get(site, "/providers/contoso");

    let wrong = changed(&desk.provider, "client_secret", "not-the-right-one");
    let (id, url) = desk.save(&wrong);
    assert_eq!(desk.consent(&url, MAILBOX, "allow"), 400);
    assert_eq!(desk.outcome(&id)["state"], "refused");
    assert_eq!(get(site, "/providers/contoso"), before);
    assert_eq!(site.account("alerts")["state"], "ready");
    desk.mail("the-old-one");

    // Nobody reads what others have entered by having it sent elsewhere.
    let form = without(&desk.provider, "client_secret");
    let elsewhere = changed(&form, "issuer", "http://127.0.0.1:9");
    let (status, told) = api(site, "PUT", "/providers/contoso", &elsewhere);
    assert_eq!(
        (status, wrong_fields(&told)),
        (422, vec!["client_secret"]),
        "{told}"
    );

    // Words for people need no sign-in.
    let form = without(&desk.provider, "client_secret");
    let described = changed(&form, "description", "for the alarms");
    let (status, saved) = api(site, "PUT", "/providers/contoso", &described);
    assert_eq!(
        (status, saved["description"].as_str()),
        (200, Some("for the alarms"))
    );
    assert_eq!(saved["client_secret_set"], true);

    let scope = "smtp.send offline_access openid";
    desk.saved(&changed(&described, "scope", scope));
    assert_eq!(get(site, "/providers/contoso")["scope"], scope);
    desk.mail("the-new-one");
}

/// It was put on hold for its password, which it has not: the sign-in that has ended was forgotten.
#[test]
fn words_for_people_hide_no_sign_in_that_has_ended() {
    let desk = Desk::start();
    let site = desk.site();
    desk.saved(&desk.form());
    let played = desk.practice.ask("POST /faults", r#"{"fault":"revoke"}"#);
    assert!(played.starts_with("HTTP/1.1 200"), "{played}");
    site.submit(&message("waits", b"Hello.\r\n"));
    let account = site.wait_account("alerts", "sign_in_needed");
    assert!(account["token_expires_at"].is_null(), "{account}");

    let refusals = || desk.practice.relay.process.log();
    let refusals = || refusals().matches("token_refused").count();
    let before = refusals();
    let form = without(&desk.provider, "client_secret");
    let described = changed(&form, "description", "for the alarms");
    assert_eq!(api(site, "PUT", "/providers/contoso", &described).0, 200);
    // The state may be the one of before until the new words are in force.
    eventually("it is tried once more", || {
        (refusals() > before).then_some(())
    });
    site.wait_account("alerts", "sign_in_needed");
}

#[test]
fn what_is_too_large_is_told_as_such() {
    let desk = Desk::start();
    let described = changed(&desk.form(), "description", "x".repeat(256 * 1024));
    let (status, told) = api(desk.site(), "PUT", "/providers/contoso", &described);
    assert_eq!(
        (status, told["detail"].as_str(), told["remedy"].as_str()),
        (
            413,
            Some("the body is larger than 262144 octets"),
            Some("send it in parts")
        )
    );
}

/// Without a person: a token is the proof, and a provider that gives none is not in force.
#[test]
fn a_provider_that_nobody_signs_in_at_is_proved_by_a_token() {
    let desk = Desk::start();
    let site = desk.site();
    let mut form = desk.form();
    form["account"]["grant"] = "client_credentials".into();
    let wrong = changed(&form, "client_secret", "not-the-right-one");
    for (form, state, there) in [(&wrong, "refused", 0), (&form, "signed_in", 1)] {
        let (status, begun) = api(site, "PUT", "/providers/contoso", form);
        assert_eq!(
            (status, begun["kind"].as_str()),
            (202, Some("unattended")),
            "{begun}"
        );
        let outcome = desk.outcome(begun["id"].as_str().unwrap());
        assert_eq!(outcome["state"], state, "{outcome}");
        assert_eq!(get(site, "/providers").as_array().unwrap().len(), there);
    }
    desk.mail("by-an-application");

    // The secret was not entered for any server that somebody may think of.
    let mut other = changed(&desk.account, "provider", "contoso");
    other["grant"] = "client_credentials".into();
    assert_eq!(api(site, "PUT", "/accounts/other", &other).0, 200);
    other["smtp"]["port"] = 9.into();
    for name in ["other", "spy"] {
        let (status, told) = api(site, "PUT", &format!("/accounts/{name}"), &other);
        let wanted = (422, vec!["smtp.host"]);
        assert_eq!((status, wrong_fields(&told)), wanted, "{told}");
    }
    let mut form = without(&desk.provider, "client_secret");
    form["account"] = changed(&other, "name", "spy");
    let (status, told) = api(site, "PUT", "/providers/contoso", &form);
    let wanted = (422, vec!["account.smtp.host"]);
    assert_eq!((status, wrong_fields(&told)), wanted, "{told}");
}

#[test]
fn what_was_made_is_removed_and_stays_away() {
    let desk = Desk::start();
    let site = desk.site();
    desk.saved(&desk.form());
    let delete = |path: &str| api(site, "DELETE", path, &Value::Null);
    let (status, problem) = delete("/providers/contoso");
    assert_eq!(status, 409);
    assert!(
        problem["detail"].as_str().unwrap().contains("alerts"),
        "{problem}"
    );
    assert_eq!(delete("/accounts/alerts").0, 204);
    assert_eq!(delete("/providers/contoso").0, 204);
    assert_eq!(delete("/providers/contoso").0, 404);
    let desk = desk.restart();
    assert_eq!(get(desk.site(), "/providers"), json!([]));
    assert_eq!(get(desk.site(), "/account-settings"), json!([]));
}

/// What is wrong is told field by field, and what the file has is the file's.
#[test]
fn forms_are_judged_and_the_file_is_read_only() {
    let sink = Sink::start();
    let site = Site::plain(&sink);
    site.extend(&["[provider.filed]\nkind = \"google\"\nclient_id = \"id\"\n".to_owned()]);
    let _relay = site.start();
    let put = |path: &str, form: Value| api(&site, "PUT", path, &form);
    let account = json!({"name": "new", "mailbox": "no address", "grant": "device_code"});
    let (status, told) = put(
        "/providers/contoso",
        json!({"kind": "google", "token_url": "http://example.com/t", "scop": "x", "account": account}),
    );
    assert_eq!(status, 422, "{told}");
    let fields = wrong_fields(&told);
    for key in ["client_id", "token_url", "scop", "account.mailbox"] {
        assert!(fields.contains(&key), "{key}: {told}");
    }
    let remedies = told["fields"].as_array().unwrap();
    assert!(
        remedies
            .iter()
            .all(|field| field["remedy"].as_str() != Some(""))
    );
    for (form, key) in [
        (json!({"kind": "google", "client_id": "x"}), "account"),
        (
            json!({"kind": "google", "client_id": "x", "client_secret": {"command": ["id"]}}),
            "client_secret",
        ),
        (
            json!({"kind": "google", "client_id": "x", "account": {"mailbox": "a@b.example"}}),
            "account.name",
        ),
    ] {
        let (status, told) = put("/providers/contoso", form);
        assert_eq!((status, wrong_fields(&told)), (422, vec![key]), "{told}");
    }
    let (status, told) = put(
        "/accounts/new",
        json!({"smtp": {"port": 70_000, "auth": "none"}}),
    );
    assert_eq!(
        (status, wrong_fields(&told)),
        (422, vec!["smtp.host", "smtp.port"]),
        "{told}"
    );

    for (method, path) in [
        ("PUT", "/providers/filed"),
        ("DELETE", "/providers/filed"),
        ("PUT", "/accounts/alerts"),
        ("DELETE", "/accounts/alerts"),
    ] {
        let (status, told) = api(&site, method, path, &json!({"kind": "google"}));
        assert_eq!(status, 409, "{method} {path}: {told}");
        assert!(
            told["remedy"].as_str().unwrap().contains("reload"),
            "{told}"
        );
    }
    assert_eq!(get(&site, "/providers/filed")["read_only"], true);
    let preset = get(&site, "/presets?kind=microsoft&tenant=contoso.com");
    let token_url = preset["token_url"].as_str().unwrap();
    assert!(token_url.contains("contoso.com"), "{preset}");
    let redirect = format!(
        "http://localhost:{}/authorization/smtp_oauth/",
        site.console.port()
    );
    assert_eq!(preset["redirect_url"], redirect);
}

/// What cannot be read is told with the field it is about, whichever part of a request it is in.
#[test]
fn a_request_that_is_not_understood_is_told_why() {
    let sink = Sink::start();
    let site = Site::plain(&sink);
    let _relay = site.start();
    for (path, status, said) in [
        (
            "/queue?limit=many",
            400,
            "the query is not understood: limit: ",
        ),
        (
            "/queue?colour=red",
            400,
            "the query is not understood: colour: unknown field",
        ),
        ("/queue/nothing", 404, "the address is not understood: "),
    ] {
        let (answered, told) = api(&site, "GET", path, &Value::Null);
        assert_eq!(answered, status, "{told}");
        assert!(told["detail"].as_str().unwrap().starts_with(said), "{told}");
        assert!(
            told["remedy"].as_str().unwrap().contains("openapi.json"),
            "{told}"
        );
    }
}

/// Each problem of a form stands at the field that mends it, and none hides another.
#[test]
fn a_form_is_told_where_it_is_to_be_mended() {
    let sink = Sink::start();
    let site = Site::plain(&sink);
    let _relay = site.start();
    let account =
        json!({"name": "new", "mailbox": "a@b.example", "smtp": {"host": "smtp.b.example"}});
    let custom = json!({
        "kind": "custom", "client_id": "x", "client_secret": "s", "account": account,
        "token_url": "https://id.b.example/token", "authorization_url": "https://id.b.example/ask",
    });
    let microsoft = json!({
        "kind": "microsoft", "client_id": "x", "client_secret": "s", "account": account,
    });
    let passed = changed(&microsoft, "client_secret_expires", "2020-05-31");
    let tenant = changed(&microsoft, "tenant", "bad tenant/..");
    let by_itself = json!({
        "name": "new", "mailbox": "a@b.example", "grant": "client_credentials",
    });
    for (path, form, wrong, said) in [
        (
            "/providers/contoso",
            without(&custom, "authorization_url"),
            &["authorization_url"][..],
            "needs the provider's authorization_url, or its issuer",
        ),
        (
            "/providers/contoso",
            changed(&microsoft, "account", by_itself),
            &["tenant"],
            "needs the provider's tenant: an application has no token of its own",
        ),
        (
            "/providers/contoso",
            passed,
            &["client_secret_expires"],
            "has passed",
        ),
        (
            "/providers/contoso",
            tenant.clone(),
            &["tenant"],
            "is not a tenant",
        ),
        (
            "/providers/not%20a%20name",
            changed(&tenant, "token_url", "login.example/token"),
            &["name", "tenant", "token_url"],
            "does not begin with https://",
        ),
    ] {
        let (status, told) = api(&site, "PUT", path, &form);
        let mut fields = wrong_fields(&told);
        fields.sort_unstable();
        assert_eq!((status, fields.as_slice()), (422, wrong), "{told}");
        assert!(told.to_string().contains(said), "{said}: {told}");
    }
}

/// A smarthost with a password needs nobody to sign in; what an operator stops, stays stopped.
#[test]
fn an_account_without_provider_is_made_stopped_and_released() {
    let sink = Sink::start();
    let site = Site::new("");
    let relay = site.start();
    let toml: Value = Figment::from(Toml::string(&sink.account("x")))
        .extract()
        .unwrap();
    let form = &toml["account"]["x"];
    let (status, saved) = api(&site, "PUT", "/accounts/plain", form);
    assert_eq!(status, 200, "{saved}");
    site.submit(&message("first", b"x\r\n"));
    site.wait_empty();

    let post = |path: &str| api(&site, "POST", path, &Value::Null).0;
    assert_eq!(post("/accounts/plain/hold"), 204);
    let held = site.wait_account("plain", "held");
    assert!(
        held["reason"].as_str().unwrap().contains("operator"),
        "{held}"
    );
    site.submit(&message("second", b"x\r\n"));
    // `retry` does not go over an operator's head.
    site.cli(&["queue", "retry", "--account", "plain"]);
    let (status, told) = api(&site, "DELETE", "/accounts/plain", &Value::Null);
    assert_eq!(status, 409, "{told}");
    drop(relay);
    let _relay = site.start();
    site.wait_account("plain", "held");
    assert_eq!(site.queue().len(), 1);
    assert_eq!(post("/accounts/plain/release"), 204);
    site.wait_empty();
    assert_eq!(site.account("plain")["state"], "ready");
}

#[test]
fn logins_keys_and_networks_are_made_and_told_once() {
    let sink = Sink::start();
    let site = Site::plain(&sink);
    let _relay = site.start();
    let post = |path: &str, form: Value| ask(&site, "POST", path, &form);
    let (status, made) = post("/logins", json!({"name": "scanner", "account": "alerts"}));
    assert_eq!(status, 201, "{made}");
    let password = made["password"].as_str().unwrap().to_owned();
    assert_eq!(password.len(), 20);
    assert_eq!(post("/logins", json!({"name": "scanner"})).0, 409);
    let (status, told) = post("/logins", json!({"name": "x", "account": "nobody"}));
    assert_eq!((status, wrong_fields(&told)), (422, vec!["account"]));
    let listed = get(&site, "/logins");
    assert_eq!(
        (&listed[0]["name"], &listed[0]["enabled"]),
        (&json!("scanner"), &json!(true))
    );
    assert_eq!(post("/logins/scanner/disable", Value::Null).0, 204);
    assert_eq!(get(&site, "/logins")[0]["enabled"], false);
    let (_, rotated) = post("/logins/scanner/rotate", Value::Null);
    assert_ne!(rotated["password"], made["password"]);
    assert_eq!(
        get(&site, "/logins")[0]["enabled"],
        false,
        "it stays as it was"
    );
    assert_eq!(post("/logins/scanner/enable", Value::Null).0, 204);

    let (status, made) = post("/keys", json!({"name": "prometheus"}));
    assert_eq!(status, 201, "{made}");
    let key = made["key"].as_str().unwrap().to_owned();
    let listed = get(&site, "/keys");
    assert_eq!(listed[0]["last_used_at"], Value::Null);
    let (status, told) = post("/keys", json!({"name": "no name"}));
    assert_eq!((status, wrong_fields(&told)), (422, vec!["name"]));
    for secret in [&password, &key] {
        is_nowhere(&site, secret);
        let listings = [get(&site, "/keys"), get(&site, "/logins")].map(|it| it.to_string());
        assert!(!listings.concat().contains(secret));
    }

    let (status, made) = post(
        "/allowed",
        json!({"network": "10.7.0.9", "note": "the scanner"}),
    );
    assert_eq!(
        (status, made["network"].as_str()),
        (201, Some("10.7.0.9/32")),
        "{made}"
    );
    for public in ["8.8.8.8", "0.0.0.0/0", "::/0"] {
        let (status, told) = post("/allowed", json!({"network": public}));
        assert_eq!(
            (status, wrong_fields(&told)),
            (422, vec!["network"]),
            "{told}"
        );
    }
    for path in [
        "/allowed/10.7.0.9%2F32",
        "/keys/prometheus",
        "/logins/scanner",
    ] {
        assert_eq!(api(&site, "DELETE", path, &Value::Null).0, 204, "{path}");
        assert_eq!(api(&site, "DELETE", path, &Value::Null).0, 404, "{path}");
    }
}

/// Of two changes at once, none undoes the other.
#[test]
fn two_changes_at_once_do_not_undo_each_other() {
    let sink = Sink::start();
    let site = Site::plain(&sink);
    let _relay = site.start();
    let post = |path: &str, form: Value| ask(&site, "POST", path, &form).0;
    let add = || post("/logins", json!({"name": "scanner"}));
    let mut made: Vec<u16> = thread::scope(|scope| {
        let makers: Vec<_> = (0..6).map(|_| scope.spawn(add)).collect();
        makers.into_iter().map(|it| it.join().unwrap()).collect()
    });
    made.sort_unstable();
    assert_eq!(made, [201, 409, 409, 409, 409, 409], "one password is good");
    // A new password takes its time; the login is locked meanwhile, and stays so.
    thread::scope(|scope| {
        let rotating = scope.spawn(|| post("/logins/scanner/rotate", Value::Null));
        assert_eq!(post("/logins/scanner/disable", Value::Null), 204);
        let rotated = rotating.join().unwrap();
        assert!([200, 409].contains(&rotated), "{rotated}");
    });
    assert_eq!(get(&site, "/logins")[0]["enabled"], false);
}

/// A sign-in takes minutes; what others have saved since is not written over by it.
#[test]
fn a_sign_in_does_not_undo_what_was_saved_meanwhile() {
    let desk = Desk::start();
    let site = desk.site();
    desk.saved(&desk.form());
    let form = without(&desk.provider, "client_secret");
    let scope = "smtp.send offline_access openid";
    let (id, url) = desk.save(&changed(&form, "scope", scope));
    let described = changed(&form, "description", "saved meanwhile");
    assert_eq!(api(site, "PUT", "/providers/contoso", &described).0, 200);
    assert_eq!(desk.consent(&url, MAILBOX, "allow"), 400);
    let outcome = desk.outcome(&id);
    let reason = outcome["reason"].as_str().unwrap();
    assert!(reason.contains("by somebody else"), "{reason}");
    let there = get(site, "/providers/contoso");
    assert_eq!(there["description"], "saved meanwhile");
    assert_ne!(there["scope"], scope);
    desk.mail("still-flows");
}

/// Tokens that others have are not shown to another server, whoever signs in there.
#[test]
fn a_provider_that_moves_takes_no_tokens_along() {
    let desk = Desk::start();
    let site = desk.site();
    desk.saved(&desk.form());
    let other = changed(&desk.account, "provider", "contoso");
    let (status, told) = api(site, "PUT", "/accounts/other", &other);
    assert_eq!(status, 200, "{told}");
    let (status, begun) = api(site, "POST", "/accounts/other/sign-in", &json!({}));
    assert_eq!(status, 200, "{begun}");
    let url = begun["url"].as_str().unwrap();
    assert_eq!(desk.consent(url, MAILBOX, "allow"), 200);
    site.wait_account("other", "ready");
    // The same server under another name, so that the sign-in there succeeds.
    let moved = format!("http://localhost:{}/token", desk.practice.http.port());
    let moved = changed(&desk.provider, "token_url", moved);
    // What is not taken signs nobody out.
    let own = changed(&desk.account, "provider", "contoso");
    let renamed = changed(&own, "mailbox", "renamed@example.test");
    let (_, url) = desk.save(&moved);
    assert_eq!(api(site, "PUT", "/accounts/alerts", &renamed).0, 200);
    assert_eq!(desk.consent(&url, MAILBOX, "allow"), 400);
    assert_eq!(site.account("other")["state"], "ready");
    assert_eq!(api(site, "PUT", "/accounts/alerts", &own).0, 200);

    desk.saved(&moved);
    assert_eq!(site.account("alerts")["state"], "ready");
    assert_eq!(site.account("other")["state"], "sign_in_needed");
}

/// The key of the file has changed: what a change then makes durable opens at the next start, and so
/// does everything else.
#[test]
fn a_change_is_sealed_with_the_key_of_the_next_start() {
    let sink = Sink::start();
    let site = Site::plain(&sink);
    let key = |octet: &str| format!("[store]\nkey = \"{}\"\n", octet.repeat(32));
    site.extend(&[key("0a")]);
    let relay = site.start();
    let account = json!({"mailbox": "a@example.test", "smtp": {
        "host": "127.0.0.1", "port": 9, "tls": "none", "auth": "password",
        "username": "relay", "password": "made-in-the-console"}});
    let (status, told) = api(&site, "PUT", "/accounts/made", &account);
    assert_eq!(status, 200, "{told}");
    let opens = || {
        let shown = get(&site, "/accounts/made");
        assert_eq!(shown["problems"], json!([]), "{shown}");
        assert_eq!(shown["smtp_password_set"], true, "{shown}");
    };
    site.edit(&key("0a"), &key("0b"));
    assert_eq!(ask(&site, "POST", "/logins", &json!({"name": "x"})).0, 201);
    drop(relay);
    let relay = site.start();
    opens();

    // A file that is not taken brings no key with it.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let listener = format!("[[listener]]\naddress = \"{address}\"\n");
    site.edit(&key("0b"), &format!("{}{listener}", key("0c")));
    assert!(!site.run(&["reload"]).status.success());
    site.edit(&format!("{}{listener}", key("0c")), &key("0b"));
    drop(relay);
    let _relay = site.start();
    opens();
}

/// A key of the name of one that is gone was never used; a network that is let in somewhere is not
/// moved from there.
#[test]
fn what_is_made_again_begins_anew() {
    let sink = Sink::start();
    let site = Site::plain(&sink);
    let relay = site.start();
    let post = |path: &str, form: Value| ask(&site, "POST", path, &form);
    let (_, made) = post("/keys", json!({"name": "prometheus"}));
    let key = made["key"].as_str().unwrap();
    let mut stream = TcpStream::connect(site.console).unwrap();
    write!(
        stream,
        "GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Authorization: Bearer {key}\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_ne!(get(&site, "/keys")[0]["last_used_at"], Value::Null);
    let (status, _) = api(&site, "DELETE", "/keys/prometheus", &Value::Null);
    assert_eq!(status, 204);
    assert_eq!(post("/keys", json!({"name": "prometheus"})).0, 201);
    assert_eq!(get(&site, "/keys")[0]["last_used_at"], Value::Null);

    let listener = site.smtp.to_string();
    let here = json!({"network": "::ffff:10.7.0.9", "listener": listener});
    let (status, made) = post("/allowed", here.clone());
    assert_eq!(
        (status, made["network"].as_str()),
        (201, Some("10.7.0.9/32")),
        "as the device comes"
    );
    assert_eq!(post("/allowed", here.clone()).0, 201, "the same again");
    let wide = json!({"network": "10.7.0.9"});
    assert_eq!(post("/allowed", wide).0, 201, "wider");
    let (status, told) = post("/allowed", here);
    assert_eq!(status, 409, "narrower: {told}");
    drop(relay);
}

/// The file changes under what was made: the daemon starts, mail waits, and mending it is enough.
#[test]
fn what_no_longer_passes_is_left_out_until_it_is_mended() {
    let sink = Sink::start();
    let site = Site::new(&sink.account("other"));
    let toml: Value = Figment::from(Toml::string(&sink.account("x")))
        .extract()
        .unwrap();
    let form = changed(&toml["account"]["x"], "fallback", "other");
    let tables = "default_account = \"made\"\n";
    let relay = site.start();
    let (status, saved) = api(&site, "PUT", "/accounts/made", &form);
    assert_eq!(status, 200, "{saved}");
    drop(relay);
    site.edit("[account.other", "[account.renamed");
    site.edit("\nhostname = ", &format!("\n{tables}hostname = "));
    let _relay = site.start();
    let settings = get(&site, "/account-settings");
    let made = settings
        .as_array()
        .unwrap()
        .iter()
        .find(|it| it["name"] == "made");
    assert_eq!(made.unwrap()["problems"][0]["key"], "account.made.fallback");
    site.submit(&message("waits", b"x\r\n"));
    assert_eq!(site.queue().len(), 1);
    site.log_with("account made was made in the console and is left out");
    let (status, saved) = api(&site, "PUT", "/accounts/made", &without(&form, "fallback"));
    assert_eq!(status, 200, "{saved}");
    eventually("the message goes out", || {
        site.queue().is_empty().then_some(())
    });
}
