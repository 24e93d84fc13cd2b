//! `gatepost sendmail`: the command that every program on Unix hands its mail to.
//!
//! The message goes to the daemon's listener on this machine, and only a `250` from there makes the
//! exit code 0: then it is on disk. Nothing is kept here. Where the daemon does not answer the exit code
//! is 75 (try later) and the message stays with the caller: a drop directory that anybody may write
//! to would need a set-group-id program, and a second queue beside the one that is watched.

mod mailq;
mod message;
mod options;
mod places;
mod submit;
mod user;

use std::{
    env,
    ffi::OsString,
    io::{self, Read},
    path::Path,
    process::ExitCode,
    thread,
};

use self::{
    options::{Mode, Options},
    submit::{Failure, Letter, Session},
};
use super::{Context, reach};
use crate::mail::{Address, ReversePath};

/// A message larger than this is refused before it is read whole; no provider takes one near it.
const MESSAGE_LEN_MAX: u64 = 256 * 1024 * 1024;

const HELP: &str = "\
Usage: sendmail [OPTIONS] [RECIPIENT...]     a message from standard input
       sendmail -bs                          SMTP on standard input and output
       mailq, sendmail -bp                   the queue
       sendmail -q                           try everything in the queue now

  -t              recipients stand in To, Cc, Bcc as well (or in Resent-To, -Cc, -Bcc)
  -i, -oi         a line with only a dot does not end the message
  -f, -r SENDER   where failures are reported to; default: the user who calls
  -F NAME         full name, for a From that is missing
  -N WHEN         reports: never, or any of failure,delay,success
  -R full|hdrs    how much a report returns     -V ID    envelope id
  -v              say what the relay answered
  --config FILE   the configuration whose listener is used
Other options of Sendmail and Postfix are accepted and mean nothing here.
Exit codes are those of sysexits.h: 0 the message is safe, 64 usage, 65 the message or an address cannot
be sent, 67 a recipient is refused, 69 no daemon, 75 try again later, 77 not permitted, 78 configuration.";

/// Arguments of `gatepost sendmail`; they are read as `sendmail` reads them.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(super) struct Args {
    /// As of sendmail: -t -i -f SENDER -F NAME -bs -bp -q -N -R -V, recipients
    #[arg(
        value_name = "SENDMAIL ARGUMENTS",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    words: Vec<OsString>,
}

/// What the caller is told by number (sysexits.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exit {
    Usage,
    DataErr,
    NoUser,
    Unavailable,
    IoErr,
    TempFail,
    Protocol,
    NoPerm,
    Config,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Usage => 64,
            Exit::DataErr => 65,
            Exit::NoUser => 67,
            Exit::Unavailable => 69,
            Exit::IoErr => 74,
            Exit::TempFail => 75,
            Exit::Protocol => 76,
            Exit::NoPerm => 77,
            Exit::Config => 78,
        })
    }
}

/// The arguments, if this program was called by a name of `sendmail`'s.
pub(super) fn called() -> Option<Args> {
    let mut words = env::args_os();
    let name = words.next()?;
    let mode = match Path::new(&name).file_name()?.to_str()? {
        "sendmail" => None,
        "mailq" => Some("-bp"),
        "newaliases" => Some("-bi"),
        _ => return None,
    };
    let words = mode.map(OsString::from).into_iter().chain(words);
    Some(Args {
        words: words.collect(),
    })
}

/// Does what the words say.
pub(super) fn run(context: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    let options = match read_options(args) {
        Ok(options) => options,
        Err(failure) => return Ok(tell(context, &failure)),
    };
    let context = match &options.config {
        Some(file) => &Context {
            sources: reach::sources(Some(file.clone())),
            ..context.clone()
        },
        None => context,
    };
    let done = match options.mode {
        Mode::Help => return Ok(context.printer.line(HELP).map(|()| ExitCode::SUCCESS)?),
        Mode::Aliases => return Ok(ExitCode::SUCCESS),
        Mode::List => return super::client(mailq::list(context)),
        Mode::Flush => return super::client(mailq::flush(context)),
        Mode::Smtp => smtp(context),
        Mode::Deliver => deliver(context, &options),
    };
    Ok(match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => tell(context, &failure),
    })
}

fn tell(context: &Context, failure: &Failure) -> ExitCode {
    let (exit, what) = (failure.exit, &failure.what);
    context.printer.note(format_args!("sendmail: {what}"));
    exit.into()
}

fn read_options(args: &Args) -> Result<Options, Failure> {
    let words: Option<Vec<String>> = args
        .words
        .iter()
        .map(|word| word.to_str().map(str::to_owned))
        .collect();
    let usage = |what: &str| Failure::new(Exit::Usage, format!("{what}; see sendmail --help"));
    let words = words.ok_or_else(|| usage("an argument is not UTF-8"))?;
    options::parse(&words).map_err(|what| usage(&what))
}

/// A message from standard input.
fn deliver(context: &Context, options: &Options) -> Result<(), Failure> {
    if options.recipients.is_empty() && !options.from_header {
        let what = "no recipients: name them, or use -t; see sendmail --help";
        return Err(Failure::new(Exit::Usage, what));
    }
    // Read to its end before anything else, so that the caller never writes into a closed pipe.
    let mut message = read_message(options.ignore_dots)?;
    let mut recipients = options.recipients.clone();
    if options.from_header {
        recipients.extend(message::recipients(&message));
    }
    if recipients.is_empty() {
        let what = "no recipients in To, Cc or Bcc";
        return Err(Failure::new(Exit::Usage, what));
    }
    let mut session = connect(context)?;
    let recipients = addresses(&recipients, &session.hostname)?;
    let user = user::current();
    let sender = sender(options.sender.as_deref(), &user.name, &session.hostname)?;
    let full_name = options.full_name.as_deref().or(user.full_name.as_deref());
    let author = sender.address().map(Address::as_str);
    message::complete(&mut message, full_name, author);
    let envid = options.envid.as_deref().map(submit::xtext);
    let replies = session.send(&Letter {
        sender: &sender,
        recipients: &recipients,
        message: &message,
        notify: options.notify,
        ret: options.ret,
        envid: envid.as_deref(),
    })?;
    if options.verbose {
        for reply in replies {
            context.printer.note(reply);
        }
    }
    Ok(())
}

fn read_message(ignore_dots: bool) -> Result<Vec<u8>, Failure> {
    let mut input = Vec::new();
    let mut stdin = io::stdin().lock().take(MESSAGE_LEN_MAX + 1);
    let read = stdin.read_to_end(&mut input);
    let read =
        read.map_err(|error| Failure::new(Exit::IoErr, format!("standard input: {error}")))?;
    if u64::try_from(read).unwrap_or(u64::MAX) > MESSAGE_LEN_MAX {
        let what = format!("the message is larger than {} MiB", MESSAGE_LEN_MAX >> 20);
        return Err(Failure::new(Exit::DataErr, what));
    }
    message::normalise(&input, ignore_dots).map_err(|message::HoldsNul| {
        let what = "the message holds an octet 0, which no mail can: encode it, as base64 or an attachment";
        Failure::new(Exit::DataErr, what)
    })
}

fn connect(context: &Context) -> Result<Session, Failure> {
    Session::begin(stream(context)?)
}

fn stream(context: &Context) -> Result<submit::Stream, Failure> {
    let places = places::places(&context.sources);
    let places = places.map_err(|error| Failure::new(Exit::Config, error.to_string()))?;
    places::connect(&places).map_err(|tried| {
        let what = format!(
            "no relay answers at {tried}: is `gatepost run` running? The message was not taken; try again later"
        );
        Failure::new(Exit::TempFail, what)
    })
}

/// What was given as recipients; those without a domain are of the relay's host.
fn addresses(texts: &[String], hostname: &str) -> Result<Vec<Address>, Failure> {
    let mut found: Vec<Address> = Vec::with_capacity(texts.len());
    for text in texts {
        let listed = crate::mail::recipients::addresses(text.as_bytes());
        if listed.is_empty() {
            return Err(not_an_address(text));
        }
        for one in listed {
            let address = address(&one, hostname).ok_or_else(|| not_an_address(&one))?;
            if !found.contains(&address) {
                found.push(address);
            }
        }
    }
    Ok(found)
}

fn address(text: &str, hostname: &str) -> Option<Address> {
    let with_domain = || Address::parse(&format!("{text}@{hostname}"));
    Address::parse(text).or_else(|_| with_domain()).ok()
}

fn not_an_address(text: &str) -> Failure {
    Failure::new(Exit::DataErr, format!("{text:?} is not a mail address"))
}

fn sender(given: Option<&str>, user: &str, hostname: &str) -> Result<ReversePath, Failure> {
    let text = match given {
        Some("" | "<>") => return Ok(ReversePath::Null),
        Some(given) => given,
        None => user,
    };
    let listed = crate::mail::recipients::addresses(text.as_bytes());
    let [one] = listed.as_slice() else {
        return Err(not_an_address(text));
    };
    let address = address(one, hostname).ok_or_else(|| not_an_address(text))?;
    Ok(ReversePath::Address(address))
}

/// SMTP between the caller and the listener, octet by octet.
fn smtp(context: &Context) -> Result<(), Failure> {
    let broken = |error: io::Error| Failure::new(Exit::IoErr, error.to_string());
    let mut stream = stream(context)?;
    let mut upward = stream.try_clone().map_err(broken)?;
    // Left behind when the listener ends the session first: it then waits for a caller who has gone.
    thread::spawn(move || {
        let copied = io::copy(&mut io::stdin().lock(), &mut upward);
        copied.and_then(|_| upward.end())
    });
    let copied = io::copy(&mut stream, &mut io::stdout().lock());
    copied.map(drop).map_err(broken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_without_a_domain_are_of_the_relays_host() {
        let texts = ["root", "A B <a@b.c>, d@e.f", "a@b.c"].map(str::to_owned);
        let found = addresses(&texts, "relay.example").unwrap();
        let found: Vec<&str> = found.iter().map(Address::as_str).collect();
        assert_eq!(found, ["root@relay.example", "a@b.c", "d@e.f"]);
        assert!(addresses(&["a b".to_owned()], "h.example").is_err());
        assert!(addresses(&[" ".to_owned()], "h.example").is_err());
    }

    #[test]
    fn the_sender_is_who_is_named_or_who_calls() {
        for (given, wanted) in [
            (None, "root@h.example"),
            (Some(""), ""),
            (Some("<>"), ""),
            (Some("<a@b.c>"), "a@b.c"),
            (Some("www"), "www@h.example"),
        ] {
            let sender = sender(given, "root", "h.example").unwrap();
            assert_eq!(sender.to_string(), wanted, "{given:?}");
        }
        assert!(sender(Some("a@b.c, d@e.f"), "root", "h").is_err());
    }
}
