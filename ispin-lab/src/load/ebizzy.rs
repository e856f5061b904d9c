//! Like ebizzy, which resembles a web server: threads copy pieces of a working set in memory, search them, and give
//! the copies back.

use std::sync::Arc;

use anyhow::{Result, bail};
use clap::{ArgMatches, Args, FromArgMatches};
use rand::Rng;
use rand::rngs::SmallRng;

use super::Workload;
use super::kit::mapping::Mapping;
use super::kit::report::{Report, broken};
use super::kit::setup::Setup;
use super::kit::team::{self, Turn, Until};

pub(super) const WORKLOAD: Workload = Workload {
    name: "ebizzy",
    about: "chunks of memory allocated, copied, searched and freed",
    unit: "records/s",
    needs: &[],
    options: Options::augment_args,
    run,
};

#[derive(Args, Clone, Debug)]
struct Options {
    /// Chunks in the working set
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    chunks: u32,
    /// Size of a chunk in KiB
    #[arg(long, value_name = "KIB", default_value_t = 256, value_parser = clap::value_parser!(u32).range(4..=65_536))]
    chunk_kib: u32,
    /// Searches in each copy
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    searches: u32,
}

/// A chunk holds ascending keys: record `i` of chunk `c` has the key `first(c) + STEP * i`.
const STEP: u64 = 3;

/// Size of the largest working set, KiB.
const LARGEST_KIB: u64 = 1 << 20;

fn first(chunk: usize) -> u64 {
    (chunk as u64 + 1) << 40
}

fn run(setup: &Setup, matches: &ArgMatches) -> Result<Report> {
    let options = Options::from_arg_matches(matches)?;
    let total = u64::from(options.chunks) * u64::from(options.chunk_kib);
    if total > LARGEST_KIB {
        bail!("a working set of {total} KiB: at most {LARGEST_KIB} KiB (--chunks times --chunk-kib)");
    }
    let records = options.chunk_kib as usize * 1024 / size_of::<u64>();
    let set: Vec<Vec<u64>> = (0..options.chunks as usize)
        .map(|chunk| (0..records as u64).map(|i| first(chunk) + STEP * i).collect())
        .collect();
    let set = Arc::new(set);
    let searches = options.searches;
    let body = move |turn: &Turn| copy_and_search(turn, &set, searches);
    let team = team::run(setup, Until::of(setup), body)?;
    Ok(Report::of_team(&team).with("chunks", options.chunks).with("chunk_kib", options.chunk_kib))
}

/// One operation is one record searched for.
fn copy_and_search(turn: &Turn, set: &[Vec<u64>], searches: u32) -> Result<u64> {
    let mut random = turn.random();
    let mut done = 0;
    while turn.goes_on(done) {
        let chunk = random.random_range(0..set.len());
        // Straight from the kernel, as the C library takes pieces of this size: allocating and freeing one changes
        // the address space each time.
        let mut copy = Mapping::new(size_of_val(&set[chunk][..]))?;
        copy.words_mut().copy_from_slice(&set[chunk]);
        for _ in 0..searches {
            search(copy.words_mut(), chunk, &mut random)?;
        }
        copy.unmap()?;
        done += u64::from(searches);
    }
    Ok(done)
}

/// Searches for a key that is there, or for one that is not.
fn search(records: &[u64], chunk: usize, random: &mut SmallRng) -> Result<()> {
    let index = random.random_range(0..records.len());
    let gap = random.random_range(0..STEP);
    let found = records.binary_search(&(first(chunk) + STEP * index as u64 + gap));
    let expected = if gap == 0 { Ok(index) } else { Err(index + 1) };
    if found != expected {
        broken!("record {index} of chunk {chunk} was looked for and {found:?} found: the copy is damaged");
    }
    Ok(())
}
