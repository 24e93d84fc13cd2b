//! `gatepost queue export`: the octets and the envelope as files, for another system or a post-mortem.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;

use super::operate;
use crate::{
    admin::{
        api::QueueQuery,
        client::{Client, Error},
    },
    cli::{Context, reach},
    mail::{AccountName, QueueId},
};

/// Mail is for its owner's eyes.
const FILE_MODE: u32 = 0o600;

/// Arguments of `gatepost queue export`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    which: operate::Args,
    /// Where the files go
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
}

pub(super) async fn run(context: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    let client = reach::connect(&context.sources).await?;
    let which = &args.which;
    for id in &which.ids {
        let written = export(&client, *id, &args.dir).await?;
        context.printer.line(written.display())?;
    }
    if !which.ids.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let mut query = QueueQuery {
        account: which.account.as_deref().map(AccountName::new),
        sender: which.sender.clone(),
        ..QueueQuery::default()
    };
    loop {
        let page = client.queue(&query).await?;
        for entry in &page.entries {
            match export(&client, entry.id, &args.dir).await {
                Ok(written) => context.printer.line(written.display())?,
                // Delivered since the page was read: there is nothing left to export.
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(error),
            }
        }
        query.after = page.next;
        if query.after.is_none() {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

fn is_gone(error: &anyhow::Error) -> bool {
    let problem = error.downcast_ref::<Error>();
    problem.is_some_and(|error| matches!(error, Error::Problem(problem) if problem.status == 404))
}

/// Writes both files; the message's path.
async fn export(client: &Client, id: QueueId, dir: &Path) -> anyhow::Result<PathBuf> {
    let detail = client.queue_entry(id).await?;
    let message = dir.join(format!("{id}.eml"));
    let mut octets = client.queue_message(id).await?;
    let mut file = NewFile::create(&message)?;
    while let Some(chunk) = octets.chunk().await? {
        file.write(&chunk)?;
    }
    file.finish()?;
    let envelope = dir.join(format!("{id}.json"));
    let mut file = NewFile::create(&envelope)?;
    file.write(&serde_json::to_vec_pretty(&detail)?)?;
    file.write(b"\n")?;
    file.finish()?;
    Ok(message)
}

/// A file that appears under its name only when it is whole and on disk.
struct NewFile {
    file: fs::File,
    unfinished: PathBuf,
    path: PathBuf,
}

impl NewFile {
    fn create(path: &Path) -> anyhow::Result<Self> {
        let mut unfinished = path.as_os_str().to_owned();
        unfinished.push(".part");
        let unfinished = PathBuf::from(unfinished);
        let file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(FILE_MODE)
            .open(&unfinished)
            .with_context(|| unfinished.display().to_string())?;
        Ok(Self {
            file,
            unfinished,
            path: path.into(),
        })
    }

    fn write(&mut self, octets: &[u8]) -> io::Result<()> {
        self.file.write_all(octets)
    }

    fn finish(self) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.unfinished, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// Nobody sees half a message, and nobody else sees a whole one.
    #[test]
    fn a_file_appears_whole_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.eml");
        let mut file = NewFile::create(&path).unwrap();
        file.write(b"octets").unwrap();
        assert!(!path.exists());
        file.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"octets");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
