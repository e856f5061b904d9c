//! The guest world: this kernel's own spinlocks, observed through the tracepoints of the guest patches.

mod names;
mod snapshot;

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow};

use self::names::{KALLSYMS, Names};
use self::snapshot::{Guest, Reading};
use super::Source;
use crate::bpf::guest::GuestPrograms;
use crate::clock::now_ns;
use crate::model::{Snapshot, Source as SourceInfo};

/// Where the patched kernel shows how its lock is set up: `mode` (`ticket`, `hvm`, `pv`) and `csd`.
const PARAMETERS: &str = "/sys/module/ispinlock/parameters";

/// Observes this kernel.
pub struct GuestSource {
    programs: GuestPrograms,
    guest: Guest,
    ids: Vec<u32>,
    seq: u64,
    since_ns: u64,
}

impl GuestSource {
    /// Loads the programs and attaches them to the tracepoints.
    pub fn open() -> Result<Self> {
        let mut programs = GuestPrograms::load()?;
        programs.attach()?;
        Self::over(programs)
    }

    /// Observes what `programs` count, attached or fed by hand.
    pub fn over(programs: GuestPrograms) -> Result<Self> {
        let vm = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let vcpus = aya::util::online_cpus().map_err(|(what, e)| anyhow!("{what}: {e}"))?;
        let names = Names::read(Path::new(KALLSYMS))?;
        if names.is_empty() {
            log::warn!(
                "{KALLSYMS} hides addresses (kernel.kptr_restrict): locks and callers are shown by address"
            );
        }
        let ids = programs.ids()?;
        Ok(Self { programs, guest: Guest { vm, vcpus, names }, ids, seq: 0, since_ns: now_ns() })
    }
}

impl Source for GuestSource {
    fn kind(&self) -> &'static str {
        "guest"
    }

    fn sample(&mut self) -> Result<Snapshot> {
        // Incidents first: counters read after them cannot be behind them.
        let incidents = self.programs.take_incidents();
        let reading = Reading {
            incidents,
            lanes: self.programs.lanes()?,
            recursion_misses: self.programs.recursion_misses()?,
            source: source_info(Path::new(PARAMETERS), self.guest.vcpus.len())?,
        };
        let mut snapshot = self.guest.snapshot(&reading);
        self.seq += 1;
        snapshot.seq = self.seq;
        snapshot.elapsed_ns = now_ns().saturating_sub(self.since_ns);
        snapshot.unix_ms =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        Ok(snapshot)
    }

    fn programs(&self) -> Vec<u32> {
        self.ids.clone()
    }
}

/// What is observed. Lock and csd can be changed while the kernel runs.
fn source_info(parameters: &Path, vcpus: usize) -> Result<SourceInfo> {
    let parameter = |name: &str| {
        let path = parameters.join(name);
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).with_context(|| format!("reading {}", path.display())),
        }
    };
    let csd = match parameter("csd")? {
        Some(text) => text.parse().with_context(|| {
            format!("{} holds `{text}`, which is no number", parameters.join("csd").display())
        })?,
        None => 0,
    };
    Ok(SourceInfo {
        kind: "guest".into(),
        lock: parameter("mode")?.unwrap_or_else(|| "unknown".into()),
        time_unit: "tsc".into(),
        csd,
        quantum: 0,
        pcpus: 0,
        workload: format!("this kernel's spinlocks, {vcpus} vCPUs"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_and_csd_come_from_the_kernel() {
        let dir = tempfile::tempdir().unwrap();
        let info = source_info(dir.path(), 2).unwrap();
        assert_eq!((info.lock.as_str(), info.csd), ("unknown", 0));
        std::fs::write(dir.path().join("mode"), "hvm\n").unwrap();
        std::fs::write(dir.path().join("csd"), "16384\n").unwrap();
        let info = source_info(dir.path(), 2).unwrap();
        assert_eq!((info.lock.as_str(), info.csd), ("hvm", 16384));
        std::fs::write(dir.path().join("csd"), "many\n").unwrap();
        let error = format!("{:#}", source_info(dir.path(), 2).unwrap_err());
        assert!(error.contains("csd") && error.contains("`many`"), "{error}");
    }
}
