//! Bodies too large for the database: files, synced with their directory before their row is
//! committed, removed only after their row is gone.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use aws_lc_rs::digest::{Context, SHA256};
use rusqlite::Connection;
use tokio::io::AsyncWriteExt;

use super::{
    Error,
    failure::{Failure, Fault, Health},
};
use crate::mail::{Body, BodyFile, Digest, Message, QueueId};

/// A planted symbolic link is an error, never followed.
pub(super) const NOFOLLOW: i32 = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
/// Read in pieces of this size while a digest is checked.
const PIECE: usize = 64 * 1024;
const UNFINISHED: &str = "tmp-";

/// The digest of octets in memory.
pub(super) fn digest(octets: &[u8]) -> Digest {
    let mut context = Context::new(&SHA256);
    context.update(octets);
    finish(context)
}

fn finish(context: Context) -> Digest {
    Digest(context.finish().as_ref().try_into().unwrap_or([0; 32]))
}

/// Where the body of `id` lies.
pub(super) fn path(bodies: &Path, id: QueueId) -> PathBuf {
    bodies.join(id.to_string())
}

/// Whether the file holds what was stored.
pub(super) fn verify(path: &Path, want: Digest) -> io::Result<bool> {
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(NOFOLLOW)
        .open(path)?;
    let mut context = Context::new(&SHA256);
    let mut piece = vec![0; PIECE];
    loop {
        let read = file.read(&mut piece)?;
        if read == 0 {
            return Ok(finish(context) == want);
        }
        context.update(piece.get(..read).unwrap_or_default());
    }
}

/// Removes a body whose row is gone. A file that stays is removed at the next start.
pub(super) fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(event = "body_not_removed", path = %path.display(), %error);
    }
}

/// At start: files of messages that were never acknowledged, or are settled, go; what is not ours
/// stays untouched.
pub(super) fn recover(bodies: &Path, connection: &Connection) -> Result<(), Error> {
    let failed = |e| Failure::io("looking through the body files", e).error();
    for file in fs::read_dir(bodies).map_err(failed)? {
        let file = file.map_err(failed)?;
        let name = file.file_name();
        let name = name.to_string_lossy();
        if !file.file_type().map_err(failed)?.is_file() {
            continue;
        }
        if name.starts_with(UNFINISHED) {
            remove(&file.path());
        } else if let Ok(id) = name.parse::<QueueId>() {
            let known = connection
                .prepare_cached("SELECT 1 FROM messages WHERE id = ?1")
                .and_then(|mut s| s.exists([id.as_i64()]))
                .map_err(|e| Failure::sqlite("looking through the body files", e).error())?;
            if !known {
                remove(&file.path());
            }
        }
    }
    Ok(())
}

/// A body being written to a file. Dropped unfinished, the file is removed.
#[derive(Debug)]
pub struct Spill {
    file: tokio::fs::File,
    unfinished: Option<PathBuf>,
    finished: PathBuf,
    context: DebugContext,
    size: u64,
    health: Arc<Health>,
}

struct DebugContext(Context);

impl std::fmt::Debug for DebugContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sha256")
    }
}

impl Spill {
    pub(super) async fn create(
        bodies: &Path,
        id: QueueId,
        health: Arc<Health>,
    ) -> Result<Self, Error> {
        let unfinished = bodies.join(format!("{UNFINISHED}{id}"));
        let file = tokio::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(NOFOLLOW)
            .open(&unfinished)
            .await
            .map_err(|e| Failure::io("making a body file", e).error())?;
        Ok(Self {
            file,
            unfinished: Some(unfinished),
            finished: path(bodies, id),
            context: DebugContext(Context::new(&SHA256)),
            size: 0,
            health,
        })
    }

    /// Appends octets.
    ///
    /// # Errors
    /// [`Error::Full`] or [`Error::Broken`].
    pub async fn write(&mut self, octets: &[u8]) -> Result<(), Error> {
        self.context.0.update(octets);
        self.size = self
            .size
            .saturating_add(u64::try_from(octets.len()).unwrap_or(u64::MAX));
        self.file
            .write_all(octets)
            .await
            .map_err(|e| Failure::io("writing a body file", e).error())
    }

    /// Syncs file and directory and gives the message.
    ///
    /// # Errors
    /// [`Error::Full`] or [`Error::Broken`]; a failed sync is the end of the store (the kernel
    /// forgets which pages it could not write).
    pub async fn finish(mut self) -> Result<Message, Error> {
        self.file
            .flush()
            .await
            .map_err(|e| Failure::io("writing a body file", e).error())?;
        let sync = async {
            self.file.sync_data().await?;
            let Some(unfinished) = &self.unfinished else {
                return Ok(());
            };
            tokio::fs::rename(unfinished, &self.finished).await?;
            let directory = self.finished.parent().unwrap_or(Path::new(".")).to_owned();
            tokio::task::spawn_blocking(move || File::open(directory)?.sync_all())
                .await
                .map_err(io::Error::other)?
        };
        if let Err(error) = sync.await {
            let failure = Failure::io("syncing a body file", error);
            if failure.fault != Fault::Full {
                self.health.poison(&failure);
            }
            return Err(failure.error());
        }
        self.unfinished = None;
        let context = std::mem::replace(&mut self.context.0, Context::new(&SHA256));
        Ok(Message {
            body: Body::File(Arc::new(BodyFile {
                path: self.finished.clone(),
            })),
            size: self.size,
            digest: finish(context),
        })
    }
}

impl Drop for Spill {
    fn drop(&mut self) {
        if let Some(unfinished) = &self.unfinished {
            remove(unfinished);
        }
    }
}
