//! A thread beside the load that sleeps and wakes: on a vCPU of its own, so that each wake-up makes the hypervisor run that
//! vCPU at once (BOOST in Xen's credit scheduler), before the quantum of the one that runs is over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use rustix::thread::{CpuSet, sched_setaffinity};

use super::team::allowed_cpus;

/// A thread that sleeps so long, again and again, until it is dropped or [ended](Self::end).
pub struct Sleeper {
    stop: Arc<AtomicBool>,
    handle: Option<JoinHandle<Result<u64>>>,
}

impl Sleeper {
    /// Starts it on the last CPU that this process may use.
    pub fn start(time: Duration) -> Result<Self> {
        let cpus = allowed_cpus()?;
        ensure!(cpus.len() > 1, "a sleeper needs a CPU besides those of the load, and there is one only");
        let last = cpus[cpus.len() - 1];
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let sleep = move || -> Result<u64> {
            let mut set = CpuSet::new();
            set.set(last);
            sched_setaffinity(None, &set).with_context(|| format!("pinning the sleeper to CPU {last}"))?;
            let mut sleeps = 0;
            while !stopped.load(Ordering::Relaxed) {
                std::thread::sleep(time);
                sleeps += 1;
            }
            Ok(sleeps)
        };
        let handle = std::thread::Builder::new()
            .name("sleeper".into())
            .spawn(sleep)
            .context("starting the sleeper")?;
        Ok(Self { stop, handle: Some(handle) })
    }

    /// Ends it after its current sleep; how often it woke.
    pub fn end(mut self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let handle = self.handle.take().context("the sleeper was ended twice")?;
        handle.join().map_err(|_| anyhow!("the sleeper panicked"))?
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_sleeps_until_it_is_ended() {
        if allowed_cpus().unwrap().len() < 2 {
            assert!(Sleeper::start(Duration::from_millis(1)).err().unwrap().to_string().contains("one only"));
            return;
        }
        let sleeper = Sleeper::start(Duration::from_millis(1)).unwrap();
        std::thread::sleep(Duration::from_millis(30));
        assert!(sleeper.end().unwrap() >= 2);
    }
}
