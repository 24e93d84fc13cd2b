//! The edge: one file a verb. Everything printed goes through the printer here.
//!
//! Exit codes: 0 done, 1 the answer is no, 2 usage; `sendmail` has those of sysexits.h.

mod accounts;
mod check;
mod clients;
mod completions;
mod console;
mod demo;
mod doctor;
mod hash_password;
mod healthcheck;
mod keeper;
mod login;
mod logout;
mod man;
mod printer;
mod queue;
mod reach;
mod reload;
mod rotate_key;
mod run;
mod sandbox;
mod sendmail;
mod test;
mod text;
mod trace;

use std::{io, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};
use tokio::runtime::{Builder, Runtime};

pub(crate) use printer::{Printer, Table};

use crate::config::Sources;

/// Blocking calls at once: name lookups, password hashes, message files. Each may cost a stack.
const BLOCKING_THREADS_MAX: usize = 16;
/// An idle blocking thread gives its stack back soon: they are needed in bursts only.
const BLOCKING_THREAD_LINGER: Duration = Duration::from_secs(5);
/// What still blocks when the work is done (a name lookup, a read of the terminal) is left behind.
const SHUTDOWN_LINGER: Duration = Duration::from_millis(100);

/// Plain SMTP in, durable queue, fresh OAuth token, Microsoft 365 or Google out.
#[derive(Debug, Parser)]
#[command(name = "gatepost", version, subcommand_required = true)]
#[command(disable_help_subcommand = true)]
struct Cli {
    /// The configuration [default: $GATEPOST_CONFIG, else /etc/gatepost/gatepost.toml if there]
    #[arg(long, global = true, value_name = "FILE", display_order = 900)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the relay (SIGHUP reloads, SIGTERM drains)
    Run,
    /// Show the main job in a minute, with a practice provider
    Demo(demo::Args),
    /// Check the configuration and list every problem
    Check(check::Args),
    /// Sign an account in
    Login(login::Args),
    /// Forget an account's tokens, revoking them where the provider can
    Logout(logout::Args),
    /// Show each account: state, token, what is wrong and what to do
    Accounts(accounts::Args),
    /// Show who has connected lately, what was refused, and what to do about it
    Clients(clients::Args),
    /// Show where the console is, with a new one-time code where it has no password
    Console(console::Args),
    /// Send one message through an account and tell each step
    Test(test::Args),
    /// Look at each step of an account's way and name the switch that is off
    Doctor(doctor::Args),
    /// Look at and operate the queue
    Queue(queue::Args),
    /// Tell what happened to a message
    Trace(trace::Args),
    /// Seal every stored token and secret with another key
    RotateKey,
    /// Have the running daemon read its configuration again
    Reload,
    /// Hash a password for `[[client]] password_hash`
    HashPassword(hash_password::Args),
    /// Run the practice provider: OAuth, XOAUTH2 SMTP, a mailbox page, faults on demand
    Sandbox(sandbox::Args),
    /// Take a message from standard input, as sendmail does (also when called `sendmail` or `mailq`)
    Sendmail(sendmail::Args),
    /// Exit 0 if the daemon lives, 1 if not (for containers)
    Healthcheck,
    /// Print a script that completes this command line in a shell
    Completions(completions::Args),
    /// Print the manual page of the program or of a verb (`gatepost man | man -l -`)
    Man(man::Args),
}

/// What every verb gets.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    /// The way to the terminal.
    pub(crate) printer: Printer,
    /// Where the configuration comes from.
    pub(crate) sources: Sources,
}

/// Runs the command line.
#[must_use]
pub fn main() -> ExitCode {
    // Explicitly ours, whatever a dependency would choose. Only a second call could fail.
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.install_default().unwrap_or_default();
    let cli = match sendmail::called().map(Verb::Sendmail) {
        Some(verb) => Cli { config: None, verb },
        None => match Cli::try_parse() {
            Ok(cli) => cli,
            Err(usage) => return print_usage(&usage),
        },
    };
    let context = Context {
        printer: Printer,
        sources: reach::sources(cli.config),
    };
    match dispatch(cli.verb, &context) {
        Ok(exit) => exit,
        Err(error) if is_reader_gone(&error) => ExitCode::SUCCESS,
        Err(error) => {
            context.printer.error(format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Help and version go to standard output (0), usage errors to standard error (2).
fn print_usage(usage: &clap::Error) -> ExitCode {
    // Nobody is left to tell when the terminal is gone.
    usage.print().unwrap_or_default();
    u8::try_from(usage.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// Whether the reader of our output went away (`gatepost queue list | head`).
fn is_reader_gone(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let cause = cause.downcast_ref::<io::Error>();
        cause.is_some_and(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
    })
}

fn dispatch(verb: Verb, context: &Context) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Run => run::run(context),
        Verb::Demo(args) => block_on(daemon_runtime()?, demo::run(context, args)),
        Verb::Sandbox(args) => block_on(daemon_runtime()?, sandbox::run(context, args)),
        Verb::Check(args) => check::run(context, &args),
        Verb::HashPassword(args) => hash_password::run(context, &args),
        Verb::Login(args) => client(login::run(context, &args)),
        Verb::Logout(args) => client(logout::run(context, &args)),
        Verb::Accounts(args) => client(accounts::run(context, &args)),
        Verb::Clients(args) => client(clients::run(context, &args)),
        Verb::Console(args) => client(console::run(context, &args)),
        Verb::Test(args) => client(test::run(context, &args)),
        Verb::Doctor(args) => client(doctor::run(context, &args)),
        Verb::Queue(args) => client(queue::run(context, &args)),
        Verb::Trace(args) => client(trace::run(context, &args)),
        Verb::RotateKey => client(rotate_key::run(context)),
        Verb::Reload => client(reload::run(context)),
        Verb::Sendmail(args) => sendmail::run(context, &args),
        Verb::Healthcheck => client(healthcheck::run(context)),
        Verb::Completions(args) => completions::run(context, &args),
        Verb::Man(args) => man::run(context, &args),
    }
}

/// Runs a verb that asks a daemon: one thread is plenty.
fn client(verb: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .build()?;
    block_on(runtime, verb)
}

/// The runtime of a daemon: a worker a core, few blocking threads.
fn daemon_runtime() -> io::Result<Runtime> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    Builder::new_multi_thread()
        .enable_all()
        .thread_name("gatepost")
        .worker_threads(workers)
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_keep_alive(BLOCKING_THREAD_LINGER)
        .build()
}

/// Runs a verb to its end on `runtime`, and ends the runtime.
fn block_on(
    runtime: Runtime,
    verb: impl Future<Output = anyhow::Result<ExitCode>>,
) -> anyhow::Result<ExitCode> {
    let exit = runtime.block_on(Box::pin(verb));
    runtime.shutdown_timeout(SHUTDOWN_LINGER);
    exit
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// Verbs whose help is this snapshot's business; the others keep their own.
    const VERBS: [&[&str]; 18] = [
        &[],
        &["run"],
        &["login"],
        &["logout"],
        &["accounts"],
        &["clients"],
        &["test"],
        &["doctor"],
        &["queue"],
        &["queue", "list"],
        &["queue", "show"],
        &["queue", "retry"],
        &["queue", "export"],
        &["trace"],
        &["reload"],
        &["healthcheck"],
        &["completions"],
        &["man"],
    ];

    /// The command line is a contract: a change of its help is a change someone must mean.
    #[test]
    fn help_is_as_documented() {
        let mut text = String::new();
        for verb in VERBS {
            let mut arguments = vec!["gatepost"];
            arguments.extend(verb);
            arguments.push("--help");
            let command = Cli::command().term_width(100);
            let help = command.try_get_matches_from(&arguments).unwrap_err();
            text.push_str(&format!("$ {}\n{help}\n", arguments.join(" ")));
        }
        let documented = include_str!("help.txt");
        if text != documented {
            let new = std::env::temp_dir().join("gatepost-help.txt");
            std::fs::write(&new, &text).unwrap();
            panic!(
                "help has changed; if meant, copy {} to src/cli/help.txt",
                new.display()
            );
        }
    }

    /// Usage: what is wrong is refused before anything is asked of a daemon.
    #[test]
    fn wrong_usage_is_refused() {
        for line in [
            "",
            "frobnicate",
            "login",
            "login alerts --device --no-browser",
            "test alerts",
            "test alerts --to a@b.example --notify",
            "queue retry",
            "queue delete --all --account alerts",
            "queue delete 0000000000000 --all",
            "queue show not-an-id",
            "queue export",
            "queue export --dir out",
            "queue import",
            "queue list --state odd",
            "trace",
            "trace --limit 0 x",
            "trace --since yesterday",
            "completions",
            "completions cmd",
        ] {
            let arguments = std::iter::once("gatepost").chain(line.split_whitespace());
            let refused = Cli::try_parse_from(arguments).map(|_| ()).unwrap_err();
            assert_eq!(refused.exit_code(), 2, "{line}");
        }
    }

    /// `--config` stands anywhere, and the operations take what they promise.
    #[test]
    fn right_usage_is_taken() {
        for line in [
            "--config x.toml run",
            "run --config x.toml",
            "login alerts --no-browser",
            "accounts --json --config x.toml",
            "queue",
            "queue list --state held --json",
            "queue retry 0000000000000 0000000000001",
            "queue hold --account alerts --sender *@contoso.com",
            "queue release --all",
            "trace <1@example.com>",
            "trace --since 2h --recipient *@example.com --json",
            "queue export 0000000000000 --dir out",
            "queue export --sender *@contoso.com --dir out",
            "queue import out --account alerts",
            "test alerts --to ops@example.com",
            "test --notify --json",
            "completions bash",
            "man",
            "man queue list",
        ] {
            let arguments = std::iter::once("gatepost").chain(line.split_whitespace());
            assert!(Cli::try_parse_from(arguments).is_ok(), "{line}");
        }
        let version = Cli::try_parse_from(["gatepost", "--version"]).unwrap_err();
        assert_eq!(version.exit_code(), 0);
        let wanted = format!("gatepost {}\n", env!("CARGO_PKG_VERSION"));
        assert_eq!(version.to_string(), wanted);
    }
}
