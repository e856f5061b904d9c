//! `CLOCK_MONOTONIC`: reading it, and waking up at a moment of it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};

const SECOND: u64 = 1_000_000_000;

/// Now, `CLOCK_MONOTONIC` ns.
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * SECOND + now.tv_nsec as u64
}

/// A duration in ns, at most some 584 years.
pub fn as_ns(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

/// An alarm at an absolute time: the same kernel timer as `clock_nanosleep(TIMER_ABSTIME)`, but as a file
/// descriptor, so that signals and the end of a process can be waited for in the same sleep.
pub struct Alarm {
    fd: OwnedFd,
}

impl Alarm {
    /// An alarm that is not set.
    pub fn new() -> io::Result<Self> {
        let fd = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        Ok(Self { fd })
    }

    /// Goes off at `at` (`CLOCK_MONOTONIC` ns); at once if that has passed.
    pub fn set(&self, at: u64) -> io::Result<()> {
        // All zero would mean "off".
        let at = at.max(1);
        let value = Timespec { tv_sec: (at / SECOND) as i64, tv_nsec: (at % SECOND) as _ };
        let once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let timer = Itimerspec { it_interval: once, it_value: value };
        timerfd_settime(&self.fd, TimerfdTimerFlags::ABSTIME, &timer)?;
        Ok(())
    }

    /// Whether it went off since it was set; asking clears that.
    pub fn rang(&self) -> io::Result<bool> {
        match rustix::io::read(&self.fd, &mut [0; 8]) {
            Ok(n) => Ok(n == 8),
            Err(Errno::AGAIN) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }
}

impl AsFd for Alarm {
    /// Readable once it went off.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarm_goes_off_at_its_time_and_for_a_past_one_at_once() {
        let alarm = Alarm::new().expect("timerfd");
        let wait = |at| {
            alarm.set(at).expect("set");
            let mut fds = [rustix::event::PollFd::new(&alarm, rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut fds, None).expect("poll");
            assert!(alarm.rang().expect("read"));
            assert!(!alarm.rang().expect("read"));
            now_ns()
        };
        let at = now_ns() + 20_000_000;
        assert!(wait(at) >= at);
        assert!(wait(1) < at + 10 * SECOND);
    }
}
