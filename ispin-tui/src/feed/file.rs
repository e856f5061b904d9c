//! JSON Lines from a file, as `ispin-agent run --json` writes them: all of it at once.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{Context, Result, bail};
use ispin_agent::model::Snapshot;

use super::{Feed, Pace, Update};

/// The snapshots of a file.
#[derive(Debug)]
pub struct FileFeed {
    name: String,
    snapshots: Vec<Snapshot>,
    over: bool,
}

impl FileFeed {
    /// Reads `path`. Errors name the file and the line.
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let file = File::open(path).with_context(|| format!("opening {name}"))?;
        let mut snapshots = Vec::new();
        for (i, line) in BufReader::new(file).lines().enumerate() {
            let line = line.with_context(|| format!("reading {name}, line {}", i + 1))?;
            if line.trim().is_empty() {
                continue;
            }
            let snapshot = serde_json::from_str(&line).with_context(|| {
                format!("{name}, line {}: not a snapshot as `ispin-agent run --json` writes it", i + 1)
            })?;
            snapshots.push(snapshot);
        }
        if snapshots.is_empty() {
            bail!("{name} holds no snapshot; write one with `ispin-agent run --json {name}`");
        }
        Ok(Self { name, snapshots, over: false })
    }
}

impl Feed for FileFeed {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn pace(&self) -> Pace<'_> {
        if self.over { Pace::Over } else { Pace::At(0) }
    }

    fn poll(&mut self, _now_ns: u64) -> Vec<Update> {
        if std::mem::replace(&mut self.over, true) {
            return Vec::new();
        }
        let snapshots = self.snapshots.drain(..).map(|s| Update::Snapshot(Box::new(s)));
        snapshots.chain([Update::Finished]).collect()
    }
}
