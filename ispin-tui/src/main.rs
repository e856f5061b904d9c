//! `ispin-tui`
fn main() {}
