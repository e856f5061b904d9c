//! The paper's micro-benchmark (section 5.1, Figure 6): n threads access the same memory area x times, as kernel
//! threads under one kernel spinlock.

use std::time::Duration;

use anyhow::{Result, bail};
use clap::{ArgMatches, Args, FromArgMatches, ValueEnum};
use serde::{Deserialize, Serialize};

use super::Workload;
use super::kit::micro_module::{self, MODULE};
use super::kit::report::{Report, broken};
use super::kit::setup::Setup;

pub(super) const WORKLOAD: Workload = Workload {
    name: "micro",
    about: "the paper's micro-benchmark: kernel threads access one memory area under a spinlock",
    unit: "accesses/s",
    needs: &[MODULE],
    options: Options::augment_args,
    run,
};

#[derive(Args, Clone, Debug)]
struct Options {
    /// Time in the critical section, in turns of an empty loop (about a cycle each)
    #[arg(long, value_name = "TURNS", default_value_t = 100)]
    hold: u32,
    /// Time between two accesses, in turns of the same loop
    #[arg(long, value_name = "TURNS", default_value_t = 200)]
    gap: u32,
    /// Size of the memory area in words of 8 bytes
    #[arg(long, value_name = "N", default_value_t = 8)]
    words: u32,
    /// How the lock is taken
    #[arg(long, value_enum, default_value = "spin")]
    op: Op,
    /// Take a second lock inside the first one
    #[arg(long)]
    nested: bool,
    /// Every so many milliseconds a holder keeps its lock until the hypervisor takes its CPU: at the end of its quantum,
    /// which no lock foresaw; 0 = never
    #[arg(long, value_name = "MS", default_value_t = 0, conflicts_with = "private")]
    stall_ms: u32,
    /// A lock and an area of its own for each thread: nothing is contended
    #[arg(long)]
    private: bool,
}

/// How the module takes its lock.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Op {
    /// `spin_lock`
    Spin,
    /// `spin_lock_irqsave`
    Irqsave,
    /// `spin_trylock` until it succeeds
    Trylock,
    /// No lock at all: shows that the load notices
    None,
}

impl Op {
    fn name(self) -> &'static str {
        match self {
            Self::Spin => "spin",
            Self::Irqsave => "irqsave",
            Self::Trylock => "trylock",
            Self::None => "none",
        }
    }
}

/// What the module found.
#[derive(Deserialize)]
struct Found {
    elapsed_ns: u64,
    complete: bool,
    consistent: bool,
    counter: u64,
    overlaps: u64,
    torn: u64,
    stuck: u32,
    failed: u64,
    thread: Vec<Thread>,
    stalls: Vec<Stall>,
}

/// A holder that kept its lock until it lost its CPU; cycles of the TSC.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Stall {
    /// From here on it only waited for that.
    pub begin: u64,
    /// It ran again; 0 = it never lost its CPU.
    pub back: u64,
    /// Accesses of all threads before.
    pub accesses: u64,
}

#[derive(Deserialize)]
struct Thread {
    accesses: u64,
    ns: u64,
}

fn run(setup: &Setup, matches: &ArgMatches) -> Result<Report> {
    WORKLOAD.check_needs(setup)?;
    let options = Options::from_arg_matches(matches)?;
    let Options { hold, gap, words, op, nested, private, stall_ms } = options;
    let parameters = format!(
        "mode=contend threads={} ms={} accesses={} hold={hold} gap={gap} words={words} op={} nested={} shared={} stall={stall_ms}",
        setup.threads,
        setup.time.as_millis().max(1),
        setup.operations.unwrap_or(0),
        op.name(),
        u8::from(nested),
        u8::from(!private),
    );
    let found: Found = micro_module::run(setup, &parameters)?;
    let accesses: u64 = found.thread.iter().map(|t| t.accesses).sum();
    if !found.consistent {
        broken!(
            "the lock is broken: {accesses} accesses were counted as {}, {} met another thread inside, {} a half-changed area, {} threads are stuck",
            found.counter,
            found.overlaps,
            found.torn,
            found.stuck
        );
    }
    if let (Some(quota), false) = (setup.operations, found.complete) {
        bail!("{quota} accesses of each thread took more than {:?}: raise --seconds", setup.time);
    }
    let laps: Vec<_> = found.thread.iter().map(|t| (t.accesses, Duration::from_nanos(t.ns))).collect();
    Ok(Report::new(accesses, Duration::from_nanos(found.elapsed_ns))
        .laps(&laps)
        .with("consistent", found.consistent)
        .with("failed_trylocks", found.failed)
        .with("hold", hold)
        .with("gap", gap)
        .with("words", words)
        .with("op", op.name())
        .with("nested", nested)
        .with("stalls", serde_json::to_value(&found.stalls)?)
        .with("shared", !private))
}
