//! The console in Debian's Chromium, driven by Playwright: what only a browser can tell. Each test is a
//! scenario of its own (`NAME.mjs`) at a relay of its own; `browser.mjs` fails it for whatever no page
//! may do.

use std::{any::Any, fs, net::SocketAddr, path::PathBuf, process::Command, time::Duration};

use figment::{
    Figment,
    providers::{Format, Toml},
};
use serde_json::{Value, json};

use crate::{
    oauth::MAILBOX,
    rig::{Dovecot, Provider},
    support::{
        eventually, free_address,
        process::Process,
        program,
        relay::{BINARY, Relay, Site, bare},
        repository,
        sink::Sink,
        within,
    },
};

/// Guard against hanging: a scenario has dozens of pages, and every core may be busy.
const SCENARIO_PATIENCE: Duration = Duration::from_secs(200);

/// A provider and an account of the file, with which nobody has signed in yet.
const NEEDS_SIGN_IN: &str = r#"
[provider.contoso]
kind = "microsoft"
tenant = "contoso.onmicrosoft.com"
client_id = "00000000-0000-0000-0000-000000000000"
client_secret = "never-told-to-anybody"
client_secret_expires = "2026-12-05"
description = "Somebody's application"
[account.needs]
provider = "contoso"
mailbox = "needs@contoso.com"
"#;

/// A relay, and what a browser is told of the world around it.
struct Stage {
    _relay: Relay,
    site: Site,
    /// What the scripts read as `rig`, beside what every relay has.
    world: Value,
    /// The servers around it, while it is searched for their secrets.
    _others: Box<dyn Any>,
}

impl Stage {
    /// One account, `alerts`, that needs nobody.
    fn plain(sink: &Sink) -> Self {
        Self::new(Site::plain(sink), json!({"names": ["alerts"]}), ())
    }

    fn new(site: Site, world: Value, others: impl Any) -> Self {
        let mut relay = site.spawn();
        eventually("the console answers", || {
            assert!(relay.process.ended().is_none(), "it ended instead");
            (site.get("/healthz")?.0 == 200).then_some(())
        });
        Self {
            _relay: relay,
            site,
            world,
            _others: Box::new(others),
        }
    }

    /// An empty relay beside npm oidc-provider and Dovecot, and what a person would copy from them.
    fn oidc() -> Self {
        let console = free_address();
        let callback = callback(console);
        let settings = [("REDIRECTS", callback.as_str()), ("MAILBOX", MAILBOX)];
        let provider = Provider::start(&settings);
        let sink = Sink::start();
        let dovecot = Dovecot::start(&provider, &sink);
        let url = |path: &str| format!("http://{}{path}", provider.address);
        let world = json!({
            "callback": callback,
            "mailbox": MAILBOX,
            "form": {
                "Name": "contoso",
                "Client ID": "relay",
                "Client Secret": "relay-secret",
                "Authentication URL": url("/auth"),
                "Token URL": url("/token"),
                "Device authorization URL": url("/device/auth"),
                "Scope": "openid offline_access smtp",
                "Account name": "alerts",
                "Mailbox": MAILBOX,
                "SMTP host": "localhost",
                "SMTP port": dovecot.starttls.port().to_string(),
                "SMTP CA file": dovecot.ca_file(),
            },
        });
        let site = Site::with_console(console, "");
        site.transcript.beware_of(&provider.log_file());
        Self::new(site, world, (provider, dovecot, sink))
    }

    /// An empty relay beside the sandbox, which tells everything by its issuer.
    fn sandbox() -> Self {
        let (http, smtp, console) = (free_address(), free_address(), free_address());
        let (site, callback) = (Site::with_console(console, ""), callback(console));
        let written = site.path().join("practice.toml");
        let mut command = Command::new(BINARY);
        command.args(["sandbox", "--http", &http.to_string()]);
        command.args(["--smtp", &smtp.to_string(), "--mailbox", MAILBOX]);
        command.args(["--redirect-url", &callback, "--write-config"]);
        command.arg(&written);
        bare(&mut command);
        let sandbox = Process::spawn("sandbox", &command, &site.path().join("sandbox.log"));
        eventually("the sandbox is up", || {
            sandbox.log().contains("Ctrl-C stops it").then_some(())
        });
        let told: Value = Figment::from(Toml::file(&written)).extract().unwrap();
        let (provider, account) = (&told["provider"]["sandbox"], &told["account"]["practice"]);
        let secret = provider["client_secret"].as_str().unwrap();
        let known = site.path().join("known-secrets");
        fs::write(&known, format!("secret {secret}\n")).unwrap();
        site.transcript.beware_of(&known);
        let world = json!({
            "callback": callback,
            "mailbox": MAILBOX,
            "form": {
                "Name": "practice",
                "Client ID": provider["client_id"],
                "Client Secret": secret,
                "Issuer": provider["issuer"],
                "Scope": provider["scope"],
                "Account name": "alerts",
                "Mailbox": MAILBOX,
                "SMTP host": account["smtp"]["host"],
                "SMTP port": account["smtp"]["port"].to_string(),
                "SMTP CA file": account["smtp"]["ca_file"],
            },
        });
        Self::new(site, world, sandbox)
    }

    /// Plays a scenario. What the browser was told is searched for secrets with the rest.
    fn play(&self, scenario: &str) {
        let modules = repository().join("node_modules/playwright-core");
        assert!(
            modules.is_dir(),
            "the npm package playwright-core is missing: run ./test.sh"
        );
        let told = self.site.path().join("told.txt");
        let mut command = Command::new(program("node", "nodejs (20 or newer)"));
        bare(&mut command);
        command
            .arg(script(scenario))
            .env("HOME", self.site.path())
            .env("RIG", self.rig(scenario, &told).to_string());
        let log = self.site.path().join(format!("{scenario}.log"));
        let mut player = Process::spawn(scenario, &command, &log);
        let ended = within(SCENARIO_PATIENCE, scenario, || player.ended());
        assert!(ended.success(), "{scenario}: {ended}");
        let said = player.log();
        assert!(said.contains(&format!("{scenario}: ok")), "{said}");
        self.site.transcript.add(said);
        self.site.transcript.add(fs::read(told).unwrap());
    }

    fn rig(&self, scenario: &str, told: &PathBuf) -> Value {
        let mut rig = json!({
            "scenario": scenario,
            "console": format!("http://{}", self.site.console),
            "smtp": {"host": self.site.smtp.ip(), "port": self.site.smtp.port()},
            "gatepost": BINARY,
            "config": self.site.config(),
            "socket": self.site.state().join("control.sock"),
            "chromium": program("chromium", "chromium"),
            "log": self.site.log(),
            "artefacts": repository().join("target/artefacts/console"),
            "told": told,
        });
        let world = self.world.as_object().unwrap().clone();
        rig.as_object_mut().unwrap().extend(world);
        rig
    }
}

/// The redirect URL that the form proposes.
fn callback(console: SocketAddr) -> String {
    let port = console.port();
    format!("http://localhost:{port}/authorization/smtp_oauth/")
}

fn script(name: &str) -> PathBuf {
    let folder = repository().join("tests/interop/console");
    folder.join(format!("{name}.mjs"))
}

/// A code, a password, and no stranger's page; without script as well.
#[test]
fn who_gets_in() {
    let sink = Sink::start();
    Stage::plain(&sink).play("access");
}

/// Nobody needs a mouse.
#[test]
fn by_keyboard_alone() {
    let sink = Sink::start();
    Stage::plain(&sink).play("keyboard");
}

/// What happens is shown to whoever looks, without a reload.
#[test]
fn the_overview_is_live() {
    let sink = Sink::start();
    Stage::plain(&sink).play("live");
}

/// Every page: axe-core finds nothing serious, nothing scrolls sideways, Tab reaches everything.
#[test]
fn every_page_is_for_everybody() {
    let sink = Sink::start();
    let site = Site::plain(&sink);
    site.extend(&[NEEDS_SIGN_IN.to_owned()]);
    site.edit("\nhostname", "\ndefault_account = \"alerts\"\nhostname");
    let names = ["alerts", "contoso", "needs", "smarthost"];
    Stage::new(site, json!({"names": names}), ()).play("looks");
}

/// The seed's flow at a certified provider, with Dovecot behind it.
#[test]
fn a_provider_is_added_at_oidc_provider() {
    Stage::oidc().play("provider");
}

/// The same at the practice provider.
#[test]
fn a_provider_is_added_at_the_sandbox() {
    Stage::sandbox().play("provider");
}

/// Looked at, held, released, retried, exported, deleted; what strangers wrote is text.
#[test]
fn the_queue_is_operated() {
    let sink = Sink::start();
    Stage::plain(&sink).play("queue");
}

/// A device is let in, a login and a key are shown once and work.
#[test]
fn clients_are_let_in() {
    let sink = Sink::start();
    let site = Site::plain(&sink);
    site.edit(
        "auth = \"none\"\n\n[console]",
        "auth = \"required\"\nallow = [\"192.168.7.0/24\"]\n\n[console]",
    );
    Stage::new(site, json!({"names": ["alerts"]}), ()).play("clients");
}
