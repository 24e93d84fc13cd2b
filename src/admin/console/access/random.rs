//! Random texts that open something, and the hashes that are kept of them.

use aws_lc_rs::{constant_time, digest};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};

/// 256 bits: nobody guesses one, and nobody finds the text to a hash.
const TOKEN_LEN: usize = 32;

/// SHA-256 of a token. The token is random, so that a plain hash is enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Hashed([u8; 32]);

/// A new token. `None`: the system gives no randomness.
pub(super) fn token() -> Option<String> {
    let mut octets = [0; TOKEN_LEN];
    getrandom::fill(&mut octets).ok()?;
    Some(BASE64_URL_SAFE_NO_PAD.encode(octets))
}

/// What is kept of a token.
pub(super) fn hash(token: &str) -> Hashed {
    let digest = digest::digest(&digest::SHA256, token.as_bytes());
    let mut octets = [0; 32];
    // SHA-256 has 32 octets.
    for (to, from) in octets.iter_mut().zip(digest.as_ref()) {
        *to = *from;
    }
    Hashed(octets)
}

/// Whether two tokens are the same, in a time that tells nothing.
pub(super) fn equal(one: &str, other: &str) -> bool {
    constant_time::verify_slices_are_equal(one.as_bytes(), other.as_bytes()).is_ok()
}
