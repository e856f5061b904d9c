//! What a run found, and the line that tells it.

use std::fmt;
use std::time::Duration;

use anyhow::{Error, Result};
use serde::Serialize;
use serde_json::{Map, Value};

use super::setup::Setup;
use super::team::Team;
use crate::load::Workload;

/// The load found something that a sound kernel cannot do, such as two holders of one lock.
#[derive(Debug)]
pub struct Broken(pub String);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Broken {}

/// Like `bail!`, with [`Broken`].
macro_rules! broken {
    ($($message:tt)*) => {
        return Err($crate::load::kit::report::Broken(format!($($message)*)).into())
    };
}
pub(crate) use broken;

/// Mean and spread of one figure over the threads.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// Arithmetic mean.
    pub mean: f64,
    /// Standard deviation (of the whole population: the threads are all there are).
    pub deviation: f64,
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
}

impl Spread {
    /// Of `values`; `None` if there are none.
    pub fn of(values: impl Iterator<Item = f64> + Clone) -> Option<Self> {
        let count = values.clone().count();
        if count == 0 {
            return None;
        }
        let mean = values.clone().sum::<f64>() / count as f64;
        let variance = values.clone().map(|v| (v - mean).powi(2)).sum::<f64>() / count as f64;
        let min = values.clone().fold(f64::INFINITY, f64::min);
        let max = values.fold(f64::NEG_INFINITY, f64::max);
        Some(Self { mean, deviation: variance.sqrt(), min, max })
    }
}

/// What each thread did.
#[derive(Clone, Debug, Serialize)]
struct PerThread {
    /// Operations of each thread.
    operations: Vec<u64>,
    /// Their spread: how fair the locks were.
    operations_spread: Option<Spread>,
    /// Spread of the threads' execution times, s.
    seconds_spread: Option<Spread>,
}

impl PerThread {
    /// From each thread's operations and time.
    fn new(laps: &[(u64, Duration)]) -> Self {
        Self {
            operations: laps.iter().map(|lap| lap.0).collect(),
            operations_spread: Spread::of(laps.iter().map(|lap| lap.0 as f64)),
            seconds_spread: Spread::of(laps.iter().map(|lap| lap.1.as_secs_f64())),
        }
    }
}

/// What a run found.
#[derive(Clone, Debug)]
pub struct Report {
    /// Operations of all threads together.
    pub operations: u64,
    elapsed: Duration,
    value: Option<f64>,
    threads: Option<u32>,
    per_thread: Option<PerThread>,
    details: Map<String, Value>,
}

impl Report {
    /// `elapsed` is from the start of the first thread to the end of the last one. The result in the workload's unit
    /// is operations per second.
    pub fn new(operations: u64, elapsed: Duration) -> Self {
        Self { operations, elapsed, value: None, threads: None, per_thread: None, details: Map::new() }
    }

    /// Of what a team did.
    pub fn of_team(team: &Team) -> Self {
        Self::new(team.operations(), team.elapsed).laps(&team.laps)
    }

    /// Another result, in the workload's unit.
    pub fn value(mut self, value: f64) -> Self {
        self.value = Some(value);
        self
    }

    /// Another number of threads than the load was asked to have.
    pub fn threads(mut self, threads: u32) -> Self {
        self.threads = Some(threads);
        self
    }

    /// What each thread did.
    pub fn laps(mut self, laps: &[(u64, Duration)]) -> Self {
        self.per_thread = Some(PerThread::new(laps));
        self
    }

    /// Adds something of the workload's own.
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }
}

/// What a run is told and found, as JSON.
#[derive(Serialize)]
struct Line<'a> {
    workload: &'a str,
    threads: u32,
    seconds: f64,
    operations: u64,
    per_second: f64,
    value: f64,
    unit: &'a str,
    seed: u64,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    per_thread: Option<&'a PerThread>,
    #[serde(flatten)]
    details: &'a Map<String, Value>,
}

#[derive(Serialize)]
struct BrokenLine<'a> {
    workload: &'a str,
    threads: u32,
    seed: u64,
    ok: bool,
    error: String,
}

/// The JSON of a run: of its report, or of what it found broken. `None` for an error that is neither.
pub fn json(workload: &Workload, setup: &Setup, result: &Result<Report, Error>) -> Result<Option<String>> {
    let text = match result {
        Ok(report) => {
            let seconds = report.elapsed.as_secs_f64();
            let per_second = if seconds > 0.0 { report.operations as f64 / seconds } else { 0.0 };
            serde_json::to_string(&Line {
                workload: workload.name,
                threads: report.threads.unwrap_or(setup.threads),
                seconds,
                operations: report.operations,
                per_second,
                value: report.value.unwrap_or(per_second),
                unit: workload.unit,
                seed: setup.seed,
                ok: true,
                per_thread: report.per_thread.as_ref(),
                details: &report.details,
            })?
        }
        Err(error) if error.is::<Broken>() => serde_json::to_string(&BrokenLine {
            workload: workload.name,
            threads: setup.threads,
            seed: setup.seed,
            ok: false,
            error: format!("{error:#}"),
        })?,
        Err(_) => return Ok(None),
    };
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_of_known_numbers() {
        let spread = Spread::of([2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0].into_iter());
        assert_eq!(spread, Some(Spread { mean: 5.0, deviation: 2.0, min: 2.0, max: 9.0 }));
        assert_eq!(Spread::of(std::iter::empty()), None);
    }
}
