//! The binary: everything is in the library, `cli` is its edge.

use std::process::ExitCode;

fn main() -> ExitCode {
    gatepost::cli::main()
}
