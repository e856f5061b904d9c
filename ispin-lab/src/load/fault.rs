//! Threads that map memory, touch it and unmap it in one address space: page table locks, the allocator's and LRU locks.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use clap::{ArgMatches, Args, FromArgMatches};
use rand::Rng;
use rustix::param::page_size;

use super::Workload;
use super::kit::mapping::Mapping;
use super::kit::report::{Report, broken};
use super::kit::setup::Setup;
use super::kit::team::{self, Turn, Until};

pub(super) const WORKLOAD: Workload = Workload {
    name: "fault",
    about: "mmap, page faults and munmap in one address space",
    unit: "faults/s",
    needs: &[],
    options: Options::augment_args,
    run,
};

#[derive(Args, Clone, Debug)]
struct Options {
    /// Pages that are mapped, touched and unmapped in one go
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pages: u32,
}

fn run(setup: &Setup, matches: &ArgMatches) -> Result<Report> {
    let pages = Options::from_arg_matches(matches)?.pages;
    without_huge_pages()?;
    let team = team::run(setup, Until::of(setup), move |turn: &Turn| touch(turn, pages))?;
    Ok(Report::of_team(&team).with("pages", pages))
}

/// One operation is one page touched for the first time.
fn touch(turn: &Turn, pages: u32) -> Result<u64> {
    let mut random = turn.random();
    let (page, words) = (page_size(), page_size() / size_of::<AtomicU64>());
    let mut done = 0;
    while turn.goes_on(done) {
        let area = Mapping::new(pages as usize * page)?;
        // Neither 0, which a fresh page holds, nor another thread's mark.
        let mark = (u64::from(turn.index) + 1) << 48 | (done & 0xffff_ffff_ffff);
        let offset = random.random_range(0..words);
        for i in 0..pages as usize {
            // An exchange is a write from the start: one fault, and it shows what the page held.
            let old = area.words()[i * words + offset].swap(mark, Ordering::Relaxed);
            if old != 0 {
                broken!("a fresh page held {old:#x} of thread {}", (old >> 48).wrapping_sub(1));
            }
        }
        for i in 0..pages as usize {
            let seen = area.words()[i * words + offset].load(Ordering::Relaxed);
            if seen != mark {
                broken!("a page of thread {} was overwritten with {seen:#x}", turn.index);
            }
        }
        area.unmap()?;
        done += u64::from(pages);
    }
    Ok(done)
}

/// A huge page would turn many faults into one.
fn without_huge_pages() -> Result<()> {
    // SAFETY: plain numbers.
    if unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) } != 0 {
        return Err(std::io::Error::last_os_error()).context("switching huge pages off");
    }
    Ok(())
}
