//! A body from its file, in pieces, off the runtime's threads.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    sync::Arc,
};

use tokio::task::spawn_blocking;

use crate::mail::BodyFile;

/// Octets read at once: bounds the memory of a transaction whatever the message's size. Large,
/// because each hop between threads costs as much as copying this.
const PIECE: usize = 128 * 1024;

/// Reads a body.
#[derive(Debug)]
pub(super) struct Reader {
    body: Arc<BodyFile>,
    /// Opened with the first piece.
    file: Option<File>,
    piece: Vec<u8>,
    /// Where it begins.
    start: u64,
}

impl Reader {
    /// Reads from the octet `start` on.
    pub(super) fn new(body: &Arc<BodyFile>, start: u64) -> Self {
        Self {
            body: Arc::clone(body),
            file: None,
            piece: Vec::new(),
            start,
        }
    }

    /// The next piece; empty at the end. Not cancel safe: a piece may be missing then.
    pub(super) async fn next(&mut self) -> io::Result<&[u8]> {
        let (body, file, start) = (Arc::clone(&self.body), self.file.take(), self.start);
        let mut piece = std::mem::take(&mut self.piece);
        let read = spawn_blocking(move || {
            let file = match file {
                Some(file) => file,
                None => {
                    let mut file = File::open(&body.path)?;
                    file.seek(SeekFrom::Start(start))?;
                    file
                }
            };
            piece.clear();
            piece.reserve_exact(PIECE);
            let limit = u64::try_from(PIECE).unwrap_or(u64::MAX);
            (&file).take(limit).read_to_end(&mut piece)?;
            Ok::<_, io::Error>((file, piece))
        });
        let (file, piece) = read.await.map_err(io::Error::other).flatten()?;
        self.file = Some(file);
        self.piece = piece;
        Ok(&self.piece)
    }
}

/// The first octets of a body, at most `limit`.
pub(crate) async fn start_of(body: &Arc<BodyFile>, limit: usize) -> io::Result<Vec<u8>> {
    let body = Arc::clone(body);
    let read = spawn_blocking(move || {
        let mut start = Vec::new();
        let limit = u64::try_from(limit).unwrap_or(u64::MAX);
        File::open(&body.path)?
            .take(limit)
            .read_to_end(&mut start)?;
        Ok(start)
    });
    read.await.map_err(io::Error::other).flatten()
}
