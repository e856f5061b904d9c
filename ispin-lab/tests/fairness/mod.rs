//! How equal the shares of the threads in a lock are, measured alike wherever the lock runs.

/// Jain's index of `shares`: 1 = equal, 1 / threads = one has it all.
pub fn index(shares: &[u64]) -> f64 {
    let sum: u64 = shares.iter().sum();
    let squares: u64 = shares.iter().map(|share| share * share).sum();
    (sum * sum) as f64 / (shares.len() as u64 * squares) as f64
}

#[test]
fn the_index_tells_equal_shares_from_others() {
    assert_eq!(index(&[7, 7, 7]), 1.0);
    assert_eq!(index(&[5, 0]), 0.5);
    assert!(index(&[100, 80]) < 0.99 && index(&[100, 90]) > 0.99);
}
