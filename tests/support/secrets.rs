//! No secret leaves the daemon but to the server it is for: everything a [`Site`](super::relay::Site)'s
//! programs said is kept and searched when the test ends.
//!
//! The secrets are those of the configuration, the key that seals the tokens, and whatever the OAuth
//! servers of the rig tell that they issued.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};

/// How the practice provider's tokens begin.
const SANDBOX_TOKENS: [&str; 2] = ["sandbox-at.", "sandbox-rt."];

/// Shorter values are found in innocent places.
const SECRET_LEN_MIN: usize = 8;

/// Everything that was said: what verbs printed, what the console answered. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Transcript {
    said: Arc<Mutex<Vec<u8>>>,
    /// Files in which a server of the rig tells the secrets it issued.
    issued: Arc<Mutex<Vec<PathBuf>>>,
}

impl Transcript {
    /// Adds what was said.
    pub(crate) fn add(&self, said: impl AsRef<[u8]>) {
        let mut all = self.said.lock().unwrap();
        all.extend_from_slice(said.as_ref());
        all.push(b'\n');
    }

    /// Lines `secret VALUE` in this file are secrets.
    pub(crate) fn beware_of(&self, issued: &Path) {
        self.issued.lock().unwrap().push(issued.to_owned());
    }

    /// Fails when a secret stands anywhere in the transcript or in the log.
    pub(crate) fn check(&self, toml: &str, state: &Path, log: &Path) {
        let mut said = self.said.lock().unwrap().clone();
        said.extend(fs::read(log).unwrap_or_default());
        let mut secrets = configured(toml);
        secrets.extend(sealing_keys(state));
        for file in &*self.issued.lock().unwrap() {
            let told = fs::read_to_string(file).unwrap_or_default();
            let issued = told.lines().filter_map(|line| line.strip_prefix("secret "));
            secrets.extend(issued.map(str::to_owned));
        }
        let found = found(&said, &secrets);
        assert!(found.is_empty(), "secrets were told: {found:?}");
    }
}

/// Values of keys that hold a secret itself.
fn configured(toml: &str) -> Vec<String> {
    let keys = [
        "client_secret",
        "client_key_password",
        "password",
        "webhook",
    ];
    let pairs = toml.lines().filter_map(|line| line.split_once(" = "));
    let secret = pairs.filter(|(key, _)| keys.contains(key));
    let text = secret.filter_map(|(_, value)| value.strip_prefix('"')?.strip_suffix('"'));
    text.map(str::to_owned).collect()
}

/// Keys the daemon made itself.
fn sealing_keys(state: &Path) -> Vec<String> {
    let files = fs::read_dir(state).into_iter().flatten().flatten();
    let keys = files.filter(|file| file.file_name().to_string_lossy().contains("key"));
    let texts = keys.filter_map(|file| fs::read_to_string(file.path()).ok());
    let lines = texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>());
    lines.filter(|line| !line.starts_with('#')).collect()
}

/// The forms in which something secret was found.
fn found(said: &[u8], secrets: &[String]) -> Vec<String> {
    let mut forms: Vec<String> = SANDBOX_TOKENS.map(str::to_owned).into();
    forms.push("canary".to_owned());
    for secret in secrets.iter().filter(|s| s.len() >= SECRET_LEN_MIN) {
        forms.push(secret.clone());
        forms.extend(encoded(secret));
    }
    let is_said = |form: &String| memchr::memmem::find(said, form.as_bytes()).is_some();
    forms.into_iter().filter(is_said).collect()
}

/// Base64 of a text that holds the secret, wherever it begins: without the characters at both ends
/// that its neighbours take part in.
fn encoded(secret: &str) -> impl Iterator<Item = String> {
    (0..3).map(move |before| {
        let text = STANDARD_NO_PAD.encode(format!("{}{secret}", "x".repeat(before)));
        text.get(4..text.len() - 3).unwrap_or_default().to_owned()
    })
}

#[test]
fn a_secret_is_found_as_it_is_and_inside_an_auth_line() {
    let secrets = ["relay-secret".to_owned()];
    let line = STANDARD_NO_PAD.encode("user=app@example.test\x01auth=Bearer relay-secret\x01\x01");
    for said in ["client relay-secret is", &line, "token sandbox-at.0123"] {
        assert!(!found(said.as_bytes(), &secrets).is_empty(), "{said}");
    }
    assert!(found(b"relay secret, secret-relay", &secrets).is_empty());
    let toml = "client_secret = \"relay-secret\"\npassword_file = \"/no/secret\"";
    assert_eq!(configured(toml), secrets);
}
