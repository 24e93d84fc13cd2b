//! Chance and digests: codes and tokens nobody can guess, kept as what nobody can use.

use aws_lc_rs::digest;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use super::Refusal;

/// SHA-256 of a code, a token or a verifier.
pub(super) type Fingerprint = [u8; 32];

/// `octets` of chance, as base64url text.
pub(in crate::sandbox) fn text(octets: usize) -> Result<String, Refusal> {
    let mut chance = vec![0; octets];
    getrandom::fill(&mut chance).map_err(|_| Refusal::NO_CHANCE)?;
    Ok(URL_SAFE_NO_PAD.encode(chance))
}

/// `count` letters out of `alphabet`, each equally likely.
pub(in crate::sandbox) fn letters(alphabet: &[u8], count: usize) -> Result<String, Refusal> {
    let mut text = String::with_capacity(count);
    let fair = 256 - 256 % alphabet.len().max(1);
    while text.len() < count {
        let mut chance = [0; 32];
        getrandom::fill(&mut chance).map_err(|_| Refusal::NO_CHANCE)?;
        let drawn = chance
            .into_iter()
            .map(usize::from)
            .filter(|byte| *byte < fair)
            .filter_map(|byte| alphabet.get(byte % alphabet.len()));
        text.extend(drawn.take(count - text.len()).copied().map(char::from));
    }
    Ok(text)
}

/// SHA-256 of `text`.
pub(super) fn fingerprint(text: &str) -> Fingerprint {
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(digest::digest(&digest::SHA256, text.as_bytes()).as_ref());
    fingerprint
}
