//! `ispin-agent`: the headless program.
fn main() {}
