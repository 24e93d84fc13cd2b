//! `gatepost run`: the daemon.

use std::process::ExitCode;

use super::Context;
use crate::{config::Config, daemon::supervise, telemetry};

pub(super) fn run(context: &Context) -> anyhow::Result<ExitCode> {
    let foundation = Config::begin(&context.sources)?;
    // Writes out what waits when the verb ends.
    let _log = telemetry::log::init(&foundation.log)?;
    let version = env!("CARGO_PKG_VERSION");
    let file = foundation
        .file
        .as_deref()
        .map(|file| file.display().to_string());
    tracing::info!(event = "starting", version, file);
    let runtime = super::daemon_runtime()?;
    super::block_on(runtime, supervise::run(foundation, context.sources.clone()))
}
