//! JSON Lines: one [`Snapshot`] per line, totals since observation began. Fields: docs/columns.md.

use anyhow::{Context, Result};

use super::output::Output;
use super::{Kind, Sink};
use crate::model::Snapshot;

pub const KIND: Kind = Kind {
    option: "json",
    value: "FILE|-",
    help: "Write JSON Lines: a snapshot per interval, which `--source replay:FILE` plays back; - is standard output",
    open: |value| Ok(Box::new(JsonLines { output: Output::open("json", value)? })),
};

struct JsonLines {
    output: Output,
}

impl Sink for JsonLines {
    fn target(&self) -> String {
        self.output.name().to_owned()
    }

    fn begin(&mut self) -> Result<()> {
        self.output.begin()
    }

    fn write(&mut self, _previous: Option<&Snapshot>, now: &Snapshot) -> Result<()> {
        self.output.write_block(&line(now)?)
    }
}

/// A snapshot as a line of JSON, its newline included.
pub fn line(snapshot: &Snapshot) -> Result<Vec<u8>> {
    let mut line = serde_json::to_vec(snapshot).context("formatting a snapshot as JSON")?;
    line.push(b'\n');
    Ok(line)
}
