//! Where snapshots come from.

pub mod cross_check;
pub mod guest;
pub mod kind;
pub mod replay;
pub mod threads;

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::check::Report;
use crate::model::Snapshot;

pub use kind::SourceKind;

/// An observed world. A source knows no sink.
///
/// It belongs to the thread that opened it, which must be the one that samples: that thread is known to the
/// hypervisor as the observer.
pub trait Source: Send {
    /// `threads`, `guest`, ...
    fn kind(&self) -> &'static str;

    /// Who decides when the next sample is taken.
    fn pace(&self) -> Pace {
        Pace::Clock
    }

    /// Says when the next sample will be taken, `CLOCK_MONOTONIC` ns. A hypervisor that is told in time can
    /// plan for the observer's short use of a pCPU; other sources ignore it.
    fn announce(&mut self, _at_ns: u64) {}

    /// The moment to sample at, at or after `wanted_ns` (`CLOCK_MONOTONIC`): a hypervisor that plans windows
    /// in which the host's own work runs is best observed in one of them.
    fn align(&mut self, wanted_ns: u64) -> u64 {
        wanted_ns
    }

    /// Takes a sample. [`Snapshot::finished`] says that the world has ended and that this was the last.
    fn sample(&mut self) -> Result<Snapshot>;

    /// Kernel-wide numbers of the eBPF programs at work, for their diagnostics.
    fn programs(&self) -> Vec<u32> {
        vec![]
    }
}

/// Who decides when the next sample is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// The observer, by the clock: the source is live.
    Clock,
    /// The record: the next snapshot came that long after the previous one.
    Recorded(Duration),
}

/// What [`open`] needs to know.
pub struct OpenOptions<'a> {
    /// Kernel type information.
    pub btf: &'a Path,
    /// Process id of the COMMAND that makes the world, if this program started one.
    pub command: Option<u32>,
    /// How long to wait for the world to appear.
    pub timeout: Duration,
    /// Asked again and again while waiting; its error ends the waiting.
    pub keep_waiting: &'a mut dyn FnMut() -> Result<()>,
}

/// Settles `auto`, and says why in words. An error tells what this machine lacks for the source, and what
/// would bring it.
pub fn choose(kind: &SourceKind, report: &Report) -> Result<(SourceKind, String)> {
    match kind {
        SourceKind::Auto => {
            for candidate in [SourceKind::Guest, SourceKind::Threads] {
                if report.missing(&candidate).is_empty() {
                    let reason = match candidate {
                        SourceKind::Guest => "this kernel has the ispinlock tracepoints".to_owned(),
                        _ => format!("guest is not available: {}", report.why_not(&SourceKind::Guest)),
                    };
                    return Ok((candidate, reason));
                }
            }
            bail!(
                "no source is available here. `ispin-agent check` shows everything.\n\n{}\n\n{}",
                report.explain(&SourceKind::Threads),
                report.explain(&SourceKind::Guest)
            )
        }
        SourceKind::Threads | SourceKind::Guest if !report.missing(kind).is_empty() => {
            bail!("{}\n\n`ispin-agent check` shows everything", report.explain(kind))
        }
        _ => Ok((kind.clone(), "as asked for".into())),
    }
}

/// Opens a source that [`choose`] settled on.
pub fn open(kind: &SourceKind, options: OpenOptions) -> Result<Box<dyn Source>> {
    match kind {
        SourceKind::Replay(file) => Ok(Box::new(replay::Replay::open(file)?)),
        SourceKind::Threads => Ok(Box::new(threads::ThreadsSource::open(options)?)),
        SourceKind::Guest => Ok(Box::new(guest::GuestSource::open()?)),
        SourceKind::Auto => bail!("`auto` is a choice, not a source: settle it with `choose` first"),
    }
}
