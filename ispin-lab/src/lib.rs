//! What is measured: the lock library, workloads, the threads world, the VM lab, experiments as data.
#![deny(missing_docs)]

pub mod chart;
pub mod healing;
pub mod instructions;
pub mod interrupt;
pub mod load;
pub mod locks;
pub mod matrix;
pub mod noise;
pub mod overhead;
pub mod port;
pub mod rows;
pub mod stats;
pub mod threads;
pub mod validate;
pub mod vcpu;
pub mod vm;
pub mod whole_file;
pub mod workload;
