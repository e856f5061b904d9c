//! Running a builder to its end: its output is kept, its latest line shown, and it ends with this program.

use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ispin_agent::command::{Child, GRACE, Output, describe};
use ispin_agent::signals::{self, Signals};

use super::progress::Progress;

/// What every step of a run needs.
pub struct Steps<'a> {
    /// Signals that end the run.
    pub signals: &'a Signals,
    /// How far it is.
    pub progress: &'a Progress,
}

/// A builder.
pub struct Job<'a> {
    /// What it does, in words.
    pub what: &'a str,
    /// The program.
    pub program: OsString,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Variables on top of this process's.
    pub environment: Vec<(&'a str, OsString)>,
}

/// How many of its last lines are shown of a builder that fails.
const SHOWN: usize = 40;

impl Steps<'_> {
    /// Fails if a signal has come.
    pub fn check(&self) -> Result<()> {
        match self.signals.take() {
            Some(signal) => bail!("ended by {}", signals::name(signal)),
            None => Ok(()),
        }
    }

    /// Runs a builder; returns the last of what it wrote.
    pub fn complete(&self, job: &Job) -> Result<String> {
        self.progress.step(job.what);
        let environment: Vec<(&str, &Path)> =
            job.environment.iter().map(|(name, value)| (*name, Path::new(value))).collect();
        let mut child = Child::spawn(&job.program, &job.arguments, &environment, Output::Keep)
            .with_context(|| job.what.to_owned())?;
        let begin = Instant::now();
        loop {
            if let Some(signal) = self.signals.take() {
                child.end(libc::SIGTERM, GRACE)?;
                bail!("{}: ended by {}", job.what, signals::name(signal));
            }
            let ended = child.wait(Some(Duration::from_millis(100)))?;
            let said = child.said()?;
            match ended {
                Some(status) if status.success() => return Ok(said),
                Some(status) => bail!(
                    "{} failed: `{}` {}\n{}",
                    job.what,
                    job.program.display(),
                    describe(status),
                    last_lines(&said, SHOWN)
                ),
                None => {
                    if let Some(line) = said.lines().rev().map(str::trim).find(|line| !line.is_empty()) {
                        self.progress.detail(&format!("{} s, {line}", begin.elapsed().as_secs()));
                    }
                }
            }
        }
    }
}

/// The end of a text, each line set in.
pub fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    let begin = lines.len().saturating_sub(count);
    lines[begin..].iter().map(|line| format!("    {line}\n")).collect::<String>().trim_end().to_owned()
}
