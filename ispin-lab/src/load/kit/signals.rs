//! Signals that end a run. The first one asks the run to clean up and end; another one ends the process at once.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

/// SIGINT, SIGTERM and SIGHUP, caught from now on.
pub struct Signals {
    pipe: UnixStream,
    latest: Arc<AtomicUsize>,
}

impl Signals {
    /// Starts catching. Once in a process.
    pub fn catch() -> Result<Self> {
        let (pipe, writer) = UnixStream::pair().context("making a pipe for signals")?;
        let latest = Arc::new(AtomicUsize::new(0));
        let seen = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            let watch = || -> std::io::Result<()> {
                flag::register_conditional_shutdown(signal, 128 + signal, seen.clone())?;
                flag::register(signal, seen.clone())?;
                // The number first, then the wake-up: who reads the pipe finds the number.
                flag::register_usize(signal, latest.clone(), signal as usize)?;
                low_level::pipe::register(signal, writer.try_clone()?)?;
                Ok(())
            };
            watch().context("watching for signals")?;
        }
        Ok(Self { pipe, latest })
    }

    /// Fails with [`Interrupted`] once a signal came.
    pub fn check(&self) -> Result<()> {
        match self.latest.load(Ordering::SeqCst) {
            0 => Ok(()),
            signal => Err(Interrupted(signal as i32).into()),
        }
    }
}

impl AsFd for Signals {
    /// Readable once a signal came, from then on always.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

/// The run was ended by this signal.
#[derive(Clone, Copy, Debug)]
pub struct Interrupted(pub i32);

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match low_level::signal_name(self.0) {
            Some(name) => write!(f, "ended by {name}"),
            None => write!(f, "ended by signal {}", self.0),
        }
    }
}

impl std::error::Error for Interrupted {}
