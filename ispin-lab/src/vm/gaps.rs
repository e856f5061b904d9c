//! Whether the host let the machine run: how long QEMU's threads were ready and had to wait for a CPU.
//!
//! While instructions are not counted, a vCPU's or pCPU's clock goes on when its thread waits, so a busy host looks like
//! a preemption that nobody announced. Linux counts such waits per thread (`/proc/PID/task/TID/schedstat`).

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// The waits of one process's threads.
pub struct Gaps {
    tasks: PathBuf,
    /// Total wait of each thread at the last look, ns.
    waited: HashMap<String, u64>,
    longest: Duration,
    known: bool,
}

impl Gaps {
    /// Of the process `pid`. What happened so far does not count.
    pub fn of(pid: u32) -> Self {
        let tasks = PathBuf::from(format!("/proc/{pid}/task"));
        let mut gaps = Self { tasks, waited: HashMap::new(), longest: Duration::ZERO, known: false };
        gaps.look(false);
        gaps
    }

    /// Looks at what has come since the last look; it counts if `counts` says so.
    pub fn look(&mut self, counts: bool) {
        // A thread or process that has ended in between has no wait to tell.
        for entry in fs::read_dir(&self.tasks).into_iter().flatten().flatten() {
            let Ok(text) = fs::read_to_string(entry.path().join("schedstat")) else { continue };
            let Some(now) = waited(&text) else { continue };
            self.known = true;
            let thread = entry.file_name().to_string_lossy().into_owned();
            let before = self.waited.insert(thread, now).unwrap_or(now);
            if counts {
                self.longest = self.longest.max(Duration::from_nanos(now.saturating_sub(before)));
            }
        }
    }

    /// The most that a thread waited between two looks; `None` = this kernel does not count.
    pub fn longest(&self) -> Option<Duration> {
        self.known.then_some(self.longest)
    }
}

/// Time on a CPU, time waiting for one, how often it got one.
fn waited(schedstat: &str) -> Option<u64> {
    schedstat.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_number_is_the_wait() {
        assert_eq!(waited("1234 71867 5\n"), Some(71867));
        assert_eq!(waited(""), None);
    }

    #[test]
    fn what_happened_before_does_not_count() {
        let mut gaps = Gaps::of(std::process::id());
        gaps.look(false);
        if let Some(longest) = gaps.longest() {
            assert_eq!(longest, Duration::ZERO);
        }
        gaps.look(true);
        assert_eq!(Gaps::of(u32::MAX).longest(), None);
    }
}
