//! What Prometheus and Grafana are given: `/metrics` read by Prometheus' own parser, the alert rules
//! judged by promtool, and every metric that is named anywhere held against what the daemon shows.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::support::{
    eventually, mail::message, relay::Site, repository, sink::Sink, smtp::Client,
};

/// Metrics of a daemon to which a little of everything has happened.
fn metrics(site: &Site) -> BTreeSet<String> {
    let file = site.path().join("metrics");
    let wanted = "gatepost_account_state{account=\"alerts\",state=\"ready\"} 1";
    let text = eventually("the accounts have been looked at", || {
        let (_, text) = site.get("/metrics")?;
        text.contains(wanted).then_some(text)
    });
    fs::write(&file, &text).unwrap();
    let python = repository().join("target/tools/python-monitoring/bin/python");
    assert!(
        python.is_file(),
        "prometheus_client is missing: run ./test.sh"
    );
    let mut command = Command::new(python);
    command.arg(repository().join("tests/interop/monitoring/exposition.py"));
    let printed = run(command.arg(&file));
    printed.lines().map(str::to_owned).collect()
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?}: {printed}\n{complained}"
    );
    printed
}

/// Every name of ours in a text. What ends in `_` is a word about several, not a name.
fn named(text: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(|c| !is_name(c))
        .filter(|word| word.starts_with("gatepost_"))
        .map(str::to_owned)
        .collect()
}

fn packaged(name: &str) -> PathBuf {
    repository().join("packaging").join(name)
}

fn promtool(arguments: &[&str], file: &Path) {
    let promtool = repository().join("target/tools/prometheus/usr/bin/promtool");
    assert!(promtool.is_file(), "promtool is missing: run ./test.sh");
    run(Command::new(promtool).args(arguments).arg(file));
}

#[test]
fn dashboard_alerts_and_docs_name_what_the_daemon_shows() {
    let sink = Sink::start();
    let site = Site::plain(&sink);
    let _relay = site.start();
    site.submit(&message("one", b"Count me.\r\n"));
    site.wait_empty();
    // One that has gone round too often is refused.
    let mut client = Client::ehlo(site.smtp).unwrap();
    let hop = "Received: from a by b; Fri, 1 Jan 2027 00:00:00 +0000\r\n".repeat(200);
    let round = [hop.as_bytes(), &message("round", b"And round.\r\n")].concat();
    let refused = client.send("app@example.test", &["rcpt@example.org"], &round);
    refused.unwrap().expect(554).unwrap();
    let shown = metrics(&site);

    let dashboard = fs::read_to_string(packaged("grafana.json")).unwrap();
    let parsed: Value = serde_json::from_str(&dashboard).unwrap();
    assert_eq!(parsed["uid"], "gatepost");
    let docs = fs::read_to_string(repository().join("docs/monitoring.md")).unwrap();
    let alerts = fs::read_to_string(packaged("alerts.yml")).unwrap();
    // These appear with their first event, which does not happen here.
    let rare = [
        "gatepost_sessions_refused_total",
        "gatepost_throttles_total",
        "gatepost_limit_waits_total",
        // The family; its samples are buckets, sum and count.
        "gatepost_store_commit_seconds",
    ];
    for (what, text) in [
        ("dashboard", &dashboard),
        ("alerts", &alerts),
        ("docs", &docs),
    ] {
        let named = named(text);
        assert!(named.len() > 5, "{what} names {named:?}");
        let unknown: Vec<_> = named
            .iter()
            .filter(|name| !shown.contains(*name) && !rare.contains(&name.as_str()))
            .collect();
        assert!(
            unknown.is_empty(),
            "{what} names {unknown:?}, not among {shown:?}"
        );
    }
    let told = named(&docs);
    let is_told = |name: &&String| {
        let family = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|end| name.strip_suffix(end));
        told.contains(*name) || family.is_some_and(|family| told.contains(family))
    };
    let untold: Vec<_> = shown.iter().filter(|name| !is_told(name)).collect();
    assert!(
        untold.is_empty(),
        "docs/monitoring.md does not tell {untold:?}"
    );
}

#[test]
fn every_panel_asks_what_prometheus_understands() {
    let dashboard = fs::read_to_string(packaged("grafana.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let dir = crate::support::scratch();
    let mut rules = String::from("groups:\n  - name: dashboard\n    rules:\n");
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        assert!(!panel["description"].as_str().unwrap().is_empty());
        for target in panel["targets"].as_array().unwrap() {
            // Grafana fills its variables in.
            let expression = target["expr"].as_str().unwrap();
            let expression = expression
                .replace("$__rate_interval", "5m")
                .replace("$instance", ".*");
            let expression = serde_json::to_string(&expression).unwrap();
            let n = rules.lines().count();
            rules.push_str(&format!(
                "      - record: panel_{n}\n        expr: {expression}\n"
            ));
        }
    }
    let file = dir.path().join("dashboard.yml");
    fs::write(&file, rules).unwrap();
    promtool(&["check", "rules"], &file);
}

#[test]
fn the_alert_rules_are_valid_and_fire_on_what_they_are_about() {
    promtool(&["check", "rules"], &packaged("alerts.yml"));
    promtool(&["test", "rules"], &packaged("alerts_test.yml"));
}
