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

/// Logarithms of all bytes, rounded down; that of 0 is 0.
const LOG2: [u8; 256] = {
    let mut table = [0; 256];
    let mut i = 2;
    while i < 256 {
        table[i] = table[i / 2] + 1;
        i += 1;
    }
    table
};

#[inline(never)]
const fn long_bucket_of(value: u64) -> usize {
    let mut bucket = 16;
    while bucket < NR_BUCKETS - 1 && value >> (bucket + 1) != 0 {
        bucket += 1;
    }
    bucket
}

impl Histogram {
    /// The bucket of `value`.
    #[inline(always)]
    pub const fn bucket_of(value: u64) -> usize {
        // BPF has no count-leading-zeros. Nearly all holds and waits are below 2^16.
        if value < 1 << 8 {
            LOG2[value as usize] as usize
        } else if value < 1 << 16 {
            8 + LOG2[(value >> 8) as usize] as usize
        } else {
            long_bucket_of(value)
        }
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
