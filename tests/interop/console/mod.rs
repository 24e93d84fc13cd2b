//! The console in Debian's Chromium, driven by Playwright: what only a browser can tell. Each test is a
//! scenario of its own (`NAME.mjs`) at a relay of its own; `browser.mjs` fails it for whatever no page
//! may do.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use serde_json::{Value, json};

use crate::support::{
    process::Process,
    program,
    relay::{BINARY, Relay, Site, bare},
    repository,
    sink::Sink,
    within,
};

/// Guard against hanging: a scenario has dozens of pages, and every core may be busy.
const SCENARIO_PATIENCE: Duration = Duration::from_secs(200);

/// A relay, and what a browser is told of the world around it.
struct Stage {
    site: Site,
    /// What the scripts read as `rig`, beside what every relay has.
    world: Value,
    _relay: Relay,
}

impl Stage {
    /// One account, `alerts`, that needs nobody.
    fn plain(sink: &Sink) -> Self {
        Self::new(Site::plain(sink), json!({"names": ["alerts"]}))
    }

    fn new(site: Site, world: Value) -> Self {
        Self {
            _relay: site.start(),
            site,
            world,
        }
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
            "artefacts": repository().join("target/artefacts/console"),
            "told": told,
        });
        let world = self.world.as_object().unwrap().clone();
        rig.as_object_mut().unwrap().extend(world);
        rig
    }
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
    Stage::plain(&sink).play("looks");
}
