//! Planned wake-ups: samples an interval apart, and between them looks at the keys often enough for a person.

use std::time::Duration;

use ispin_agent::clock::as_ns;

/// A person hardly notices a delay of this length.
const KEYS_NS: u64 = 100_000_000;
/// A wake-up nearer than this cannot be announced in time.
const NOTICE_NS: u64 = 1_000_000;

/// The next wake-up, and when the next sample is due. All times are `CLOCK_MONOTONIC` ns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    due_ns: u64,
    wake_ns: u64,
}

impl Plan {
    /// A sample, now.
    pub fn begin(now_ns: u64) -> Self {
        Self { due_ns: now_ns, wake_ns: now_ns }
    }

    /// When the wake-up is.
    pub fn wake_ns(&self) -> u64 {
        self.wake_ns
    }

    /// Whether this wake-up takes a sample.
    pub fn samples(&self) -> bool {
        self.due_ns <= self.wake_ns
    }

    /// Whether a wake-up at `now_ns` comes more than half an interval after the planned one.
    pub fn late(&self, now_ns: u64, interval: Duration) -> bool {
        now_ns.saturating_sub(self.wake_ns) > as_ns(interval) / 2
    }

    /// Plans the wake-up after this one, which is over at `now_ns`. `agree` is given the wanted moment and returns
    /// the one that it will be, not earlier; samples stay an interval apart on average.
    pub fn advance(&mut self, interval: Duration, now_ns: u64, agree: impl FnOnce(u64) -> u64) {
        let interval_ns = as_ns(interval).max(1);
        let over_ns = now_ns.max(self.wake_ns);
        if self.samples() {
            // Samples that were missed are not made up for.
            let missed = (over_ns - self.due_ns) / interval_ns;
            self.due_ns += (missed + 1) * interval_ns;
        }
        // An interval that was made shorter takes effect at once.
        self.due_ns = self.due_ns.min(over_ns + interval_ns);
        let wanted = self.due_ns.min(over_ns + KEYS_NS).max(over_ns + NOTICE_NS);
        self.wake_ns = agree(wanted).max(wanted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// When samples are taken in the first second if a wake-up takes `busy` and moments are agreed upon by `agree`.
    fn samples(interval_ms: u64, busy: u64, agree: fn(u64) -> u64) -> Vec<u64> {
        let mut plan = Plan::begin(0);
        let mut at = Vec::new();
        while plan.wake_ns() < 1000 * MS {
            if plan.samples() {
                at.push(plan.wake_ns() / MS);
            }
            plan.advance(Duration::from_millis(interval_ms), plan.wake_ns() + busy, agree);
        }
        at
    }

    #[test]
    fn samples_are_an_interval_apart() {
        assert_eq!(samples(250, MS, |at| at), [0, 250, 500, 750]);
        assert_eq!(samples(100, MS, |at| at), (0..1000).step_by(100).collect::<Vec<_>>());
        assert_eq!(samples(40, MS, |at| at).len(), 25);
        assert_eq!(samples(10_000, MS, |at| at), [0]);
    }

    #[test]
    fn moments_that_are_put_off_do_not_add_up() {
        // Agreed upon only every 100 ms: the mean stays.
        assert_eq!(samples(250, MS, |at| at.div_ceil(100 * MS) * 100 * MS), [0, 300, 500, 800]);
        assert_eq!(samples(100, 5 * MS, |at| at.div_ceil(100 * MS) * 100 * MS).len(), 10);
    }

    #[test]
    fn samples_that_were_missed_are_left_out() {
        assert_eq!(samples(100, 250 * MS, |at| at), [0, 300, 600, 900]);
    }

    #[test]
    fn keys_are_looked_at_ten_times_a_second() {
        let mut plan = Plan::begin(0);
        plan.advance(Duration::from_secs(10), MS, |at| at);
        assert_eq!((plan.wake_ns(), plan.samples()), (101 * MS, false));
    }

    #[test]
    fn a_shorter_interval_takes_effect_at_once() {
        let mut plan = Plan::begin(0);
        plan.advance(Duration::from_secs(10), MS, |at| at);
        plan.advance(Duration::from_millis(50), 102 * MS, |at| at);
        assert_eq!((plan.wake_ns(), plan.samples()), (152 * MS, true));
    }

    #[test]
    fn every_wake_up_can_be_announced() {
        let mut plan = Plan::begin(0);
        for now in [0, 7 * MS, 7 * MS + 1] {
            plan.advance(Duration::ZERO, now, |at| at);
            assert!(plan.wake_ns() >= now + NOTICE_NS);
        }
    }

    #[test]
    fn more_than_half_an_interval_is_late() {
        let plan = Plan::begin(100 * MS);
        assert!(!plan.late(150 * MS, Duration::from_millis(100)));
        assert!(plan.late(151 * MS, Duration::from_millis(100)));
        assert!(!plan.late(0, Duration::from_millis(100)));
    }
}
