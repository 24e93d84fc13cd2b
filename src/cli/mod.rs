//! The edge: one file a verb. Everything printed goes through the printer here.

mod demo;
mod sandbox;

use std::process::ExitCode;

/// Runs the command line.
#[must_use]
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
