//! The way to the provider: tinyproxy between, with and without a login; whom TLS believes.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    network,
    rig::{Provider, Tinyproxy, certificates_for},
    support::{
        eventually, free_address,
        login::Login,
        mail::message,
        relay::{Relay, Site},
        scratch,
    },
};

/// What the proxy wants, where it wants one.
const LOGIN: (&str, &str) = ("relay", "canary-proxy");

/// Debian's bundle of authorities: the platform's roots.
const PLATFORM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// A proxy whose connections come from [`network::PROXY`].
fn tinyproxy(port: u16, login: Option<(&str, &str)>) -> Tinyproxy {
    Tinyproxy::start(port, network::PROXY.into(), login)
}

/// A provider beyond loopback that gives tokens to the proxy's address alone, and a site for it.
struct Rig {
    // First, so that it is looked for secrets while the provider's list of them is there.
    site: Site,
    certificates: TempDir,
    provider: Provider,
}

impl Rig {
    fn new(grant: &str) -> Self {
        let certificates = scratch();
        let host = network::PROVIDER.to_string();
        certificates_for(certificates.path(), &[host.as_str()]);
        let file = |name: &str| certificates.path().join(name).display().to_string();
        let console = free_address();
        let redirects = format!("http://{console}/authorization/smtp_oauth/");
        let address = SocketAddr::new(network::PROVIDER.into(), free_address().port());
        let provider = Provider::start_at(
            address,
            &[
                ("TLS_CERT", &file("cert.pem")),
                ("TLS_KEY", &file("key.pem")),
                ("ONLY_FROM", &network::PROXY.to_string()),
                ("REDIRECTS", &redirects),
            ],
        );
        let account = format!(
            "[account.alerts]\nprovider = \"rig\"\nmailbox = \"app@example.test\"\ngrant = \"{grant}\"\n\
             [account.alerts.smtp]\nhost = \"127.0.0.1\"\nport = 9\ntls = \"none\"\n"
        );
        let tables = format!(
            "{}ca_file = \"{}\"\n#proxy\n{account}",
            provider.table(),
            file("ca.pem")
        );
        let site = Site::with_console(console, &tables);
        site.transcript.beware_of(&provider.log_file());
        Self {
            site,
            certificates,
            provider,
        }
    }

    fn authority(&self) -> PathBuf {
        self.certificates.path().join("ca.pem")
    }

    /// The account once it is in this state, with `proxy` set so and this environment.
    fn becomes(&self, state: &str, proxy: &str, environment: &[(&str, &str)]) -> Value {
        self.site.edit("#proxy", &format!("{proxy}#proxy"));
        let relay = self.start(environment);
        let account = self.site.wait_account("alerts", state);
        drop(relay);
        // A token that is kept would serve the next one too.
        fs::remove_dir_all(self.site.state()).unwrap();
        self.site.edit(&format!("{proxy}#proxy"), "#proxy");
        account
    }

    fn start(&self, environment: &[(&str, &str)]) -> Relay {
        let mut command = self.site.command(&["run"]);
        command.envs(environment.iter().copied());
        let mut relay = self.site.spawn_by(&command);
        relay.wait_open(&self.site);
        relay
    }
}

fn reason(account: &Value) -> &str {
    account["reason"].as_str().unwrap_or_default()
}

/// Tokens come through the proxy that is configured, and through no other; a proxy that wants a login,
/// or allows no tunnel, is named with what to do, and its password nowhere.
#[test]
fn tokens_come_through_the_proxy_that_is_configured() {
    if !network::is_inside("proxy::tokens_come_through_the_proxy_that_is_configured") {
        return;
    }
    let rig = Rig::new("client_credentials");
    let port = rig.provider.address.port();
    let open = tinyproxy(port, None);
    let closed = tinyproxy(port, Some(LOGIN));
    let elsewhere = tinyproxy(443, None);
    let url = |proxy: &Tinyproxy| format!("http://{}", proxy.address);
    let with_login = format!("http://relay:canary-proxy@{}", closed.address);

    // The environment alone means nothing: the provider is asked directly, and turns us away.
    let direct = rig.becomes(
        "retrying",
        "",
        &[("HTTPS_PROXY", &url(&open)), ("https_proxy", &url(&open))],
    );
    assert!(reason(&direct).contains("HTTP 403"), "{direct}");
    assert_eq!(open.tunnels(), 0);
    assert!(
        rig.provider.count("token-asked-by 10.203.0.1") > 0,
        "{}",
        rig.provider.log()
    );

    for (proxy, environment) in [
        (format!("proxy = \"{}\"\n", url(&open)), ""),
        (format!("proxy = \"{with_login}\"\n"), ""),
        (
            "proxy = { env = \"HTTPS_PROXY\" }\n".to_owned(),
            with_login.as_str(),
        ),
    ] {
        rig.becomes("ready", &proxy, &[("HTTPS_PROXY", environment)]);
    }
    assert!(open.tunnels() > 0 && closed.tunnels() > 1);

    for (proxy, address, what, remedy) in [
        (
            url(&closed),
            closed.address,
            "wants a login",
            "USER:PASSWORD",
        ),
        (
            format!("http://relay:canary-wrong@{}", closed.address),
            closed.address,
            "refuses a tunnel",
            "check the login",
        ),
        (
            url(&elsewhere),
            elsewhere.address,
            "refuses a tunnel to 10.203.0.1",
            "allow CONNECT",
        ),
    ] {
        let account = rig.becomes("retrying", &format!("proxy = \"{proxy}\"\n"), &[]);
        let told = account.to_string();
        assert!(
            told.contains(what) && told.contains(&address.to_string()),
            "{told}"
        );
        assert!(
            account["remedy"].as_str().unwrap().contains(remedy),
            "{told}"
        );
        assert!(!told.contains("canary"), "{told}");
    }
    let log = rig.site.log_with("wants a login");
    assert!(!log.contains("canary"), "{log}");
}

/// A person signs in where no daemon runs and the provider is behind a proxy; then a proxy that is gone
/// is told to the next one who tries.
#[test]
fn a_sign_in_goes_through_the_proxy() {
    if !network::is_inside("proxy::a_sign_in_goes_through_the_proxy") {
        return;
    }
    let rig = Rig::new("authorization_code");
    let mut proxy = tinyproxy(rig.provider.address.port(), Some(LOGIN));
    let line = format!("proxy = \"http://relay:canary-proxy@{}\"\n", proxy.address);
    rig.site.edit("#proxy", &line);

    let mut login = Login::start(&rig.site, &["login", "alerts", "--no-browser"]);
    let url = login.url(&format!("{}/auth", rig.provider.issuer()));
    let ours = rig.site.fill("http://@CONSOLE@/authorization/smtp_oauth/");
    let mailbox = "app@example.test";
    let redirect = rig.provider.press(&url, mailbox, &["--stop-before", &ours]);
    login.paste(redirect.trim());
    login.succeeds();
    assert!(proxy.tunnels() > 0);

    proxy.stop();
    let mut login = Login::start(&rig.site, &["login", "alerts", "--no-browser"]);
    let url = login.url(&format!("{}/auth", rig.provider.issuer()));
    rig.provider.press(&url, mailbox, &[]);
    let said = login.refused();
    let told = format!("the proxy http://{} cannot be reached", proxy.address);
    assert!(
        said.contains(&told) && said.contains("check proxy of the provider"),
        "{said}"
    );
    assert!(!said.contains("canary"), "{said}");
}

/// A message goes to an API through the proxy, with a login and with TLS that believes the profile's
/// file; when the proxy is gone the message waits and the log says why.
#[test]
fn an_upload_goes_through_the_proxy() {
    if !network::is_inside("proxy::an_upload_goes_through_the_proxy") {
        return;
    }
    let rig = Rig::new("client_credentials");
    let mut proxy = tinyproxy(rig.provider.address.port(), Some(LOGIN));
    let line = format!("proxy = \"http://relay:canary-proxy@{}\"\n", proxy.address);
    rig.site.edit("#proxy", &line);
    let grant = "grant = \"client_credentials\"\n";
    let by_graph = format!("{grant}transport = \"graph\"\n");
    rig.site.edit(grant, &by_graph);
    let url = rig.provider.issuer();
    let graph = format!("[account.alerts.graph]\nurl = \"{url}\"\n");
    rig.site.extend(&[graph]);
    let _relay = rig.start(&[]);
    rig.site.wait_account("alerts", "ready");
    let tunnels = proxy.tunnels();

    // More than fits into the buffers on the way.
    let text = "0123456789012345678901234567890123456789\r\n".repeat(30_000);
    let large = message("upload", text.as_bytes());
    rig.site.submit(&large);
    rig.site.wait_empty();
    let log = rig.provider.log();
    let taken = log
        .lines()
        .find_map(|line| line.strip_prefix("mail-taken "));
    let (octets, from) = taken.and_then(|it| it.split_once(' ')).expect(&log);
    assert_eq!(from, network::PROXY.to_string());
    // In base64.
    assert!(octets.parse::<usize>().unwrap() > large.len() * 4 / 3);
    assert!(proxy.tunnels() > tunnels);

    proxy.stop();
    rig.site.submit(&large);
    let told = format!("the proxy http://{} cannot be reached", proxy.address);
    let log = rig.site.log_with(&told);
    assert!(!log.contains("canary"), "{log}");
    let account = eventually("delivery pauses", || {
        let account = rig.site.account("alerts");
        reason(&account).contains("pauses").then_some(account)
    });
    assert!(reason(&account).contains(&told), "{account}");
    assert!(!account.to_string().contains("canary"), "{account}");
    assert_eq!(rig.site.queue().len(), 1);
    assert_eq!(rig.provider.count("mail-taken"), 1);
    assert_eq!(rig.provider.count("mail-refused"), 0);
}

/// A provider's certificate is believed when the platform's roots or the profile's file say so, and not
/// else.
#[test]
fn certificates_are_believed_by_the_platforms_roots_or_the_profiles_file() {
    const TEST: &str =
        "proxy::certificates_are_believed_by_the_platforms_roots_or_the_profiles_file";
    if !network::is_inside(TEST) {
        return;
    }
    let rig = Rig::new("client_credentials");
    let proxy = tinyproxy(rig.provider.address.port(), None);
    let by = format!("proxy = \"http://{}\"\n", proxy.address);
    rig.becomes("ready", &by, &[]);

    let file = format!("ca_file = \"{}\"\n", rig.authority().display());
    rig.site.edit(&file, "");
    let account = rig.becomes("retrying", &by, &[]);
    assert!(
        reason(&account).contains("certificate shown for 10.203.0.1"),
        "{account}"
    );
    assert!(
        account["remedy"].as_str().unwrap().contains("ca_file"),
        "{account}"
    );

    network::replace(Path::new(PLATFORM_ROOTS), &rig.authority());
    rig.becomes("ready", &by, &[]);
}
