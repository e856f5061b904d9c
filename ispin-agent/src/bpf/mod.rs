//! The embedded eBPF object and what is needed around it.

pub mod btf;
pub mod guest;
mod memory;
pub mod mmap;
pub mod object;
pub mod publisher;
