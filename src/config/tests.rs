//! Tests of the whole: texts in, configurations and problems out.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use super::*;
use crate::admin::api::SettingSource;
use crate::{
    delivery::{Auth, Tls, Transport},
    mail::AccountName,
    oauth::{ClientAuthentication, Grant, Key, Kind, Service},
    submission::Contract,
};

const REFERENCE: &str = include_str!("../../config/gatepost.toml");
const MANUAL: &str = include_str!("../../docs/configuration.md");

/// What a key-less account needs, for tests of something else.
const SMARTHOST: &str = "[account.a.smtp]\nhost = \"mail.example\"\nauth = \"none\"\n";

fn variables(pairs: &[(&str, &str)]) -> Variables {
    let pairs = [("STATE_DIRECTORY", "/state")].iter().chain(pairs);
    pairs
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

fn load_in(text: &str, environment: &[(&str, &str)]) -> Result<Config, Problems> {
    let sources = Sources {
        file: None,
        text: Some(text.to_owned()),
        environment: true,
    };
    Config::load_with(&sources, &variables(environment))
}

fn load(text: &str) -> Config {
    load_in(text, &[]).unwrap_or_else(|problems| panic!("{text}\n{problems}"))
}

fn problems(text: &str) -> String {
    load_in(text, &[])
        .map(|_| String::new())
        .unwrap_or_else(|p| p.to_string())
}

#[test]
fn without_anything_it_listens_on_loopback_and_keeps_state_where_systemd_says() {
    let sources = Sources::default();
    let config = Config::load_with(&sources, &variables(&[])).unwrap();
    assert_eq!(config.listeners.len(), 1);
    assert_eq!(config.listeners[0].name, "127.0.0.1:2525");
    assert_eq!(config.listeners[0].max_message_size, 36_700_160);
    assert_eq!(config.admin.address, "127.0.0.1:8025".parse().ok());
    assert_eq!(config.admin.socket, PathBuf::from("/state/control.sock"));
    assert_eq!(config.store.state_dir, PathBuf::from("/state"));
    assert_eq!(config.oauth.key, Key::File("/state/token.key".into()));
    assert_eq!(config.queue.retry, queue::retry::Policy::default());
    assert!(!config.delivery.hostname.is_empty());
}

/// Where state is, by what the process is told.
#[test]
fn state_is_where_the_environment_says_and_the_file_wins() {
    for (pairs, text, want) in [
        (vec![("STATE_DIRECTORY", "/s:/t")], "", "/s"),
        (vec![("XDG_STATE_HOME", "/x")], "", "/x/gatepost"),
        (
            vec![("XDG_STATE_HOME", "x"), ("HOME", "/h")],
            "",
            "/h/.local/state/gatepost",
        ),
        (vec![("HOME", "/h")], "state_dir = \"/f\"", "/f"),
    ] {
        let variables = pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        let sources = Sources {
            text: Some(text.to_owned()),
            ..Sources::default()
        };
        let config = Config::load_with(&sources, &variables).unwrap();
        assert_eq!(config.store.state_dir, PathBuf::from(want), "{pairs:?}");
    }
    let told = Config::load_with(&Sources::default(), &Variables::new()).unwrap_err();
    assert_eq!(
        told.to_string(),
        "state_dir = (not set): is needed: neither $STATE_DIRECTORY nor $HOME is set; name a folder, as \"/var/lib/gatepost\""
    );
}

/// The environment wins over the file, and what looks like a number stays the text that it is.
#[test]
fn variables_win_over_the_file_and_are_text() {
    let text = "[provider.p]\nkind = \"microsoft\"\nclient_id = \"x\"\n\
                [account.a]\nprovider = \"p\"\nmailbox = \"a@b.example\"\n\
                [queue]\nretry_first = \"5m\"\n";
    let config = load_in(
        text,
        &[
            ("GATEPOST_QUEUE__RETRY_FIRST", "2m"),
            ("GATEPOST_PROVIDER__P__CLIENT_ID", "12345"),
            ("GATEPOST_PROVIDER__P__CLIENT_SECRET", "67890"),
            ("GATEPOST_ACCOUNT__A__LIMITS__CONNECTIONS", "1"),
            ("GATEPOST_LOG__ADDRESSES", "true"),
        ],
    )
    .unwrap();
    assert_eq!(config.queue.retry.first, Duration::from_secs(120));
    assert_eq!(config.oauth.providers["p"].client_id, "12345");
    let secret = config.oauth.providers["p"].client_secret.as_ref().unwrap();
    assert_eq!(secret.expose(), "67890");
    assert_eq!(config.delivery.accounts[0].limits.connections, 1);
    assert!(config.log.addresses);
    // A secret named by a variable of any name, and one in a file named by a variable.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    fs::write(&path, "filed\n").unwrap();
    let named = [(
        "GATEPOST_PROVIDER__P__CLIENT_SECRET__FILE",
        path.to_str().unwrap(),
    )];
    let config = load_in(text, &named).unwrap();
    assert_eq!(
        config.oauth.providers["p"]
            .client_secret
            .as_ref()
            .unwrap()
            .expose(),
        "filed"
    );
}

#[test]
fn variables_that_are_wrong_say_where_they_come_from() {
    let told = load_in(
        "",
        &[
            ("GATEPOST_QUEUE__RETRY_FIRST", "soon"),
            ("GATEPOST_QUEUE_RETRY_MAX", "1h"),
            ("GATEPOST_LISTENER__0__ADDRESS", "127.0.0.1:25"),
            ("GATEPOST_LOG__ADRESSES", "true"),
        ],
    )
    .unwrap_err()
    .to_string();
    let want = "\
listener = (not shown): a list of sections cannot be set in the environment; use the file
log.adresses = (not shown): unknown key, set in the environment; did you mean addresses?
queue.retry_first = \"soon\" from the environment: is not a duration; write a number and its unit (ms, s, m, h, d): \"90s\", \"1h30m\"
queue_retry_max = (not shown): unknown key, set in the environment; from the environment, write GATEPOST_QUEUE__RETRY_MAX (two underscores after a section)";
    let mut lines: Vec<&str> = told.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines.join("\n"), want);
}

/// Each text with every line that it must be answered with: the messages are what an operator has.
#[test]
fn every_problem_is_told_with_key_value_and_remedy() {
    let expected = include_str!("tests/problems.txt");
    let mut told = String::new();
    for case in expected.split("=== ").skip(1) {
        let (title, rest) = case.split_once('\n').unwrap();
        let (text, _) = rest.split_once("\n---").unwrap();
        told.push_str(&format!("=== {title}\n{text}\n---\n{}\n\n", problems(text)));
    }
    if told != expected {
        let new = std::env::temp_dir().join("gatepost-problems.txt");
        fs::write(&new, &told).unwrap();
        panic!(
            "problems have changed; if meant, copy {} to src/config/tests/problems.txt",
            new.display()
        );
    }
}

/// Not one octet of a secret in a problem, however wrong the place it stands in.
#[test]
fn no_problem_shows_a_secret() {
    for text in [
        "[provider.p]\nclient_secrte = \"canary\"",
        "[provider.p]\nkind = 1\nclient_secret = [\"canary\"]",
        "[provider.p]\nclient_secret = { fiel = \"canary\" }",
        "[provider]\np = \"canary\"",
        "[provider.p]\nproxy = \"socks5://u:canary@proxy.example\"",
        "[provider.p]\nproxy = \"http://u:canary@proxy.example/x\"",
        "[store]\nkey = 1\nurl = \"postgres://user:canary@host/db\"",
        "[store]\nurl = \"mysql://user:canary@host/db\"",
        "[notify]\nwebhook = \"http://hooks.example/canary\"",
        "[notify]\nwebhook = \"https://u:canary@hooks.example/\"",
        "[notify]\nwebhook = [\"https://hooks.example/canary\"]",
        "[provider.p]\ntoken_url = \"https://u:canary@id.example/token\"",
        "[provider.p]\ntoken_url = \"https://u:canary@id.example/@\"",
        "[notify]\ncommand = [\"\", \"canary\"]",
        "[console]\npassword_hash = \"canary\"",
        "[[client]]\nname = \"x\"\npassword_hash = \"canary\"",
        "account = \"canary\"",
        "[account.a.smtp]\nauth = \"none\"\npassword = \"canary\"",
        "[provider.p]\nclient_secret = \"canary",
        "[provider.p]\nclient_secret = \"canary\" oops",
        "[store]\nkey = \"canary\"\nkey = \"canary\"",
    ] {
        let told = problems(text);
        assert!(!told.is_empty(), "{text}");
        assert!(!told.contains("canary"), "{text}\n{told}");
    }
}

/// A notice's command may call `gatepost`, which then finds the notice in its environment.
#[test]
fn notices_are_configured_and_their_variables_are_no_keys() {
    let text = "[account.a]\nmailbox = \"a@b.example\"\nsmtp.host = \"h\"\nsmtp.auth = \"none\"\n\
                [notify]\nwebhook = { env = \"HOOK\" }\ncommand = [\"tell\"]\n\
                account = \"a\"\nto = \"ops@b.example\"\n";
    let environment = [
        ("GATEPOST_NOTICE_KIND", "account_held"),
        ("HOOK", "https://hooks.example/canary"),
    ];
    let config = load_in(text, &environment).unwrap();
    let command = config.settings.iter().find(|it| it.key == "notify.command");
    assert_eq!(command.unwrap().value, "set", "an argument may be a secret");
    let notify = config.notify;
    assert!(notify.webhook.is_some() && notify.command == ["tell"]);
    let mail = notify.mail.unwrap();
    assert_eq!(
        (mail.account.as_str(), mail.to.as_str()),
        ("a", "ops@b.example")
    );
    assert!(!notify.addresses, "as the log");
}

/// A folder with an RSA key and Google's key file around it.
fn key_files() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let key = include_str!("../oauth/tests/rfc7515_a2.pem");
    let json = serde_json::json!({
        "type": "service_account", "client_email": "a@p.iam.gserviceaccount.com", "private_key": key,
    });
    fs::write(folder.path().join("key.pem"), key).unwrap();
    fs::write(folder.path().join("sa.json"), json.to_string()).unwrap();
    folder
}

/// The grants without a person, each with the least it needs.
#[test]
fn every_grant_without_a_person_is_configured() {
    let files = key_files();
    let folder = files.path().display();
    let azure = [
        ("AZURE_CLIENT_ID", "id-1"),
        ("AZURE_TENANT_ID", "t-1"),
        ("AZURE_AUTHORITY_HOST", "https://login.microsoftonline.us/"),
        ("AZURE_FEDERATED_TOKEN_FILE", "/var/run/token"),
    ];
    let load = |grant: &str, provider: &str, environment: &[(&str, &str)]| {
        let text = format!(
            "[provider.p]\n{provider}\n[account.a]\nprovider = \"p\"\nmailbox = \"a@b.example\"\n\
             grant = \"{grant}\"\n"
        );
        let config = load_in(&text, environment).unwrap_or_else(|p| panic!("{text}\n{p}"));
        let scope = &config.oauth.accounts[&AccountName::new("a")].services[&Service::Smtp];
        (config.oauth.providers["p"].clone(), scope.clone())
    };
    let key = format!(
        "kind = \"microsoft\"\ntenant = \"t.example\"\nclient_id = \"x\"\nclient_key_file = \"{folder}/key.pem\""
    );
    let (provider, scope) = load("client_credentials", &key, &[]);
    assert_eq!(
        provider.client_authentication,
        ClientAuthentication::PrivateKeyJwt
    );
    assert_eq!(scope, "https://outlook.office365.com/.default");

    let account = format!("kind = \"google\"\nservice_account_file = \"{folder}/sa.json\"");
    let (provider, scope) = load("service_account", &account, &[]);
    assert!(provider.service_account.is_some());
    assert_eq!(scope, "https://mail.google.com/");

    let (provider, scope) = load("workload_identity", "kind = \"microsoft\"", &azure);
    assert_eq!(provider.client_id, "id-1");
    assert_eq!(
        provider.token_url.unwrap().as_str(),
        "https://login.microsoftonline.us/t-1/oauth2/v2.0/token"
    );
    assert_eq!(
        provider.federated_token_file,
        Some(PathBuf::from("/var/run/token"))
    );
    assert_eq!(scope, "https://outlook.office365.us/.default");

    let (provider, _) = load("managed_identity", "kind = \"microsoft\"", &[]);
    let identity = provider.managed_identity.unwrap();
    assert_eq!(
        identity.url.as_str(),
        "http://169.254.169.254/metadata/identity/oauth2/token"
    );
    let service = [
        ("IDENTITY_ENDPOINT", "http://127.0.0.1:41741/msi/token"),
        ("IDENTITY_HEADER", "canary"),
    ];
    let (provider, _) = load(
        "managed_identity",
        "kind = \"microsoft\"\nclient_id = \"u\"",
        &service,
    );
    let identity = provider.managed_identity.unwrap();
    assert_eq!(identity.url.port(), Some(41_741));
    assert_eq!(identity.client_id.as_deref(), Some("u"));
    assert!(identity.header.is_some());
}

/// What such a grant lacks is told at its account or at the key that is wrong.
#[test]
fn what_a_grant_without_a_person_lacks_is_told() {
    let files = key_files();
    let folder = files.path().display();
    let told = |grant: &str, provider: &str| {
        problems(&format!(
            "[provider.p]\n{provider}\n[account.a]\nprovider = \"p\"\nmailbox = \"a@b.example\"\n\
             grant = \"{grant}\"\n"
        ))
    };
    let microsoft = "kind = \"microsoft\"\ntenant = \"t.example\"\nclient_id = \"x\"\n";
    for (grant, provider, said) in [
        (
            "client_credentials",
            microsoft.to_owned(),
            "needs the provider's client_secret or",
        ),
        (
            "workload_identity",
            microsoft.to_owned(),
            "needs the provider's federated_token_file",
        ),
        ("service_account", microsoft.to_owned(), "is Google's alone"),
        (
            "service_account",
            "kind = \"google\"".to_owned(),
            "needs the provider's service_account_file",
        ),
        (
            "managed_identity",
            "kind = \"google\"".to_owned(),
            "is Azure's alone",
        ),
        (
            "client_credentials",
            format!("{microsoft}client_key_file = \"{folder}/sa.json\""),
            "provider.p.client_key_file",
        ),
        (
            "client_credentials",
            format!("{microsoft}client_key_file = \"{folder}/key.pem\"\nclient_secret = \"s\""),
            "both a client_secret and a key",
        ),
        (
            "service_account",
            format!("kind = \"google\"\nservice_account_file = \"{folder}/key.pem\""),
            "is not a JSON key file",
        ),
        (
            "client_credentials",
            format!("{microsoft}client_authentication = \"private_key_jwt\""),
            "needs a key",
        ),
    ] {
        let told = told(grant, &provider);
        assert!(told.contains(said), "{provider}\n{told}");
        assert!(!told.contains("MII"), "{told}");
    }
}

/// An https redirect address on this machine, as an appliance's guide has it, and what it needs.
#[test]
fn an_https_redirect_wants_a_certificate_that_works() {
    let files = key_files();
    let folder = files.path().display();
    let made = rcgen::generate_simple_self_signed(["10.16.13.2".to_owned()]).unwrap();
    fs::write(files.path().join("cert.pem"), made.cert.pem()).unwrap();
    fs::write(
        files.path().join("own.pem"),
        made.signing_key.serialize_pem(),
    )
    .unwrap();
    let text = |console: &str, redirect: &str| {
        format!(
            "[console]\naddress = \"0.0.0.0:9443\"\n{console}\n[provider.p]\nkind = \"microsoft\"\n\
             client_id = \"x\"\n{redirect}"
        )
    };
    let seed = "redirect_url = \"https://10.16.13.2:9443/authorization/smtp_oauth/\"";
    let good = format!("certificate_file = \"{folder}/cert.pem\"\nkey_file = \"{folder}/own.pem\"");
    let config = load(&text(&good, seed));
    assert!(config.admin.certificate.is_some());
    assert_eq!(
        config.oauth.providers["p"].redirect_url.as_str(),
        "https://10.16.13.2:9443/authorization/smtp_oauth/"
    );
    let told = |config: &Config| config.warnings.join("\n");
    assert!(!told(&config).contains("redirect_url"), "{}", told(&config));
    let config = load(&text("", seed));
    assert!(
        told(&config).contains("the console has no certificate"),
        "{}",
        told(&config)
    );
    let config = load(&text(
        &format!("{good}\npublic_url = \"https://relay.example.com/\""),
        "",
    ));
    assert_eq!(
        config.oauth.providers["p"].redirect_url.as_str(),
        "https://relay.example.com/authorization/smtp_oauth/"
    );
    for (console, redirect, said) in [
        (
            format!("certificate_file = \"{folder}/cert.pem\""),
            seed,
            "console.key_file = (not set): is needed",
        ),
        (
            format!("certificate_file = \"{folder}/cert.pem\"\nkey_file = \"{folder}/key.pem\""),
            seed,
            "does not work with its key",
        ),
        (
            good.clone(),
            "",
            "provider.p.redirect_url = (not set): is needed",
        ),
        (
            good.clone(),
            "redirect_url = \"http://localhost:9443/authorization/smtp_oauth/\"",
            "is http, and the console has a certificate",
        ),
    ] {
        let told = problems(&text(&console, redirect));
        assert!(told.contains(said), "{told}");
    }
}

/// A proxy is a secret source, because a password may stand in it.
#[test]
fn a_proxy_is_taken_from_where_secrets_come_from() {
    let text =
        "[provider.p]\nkind = \"google\"\nclient_id = \"x\"\nproxy = { env = \"HTTPS_PROXY\" }\n";
    let config = load_in(text, &[("HTTPS_PROXY", "http://me:canary@proxy:3128")]).unwrap();
    assert!(config.oauth.providers["p"].proxy.is_some());
    let warned = config.warnings.join("\n");
    assert!(
        warned.contains("in clear") && !warned.contains("canary"),
        "{warned}"
    );
    // Without its scheme, as some write it; without a login nothing of it is secret.
    let config = load_in(text, &[("HTTPS_PROXY", "proxy:3128")]).unwrap();
    assert!(config.oauth.providers["p"].proxy.is_some());
    assert!(!config.warnings.join("\n").contains("in clear"));
    let wrong = load_in(text, &[("HTTPS_PROXY", "socks5://me:canary@proxy:1080")]).unwrap_err();
    let wrong = wrong.to_string();
    assert!(
        wrong.contains("is a SOCKS proxy, which is not spoken") && !wrong.contains("canary"),
        "{wrong}"
    );
}

/// A rule that could never apply, and a fallback that is not there.
#[test]
fn a_sender_rule_and_a_fallback_are_checked() {
    let account =
        "[account.a]\nmailbox = \"a@b.example\"\nsmtp.auth = \"none\"\nsmtp.host = \"h\"\n";
    for (text, told) in [
        (
            "fallback = \"a\"",
            "account.a.fallback = \"a\": there is no other account of this name",
        ),
        (
            "fallback = \"b\"",
            "account.a.fallback = \"b\": there is no other account of this name",
        ),
        (
            "sender.display_name = \"X\"",
            "account.a.sender.display_name = \"X\": means nothing",
        ),
        (
            "sender.keep = [\"*\"]\nsender.rewrite = \"boht\"",
            "did you mean \"both\"?",
        ),
    ] {
        let problems = problems(&format!("{account}{text}"));
        assert!(problems.contains(told), "{problems}");
    }
}

/// What is not built is refused in so many words, never taken and ignored.
#[test]
fn values_of_later_versions_are_refused() {
    let problems = problems("[store]\nurl = \"postgres://db\"");
    assert!(problems.contains("not in this version yet; "), "{problems}");
}

#[test]
fn a_listener_promises_what_its_contract_says() {
    let listener = |text: &str| {
        let text = format!("[[listener]]\naddress = \"127.0.0.1:0\"\n{text}");
        load(&text).listeners[0].clone()
    };
    let wait = |text: &str| listener(&format!("delivery = \"hybrid\"\n{text}")).delivery;
    let hybrid = |secs| Contract::Hybrid {
        wait: Duration::from_secs(secs),
    };
    assert_eq!(listener("").delivery, Contract::Queue);
    assert_eq!(listener("delivery = \"direct\"").delivery, Contract::Direct);
    let width = |contract: &str| {
        let account = format!("{SMARTHOST}[account.a.limits]\nrecipients_per_message = 7\n");
        let account = format!("{account}[[listener]]\naddress = \"127.0.0.1:0\"\n");
        load(&format!("{account}delivery = \"{contract}\"")).listeners[0].max_recipients
    };
    assert_eq!(width("direct"), 7, "one transaction has them all");
    assert_eq!(width("hybrid"), 500);
    assert_eq!(wait(""), hybrid(8));
    assert_eq!(wait("hybrid_wait = \"20s\""), hybrid(20));
    let proxied = listener("proxy_protocol_from = [\"10.0.0.4/32\"]\nallow = [\"10.0.0.0/8\"]");
    assert_eq!(
        proxied.proxy_protocol_from,
        ["10.0.0.4/32".parse().unwrap()]
    );
}

#[test]
fn a_profile_is_filled_from_its_preset() {
    let config = load(
        "[provider.m]\nkind = \"microsoft\"\nclient_id = \"x\"\nclient_secret = \"s\"\n\
         scope = \"offline_access https://graph.microsoft.com/.default\"\n\
         [account.a]\nprovider = \"m\"\nmailbox = \"a@b.example\"\n\
         [console]\naddress = \"127.0.0.1:9000\"\n",
    );
    let provider = &config.oauth.providers["m"];
    assert_eq!(provider.kind, Kind::Microsoft);
    assert_eq!(provider.client_authentication, ClientAuthentication::Post);
    assert_eq!(
        provider.token_url.as_ref().unwrap().as_str(),
        "https://login.microsoftonline.com/common/oauth2/v2.0/token"
    );
    assert_eq!(
        provider.redirect_url.as_str(),
        "http://localhost:9000/authorization/smtp_oauth/"
    );
    assert_eq!(
        config.oauth.accounts[&AccountName::new("a")].services[&Service::Smtp],
        "offline_access https://outlook.office.com/SMTP.Send"
    );
    let account = &config.delivery.accounts[0];
    assert_eq!(
        (account.smtp.host.as_str(), account.smtp.port),
        ("smtp.office365.com", 587)
    );
    assert_eq!(
        account.smtp.auth,
        Auth::Xoauth2 {
            username: "a@b.example".into()
        }
    );
    assert_eq!(account.limits.messages_per_minute, Some(27));
    assert_eq!(
        config.oauth.accounts.values().next().unwrap().grant,
        Grant::AuthorizationCode
    );
    // One account only: it is the default.
    assert_eq!(
        config.rules.router.default_account,
        Some(account.name.clone())
    );
}

/// A provider of one's own (a rehearsal) must not have its tokens shown to the real one.
#[test]
fn another_token_url_is_never_revoked_at_the_presets_host() {
    let config = load(
        "[provider.g]\nkind = \"google\"\nclient_id = \"x\"\ntoken_url = \"http://127.0.0.1:1/token\"\n",
    );
    assert_eq!(config.oauth.providers["g"].revocation_url, None);
    assert_eq!(
        config.oauth.providers["g"].client_authentication,
        ClientAuthentication::None
    );
}

#[test]
fn a_plain_smarthost_needs_no_provider() {
    let config = load(
        "[account.a.smtp]\nhost = \"mail.example\"\ntls = \"implicit\"\nauth = \"password\"\n\
         username = \"u\"\npassword = \"p\"\n[account.b]\nmailbox = \"b@b.example\"\n\
         [account.b.smtp]\nhost = \"127.0.0.1\"\nport = 2600\ntls = \"none\"\nauth = \"none\"\n",
    );
    let [a, b] = config.delivery.accounts.as_slice() else {
        panic!("two accounts");
    };
    assert_eq!((a.smtp.port, a.smtp.tls), (465, Tls::Implicit));
    assert!(matches!(&a.smtp.auth, Auth::Password { username, .. } if username == "u"));
    assert_eq!(b.smtp.auth, Auth::None);
    assert_eq!(b.limits.messages_per_minute, None);
    assert!(config.oauth.accounts.is_empty());
    assert_eq!(config.rules.router.default_account, None);
}

/// Good listeners of each kind, with who may connect.
#[test]
fn who_may_connect_is_as_written_or_closed() {
    for (keys, want) in [
        ("address = \"127.0.0.1:0\"", "127.0.0.0/8 ::1/128"),
        ("address = \"[::1]:0\"\nallow = [\"::1\"]", "::1/128"),
        ("address = \"unix:/run/x.sock\"", ""),
        ("address = \"systemd:smtp\"", "127.0.0.0/8 ::1/128"),
        (
            "address = \"0.0.0.0:0\"\nallow = [\"192.168.1.7/24\"]",
            "192.168.1.0/24",
        ),
        (
            "address = \"0.0.0.0:0\"\nauth = \"required\"\nauth_without_tls = \"always\"",
            "",
        ),
    ] {
        let config = load(&format!("[[listener]]\n{keys}\n{SMARTHOST}"));
        let allow = config.listeners[0].allow.iter().map(ToString::to_string);
        assert_eq!(allow.collect::<Vec<_>>().join(" "), want, "{keys}");
    }
}

/// The sealing key: systemd's credential before the file's own, else a file in the state directory.
#[test]
fn the_sealing_key_comes_from_systemd_first() {
    let folder = tempfile::tempdir().unwrap();
    let credentials = [("CREDENTIALS_DIRECTORY", folder.path().to_str().unwrap())];
    let given = |config: Config| match config.oauth.key {
        Key::Given(key) => key.expose().to_owned(),
        Key::File(path) => path.display().to_string(),
    };
    let text = "[store]\nkey = { command = [\"echo\", \"commanded\"] }";
    assert_eq!(given(load_in(text, &credentials).unwrap()), "commanded");
    fs::write(folder.path().join("gatepost.key"), "passed\n").unwrap();
    assert_eq!(given(load_in(text, &credentials).unwrap()), "passed");
    assert_eq!(given(load("")), "/state/token.key");
}

#[test]
fn a_secret_in_a_file_that_all_may_read_is_remarked() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gatepost.toml");
    fs::write(
        &file,
        "[provider.p]\nkind = \"google\"\nclient_id = \"x\"\nclient_secret = \"canary\"\n",
    )
    .unwrap();
    let warnings = |mode: u32| {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        let sources = Sources {
            file: Some(file.clone()),
            ..Sources::default()
        };
        let config = Config::load_with(&sources, &variables(&[])).unwrap();
        assert_eq!(config.file.as_deref(), Some(file.as_path()));
        config.warnings.join("\n")
    };
    assert!(!warnings(0o640).contains("provider.p.client_secret"));
    let told = warnings(0o644);
    assert!(
        told.contains("provider.p.client_secret") && !told.contains("canary"),
        "{told}"
    );
}

/// A relative path starts at the file's folder, so that a configuration can be moved as a whole.
#[test]
fn relative_paths_start_at_the_files_folder() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gatepost.toml");
    fs::write(&file, "state_dir = \"state\"").unwrap();
    let sources = Sources {
        file: Some(file),
        ..Sources::default()
    };
    let config = Config::load_with(&sources, &variables(&[])).unwrap();
    assert_eq!(config.store.state_dir, folder.path().join("state"));
}

#[test]
fn a_file_that_cannot_be_read_is_told() {
    let sources = Sources {
        file: Some("/nonexistent/gatepost.toml".into()),
        ..Sources::default()
    };
    let told = Config::load_with(&sources, &variables(&[]))
        .unwrap_err()
        .to_string();
    assert_eq!(
        told,
        "/nonexistent/gatepost.toml: cannot be read: No such file or directory (os error 2); \
         name a readable file with --config or $GATEPOST_CONFIG"
    );
}

/// The reference file with its keys taken out of their comments.
fn uncommented() -> String {
    let is_text = |line: &str| line.starts_with("# ") || line == "#";
    let lines = REFERENCE.lines().filter(|line| !is_text(line));
    lines
        .map(|line| line.strip_prefix('#').unwrap_or(line))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The part of a text before the first line that begins with `[[client]]`, and from `[queue]` on:
/// without the example sections.
fn without_examples(text: &str) -> String {
    let (before, rest) = text.split_once("[[client]]").unwrap();
    let (_, after) = rest.split_once("[queue]").unwrap();
    format!("{before}[queue]{after}")
}

fn same(a: &Config, b: &Config) {
    assert_eq!(a.listeners, b.listeners);
    assert_eq!(a.rules, b.rules);
    assert_eq!(a.delivery, b.delivery);
    assert_eq!(a.oauth, b.oauth);
    assert_eq!(a.admin, b.admin);
    assert_eq!(a.log, b.log);
    assert_eq!(a.queue.retry, b.queue.retry);
    assert_eq!(a.store.state_dir, b.store.state_dir);
}

/// Every key is listed with its source; a variable wins over the file; secrets are never shown.
#[test]
fn the_settings_say_where_each_value_comes_from() {
    let text = format!(
        "hostname = \"relay.example\"\n[queue]\nretry_first = \"2m\"\n[provider.p]\nkind = \"microsoft\"\n\
         client_id = \"i\"\nclient_secret = \"canary\"\n{SMARTHOST}"
    );
    let config = load_in(&text, &[("GATEPOST_QUEUE__RETRY_FIRST", "3m")]).unwrap();
    let found = |key: &str| {
        let mut settings = config.settings.iter();
        let setting = settings.find(|setting| setting.key == key).unwrap();
        (setting.value.as_str(), setting.source)
    };
    assert_eq!(
        found("hostname"),
        ("\"relay.example\"", SettingSource::File)
    );
    assert_eq!(
        found("queue.retry_first"),
        ("\"3m\"", SettingSource::Environment)
    );
    assert_eq!(found("store.url"), ("\"sqlite\"", SettingSource::Default));
    assert_eq!(
        found("provider.p.client_secret"),
        ("set", SettingSource::File)
    );
    assert_eq!(
        found("console.password_hash"),
        ("not set", SettingSource::Default)
    );
    assert!(!format!("{:?}", config.settings).contains("canary"));
}

/// "2 with a provider, 4 with .." says nothing about this account.
#[test]
fn a_default_that_depends_is_shown_as_what_it_comes_to() {
    let text = "hostname = \"relay.example\"\n[console]\naddress = \"127.0.0.1:8123\"\n\
         [provider.p]\nkind = \"microsoft\"\nclient_id = \"i\"\nclient_secret = \"s\"\n\
         [account.a]\nprovider = \"p\"\nmailbox = \"a@example.com\"\n\
         [account.a.limits]\nconnections = 1\n\
         [account.g]\nprovider = \"p\"\nmailbox = \"g@example.com\"\ntransport = \"graph\"\n\
         [account.u]\nprovider = \"t\"\nmailbox = \"u@example.com\"\ngrant = \"client_credentials\"\n\
         [provider.t]\nkind = \"microsoft\"\nclient_id = \"i\"\nclient_secret = \"s\"\ntenant = \"contoso.com\"\n";
    let config = load(text);
    for (key, wanted) in [
        ("queue.retry_first", "\"1m\""),
        ("queue.retry_max", "\"1h\""),
        (
            "provider.p.redirect_url",
            "\"http://localhost:8123/authorization/smtp_oauth/\"",
        ),
        (
            "provider.p.token_url",
            "\"https://login.microsoftonline.com/common/oauth2/v2.0/token\"",
        ),
        ("provider.p.client_authentication", "\"post\""),
        ("account.a.limits.connections", "1"),
        ("account.a.limits.messages_per_minute", "27"),
        ("account.a.limits.recipients_per_day", "9500"),
        ("account.a.smtp.host", "\"smtp.office365.com\""),
        ("account.a.smtp.port", "587"),
        ("account.a.smtp.tls", "\"starttls\""),
        ("account.a.smtp.username", "\"a@example.com\""),
        ("account.a.sign_in_user", "\"a@example.com\""),
        ("account.g.limits.connections", "4"),
        ("account.g.graph.url", "\"https://graph.microsoft.com/\""),
        ("account.g.graph.user", "\"me\""),
        ("account.g.graph.above_mime_max", "\"return\""),
        // Nobody signs in.
        ("account.u.sign_in_user", "(not set)"),
    ] {
        let mut settings = config.settings.iter();
        let setting = settings.find(|setting| setting.key == key).unwrap();
        assert_eq!(setting.value, wanted, "{key}");
    }
    let scope = config
        .settings
        .iter()
        .find(|setting| setting.key == "provider.p.scope");
    let scope = &scope.unwrap().value;
    assert!(
        scope.contains("SMTP.Send") && scope.contains("Mail.Send"),
        "{scope}"
    );
}

/// Every key of the file has a default in words, or is needed.
#[test]
fn every_default_can_be_said() {
    let needed = [
        "account.*.mailbox",
        "client.*.name",
        "client.*.password_hash",
        "listener.*.address",
        "provider.*.client_id",
        "provider.*.kind",
    ];
    for key in keys() {
        let told = reference::default(&key).is_some();
        assert!(
            told || needed.contains(&key.as_str()) || key.starts_with("route."),
            "{key}"
        );
    }
}

/// The manual must not say one default and the program do another.
#[test]
fn the_reference_file_shows_the_defaults() {
    same(&load(REFERENCE), &load(""));
    same(&load(&without_examples(&uncommented())), &load(""));
}

/// The examples in it are good, and what they say beyond the needed keys is the default.
#[test]
fn the_examples_in_the_reference_file_are_good() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("contoso-secret"), "s").unwrap();
    let credentials = [("CREDENTIALS_DIRECTORY", folder.path().to_str().unwrap())];
    let full = load_in(&uncommented(), &credentials).unwrap();
    let short = "[[client]]\nname = \"printer-2\"\naccount = \"alerts\"\nsenders = [\"*@contoso.com\"]\n\
                 password_hash = \"HASH\"\n\
                 [provider.contoso]\nkind = \"microsoft\"\ntenant = \"contoso.onmicrosoft.com\"\n\
                 client_id = \"11111111-2222-3333-4444-555555555555\"\nclient_secret = \"s\"\n\
                 [account.alerts]\nprovider = \"contoso\"\nmailbox = \"alerts@contoso.com\"\n\
                 [[route]]\nsender = \"*@contoso.com\"\naccount = \"alerts\"\n";
    let hash = &full.rules.clients["printer-2"].password_hash;
    same(&full, &load(&short.replace("HASH", hash)));
}

/// Every key of the mirror, as a pattern.
fn keys() -> BTreeSet<String> {
    let text = uncommented();
    let figment = figment::Figment::from(
        <figment::providers::Toml as figment::providers::Format>::string(&text),
    );
    let dict = figment::Provider::data(&figment)
        .unwrap()
        .remove(&figment::Profile::Default)
        .unwrap();
    let (_, reader) = Reader::read::<File>(&figment, None, dict);
    reader.patterns
}

/// Each key stands in the reference file, in its section.
#[test]
fn every_key_stands_in_the_reference_file() {
    let text = uncommented();
    let mut written = BTreeSet::new();
    let mut section = String::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('[') {
            let name = name.trim_matches(['[', ']']);
            section = match name.split_once('.') {
                Some((kind, name)) => {
                    let inner = name
                        .split_once('.')
                        .map_or(String::new(), |(_, s)| format!(".{s}"));
                    format!("{kind}.*{inner}.")
                }
                None if matches!(name, "listener" | "client" | "route") => format!("{name}.*."),
                None => format!("{name}."),
            };
        } else if let Some((key, _)) = line.split_once(" = ") {
            written.insert(format!("{section}{key}"));
        }
    }
    assert_eq!(written, keys());
}

/// Each key stands in the manual's tables, in its section, and nothing else does.
#[test]
fn every_key_stands_in_the_manual() {
    let mut written = BTreeSet::new();
    let mut section = "";
    for line in MANUAL.lines() {
        if let Some(heading) = line.strip_prefix("### ") {
            section = heading.trim_matches('`');
        } else if section.is_empty() {
            // The tables before the first section are about something else.
        } else if let Some((key, _)) = line.strip_prefix("| `").and_then(|l| l.split_once('`')) {
            let section = match section {
                "Top level" => String::new(),
                list if list.starts_with("[[") => format!("{}.*.", list.trim_matches(['[', ']'])),
                other => format!("{}.", other.trim_matches(['[', ']']).replace("NAME", "*")),
            };
            written.insert(format!("{section}{key}"));
        }
    }
    assert_eq!(written, keys());
}

/// The examples load as they are (their secrets and certificates are given here).
#[test]
fn every_example_loads() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [("client-secret", "s"), ("relay-password", "p")] {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let certificate = folder.path().join("tls.pem");
    fs::write(&certificate, "").unwrap();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples");
    let mut count = 0;
    for entry in fs::read_dir(examples).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let text = text.replace("/etc/gatepost/tls.pem", certificate.to_str().unwrap());
        let text = text.replace("/etc/gatepost/tls.key", certificate.to_str().unwrap());
        let credentials = [("CREDENTIALS_DIRECTORY", folder.path().to_str().unwrap())];
        let loaded = load_in(&text, &credentials);
        let config = loaded.unwrap_or_else(|p| panic!("{}\n{p}", path.display()));
        assert!(
            config.rules.router.default_account.is_some(),
            "{}",
            path.display()
        );
        assert_eq!(config.warnings, Vec::<String>::new(), "{}", path.display());
        count += 1;
    }
    assert_eq!(count, 5);
}

/// The account's transport decides which tokens are asked for, and where its mail goes.
#[test]
fn a_transport_brings_its_api_its_tokens_and_its_limits() {
    let microsoft = |account: &str| {
        load(&format!(
            "[provider.m]\nkind = \"microsoft\"\ncloud = \"us-gov-high\"\nclient_id = \"x\"\nclient_secret = \"s\"\n\
             [account.a]\nprovider = \"m\"\nmailbox = \"a@b.example\"\n{account}"
        ))
    };
    let graph = microsoft("transport = \"graph\"\n");
    let account = &graph.delivery.accounts[0];
    let Transport::Api(api) = &account.transport else {
        panic!("{:?}", account.transport);
    };
    assert_eq!(api.url.as_str(), "https://graph.microsoft.us/");
    assert_eq!((&api.user, api.mime_max), (&None, 2 * 1024 * 1024));
    assert_eq!(
        (
            account.limits.connections,
            account.limits.messages_per_minute
        ),
        (4, Some(25))
    );
    let services = |config: &Config| {
        let account = config.oauth.accounts.values().next().unwrap();
        account.services.clone().into_iter().collect::<Vec<_>>()
    };
    let graph_scope = "offline_access https://graph.microsoft.us/Mail.Send".to_owned();
    assert_eq!(services(&graph), [(Service::Graph, graph_scope.clone())]);
    assert_eq!(graph.oauth.providers["m"].scope, graph_scope);

    let auto = microsoft("transport = \"auto\"\n");
    let names: Vec<_> = services(&auto)
        .into_iter()
        .map(|(service, _)| service)
        .collect();
    assert_eq!(names, [Service::Smtp, Service::Graph]);
    assert_eq!(
        auto.oauth.providers["m"].scope,
        "offline_access https://outlook.office365.us/SMTP.Send https://graph.microsoft.us/Mail.Send"
    );
    let shared = microsoft("transport = \"graph\"\nsign_in_user = \"boss@b.example\"\n");
    assert!(matches!(
        &shared.delivery.accounts[0].transport,
        Transport::Api(api) if api.user.as_deref() == Some("a@b.example")
    ));

    let gmail = load(
        "[provider.g]\nkind = \"google\"\nclient_id = \"x\"\nclient_secret = \"s\"\n\
         [account.a]\nprovider = \"g\"\nmailbox = \"a@b.example\"\ntransport = \"gmail\"\n",
    );
    assert_eq!(
        gmail.oauth.providers["g"].scope,
        "https://www.googleapis.com/auth/gmail.send"
    );
    assert_eq!(
        gmail.delivery.accounts[0].limits.messages_per_minute,
        Some(120)
    );
}

#[test]
fn an_api_that_cannot_be_is_refused_with_the_remedy() {
    let provider = |kind: &str| {
        let urls = if kind == "custom" {
            "token_url = \"https://t.example/\"\nauthorization_url = \"https://t.example/\"\n"
        } else {
            ""
        };
        format!("[provider.p]\nkind = \"{kind}\"\nclient_id = \"x\"\nclient_secret = \"s\"\n{urls}")
    };
    for (kind, account, said) in [
        ("google", "transport = \"graph\"", "use \"gmail\""),
        ("microsoft", "transport = \"gmail\"", "use \"graph\""),
        ("custom", "transport = \"graph\"", "graph.url"),
        ("custom", "transport = \"auto\"", "does not say which API"),
        (
            "microsoft",
            "transport = \"graph\"\ngraph.url = \"http://graph.example\"",
            "in clear",
        ),
        (
            "microsoft",
            "transport = \"graph\"\ngraph.mime_max = \"10MB\"",
            "3000000B",
        ),
        (
            "microsoft",
            "transport = \"graph\"\ngraph.save_to_sent_items = false",
            "keeps a copy",
        ),
        ("microsoft", "transport = \"grph\"", "graph"),
    ] {
        let text = format!(
            "{}[account.a]\nprovider = \"p\"\nmailbox = \"a@b.example\"\n{account}\n",
            provider(kind)
        );
        let problems = problems(&text);
        assert!(problems.contains(said), "{account}: {problems}");
    }
    let problems = problems("[account.a]\nmailbox = \"a@b.example\"\ntransport = \"graph\"\n");
    assert!(problems.contains("needs a provider"), "{problems}");
}
