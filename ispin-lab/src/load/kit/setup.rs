//! What every workload is told.

use std::num::NonZero;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use clap::Args;

use super::host_file::MODULE_FOLDER;
use super::signals::Signals;

/// Length of a run unless told, s.
const DEFAULT_SECONDS: f64 = 8.0;

/// How long a fixed amount of work may take unless told, s.
const DEFAULT_LIMIT: f64 = 3600.0;

/// The longest run, s.
const LONGEST: f64 = 86_400.0;

/// Options that all workloads share.
#[derive(Args, Clone, Debug)]
pub struct CommonOptions {
    /// Threads, pinned round-robin to CPUs [default: one for each CPU]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
    /// Length of the run in seconds [default: 8]; with --operations the time limit [default: 3600]
    #[arg(long, value_name = "S", value_parser = seconds)]
    pub seconds: Option<f64>,
    /// Fixed work instead of a fixed time: operations of each thread, or rounds of a compilation or compression
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub operations: Option<u64>,
    /// One thread less, and on the last CPU one that sleeps so many milliseconds, again and again: its wake-ups cut the quanta of
    /// other vCPUs short; 0 = none
    #[arg(long, value_name = "MS", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=60_000))]
    pub sleeper_ms: u32,
    /// Makes all that is drawn or generated repeatable
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Folder for temporary files; has to be in a tmpfs [default: the first of /dev/shm, /tmp, /run that is]
    #[arg(long, value_name = "DIR")]
    pub folder: Option<PathBuf>,
    /// Folder with the guest's kernel modules
    #[arg(long, value_name = "DIR", default_value = MODULE_FOLDER)]
    pub modules: PathBuf,
}

/// A length of time in seconds, as written on the command line.
pub fn seconds(text: &str) -> Result<f64> {
    let seconds: f64 = text.parse()?;
    if !(seconds > 0.0 && seconds <= LONGEST) {
        bail!("give a time greater than 0 and at most {LONGEST} s");
    }
    Ok(seconds)
}

/// What a workload is told.
#[derive(Clone)]
pub struct Setup {
    /// How many threads, at least 1; a sleeper is not among them.
    pub threads: u32,
    /// How long the sleeper beside the load sleeps at a time.
    pub sleeper: Option<Duration>,
    /// Length of the run; with `operations` its time limit.
    pub time: Duration,
    /// Operations of each thread, or rounds.
    pub operations: Option<u64>,
    /// Seed of everything that is drawn.
    pub seed: u64,
    /// Where temporary files go, if told.
    pub folder: Option<PathBuf>,
    /// Where kernel modules are.
    pub modules: PathBuf,
    /// What may end the run early.
    pub signals: Arc<Signals>,
}

impl Setup {
    /// Fills in what was left out.
    pub fn new(options: CommonOptions, signals: Arc<Signals>) -> Result<Self> {
        let cpus = std::thread::available_parallelism().map_or(1, NonZero::get) as u32;
        let default = if options.operations.is_some() { DEFAULT_LIMIT } else { DEFAULT_SECONDS };
        let sleeper = (options.sleeper_ms > 0).then(|| Duration::from_millis(options.sleeper_ms.into()));
        let threads = options.threads.unwrap_or(cpus) - u32::from(sleeper.is_some());
        ensure!(
            threads > 0,
            "--sleeper-ms takes one thread of the load, and there is one only; see --threads"
        );
        Ok(Self {
            threads,
            sleeper,
            time: Duration::from_secs_f64(options.seconds.unwrap_or(default)),
            operations: options.operations,
            seed: options.seed,
            folder: options.folder,
            modules: options.modules,
            signals,
        })
    }
}
