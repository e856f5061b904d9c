//! How much time the vCPUs had, in cycles of the guest's TSC.
//!
//! The TSC is read here as the patched kernel reads it for its events: one counter, the same on all vCPUs. A guest
//! cannot see itself being off its pCPU; what the hypervisor withheld is told by the kernel's steal time, and what the
//! vCPU did not want by its idle time, both in `/proc/stat` and exact to a clock tick (10 ms) over the whole time.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, anyhow};

use crate::clock::now_ns;

/// Where the kernel shows where the CPUs' time went.
pub const STAT: &str = "/proc/stat";

/// Time of one vCPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Had {
    /// All that it had: what was stolen is taken out.
    pub total: u64,
    /// Of it, what it used: idle time is taken out too.
    pub used: u64,
}

/// The vCPUs' time since observation began.
#[derive(Debug, Default)]
pub struct Cycles {
    vcpus: BTreeMap<u32, Vcpu>,
}

/// One vCPU.
#[derive(Debug, Default)]
struct Vcpu {
    /// Since when it is online; `None` = it is not.
    since: Option<Moment>,
    /// Of the times before that it was online.
    before: Had,
    /// Shown last; what is shown never goes back.
    had: Had,
}

/// A vCPU's clocks at one moment.
#[derive(Clone, Copy, Debug)]
struct Moment {
    tsc: u64,
    ns: u64,
    idle_ns: u64,
    stolen_ns: u64,
}

impl Cycles {
    /// Begins now.
    pub fn begin() -> Result<Self> {
        let mut cycles = Self::default();
        cycles.read()?;
        Ok(cycles)
    }

    /// What every vCPU that was online at any sample had since then.
    pub fn read(&mut self) -> Result<BTreeMap<u32, Had>> {
        let text = std::fs::read_to_string(STAT).with_context(|| format!("reading {STAT}"))?;
        let tick_ns = 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1);
        let (tsc, ns) = (tsc()?, now_ns());
        let moments = parse(&text, tick_ns)
            .with_context(|| Path::new(STAT).display().to_string())?
            .into_iter()
            .map(|(cpu, (idle_ns, stolen_ns))| (cpu, Moment { tsc, ns, idle_ns, stolen_ns }));
        Ok(self.advance(moments.collect()))
    }

    fn advance(&mut self, moments: BTreeMap<u32, Moment>) -> BTreeMap<u32, Had> {
        for (cpu, vcpu) in &mut self.vcpus {
            if vcpu.since.is_some() && !moments.contains_key(cpu) {
                vcpu.since = None;
                vcpu.before = vcpu.had;
            }
        }
        for (cpu, now) in moments {
            let vcpu = self.vcpus.entry(cpu).or_default();
            let since = *vcpu.since.get_or_insert(now);
            let had = since.until(&now);
            vcpu.had.total = vcpu.had.total.max(vcpu.before.total + had.total);
            vcpu.had.used = vcpu.had.used.max(vcpu.before.used + had.used);
        }
        self.vcpus.iter().map(|(cpu, vcpu)| (*cpu, vcpu.had)).collect()
    }
}

impl Moment {
    fn until(&self, now: &Self) -> Had {
        let tsc = now.tsc.saturating_sub(self.tsc);
        let ns = now.ns.saturating_sub(self.ns);
        let cycles = |part: u64| {
            let cycles = u128::from(part.min(ns)) * u128::from(tsc) / u128::from(ns.max(1));
            u64::try_from(cycles).unwrap_or(u64::MAX)
        };
        let total = tsc.saturating_sub(cycles(now.stolen_ns.saturating_sub(self.stolen_ns)));
        Had { total, used: total.saturating_sub(cycles(now.idle_ns.saturating_sub(self.idle_ns))) }
    }
}

/// Idle and stolen time of every CPU that is online, ns.
fn parse(text: &str, tick_ns: u64) -> Result<BTreeMap<u32, (u64, u64)>> {
    let mut cpus = BTreeMap::new();
    for line in text.lines() {
        let mut fields = line.split_ascii_whitespace();
        // The first line is the sum of all and has no number.
        let Some(Ok(cpu)) = fields.next().and_then(|name| name.strip_prefix("cpu")).map(str::parse) else {
            continue;
        };
        let ticks: Vec<u64> = fields.map_while(|field| field.parse().ok()).collect();
        // user nice system idle iowait irq softirq steal ...
        let [_, _, _, idle, iowait, _, _, stolen, ..] = ticks[..] else {
            return Err(anyhow!("expected 8 or more numbers in `{line}`"));
        };
        cpus.insert(cpu, ((idle + iowait) * tick_ns, stolen * tick_ns));
    }
    if cpus.is_empty() {
        return Err(anyhow!("it names no CPU"));
    }
    Ok(cpus)
}

/// The counter with which the kernel stamps its events.
#[cfg(target_arch = "x86_64")]
fn tsc() -> Result<u64> {
    // SAFETY: an instruction that reads a counter. Linux lets processes use it unless they ask not to (prctl
    // PR_SET_TSC), which this one does not.
    Ok(unsafe { core::arch::x86_64::_rdtsc() })
}

#[cfg(not(target_arch = "x86_64"))]
fn tsc() -> Result<u64> {
    Err(anyhow!("the guest source knows the clock of x86-64 only, as the guest patches do"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ns: u64, idle_ns: u64, stolen_ns: u64) -> Moment {
        Moment { tsc: 7 + 3 * ns, ns, idle_ns, stolen_ns }
    }

    fn all(moments: &[(u32, Moment)]) -> BTreeMap<u32, Moment> {
        moments.iter().copied().collect()
    }

    #[test]
    fn stolen_time_is_not_had_and_idle_time_is_not_used() {
        let mut cycles = Cycles::default();
        cycles.advance(all(&[(0, at(1_000, 500, 100)), (1, at(1_000, 0, 0))]));
        let had = cycles.advance(all(&[(0, at(2_000, 700, 200)), (1, at(2_000, 0, 0))]));
        assert_eq!(had[&0], Had { total: 2_700, used: 2_100 });
        assert_eq!(had[&1], Had { total: 3_000, used: 3_000 });
    }

    #[test]
    fn nothing_goes_back_when_a_tick_is_booked_late() {
        let mut cycles = Cycles::default();
        cycles.advance(all(&[(0, at(0, 0, 0))]));
        let before = cycles.advance(all(&[(0, at(1_000, 0, 0))]))[&0];
        let after = cycles.advance(all(&[(0, at(1_010, 500, 0))]))[&0];
        assert_eq!((before.used, after.used), (3_000, 3_000));
        assert_eq!(cycles.advance(all(&[(0, at(3_000, 500, 0))]))[&0].used, 7_500);
    }

    #[test]
    fn a_vcpu_that_is_offline_has_nothing_and_comes_back() {
        let mut cycles = Cycles::default();
        cycles.advance(all(&[(1, at(0, 0, 0))]));
        cycles.advance(all(&[(1, at(1_000, 0, 0))]));
        assert_eq!(cycles.advance(all(&[]))[&1].total, 3_000);
        assert_eq!(cycles.advance(all(&[(1, at(5_000, 0, 0))]))[&1].total, 3_000);
        assert_eq!(cycles.advance(all(&[(1, at(6_000, 0, 0))]))[&1].total, 6_000);
    }

    #[test]
    fn the_kernels_format() {
        let text =
            "cpu  10 0 0 0 0 0 0 0 0 0\ncpu0 1 2 3 40 5 6 7 8 9 10\ncpu3 0 0 0 1 0 0 0 0 0 0\nintr 5\n";
        assert_eq!(parse(text, 10).unwrap(), BTreeMap::from([(0, (450, 80)), (3, (10, 0))]));
        assert!(parse("intr 5\n", 10).is_err());
        assert!(parse("cpu0 1 2 3\n", 10).unwrap_err().to_string().contains("`cpu0 1 2 3`"));
    }

    #[test]
    fn this_machine() {
        let mut cycles = Cycles::begin().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(30));
        let had = cycles.read().unwrap();
        assert!(!had.is_empty() && had.values().all(|had| had.used <= had.total));
        assert!(had.values().any(|had| had.total > 1_000_000));
    }
}
