//! `gatepost run`: the daemon.

use std::process::ExitCode;

use super::Context;
use crate::{config::Config, daemon::supervise, telemetry};

pub(super) fn run(context: &Context) -> anyhow::Result<ExitCode> {
    let config = Config::load(&context.sources)?;
    // Writes out what waits when the verb ends.
    let _log = telemetry::log::init(&config.log)?;
    for warning in &config.warnings {
        tracing::warn!(event = "config_warning", warning);
    }
    let version = env!("CARGO_PKG_VERSION");
    let file = config
        .file
        .as_deref()
        .map(|file| file.display().to_string());
    tracing::info!(event = "starting", version, file);
    let runtime = super::daemon_runtime()?;
    super::block_on(runtime, supervise::run(config, context.sources.clone()))
}
