//! A thread beside the load that sleeps and wakes: on a vCPU of its own, so that each wake-up makes the hypervisor run that
//! vCPU at once (BOOST in Xen's credit scheduler), before the quantum of the one that runs is over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use rustix::thread::{CpuSet, sched_setaffinity};

use super::team::allowed_cpus;

/// A thread that sleeps so long, again and again, until it is dropped or [ended](Self::end).
pub struct Sleeper {
    shared: Arc<Shared>,
    handle: Option<JoinHandle<Result<()>>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    sleeps: AtomicU64,
}

impl Sleeper {
    /// Starts it on the last CPU that this process may use.
    pub fn start(time: Duration) -> Result<Self> {
        let cpus = allowed_cpus()?;
        ensure!(cpus.len() > 1, "a sleeper needs a CPU besides those of the load, and there is one only");
        let last = cpus[cpus.len() - 1];
        let shared = Arc::new(Shared::default());
        let its = Arc::clone(&shared);
        let sleep = move || -> Result<()> {
            let mut set = CpuSet::new();
            set.set(last);
            sched_setaffinity(None, &set).with_context(|| format!("pinning the sleeper to CPU {last}"))?;
            while !its.stop.load(Ordering::Relaxed) {
                std::thread::sleep(time);
                its.sleeps.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        };
        let handle = std::thread::Builder::new()
            .name("sleeper".into())
            .spawn(sleep)
            .context("starting the sleeper")?;
        Ok(Self { shared, handle: Some(handle) })
    }

    /// Ends it after its current sleep; how often it woke.
    pub fn end(mut self) -> Result<u64> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let handle = self.handle.take().context("the sleeper was ended twice")?;
        handle.join().map_err(|_| anyhow!("the sleeper panicked"))??;
        Ok(self.shared.sleeps.load(Ordering::Relaxed))
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn it_sleeps_until_it_is_ended() {
        if allowed_cpus().unwrap().len() < 2 {
            assert!(Sleeper::start(Duration::from_millis(1)).err().unwrap().to_string().contains("one only"));
            return;
        }
        let sleeper = Sleeper::start(Duration::from_millis(1)).unwrap();
        let begin = Instant::now();
        while sleeper.shared.sleeps.load(Ordering::Relaxed) < 2 {
            assert!(begin.elapsed() < Duration::from_secs(60), "it does not sleep again");
            std::thread::yield_now();
        }
        assert!(sleeper.end().unwrap() >= 2);
    }
}
