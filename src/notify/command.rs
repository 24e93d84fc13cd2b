//! A command: the notice as JSON on standard input and as a few variables. No shell.
//!
//! It gets the variables of a notice and the places of programs, nothing else of our environment,
//! in which secrets may stand. The variables begin with `GATEPOST_NOTICE_`, which the configuration
//! does not read, so a command may itself call `gatepost`.

use std::{os::unix::process::CommandExt, process::Stdio, time::Duration};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
};

use super::{Failure, Notice};

/// Runs `words` for a notice; done when it ends, well, within [`DEADLINE`].
///
/// # Cancel safety
/// Dropping the future kills the command.
pub(super) async fn run(words: &[String], notice: &Notice, json: &[u8]) -> Result<String, Failure> {
    let (program, arguments) = words
        .split_first()
        .ok_or_else(|| Failure::last("it has no words"))?;
    let child = command(program, arguments, notice).spawn();
    let child = child.map_err(|error| Failure::last(format!("it cannot be run: {error}")))?;
    let mut group = Group::new(child);
    let ended = tokio::time::timeout(DEADLINE, converse(&mut group.child, json)).await;
    let Ok(ended) = ended else {
        let seconds = DEADLINE.as_secs();
        return Err(Failure::last(format!(
            "it took longer than {seconds} s and was killed"
        )));
    };
    let (status, said) = ended.map_err(|error| Failure::last(error.to_string()))?;
    if status.success() {
        return Ok("it ended well".to_owned());
    }
    let said = printable(&said);
    Err(Failure::last(format!("it failed ({status}): {said}")))
}

fn command(program: &str, arguments: &[String], notice: &Notice) -> Command {
    let mut command = std::process::Command::new(program);
    // With its children, so that all of them can be ended.
    command.process_group(0);
    let mut command = Command::from(command);
    command.args(arguments).env_clear();
    let kept = std::env::vars_os().filter(|(name, _)| KEPT.iter().any(|kept| name == kept));
    let account = notice.account.as_ref();
    command
        .envs(kept)
        .env("GATEPOST_NOTICE_EVENT", notice.event.name())
        .env("GATEPOST_NOTICE_KIND", notice.kind.name())
        .env(
            "GATEPOST_NOTICE_ACCOUNT",
            account.map_or("", |a| a.as_str()),
        )
        .env("GATEPOST_NOTICE_TITLE", one_line(&notice.title))
        .env("GATEPOST_NOTICE_REASON", one_line(&notice.reason))
        .env("GATEPOST_NOTICE_REMEDY", one_line(&notice.remedy))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

/// Gives the JSON and waits for the end: how it ended, and the first of what it said.
async fn converse(
    child: &mut Child,
    json: &[u8],
) -> std::io::Result<(std::process::ExitStatus, Vec<u8>)> {
    let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
    let give = async {
        if let Some(mut stdin) = stdin {
            // A command that does not want to read is no failure.
            stdin.write_all(json).await.unwrap_or_default();
        }
    };
    let hear = async {
        let mut said = Vec::new();
        if let Some(mut stderr) = stderr {
            let mut first = (&mut stderr).take(SAID_MAX);
            first.read_to_end(&mut said).await.unwrap_or_default();
            // The rest too, so that it never waits for us.
            let mut rest = tokio::io::sink();
            tokio::io::copy(&mut stderr, &mut rest)
                .await
                .unwrap_or_default();
        }
        said
    };
    let end = async {
        // Its children may keep the pipe open; its own end is what counts.
        let status = child.wait().await;
        tokio::time::sleep(LAST_WORDS).await;
        status
    };
    tokio::pin!(end);
    let mut said = Vec::new();
    let both = async { tokio::join!(give, hear).1 };
    tokio::pin!(both);
    let status = tokio::select! {
        all = &mut both => { said = all; end.await }
        status = &mut end => status,
    };
    Ok((status?, said))
}

/// A command with its children; what is left of them when it is dropped is killed.
struct Group {
    child: Child,
    id: Option<Pid>,
}

impl Group {
    fn new(child: Child) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        let id = id.and_then(Pid::from_raw);
        Self { child, id }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Ended and waited for, its number may belong to another by now: its children, if there are
        // any, are its own business then.
        if let (Ok(None), Some(id)) = (self.child.try_wait(), self.id) {
            kill_process_group(id, Signal::KILL).unwrap_or_default();
        }
    }
}

fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// What a command says on standard error, on one line.
fn printable(said: &[u8]) -> String {
    one_line(String::from_utf8_lossy(said).trim())
}

/// A command that tells somebody is quick, or hangs.
const DEADLINE: Duration = Duration::from_secs(30);
/// Between its end and the end of what it said.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// Octets of what it says that are kept.
const SAID_MAX: u64 = 200;
/// What of our environment a command gets.
const KEPT: [&str; 6] = ["PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR"];

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn words(script: &str) -> Vec<String> {
        ["sh", "-c", script].map(str::to_owned).into()
    }

    #[tokio::test]
    async fn it_gets_the_notice_and_nothing_of_our_environment() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let script = format!("cat > {0}; env >> {0}", out.display());
        let notice = Notice::test(Timestamp::UNIX_EPOCH);
        run(&words(&script), &notice, b"{\"a\":1}\n").await.unwrap();
        let told = std::fs::read_to_string(&out).unwrap();
        assert!(told.starts_with("{\"a\":1}\n"), "{told}");
        assert!(told.contains("GATEPOST_NOTICE_KIND=test\n"), "{told}");
        // Every test run has this one.
        assert!(!told.contains("CARGO"), "{told}");
    }

    #[tokio::test]
    async fn what_goes_wrong_is_told() {
        let notice = Notice::test(Timestamp::UNIX_EPOCH);
        for (words, wanted) in [
            (words("echo no such room >&2; exit 3"), "no such room"),
            (words("exit 3"), "it failed (exit status: 3)"),
            (vec!["/nonexistent".to_owned()], "cannot be run"),
            (Vec::new(), "no words"),
        ] {
            let failure = run(&words, &notice, b"{}").await.unwrap_err();
            assert!(failure.what.contains(wanted), "{failure:?}");
            assert!(!failure.again);
        }
        // One that reads nothing of a large notice, and one that leaves a child behind.
        for script in ["exit 0", "sleep 600 & exit 0"] {
            let json = vec![b' '; 1024 * 1024];
            run(&words(script), &notice, &json).await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_hangs_is_given_up() {
        let notice = Notice::test(Timestamp::UNIX_EPOCH);
        let failure = run(&words("sleep 600"), &notice, b"{}").await.unwrap_err();
        assert!(failure.what.contains("longer than 30 s"), "{failure:?}");
    }

    #[tokio::test]
    async fn one_that_is_given_up_is_killed_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        let path = fifo.display();
        let script = format!(
            "mkfifo {path}.new; mv {path}.new {path}; exec 3> {path}; sleep 600 & sleep 600"
        );
        let notice = Notice::test(Timestamp::UNIX_EPOCH);
        let words = words(&script);
        let running = run(&words, &notice, b"{}");
        let opened = async {
            while !fifo.exists() {
                tokio::task::yield_now().await;
            }
            // Returns once the script holds the other end.
            let open = tokio::task::spawn_blocking(move || std::fs::File::open(fifo));
            open.await.unwrap().unwrap()
        };
        let mut held = tokio::select! {
            ended = running => panic!("it should hang: {ended:?}"),
            held = opened => held,
        };
        // Ends when nobody holds the other end.
        let read = tokio::task::spawn_blocking(move || std::io::Read::read(&mut held, &mut [0]));
        assert_eq!(read.await.unwrap().unwrap(), 0);
    }
}
