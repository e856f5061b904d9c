//! Policies, priorities and CPU sets of threads.

use std::io;
use std::marker::PhantomData;

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

/// Whether [`set_policy_of`] failed because the thread has ended.
pub fn is_gone(error: &anyhow::Error) -> bool {
    let cause = error.downcast_ref::<io::Error>();
    cause.is_some_and(|cause| cause.raw_os_error() == Some(libc::ESRCH))
}

/// A real-time policy of the calling thread, for as long as this lives: whoever leaves early leaves it, too, and so nothing that the
/// thread starts afterwards inherits it.
pub struct RealTime {
    /// It is about the thread that made it.
    thread: PhantomData<*const ()>,
}

impl RealTime {
    /// Gives the calling thread `policy` and `priority`.
    pub fn begin(policy: Policy, priority: i32) -> Result<Self> {
        set_policy(policy, priority)?;
        Ok(Self { thread: PhantomData })
    }

    /// Makes the thread normal again, and says if that fails.
    pub fn end(self) -> Result<()> {
        std::mem::forget(self);
        set_policy(Policy::Normal, 0)
    }
}

impl Drop for RealTime {
    fn drop(&mut self) {
        if let Err(error) = set_policy(Policy::Normal, 0) {
            log::error!(
                "this thread stays real-time, and so does what it starts; end the program: {error:#}"
            );
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> i32 {
        // SAFETY: asks for the calling thread's policy.
        unsafe { libc::sched_getscheduler(0) }
    }

    #[test]
    fn a_thread_is_normal_again_whichever_way_it_leaves() {
        let leaves_early = || -> Result<()> {
            let _urgent = RealTime::begin(Policy::Fifo, 1)?;
            assert_eq!(policy(), libc::SCHED_FIFO);
            bail!("early")
        };
        // In a thread of its own, for the policy would be inherited by the tests that come after a failure.
        let tested = std::thread::spawn(move || {
            let error = leaves_early().expect_err("it leaves early");
            if error.to_string() != "early" {
                return Err(error);
            }
            assert_eq!(policy(), libc::SCHED_OTHER, "left early");
            RealTime::begin(Policy::Fifo, 1)?.end()?;
            assert_eq!(policy(), libc::SCHED_OTHER, "left in the end");
            Ok(())
        });
        if let Err(why) = tested.join().expect("thread") {
            assert!(std::env::var_os("CI").is_none(), "{why:#}");
            eprintln!("skipped: {why:#}");
        }
    }
}
