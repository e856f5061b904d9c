//! Where snapshots come from.

use crate::model::Snapshot;

/// An observed world. A source knows no sink.
pub trait Source: Send {
    /// `threads`, `guest`, ...
    fn kind(&self) -> &'static str;

    /// Says when the next sample will be taken, `CLOCK_MONOTONIC` ns. A hypervisor that is told in time can
    /// plan for the observer's short use of a pCPU; other sources ignore it.
    fn announce(&mut self, _at_ns: u64) {}

    /// Takes a sample. [`Snapshot::finished`] says that the world has ended and that this was the last.
    fn sample(&mut self) -> anyhow::Result<Snapshot>;
}
