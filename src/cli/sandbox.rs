//! `gatepost sandbox`: the practice provider, with a configuration that uses it.
//!
//! [`Practice`] is that configuration; `demo` uses it too.

use std::{
    fmt::Write as _,
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write as _},
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, bail};
use tokio::signal::unix::{SignalKind, signal};
use zeroize::Zeroizing;

use super::{Context, Printer};
use crate::{
    mail::Address,
    net::tasks::Tasks,
    sandbox::{Config, Sandbox, reachable},
    telemetry::log,
};

/// What a file written here begins with; a file that does not is somebody's and is left alone.
const MARK: &str = "# Written by `gatepost sandbox`";

/// What the key file begins with, which is JSON and has no comments.
const MARK_JSON: &str = "{\"written_by\":\"gatepost sandbox\"";

/// Sessions say goodbye within this.
const DRAIN_MAX: Duration = Duration::from_secs(3);

/// Arguments of `gatepost sandbox`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where the OAuth endpoints, the mailbox page and the fault script listen
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8026")]
    http: SocketAddr,
    /// Where SMTP with STARTTLS listens
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:5587")]
    smtp: SocketAddr,
    /// How long access tokens live: 90s, 10m, 1h
    #[arg(long, value_name = "TIME", default_value = "3600s", value_parser = lifetime)]
    token_lifetime: Duration,
    /// The mailbox that the consent page proposes
    #[arg(long, value_name = "ADDRESS", default_value = "alerts@example.com", value_parser = mailbox)]
    mailbox: String,
    /// A redirect URL beyond this machine, exactly as the relay will send it (may be repeated)
    #[arg(long, value_name = "URL")]
    redirect_url: Vec<String>,
    /// Write a configuration for `gatepost run --config FILE`, with the CA certificate and a service
    /// account's key beside it
    #[arg(long, value_name = "FILE")]
    write_config: Option<PathBuf>,
}

/// Runs the practice provider until it is interrupted.
pub(super) async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    // Writes out what waits when the verb ends.
    let _log = log::init(&log::Config {
        format: log::Format::Auto,
        // What a relay asks of the practice provider is what a rehearsal wants to see.
        level: "info,gatepost::sandbox=debug".to_owned(),
        addresses: false,
    })?;
    let tasks = Tasks::new();
    let config = Config {
        http: args.http,
        smtp: args.smtp,
        token_lifetime_s: args.token_lifetime.as_secs(),
        mailbox: args.mailbox.clone(),
    };
    let sandbox = Sandbox::start(config, tasks.clone()).await?;
    for url in &args.redirect_url {
        sandbox.register_redirect(url);
    }
    // Removed with the last use of it: what is in there is worth nothing afterwards.
    let scratch = ScratchDir::new("gatepost-sandbox")?;
    let ca_file = match &args.write_config {
        Some(file) => ca_file_beside(file)?,
        None => scratch.path().join("ca.pem"),
    };
    let practice = Practice {
        sandbox: &sandbox,
        account: "practice",
        mailbox: &args.mailbox,
        redirect_url: args
            .redirect_url
            .first()
            .map_or("http://localhost:8025/authorization/smtp_oauth/", |url| url),
        ca_file: &ca_file,
    };
    if let Some(file) = &args.write_config {
        replace(file, &practice.toml())?;
        replace(&key_file_beside(file)?, &key_file(&sandbox)?)?;
    }
    replace(&ca_file, &format!("{MARK}\n{}", sandbox.ca_pem()))?;
    tell(context.printer, &practice, args.write_config.as_deref())?;
    interrupted().await?;
    context.printer.line("stopping")?;
    tasks.stop();
    // Whoever has not said goodbye by then is cut off; nothing here needs to survive.
    let drained = tokio::time::timeout(DRAIN_MAX, tasks.drained()).await;
    drained.unwrap_or_default();
    Ok(ExitCode::SUCCESS)
}

/// The service account's key file, marked as ours.
fn key_file(sandbox: &Sandbox) -> io::Result<Zeroizing<String>> {
    let key = sandbox.service_account_key()?;
    let members = key.expose().trim_start_matches('{');
    Ok(Zeroizing::new(format!("{MARK_JSON},{members}")))
}

fn tell(printer: Printer, practice: &Practice<'_>, written: Option<&Path>) -> io::Result<()> {
    let url = practice.sandbox.url();
    printer.line(format_args!(
        "The practice provider is up. It takes mail and shows it; nothing leaves it.\n\n\
         \x20 mailbox        {url}/mailbox\n\
         \x20 faults         {url}/faults\n\
         \x20 authorization  {url}/authorize\n\
         \x20 token          {url}/token\n\
         \x20 device code    {url}/device/code\n\
         \x20 revocation     {url}/revoke\n\
         \x20 introspection  {url}/introspect\n\
         \x20 userinfo       {url}/userinfo\n\
         \x20 SMTP           {} (STARTTLS, XOAUTH2, OAUTHBEARER)\n\
         \x20 public client  {} (client_authentication = \"none\")\n",
        reachable(practice.sandbox.smtp()),
        practice.sandbox.public_client(),
    ))?;
    match written {
        Some(file) => printer.line(format_args!(
            "The configuration is in {0}; it is good until this stops. Next:\n\n\
             \x20 gatepost run --config {0}\n\
             \x20 gatepost login {1} --config {0}\n\n\
             The key of a service account (grant = \"service_account\") is in {2}.\n",
            file.display(),
            practice.account,
            key_file_beside(file).unwrap_or_default().display(),
        ))?,
        None => printer.line(format_args!(
            "A configuration that uses it, good until this stops:\n\n{}",
            practice.toml()
        ))?,
    }
    printer.line("Ctrl-C stops it.")
}

/// A configuration of a relay that uses the sandbox.
pub(super) struct Practice<'a> {
    pub(super) sandbox: &'a Sandbox,
    pub(super) account: &'a str,
    pub(super) mailbox: &'a str,
    pub(super) redirect_url: &'a str,
    pub(super) ca_file: &'a Path,
}

impl Practice<'_> {
    /// As TOML: the provider and an account, complete. Holds the practice application's secret.
    pub(super) fn toml(&self) -> String {
        let (client_id, client_secret) = self.sandbox.client();
        let (url, smtp) = (self.sandbox.url(), reachable(self.sandbox.smtp()));
        let provider = table(&[
            ("kind", "custom"),
            ("client_id", &client_id),
            ("client_secret", client_secret.expose()),
            ("client_authentication", "basic"),
            ("issuer", url),
            ("redirect_url", self.redirect_url),
            ("scope", "smtp.send offline_access"),
        ]);
        let account = table(&[
            ("provider", "sandbox"),
            ("mailbox", self.mailbox),
            ("grant", "authorization_code"),
            ("transport", "smtp"),
        ]);
        let upstream = table(&[
            ("host", &smtp.ip().to_string()),
            ("tls", "starttls"),
            ("auth", "xoauth2"),
            ("ca_file", &self.ca_file.to_string_lossy()),
        ]);
        let (name, port) = (self.account, smtp.port());
        format!(
            "{MARK}; good while that sandbox runs.\n\n\
             [provider.sandbox]\n{provider}\n\
             [account.{name}]\n{account}\n\
             [account.{name}.smtp]\nport = {port}\n{upstream}"
        )
    }
}

/// The lines of a TOML table. JSON's quoting is TOML's basic string (but for DEL, which is in none
/// of these).
fn table(pairs: &[(&str, &str)]) -> String {
    let mut lines = String::new();
    for (key, value) in pairs {
        let value = serde_json::Value::from(*value);
        // Writing to a String cannot fail.
        writeln!(lines, "{key} = {value}").unwrap_or_default();
    }
    lines
}

/// A directory of this process alone, under the system's temporary one; removed when dropped.
pub(super) struct ScratchDir(PathBuf);

impl ScratchDir {
    /// Makes it, 0700, under a name nobody can guess.
    pub(super) fn new(prefix: &str) -> anyhow::Result<Self> {
        let mut chance = [0; 8];
        getrandom::fill(&mut chance).map_err(|error| anyhow::anyhow!("random name: {error}"))?;
        let name = format!("{prefix}-{:016x}", u64::from_ne_bytes(chance));
        let path = std::env::temp_dir().join(name);
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for ScratchDir {
    fn drop(&mut self) {
        // What cannot be removed is the system's to clean; there is nobody to tell.
        fs::remove_dir_all(&self.0).unwrap_or_default();
    }
}

/// Where the CA certificate goes: beside the configuration, by an absolute path.
fn ca_file_beside(file: &Path) -> anyhow::Result<PathBuf> {
    let file = std::path::absolute(file).with_context(|| file.display().to_string())?;
    Ok(file.with_extension("ca.pem"))
}

/// Where the service account's key goes: beside the configuration, by an absolute path.
fn key_file_beside(file: &Path) -> anyhow::Result<PathBuf> {
    let file = std::path::absolute(file).with_context(|| file.display().to_string())?;
    Ok(file.with_extension("service-account.json"))
}

/// Writes a file of ours, 0600. A file that is not ours is never touched.
pub(super) fn replace(file: &Path, text: &str) -> anyhow::Result<()> {
    let shown = || file.display().to_string();
    let is_ours = |old: &[u8]| {
        [MARK, MARK_JSON]
            .iter()
            .any(|mark| old.starts_with(mark.as_bytes()))
    };
    if file.exists() && !is_ours(&fs::read(file).with_context(shown)?) {
        bail!(
            "{} exists and was not written by the sandbox; give another name",
            file.display()
        );
    }
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut opened = options.open(file).with_context(shown)?;
    opened.write_all(text.as_bytes()).with_context(shown)
}

/// Resolves at Ctrl-C or SIGTERM.
pub(super) async fn interrupted() -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        result = tokio::signal::ctrl_c() => result,
        _ = terminate.recv() => Ok(()),
    }
}

/// `90s`, `10m`, `1h`, or bare seconds.
fn lifetime(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.as_bytes().last() {
        Some(b'm') => (text.strip_suffix('m'), 60),
        Some(b'h') => (text.strip_suffix('h'), 3600),
        _ => (text.strip_suffix('s').or(Some(text)), 1),
    };
    number
        .and_then(|number| number.parse::<u64>().ok())
        .and_then(|number| number.checked_mul(unit))
        .filter(|seconds| *seconds > 0)
        .map(Duration::from_secs)
        .ok_or_else(|| "want a time above zero, like 90s, 10m or 1h".to_owned())
}

fn mailbox(text: &str) -> Result<String, String> {
    let address = Address::parse(text).map_err(|error| error.to_string())?;
    Ok(address.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lifetime_reads_as_written_and_zero_is_none() {
        let cases = [("90s", 90), ("10m", 600), ("1h", 3600), ("45", 45)];
        for (text, seconds) in cases {
            assert_eq!(lifetime(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in [
            "",
            "0",
            "0s",
            "-1s",
            "1d",
            "s",
            "1.5h",
            "99999999999999999999h",
        ] {
            assert!(lifetime(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_file_of_somebody_else_is_never_overwritten() {
        let dir = ScratchDir::new("gatepost-test").unwrap();
        let file = dir.path().join("gatepost.toml");
        fs::write(&file, "hostname = \"relay\"\n").unwrap();
        assert!(replace(&file, MARK).is_err());
        assert_eq!(fs::read_to_string(&file).unwrap(), "hostname = \"relay\"\n");
        fs::remove_file(&file).unwrap();
        replace(&file, &format!("{MARK} 1")).unwrap();
        replace(&file, &format!("{MARK} 2")).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), format!("{MARK} 2"));
        let path = dir.path().to_owned();
        drop(dir);
        assert!(!path.exists(), "nothing is left behind");
    }

    #[tokio::test]
    async fn the_configuration_is_toml_with_every_value_quoted() {
        let tasks = Tasks::new();
        let config = Config {
            http: ([127, 0, 0, 1], 0).into(),
            smtp: ([0, 0, 0, 0], 0).into(),
            token_lifetime_s: 60,
            mailbox: "a@example.com".to_owned(),
        };
        let sandbox = Sandbox::start(config, tasks.clone()).await.unwrap();
        let practice = Practice {
            sandbox: &sandbox,
            account: "practice",
            mailbox: "\"odd\\ one\"@example.com",
            redirect_url: "http://localhost:1/",
            ca_file: Path::new("/a \"b\"/ca.pem"),
        };
        use figment::providers::{Format, Toml};
        let read = figment::Figment::from(Toml::string(&practice.toml()));
        let text = |key: &str| read.extract_inner::<String>(key).unwrap();
        assert_eq!(text("account.practice.mailbox"), practice.mailbox);
        assert_eq!(text("account.practice.smtp.host"), "127.0.0.1");
        assert_eq!(text("account.practice.smtp.ca_file"), "/a \"b\"/ca.pem");
        assert_eq!(text("provider.sandbox.issuer"), sandbox.url());
        tasks.stop();
    }
}
