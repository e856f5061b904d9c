//! The threads world: user threads are vCPUs, processes are VMs, `SCHED_RR` on a few CPUs is the hypervisor,
//! and an eBPF program on `sched_switch` publishes the slots.
//!
//! | module | concept |
//! |---|---|
//! | [`options`] | what one run is, on the command line and in experiment files |
//! | [`machine`] | what is changed on the machine, and putting it back |
//! | [`hypervisor`] | one run, from the start of the publisher to its end |
//! | [`injector`] | preempting a holder on purpose |
//! | `host_windows` | when the VMs are paused for the machine's other work |
//! | `vms` | the VM processes of a run, seen from the hypervisor |
//! | `totals` | what was counted in a run, summed up |
//! | [`calibrate`] | phase of the scheduler's tick |
//! | [`vm_process`] | the process that is a VM |
//! | [`scheduling`] | policies, priorities and CPU sets of threads |
//! | [`result`] | what a run gives |

pub mod calibrate;
mod host_windows;
pub mod hypervisor;
pub mod injector;
pub mod machine;
pub mod options;
pub mod result;
pub mod scheduling;
mod stolen;
mod totals;
pub mod undisturbed;
pub mod vm_process;
mod vms;
