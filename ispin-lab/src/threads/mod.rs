//! The threads world: user threads are vCPUs, processes are VMs, `SCHED_RR` on a few CPUs is the hypervisor,
//! and an eBPF program on `sched_switch` publishes the slots.
//!
//! | module | concept |
//! |---|---|
//! | [`options`] | what one run is, on the command line and in experiment files |
//! | [`machine`] | what is changed on the machine, and putting it back |
//! | [`hypervisor`] | one run: publisher, VM processes, barrier, host windows, end |
//! | [`calibrate`] | phase of the scheduler's tick |
//! | [`vm_process`] | the process that is a VM |
//! | [`scheduling`] | policies, priorities and CPU sets of threads |
//! | [`result`] | what a run gives |

pub mod calibrate;
pub mod hypervisor;
pub mod machine;
pub mod options;
pub mod result;
pub mod scheduling;
pub mod vm_process;
