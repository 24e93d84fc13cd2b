//! `gatepost queue import`: exported messages come back, with everything that was known about them.
//!
//! A message that is in the queue is refused by its id. One that has left it since is not known any
//! more: so the envelope of an imported message is renamed, and a second run does not send it twice.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;

use crate::{
    admin::{
        api::QueueDetail,
        client::{Client, Error},
    },
    cli::{Context, reach, text},
    mail::AccountName,
};

/// What an envelope is called after it was imported.
const DONE: &str = "json.imported";

/// Arguments of `gatepost queue import`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Envelopes (ID.json, beside its ID.eml), or directories with them
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    /// The account that sends them, if it is not the one they were exported from
    #[arg(long, value_name = "NAME")]
    account: Option<String>,
}

pub(super) async fn run(context: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    let client = reach::connect(&context.sources).await?;
    let account = args.account.as_deref().map(AccountName::new);
    let (mut done, mut refused) = (0_u64, 0_u64);
    for path in &args.paths {
        for envelope in envelopes(path).with_context(|| path.display().to_string())? {
            match import(&client, &envelope, account.as_ref()).await {
                Ok(()) => {
                    done += 1;
                    context.printer.line(envelope.display())?;
                }
                Err(error) => {
                    refused += 1;
                    let error = format_args!("{}: {error:#}", envelope.display());
                    context.printer.error(error);
                }
            }
        }
    }
    let line = format_args!("{} imported", text::messages(done));
    context.printer.line(line)?;
    if done == 0 && refused == 0 {
        let line = "there is no envelope (ID.json) that has not been imported before";
        context.printer.line(line)?;
    }
    Ok(if refused == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The envelopes a path stands for, oldest first.
fn envelopes(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.with_extension("json")]);
    }
    let mut found = Vec::new();
    for file in fs::read_dir(path)? {
        let file = file?.path();
        if file.extension().is_some_and(|is| is == "json") {
            found.push(file);
        }
    }
    found.sort();
    Ok(found)
}

async fn import(client: &Client, path: &Path, account: Option<&AccountName>) -> anyhow::Result<()> {
    if !path.exists() && path.with_extension(DONE).exists() {
        anyhow::bail!("was imported before; rename {DONE} to json to import it again");
    }
    let envelope = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => anyhow::bail!(
            "is not there; name what `gatepost queue export` wrote: ID.json, or the directory with them"
        ),
        read => read?,
    };
    let mut detail: QueueDetail =
        serde_json::from_slice(&envelope).context("it is no envelope of an export")?;
    if let Some(account) = account {
        detail.entry.account = account.clone();
    }
    let message = path.with_extension("eml");
    let message = tokio::fs::File::open(&message)
        .await
        .with_context(|| message.display().to_string())?;
    match client.queue_import(&detail, message).await {
        Ok(_) => {}
        Err(Error::Problem(problem)) => {
            let remedy = problem.remedy.map(|remedy| format!("; {remedy}"));
            anyhow::bail!("{}{}", problem.detail, remedy.unwrap_or_default());
        }
        Err(error @ (Error::Connect { .. } | Error::Http(_))) => return Err(error.into()),
    }
    fs::rename(path, path.with_extension(DONE)).with_context(|| {
        format!(
            "it is in the queue, but the file cannot be renamed to {DONE}: do so, or take it away"
        )
    })
}
