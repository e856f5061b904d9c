//! The patched kernel's own counts: debugfs, `/sys/kernel/debug/ispinlock`.
//!
//! A line per CPU: `cpu3 takes 17 deferrals 2 ...`, names and numbers in turn. Names that this program does not know
//! are kept like the others. The counts run from boot on; what is shown runs from when observation began.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};

use crate::model::LockStats;

/// Where the kernel shows them.
pub const DEBUGFS: &str = "/sys/kernel/debug/ispinlock";

type PerCpu = BTreeMap<u32, LockStats>;

/// The kernel's counts, less what they were when observation began.
#[derive(Debug, Default)]
pub struct KernelStats {
    folder: PathBuf,
    stats: Option<PerCpu>,
    irqs_off: Option<PerCpu>,
}

/// One reading.
#[derive(Debug, Default)]
pub struct Reading {
    /// Counts of each CPU; `None` if the kernel keeps none or does not show them here.
    pub stats: Option<PerCpu>,
    /// How long deferral kept interrupts off, all CPUs together.
    pub irqs_off: Option<LockStats>,
}

impl KernelStats {
    /// Begins now. Without the files (an older kernel, or debugfs is not mounted) there is nothing to read.
    pub fn begin(folder: &Path) -> Result<Self> {
        let (stats, irqs_off) = (read(&folder.join("stats"))?, read(&folder.join("irqs_off"))?);
        Ok(Self { folder: folder.to_owned(), stats, irqs_off })
    }

    /// What came on top since the beginning.
    pub fn read(&self) -> Result<Reading> {
        let since = |name: &str, earlier: &Option<PerCpu>| -> Result<Option<PerCpu>> {
            let Some(earlier) = earlier else { return Ok(None) };
            let Some(now) = read(&self.folder.join(name))? else { return Ok(None) };
            let zero = LockStats::default();
            let came = |(cpu, now): (u32, LockStats)| (cpu, now.since(earlier.get(&cpu).unwrap_or(&zero)));
            Ok(Some(now.into_iter().map(came).collect()))
        };
        let irqs_off = since("irqs_off", &self.irqs_off)?.map(|cpus| {
            let mut sum = LockStats::default();
            cpus.values().for_each(|cpu| sum.merge(cpu));
            sum
        });
        Ok(Reading { stats: since("stats", &self.stats)?, irqs_off })
    }
}

fn read(path: &Path) -> Result<Option<PerCpu>> {
    match std::fs::read_to_string(path) {
        Ok(text) => parse(&text).with_context(|| path.display().to_string()).map(Some),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => Ok(None),
        Err(e) => Err(e).with_context(|| format!("reading {}", path.display())),
    }
}

fn parse(text: &str) -> Result<PerCpu> {
    let mut all = PerCpu::new();
    for (line, number) in text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty()) {
        let mut words = line.split_ascii_whitespace();
        let cpu = words
            .next()
            .and_then(|word| word.strip_prefix("cpu")?.parse().ok())
            .ok_or_else(|| anyhow!("line {number}: expected `cpuN name number ...`, found `{line}`"))?;
        let stats: &mut LockStats = all.entry(cpu).or_default();
        while let Some(name) = words.next() {
            match words.next().map(str::parse::<u64>) {
                Some(Ok(n)) => *stats.0.entry(name.to_owned()).or_default() += n,
                _ => bail!("line {number}: `{name}` has no number"),
            }
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_begin_with_observation_and_unknown_names_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write("stats", "cpu0 takes 100 deferrals 5 brandnew 1\ncpu2 takes 7 deferrals 0 brandnew 0\n");
        write("irqs_off", "cpu0 10 3 11 1\ncpu2 10 1 11 0\n");
        let begun = KernelStats::begin(dir.path()).unwrap();
        write(
            "stats",
            "cpu0 takes 130 deferrals 6 brandnew 4\ncpu2 takes 9 deferrals 1 brandnew 0\ncpu3 takes 2\n",
        );
        write("irqs_off", "cpu0 10 5 11 1\ncpu2 10 2 11 4\n");
        let reading = begun.read().unwrap();
        let stats = reading.stats.unwrap();
        assert_eq!((stats[&0].get("takes"), stats[&0].get("brandnew")), (Some(30), Some(3)));
        assert_eq!((stats[&2].get("deferrals"), stats[&3].get("takes")), (Some(1), Some(2)));
        let irqs_off = reading.irqs_off.unwrap();
        assert_eq!((irqs_off.get("10"), irqs_off.get("11")), (Some(3), Some(4)));
    }

    #[test]
    fn a_kernel_without_them_has_none() {
        let dir = tempfile::tempdir().unwrap();
        let reading = KernelStats::begin(dir.path()).unwrap().read().unwrap();
        assert!(reading.stats.is_none() && reading.irqs_off.is_none());
    }

    #[test]
    fn another_format_is_an_error() {
        for (text, what) in [
            ("takes 5\n", "line 1"),
            ("cpu0 takes 5\ncpu1 takes\n", "line 2: `takes`"),
            ("cpu0 takes x", "`takes`"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }
}
