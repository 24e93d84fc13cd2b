//! Bodies too large for the database: files, synced with their directory before their row is
//! committed, removed only after their row is gone.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use aws_lc_rs::digest::{Context, SHA256};
use rusqlite::Connection;
use tokio::task::{JoinHandle, spawn_blocking};

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

/// A body being written to a file, a piece in the background while the next one is gathered: each
/// hop between threads costs more than the octets in it. Dropped unfinished, the file is removed.
#[derive(Debug)]
pub struct Spill {
    /// `None` while a piece is being written.
    idle: Option<Writer>,
    writing: Option<JoinHandle<Written>>,
    health: Arc<Health>,
}

impl Spill {
    pub(super) fn new(bodies: &Path, id: QueueId, health: Arc<Health>) -> Self {
        let writer = Writer {
            file: None,
            path: bodies.join(format!("{UNFINISHED}{id}")),
            finished: path(bodies, id),
            context: Context::new(&SHA256),
            size: 0,
            kept: false,
        };
        Self {
            idle: Some(writer),
            writing: None,
            health,
        }
    }

    /// Appends octets; gives an empty buffer to go on with. That they are written is known only
    /// when the next call, or [`Spill::finish`], returns.
    ///
    /// # Errors
    /// [`Error::Full`] or [`Error::Broken`], of these octets or of earlier ones. The file is gone.
    ///
    /// # Cancel safety
    /// Not cancel safe: the octets may be missing.
    pub async fn write(&mut self, mut octets: Vec<u8>) -> Result<Vec<u8>, Error> {
        let (mut writer, spare) = self.writer().await?;
        self.writing = Some(spawn_blocking(move || {
            writer.append(&octets)?;
            octets.clear();
            Ok((writer, octets))
        }));
        Ok(spare)
    }

    /// Appends the last octets, syncs file and directory, and gives the message.
    ///
    /// # Errors
    /// [`Error::Full`] or [`Error::Broken`]; a failed sync is the end of the store (the kernel
    /// forgets which pages it could not write).
    ///
    /// # Cancel safety
    /// Cancelled, the file is removed.
    pub async fn finish(mut self, rest: Vec<u8>) -> Result<Message, Error> {
        let (mut writer, _) = self.writer().await?;
        let health = Arc::clone(&self.health);
        let finished = spawn_blocking(move || {
            let failed = |error| Failure::io("writing a body file", error);
            writer.append(&rest).map_err(failed)?;
            writer.sync().map_err(|error| {
                let failure = Failure::io("syncing a body file", error);
                if failure.fault != Fault::Full {
                    health.poison(&failure);
                }
                failure
            })?;
            Ok::<_, Failure>(writer)
        });
        let gone = |error| Failure::io("writing a body file", io::Error::other(error));
        let mut writer = match finished.await {
            Ok(written) => written.map_err(|failure| failure.error())?,
            Err(error) => return Err(gone(error).error()),
        };
        writer.kept = true;
        let context = std::mem::replace(&mut writer.context, Context::new(&SHA256));
        Ok(Message {
            body: Body::File(Arc::new(BodyFile {
                path: writer.finished.clone(),
            })),
            size: writer.size,
            digest: finish(context),
        })
    }

    /// The writer, when the piece before is written, and that piece's buffer.
    async fn writer(&mut self) -> Result<(Writer, Vec<u8>), Error> {
        if let Some(writer) = self.idle.take() {
            return Ok((writer, Vec::new()));
        }
        let written = match self.writing.take() {
            Some(writing) => writing.await.map_err(io::Error::other).flatten(),
            None => Err(io::Error::other("a piece before failed")),
        };
        written.map_err(|error| Failure::io("writing a body file", error).error())
    }
}

/// The writer after a piece, and the piece's buffer, empty again.
type Written = io::Result<(Writer, Vec<u8>)>;

/// The file, and what is known of its octets. Works on threads that may block.
struct Writer {
    /// Made with the first octets.
    file: Option<File>,
    path: PathBuf,
    finished: PathBuf,
    context: Context,
    size: u64,
    /// Whether somebody else answers for the file now.
    kept: bool,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Writer {
    fn append(&mut self, octets: &[u8]) -> io::Result<()> {
        self.context.update(octets);
        self.size = self
            .size
            .saturating_add(u64::try_from(octets.len()).unwrap_or(u64::MAX));
        self.file()?.write_all(octets)
    }

    fn file(&mut self) -> io::Result<&mut File> {
        let file = match self.file.take() {
            Some(file) => file,
            None => OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .custom_flags(NOFOLLOW)
                .open(&self.path)?,
        };
        Ok(self.file.insert(file))
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file()?.sync_data()?;
        fs::rename(&self.path, &self.finished)?;
        self.path.clone_from(&self.finished);
        File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.file.is_some() && !self.kept {
            remove(&self.path);
        }
    }
}
