//! A recorded run as a source: a file of JSON Lines, as `--json` writes it.
//!
//! Each snapshot of the file comes once, as it was recorded, at the recorded pace unless the run has an
//! interval of its own. A file may hold several sessions, one after another.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use super::{Pace, Source};
use crate::interval::same_session;
use crate::model::Snapshot;

/// A recorded run that is being played back.
pub struct Replay {
    path: PathBuf,
    lines: BufReader<File>,
    /// Number of the latest line that was read, from 1.
    line: u64,
    /// Read ahead, so that the last snapshot is known to be the last. A fault of the next line does not spoil
    /// the present one.
    next: Option<Result<Snapshot>>,
    pace: Duration,
}

impl Replay {
    /// Opens a record and reads its first snapshot.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| {
            format!("cannot open {}; record one with `ispin-agent run --json FILE`", path.display())
        })?;
        let mut replay = Self {
            path: path.to_owned(),
            lines: BufReader::new(file),
            line: 0,
            next: None,
            pace: Duration::ZERO,
        };
        replay.next = replay.read()?.map(Ok);
        if replay.next.is_none() {
            bail!("{} holds no snapshot; record one with `ispin-agent run --json FILE`", path.display());
        }
        Ok(replay)
    }

    fn read(&mut self) -> Result<Option<Snapshot>> {
        let mut text = String::new();
        loop {
            text.clear();
            self.line += 1;
            let at = || format!("{}:{}", self.path.display(), self.line);
            if self.lines.read_line(&mut text).with_context(at)? == 0 {
                return Ok(None);
            }
            if text.trim().is_empty() {
                continue;
            }
            return match serde_json::from_str(&text) {
                Ok(snapshot) => Ok(Some(snapshot)),
                // A recorder that was killed in the middle of its last line.
                Err(e) if e.is_eof() && !text.ends_with('\n') => {
                    log::warn!("{}: the last line is incomplete and left out", at());
                    Ok(None)
                }
                Err(e) => Err(anyhow!("{}: not a snapshot of this version: {e}", at())),
            };
        }
    }
}

impl Source for Replay {
    fn kind(&self) -> &'static str {
        "replay"
    }

    fn pace(&self) -> Pace {
        Pace::Recorded(self.pace)
    }

    fn sample(&mut self) -> Result<Snapshot> {
        let next = self.next.take();
        let mut snapshot =
            next.ok_or_else(|| anyhow!("{} has been played to its end", self.path.display()))??;
        self.next = self.read().transpose();
        self.pace = match &self.next {
            Some(Ok(next)) if same_session(&snapshot, next) => {
                Duration::from_nanos(next.elapsed_ns - snapshot.elapsed_ns)
            }
            Some(Ok(next)) => Duration::from_nanos(next.elapsed_ns),
            Some(Err(_)) | None => Duration::ZERO,
        };
        // An end in the middle is the end of a session, not of the record.
        snapshot.finished = self.next.is_none();
        Ok(snapshot)
    }
}
