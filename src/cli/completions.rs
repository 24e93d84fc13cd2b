//! `gatepost completions`: a script that completes the command line, for a shell to read.

use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, Context};

/// Arguments of `gatepost completions`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The shell that will read the script
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Prints the script.
///
/// # Errors
/// What the system says of standard output.
pub(super) fn run(context: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    context.printer.octets(&script(args.shell))?;
    Ok(ExitCode::SUCCESS)
}

fn script(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "gatepost", &mut script);
    script
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn every_shell_learns_every_verb() {
        for shell in Shell::value_variants() {
            let script = String::from_utf8(script(*shell)).unwrap();
            for verb in Cli::command().get_subcommands() {
                assert!(script.contains(verb.get_name()), "{shell}: {verb}");
            }
        }
    }
}
