//! When the hypervisor pauses the VMs for the machine's other work.

use super::options::RunOptions;

/// When the host's windows begin.
pub struct HostWindows {
    /// Begin of the next one, `CLOCK_MONOTONIC` ns; 0 = none.
    pub next: u64,
    /// From the begin of one to that of the next, ns; 0 = there are no more.
    every: u64,
    /// Length, ns.
    pub length: u64,
    /// End of the run.
    end: u64,
}

impl HostWindows {
    /// The windows of a run from `begin` to `end`.
    pub fn new(options: &RunOptions, begin: u64, end: u64) -> Self {
        let every = u64::from(options.host_every_ms) * 1_000_000;
        let mut windows = Self { next: begin, every, length: u64::from(options.host_ms) * 1_000_000, end };
        windows.advance(begin);
        windows
    }

    /// To the first window after `now` that is over before the run is.
    pub fn advance(&mut self, now: u64) {
        while self.next <= now && self.every != 0 {
            self.next += self.every;
        }
        if self.every == 0 || self.next + self.length > self.end {
            self.next = 0;
            self.every = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn windows(every: u32, length: u32, begin: u64, end: u64) -> HostWindows {
        let options = RunOptions { host_every_ms: every, host_ms: length, ..RunOptions::default() };
        HostWindows::new(&options, begin, end)
    }

    #[test]
    fn the_first_window_comes_one_period_into_the_run() {
        assert_eq!(windows(100, 8, 5 * MS, 1_000 * MS).next, 105 * MS);
    }

    #[test]
    fn windows_that_passed_are_skipped() {
        let mut windows = windows(100, 8, 0, 1_000 * MS);
        windows.advance(350 * MS);
        assert_eq!(windows.next, 400 * MS);
    }

    #[test]
    fn the_last_window_ends_before_the_run() {
        let mut windows = windows(100, 8, 0, 205 * MS);
        assert_eq!(windows.next, 100 * MS);
        windows.advance(108 * MS);
        assert_eq!(windows.next, 0);
        windows.advance(300 * MS);
        assert_eq!(windows.next, 0);
    }

    #[test]
    fn zero_means_no_windows() {
        assert_eq!(windows(0, 8, 5, 1_000 * MS).next, 0);
    }
}
