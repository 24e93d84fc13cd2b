//! An accepted message: header and body as one run of octets, immutable.

use std::{fmt, path::PathBuf, sync::Arc};

use bytes::Bytes;

/// SHA-256 over the whole message. Checked on every read from disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

/// A message as it leaves us, before dot-stuffing: CRLF line endings, no bare CR or LF, no NUL, and
/// a final CRLF. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Message {
    /// The octets.
    pub body: Body,
    /// Their number.
    pub size: u64,
    /// Their digest.
    pub digest: Digest,
}

/// Where the octets of a message are.
#[derive(Debug, Clone)]
pub enum Body {
    /// In memory (up to 256 KiB).
    Memory(Bytes),
    /// In a synced file beside the store.
    File(Arc<BodyFile>),
}

/// A message body in a file that the store owns.
#[derive(Debug)]
pub struct BodyFile {
    /// Its path; the store removes it when the last recipient is settled.
    pub path: PathBuf,
}
