use std::path::Path;

use serde_json::json;

use super::*;
use crate::{clock::ManualClock, oauth::Key, secret::Secret, store::Config, telemetry::Metrics};

fn seal(digit: &str) -> Seal {
    Seal::from_key(&Key::Given(Secret::new(digit.repeat(64)))).unwrap()
}

async fn registry(dir: &Path, seal: Seal) -> (Registry, Store) {
    let config = Config {
        state_dir: dir.to_owned(),
    };
    let store = Store::open(&config, Arc::new(Metrics::new())).unwrap();
    let clock = ManualClock::new("2026-11-25T12:00:00.123456789Z".parse().unwrap());
    let opened = Registry::open(store.clone(), seal, clock).await.unwrap();
    (opened, store)
}

fn settings(value: &serde_json::Value) -> Settings {
    value.as_object().unwrap().clone()
}

fn provider(name: &str, secret: &str) -> Change {
    Change::Put {
        section: Section::Provider,
        name: name.to_owned(),
        settings: settings(&json!({"kind": "custom", "client_id": "id"})),
        secrets: BTreeMap::from([("client_secret".to_owned(), Secret::new(secret))]),
    }
}

fn remove(section: Section, name: &str) -> Change {
    Change::Remove {
        section,
        name: name.to_owned(),
    }
}

fn secret(registry: &Registry, name: &str) -> Option<Secret> {
    let entries = registry.entries();
    let entry = entries.get(Section::Provider, name)?;
    entry.secrets.get("client_secret").cloned()
}

/// Every octet of the store's files.
fn octets(dir: &Path) -> Vec<u8> {
    let files = std::fs::read_dir(dir).unwrap();
    let files = files.filter_map(|file| std::fs::read(file.unwrap().path()).ok());
    files.flatten().collect()
}

#[tokio::test]
async fn what_was_changed_is_there_after_a_restart_and_no_secret_in_clear() {
    let dir = tempfile::tempdir().unwrap();
    let (made, store) = registry(dir.path(), seal("1")).await;
    assert!(made.entries().is_empty());
    let changes = [provider("contoso", "canary-1"), provider("other", "x")];
    made.change(&changes).await.unwrap();
    made.change(&[remove(Section::Provider, "other")])
        .await
        .unwrap();
    let before = made.entries();
    drop((made, store));

    let (made, _store) = registry(dir.path(), seal("1")).await;
    assert_eq!(made.entries(), before);
    assert_eq!(secret(&made, "contoso"), Some(Secret::new("canary-1")));
    assert_eq!(secret(&made, "other"), None);
    let found = octets(dir.path()).windows(8).any(|at| at == b"canary-1");
    assert!(!found);
}

/// Another key: that entry alone cannot be used, and its row stays as it is for when the key is back.
#[tokio::test]
async fn an_entry_that_does_not_open_stays_and_touches_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let (made, store) = registry(dir.path(), seal("1")).await;
    let plain = Change::Put {
        section: Section::Allow,
        name: "10.0.0.0/8".to_owned(),
        settings: Settings::new(),
        secrets: BTreeMap::new(),
    };
    made.change(&[provider("contoso", "s"), plain])
        .await
        .unwrap();
    drop((made, store));

    let (made, store) = registry(dir.path(), seal("2")).await;
    let entries = made.entries();
    let damage = |section, name: &str| entries.get(section, name).unwrap().damage;
    assert_eq!(damage(Section::Provider, "contoso"), Some(Damage::Locked));
    assert_eq!(damage(Section::Allow, "10.0.0.0/8"), None);
    made.change(&[provider("second", "t")]).await.unwrap();
    let again = Seal::from_key(&Key::Given(Secret::new(format!(
        "{} {}",
        "2".repeat(64),
        "1".repeat(64)
    ))));
    assert_eq!(made.reseal(again.unwrap()).await.unwrap(), 2);
    assert_eq!(secret(&made, "contoso"), Some(Secret::new("s")));
    drop((made, store));

    let (made, _store) = registry(dir.path(), seal("2")).await;
    assert_eq!(secret(&made, "contoso"), Some(Secret::new("s")));
    assert_eq!(secret(&made, "second"), Some(Secret::new("t")));
}

/// A row altered in the store does not take the secret along.
#[tokio::test]
async fn a_secret_does_not_follow_altered_settings() {
    let dir = tempfile::tempdir().unwrap();
    let (made, store) = registry(dir.path(), seal("1")).await;
    made.change(&[provider("contoso", "s")]).await.unwrap();
    let mut row = store.made().await.unwrap().remove(0);
    row.settings = row.settings.replace("custom", "google");
    store
        .change_made(vec![MadeChange::Put(row.clone())])
        .await
        .unwrap();
    let entries = Entries::read(store.made().await.unwrap(), &seal("1"));
    let altered = entries.get(Section::Provider, "contoso").unwrap();
    assert_eq!(altered.damage, Some(Damage::Locked));
    assert!(altered.secrets.is_empty());

    row.settings = "{".to_owned();
    let entries = Entries::read(vec![row], &seal("1"));
    let unreadable = entries.get(Section::Provider, "contoso").unwrap();
    assert_eq!(unreadable.damage, Some(Damage::Unreadable));
}

#[tokio::test]
async fn a_change_that_cannot_be_put_in_force_is_taken_back() {
    let dir = tempfile::tempdir().unwrap();
    let (made, store) = registry(dir.path(), seal("1")).await;
    made.change(&[provider("contoso", "old")]).await.unwrap();
    let before = made.entries();
    let changes = [provider("contoso", "new"), provider("second", "x")];
    made.change(&changes).await.unwrap();
    made.restore(&before).await.unwrap();
    assert_eq!(made.entries(), before);
    let stored = Entries::read(store.made().await.unwrap(), &seal("1"));
    assert_eq!(stored, *before);
}

#[tokio::test]
async fn a_key_is_known_by_itself_alone_and_its_use_is_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let (made, store) = registry(dir.path(), seal("1")).await;
    let [first, second] = [new_key().unwrap(), new_key().unwrap()];
    assert_ne!(first.key, second.key);
    let put = |name: &str, key: &NewKey| Change::Put {
        section: Section::Key,
        name: name.to_owned(),
        settings: key.settings.clone(),
        secrets: BTreeMap::new(),
    };
    let changes = [put("prometheus", &first), put("deploy", &second)];
    made.change(&changes).await.unwrap();
    assert_eq!(made.key_used_at("deploy"), None);
    assert_eq!(made.key(&second.key).as_deref(), Some("deploy"));
    for wrong in [
        "",
        "gatepost_",
        first.key.trim_start_matches('g'),
        &format!("{} ", first.key),
    ] {
        assert_eq!(made.key(wrong), None, "{wrong:?}");
    }
    let used = made.key_used_at("deploy");
    assert!(used.is_some());
    made.keep_uses().await.unwrap();
    made.change(&[remove(Section::Key, "prometheus")])
        .await
        .unwrap();
    assert_eq!(made.key(&first.key), None);
    let found = octets(dir.path());
    let key = second.key.as_bytes();
    assert!(!found.windows(key.len()).any(|at| at == key));
    drop((made, store));

    let (made, _store) = registry(dir.path(), seal("1")).await;
    assert_eq!(made.key_used_at("deploy"), used);
    assert_eq!(made.key(&second.key).as_deref(), Some("deploy"));
}
