//! Real-time priority for the observing thread.
//!
//! In the threads world the vCPUs are real-time threads that use every CPU they are given. An observer of
//! ordinary priority would get what real-time throttling leaves over; so it runs above them, briefly, at
//! moments that it announced.

use std::io;

/// Priority of observers: above vCPU threads, below the threads world's own hypervisor thread.
pub const OBSERVER_PRIORITY: i32 = 50;

/// The calling thread under `SCHED_FIFO`; dropping it gives the thread its previous policy back. Processes
/// that it starts do not inherit the priority.
pub struct RealTime {
    policy: i32,
    priority: i32,
}

impl RealTime {
    /// Raises the calling thread to `SCHED_FIFO` with `priority` (1..=99). Needs CAP_SYS_NICE, and a
    /// scheduler group that may run real-time threads.
    pub fn enter(priority: i32) -> io::Result<Self> {
        let (policy, previous) = current()?;
        set(libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, priority)?;
        Ok(Self { policy, priority: previous })
    }
}

impl Drop for RealTime {
    fn drop(&mut self) {
        if let Err(e) = set(self.policy, self.priority) {
            log::warn!("the thread keeps its real-time priority: giving it back failed: {e}");
        }
    }
}

/// Whether threads of this process may run under `SCHED_RR`: tries it in a thread of its own, which ends at
/// once. Its priority is the observers', so that a running threads world does not starve it.
pub fn try_round_robin() -> io::Result<()> {
    std::thread::Builder::new()
        .name("try-sched-rr".into())
        .spawn(|| set(libc::SCHED_RR | libc::SCHED_RESET_ON_FORK, OBSERVER_PRIORITY))?
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the trying thread panicked")))
}

fn current() -> io::Result<(i32, i32)> {
    let mut param = libc::sched_param { sched_priority: 0 };
    // SAFETY: 0 is the calling thread; the call takes no pointer.
    let policy = unsafe { libc::sched_getscheduler(0) };
    // SAFETY: 0 is the calling thread; `param` is valid for writing.
    if policy < 0 || unsafe { libc::sched_getparam(0, &mut param) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((policy, param.sched_priority))
}

fn set(policy: i32, priority: i32) -> io::Result<()> {
    let param = libc::sched_param { sched_priority: priority };
    // SAFETY: 0 is the calling thread; `param` is valid for reading.
    match unsafe { libc::sched_setscheduler(0, policy, &param) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raising_is_undone() {
        let before = current().expect("policy");
        match RealTime::enter(OBSERVER_PRIORITY) {
            Ok(raised) => {
                let (policy, priority) = current().expect("policy");
                assert_eq!(policy & !libc::SCHED_RESET_ON_FORK, libc::SCHED_FIFO);
                assert_eq!(priority, OBSERVER_PRIORITY);
                drop(raised);
            }
            Err(e) => assert_eq!(e.kind(), io::ErrorKind::PermissionDenied),
        }
        assert_eq!(current().expect("policy"), before);
    }
}
