//! Signals that end a run, as a file descriptor: it can be asked in passing and waited for, and nothing
//! wakes up between two signals.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use rustix::pipe::{PipeFlags, pipe_with};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::{SigId, flag, low_level};

/// SIGINT, SIGTERM and SIGHUP, caught while this value lives. A SIGHUP that was ignored at the start
/// (`nohup`) stays ignored. Meanwhile a file that reaches the limit of its size (`ulimit -f`) is an error of
/// the write, not the end of the process.
pub struct Signals {
    /// Reading end. A pipe and no socket: a small guest's kernel may have none.
    pipe: OwnedFd,
    latest: Arc<AtomicUsize>,
    ids: Vec<SigId>,
}

impl Signals {
    /// Starts catching.
    pub fn catch() -> Result<Self> {
        let (pipe, writer) =
            pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).context("making a pipe for signals")?;
        let mut signals = Self { pipe, latest: Arc::new(AtomicUsize::new(0)), ids: vec![] };
        // Left alone, it would end this process in the middle of a line; caught, the write fails instead.
        signals.ids.push(flag::register(libc::SIGXFSZ, Arc::default())?);
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            if signal == SIGHUP && is_ignored(signal)? {
                continue;
            }
            // The number first, then the wake-up: who reads the pipe finds the number.
            let latest = signals.latest.clone();
            signals.ids.push(flag::register_usize(signal, latest, signal as usize)?);
            signals.ids.push(low_level::pipe::register(signal, writer.try_clone()?)?);
        }
        Ok(signals)
    }

    /// Number of the latest signal since the previous call.
    pub fn take(&self) -> Option<i32> {
        let mut bytes = [0; 64];
        while matches!(rustix::io::read(&self.pipe, &mut bytes), Ok(n) if n > 0) {}
        match self.latest.swap(0, Ordering::SeqCst) {
            0 => None,
            signal => Some(signal as i32),
        }
    }
}

impl AsFd for Signals {
    /// Readable once a signal came.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for id in self.ids.drain(..) {
            low_level::unregister(id);
        }
    }
}

/// Name of a signal, for messages.
pub fn name(signal: i32) -> String {
    low_level::signal_name(signal).map_or_else(|| format!("signal {signal}"), str::to_owned)
}

/// Whether this process ignores a signal now.
///
/// # Errors
/// `/proc/self/status` cannot be read.
pub fn is_ignored(signal: i32) -> Result<bool> {
    let status =
        procfs::process::Process::myself().and_then(|p| p.status()).context("reading /proc/self/status")?;
    Ok(status.sigign >> (signal - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_seen_once_and_wakes_who_waits() {
        let signals = Signals::catch().expect("signals can be caught");
        assert_eq!(signals.take(), None);
        // Not SIGHUP: under nohup that stays ignored.
        low_level::raise(SIGTERM).expect("raise");
        let mut fds = [rustix::event::PollFd::new(&signals, rustix::event::PollFlags::IN)];
        assert_eq!(rustix::event::poll(&mut fds, None).expect("poll"), 1);
        assert_eq!(signals.take(), Some(SIGTERM));
        assert_eq!(signals.take(), None);
    }
}
