//! The loop: align, announce, sleep, sample, write.
//!
//! vCPU threads of the threads world take all CPUs, and the hypervisor plans for the observer's wake-ups that
//! it knows of. So everything is done in the announced tick, on one thread: a current_thread tokio runtime
//! without its timer, which sleeps in one `epoll_wait` for the alarm of the next tick, a signal or the end of
//! COMMAND. The alarm is a kernel timer at an absolute time; errors of one tick do not add up.

use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::clock::{self, Alarm};
use crate::command::Child;
use crate::diagnostics::Diagnostics;
use crate::interval::same_session;
use crate::model::Snapshot;
use crate::signals::Signals;
use crate::sink::{Outputs, Sink};
use crate::source::{Pace, Source};

/// Time between two snapshots of a live source, unless told.
pub const DEFAULT_INTERVAL: Duration = Duration::from_millis(250);

/// How long and how often to observe.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Time between two snapshots; `None` = [`DEFAULT_INTERVAL`], or the recorded pace of a replay.
    pub interval: Option<Duration>,
    /// `None` = until something else ends the run.
    pub duration: Option<Duration>,
    /// Hand on what the eBPF programs say of themselves.
    pub diagnostics: bool,
}

/// What ended a run.
#[derive(Debug)]
pub enum End {
    /// The time was up.
    Duration,
    /// The observed world ended.
    SourceFinished,
    /// COMMAND ended.
    Command(ExitStatus),
    /// A signal of this number came.
    Signal(i32),
    /// Every output failed, or its reader has gone.
    NoOutput,
    /// No sample could be taken.
    Failed(anyhow::Error),
}

/// What a run leaves behind.
#[derive(Debug)]
pub struct Outcome {
    /// What ended it.
    pub end: End,
    /// The last snapshot of each session that was observed, in order.
    pub sessions: Vec<Snapshot>,
    /// Outputs that failed; why was logged when it happened.
    pub failed: Vec<String>,
    /// Outputs whose reader has gone.
    pub closed: Vec<String>,
}

/// Observes `source` until something ends it, and writes every snapshot to `sinks`. The last one is written
/// whatever the end is. `command` is not ended here, only noticed when it ends.
pub fn run(
    source: &mut dyn Source,
    sinks: Vec<Box<dyn Sink>>,
    command: Option<&mut Child>,
    signals: &Signals,
    options: &Options,
) -> Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("starting the runtime that waits for timer, signals and COMMAND")?;
    runtime.block_on(observe(source, sinks, command, signals, options))
}

/// Why a sleep ended.
enum Wake {
    Tick,
    Signal(i32),
    Command(ExitStatus),
}

async fn observe(
    source: &mut dyn Source,
    sinks: Vec<Box<dyn Sink>>,
    mut command: Option<&mut Child>,
    signals: &Signals,
    options: &Options,
) -> Result<Outcome> {
    let mut outputs = Outputs::begin(sinks);
    let mut diagnostics = options.diagnostics.then(Diagnostics::default);
    let sleeper = Sleeper::new(signals, command.as_deref())?;
    let mut sessions: Vec<Snapshot> = vec![];
    let mut previous: Option<Snapshot> = None;
    let mut late_samples = 0;

    // When the next snapshot is due, and when it will be taken: the source may ask for a bit later.
    let mut due = clock::now_ns();
    let mut deadline = due;
    let end_at = options.duration.map_or(u64::MAX, |d| due.saturating_add(clock::as_ns(d)));
    let end = loop {
        if outputs.pointless(command.is_some()) {
            break End::NoOutput;
        }
        let live = source.pace() == Pace::Clock;
        let step = clock::as_ns(match (options.interval, source.pace()) {
            (Some(interval), _) => interval,
            (None, Pace::Clock) => DEFAULT_INTERVAL,
            (None, Pace::Recorded(step)) => step,
        });
        due = due.saturating_add(step);
        if live {
            // A second sample at the same moment would show nothing.
            due = skip_missed(due, step, clock::now_ns().max(deadline + 1));
        }
        let last_tick = due >= end_at;
        deadline = source.align(due.min(end_at));
        source.announce(deadline);
        let wake = sleeper.until(deadline, command.as_deref_mut()).await?;
        if live && matches!(wake, Wake::Tick) && clock::now_ns() > deadline.saturating_add(step / 2) {
            late_samples += 1;
        }
        let mut now = match source.sample() {
            Ok(now) => now,
            Err(e) => break End::Failed(e),
        };
        let end = match wake {
            Wake::Signal(number) => Some(End::Signal(number)),
            Wake::Command(status) => Some(End::Command(status)),
            Wake::Tick if now.finished => Some(End::SourceFinished),
            Wake::Tick => last_tick.then_some(End::Duration),
        };
        now.finished = end.is_some();
        if live {
            now.losses.late_samples += late_samples;
        }
        outputs.write(previous.as_ref(), &now);
        if let Some(diagnostics) = &mut diagnostics {
            diagnostics.follow(&source.programs());
            diagnostics.flush();
        }
        if let Some(earlier) = previous.take()
            && !same_session(&earlier, &now)
        {
            sessions.push(earlier);
        }
        previous = Some(now);
        if let Some(end) = end {
            break end;
        }
    };
    sessions.extend(previous);
    let (failed, closed) = outputs.finish();
    Ok(Outcome { end, sessions, failed, closed })
}

/// The first deadline in steps from `deadline` that has not passed at `now`.
fn skip_missed(deadline: u64, step: u64, now: u64) -> u64 {
    match now.checked_sub(deadline) {
        None | Some(0) => deadline,
        Some(late) => deadline + late.div_ceil(step.max(1)) * step,
    }
}

/// Everything that can end a sleep.
struct Sleeper<'a> {
    alarm: Alarm,
    alarm_ready: AsyncFd<OwnedFd>,
    signals: &'a Signals,
    signals_ready: AsyncFd<OwnedFd>,
    command_ready: Option<AsyncFd<OwnedFd>>,
}

impl<'a> Sleeper<'a> {
    fn new(signals: &'a Signals, command: Option<&Child>) -> Result<Self> {
        let watch = |fd: &dyn AsFd| -> Result<AsyncFd<OwnedFd>> {
            let fd = fd.as_fd().try_clone_to_owned()?;
            // SAFETY: the AsyncFd owns the descriptor, so it stays open and the same for as long as it lives.
            Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
        };
        let alarm = Alarm::new().context("making a timer")?;
        Ok(Self {
            alarm_ready: watch(&alarm).context("watching the timer")?,
            alarm,
            signals,
            signals_ready: watch(signals).context("watching for signals")?,
            command_ready: command.map(|c| watch(c)).transpose().context("watching COMMAND")?,
        })
    }

    /// Sleeps until `deadline`, a signal or the end of COMMAND.
    async fn until(&self, deadline: u64, command: Option<&mut Child>) -> Result<Wake> {
        self.alarm.set(deadline).context("setting the timer")?;
        let command_ended = async {
            match (&self.command_ready, command) {
                (Some(fd), Some(command)) => ready(fd, || Ok(command.try_wait()?.map(Wake::Command))).await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            wake = ready(&self.signals_ready, || Ok(self.signals.take().map(Wake::Signal))) => wake,
            wake = command_ended => wake,
            wake = ready(&self.alarm_ready, || Ok(self.alarm.rang()?.then_some(Wake::Tick))) => wake,
        }
    }
}

/// Waits until `check` has an answer, asking whenever `fd` becomes readable. Readiness is cleared before
/// asking, so that none is missed.
async fn ready(fd: &AsyncFd<OwnedFd>, mut check: impl FnMut() -> Result<Option<Wake>>) -> Result<Wake> {
    loop {
        if let Some(wake) = check()? {
            return Ok(wake);
        }
        fd.readable().await?.clear_ready();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missed_deadlines_are_skipped_in_whole_steps() {
        assert_eq!(skip_missed(100, 10, 90), 100);
        assert_eq!(skip_missed(100, 10, 100), 100);
        assert_eq!(skip_missed(100, 10, 101), 110);
        assert_eq!(skip_missed(100, 10, 130), 130);
        assert_eq!(skip_missed(100, 10, 131), 140);
    }
}
