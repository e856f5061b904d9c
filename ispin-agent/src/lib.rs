//! The agent as a library: sources make [`model::Snapshot`]s, sinks write them.
//!
//! | module | concept |
//! |---|---|
//! | [`model`] | the snapshot |
//! | [`interval`] | what happened between two snapshots, and the figures derived from it |
//! | [`convoy`] | one preemption that goes on and on |
//! | [`source`] | where snapshots come from |
//! | [`sink`] | where they go |
//! | [`run`] | the loop between the two: announce, sleep, sample, write |
//! | [`check`] | what this machine has and lacks for observing |
//! | [`command`], [`signals`], [`clock`], [`rt`] | COMMAND, the signals that end a run, time, priority |
//! | [`session`] | how a threads world says that it runs |
//! | [`bpf`], [`diagnostics`] | the embedded eBPF object, kernel BTF, memory-mapped maps, the programs' log |
//! | [`cli`], [`options`], [`observe`], [`summary`], [`logging`] | the program `ispin-agent` |
#![deny(missing_docs)]

pub mod bpf;
pub mod check;
pub mod cli;
pub mod clock;
pub mod command;
pub mod convoy;
pub mod diagnostics;
pub mod interval;
pub mod logging;
pub mod model;
pub mod observe;
pub mod options;
pub mod rt;
pub mod run;
pub mod session;
pub mod signals;
pub mod sink;
pub mod source;
pub mod summary;
