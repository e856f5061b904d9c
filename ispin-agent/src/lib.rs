//! The agent as a library: sources make [`model::Snapshot`]s, sinks write them.
//!
//! | module | concept |
//! |---|---|
//! | [`model`] | the snapshot |
//! | [`source`] | where snapshots come from |
//! | [`sink`] | where they go |
//! | [`bpf`] | the embedded eBPF object, kernel BTF, memory-mapped maps |
#![deny(missing_docs)]

pub mod bpf;
pub mod model;
pub mod sink;
pub mod source;
