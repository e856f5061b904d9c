//! What a person types after cloning.
fn main() {}
