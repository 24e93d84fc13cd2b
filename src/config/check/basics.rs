//! State, host name, console, queue, sealing key and log.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use super::Checker;
use crate::{
    admin,
    config::{
        field::Field,
        file,
        layers::Variables,
        leaf::{BounceTo, TcpAddress},
        secret_source::{self, SecretSource},
        units,
    },
    delivery,
    oauth::Key,
    queue::{retry::Policy, trace},
    telemetry::log,
};

/// Where the console listens unless told otherwise.
const CONSOLE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8025);

/// The systemd credential that seals tokens, if it is passed.
const KEY_CREDENTIAL: &str = "gatepost.key";

/// Some thousand messages.
const TRACE_SIZE_MIN: u64 = 1024 * 1024;

/// RFC 1035 §2.3.4.
const HOSTNAME_LEN_MAX: usize = 253;
const LABEL_LEN_MAX: usize = 63;

impl Checker<'_> {
    /// The state directory: as given, else systemd's, else the user's own.
    pub(super) fn state_dir(&mut self, field: &Field<PathBuf>) -> PathBuf {
        if let Some(given) = field.get() {
            return given.clone();
        }
        default_state_dir(self.variables).unwrap_or_else(|| {
            if field.is_absent() {
                let what = "is needed: neither $STATE_DIRECTORY nor $HOME is set";
                field.refuse(
                    &mut self.report,
                    what,
                    "name a folder, as \"/var/lib/gatepost\"",
                );
            }
            PathBuf::new()
        })
    }

    /// The name in greetings, `Received` and EHLO. The system's may be anything, so a bad one there
    /// is replaced; a bad one in the file is refused.
    pub(super) fn hostname(&mut self, field: &Field<String>) -> String {
        if let Some(given) = field.get() {
            if !is_hostname(given) {
                let what = "is not a host name";
                field.refuse(
                    &mut self.report,
                    what,
                    "use the relay's name, as \"relay.example.com\"",
                );
            }
            return given.clone();
        }
        let system = rustix::system::uname();
        let name = system.nodename().to_str().ok();
        name.filter(|name| is_hostname(name))
            .unwrap_or("localhost")
            .to_ascii_lowercase()
    }

    /// The control surface.
    pub(super) fn admin(&mut self, file: &file::File, state_dir: &Path) -> admin::Config {
        let console = &file.console;
        let address = match console.address.get() {
            Some(TcpAddress::None) => None,
            Some(TcpAddress::At(address)) => Some(*address),
            None => Some(CONSOLE),
        };
        let certificate = self.console_certificate(console);
        let in_clear = certificate.is_none();
        if let Some(address) = address.filter(|a| in_clear && !a.ip().is_loopback()) {
            self.report.warning(format!(
                "console.address = \"{address}\" is reachable beyond this machine over plain HTTP: set \
                 console.certificate_file and key_file, put a TLS proxy in front, or use a loopback address"
            ));
        }
        let password_hash = self.hash(&console.password_hash);
        if let Some(address) = address.filter(|a| password_hash.is_none() && !a.ip().is_loopback())
        {
            self.report.warning(format!(
                "console.address = \"{address}\" is reachable beyond this machine and has no password: its \
                 pages stay closed; set console.password_hash (make one with `gatepost hash-password`)"
            ));
        }
        let metrics_address = match file.metrics.address.get() {
            Some(TcpAddress::None) | None => None,
            Some(TcpAddress::At(address)) => Some(*address),
        };
        if metrics_address.is_some_and(|m| m.port() != 0 && Some(m) == address) {
            let what = "is the console's address, where /metrics is anyway";
            let remedy = "leave it out, or use another port";
            file.metrics.address.refuse(&mut self.report, what, remedy);
        }
        let runtime_dir = first_folder(self.variables, "RUNTIME_DIRECTORY");
        admin::Config {
            address,
            metrics_address,
            socket: runtime_dir
                .unwrap_or_else(|| state_dir.to_owned())
                .join("control.sock"),
            public_url: console.public_url.copied(),
            certificate,
            password_hash,
        }
    }

    /// The console's certificate and key, if they work together.
    fn console_certificate(&mut self, console: &file::Console) -> Option<admin::Certificate> {
        let (certificate, key) = (&console.certificate_file, &console.key_file);
        for (given, missing) in [(certificate, key), (key, certificate)] {
            if !given.is_absent() && missing.is_absent() {
                let what = "is needed: a certificate and its key go together";
                missing.refuse(&mut self.report, what, "name both files, in PEM");
            }
        }
        let made = admin::Certificate {
            file: certificate.copied()?,
            key_file: key.copied()?,
        };
        if let Err(error) = crate::net::tls::server::config(&made.file, &made.key_file) {
            certificate.refuse(&mut self.report, error.to_string(), "mend the files");
        }
        Some(made)
    }

    /// When deferred mail is tried again, and who hears about failures.
    pub(super) fn queue(&mut self, queue: &file::Queue) -> (Policy, delivery::BounceTo) {
        let default = Policy::default();
        let policy = Policy {
            first: queue.retry_first.copied().unwrap_or(default.first),
            max: queue.retry_max.copied().unwrap_or(default.max),
            lifetime: queue.lifetime.copied().unwrap_or(default.lifetime),
            delay_warning: queue
                .delay_warning
                .copied()
                .unwrap_or(default.delay_warning),
        };
        let report = &mut self.report;
        if policy.first.is_zero() {
            let what = "would try again without a pause";
            queue.retry_first.refuse(report, what, "use \"1s\" or more");
        }
        if policy.first > policy.max {
            // Whichever of the two was written is the one to mend.
            let (field, what, other) = if queue.retry_first.is_absent() {
                (&queue.retry_max, "is less than retry_first", policy.first)
            } else {
                (&queue.retry_first, "is more than retry_max", policy.max)
            };
            let other = units::show_duration(other);
            field.refuse(
                report,
                format!("{what} ({other})"),
                "make retry_first the smaller of the two",
            );
        }
        if policy.lifetime < policy.first {
            let first = units::show_duration(policy.first);
            let what = format!("is less than retry_first ({first}): nothing would be tried twice");
            queue
                .lifetime
                .refuse(report, what, "use \"5d\", or at least a few retries");
        }
        let bounce_to = match queue.bounce_to.copied() {
            Some(BounceTo::Sender) | None => delivery::BounceTo::Sender,
            Some(BounceTo::None) => delivery::BounceTo::None,
            Some(BounceTo::Address(address)) => delivery::BounceTo::Address(address),
        };
        (policy, bounce_to)
    }

    /// How much of the trace is kept.
    pub(super) fn trace(&mut self, section: &file::Trace) -> trace::Config {
        let default = trace::Config::default();
        let config = trace::Config {
            keep: section.keep.copied().unwrap_or(default.keep),
            size_max: section
                .size_max
                .get()
                .map_or(default.size_max, |size| size.0),
        };
        if config.size_max < TRACE_SIZE_MIN && !config.keep.is_zero() {
            let what = "would keep next to nothing";
            let remedy = "use \"1MiB\" or more, or keep = \"0s\" for no trace";
            section.size_max.refuse(&mut self.report, what, remedy);
        }
        config
    }

    /// What seals tokens: the systemd credential if it is passed, else what `store.key` says, else
    /// a file that is made at first start.
    pub(super) fn key(&mut self, field: &Field<SecretSource>, state_dir: &Path) -> Key {
        let credential = self
            .variables
            .get("CREDENTIALS_DIRECTORY")
            .map(|folder| Path::new(folder).join(KEY_CREDENTIAL))
            .filter(|path| path.exists());
        if let Some(path) = credential {
            match secret_source::read(&path) {
                Ok(key) => return Key::Given(key),
                Err((what, remedy)) => {
                    let report = &mut self.report;
                    report.problem(format!("credential {KEY_CREDENTIAL}"), "", what, remedy);
                }
            }
        }
        match self.secret(field) {
            Some(key) => Key::Given(key),
            None => Key::File(state_dir.join("token.key")),
        }
    }

    /// Log output.
    pub(super) fn log(&mut self, file: &file::Log) -> log::Config {
        let default = log::Config::default();
        if let Some(level) = file.level.get()
            && !log::is_level(level)
        {
            let remedy = "use \"error\", \"warn\", \"info\", \"debug\" or \"trace\"";
            file.level
                .refuse(&mut self.report, "is not a level", remedy);
        }
        log::Config {
            format: file.format.copied().unwrap_or(default.format),
            level: file.level.copied().unwrap_or(default.level),
            addresses: file.addresses.copied().unwrap_or(default.addresses),
        }
    }
}

/// systemd passes several folders with colons between them; the first is the unit's own.
fn first_folder(variables: &Variables, name: &str) -> Option<PathBuf> {
    let folders = variables.get(name)?;
    let first = folders.split(':').next().filter(|f| !f.is_empty())?;
    Some(PathBuf::from(first))
}

fn default_state_dir(variables: &Variables) -> Option<PathBuf> {
    let absolute = |name: &str| {
        let path = PathBuf::from(variables.get(name)?);
        // The XDG base directory specification: a relative path there is to be ignored.
        path.is_absolute().then_some(path)
    };
    first_folder(variables, "STATE_DIRECTORY")
        .or_else(|| Some(absolute("XDG_STATE_HOME")?.join("gatepost")))
        .or_else(|| Some(absolute("HOME")?.join(".local/state/gatepost")))
}

/// Whether a name can stand in EHLO (RFC 5321 §4.1.2, `Domain`).
fn is_hostname(name: &str) -> bool {
    let is_label = |label: &str| {
        let is_inner = |c: char| c.is_ascii_alphanumeric() || c == '-';
        (1..=LABEL_LEN_MAX).contains(&label.len())
            && label.chars().all(is_inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= HOSTNAME_LEN_MAX && name.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_are_those_that_can_stand_in_ehlo() {
        for (name, want) in [
            ("relay.example.com", true),
            ("localhost", true),
            ("my_host", false),
            ("-a.example", false),
            ("a..b", false),
            ("", false),
            ("host name", false),
            ("relay.example.com\r\nMAIL", false),
        ] {
            assert_eq!(is_hostname(name), want, "{name:?}");
        }
    }
}
