//! `gatepost man`: the manual page of the program, or of a verb, as roff.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::CommandFactory;
use clap_mangen::Man;

use super::{Cli, Context};

/// Arguments of `gatepost man`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The verb whose page is wanted, as `queue list` [default: the program's own page]
    #[arg(value_name = "VERB")]
    verb: Vec<String>,
}

/// Prints the page.
///
/// # Errors
/// No such verb, or what the system says of standard output.
pub(super) fn run(context: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    context.printer.octets(&page(&args.verb)?)?;
    Ok(ExitCode::SUCCESS)
}

fn page(verb: &[String]) -> anyhow::Result<Vec<u8>> {
    let mut command = Cli::command();
    // Only a built command knows the whole names of its verbs.
    command.build();
    let mut found = &command;
    for word in verb {
        found = found
            .find_subcommand(word)
            .with_context(|| format!("there is no verb {word:?}; `gatepost --help` lists them"))?;
    }
    let name = found.get_display_name().unwrap_or("gatepost").to_owned();
    let mut page = Vec::new();
    Man::new(found.clone())
        .title(name)
        .section("1")
        .render(&mut page)?;
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_has_a_page_of_its_own() {
        let own = String::from_utf8(page(&[]).unwrap()).unwrap();
        assert!(own.contains(".TH gatepost 1"), "{own}");
        for verb in Cli::command().get_subcommands() {
            let name = verb.get_name().to_owned();
            let title = format!(".TH gatepost-{} 1", name);
            let page = String::from_utf8(page(&[name]).unwrap()).unwrap();
            assert!(page.contains(&title), "{title}: {page}");
        }
        let list = page(&["queue".to_owned(), "list".to_owned()]).unwrap();
        assert!(
            String::from_utf8(list)
                .unwrap()
                .contains(".TH gatepost-queue-list 1")
        );
        assert!(page(&["frobnicate".to_owned()]).is_err());
    }
}
