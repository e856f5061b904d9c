//! Log2 histograms of hold and wait times.

/// Buckets per histogram.
pub const NR_BUCKETS: usize = 40;

/// Bucket `i` counts values in `[2^i, 2^(i+1))`; bucket 0 also counts 0, the last one everything above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Histogram {
    /// Counts per bucket.
    pub buckets: [u64; NR_BUCKETS],
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: [0; NR_BUCKETS] }
    }
}

impl Histogram {
    /// The bucket of `value`.
    #[inline(always)]
    pub const fn bucket_of(value: u64) -> usize {
        // Binary search by shifts: BPF has no count-leading-zeros, and LLVM's expansion of it is longer.
        let mut v = value;
        let mut b = 0;
        if v >> 32 != 0 {
            v >>= 32;
            b += 32;
        }
        if v >> 16 != 0 {
            v >>= 16;
            b += 16;
        }
        if v >> 8 != 0 {
            v >>= 8;
            b += 8;
        }
        if v >> 4 != 0 {
            v >>= 4;
            b += 4;
        }
        if v >> 2 != 0 {
            v >>= 2;
            b += 2;
        }
        if v >> 1 != 0 {
            b += 1;
        }
        if b < NR_BUCKETS { b } else { NR_BUCKETS - 1 }
    }

    /// Counts `value`.
    #[inline(always)]
    pub fn record(&mut self, value: u64) {
        if let Some(bucket) = self.buckets.get_mut(Self::bucket_of(value)) {
            *bucket = bucket.wrapping_add(1);
        }
    }

    /// How many values were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Adds another histogram.
    pub fn merge(&mut self, other: &Self) {
        for (a, b) in self.buckets.iter_mut().zip(&other.buckets) {
            *a = a.wrapping_add(*b);
        }
    }

    /// What came on top since `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        let mut out = *self;
        for (a, b) in out.buckets.iter_mut().zip(&earlier.buckets) {
            *a = a.wrapping_sub(*b);
        }
        out
    }
}
