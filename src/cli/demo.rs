//! `gatepost demo`: the main job in a second, on this machine alone, told step by step.
//!
//! Nothing is staged: the practice provider and the relay are the real ones, they talk over loopback
//! sockets, and the demo is a scanner on one side and a person with a browser on the other.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Take},
    net::{TcpListener, TcpStream},
    time::{Instant, timeout},
};
use url::Url;

use super::{
    Context, Printer,
    sandbox::{Practice, ScratchDir, interrupted, replace},
};
use crate::{
    config::{self, Sources},
    daemon::Daemon,
    mail::AccountName,
    net::tasks::Tasks,
    oauth::{Service, SignIn},
    sandbox::{self, Delivered, Fault, Sandbox},
};

/// The whole story takes about a second; whatever takes this long will not come.
const STORY_MAX: Duration = Duration::from_secs(60);

/// Stopping: transactions under way, then the rest.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// Octets of SMTP replies the scanner reads in all: far more than a sane server sends.
const REPLIES_LEN_MAX: u64 = 64 * 1024;

const ACCOUNT: &str = "alerts";
const MAILBOX: &str = "alerts@example.com";
const SENDER: &str = "printer-2@example.com";
const RECIPIENT: &str = "office@example.com";
const CALLBACK: &str = "/authorization/smtp_oauth/";

/// What a scanner sends: no Date, no Message-ID, a body of its own making.
const SCAN: &str = "From: Printer 2 <printer-2@example.com>\r\n\
    To: office@example.com\r\n\
    Subject: Scan from printer-2\r\n\
    \r\n\
    Your scan is ready.\r\n\
    ..two dots begin this line on the wire, one in the mailbox\r\n\
    .\r\n";

/// Arguments of `gatepost demo`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Keep relay and practice provider running, and say how to send through them
    #[arg(long)]
    stay: bool,
}

/// Tells the story; exit 1, with the reason, if it does not go as it should.
pub(super) async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let mut demo = Demo {
        printer: context.printer,
        began: Instant::now(),
        scratch: ScratchDir::new("gatepost-demo")?,
        tasks: Tasks::new(),
        daemon: None,
    };
    let outcome = tokio::select! {
        told = timeout(STORY_MAX, demo.tell()) => match told {
            Ok(told) => told,
            Err(_) => Err(demo.stuck()),
        },
        signal = interrupted() => signal.map_err(Into::into).and_then(|()| bail!("interrupted")),
    };
    let outcome = match outcome {
        Ok(sandbox) if args.stay => demo.stay(&sandbox).await,
        Ok(_) => Ok(()),
        Err(error) => Err(error),
    };
    demo.stop().await;
    outcome.map(|()| ExitCode::SUCCESS)
}

/// What runs while the story is told. The directory goes when everything in it has stopped.
struct Demo {
    printer: Printer,
    began: Instant,
    scratch: ScratchDir,
    tasks: Tasks,
    daemon: Option<Daemon>,
}

impl Demo {
    async fn tell(&mut self) -> anyhow::Result<Sandbox> {
        self.printer
            .line("Everything below happens on this machine, over real sockets.\n")?;
        let sandbox = self.start_sandbox().await?;
        let daemon = self.start_relay(&sandbox).await?;
        self.sign_in(&daemon).await?;
        self.send(&sandbox, &daemon).await?;
        self.show(&sandbox)?;
        Ok(sandbox)
    }

    async fn start_sandbox(&self) -> anyhow::Result<Sandbox> {
        let config = sandbox::Config {
            http: any_port(),
            smtp: any_port(),
            token_lifetime_s: 3600,
            mailbox: MAILBOX.to_owned(),
        };
        let sandbox = Sandbox::start(config, self.tasks.clone())
            .await
            .context("practice provider")?;
        let (url, smtp) = (sandbox.url(), sandbox.smtp());
        let text = format!("practice provider up: OAuth at {url}, SMTP with XOAUTH2 at {smtp}");
        self.step(&text)?;
        Ok(sandbox)
    }

    /// Starts the relay from a configuration file's text, as `gatepost run` would.
    async fn start_relay(&mut self, sandbox: &Sandbox) -> anyhow::Result<Daemon> {
        let began = Instant::now();
        let console = free_port().await?;
        let ca_file = self.scratch.path().join("ca.pem");
        replace(&ca_file, &sandbox.ca_pem())?;
        let sources = Sources {
            file: None,
            text: Some(self.configuration(sandbox, console, &ca_file)),
            environment: false,
        };
        let read = sources.clone();
        let begin = move || config::Config::begin(&read);
        let foundation = tokio::task::spawn_blocking(begin).await??;
        let daemon = Box::pin(Daemon::start(foundation, sources)).await?;
        self.daemon = Some(daemon.clone());
        let listener = listener(&daemon)?;
        self.step(&format!(
            "relay up in {}: takes plain SMTP at {listener}, queue and sealed tokens on disk",
            ms(began.elapsed())
        ))?;
        Ok(daemon)
    }

    fn configuration(&self, sandbox: &Sandbox, console: SocketAddr, ca_file: &Path) -> String {
        let practice = Practice {
            sandbox,
            account: ACCOUNT,
            mailbox: MAILBOX,
            redirect_url: &format!("http://{console}{CALLBACK}"),
            ca_file,
        };
        let state_dir = self.scratch.path().join("state");
        let state_dir = serde_json::Value::from(state_dir.to_string_lossy());
        format!(
            "state_dir = {state_dir}\n\
             hostname = \"relay.example.com\"\n\
             default_account = \"{ACCOUNT}\"\n\
             [[listener]]\naddress = \"127.0.0.1:0\"\n\
             [console]\naddress = \"{console}\"\n{}",
            practice.toml()
        )
    }

    /// Signs in as a person with a browser does: opens the link, allows, is sent back to the relay.
    async fn sign_in(&self, daemon: &Daemon) -> anyhow::Result<()> {
        let account = AccountName::new(ACCOUNT);
        let begun = daemon.oauth.begin_sign_in(&account, false).await?;
        let SignIn::Browser { id, url, .. } = begun else {
            bail!("the relay did not ask for a browser sign-in");
        };
        let link = Url::parse(&url).context("sign-in link")?;
        let host = &link[..url::Position::BeforePath];
        self.step(&format!(
            "sign-in begun: the relay shows a link to {host}, with PKCE"
        ))?;
        let browser = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()?;
        let page = browser.get(&url).send().await?;
        ensure!(
            page.status().is_success(),
            "consent page: {}",
            page.status()
        );
        let form = [("mailbox", MAILBOX), ("decision", "allow")];
        let allowed = browser.post(&url).form(&form).send().await?;
        let back = allowed
            .headers()
            .get(reqwest::header::LOCATION)
            .and_then(|location| location.to_str().ok())
            .with_context(|| format!("no way back from consent: {}", allowed.status()))?;
        self.step(&format!(
            "consent given for {MAILBOX}; the browser goes back to the relay"
        ))?;
        let landed = browser.get(back).send().await?;
        let status = landed.status();
        if let Err(diagnosis) = daemon.oauth.sign_in_result(&id).await {
            bail!("sign-in: {diagnosis}");
        }
        ensure!(
            !status.is_client_error(),
            "the relay's callback page: {status}"
        );
        self.step("token obtained: code redeemed, refresh token sealed and stored")
    }

    /// One message, and a token that dies before it: the provider may end a token at any time.
    async fn send(&self, sandbox: &Sandbox, daemon: &Daemon) -> anyhow::Result<()> {
        let account = AccountName::new(ACCOUNT);
        let token = daemon.oauth.access_token(&account, Service::Smtp).await?;
        sandbox.play(Fault::Expire);
        self.step("the provider ends that token early, as any provider may")?;

        let listener = listener(daemon)?;
        let submitting = Instant::now();
        let reply = submit(listener).await.context("scanner")?;
        let durable = Instant::now();
        self.step(&format!(
            "submitted by {SENDER}: plain SMTP, no TLS, no password; message synced to disk and \
             answered \"{reply}\" ({} for the whole session)",
            ms(durable - submitting)
        ))?;
        daemon
            .oauth
            .changed(&account, Service::Smtp, token.generation)
            .await;
        self.step(&format!(
            "token refreshed: the provider refused the dead one, the relay fetched another ({} \
             after the 250)",
            ms(durable.elapsed())
        ))?;
        sandbox.delivered_at_least(1).await;
        self.step(&format!(
            "upstream accepted: STARTTLS, XOAUTH2, delivered ({} after the 250)",
            ms(durable.elapsed())
        ))
    }

    fn show(&self, sandbox: &Sandbox) -> anyhow::Result<()> {
        let delivered = sandbox.delivered();
        let [message] = delivered.as_slice() else {
            bail!("{} messages in the mailbox, not one", delivered.len());
        };
        check(message)?;
        self.printer.line(format_args!(
            "\nThe message as the provider has it:\n\n\
             \x20 | MAIL FROM:<{}>\n\
             \x20 | RCPT TO:<{}>\n\
             \x20 |",
            message.sender,
            message.recipients.join(">, <"),
        ))?;
        for line in message.message.lines() {
            self.printer.line(format_args!("  | {line}"))?;
        }
        let elapsed = ms(self.began.elapsed());
        self.printer.line(format_args!(
            "\nDone in {elapsed}: accepted once, delivered once."
        ))?;
        Ok(())
    }

    async fn stay(&self, sandbox: &Sandbox) -> anyhow::Result<()> {
        let daemon = self.daemon.as_ref().context("the relay is down")?;
        let listener = listener(daemon)?;
        let (host, port) = (listener.ip(), listener.port());
        let url = sandbox.url();
        let console = daemon.console.map_or_else(String::new, |console| {
            format!("\n  console  http://{console}/")
        });
        self.printer.line(format_args!(
            "\nStill up:\n\n\
             \x20 SMTP     {listener}\n\
             \x20 mailbox  {url}/mailbox{console}\n\
             \x20 faults   {url}/faults\n\n\
             Send with one of\n\n\
             \x20 swaks --server {host} --port {port} --from {SENDER} --to {RECIPIENT}\n\
             \x20 printf 'Subject: hello\\r\\n\\r\\nhello\\r\\n' | curl --url smtp://{listener} \
             --mail-from {SENDER} --mail-rcpt {RECIPIENT} --upload-file -\n\n\
             Ctrl-C stops everything and removes what it kept."
        ))?;
        interrupted().await?;
        Ok(())
    }

    /// What is known when the story does not go on.
    fn stuck(&self) -> anyhow::Error {
        let account = AccountName::new(ACCOUNT);
        let daemon = self.daemon.as_ref();
        let held = daemon
            .and_then(|daemon| daemon.delivery.status(&account))
            .and_then(|lane| lane.held);
        let token = daemon
            .and_then(|daemon| daemon.oauth.status(&account))
            .and_then(|status| status.diagnosis);
        let why = held.or(token).map_or_else(
            || "the last step above went well, the next one never came".to_owned(),
            |diagnosis| diagnosis.to_string(),
        );
        anyhow::anyhow!("no end after {} s: {why}", STORY_MAX.as_secs())
    }

    async fn stop(&self) {
        if let Some(daemon) = &self.daemon {
            // Its own limits are longer than anybody wants to watch a demo stop.
            let stopped = timeout(DRAIN_MAX, Box::pin(daemon.stop())).await;
            stopped.unwrap_or_default();
        }
        self.tasks.stop();
        let drained = timeout(DRAIN_MAX, self.tasks.drained()).await;
        drained.unwrap_or_default();
    }

    fn step(&self, text: &str) -> anyhow::Result<()> {
        let elapsed = ms(self.began.elapsed());
        self.printer.line(format_args!("{elapsed:>10}  {text}"))?;
        Ok(())
    }
}

/// Whether what arrived is what was sent.
fn check(message: &Delivered) -> anyhow::Result<()> {
    ensure!(message.mailbox == MAILBOX, "sent as {}", message.mailbox);
    ensure!(message.recipients == [RECIPIENT], "recipients differ");
    let body = SCAN.split_once("\r\n\r\n").map(|(_, body)| body);
    let sent = body.map(|body| body.trim_end_matches(".\r\n").replace("\r\n..", "\r\n."));
    let arrived = message.message.split_once("\r\n\r\n").map(|(_, body)| body);
    ensure!(
        arrived == sent.as_deref(),
        "the body was changed on its way"
    );
    Ok(())
}

/// Sends as a device from before TLS does; the reply to the end of data.
async fn submit(listener: SocketAddr) -> anyhow::Result<String> {
    let stream = TcpStream::connect(listener).await?;
    let (input, mut output) = stream.into_split();
    let mut replies = BufReader::new(input.take(REPLIES_LEN_MAX));
    expect(&mut replies, '2').await?;
    let commands = [
        ("EHLO printer-2".to_owned(), '2'),
        (format!("MAIL FROM:<{SENDER}>"), '2'),
        (format!("RCPT TO:<{RECIPIENT}>"), '2'),
        ("DATA".to_owned(), '3'),
    ];
    for (command, class) in commands {
        output
            .write_all(format!("{command}\r\n").as_bytes())
            .await?;
        let reply = expect(&mut replies, class).await;
        reply.with_context(|| command)?;
    }
    output.write_all(SCAN.as_bytes()).await?;
    let accepted = expect(&mut replies, '2').await.context("end of data")?;
    output.write_all(b"QUIT\r\n").await?;
    expect(&mut replies, '2').await.context("QUIT")?;
    Ok(accepted)
}

/// The last line of a reply that begins with `class`.
async fn expect<R: AsyncReadExt + Unpin>(
    replies: &mut BufReader<Take<R>>,
    class: char,
) -> anyhow::Result<String> {
    loop {
        let mut line = String::new();
        ensure!(replies.read_line(&mut line).await? > 0, "connection closed");
        let line = line.trim_end();
        ensure!(line.starts_with(class), "the relay answered: {line}");
        if line.as_bytes().get(3) != Some(&b'-') {
            return Ok(line.to_owned());
        }
    }
}

fn listener(daemon: &Daemon) -> anyhow::Result<SocketAddr> {
    let addresses = daemon.submission.addresses();
    let bound = addresses.into_iter().find_map(|(_, address)| address);
    bound.context("the relay has no TCP listener")
}

fn any_port() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// A port that is free now, for the console: the redirect URL in the configuration must name it
/// before the relay binds it. Should somebody take it in between, the relay says so and the demo
/// ends; the kernel hands out such ports in turn, so it does not happen in practice.
async fn free_port() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind(any_port()).await.context("free port")?;
    Ok(listener.local_addr()?)
}

/// Milliseconds with one decimal.
fn ms(elapsed: Duration) -> String {
    format!("{:.1} ms", elapsed.as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_notices_a_message_that_was_changed() {
        let arrived = |recipient: &str, body: &str| Delivered {
            over: "smtp".to_owned(),
            mailbox: MAILBOX.to_owned(),
            sender: SENDER.to_owned(),
            recipients: vec![recipient.to_owned()],
            message: format!("Received: by relay\r\nSubject: Scan\r\n\r\n{body}"),
        };
        let body = "Your scan is ready.\r\n\
            .two dots begin this line on the wire, one in the mailbox\r\n";
        assert!(check(&arrived(RECIPIENT, body)).is_ok());
        assert!(check(&arrived("else@example.com", body)).is_err());
        for changed in [
            body.replace("\r\n.", "\r\n.."),
            format!("{body}x"),
            String::new(),
        ] {
            assert!(check(&arrived(RECIPIENT, &changed)).is_err(), "{changed}");
        }
    }
}
