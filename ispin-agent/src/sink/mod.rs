//! Where snapshots go.
//!
//! A sink is one file with a [`Kind`], and a line in [`KINDS`]: that alone makes its option of the command
//! line.

mod csv;
mod jsonl;
mod lines;
mod options;
mod output;
mod outputs;
mod patient;
mod socket;

use anyhow::Result;

use crate::model::Snapshot;

pub use csv::columns as csv_columns;
pub use options::SinkOptions;
pub use outputs::Outputs;

/// Every sink that the command line offers.
pub const KINDS: &[Kind] = &[csv::KIND, jsonl::KIND, lines::KIND, socket::KIND];

/// A kind of sink, as the command line offers it.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// Name of its option, without the dashes.
    pub option: &'static str,
    /// What the option takes.
    pub value: &'static str,
    /// One line of help.
    pub help: &'static str,
    /// Opens one. What exists already is left as it is until [`Sink::begin`].
    pub open: fn(value: &str) -> Result<Box<dyn Sink>>,
}

/// A destination of snapshots. A sink knows no source.
pub trait Sink: Send {
    /// What it writes to, for messages.
    fn target(&self) -> String;

    /// Observation begins: empties what a former run left, writes a header.
    fn begin(&mut self) -> Result<()> {
        Ok(())
    }

    /// Writes what came on top since `previous` (`None` at the first snapshot) and flushes: the output is
    /// complete and valid after every call.
    fn write(&mut self, previous: Option<&Snapshot>, now: &Snapshot) -> Result<()>;

    /// Observation has ended: hands over what is still under way.
    fn finish(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Whether an error means that the reader of a pipe has gone. That is how people end a pipeline
/// (`... | head`), not a failure.
pub fn reader_gone(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|e| e.downcast_ref::<std::io::Error>())
        .any(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}
