//! Medians and how sure one can be of them.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// Resamples of a bootstrap.
const RESAMPLES: usize = 2000;

/// Fewer runs of a cell than that decide nothing, and are drawn as such.
pub const LEAST_RUNS: usize = 5;

/// The median; NaN of nothing.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}

/// A figure and the interval in which 95 of 100 resamples lie.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// The figure itself.
    pub point: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// The median of `this`, or its ratio to that of `base`, with a bootstrap interval (percentiles). Values below `floor` count
/// as `floor`, so that a ratio to nothing is a number. `None` if a side has no value.
pub fn compare(this: &[f64], base: Option<&[f64]>, floor: f64) -> Option<Interval> {
    if this.is_empty() || base.is_some_and(<[f64]>::is_empty) {
        return None;
    }
    let figure = |this: &[f64], base: Option<&[f64]>| {
        let of = |values: &[f64]| median(values.iter().map(|value| value.max(floor)));
        of(this) / base.map_or(1.0, of)
    };
    // The same data give the same interval.
    let mut random = SmallRng::seed_from_u64(17);
    let mut again = |values: &[f64]| -> Vec<f64> {
        (0..values.len()).map(|_| values[random.random_range(0..values.len())]).collect()
    };
    let mut figures: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let ours = again(this);
            let theirs = base.map(&mut again);
            figure(&ours, theirs.as_deref())
        })
        .collect();
    figures.sort_by(f64::total_cmp);
    let at = |share: f64| figures[((figures.len() - 1) as f64 * share).round() as usize];
    Some(Interval { point: figure(this, base), low: at(0.025), high: at(0.975) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_lies_in_its_interval() {
        let ratio = compare(&[9.0, 10.0, 11.0, 10.5, 9.5], Some(&[1.0, 1.1, 0.9, 1.05, 0.95]), 0.0).unwrap();
        assert_eq!(ratio.point, 10.0);
        assert!(ratio.low < 10.0 && ratio.high > 10.0 && ratio.low > 7.0 && ratio.high < 13.0, "{ratio:?}");
        assert_eq!(
            ratio,
            compare(&[9.0, 10.0, 11.0, 10.5, 9.5], Some(&[1.0, 1.1, 0.9, 1.05, 0.95]), 0.0).unwrap()
        );
    }

    #[test]
    fn nothing_at_all_counts_as_the_floor() {
        let ratio = compare(&[0.0; 5], Some(&[100.0; 5]), 1.0).unwrap();
        assert_eq!((ratio.point, ratio.low, ratio.high), (0.01, 0.01, 0.01));
        assert_eq!(compare(&[], Some(&[1.0]), 0.0), None);
        assert_eq!(compare(&[1.0], Some(&[]), 0.0), None);
        assert_eq!(compare(&[2.0, 4.0, 3.0], None, 0.0).unwrap().point, 3.0);
    }

    #[test]
    fn medians() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), 2.5);
        assert!(median([].into_iter()).is_nan());
    }
}
