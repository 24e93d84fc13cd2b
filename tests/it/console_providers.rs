//! Provider profiles on the console's pages: the form, the sign-in it leads to, and that whatever goes
//! wrong leaves what was before.

use serde_json::{Value, json};

use crate::{
    made::{Desk, api},
    support::{
        browser::{Answer, Browser},
        relay::Site,
        sink::Sink,
    },
};

/// The text of a value of the practice provider's configuration.
fn text(value: &Value) -> String {
    let text = value.as_str().map(str::to_owned);
    text.unwrap_or_else(|| value.to_string())
}

/// What a person fills in for the practice provider, with an account that needs nobody to sign in.
fn filled(desk: &Desk) -> Vec<(String, String)> {
    let mut fields = vec![("kind".to_owned(), "custom".to_owned())];
    let mut add = |name: &str, value: &str| fields.push((name.to_owned(), value.to_owned()));
    add("name", "contoso");
    add("account.name", "alerts");
    for key in [
        "client_id",
        "client_secret",
        "client_authentication",
        "issuer",
        "redirect_url",
        "scope",
    ] {
        add(key, &text(&desk.provider[key]));
    }
    add("account.mailbox", &text(&desk.account["mailbox"]));
    add("account.grant", "client_credentials");
    for key in ["host", "port", "ca_file"] {
        let value = text(&desk.account["smtp"][key]);
        add(&format!("account.smtp.{key}"), &value);
    }
    fields
}

/// The same with another value.
fn with(fields: &[(String, String)], name: &str, value: &str) -> Vec<(String, String)> {
    let others = fields.iter().filter(|(given, _)| given != name);
    let mut fields: Vec<_> = others.cloned().collect();
    fields.push((name.to_owned(), value.to_owned()));
    fields
}

/// A person at the console; everything the pages say is searched for secrets.
struct Person<'a> {
    site: &'a Site,
    browser: Browser,
}

impl<'a> Person<'a> {
    fn at(site: &'a Site) -> Self {
        let browser = Browser::logged_in(site);
        Self { site, browser }
    }

    fn page(&self, path: &str) -> String {
        let answer = self.browser.get(path);
        self.site.transcript.add(&answer.body);
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        answer.body
    }

    fn send(&self, path: &str, fields: &[(String, String)]) -> Answer {
        let fields = fields.iter();
        let fields: Vec<(&str, &str)> = fields.map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let answer = self.browser.submit("/providers/new", path, &fields);
        self.site.transcript.add(&answer.body);
        answer
    }

    /// Sends a form that leads to a sign-in; its id.
    fn begins(&self, path: &str, fields: &[(String, String)]) -> String {
        let answer = self.send(path, fields);
        assert_eq!(answer.status, 303, "{}", answer.body);
        let location = answer.field("location").unwrap();
        let id = location.strip_prefix("/sign-ins/");
        id.unwrap_or_else(|| panic!("{location}")).to_owned()
    }
}

/// Nothing of a profile is there before its sign-in has succeeded; then all of it is.
#[test]
fn a_provider_is_added_by_a_form_and_a_sign_in() {
    let desk = Desk::start();
    let person = Person::at(desk.site());
    let form = filled(&desk);
    assert!(person.page("/").contains("href=\"/providers/new\""));
    assert!(person.page("/providers").contains("There is none yet"));
    let guide = person.page("/providers/new?kind=custom");
    let redirect = format!(
        "http://localhost:{}/authorization/smtp_oauth/",
        desk.site().console.port()
    );
    assert!(guide.contains("At another provider"), "{guide}");
    assert!(
        guide.contains(&format!("<code id=\"copy-redirect\">{redirect}</code>")),
        "{guide}"
    );

    // The provider says no; the person says no.
    let wrong = with(&form, "client_secret", "not-the-right-one");
    let id = person.begins("/providers/new", &wrong);
    assert_eq!(desk.outcome(&id)["state"], "refused");
    assert!(person.page("/providers").contains("There is none yet"));
    // One mistake does not cost the whole form, and what was secret is not in it.
    let refused = person.page(&format!("/sign-ins/{id}"));
    let again = format!("/providers/new?again={id}");
    assert!(refused.contains(&format!("href=\"{again}\"")), "{refused}");
    let typed = person.page(&again);
    assert!(typed.contains("Profile at a custom provider"), "{typed}");
    for (name, value) in &wrong {
        let is_there = typed.contains(&format!("value=\"{value}\""));
        assert_eq!(is_there, name != "client_secret", "{name}: {typed}");
    }
    let by_browser = with(&form, "account.grant", "");
    let id = person.begins("/providers/new", &by_browser);
    assert_eq!(
        api(desk.site(), "GET", &format!("/sign-ins/{id}"), &Value::Null).1["state"],
        "pending"
    );
    let path = format!("/sign-ins/{id}");
    assert_eq!(api(desk.site(), "DELETE", &path, &Value::Null).0, 204);
    assert!(person.page("/providers").contains("There is none yet"));

    let id = person.begins("/providers/new", &form);
    assert_eq!(desk.outcome(&id)["state"], "signed_in");
    let list = person.page("/providers");
    for wanted in ["href=\"/providers/contoso\"", "in force", "alerts"] {
        assert!(list.contains(wanted), "{wanted}: {list}");
    }
    desk.mail("made-by-a-form");
}

/// A change is in force when somebody has signed in with it; words for people are at once.
#[test]
fn a_change_that_fails_leaves_the_provider_and_it_is_removed_when_asked() {
    let desk = Desk::start();
    let person = Person::at(desk.site());
    let form = filled(&desk);
    let id = person.begins("/providers/new", &form);
    assert_eq!(desk.outcome(&id)["state"], "signed_in");

    let page = person.page("/providers/contoso");
    let client_id = text(&desk.provider["client_id"]);
    assert!(page.contains(&format!("value=\"{client_id}\"")), "{page}");
    assert!(page.contains("One is set; it is never shown."), "{page}");

    let kept = with(&form, "client_secret", "");
    let described = with(&kept, "description", "for the alarms");
    let answer = person.send("/providers/contoso", &described);
    assert_eq!(answer.field("location"), Some("/providers"), "{answer:?}");
    let list = person.page("/providers");
    assert!(list.contains("is saved and in force"), "{list}");
    assert!(list.contains("for the alarms"), "{list}");

    let before = api(desk.site(), "GET", "/providers/contoso", &Value::Null).1;
    let wrong = with(&described, "client_secret", "not-the-right-one");
    let id = person.begins("/providers/contoso", &wrong);
    assert_eq!(desk.outcome(&id)["state"], "refused");
    assert_eq!(
        api(desk.site(), "GET", "/providers/contoso", &Value::Null).1,
        before
    );
    desk.mail("the-old-one");
    let again = format!("/providers/contoso?again={id}");
    let refused = person.page(&format!("/sign-ins/{id}"));
    assert!(refused.contains(&format!("href=\"{again}\"")), "{refused}");
    assert!(person.page(&again).contains("for the alarms"));

    // The secret does not go where somebody else wants it.
    let elsewhere = with(&described, "issuer", "http://127.0.0.1:9");
    let answer = person.send("/providers/contoso", &elsewhere);
    assert_eq!(answer.status, 422);
    assert!(answer.body.contains("client_secret-error"), "{answer:?}");

    let answer = person.send("/providers/contoso/remove", &[]);
    assert_eq!(answer.field("location"), Some("/providers/contoso"));
    assert!(
        person
            .page("/providers/contoso")
            .contains("accounts use this provider: alerts")
    );
    assert_eq!(
        api(desk.site(), "DELETE", "/accounts/alerts", &Value::Null).0,
        204
    );
    let asked = person.send("/providers/contoso/remove", &[]);
    assert!(asked.body.contains("Remove provider contoso?"), "{asked:?}");
    assert!(person.page("/providers").contains("/providers/contoso"));
    let yes = [("confirmed".to_owned(), "yes".to_owned())];
    let gone = person.send("/providers/contoso/remove", &yes);
    assert_eq!(gone.field("location"), Some("/providers"));
    assert!(person.page("/providers").contains("There is none yet"));
    assert_eq!(person.browser.get("/providers/contoso").status, 404);
}

/// 422, what is wrong beside its field, what was typed stays; a secret does not.
#[test]
fn what_is_wrong_stands_beside_its_field() {
    let sink = Sink::start();
    let site = Site::plain(&sink);
    let filed = "[provider.filed]\nkind = \"google\"\nclient_id = \"filed-id\"\nclient_secret = \"filed-secret\"\n";
    site.extend(&[filed.to_owned()]);
    let _relay = site.start();
    let person = Person::at(&site);
    let fields = [
        ("kind", "microsoft"),
        ("name", "contoso"),
        ("client_secret", "typed-canary"),
        ("token_url", "http://example.com/\"><script>"),
        ("account.name", "new"),
        ("account.mailbox", "no address"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()));
    let answer = person.send("/providers/new", &fields);
    let page = answer.body;
    assert_eq!(answer.status, 422, "{page}");
    for wanted in [
        "id=\"client_id-error\"",
        "id=\"token_url-error\"",
        "id=\"account.mailbox-error\"",
        "href=\"#client_id\"",
        "value=\"contoso\"",
        "value=\"no address\"",
        "role=\"alert\"",
        "In Microsoft Azure",
    ] {
        assert!(page.contains(wanted), "{wanted}: {page}");
    }
    assert!(!page.contains("\"><script>"), "{page}");
    for (name, said) in [
        ("", "Name: is needed"),
        ("filed", "Name: is another profile"),
        ("a b", "Name: this name cannot be used"),
    ] {
        let answer = person.send("/providers/new", &with(&fields, "name", name));
        assert_eq!(answer.status, 422);
        assert!(answer.body.contains("id=\"name-error\""), "{answer:?}");
        assert!(answer.body.contains(said), "{said}: {answer:?}");
    }

    // The file's is shown and not changed.
    let page = person.page("/providers/filed");
    assert!(page.contains("read-only here"), "{page}");
    assert!(page.contains("filed-id") && page.contains("https://oauth2.googleapis.com/token"));
    assert!(!page.contains("<form id=\"provider\""), "{page}");
    for path in ["/providers/filed", "/providers/filed/remove"] {
        let answer = person.send(path, &fields);
        assert_eq!(
            answer.field("location"),
            Some("/providers/filed"),
            "{answer:?}"
        );
        let told = person.page("/providers/filed");
        assert!(told.contains("role=\"alert\""), "{told}");
    }
    let shown = api(&site, "GET", "/providers/filed", &Value::Null).1;
    assert_eq!(shown["client_id"], json!("filed-id"));
}

/// Without script a link chooses the guide; what is to be copied is on the page.
#[test]
fn the_guide_goes_with_the_kind() {
    let sink = Sink::start();
    let site = Site::plain(&sink);
    let _relay = site.start();
    let person = Person::at(&site);
    for (query, wanted, scope) in [
        (
            "",
            "Grant admin consent",
            "https://outlook.office.com/SMTP.Send",
        ),
        (
            "?kind=microsoft",
            "<b>SMTP.Send</b> and <b>Mail.Send</b>",
            "https://graph.microsoft.com/Mail.Send",
        ),
        (
            "?kind=google",
            "In Google Cloud",
            "https://mail.google.com/",
        ),
        ("?kind=%3Cscript%3E", "App registrations", "offline_access"),
    ] {
        let page = person.page(&format!("/providers/new{query}"));
        assert!(page.contains(wanted), "{query}: {page}");
        assert!(page.contains(scope), "{query}: {page}");
        assert!(page.contains("aria-current=\"true\""), "{query}: {page}");
        assert!(page.contains("data-copy=\"copy-redirect\""), "{query}");
    }
}
