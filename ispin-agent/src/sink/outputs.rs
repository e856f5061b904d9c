//! The sinks of one run, together: one that fails is left out, and the others go on.

use anyhow::Result;

use super::{Sink, reader_gone};
use crate::model::Snapshot;

/// The sinks that still work, and those that do not.
pub struct Outputs {
    open: Vec<Box<dyn Sink>>,
    failed: Vec<String>,
    closed: Vec<String>,
}

impl Outputs {
    /// Observation begins.
    pub fn begin(sinks: Vec<Box<dyn Sink>>) -> Self {
        let mut outputs = Self { open: sinks, failed: vec![], closed: vec![] };
        outputs.each(|sink| sink.begin());
        outputs
    }

    /// Gives all of them a snapshot and the one before it.
    pub fn write(&mut self, previous: Option<&Snapshot>, now: &Snapshot) {
        self.each(|sink| sink.write(previous, now));
    }

    /// Observation has ended. Returns the outputs that failed, why having been logged when it happened, and those
    /// whose reader has gone.
    pub fn finish(mut self) -> (Vec<String>, Vec<String>) {
        self.each(|sink| sink.finish());
        (self.failed, self.closed)
    }

    /// Whether going on makes no sense: nobody gets anything any more. A COMMAND is not ended because a disk
    /// is full; but if all readers have gone they do not want more.
    pub fn pointless(&self, has_command: bool) -> bool {
        let all_gone = self.open.is_empty() && !(self.failed.is_empty() && self.closed.is_empty());
        all_gone && (self.failed.is_empty() || !has_command)
    }

    /// Lets each sink do something; one that fails is out.
    fn each(&mut self, mut action: impl FnMut(&mut dyn Sink) -> Result<()>) {
        for mut sink in std::mem::take(&mut self.open) {
            match action(sink.as_mut()) {
                Ok(()) => self.open.push(sink),
                Err(e) if reader_gone(&e) => {
                    log::info!("{}: its reader has gone", sink.target());
                    self.closed.push(sink.target());
                }
                Err(e) => {
                    log::error!("{e:#}. This output ends here");
                    self.failed.push(sink.target());
                }
            }
        }
    }
}
