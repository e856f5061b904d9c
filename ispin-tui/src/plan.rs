//! Planned wake-ups: samples an interval apart, and between them looks at the keys often enough for a person.

use std::time::Duration;

/// A person does not notice a delay shorter than this.
const KEYS: Duration = Duration::from_millis(100);
/// A wake-up nearer than this cannot be announced in time.
const NOTICE_NS: u64 = 1_000_000;

/// The next wake-up and what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// When, `CLOCK_MONOTONIC` ns.
    pub at_ns: u64,
    /// Wake-ups until the next sample; 0 = this one.
    until_sample: u32,
}

impl Plan {
    /// A sample, now.
    pub fn begin(now_ns: u64) -> Self {
        Self { at_ns: now_ns, until_sample: 0 }
    }

    /// Whether this wake-up takes a sample.
    pub fn samples(&self) -> bool {
        self.until_sample == 0
    }

    /// The wake-up after this one. An interval is cut into equal parts, so that samples stay an interval apart.
    pub fn next(&self, interval: Duration) -> Self {
        let parts = (interval.as_nanos().div_ceil(KEYS.as_nanos()) as u32).max(1);
        let step_ns = (interval.as_nanos() as u64 / u64::from(parts)).max(NOTICE_NS);
        let until_sample = if self.samples() { parts - 1 } else { (self.until_sample - 1).min(parts - 1) };
        Self { at_ns: self.at_ns + step_ns, until_sample }
    }

    /// The same, if the plan can still be kept; else as soon as it can be announced.
    pub fn not_before(self, now_ns: u64) -> Self {
        Self { at_ns: self.at_ns.max(now_ns + NOTICE_NS), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn samples(interval: Duration, wakes: usize) -> Vec<u64> {
        let mut plan = Plan::begin(0);
        let mut at = Vec::new();
        for _ in 0..wakes {
            if plan.samples() {
                at.push(plan.at_ns);
            }
            plan = plan.next(interval);
        }
        at
    }

    #[test]
    fn samples_are_an_interval_apart() {
        for (ms, parts) in [(50, 1), (100, 1), (240, 3), (1000, 10), (5000, 50)] {
            let at = samples(Duration::from_millis(ms), 3 * parts);
            assert_eq!(at, [0, ms * MS, 2 * ms * MS], "{ms} ms");
        }
    }

    #[test]
    fn keys_are_looked_at_ten_times_a_second() {
        let next = Plan::begin(0).next(Duration::from_secs(10));
        assert_eq!(next.at_ns, 100 * MS);
        assert!(!next.samples());
    }

    #[test]
    fn a_shorter_interval_takes_effect_at_once() {
        let slow = Plan::begin(0).next(Duration::from_secs(10));
        let fast = slow.next(Duration::from_millis(50));
        assert!(fast.samples());
        assert_eq!(fast.at_ns, 150 * MS);
    }

    #[test]
    fn a_missed_wake_up_is_announced_before_it_is_made_up_for() {
        let plan = Plan { at_ns: 5 * MS, until_sample: 2 };
        assert_eq!(plan.not_before(2 * MS), plan);
        assert_eq!(plan.not_before(90 * MS), Plan { at_ns: 91 * MS, until_sample: 2 });
    }

    #[test]
    fn the_shortest_interval_can_still_be_announced() {
        assert_eq!(Plan::begin(0).next(Duration::ZERO).at_ns, NOTICE_NS);
    }
}
