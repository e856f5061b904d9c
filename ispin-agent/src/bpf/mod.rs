//! The embedded eBPF object and what is needed around it.

pub mod object;
