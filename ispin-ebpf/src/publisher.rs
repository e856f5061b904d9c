//! The slot publisher of the threads world: a `sched_switch` program that plays the hypervisor.
