//! Messages to take away, as `gatepost queue export` writes them: `ID.eml` and `ID.json`, many of them
//! in one tar archive. Unpacked into a directory, `gatepost queue import DIR` takes them back.
//!
//! An archive is made while it is read, one message at a time: no length of the queue costs memory.

use std::{io, sync::Arc};

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_util::io::ReaderStream;

use super::{
    Shared,
    api::{Problem, QueueDetail},
    made::Who,
    problem::chain,
    search::Search,
};
use crate::{
    mail::{self, Message, QueueId},
    store,
};

/// Octets on their way to a reader at once.
const BUFFER_LEN: usize = 64 * 1024;
/// Messages found at once.
const FOUND_MAX: usize = 500;
/// Everything in an archive begins at a multiple of this.
const BLOCK_LEN: usize = 512;
/// Mail is for its owner's eyes.
const FILE_MODE: u32 = 0o600;
/// The file that says what could not be read.
const FAILURES: &str = "FAILED.txt";
/// Lines of that file: a disk that reads nothing would fill it without end.
const FAILURES_MAX: usize = 1000;

const TAR: HeaderValue = HeaderValue::from_static("application/x-tar");
const MESSAGE: HeaderValue = HeaderValue::from_static("message/rfc822");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// What is exported.
#[derive(Debug, Clone)]
pub(super) enum Wanted {
    /// These.
    Ids(Vec<QueueId>),
    /// All that a search finds.
    Found(Search),
}

impl Shared {
    /// One message's octets as a file to save.
    pub(super) async fn export_message(&self, id: QueueId, who: &Who) -> Result<Response, Problem> {
        let read = self.parts.queue.read(id).await?;
        let (_, message) = read.ok_or_else(|| Problem::no_message(id))?;
        let body = match message.body {
            mail::Body::Memory(octets) => Body::from(octets),
            mail::Body::File(file) => {
                let opened = tokio::fs::File::open(&file.path).await;
                let opened = opened.map_err(|error| Problem::unreadable(&error))?;
                Body::from_stream(ReaderStream::with_capacity(opened, BUFFER_LEN))
            }
        };
        who.read(id);
        Ok(attachment(MESSAGE, &format!("{id}.eml"), body))
    }

    /// One message's envelope as a file to save.
    pub(super) async fn export_envelope(&self, id: QueueId) -> Result<Response, Problem> {
        let detail = self.detail(id).await?;
        let detail = detail.ok_or_else(|| Problem::no_message(id))?;
        Ok(attachment(
            JSON,
            &format!("{id}.json"),
            envelope(&detail).into(),
        ))
    }

    /// Many messages as an archive to save, made while it is read. Those that leave the queue
    /// meanwhile are left out; what cannot be read is listed in a file at its end.
    pub(super) fn export(self: &Arc<Self>, wanted: Wanted, who: Who) -> Response {
        let now = self.parts.clock.now();
        let (write, read) = tokio::io::duplex(BUFFER_LEN);
        let shared = Arc::clone(self);
        self.parts.tasks.spawn("queue_export", async move {
            let mut archive = Archive {
                out: write,
                now,
                failures: Vec::new(),
            };
            let made = async {
                shared.archive(&mut archive, wanted, &who).await?;
                archive.finish().await
            };
            tokio::select! {
                made = made => if let Err(error) = made {
                    tracing::debug!(event = "client_left", name = "queue_export", %error);
                },
                () = shared.parts.tasks.stopped() => {}
            }
        });
        let name = format!("gatepost-queue-{}.tar", now.strftime("%Y%m%d-%H%M%S"));
        attachment(TAR, &name, Body::from_stream(ReaderStream::new(read)))
    }

    /// Puts everything that is wanted into the archive.
    ///
    /// # Errors
    /// The reader has gone.
    async fn archive(&self, archive: &mut Archive, wanted: Wanted, who: &Who) -> io::Result<()> {
        let search = match wanted {
            Wanted::Ids(ids) => {
                for id in ids {
                    self.archive_one(archive, id, who).await?;
                }
                return Ok(());
            }
            Wanted::Found(search) => search,
        };
        let mut after = None;
        loop {
            let found = match self.search_queue(&search, after, FOUND_MAX).await {
                Ok(found) => found,
                Err(error) => {
                    archive.failed(&format!("the queue cannot be listed: {}", chain(&error)));
                    return Ok(());
                }
            };
            let ids: Vec<QueueId> = found.entries.iter().map(|(entry, _)| entry.id).collect();
            for id in ids {
                self.archive_one(archive, id, who).await?;
            }
            after = found.next;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    async fn archive_one(&self, archive: &mut Archive, id: QueueId, who: &Who) -> io::Result<()> {
        match self.files(id).await {
            Ok(Some((detail, message))) => {
                who.read(id);
                let at = detail.entry.received_at;
                archive.message(&format!("{id}.eml"), at, &message).await?;
                let envelope = envelope(&detail);
                archive.file(&format!("{id}.json"), at, &envelope).await
            }
            // Delivered since the search: there is nothing left to export.
            Ok(None) => Ok(()),
            Err(error) => {
                archive.failed(&format!("{id}: {}", chain(&error)));
                Ok(())
            }
        }
    }

    async fn files(&self, id: QueueId) -> Result<Option<(QueueDetail, Message)>, store::Error> {
        let Some(detail) = self.detail(id).await? else {
            return Ok(None);
        };
        let read = self.parts.queue.read(id).await?;
        Ok(read.map(|(_, message)| (detail, message)))
    }
}

/// A tar archive under way.
struct Archive {
    out: DuplexStream,
    now: Timestamp,
    failures: Vec<String>,
}

impl Archive {
    fn failed(&mut self, why: &str) {
        tracing::warn!(event = "export_incomplete", reason = why);
        if self.failures.len() < FAILURES_MAX {
            self.failures.push(why.to_owned());
        }
    }

    async fn message(&mut self, name: &str, at: Timestamp, message: &Message) -> io::Result<()> {
        match &message.body {
            mail::Body::Memory(octets) => self.file(name, at, octets).await,
            mail::Body::File(file) => {
                // Once open, the file outlives its name.
                let opened = async {
                    let file = tokio::fs::File::open(&file.path).await?;
                    let len = file.metadata().await?.len();
                    io::Result::Ok((file, len))
                };
                let (file, len) = match opened.await {
                    Ok(opened) => opened,
                    Err(error) => {
                        self.failed(&format!("{name}: {error}"));
                        return Ok(());
                    }
                };
                self.head(name, at, len).await?;
                let copied = tokio::io::copy(&mut file.take(len), &mut self.out).await?;
                self.pad(copied).await
            }
        }
    }

    async fn file(&mut self, name: &str, at: Timestamp, octets: &[u8]) -> io::Result<()> {
        let len = u64::try_from(octets.len()).unwrap_or(u64::MAX);
        self.head(name, at, len).await?;
        self.out.write_all(octets).await?;
        self.pad(len).await
    }

    async fn head(&mut self, name: &str, at: Timestamp, len: u64) -> io::Result<()> {
        let mut head = tar::Header::new_ustar();
        head.set_path(name)?;
        head.set_size(len);
        head.set_mode(FILE_MODE);
        head.set_mtime(u64::try_from(at.as_second()).unwrap_or(0));
        head.set_entry_type(tar::EntryType::Regular);
        head.set_cksum();
        self.out.write_all(head.as_bytes()).await
    }

    /// Fills the last block.
    async fn pad(&mut self, len: u64) -> io::Result<()> {
        let block = u64::try_from(BLOCK_LEN).unwrap_or(u64::MAX);
        let missing = usize::try_from(len.next_multiple_of(block) - len).unwrap_or(0);
        let zeros = [0_u8; BLOCK_LEN];
        self.out
            .write_all(zeros.get(..missing).unwrap_or_default())
            .await
    }

    /// What went wrong, and the two empty blocks that end an archive.
    async fn finish(&mut self) -> io::Result<()> {
        if !self.failures.is_empty() {
            let text = format!("These are missing:\n{}\n", self.failures.join("\n"));
            self.file(FAILURES, self.now, text.as_bytes()).await?;
        }
        self.out.write_all(&[0; 2 * BLOCK_LEN]).await?;
        self.out.shutdown().await
    }
}

/// The envelope as the command line writes it beside the message.
fn envelope(detail: &QueueDetail) -> Vec<u8> {
    let mut json = serde_json::to_vec_pretty(detail).unwrap_or_default();
    json.push(b'\n');
    json
}

/// A file to save, never to show: what strangers wrote must not run as a page of ours.
fn attachment(kind: HeaderValue, name: &str, body: Body) -> Response {
    const NOSNIFF: (HeaderName, HeaderValue) = (
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    // Names are made here, of ids and times.
    let Ok(disposition) = HeaderValue::try_from(format!("attachment; filename=\"{name}\"")) else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let fields = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_DISPOSITION, disposition),
        NOSNIFF,
    ];
    (fields, body).into_response()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    /// What we write is an archive to somebody else's reader: names, lengths (also none, and exactly a
    /// block), and the list of what is missing.
    #[tokio::test]
    async fn an_archive_is_read_back() {
        let (write, mut read) = tokio::io::duplex(1024 * 1024);
        let mut archive = Archive {
            out: write,
            now: Timestamp::UNIX_EPOCH,
            failures: Vec::new(),
        };
        let at = Timestamp::from_second(1_800_000_000).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("body");
        std::fs::write(&path, vec![b'x'; 70_000]).unwrap();
        let message = Message {
            body: mail::Body::File(Arc::new(mail::BodyFile { path })),
            size: 70_000,
            digest: mail::Digest([0; 32]),
        };
        archive.file("a.eml", at, &[]).await.unwrap();
        archive.file("b.eml", at, &[b'y'; BLOCK_LEN]).await.unwrap();
        archive.message("c.eml", at, &message).await.unwrap();
        archive.failed("d: broken");
        archive.finish().await.unwrap();
        let mut octets = Vec::new();
        read.read_to_end(&mut octets).await.unwrap();
        assert_eq!(octets.len() % BLOCK_LEN, 0);
        let mut reader = tar::Archive::new(octets.as_slice());
        let mut found = Vec::new();
        for entry in reader.entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            let mut text = Vec::new();
            entry.read_to_end(&mut text).unwrap();
            assert_eq!(entry.header().mode().unwrap(), FILE_MODE);
            found.push((name, text.len(), text.first().copied()));
        }
        let wanted = [
            ("a.eml", 0, None),
            ("b.eml", BLOCK_LEN, Some(b'y')),
            ("c.eml", 70_000, Some(b'x')),
            (
                FAILURES,
                "These are missing:\nd: broken\n".len(),
                Some(b'T'),
            ),
        ];
        let wanted = wanted.map(|(name, len, first)| (name.to_owned(), len, first));
        assert_eq!(found, wanted);
    }
}
