//! The options of `sendmail`, as forty years of callers write them: in clusters, with and without a
//! blank before a value, before and behind recipients.

use std::path::PathBuf;

use crate::mail::{Notify, Ret};

/// What is wanted.
#[derive(Debug, PartialEq, Eq, Default)]
pub(super) struct Options {
    pub(super) mode: Mode,
    /// `-t`: recipients stand in the header as well.
    pub(super) from_header: bool,
    /// `-i`: a line with only a dot is text.
    pub(super) ignore_dots: bool,
    /// `-v`.
    pub(super) verbose: bool,
    /// `-f`, `-r`; an empty one is the null reverse-path.
    pub(super) sender: Option<String>,
    /// `-F`.
    pub(super) full_name: Option<String>,
    /// `-N`.
    pub(super) notify: Notify,
    /// `-R`.
    pub(super) ret: Option<Ret>,
    /// `-V`.
    pub(super) envid: Option<String>,
    /// `--config`, ours alone.
    pub(super) config: Option<PathBuf>,
    pub(super) recipients: Vec<String>,
}

/// What `-b` and the name it was called by say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Mode {
    /// `-bm`: a message on standard input.
    #[default]
    Deliver,
    /// `-bs`: SMTP on standard input and output.
    Smtp,
    /// `-bp`, `mailq`.
    List,
    /// `-q`.
    Flush,
    /// `-bi`, `newaliases`: there are no aliases to make anew.
    Aliases,
    /// `--help`.
    Help,
}

/// Options that stand alone.
const FLAGS: &str = "GIUimntv";
/// Options whose value may stand in the next word.
const VALUES: &str = "BCFLNORVXbfhopr";
/// Options whose value stands in the same word or not at all.
const ATTACHED: &str = "Aeq";

/// Reads the words behind the program's name.
///
/// # Errors
/// What is wrong with them, for the caller's terminal.
pub(super) fn parse(words: &[String]) -> Result<Options, String> {
    let mut options = Options::default();
    let mut words = words.iter().map(String::as_str);
    while let Some(word) = words.next() {
        match word {
            "--" => options.recipients.extend(words.by_ref().map(str::to_owned)),
            "--help" => options.mode = Mode::Help,
            "--config" => {
                let file = words.next().ok_or("--config needs a file")?;
                options.config = Some(file.into());
            }
            "-" | "" => return Err(format!("{word:?} is neither an option nor a recipient")),
            _ => match (word.strip_prefix("--config="), word.strip_prefix('-')) {
                (Some(file), _) => options.config = Some(file.into()),
                (None, Some(cluster)) => options.cluster(cluster, &mut words)?,
                (None, None) => options.recipients.push(word.to_owned()),
            },
        }
    }
    Ok(options)
}

impl Options {
    /// `ti`, `fsender`, `oi`..: letters up to the first that takes the rest as its value.
    fn cluster<'a>(
        &mut self,
        cluster: &'a str,
        words: &mut impl Iterator<Item = &'a str>,
    ) -> Result<(), String> {
        let mut letters = cluster.chars();
        while let Some(letter) = letters.next() {
            if FLAGS.contains(letter) {
                self.flag(letter);
                continue;
            }
            let rest = letters.as_str();
            let value = if ATTACHED.contains(letter) || !rest.is_empty() {
                rest
            } else if VALUES.contains(letter) {
                words
                    .next()
                    .ok_or_else(|| format!("-{letter} needs a value"))?
            } else {
                return Err(format!("-{letter} is not known"));
            };
            if !ATTACHED.contains(letter) && !VALUES.contains(letter) {
                return Err(format!("-{letter} is not known"));
            }
            return self.value(letter, value);
        }
        Ok(())
    }

    fn flag(&mut self, letter: char) {
        match letter {
            't' => self.from_header = true,
            'i' => self.ignore_dots = true,
            'v' => self.verbose = true,
            // Gateway, initialise, user submission, me too, no aliases: nothing to do here.
            _ => (),
        }
    }

    fn value(&mut self, letter: char, value: &str) -> Result<(), String> {
        match letter {
            'b' => self.mode = mode(value)?,
            'q' => self.mode = Mode::Flush,
            'f' | 'r' => self.sender = Some(value.trim().to_owned()),
            'F' => self.full_name = Some(value.to_owned()),
            'N' => self.notify = notify(value)?,
            'R' => self.ret = Some(ret(value)?),
            'V' => self.envid = Some(value.to_owned()),
            'o' if value == "i" => self.ignore_dots = true,
            'O' if value.eq_ignore_ascii_case("IgnoreDots") => self.ignore_dots = true,
            // Body type (we look ourselves), configuration, label, hops, protocol, log, error mode and
            // all other -o: settings of another program.
            _ => (),
        }
        Ok(())
    }
}

fn mode(value: &str) -> Result<Mode, String> {
    match value {
        "m" => Ok(Mode::Deliver),
        "s" => Ok(Mode::Smtp),
        "p" => Ok(Mode::List),
        "i" => Ok(Mode::Aliases),
        "d" | "D" => Err("-bd: the daemon is `gatepost run`".to_owned()),
        other => Err(format!("-b{other} is not known")),
    }
}

/// RFC 3461 §4.1, in Sendmail's spelling.
fn notify(value: &str) -> Result<Notify, String> {
    let wrong = || format!("-N {value}: want never, or any of failure,delay,success");
    if value.eq_ignore_ascii_case("never") {
        return Ok(Notify::Never);
    }
    let (mut success, mut failure, mut delay) = (false, false, false);
    for event in value.split(',') {
        match event.trim().to_ascii_lowercase().as_str() {
            "success" => success = true,
            "failure" => failure = true,
            "delay" => delay = true,
            _ => return Err(wrong()),
        }
    }
    Ok(Notify::On {
        success,
        failure,
        delay,
    })
}

fn ret(value: &str) -> Result<Ret, String> {
    match value.to_ascii_lowercase().as_str() {
        "full" => Ok(Ret::Full),
        "hdrs" => Ok(Ret::Headers),
        _ => Err(format!("-R {value}: want full or hdrs")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Options, String> {
        // `~` stands for an empty word.
        let words = line.split_whitespace();
        let words: Vec<String> = words.map(|word| word.replace('~', "")).collect();
        parse(&words)
    }

    /// The words, whether recipients stand in the header, whether dots are text, sender, recipients.
    type Call = (&'static str, bool, bool, Option<&'static str>, &'static str);

    /// What cron, PHP, git, mdadm, smartd, mailx, s-nail, mutt and others pass, to the letter.
    const CALLS: [Call; 17] = [
        (
            "-i -FCronDaemon -B8BITMIME -oem root",
            false,
            true,
            None,
            "root",
        ),
        (
            "-FCronDaemon -i -odi -oem -oi -t -f root",
            true,
            true,
            Some("root"),
            "",
        ),
        ("-t -i", true, true, None, ""),
        (
            "-t -i -fwww@example.org",
            true,
            true,
            Some("www@example.org"),
            "",
        ),
        ("-ti", true, true, None, ""),
        (
            "-it -f www@example.org",
            true,
            true,
            Some("www@example.org"),
            "",
        ),
        ("-i a@b.c d@e.f", false, true, None, "a@b.c d@e.f"),
        ("-f a@b.c -i d@e.f", false, true, Some("a@b.c"), "d@e.f"),
        ("-t", true, false, None, ""),
        ("-i -f root -- a@b.c", false, true, Some("root"), "a@b.c"),
        (
            "-oem -oi -f a@b.c -- d@e.f -x",
            false,
            true,
            Some("a@b.c"),
            "d@e.f -x",
        ),
        ("-i -r a@b.c d@e.f", false, true, Some("a@b.c"), "d@e.f"),
        ("a@b.c -oi -v", false, true, None, "a@b.c"),
        ("-f <> -i a@b.c", false, true, Some("<>"), "a@b.c"),
        ("-f ~ a@b.c", false, false, Some(""), "a@b.c"),
        (
            "-Am -h 3 -X /tmp/x -O DeliveryMode=b -G -n -m -U a@b.c",
            false,
            false,
            None,
            "a@b.c",
        ),
        (
            "-bm -o 8 -ep -L x -p ESMTP:h a@b.c",
            false,
            false,
            None,
            "a@b.c",
        ),
    ];

    #[test]
    fn habitual_callers_are_understood() {
        for (line, from_header, ignore_dots, sender, recipients) in CALLS {
            let options = read(line).unwrap();
            assert_eq!(options.mode, Mode::Deliver, "{line}");
            assert_eq!(
                (options.from_header, options.ignore_dots),
                (from_header, ignore_dots),
                "{line}"
            );
            assert_eq!(options.sender.as_deref(), sender, "{line}");
            assert_eq!(options.recipients.join(" "), recipients, "{line}");
        }
    }

    #[test]
    fn modes_and_dsn_parameters() {
        for (line, mode) in [
            ("-bp", Mode::List),
            ("-bs", Mode::Smtp),
            ("-bi", Mode::Aliases),
            ("-q", Mode::Flush),
            ("-q15m", Mode::Flush),
            ("-qIabc", Mode::Flush),
            ("--help", Mode::Help),
        ] {
            assert_eq!(read(line).unwrap().mode, mode, "{line}");
        }
        let options = read("-N failure,Delay -R hdrs -V id-1 --config x.toml -Ft a@b.c").unwrap();
        assert_eq!(
            (options.ret, options.envid.as_deref()),
            (Some(Ret::Headers), Some("id-1"))
        );
        assert_eq!(options.config, Some("x.toml".into()));
        assert_eq!(
            options.full_name.as_deref(),
            Some("t"),
            "the rest of the word"
        );
        let wanted = Notify::On {
            success: false,
            failure: true,
            delay: true,
        };
        assert_eq!(options.notify, wanted);
        assert_eq!(read("-N never a@b.c").unwrap().notify, Notify::Never);
        assert_eq!(
            read("--config=y.toml").unwrap().config,
            Some("y.toml".into())
        );
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for line in [
            "-Z", "-f", "-bd", "-bx", "-N maybe", "-R some", "-tZ", "-", "--config",
        ] {
            assert!(read(line).is_err(), "{line}");
        }
    }
}
