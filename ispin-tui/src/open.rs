//! Opening a source in this process, and starting the COMMAND that makes its world.

use anyhow::{Result, bail};
use ispin_agent::check::{Depth, Report};
use ispin_agent::cli::BTF_VARIABLE;
use ispin_agent::command::{self, Child, GRACE, Output};
use ispin_agent::rt::{OBSERVER_PRIORITY, RealTime};
use ispin_agent::signals::{self, Signals};
use ispin_agent::source::{self, OpenOptions, SourceKind};

use crate::cli::{Cli, tell};
use crate::feed::local::LocalFeed;

/// What is at work while a source is shown.
pub struct Opened {
    /// Its snapshots.
    pub feed: LocalFeed,
    /// The priority of this thread, if the source needs one.
    pub priority: Option<RealTime>,
}

/// Opens the source that was asked for. The calling thread must be the one that samples it.
pub fn open(cli: &Cli, signals: &Signals) -> Result<Opened> {
    let kind = settle(cli)?;
    let mut command = match cli.command.split_first() {
        Some((program, arguments)) => {
            Some(Child::spawn(program, arguments, &[(BTF_VARIABLE, &cli.btf)], Output::Discard)?)
        }
        None => None,
    };
    // vCPU threads are real-time in the threads world only.
    let priority = if kind == SourceKind::Threads { raise_priority() } else { None };
    let pid = command.as_ref().map(Child::pid);
    let mut keep_waiting = || {
        if let Some(number) = signals.take() {
            bail!("{} came before there was anything to observe", signals::name(number));
        }
        if let Some(command) = command.as_mut()
            && let Some(status) = command.try_wait()?
        {
            bail!(
                "COMMAND `{}` {} before there was anything to observe; run it without the dashboard to see what it says",
                command.name(),
                command::describe(status)
            );
        }
        Ok(())
    };
    let options =
        OpenOptions { btf: &cli.btf, command: pid, timeout: cli.wait, keep_waiting: &mut keep_waiting };
    match source::open(&kind, options) {
        Ok(source) => Ok(Opened { feed: LocalFeed::new(source, command), priority }),
        Err(error) => {
            if let Some(mut command) = command {
                command.end(signal_hook::consts::SIGTERM, GRACE)?;
            }
            Err(error)
        }
    }
}

/// Which source it will be. Says what `auto` chose.
fn settle(cli: &Cli) -> Result<SourceKind> {
    if let SourceKind::Replay(_) = cli.source {
        if !cli.command.is_empty() {
            bail!("--source {} needs no COMMAND: the run was recorded", cli.source);
        }
        return Ok(cli.source.clone());
    }
    let (kind, reason) = source::choose(&cli.source, &Report::probe(&cli.btf, Depth::Quick))?;
    if cli.source == SourceKind::Auto {
        tell(format_args!("source {kind} ({reason})"));
    }
    Ok(kind)
}

fn raise_priority() -> Option<RealTime> {
    match RealTime::enter(OBSERVER_PRIORITY) {
        Ok(priority) => Some(priority),
        Err(error) => {
            log::warn!(
                "ran without real-time priority ({error}): the vCPU threads may have delayed it, late_samples counts that"
            );
            None
        }
    }
}
