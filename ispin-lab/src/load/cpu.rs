//! A load that only computes: the neighbour that suffers when another guest's vCPUs spin (paper, Figure 9).

use std::hint::black_box;

use anyhow::Result;
use clap::{ArgMatches, Args, FromArgMatches};

use super::Workload;
use super::kit::report::Report;
use super::kit::setup::Setup;
use super::kit::team::{self, Turn, Until};

pub(super) const WORKLOAD: Workload = Workload {
    name: "cpu",
    about: "arithmetic in each thread: no locks, no memory, no system calls",
    unit: "rounds/s",
    needs: &[],
    options: Options::augment_args,
    run,
};

#[derive(Args, Clone, Debug)]
struct Options {
    /// Steps of a generator of random numbers in a round
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    steps: u32,
}

fn run(setup: &Setup, matches: &ArgMatches) -> Result<Report> {
    let Options { steps } = Options::from_arg_matches(matches)?;
    let body = move |turn: &Turn| {
        let (mut state, mut done) = (0x9e37_79b9_7f4a_7c15_u64, 0);
        while turn.goes_on(done) {
            for _ in 0..steps {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
            }
            black_box(state);
            done += 1;
        }
        Ok(done)
    };
    let team = team::run(setup, Until::of(setup), body)?;
    Ok(Report::of_team(&team).with("steps", steps))
}
