//! What all workloads share: options, threads, temporary files, child programs, kernel modules, results.

pub mod host_file;
pub mod kernel_log;
pub mod mapping;
pub mod micro_module;
pub mod module;
pub mod program;
pub mod report;
pub mod rounds;
pub mod scratch;
pub mod setup;
pub mod signals;
pub mod sleeper;
pub mod team;
