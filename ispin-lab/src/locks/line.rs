//! A value that shares its cache lines with no other.

/// A value in cache lines of its own: two, because processors fetch lines in pairs.
#[repr(align(128))]
pub struct Line<T>(pub T);
