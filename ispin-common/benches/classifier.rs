//! Classifier throughput.
fn main() {}
