//! What keeps a vCPU thread from running although nothing preempts it: interrupts, and the hypervisor that the machine
//! itself may run under.
//!
//! Real-time threads spin, one on each pCPU, and look at two clocks: `CLOCK_MONOTONIC` goes on whatever happens, the
//! thread's CPU time stands still while the machine's own hypervisor has the pCPU (steal time, kernel/sched/core.c,
//! `update_rq_clock_task`). No informed lock can foresee such a gap, and one that covers the end of a holder's quantum
//! seeds a convoy.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use crate::threads::options::{DEFAULT_HOST_EVERY_MS, DEFAULT_HOST_MS};
use crate::threads::scheduling::{Policy, VCPU_PRIORITY, bind, choose_cpus, set_policy};
use crate::vcpu::monotonic_ns;

/// Shortest gap that is looked at, ns: below lies what the loop itself takes.
const SHORTEST_NS: u64 = 20_000;
/// Lower bounds of the classes of gaps, ns.
const CLASSES: [u64; 7] = [SHORTEST_NS, 50_000, 100_000, 200_000, 500_000, 1_000_000, 4_000_000];
/// The machine's other work gets its share as in the threads world's host windows, so that the fair server has no
/// reason to step in.
const SHARE: Duration = Duration::from_millis(DEFAULT_HOST_MS as u64);
/// How long a thread spins between two shares.
const SPIN: Duration = Duration::from_millis((DEFAULT_HOST_EVERY_MS - DEFAULT_HOST_MS) as u64);
/// Gaps kept per pCPU; what comes after them is counted.
const MOST_GAPS: usize = 1 << 20;

/// A stretch of time in which a spinning thread did not come round. Times in ns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Its length.
    pub wall: u64,
    /// CPU time that the thread was accounted in it.
    pub cpu: u64,
    /// The kernel gave the pCPU to another thread meanwhile.
    pub switched: bool,
}

impl Gap {
    /// Time that was neither the thread's nor given to another thread here: the machine's hypervisor had the pCPU.
    pub fn stolen(&self) -> u64 {
        if self.switched { 0 } else { self.wall.saturating_sub(self.cpu) }
    }
}

/// Gaps of one class, per second and pCPU.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Class {
    /// Shortest gap of the class, ns.
    pub from_ns: u64,
    /// Gaps.
    pub per_s: f64,
    /// Their length, microseconds.
    pub us_per_s: f64,
    /// Of it: stolen by the machine's hypervisor.
    pub stolen_us_per_s: f64,
    /// Gaps in which another thread ran.
    pub switched_per_s: f64,
}

/// What a measurement found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Noise {
    /// pCPUs measured.
    pub pcpus: usize,
    /// Seconds of spinning, all pCPUs together.
    pub cpu_seconds: f64,
    /// Gaps that found no room: in neither the classes nor the forecast.
    pub dropped: u64,
    /// The gaps by length.
    pub classes: Vec<Class>,
    /// Convoys that gaps should seed each second, for each csd asked for.
    pub forecast: Vec<Forecast>,
}

/// How often a gap should cover the end of a holder's quantum.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Forecast {
    /// Critical section duration estimate, ns.
    pub csd: u64,
    /// Quantum, ms.
    pub slice_ms: u32,
    /// Seeds a second, all pCPUs together.
    pub seeds_per_s: f64,
}

/// What one thread saw.
#[derive(Default)]
struct Seen {
    gaps: Vec<Gap>,
    dropped: u64,
    spun_ns: u64,
}

/// Spins for `seconds` on `pcpus` pCPUs (0 = all), or until `interrupted`, and says what it saw.
pub fn measure(
    pcpus: u32,
    seconds: f64,
    slice_ms: u32,
    csds: &[u64],
    interrupted: &AtomicBool,
) -> Result<Noise> {
    if !(seconds > 0.0 && seconds <= 600.0) {
        bail!("--seconds {seconds}: more than 0 and at most 600");
    }
    if slice_ms == 0 {
        bail!("--slice-ms 0: at least 1");
    }
    let cpus = choose_cpus(pcpus)?;
    let seen = std::thread::scope(|scope| {
        let spinners: Vec<_> =
            cpus.iter().map(|&cpu| scope.spawn(move || spin(cpu, seconds, interrupted))).collect();
        spinners
            .into_iter()
            .map(|s| s.join().map_err(|_| anyhow!("a measuring thread panicked"))?)
            .collect::<Result<Vec<Seen>>>()
    })?;
    let spun_ns: u64 = seen.iter().map(|s| s.spun_ns).sum();
    if spun_ns == 0 {
        bail!("interrupted before anything was measured");
    }
    let dropped = seen.iter().map(|s| s.dropped).sum();
    let gaps: Vec<Gap> = seen.into_iter().flat_map(|s| s.gaps).collect();
    Ok(Noise { dropped, ..summary(&gaps, cpus.len(), spun_ns as f64 / 1e9, slice_ms, csds) })
}

fn spin(cpu: usize, seconds: f64, interrupted: &AtomicBool) -> Result<Seen> {
    bind(&[cpu])?;
    set_policy(Policy::Fifo, VCPU_PRIORITY)?;
    let mut seen = Seen::default();
    let end = monotonic_ns() + (seconds * 1e9) as u64;
    while monotonic_ns() < end && !interrupted.load(Ordering::Relaxed) {
        let begin = monotonic_ns();
        let share = end.min(begin + SPIN.as_nanos() as u64);
        let mut switches = involuntary_switches();
        while monotonic_ns() < share {
            let (wall, cpu_time) = (monotonic_ns(), cpu_time_ns());
            for _ in 0..100 {
                std::hint::spin_loop();
            }
            let gap = monotonic_ns() - wall;
            if gap < SHORTEST_NS {
                continue;
            }
            if seen.gaps.len() == MOST_GAPS {
                seen.dropped += 1;
                continue;
            }
            let now = involuntary_switches();
            seen.gaps.push(Gap { wall: gap, cpu: cpu_time_ns() - cpu_time, switched: now != switches });
            switches = now;
        }
        seen.spun_ns += monotonic_ns() - begin;
        std::thread::sleep(SHARE);
    }
    Ok(seen)
}

fn cpu_time_ns() -> u64 {
    let t = clock_gettime(ClockId::ThreadCPUTime);
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

fn involuntary_switches() -> i64 {
    // SAFETY: a structure of integers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: a valid structure; RUSAGE_THREAD cannot fail. rustix has no call for it.
    unsafe { libc::getrusage(libc::RUSAGE_THREAD, &mut usage) };
    usage.ru_nivcsw
}

/// Gaps in classes, and the forecast. With one vCPU before it, a holder has at least `2 * csd` left when it takes its
/// ticket. So a gap seeds a convoy if it begins with more than that and less than its own length to go to the end of the
/// quantum.
fn summary(gaps: &[Gap], pcpus: usize, cpu_seconds: f64, slice_ms: u32, csds: &[u64]) -> Noise {
    let upper = |i: usize| CLASSES.get(i + 1).copied().unwrap_or(u64::MAX);
    let classes = CLASSES
        .iter()
        .enumerate()
        .map(|(i, &from_ns)| {
            let of: Vec<&Gap> = gaps.iter().filter(|g| (from_ns..upper(i)).contains(&g.wall)).collect();
            let us = |f: fn(&Gap) -> u64| of.iter().map(|g| f(g)).sum::<u64>() as f64 / 1e3 / cpu_seconds;
            Class {
                from_ns,
                per_s: of.len() as f64 / cpu_seconds,
                us_per_s: us(|g| g.wall),
                stolen_us_per_s: us(Gap::stolen),
                switched_per_s: of.iter().filter(|g| g.switched).count() as f64 / cpu_seconds,
            }
        })
        .collect();
    let forecast = csds
        .iter()
        .map(|&csd| {
            let reach: u64 = gaps.iter().map(|g| g.wall.saturating_sub(2 * csd)).sum();
            let quanta = reach as f64 / (f64::from(slice_ms) * 1e6);
            Forecast { csd, slice_ms, seeds_per_s: quanta / cpu_seconds * pcpus as f64 }
        })
        .collect();
    Noise { pcpus, cpu_seconds, dropped: 0, classes, forecast }
}

/// The measurement as tables for people.
pub fn tables(noise: &Noise) -> String {
    let mut gaps = tabled::builder::Builder::default();
    gaps.push_record(["gap", "per s and pCPU", "us/s", "of it stolen", "with a switch, per s"]);
    for class in &noise.classes {
        gaps.push_record([
            format!("from {} us", class.from_ns / 1000),
            format!("{:.2}", class.per_s),
            format!("{:.0}", class.us_per_s),
            format!("{:.0}", class.stolen_us_per_s),
            format!("{:.2}", class.switched_per_s),
        ]);
    }
    let mut forecast = tabled::builder::Builder::default();
    forecast.push_record(["csd", "quantum", "seeds/s expected"]);
    for f in &noise.forecast {
        forecast.push_record([
            format!("{} ns", f.csd),
            format!("{} ms", f.slice_ms),
            format!("{:.3}", f.seeds_per_s),
        ]);
    }
    let style = tabled::settings::Style::markdown();
    format!(
        "{} pCPUs, {:.1} CPU-seconds of spinning, {} gaps dropped\n\n{}\n\n{}",
        noise.pcpus,
        noise.cpu_seconds,
        noise.dropped,
        gaps.build().with(style.clone()),
        forecast.build().with(style)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gap(wall: u64, cpu: u64, switched: bool) -> Gap {
        Gap { wall, cpu, switched }
    }

    #[test]
    fn time_is_stolen_if_neither_the_thread_nor_another_had_it() {
        assert_eq!(gap(300_000, 60_000, false).stolen(), 240_000);
        assert_eq!(gap(300_000, 60_000, true).stolen(), 0);
        assert_eq!(gap(300_000, 300_500, false).stolen(), 0);
    }

    #[test]
    fn gaps_fall_into_the_class_of_their_length() {
        let noise = summary(&[gap(20_000, 0, false), gap(5_000_000, 0, true)], 1, 2.0, 8, &[]);
        assert_eq!(noise.classes[0].per_s, 0.5);
        assert_eq!(noise.classes[6].per_s, 0.5);
        assert_eq!(noise.classes[6].switched_per_s, 0.5);
        assert_eq!(noise.classes.iter().map(|c| c.per_s).sum::<f64>(), 1.0);
    }

    #[test]
    fn only_what_exceeds_two_critical_sections_seeds() {
        let gaps = [gap(1_800_000, 0, false), gap(100_000, 0, false)];
        let noise = summary(&gaps, 2, 10.0, 8, &[100_000, 1_000_000]);
        // 1.6 ms of an 8 ms quantum in 10 CPU-seconds, on two pCPUs.
        assert!((noise.forecast[0].seeds_per_s - 0.04).abs() < 1e-9);
        assert_eq!(noise.forecast[1].seeds_per_s, 0.0);
    }
}
