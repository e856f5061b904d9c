//! `ispin-agent run`: starts what a run needs, lets it run, ends what it started, and says what came of it.

use std::io::Write;
use std::path::Path;
use std::process::ExitStatus;

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, poll};

use crate::bpf::btf::BTF_VARIABLE;
use crate::check::{Depth, Report};
use crate::command::{self, Child, GRACE, Output, SpawnError, WAIT_VARIABLE};
use crate::options::RunOptions;
use crate::rt::{OBSERVER_PRIORITY, RealTime};
use crate::run::{self, End, Outcome};
use crate::signals::{self, Signals};
use crate::source::{self, OpenOptions, Source, SourceKind};
use crate::{say, session, summary};

/// Exit code: all went well.
pub const OK: u8 = 0;
/// Exit code: something failed in mid-run, an output or the source. What was written before is complete.
pub const FAILED: u8 = 1;
/// Exit code: the run could not begin.
pub const CANNOT_START: u8 = 2;

/// Does a whole run; returns its exit code.
pub fn observe(options: &RunOptions, btf: &Path, diagnostics: bool) -> u8 {
    match try_observe(options, btf, diagnostics) {
        Ok(code) => code,
        Err(e) => {
            say!("{e:#}");
            e.downcast_ref::<SpawnError>().map_or(CANNOT_START, SpawnError::exit_code)
        }
    }
}

fn try_observe(options: &RunOptions, btf: &Path, diagnostics: bool) -> Result<u8> {
    let kind = settle_source(options, btf)?;
    let sinks = options.sinks.open()?;
    let signals = Signals::catch()?;
    // A threads world is made by COMMAND. A kernel is there already: it is observed before COMMAND begins, so that
    // nothing of that is missed.
    let first = kind != SourceKind::Guest;
    let mut command = if first { spawn(&kind, options, btf)? } else { None };
    let priority = raise_priority(&kind);
    let mut source = match open_source(&kind, options, btf, &mut command, &signals) {
        Ok(source) => source,
        Err(e) => return give_up(e, command),
    };
    if !first {
        command = spawn(&kind, options, btf)?;
    }
    let run = run::Options { interval: options.interval, duration: options.duration, diagnostics };
    let outcome = run::run(source.as_mut(), sinks, command.as_mut(), &signals, &run)?;
    // The world learns that nobody observes it any more before it is ended.
    drop(source);
    drop(priority);
    conclude(outcome, command, &signals)
}

/// Which source it will be. Says what `auto` chose.
fn settle_source(options: &RunOptions, btf: &Path) -> Result<SourceKind> {
    if let SourceKind::Replay(_) = options.source {
        if !options.command.is_empty() {
            bail!("--source {} needs no COMMAND: the run was recorded", options.source);
        }
        return Ok(options.source.clone());
    }
    let (kind, reason) = source::choose(&options.source, &Report::probe(btf, Depth::Quick))?;
    if options.source == SourceKind::Auto {
        say!("source {kind} ({reason})");
    }
    Ok(kind)
}

fn spawn(kind: &SourceKind, options: &RunOptions, btf: &Path) -> Result<Option<Child>> {
    let Some((program, arguments)) = options.command.split_first() else { return Ok(None) };
    let mut environment = vec![(BTF_VARIABLE, btf)];
    if *kind == SourceKind::Threads {
        environment.push((WAIT_VARIABLE, Path::new("1")));
    }
    let output = if options.sinks.use_stdout() { Output::ToStderr } else { Output::Inherit };
    Ok(Some(Child::spawn(program, arguments, &environment, output)?))
}

/// vCPU threads are real-time in the threads world only.
fn raise_priority(kind: &SourceKind) -> Option<RealTime> {
    if *kind != SourceKind::Threads {
        return None;
    }
    match RealTime::enter(OBSERVER_PRIORITY) {
        Ok(priority) => Some(priority),
        Err(e) => {
            say!(
                "runs without real-time priority ({e}): the vCPU threads may delay it; losses_late_samples counts that"
            );
            None
        }
    }
}

fn open_source(
    kind: &SourceKind,
    options: &RunOptions,
    btf: &Path,
    command: &mut Option<Child>,
    signals: &Signals,
) -> Result<Box<dyn Source>> {
    let pid = command.as_ref().map(Child::pid);
    let mut keep_waiting = || {
        if let Some(number) = signals.take() {
            bail!("{} came before there was anything to observe", signals::name(number));
        }
        if let Some(command) = command.as_mut()
            && let Some(status) = command.try_wait()?
        {
            bail!(
                "COMMAND `{}` {} before there was anything to observe",
                command.name(),
                command::describe(status)
            );
        }
        Ok(())
    };
    source::open(
        kind,
        OpenOptions { btf, command: pid, timeout: options.wait, keep_waiting: &mut keep_waiting },
    )
}

/// The source could not be opened: ends COMMAND.
fn give_up(error: anyhow::Error, command: Option<Child>) -> Result<u8> {
    say!("{error:#}");
    let Some(mut command) = command else { return Ok(CANNOT_START) };
    match command.try_wait()? {
        // Its own failure is what the caller wants to know.
        Some(status) if !status.success() => Ok(command::exit_code(status)),
        Some(_) => Ok(CANNOT_START),
        None => {
            command.end(libc::SIGTERM, GRACE)?;
            repair();
            Ok(CANNOT_START)
        }
    }
}

/// Ends COMMAND or waits for its end, tells the result, and makes the exit code.
fn conclude(outcome: Outcome, mut command: Option<Child>, signals: &Signals) -> Result<u8> {
    let mut code = if outcome.failed.is_empty() { OK } else { FAILED };
    let mut quiet = false;
    let mut own_end = None;
    match (&outcome.end, &mut command) {
        (End::Command(status), _) => own_end = Some(*status),
        (End::SourceFinished, Some(command)) => own_end = wait_for(command, signals)?,
        (End::Signal(number), Some(command)) => {
            command.end(*number, GRACE)?;
        }
        (End::Failed(e), command) => {
            say!("no sample could be taken any more: {e:#}");
            code = FAILED;
            if let Some(command) = command {
                own_end = command.try_wait()?;
                command.end(libc::SIGTERM, GRACE)?;
            }
        }
        (End::NoOutput | End::Duration, command) => {
            quiet = outcome.failed.is_empty() && !outcome.closed.is_empty();
            if let Some(command) = command {
                command.end(libc::SIGTERM, GRACE)?;
            }
        }
        (End::SourceFinished | End::Signal(_), None) => {}
    }
    if !quiet {
        // Between two worlds of a sequence there is nothing to see.
        for last in outcome.sessions.iter().filter(|s| !s.vms.is_empty()) {
            let _ = std::io::stderr().write_all(summary::of(last).as_bytes());
        }
    }
    if command.is_some() {
        repair();
    }
    for target in &outcome.failed {
        say!("{target} is incomplete, see above");
    }
    if let (Some(status), Some(command)) = (own_end, &command)
        && !status.success()
    {
        say!("COMMAND `{}` {}", command.name(), command::describe(status));
        code = command::exit_code(status);
    }
    Ok(code)
}

/// A COMMAND that was killed could not put back what it changed on the machine. Where it could, this finds
/// nothing to do.
fn repair() {
    match session::repair() {
        Ok(done) => done.iter().for_each(|what| say!("{what}")),
        Err(e) => say!("not everything on this machine is as it was before: {e:#}"),
    }
}

/// Waits until COMMAND has ended by itself and returns how; a signal meanwhile is passed on, and then how it
/// ended does not matter.
fn wait_for(command: &mut Child, signals: &Signals) -> Result<Option<ExitStatus>> {
    loop {
        if let Some(number) = signals.take() {
            command.end(number, GRACE)?;
            return Ok(None);
        }
        if let Some(status) = command.try_wait()? {
            return Ok(Some(status));
        }
        let mut fds = [PollFd::new(signals, PollFlags::IN), PollFd::new(&*command, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e).context("waiting for COMMAND"),
        }
    }
}
