//! Histograms of times.

use ispin_common::histogram::{Histogram, NR_BUCKETS};
use serde::{Deserialize, Serialize};

/// A log2 histogram; bucket `i` counts times in `[2^i, 2^(i+1))`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hist {
    /// Counts; trailing empty buckets are left out.
    pub buckets: Vec<u64>,
}

impl From<&Histogram> for Hist {
    fn from(h: &Histogram) -> Self {
        let used = h.buckets.iter().rposition(|&n| n > 0).map_or(0, |i| i + 1);
        Self { buckets: h.buckets[..used].to_vec() }
    }
}

impl Hist {
    /// Count of bucket `i`, 0 beyond the end.
    pub fn get(&self, i: usize) -> u64 {
        self.buckets.get(i).copied().unwrap_or(0)
    }

    /// How many values were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Adds another histogram.
    pub fn merge(&mut self, other: &Self) {
        let len = self.buckets.len().max(other.buckets.len()).min(NR_BUCKETS);
        self.buckets.resize(len, 0);
        for (a, b) in self.buckets.iter_mut().zip(&other.buckets) {
            *a += b;
        }
    }

    /// What came on top since `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        let came = |(i, n): (usize, &u64)| n.saturating_sub(earlier.get(i));
        Self { buckets: self.buckets.iter().enumerate().map(came).collect() }
    }

    /// How many values lie in buckets that begin at `limit` or above: all values of at least `limit` if that is a
    /// power of two, else those in its own bucket are left out. `None` for a limit of 0, which is none.
    pub fn not_below(&self, limit: u64) -> Option<u64> {
        let first = limit.checked_next_power_of_two()?.checked_ilog2().filter(|_| limit > 0)? as usize;
        Some(self.buckets.iter().skip(first).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_above_a_limit() {
        let hist = Hist { buckets: vec![1, 2, 4, 8, 16] };
        assert_eq!(hist.not_below(4), Some(28));
        assert_eq!(hist.not_below(5), Some(24));
        assert_eq!(hist.not_below(1), Some(31));
        assert_eq!(hist.not_below(1 << 40), Some(0));
        assert_eq!(hist.not_below(0), None);
        assert_eq!(hist.not_below(u64::MAX), None);
    }

    #[test]
    fn what_came_on_top() {
        let hist = Hist { buckets: vec![1, 2, 4] };
        assert_eq!(hist.since(&Hist { buckets: vec![1, 1] }).buckets, [0, 1, 4]);
    }
}
