//! Log2 histograms.

use ispin_common::histogram::{Histogram, NR_BUCKETS};
use proptest::prelude::*;

fn bucket_by_definition(value: u64) -> usize {
    let log2 = 63 - value.max(1).leading_zeros() as usize;
    log2.min(NR_BUCKETS - 1)
}

#[test]
fn edges_of_every_bucket() {
    for i in 0..64 {
        let low = 1u64 << i;
        for value in [low - 1, low, low + 1] {
            assert_eq!(Histogram::bucket_of(value), bucket_by_definition(value), "value {value}");
        }
    }
    assert_eq!(Histogram::bucket_of(0), 0);
    assert_eq!(Histogram::bucket_of(u64::MAX), NR_BUCKETS - 1);
}

proptest! {
    #[test]
    fn bucket_is_the_logarithm(value in any::<u64>(), shift in 0u32..64) {
        let value = value >> shift;
        prop_assert_eq!(Histogram::bucket_of(value), bucket_by_definition(value));
    }

    #[test]
    fn recording_merging_and_differences(
        first in prop::collection::vec(any::<u64>(), 0..50),
        second in prop::collection::vec(0u64..1 << 20, 0..50),
    ) {
        let of = |values: &[u64]| {
            let mut h = Histogram::default();
            values.iter().for_each(|&v| h.record(v));
            h
        };
        let (a, b) = (of(&first), of(&second));
        prop_assert_eq!(a.count(), first.len() as u64);
        for (i, &n) in a.buckets.iter().enumerate() {
            let expected = first.iter().filter(|&&v| bucket_by_definition(v) == i).count();
            prop_assert_eq!(n, expected as u64);
        }
        let mut both = a;
        both.merge(&b);
        prop_assert_eq!(both, of(&[first, second].concat()));
        prop_assert_eq!(both.since(&a), b);
    }
}
