//! Going over from one key to the next: at every moment each record opens.

use std::path::Path;

use super::*;
use crate::oauth::seal::Sealer;

/// A signed-in house whose key is in a file of `folder`, and which has refreshed once, so that there is
/// a generation before.
async fn house(folder: &Path) -> House {
    let played = Played::start().await;
    let mut config = config(&played, Grant::AuthorizationCode);
    config.key = Key::File(folder.join("token.key"));
    let house = House::furnished(played, Arc::default(), config).await;
    let state = house.begin().await;
    let query = format!("code=good&state={state}");
    assert_eq!(house.oauth.callback(&query).await, Ok(alerts()));
    house.pass(50 * MINUTE).await;
    assert!(house.memory.tokens()[0].previous.is_some());
    house
}

fn keys(house: &House) -> Vec<String> {
    let Key::File(path) = &house.config.key else {
        panic!("the key is in a file");
    };
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// Whether, after a crash at this moment, every record would open.
fn survives(house: &House) -> bool {
    let sealer = Sealer::from_key(&house.config.key).unwrap();
    house
        .memory
        .tokens()
        .iter()
        .all(|token| sealer.opens_all(token))
}

#[tokio::test(start_paused = true)]
async fn every_record_goes_over_to_a_new_key_and_the_old_one_is_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let house = house(folder.path()).await;
    let before = keys(&house);
    let rotated = house.oauth.rotate_key(|_| async { Ok(0) }).await.unwrap();
    assert_eq!((rotated.resealed, rotated.old_key_needed), (1, false));
    let after = keys(&house);
    assert_eq!(after.len(), 1);
    assert_ne!(after, before);
    assert!(survives(&house), "the generation before too");
    assert_eq!(house.state(), State::Ready);
    house.pass(50 * MINUTE).await;
    assert!(survives(&house), "what is refreshed later too");
    let (played, memory, config) = house.end().await;
    let house = House::furnished(played, memory, config).await;
    assert!(house.token().await.is_ok());
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        1,
        "nothing is left beside"
    );
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_any_moment_leaves_every_record_openable() {
    let folder = tempfile::tempdir().unwrap();
    let house = house(folder.path()).await;
    // The new key is in the file, no record is sealed with it yet.
    let staged = Sealer::staged(&house.config.key).unwrap();
    assert_eq!(keys(&house).len(), 2);
    assert!(survives(&house));
    // The records are sealed anew, the old key is still there.
    let token = house.memory.tokens().remove(0);
    let record = staged.open(&token).unwrap().record;
    let resealed = crate::store::SealedToken {
        record: staged
            .seal(&token.account, token.version + 1, &record)
            .unwrap(),
        version: token.version + 1,
        previous: Some(token.record),
        account: token.account,
    };
    house.memory.put(resealed).unwrap();
    assert!(survives(&house));
    // Whoever comes after a crash goes on from there: a third key, and none of the others.
    let rotated = house.oauth.rotate_key(|_| async { Ok(0) }).await.unwrap();
    assert!(!rotated.old_key_needed);
    assert_eq!(keys(&house).len(), 1);
    assert!(survives(&house));
}

#[tokio::test(start_paused = true)]
async fn while_the_disk_is_full_the_old_key_stays() {
    let folder = tempfile::tempdir().unwrap();
    let house = house(folder.path()).await;
    house.memory.full.store(true, Ordering::SeqCst);
    let rotated = house.oauth.rotate_key(|_| async { Ok(0) }).await.unwrap();
    assert_eq!(rotated.waiting, [alerts()]);
    assert!(rotated.old_key_needed);
    assert_eq!(keys(&house).len(), 2);
    assert!(survives(&house));
    house.memory.full.store(false, Ordering::SeqCst);
    let rotated = house.oauth.rotate_key(|_| async { Ok(0) }).await.unwrap();
    assert!(!rotated.old_key_needed);
    assert_eq!(keys(&house).len(), 1);
    assert!(survives(&house));
}

/// What others keep under the key holds the old one back as well.
#[tokio::test(start_paused = true)]
async fn while_others_cannot_seal_anew_the_old_key_stays() {
    let folder = tempfile::tempdir().unwrap();
    let house = house(folder.path()).await;
    let full = || crate::store::Error::Full(Arc::new(std::io::Error::other("no space")));
    let refused = house.oauth.rotate_key(|_| async { Err(full()) }).await;
    assert!(matches!(refused, Err(Error::Store(_))), "{refused:?}");
    assert_eq!(keys(&house).len(), 2);
    assert!(survives(&house));
    let old = Sealer::from_key(&house.config.key).unwrap();
    let secrets = BTreeMap::from([("client_secret".to_owned(), Secret::new("s"))]);
    let sealed = Seal::of(&Arc::new(old)).seal(&secrets, "x").unwrap();
    let resealed = Arc::new(std::sync::Mutex::new(Vec::new()));
    let taken = Arc::clone(&resealed);
    let others = |seal: Seal| async move {
        let opened = seal.open(&sealed, "x").unwrap();
        *taken.lock().unwrap() = seal.seal(&opened, "x").unwrap();
        Ok(1)
    };
    let rotated = house.oauth.rotate_key(others).await.unwrap();
    assert_eq!((rotated.resealed, rotated.old_key_needed), (2, false));
    assert_eq!(keys(&house).len(), 1);
    let alone = Seal::from_key(&house.config.key).unwrap();
    let resealed = resealed.lock().unwrap().clone();
    assert_eq!(alone.open(&resealed, "x"), Some(secrets));
}

#[tokio::test(start_paused = true)]
async fn a_record_that_no_key_opens_is_named_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let house = house(folder.path()).await;
    let (played, memory, config) = house.end().await;
    let mut token = memory.tokens().remove(0);
    token.record[30] ^= 1;
    token.previous = None;
    let damaged = token.record.clone();
    memory.put(token).unwrap();
    let house = House::furnished(played, memory, config).await;
    let rotated = house.oauth.rotate_key(|_| async { Ok(0) }).await.unwrap();
    assert_eq!(
        (rotated.resealed, &rotated.locked[..]),
        (0, &[alerts()][..])
    );
    assert!(!rotated.old_key_needed);
    assert_eq!(house.memory.tokens()[0].record, damaged);
}

#[tokio::test(start_paused = true)]
async fn a_given_key_is_changed_by_putting_the_new_one_in_front() {
    let house = House::signed_in().await;
    let (played, memory, mut config) = house.end().await;
    let new = "ff".repeat(32);
    config.key = Key::Given(Secret::new(format!("{new} {KEY}")));
    let mut house = House::furnished(played, memory, config).await;
    assert!(house.token().await.is_ok(), "the old one opens");
    let rotated = house.oauth.rotate_key(|_| async { Ok(0) }).await.unwrap();
    assert!(!rotated.old_key_needed);
    house.config.key = Key::Given(Secret::new(new));
    assert!(survives(&house));
}
