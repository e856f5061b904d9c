//! Policies, priorities and CPU sets of threads.

use std::io;

use anyhow::{Context, Result, bail};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Priority of vCPU threads (`SCHED_RR`).
pub const VCPU_PRIORITY: i32 = 10;
/// Priority of the hypervisor's own thread (`SCHED_FIFO`): above the vCPUs and above observers.
pub const HYPERVISOR_PRIORITY: i32 = 60;

/// A real-time policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// `SCHED_RR`
    RoundRobin,
    /// `SCHED_FIFO`
    Fifo,
    /// `SCHED_OTHER`
    Normal,
}

/// Gives the calling thread `policy` and `priority`.
pub fn set_policy(policy: Policy, priority: i32) -> Result<()> {
    set_policy_of(0, policy, priority)
}

/// Gives thread `tid` (0: the calling one) `policy` and `priority`.
pub fn set_policy_of(tid: u32, policy: Policy, priority: i32) -> Result<()> {
    let number = match policy {
        Policy::RoundRobin => libc::SCHED_RR,
        Policy::Fifo => libc::SCHED_FIFO,
        Policy::Normal => libc::SCHED_OTHER,
    };
    let param = libc::sched_param { sched_priority: priority };
    // SAFETY: a valid structure; a thread that does not exist is an error. rustix has no call for it.
    if unsafe { libc::sched_setscheduler(tid as libc::pid_t, number, &param) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    let hint = match error.raw_os_error() {
        Some(libc::EPERM) => {
            "needs root or CAP_SYS_NICE; in a cgroup with CONFIG_RT_GROUP_SCHED also a cpu.rt_runtime_us above zero"
        }
        _ => "the kernel refused it",
    };
    Err(error).with_context(|| format!("making a thread {policy:?} with priority {priority}: {hint}"))
}

/// The first `count` CPUs that this process may use; all of them for 0.
pub fn choose_cpus(count: u32) -> Result<Vec<usize>> {
    let set = sched_getaffinity(None).context("reading the CPU set of this process")?;
    let allowed: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect();
    if count as usize > allowed.len() {
        bail!("--pcpus {count}: this process may use {} CPUs only ({allowed:?})", allowed.len());
    }
    let wanted = if count == 0 { allowed.len() } else { count as usize };
    Ok(allowed[..wanted].to_vec())
}

/// Binds the calling thread to `cpus`.
pub fn bind(cpus: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    for &cpu in cpus {
        set.set(cpu);
    }
    sched_setaffinity(None, &set).with_context(|| format!("binding a thread to CPUs {cpus:?}"))
}

/// The calling thread's id.
pub fn thread_id() -> u32 {
    rustix::thread::gettid().as_raw_nonzero().get() as u32
}
