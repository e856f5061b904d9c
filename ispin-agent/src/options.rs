//! The options of a run, and lengths of time as they are typed.

use std::ffi::OsString;
use std::time::Duration;

use clap::Args;

use crate::sink::SinkOptions;
use crate::source::SourceKind;

/// The options of `ispin-agent run`.
#[derive(Debug, Args)]
pub struct RunOptions {
    /// What to observe: auto, threads, guest, or replay:FILE for a run that --json recorded
    #[arg(long, value_name = "SOURCE", default_value = "auto")]
    pub source: SourceKind,
    /// Time between two snapshots, 10ms to 1h [default: 250ms, or the recorded pace of a replay]
    #[arg(long, value_name = "TIME", value_parser = interval)]
    pub interval: Option<Duration>,
    /// End after this time, as in 10s or 1m30s
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub duration: Option<Duration>,
    /// How long to wait for the observed world to appear
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "10s")]
    pub wait: Duration,
    /// Where the snapshots go.
    #[command(flatten)]
    pub sinks: SinkOptions,
    /// Start COMMAND, observe while it runs, and end with its exit code
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// A length of time as it is typed: `250ms`, `10s`, `1m30s`; more than nothing.
pub fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(d) if d.is_zero() => Err("it must be longer than nothing".into()),
        Ok(d) => Ok(d),
        Err(e) => Err(format!("{e}; write 250ms, 10s, 1m30s")),
    }
}

/// A time between two snapshots as it is typed.
pub fn interval(text: &str) -> Result<Duration, String> {
    let interval = duration(text)?;
    if interval < Duration::from_millis(10) || interval > Duration::from_secs(3600) {
        return Err("give 10ms to 1h".into());
    }
    Ok(interval)
}
