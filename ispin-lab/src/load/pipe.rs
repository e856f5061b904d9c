//! Tokens that go round through pipes which several threads read and write: wait queues, wake-ups, run queues.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, bail};
use clap::{ArgMatches, Args, FromArgMatches};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use super::Workload;
use super::kit::report::{Report, broken};
use super::kit::setup::Setup;
use super::kit::team::{self, Turn, Until};

pub(super) const WORKLOAD: Workload = Workload {
    name: "pipe",
    about: "tokens that threads hand on through shared pipes, waking each other",
    unit: "ops/s",
    needs: &[],
    options: Options::augment_args,
    run,
};

#[derive(Args, Clone, Debug)]
struct Options {
    /// Pipes that the threads share [default: half as many as threads]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=512))]
    pipes: Option<u32>,
    /// Tokens in circulation [default: half as many as threads]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=2048))]
    tokens: Option<u32>,
}

/// A token is its number and how often it was handed on. Writes of up to `PIPE_BUF` bytes are never torn. All
/// tokens, and one more for each thread, fit into one pipe of the usual 64 KiB: no write ever blocks.
const TOKEN: usize = 16;

/// The number of a token that tells who reads it to leave.
const LEAVE: u64 = u64::MAX;

struct Pipe {
    out: OwnedFd,
    into: OwnedFd,
}

fn run(setup: &Setup, matches: &ArgMatches) -> Result<Report> {
    let options = Options::from_arg_matches(matches)?;
    let half = (setup.threads / 2).clamp(1, 512);
    // A pipe without a reader would keep its tokens for ever.
    let (pipes, tokens) = (options.pipes.unwrap_or(half).min(setup.threads), options.tokens.unwrap_or(half));
    let ring: Vec<Pipe> = (0..pipes)
        .map(|_| pipe_with(PipeFlags::CLOEXEC).map(|(out, into)| Pipe { out, into }).context("making a pipe"))
        .collect::<Result<_>>()?;
    let ring = Arc::new(ring);
    for token in 0..tokens {
        write(&ring[(token % pipes) as usize], u64::from(token), 0)?;
    }
    // Fixed work is shared out one by one: a thread with a quota of its own would leave its pipe's readers alone.
    let work = setup.operations.map_or(u64::MAX, |each| each.saturating_mul(u64::from(setup.threads)));
    let claimed = Arc::new(AtomicU64::new(0));
    let until = Until { time: setup.time, operations: None };
    let body = {
        let (ring, claimed) = (ring.clone(), claimed.clone());
        move |turn: &Turn| hand_on(turn, &ring, &claimed, work)
    };
    let dismiss = || (0..setup.threads).try_for_each(|i| write(&ring[(i % pipes) as usize], LEAVE, 0));
    let team = team::run_with(setup, until, body, dismiss)?;
    if setup.operations.is_some() && team.operations() < work {
        bail!("{work} operations took more than {:?}: raise --seconds", setup.time);
    }
    check(&ring, tokens, team.operations())?;
    Ok(Report::of_team(&team).with("pipes", pipes).with("tokens", tokens))
}

/// One operation is a token read from one pipe and written to the next.
fn hand_on(turn: &Turn, ring: &[Pipe], claimed: &AtomicU64, work: u64) -> Result<u64> {
    let from = &ring[turn.index as usize % ring.len()];
    let to = &ring[(turn.index as usize + 1) % ring.len()];
    let mut done = 0;
    loop {
        let Some((token, hops)) = read(from)? else { broken!("a pipe with open ends was empty") };
        if token == LEAVE {
            return Ok(done);
        }
        if claimed.fetch_add(1, Ordering::Relaxed) >= work {
            write(to, token, hops)?;
            turn.finish_all()?;
            continue;
        }
        write(to, token, hops + 1)?;
        done += 1;
    }
}

/// All tokens are still there, each once, and were handed on as often as the threads say.
fn check(ring: &[Pipe], tokens: u32, operations: u64) -> Result<()> {
    let mut found = BTreeMap::new();
    for pipe in ring {
        fcntl_setfl(&pipe.out, OFlags::NONBLOCK).context("emptying a pipe")?;
        while let Some((token, hops)) = read(pipe)? {
            if found.insert(token, hops).is_some() {
                broken!("token {token} is there twice");
            }
        }
    }
    let hops: u64 = found.values().sum();
    if found.len() != tokens as usize || hops != operations {
        broken!(
            "{tokens} tokens were handed on {operations} times, but {} are left that were handed on {hops} times",
            found.len()
        );
    }
    Ok(())
}

fn write(pipe: &Pipe, token: u64, hops: u64) -> Result<()> {
    let mut bytes = [0; TOKEN];
    bytes[..8].copy_from_slice(&token.to_ne_bytes());
    bytes[8..].copy_from_slice(&hops.to_ne_bytes());
    loop {
        match rustix::io::write(&pipe.into, &bytes) {
            Ok(TOKEN) => return Ok(()),
            Ok(count) => broken!("a write of {TOKEN} bytes to a pipe wrote {count}"),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("writing to a pipe"),
        }
    }
}

/// The next token; `None` from an empty pipe that does not block.
fn read(pipe: &Pipe) -> Result<Option<(u64, u64)>> {
    let mut bytes = [0; TOKEN];
    loop {
        match rustix::io::read(&pipe.out, &mut bytes) {
            Ok(TOKEN) => break,
            Ok(count) => broken!("a read of {TOKEN} bytes from a pipe returned {count}"),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(None),
            Err(error) => return Err(error).context("reading from a pipe"),
        }
    }
    let (halves, _) = bytes.as_chunks();
    Ok(Some((u64::from_ne_bytes(halves[0]), u64::from_ne_bytes(halves[1]))))
}
