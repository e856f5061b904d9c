//! Where snapshots go.

use crate::model::Snapshot;

/// A destination of snapshots. A sink knows no source.
pub trait Sink: Send {
    /// What it writes to, for messages.
    fn target(&self) -> String;

    /// Writes what came on top since `previous` (`None` at the first snapshot) and flushes: the output is
    /// complete and valid after every call.
    fn write(&mut self, previous: Option<&Snapshot>, now: &Snapshot) -> anyhow::Result<()>;
}
