//! Opening a source in this process, and starting the COMMAND that makes its world.

use std::fmt;
use std::path::Path;
use std::process::ExitStatus;

use anyhow::{Result, bail};
use ispin_agent::bpf::btf::BTF_VARIABLE;
use ispin_agent::check::{Depth, Report};
use ispin_agent::command::{self, Child, GRACE, Output, WAIT_VARIABLE};
use ispin_agent::rt::{OBSERVER_PRIORITY, RealTime};
use ispin_agent::signals::{self, Signals};
use ispin_agent::source::{self, OpenOptions, SourceKind};

use crate::feed::local::LocalFeed;
use crate::notes::tell;
use crate::options::Cli;

/// What is at work while a source is shown.
pub struct Opened {
    /// Its snapshots.
    pub feed: LocalFeed,
    /// The priority of this thread, if the source needs one.
    pub priority: Option<RealTime>,
}

/// COMMAND ended before it had made a world.
#[derive(Debug)]
pub struct EndedTooSoon {
    status: ExitStatus,
    name: String,
    said: String,
}

impl EndedTooSoon {
    /// COMMAND's own exit code; if that is none of a failure, `otherwise`.
    pub fn exit_code(&self, otherwise: u8) -> u8 {
        if self.status.success() { otherwise } else { command::exit_code(self.status) }
    }
}

impl fmt::Display for EndedTooSoon {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let how = command::describe(self.status);
        write!(f, "COMMAND `{}` {how} before there was anything to observe", self.name)?;
        match self.said.trim_end() {
            "" => Ok(()),
            said => write!(f, ". It wrote:\n{said}"),
        }
    }
}

impl std::error::Error for EndedTooSoon {}

/// Opens the source that was asked for. The calling thread must be the one that samples it.
pub fn open(cli: &Cli, signals: &Signals) -> Result<Opened> {
    let kind = settle(cli)?;
    let mut command = spawn(&kind, cli)?;
    // vCPU threads are real-time in the threads world only.
    let priority = if kind == SourceKind::Threads { raise_priority() } else { None };
    let pid = command.as_ref().map(Child::pid);
    let mut keep_waiting = || {
        if let Some(number) = signals.take() {
            bail!("{} came before there was anything to observe", signals::name(number));
        }
        let Some(command) = command.as_mut() else { return Ok(()) };
        match command.try_wait()? {
            Some(status) => {
                Err(EndedTooSoon { status, name: command.name().to_owned(), said: command.said()? }.into())
            }
            None => command.listen(),
        }
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

fn spawn(kind: &SourceKind, cli: &Cli) -> Result<Option<Child>> {
    let Some((program, arguments)) = cli.command.split_first() else { return Ok(None) };
    let mut environment = vec![(BTF_VARIABLE, &*cli.btf)];
    if *kind == SourceKind::Threads {
        environment.push((WAIT_VARIABLE, Path::new("1")));
    }
    Ok(Some(Child::spawn(program, arguments, &environment, Output::Keep)?))
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
