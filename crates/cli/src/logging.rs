//! Structured logs on stderr: text for a person at a terminal, JSON for everything else.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

/// The environment variable that sets what is logged, such as `info` or `berth_server=debug`.
const FILTER_VARIABLE: &str = "BERTH_LOG";
/// What is logged where nothing is set. openraft tells of every heartbeat that a dead peer misses: its warnings are
/// kept for those who ask.
const FILTER_DEFAULT: &str =
    "info,openraft=error,openraft_rt_tokio=error,chunked_wal=warn,raft_log=warn,sled=warn,h2=warn,hyper=warn";

/// Starts logging for the rest of the process. A second call changes nothing.
///
/// # Errors
/// A sentence, where the filter in the environment is not one.
pub(crate) fn start() -> Result<(), String> {
    let filter = match std::env::var(FILTER_VARIABLE) {
        Ok(text) if !text.is_empty() => EnvFilter::try_new(&text).map_err(|e| {
            format!("{FILTER_VARIABLE} is `{text}`, which is not a log filter: {e}; try `info`")
        })?,
        _ => EnvFilter::new(FILTER_DEFAULT),
    };
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_span_events(FmtSpan::NONE);
    // A test that runs commands in its own process may have started one before.
    let _ = if std::io::stderr().is_terminal() { log.try_init() } else { log.json().try_init() };
    Ok(())
}
