//! `ispin-lab`
fn main() {}
