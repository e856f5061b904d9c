//! Threads that wait at and wake one futex: the lock of its hash bucket.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{ArgMatches, Args, FromArgMatches};
use rand::Rng;
use rustix::io::Errno;
use rustix::thread::futex;
use rustix::time::Timespec;

use super::Workload;
use super::kit::report::{Report, broken};
use super::kit::setup::Setup;
use super::kit::team::{self, Turn, Until};

pub(super) const WORKLOAD: Workload = Workload {
    name: "futex",
    about: "futex wakes and waits in one hash bucket",
    unit: "ops/s",
    needs: &[],
    options: Options::augment_args,
    run,
};

#[derive(Args, Clone, Debug)]
struct Options {
    /// How long a wait lasts that nobody ends, in microseconds
    #[arg(long, value_name = "US", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    wait_us: u32,
}

/// The value of the futex word. It never changes, so a wait for another value ends at once.
const VALUE: u32 = 1;

#[derive(Default)]
struct Counts {
    woken: AtomicU64,
    wakes: AtomicU64,
    timeouts: AtomicU64,
}

fn run(setup: &Setup, matches: &ArgMatches) -> Result<Report> {
    let options = Options::from_arg_matches(matches)?;
    let wait = Timespec::try_from(Duration::from_micros(options.wait_us.into())).context("--wait-us")?;
    let word = Arc::new(AtomicU32::new(VALUE));
    let counts = Arc::new(Counts::default());
    let body = {
        let counts = counts.clone();
        move |turn: &Turn| wait_and_wake(turn, &word, &wait, &counts)
    };
    let team = team::run(setup, Until::of(setup), body)?;
    let (woken, wakes) = (counts.woken.load(Ordering::Relaxed), counts.wakes.load(Ordering::Relaxed));
    if woken != wakes {
        broken!("{wakes} waiters were taken off the queue by wakes, but {woken} waits ended by a wake");
    }
    Ok(Report::of_team(&team).with("woken", woken).with("timeouts", counts.timeouts.load(Ordering::Relaxed)))
}

/// One operation is one system call: half of them queue-and-leave, a quarter waits, a quarter wakes.
fn wait_and_wake(turn: &Turn, word: &AtomicU32, wait: &Timespec, counts: &Counts) -> Result<u64> {
    let mut random = turn.random();
    let (mut done, mut woken, mut wakes, mut timeouts) = (0, 0, 0, 0);
    while turn.goes_on(done) {
        match random.random::<u8>() {
            // The kernel takes the bucket's lock, finds another value than the one waited for, and returns.
            0..128 => match futex::wait(word, futex::Flags::PRIVATE, !VALUE, None) {
                Err(Errno::AGAIN) => {}
                other => broken!("a wait for a value that the futex does not have ended with {other:?}"),
            },
            128..192 => match futex::wait(word, futex::Flags::PRIVATE, VALUE, Some(wait)) {
                Ok(()) => woken += 1,
                Err(Errno::TIMEDOUT) => timeouts += 1,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error).context("futex wait"),
            },
            _ => wakes += futex::wake(word, futex::Flags::PRIVATE, 1).context("futex wake")? as u64,
        }
        done += 1;
    }
    counts.woken.fetch_add(woken, Ordering::Relaxed);
    counts.wakes.fetch_add(wakes, Ordering::Relaxed);
    counts.timeouts.fetch_add(timeouts, Ordering::Relaxed);
    Ok(done)
}
