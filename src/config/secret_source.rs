//! Where a secret comes from: a text, a file, a variable, a systemd credential or a command.
//!
//! A source is read once, when the configuration is loaded (and again at each reload). Neither the
//! secret nor a command's output ever stands in a problem; what a command says on standard error
//! does, its first line.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{RecvTimeoutError, sync_channel},
    time::Duration,
};

use figment::value::Dict;

use super::{
    field::{Leaf, Raw, Wrong},
    layers::Variables,
    nearest::nearest,
};
use crate::secret::Secret;

/// Longer commands hang: a secret store answers at once or is not there.
const COMMAND_WAIT: Duration = Duration::from_secs(10);

/// How often a command that has closed its output is asked whether it has ended: at once, usually.
const EXIT_POLL: Duration = Duration::from_millis(5);

/// No password, key or token is longer.
const SECRET_LEN_MAX: u64 = 64 * 1024;

/// The keys of a source.
const SOURCES: [&str; 4] = ["file", "env", "credential", "command"];

/// Where a secret comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SecretSource {
    /// It stands in the configuration itself.
    Text(Secret),
    /// The first line of a file.
    File(PathBuf),
    /// A variable.
    Env(String),
    /// A file in `$CREDENTIALS_DIRECTORY`.
    Credential(String),
    /// The first line that a command prints.
    Command(Vec<String>),
}

/// Why a source gives no secret: what, and the remedy.
pub(super) type Refusal = (String, String);

impl Leaf for SecretSource {
    const REMEDY: &'static str = "write a text in double quotes, { file = \"..\" }, { env = \"..\" }, { credential = \"..\" } or { command = [\"..\"] }";
    const SECRET: bool = true;

    fn parse(raw: &Raw<'_>) -> Result<Self, Wrong> {
        match raw.value.as_dict() {
            Some(table) => Self::parse_table(table, raw),
            None => raw.text().map(|text| Self::Text(Secret::new(text))),
        }
    }

    fn is_literal_secret(&self) -> bool {
        matches!(self, Self::Text(_))
    }
}

impl AsRef<Self> for SecretSource {
    fn as_ref(&self) -> &Self {
        self
    }
}

/// Where a proxy's URL comes from. It is a secret for the login that may stand in it; without one it
/// is none.
#[derive(Debug, Clone)]
pub(super) struct ProxySource(SecretSource);

impl Leaf for ProxySource {
    const REMEDY: &'static str =
        "write \"http://HOST:PORT\", or a source as { env = \"HTTPS_PROXY\" } or { file = \"..\" }";
    const SECRET: bool = true;

    fn parse(raw: &Raw<'_>) -> Result<Self, Wrong> {
        SecretSource::parse(raw).map(Self)
    }

    fn is_literal_secret(&self) -> bool {
        matches!(&self.0, SecretSource::Text(url) if url.expose().contains('@'))
    }
}

impl AsRef<SecretSource> for ProxySource {
    fn as_ref(&self) -> &SecretSource {
        &self.0
    }
}

impl SecretSource {
    fn parse_table(table: &Dict, raw: &Raw<'_>) -> Result<Self, Wrong> {
        if raw.is_made {
            // Whoever may use the console may not thereby run commands and read files here.
            return Err(Wrong::with_remedy(
                "is no text",
                "write the secret itself; sources can be named in the configuration file alone",
            ));
        }
        let mut entries = table.iter();
        let (Some((key, value)), None) = (entries.next(), entries.next()) else {
            return Err(Wrong::new("names not exactly one source"));
        };
        let inner = Raw { value, ..*raw };
        let text = || match inner.text()? {
            "" => Err(Wrong::new(format!("{key} is empty"))),
            text => Ok(text.to_owned()),
        };
        match key.as_str() {
            "file" => Ok(Self::File(inner.path(&text()?))),
            "env" => Ok(Self::Env(text()?)),
            "credential" => credential_name(text()?),
            "command" => {
                let words = inner.texts()?;
                if words.is_empty() {
                    return Err(Wrong::new("command is empty"));
                }
                Ok(Self::Command(
                    words.into_iter().map(str::to_owned).collect(),
                ))
            }
            other => Err(match nearest(other, SOURCES) {
                Some(near) => Wrong::with_remedy("unknown source", format!("did you mean {near}?")),
                None => Wrong::new("unknown source"),
            }),
        }
    }

    /// Reads the secret. Blocking; a command has ten seconds.
    pub(super) fn resolve(&self, variables: &Variables) -> Result<Secret, Refusal> {
        let secret = match self {
            Self::Text(secret) => Ok(secret.clone()),
            Self::File(path) => read(path),
            Self::Env(name) => variables.get(name).map(|v| Secret::new(v.as_str())).ok_or((
                format!("the variable {name} is not set"),
                "set it for the daemon, or name another source".to_owned(),
            )),
            Self::Credential(name) => match variables.get("CREDENTIALS_DIRECTORY") {
                Some(folder) => read(&Path::new(folder).join(name)),
                None => Err((
                    "systemd passed no credentials ($CREDENTIALS_DIRECTORY is not set)".to_owned(),
                    format!(
                        "add LoadCredential={name}:/path to the unit, or use {{ file = \"..\" }}"
                    ),
                )),
            },
            Self::Command(words) => run(words),
        }?;
        if secret.is_empty() {
            let remedy = "put the secret there, on the first line";
            return Err(("the source is empty".to_owned(), remedy.to_owned()));
        }
        Ok(secret)
    }
}

/// A credential is a file name, never a path out of the folder.
fn credential_name(name: String) -> Result<SecretSource, Wrong> {
    if name.contains('/') || name == ".." || name == "." {
        return Err(Wrong::with_remedy(
            "a credential has a name, not a path",
            "use { file = \"..\" } for a path",
        ));
    }
    Ok(SecretSource::Credential(name))
}

/// The first line of a file.
pub(super) fn read(path: &Path) -> Result<Secret, Refusal> {
    let file = fs::File::open(path).map_err(|error| {
        (
            format!("{} cannot be read: {error}", path.display()),
            "let the user that gatepost runs as read it".to_owned(),
        )
    })?;
    first_line(file).ok_or_else(|| {
        (
            format!("{} is not text", path.display()),
            "put the secret there as text, on the first line".to_owned(),
        )
    })
}

/// The first line, without its end. `None`: not text, or it broke off.
fn first_line(source: impl Read) -> Option<Secret> {
    let mut text = zeroize::Zeroizing::new(String::new());
    source.take(SECRET_LEN_MAX).read_to_string(&mut text).ok()?;
    Some(Secret::new(text.lines().next().unwrap_or_default()))
}

fn run(words: &[String]) -> Result<Secret, Refusal> {
    let (program, arguments) = words.split_first().ok_or_else(|| refused("is empty"))?;
    let remedy =
        || format!("run `{program}` as the user that gatepost runs as and see what it says");
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| (format!("{program} cannot be run: {error}"), remedy()))?;
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(refused("gave no output"));
    };
    // Both are read to their end beside the wait: a full pipe would hold the command up.
    let (secret, got_secret) = sync_channel(1);
    let (said, got_said) = sync_channel(1);
    let readers = [
        std::thread::Builder::new().spawn(move || secret.send(first_line(stdout)).is_ok()),
        std::thread::Builder::new().spawn(move || said.send(first_line(stderr)).is_ok()),
    ];
    if let Some(error) = readers.into_iter().find_map(Result::err) {
        stop(&mut child);
        return Err((format!("{program} cannot be read: {error}"), remedy()));
    }
    let secret = match got_secret.recv_timeout(COMMAND_WAIT) {
        Ok(secret) => secret,
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
            stop(&mut child);
            let what = format!("{program} took longer than {} s", COMMAND_WAIT.as_secs());
            return Err((what, remedy()));
        }
    };
    let said = got_said.recv_timeout(COMMAND_WAIT).ok().flatten();
    if let Some(status) = failure(&mut child) {
        let said = said.map_or_else(String::new, |s| printable(s.expose()));
        return Err((format!("{program} failed ({status}): {said}"), remedy()));
    }
    secret.ok_or_else(|| (format!("{program} did not print text"), remedy()))
}

/// How a command failed that has closed its output. `None`: it went well.
fn failure(child: &mut Child) -> Option<String> {
    for _ in 0..COMMAND_WAIT.as_millis() / EXIT_POLL.as_millis() {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return None,
            Ok(Some(status)) => return Some(status.to_string()),
            Ok(None) => std::thread::park_timeout(EXIT_POLL),
            Err(error) => return Some(error.to_string()),
        }
    }
    stop(child);
    Some("it closed its output and did not end".to_owned())
}

fn refused(what: &str) -> Refusal {
    (
        format!("the command {what}"),
        SecretSource::REMEDY.to_owned(),
    )
}

/// Whatever a command says on standard error, on one line.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

/// Ends a command that hangs, and takes its exit status so that nothing of it stays.
fn stop(child: &mut Child) {
    if let Err(error) = child.kill().and_then(|()| child.wait().map(|_| ())) {
        tracing::warn!(event = "command_not_stopped", %error);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(words: &[&str]) -> SecretSource {
        SecretSource::Command(words.iter().map(ToString::to_string).collect())
    }

    /// Each source gives its first line without the line end.
    #[test]
    fn every_source_gives_its_first_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        fs::write(&path, "from a file\r\nsecond\n").unwrap();
        let variables: Variables = [
            ("NAME".to_owned(), "from a variable".to_owned()),
            (
                "CREDENTIALS_DIRECTORY".to_owned(),
                folder.path().display().to_string(),
            ),
        ]
        .into();
        for (source, want) in [
            (SecretSource::Text(Secret::new("text")), "text"),
            (SecretSource::File(path), "from a file"),
            (SecretSource::Env("NAME".into()), "from a variable"),
            (SecretSource::Credential("secret".into()), "from a file"),
            (command(&["printf", "printed\\nsecond\\n"]), "printed"),
        ] {
            let got = source.resolve(&variables).unwrap();
            assert_eq!(got.expose(), want, "{source:?}");
        }
    }

    /// A source that gives nothing says why; what it printed stays out of it.
    #[test]
    fn a_source_that_fails_says_why_and_tells_no_secret() {
        let folder = tempfile::tempdir().unwrap();
        let empty = folder.path().join("empty");
        fs::write(&empty, "\n").unwrap();
        let binary = folder.path().join("binary");
        fs::write(&binary, [0xff, 0xfe]).unwrap();
        for (source, want) in [
            (SecretSource::File("/nonexistent".into()), "cannot be read"),
            (SecretSource::File(empty), "the source is empty"),
            (SecretSource::File(binary), "is not text"),
            (SecretSource::Env("NAME".into()), "NAME is not set"),
            (
                SecretSource::Credential("x".into()),
                "$CREDENTIALS_DIRECTORY is not set",
            ),
            (command(&["/nonexistent"]), "cannot be run"),
            (
                command(&["sh", "-c", "echo canary; echo vault is sealed >&2; exit 3"]),
                "sh failed (exit status: 3): vault is sealed",
            ),
            (command(&["true"]), "the source is empty"),
        ] {
            let (what, remedy) = source.resolve(&Variables::new()).unwrap_err();
            assert!(what.contains(want), "{what:?}");
            assert!(!what.contains("canary") && !remedy.is_empty());
        }
    }
}
