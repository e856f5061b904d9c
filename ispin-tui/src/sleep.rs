//! Sleeping: until a planned moment and no other, or until something happens.

use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context, Result};
use ispin_agent::clock::{Alarm, now_ns};
use ispin_agent::signals::Signals;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::input::Keyboard;
use crate::resize::Resized;

/// All that may end a sleep.
pub struct Sleeper<'a> {
    alarm: Alarm,
    signals: &'a Signals,
}

impl<'a> Sleeper<'a> {
    /// That wakes for these signals in any case.
    pub fn new(signals: &'a Signals) -> Result<Self> {
        Ok(Self { alarm: Alarm::new().context("making a timer")?, signals })
    }

    /// Sleeps until `at_ns`; only a signal that ends the program cuts it short. Keys and a new size of the
    /// terminal wait until then.
    pub fn until(&self, at_ns: u64) -> Result<()> {
        self.alarm.set(at_ns).context("setting the timer")?;
        // SIGWINCH interrupts this, and is looked at when it is time.
        while !wait(&[self.alarm.as_fd(), self.signals.as_fd()], None)? {}
        Ok(())
    }

    /// Sleeps until `feed` can be read, `at_ns` has come, a key is pressed, the size changes or a signal comes;
    /// `None` = does not happen.
    pub fn until_news(
        &self,
        feed: Option<BorrowedFd>,
        at_ns: Option<u64>,
        keyboard: &Keyboard,
        resized: &Resized,
    ) -> Result<()> {
        let mut fds = vec![keyboard.as_fd(), resized.as_fd(), self.signals.as_fd()];
        fds.extend(feed);
        wait(&fds, at_ns.map(|at| at.saturating_sub(now_ns())))?;
        Ok(())
    }
}

/// Waits until one of `fds` can be read or this time has passed; false if a signal handler cut it short.
fn wait(fds: &[BorrowedFd], ns: Option<u64>) -> Result<bool> {
    let mut fds: Vec<_> = fds.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    let limit =
        ns.map(|ns| Timespec { tv_sec: (ns / 1_000_000_000) as i64, tv_nsec: (ns % 1_000_000_000) as i64 });
    match poll(&mut fds, limit.as_ref()) {
        Ok(_) => Ok(true),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error).context("waiting for keys and snapshots"),
    }
}
