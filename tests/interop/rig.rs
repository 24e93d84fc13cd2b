//! The third-party parts: an OAuth server, Dovecot, Postfix, certificates. Templates are in `rig/`.

use std::{
    fs,
    net::{IpAddr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use crate::support::{
    eventually, free_address, need_root, process::Process, program, repository, scratch, sink::Sink,
};

/// A file of the rig.
pub(crate) fn file(name: &str) -> PathBuf {
    repository().join("tests/interop/rig").join(name)
}

/// Copies a template with its marks filled in.
pub(crate) fn fill(template: &str, to: &Path, marks: &[(&str, &str)]) {
    let mut text = fs::read_to_string(file(template)).unwrap();
    for (mark, value) in marks {
        text = text.replace(mark, value);
    }
    fs::write(to, text).unwrap();
}

/// Waits until something listens there; fails when the process ends instead.
pub(crate) fn wait_listening(process: &mut Process, address: SocketAddr) {
    eventually(&format!("something listens on {address}"), || {
        assert!(
            process.ended().is_none(),
            "it ended instead: {}",
            process.log()
        );
        TcpStream::connect(address).ok().map(drop)
    });
}

/// Writes `ca.pem`, `cert.pem` and `key.pem`: an authority of its own and a server certificate for
/// `localhost` and `127.0.0.1`.
pub(crate) fn certificates(dir: &Path) {
    certificates_for(dir, &["localhost", "127.0.0.1"]);
}

/// An authority. Equal names would make what it signs look self-signed.
pub(crate) fn authority(name: &str) -> CertificateParams {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    let name = format!("rig authority {name}");
    authority.distinguished_name.push(DnType::CommonName, name);
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority
}

/// As [`certificates`], for other names.
pub(crate) fn certificates_for(dir: &Path, names: &[&str]) {
    certificates_until(dir, names, 4000);
}

/// As [`certificates_for`], with the server's certificate valid until the end of this year.
pub(crate) fn certificates_until(dir: &Path, names: &[&str], year: i32) {
    let authority = authority(&format!("of {}", dir.display()));
    let authority_key = KeyPair::generate().unwrap();
    let authority_pem = authority.self_signed(&authority_key).unwrap().pem();
    let issuer = Issuer::new(authority, authority_key);
    let subject = *names.first().unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut server = CertificateParams::new(names).unwrap();
    server.distinguished_name.push(DnType::CommonName, subject);
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    server.not_after = rcgen::date_time_ymd(year, 12, 31);
    let key = KeyPair::generate().unwrap();
    let certificate = server.signed_by(&key, &issuer).unwrap();
    fs::write(dir.join("ca.pem"), authority_pem).unwrap();
    fs::write(dir.join("cert.pem"), certificate.pem()).unwrap();
    fs::write(dir.join("key.pem"), key.serialize_pem()).unwrap();
}

/// The OAuth server (npm `oidc-provider`), with everything in memory.
#[derive(Debug)]
pub(crate) struct Provider {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    dir: TempDir,
    settings: Vec<(&'static str, String)>,
    process: Process,
}

impl Provider {
    /// Starts it. `settings`: its environment, see `rig/oidc.mjs`.
    pub(crate) fn start(settings: &[(&'static str, &str)]) -> Self {
        Self::start_at(free_address(), settings)
    }

    /// As [`Provider::start`], at this address: beyond loopback with `TLS_CERT` and `TLS_KEY`.
    pub(crate) fn start_at(address: SocketAddr, settings: &[(&'static str, &str)]) -> Self {
        let dir = scratch();
        let settings = settings
            .iter()
            .map(|(key, value)| (*key, (*value).to_owned()))
            .collect();
        let process = Self::spawn(address, &settings, &dir);
        Self {
            address,
            dir,
            settings,
            process,
        }
    }

    fn spawn(
        address: SocketAddr,
        settings: &Vec<(&'static str, String)>,
        dir: &TempDir,
    ) -> Process {
        let modules = repository().join("node_modules/oidc-provider");
        assert!(
            modules.is_dir(),
            "the npm package oidc-provider is missing: run ./test.sh"
        );
        let mut command = Command::new(program("node", "nodejs (20 or newer)"));
        command
            .arg(file("oidc.mjs"))
            .env("HOST", address.ip().to_string())
            .env("PORT", address.port().to_string());
        for (key, value) in settings {
            command.env(key, value);
        }
        let mut process = Process::spawn("oidc-provider", &command, &dir.path().join("oidc.log"));
        wait_listening(&mut process, address);
        process
    }

    /// Stops and starts it: it has forgotten every token.
    pub(crate) fn forget_everything(&mut self) {
        self.process.kill();
        self.process = Self::spawn(self.address, &self.settings, &self.dir);
    }

    /// Stops it: nothing answers any more.
    pub(crate) fn stop(&mut self) {
        self.process.kill();
    }

    /// It takes connections and requests but answers nothing until it goes on.
    pub(crate) fn halt(&self) {
        self.process.signal(Signal::STOP);
    }

    /// It goes on after [`Provider::halt`].
    pub(crate) fn go_on(&self) {
        self.process.signal(Signal::CONT);
    }

    /// Starts it again after [`Provider::stop`].
    pub(crate) fn resume(&mut self) {
        self.process = Self::spawn(self.address, &self.settings, &self.dir);
    }

    /// How often this was said, see `rig/oidc.mjs`.
    pub(crate) fn count(&self, fact: &str) -> usize {
        self.process
            .log()
            .lines()
            .filter(|line| line.starts_with(fact))
            .count()
    }

    /// Everything it said.
    pub(crate) fn log(&self) -> String {
        self.process.log()
    }

    /// Where it tells, among other things, the secrets it issued.
    pub(crate) fn log_file(&self) -> PathBuf {
        self.dir.path().join("oidc.log")
    }

    /// The provider table of a configuration that uses it.
    pub(crate) fn table(&self) -> String {
        let url = self.issuer();
        format!(
            "[provider.rig]\nkind = \"custom\"\nclient_id = \"relay\"\n\
             client_secret = \"relay-secret\"\nauthorization_url = \"{url}/auth\"\n\
             token_url = \"{url}/token\"\ndevice_authorization_url = \"{url}/device/auth\"\n\
             redirect_url = \"http://@CONSOLE@/authorization/smtp_oauth/\"\n\
             scope = \"openid offline_access smtp\"\n"
        )
    }

    /// Its name of itself.
    pub(crate) fn issuer(&self) -> String {
        let is_tls = self.settings.iter().any(|(key, _)| *key == "TLS_CERT");
        let scheme = if is_tls { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// As [`Provider::table`], by the issuer's name alone: everything else is asked of it.
    pub(crate) fn table_by_issuer(&self) -> String {
        let by_urls = self.table();
        let is_url = |line: &&str| {
            let (key, _) = line.split_once(" = ").unwrap_or_default();
            key.ends_with("_url") && key != "redirect_url"
        };
        let lines = by_urls.lines().filter(|line| !is_url(line));
        let rest: String = lines.map(|line| format!("{line}\n")).collect();
        format!("{rest}issuer = \"{}\"\n", self.issuer())
    }

    /// Presses through its pages with `rig/pages.py`; what that printed.
    pub(crate) fn press(&self, url: &str, user: &str, options: &[&str]) -> String {
        let certificate = self.settings.iter().find(|(key, _)| *key == "TLS_CERT");
        let ca_file = certificate.map(|(_, path)| Path::new(path).with_file_name("ca.pem"));
        Self::press_trusting(ca_file.as_deref(), url, user, options)
    }

    /// As [`Provider::press`], in a browser that knows this authority.
    pub(crate) fn press_trusting(
        ca_file: Option<&Path>,
        url: &str,
        user: &str,
        options: &[&str],
    ) -> String {
        let mut command = Command::new(program("python3", "python3"));
        if let Some(ca_file) = ca_file {
            command.env("SSL_CERT_FILE", ca_file);
        }
        let output = command
            .arg(file("pages.py"))
            .args([url, user])
            .args(options)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "pages.py: {said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        said
    }
}

/// An HTTP proxy (tinyproxy).
#[derive(Debug)]
pub(crate) struct Tinyproxy {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    _dir: TempDir,
    process: Process,
}

impl Tinyproxy {
    /// Starts it; it opens tunnels to this port alone, from `from`, for whoever has the login.
    pub(crate) fn start(port: u16, from: IpAddr, login: Option<(&str, &str)>) -> Self {
        let dir = scratch();
        let address = free_address();
        let configuration = dir.path().join("tinyproxy.conf");
        let login = login.map(|(user, password)| format!("BasicAuth {user} {password}\n"));
        let text = format!(
            "Port {}\nListen 127.0.0.1\nAllow 127.0.0.1\nBind {from}\nConnectPort {port}\n\
             LogLevel Connect\n{}",
            address.port(),
            login.unwrap_or_default()
        );
        fs::write(&configuration, text).unwrap();
        let mut command = Command::new(program("tinyproxy", "tinyproxy-bin"));
        command.arg("-d").arg("-c").arg(configuration);
        let log = dir.path().join("tinyproxy.log");
        let mut process = Process::spawn("tinyproxy", &command, &log);
        wait_listening(&mut process, address);
        Self {
            address,
            _dir: dir,
            process,
        }
    }

    /// How often it was asked for a tunnel.
    pub(crate) fn tunnels(&self) -> usize {
        self.process.log().matches("CONNECT 10.203.0.1:").count()
    }

    /// Stops it.
    pub(crate) fn stop(&mut self) {
        self.process.kill();
    }
}

/// Dovecot's submission service; it asks an OAuth server about tokens and hands mail on to `sink`.
#[derive(Debug)]
pub(crate) struct Dovecot {
    /// Submission with STARTTLS.
    pub(crate) starttls: SocketAddr,
    /// Submission with implicit TLS.
    pub(crate) tls: SocketAddr,
    dir: TempDir,
    process: Process,
}

impl Dovecot {
    /// Starts it.
    pub(crate) fn start(provider: &Provider, sink: &Sink) -> Self {
        let introspection = format!(
            "http://dovecot:dovecot-secret@{}/token/introspection",
            provider.address
        );
        Self::asking(&introspection, "email", sink)
    }

    /// Starts it; it asks at this URL about tokens, whose user stands in this field of the answer.
    pub(crate) fn asking(introspection: &str, user: &str, sink: &Sink) -> Self {
        need_root("Dovecot starts as root");
        let dir = scratch();
        let path = dir.path();
        for folder in ["run", "state", "mail"] {
            fs::create_dir(path.join(folder)).unwrap();
        }
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        fs::set_permissions(path.join("mail"), open).unwrap();
        certificates(path);
        let (starttls, tls) = (free_address(), free_address());
        let marks = [
            ("@INTROSPECTION@", introspection.to_owned()),
            ("@USER@", user.to_owned()),
            ("@DIR@", path.to_str().unwrap().to_owned()),
            ("@RELAY_PORT@", sink.address.port().to_string()),
            ("@STARTTLS_PORT@", starttls.port().to_string()),
            ("@TLS_PORT@", tls.port().to_string()),
        ];
        let marks: Vec<_> = marks
            .iter()
            .map(|(mark, value)| (*mark, value.as_str()))
            .collect();
        let configuration = path.join("dovecot.conf");
        fill("dovecot.conf", &configuration, &marks);
        fill(
            "dovecot-oauth2.conf.ext",
            &path.join("dovecot-oauth2.conf.ext"),
            &marks,
        );
        let process = Self::spawn(path);
        let mut dovecot = Self {
            starttls,
            tls,
            dir,
            process,
        };
        dovecot.wait_open();
        dovecot
    }

    fn spawn(dir: &Path) -> Process {
        let mut command = Command::new(program("dovecot", "dovecot-core"));
        command.arg("-F").arg("-c").arg(dir.join("dovecot.conf"));
        Process::spawn("dovecot", &command, &dir.join("dovecot.log")).orderly()
    }

    fn wait_open(&mut self) {
        wait_listening(&mut self.process, self.starttls);
        wait_listening(&mut self.process, self.tls);
    }

    /// Stops it in order: nobody listens any more.
    pub(crate) fn stop(&mut self) {
        self.process.signal(Signal::TERM);
        self.process.wait();
    }

    /// Starts it again after [`Dovecot::stop`], with these lines at the end of its configuration.
    pub(crate) fn resume(&mut self, settings: &str) {
        let configuration = self.dir.path().join("dovecot.conf");
        let text = fs::read_to_string(&configuration).unwrap();
        fs::write(&configuration, format!("{text}{settings}")).unwrap();
        self.process = Self::spawn(self.dir.path());
        self.wait_open();
    }

    /// `kill -9` for the processes that hold its sessions, whatever they are about; how many there were.
    pub(crate) fn kill_sessions(&self) -> usize {
        let master = self.process.id();
        let children = format!("/proc/{master}/task/{master}/children");
        let children = fs::read_to_string(children).unwrap();
        let sessions = children.split_whitespace().filter(|id| {
            let name = fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default();
            name.trim() == "submission"
        });
        let killed = sessions.filter_map(|id| Pid::from_raw(id.parse().ok()?));
        killed
            // One that has ended meanwhile is none.
            .filter(|id| rustix::process::kill_process(*id, Signal::KILL).is_ok())
            .count()
    }

    /// The file of its authority, as [`Dovecot::table`] names it.
    pub(crate) fn ca_file(&self) -> String {
        self.dir.path().join("ca.pem").display().to_string()
    }

    /// The account's `smtp` table: STARTTLS or implicit TLS with this mechanism.
    pub(crate) fn table(&self, account: &str, tls: &str, mechanism: &str) -> String {
        let address = if tls == "implicit" {
            self.tls
        } else {
            self.starttls
        };
        format!(
            "[account.{account}.smtp]\nhost = \"localhost\"\nport = {}\ntls = \"{tls}\"\n\
             auth = \"{mechanism}\"\nca_file = \"{}\"\n",
            address.port(),
            self.dir.path().join("ca.pem").display()
        )
    }
}

/// Postfix as a sender.
#[derive(Debug)]
pub(crate) struct Postfix {
    /// Where it takes mail by SMTP.
    pub(crate) smtp: SocketAddr,
    dir: TempDir,
    process: Process,
}

/// How Postfix reaches our listener.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hop<'a> {
    /// Our listener.
    pub(crate) relay: SocketAddr,
    /// `none`, `encrypt` or `verify`.
    pub(crate) tls: &'a str,
    /// `name:password`, if it logs in.
    pub(crate) login: Option<&'a str>,
    /// The authority it trusts.
    pub(crate) ca: &'a Path,
}

impl Postfix {
    /// Starts it.
    pub(crate) fn start(hop: &Hop<'_>) -> Self {
        Self::with(hop, "")
    }

    /// Starts it as an upstream: what it takes goes on to `sink`; `settings` are lines of main.cf.
    pub(crate) fn upstream(sink: &Sink, settings: &str) -> Self {
        let dir = scratch();
        certificates(dir.path());
        let hop = Hop {
            relay: sink.address,
            tls: "none",
            login: None,
            ca: &dir.path().join("ca.pem"),
        };
        let mut postfix = Self::with(&hop, settings);
        wait_listening(&mut postfix.process, postfix.smtp);
        postfix
    }

    /// The account table that sends through it.
    pub(crate) fn account(&self, name: &str) -> String {
        plain_account(name, self.smtp)
    }

    fn with(hop: &Hop<'_>, settings: &str) -> Self {
        need_root("Postfix starts as root");
        let dir = scratch();
        let path = dir.path();
        let etc = path.join("etc");
        let smtp = free_address();
        for folder in ["etc", "spool", "data"] {
            fs::create_dir(path.join(folder)).unwrap();
        }
        let chown = Command::new("chown")
            .arg("postfix")
            .arg(path.join("data"))
            .status()
            .unwrap();
        assert!(
            chown.success(),
            "the user postfix is missing: install the package postfix"
        );
        fs::copy(hop.ca, path.join("ca.pem")).unwrap();
        let marks = [
            ("@DIR@", path.to_str().unwrap().to_owned()),
            ("@RELAY_PORT@", hop.relay.port().to_string()),
            ("@SMTP_PORT@", smtp.port().to_string()),
            ("@TLS@", hop.tls.to_owned()),
            (
                "@AUTH@",
                if hop.login.is_some() { "yes" } else { "no" }.to_owned(),
            ),
            ("@LOGIN@", hop.login.unwrap_or("none").to_owned()),
        ];
        let marks: Vec<_> = marks
            .iter()
            .map(|(mark, value)| (*mark, value.as_str()))
            .collect();
        let main = etc.join("main.cf");
        fill("postfix.cf", &main, &marks);
        let text = fs::read_to_string(&main).unwrap();
        fs::write(&main, format!("{text}{settings}\n")).unwrap();
        fill("postfix-master.cf", &etc.join("master.cf"), &marks);
        let mut command = Command::new(program("postfix", "postfix"));
        command.arg("-c").arg(&etc).arg("start-fg");
        let log = path.join("mail.log");
        let process = Process::spawn("postfix", &command, &log).orderly();
        eventually("Postfix picks mail up", || {
            path.join("spool/public/pickup").exists().then_some(())
        });
        Self { smtp, dir, process }
    }

    /// Its `sendmail` command.
    pub(crate) fn sendmail(&self) -> Command {
        let mut command = Command::new(program("sendmail", "postfix"));
        command.env("MAIL_CONFIG", self.dir.path().join("etc"));
        command.args(["-i", "-f", "app@example.test", "rcpt@example.org"]);
        command
    }
}

/// The account table of a plain smarthost on loopback.
pub(crate) fn plain_account(name: &str, address: SocketAddr) -> String {
    format!(
        "[account.{name}]\nmailbox = \"{name}@example.test\"\n[account.{name}.smtp]\n\
         host = \"127.0.0.1\"\nport = {}\ntls = \"none\"\nauth = \"none\"\n",
        address.port()
    )
}

/// Postfix's test server, which fails as it is told; see `smtp-sink(1)`.
#[derive(Debug)]
pub(crate) struct SmtpSink {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    dir: TempDir,
    process: Process,
}

impl SmtpSink {
    /// Starts it with these options.
    pub(crate) fn start(options: &[&str]) -> Self {
        need_root("smtp-sink gives root up");
        let dir = scratch();
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        fs::create_dir(dir.path().join("taken")).unwrap();
        fs::set_permissions(dir.path().join("taken"), open).unwrap();
        let address = free_address();
        let process = Self::spawn(address, &dir, options);
        Self {
            address,
            dir,
            process,
        }
    }

    fn spawn(address: SocketAddr, dir: &TempDir, options: &[&str]) -> Process {
        let mut command = Command::new(program("smtp-sink", "postfix"));
        let dump = dir.path().join("taken/m.");
        command.args(["-u", "nobody", "-c", "-d"]).arg(dump);
        command.args(options);
        command.arg(address.to_string()).arg("100");
        let log = dir.path().join("smtp-sink.log");
        Process::spawn("smtp-sink", &command, &log)
    }

    /// Waits until it listens. A server that hangs up at once is seen as listening as well.
    pub(crate) fn wait_open(&mut self) {
        wait_listening(&mut self.process, self.address);
    }

    /// It has recovered: from now on it takes everything, and has forgotten what it saw before.
    pub(crate) fn heal(&mut self) {
        self.process.kill();
        for file in fs::read_dir(self.dir.path().join("taken")).unwrap() {
            fs::remove_file(file.unwrap().path()).unwrap();
        }
        self.process = Self::spawn(self.address, &self.dir, &[]);
        self.wait_open();
    }

    /// What it took, each message with the envelope before it.
    pub(crate) fn taken(&self) -> Vec<String> {
        let files = fs::read_dir(self.dir.path().join("taken")).unwrap();
        let files = files.map(|file| fs::read(file.unwrap().path()).unwrap());
        files
            .map(|octets| String::from_utf8_lossy(&octets).into_owned())
            .collect()
    }
}
