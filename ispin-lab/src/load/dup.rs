//! Threads that duplicate and close file descriptors of one process: `files_struct::file_lock`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use clap::ArgMatches;
use rustix::event::{EventfdFlags, eventfd};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::os::fd::{AsRawFd, OwnedFd};

use super::Workload;
use super::kit::report::{Report, broken};
use super::kit::setup::Setup;
use super::kit::team::{self, Turn, Until};

pub(super) const WORKLOAD: Workload = Workload {
    name: "dup",
    about: "dup and close of file descriptors of one process",
    unit: "ops/s",
    needs: &[],
    options: |command| command,
    run,
};

/// Descriptors beyond the threads' own that the process may have open.
const OTHERS: u64 = 256;

fn run(setup: &Setup, _: &ArgMatches) -> Result<Report> {
    let most = u64::from(setup.threads) * 2 + OTHERS;
    allow_descriptors(most)?;
    // A file of its own for each thread: the table of descriptors is all they share.
    let files: Vec<OwnedFd> = (0..setup.threads)
        .map(|_| eventfd(0, EventfdFlags::CLOEXEC).context("opening a file for each thread"))
        .collect::<Result<_>>()?;
    let owners: Arc<Vec<AtomicU32>> = Arc::new((0..most).map(|_| AtomicU32::new(0)).collect());
    let before = open_descriptors(most);
    let files = Arc::new(files);
    let body = {
        let (files, owners) = (files.clone(), owners.clone());
        move |turn: &Turn| dup_and_close(turn, files[turn.index as usize].as_raw_fd(), &owners)
    };
    let team = team::run(setup, Until::of(setup), body)?;
    let after = open_descriptors(most);
    if before != after {
        broken!("{} descriptors were open before the load and {} after it", before.len(), after.len());
    }
    Ok(Report::of_team(&team).with("descriptors_checked", most))
}

/// One operation is a `dup` and a `close`. A number that belongs to two threads at once was handed out twice.
fn dup_and_close(turn: &Turn, file: i32, owners: &[AtomicU32]) -> Result<u64> {
    let me = turn.index + 1;
    let mut done = 0;
    while turn.goes_on(done) {
        // SAFETY: no memory is involved; `file` stays open as long as the threads run.
        let new = unsafe { libc::dup(file) };
        if new < 0 {
            return Err(std::io::Error::last_os_error()).context("dup");
        }
        let Some(owner) = usize::try_from(new).ok().and_then(|new| owners.get(new)) else {
            broken!("dup returned {new}, although fewer than {} descriptors are open", owners.len());
        };
        let other = owner.swap(me, Ordering::Relaxed);
        if other != 0 {
            broken!("descriptor {new} was given to threads {} and {} at once", other - 1, turn.index);
        }
        owner.store(0, Ordering::Relaxed);
        // SAFETY: this thread opened `new`, and nobody else knows it.
        if unsafe { libc::close(new) } < 0 {
            broken!("descriptor {new} was gone before it was closed: {}", std::io::Error::last_os_error());
        }
        done += 1;
    }
    Ok(done)
}

/// Raises the limit of open descriptors to `most` if it is lower.
fn allow_descriptors(most: u64) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < most) {
        let raised = Rlimit { current: Some(most), maximum: limit.maximum };
        setrlimit(Resource::Nofile, raised).with_context(|| {
            format!("{most} open files: raise the limit (ulimit -Hn) or use fewer --threads")
        })?;
    }
    Ok(())
}

/// Which of the first `most` descriptors are open.
fn open_descriptors(most: u64) -> Vec<i32> {
    // SAFETY: F_GETFD only looks at the table of descriptors.
    (0..most as i32).filter(|&fd| unsafe { libc::fcntl(fd, libc::F_GETFD) } >= 0).collect()
}
