//! Phase of the scheduler's tick on `CLOCK_MONOTONIC`.
//!
//! A quantum under `SCHED_RR` ends at a tick, so its end can be published only if it is known when ticks
//! come. Two real-time threads on one CPU with quanta of one tick are switched at every tick; the publisher
//! records when.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use ispin_agent::bpf::publisher::PublisherMaps;
use ispin_common::threads::{MAX_ROWS, MAX_VMS, Phase, SwitchRing, Word};

use super::machine::Machine;
use super::scheduling::{Policy, VCPU_PRIORITY, bind, set_policy, thread_id};
use crate::vcpu::monotonic_ns;

/// The scheduler's tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tick {
    /// Length, ns.
    pub ns: u64,
    /// `CLOCK_MONOTONIC` modulo `ns` at a tick.
    pub phase_ns: u64,
}

/// How long the two threads run.
const RUN: Duration = Duration::from_millis(120);
/// Switches that count as one tick's: the handler's own time, a disturbed one left out.
const CLUSTER_NS: u64 = 50_000;
/// Taken off the earliest switch: the tick's handler runs before it, now quicker, now slower. A phase that is
/// a little early only makes quanta look a little shorter; a late one misses the tick that has just come and
/// makes them look shorter by a whole tick.
const HANDLER_NS: u64 = 30_000;

/// Since Linux 6.4 ticks come at multiples of their length (kernel/time/tick-common.c): switches this soon after
/// one mean that this kernel does so.
const ALIGNED_NS: u64 = 100_000;

/// Length of a tick: the resolution of the coarse clock (kernel/time/posix-timers.c).
pub fn tick_length() -> Result<u64> {
    let t = rustix::time::clock_getres(rustix::time::ClockId::MonotonicCoarse);
    let ns = t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64;
    if !(100_000..=100_000_000).contains(&ns) {
        bail!("the coarse clock's resolution is {ns} ns, which is no scheduler tick");
    }
    Ok(ns)
}

/// Measures the phase; on a machine that is too busy for one measurement, up to `attempts` times.
pub fn tick_within(
    attempts: u32,
    machine: &mut Machine,
    maps: &mut PublisherMaps,
    cpu: usize,
) -> Result<Tick> {
    let mut attempt = 1;
    loop {
        match tick(machine, maps, cpu) {
            Err(error) if attempt < attempts => log::info!("attempt {attempt} to find the tick: {error:#}"),
            outcome => return outcome,
        }
        attempt += 1;
    }
}

/// Measures the phase with the publisher attached, on `cpu`.
fn tick(machine: &mut Machine, maps: &mut PublisherMaps, cpu: usize) -> Result<Tick> {
    let ns = tick_length()?;
    machine.set_quantum_ms(1)?;
    let stop = AtomicBool::new(false);
    let rows = [MAX_ROWS - 1, MAX_ROWS - 2];
    for (slot, row) in rows.iter().enumerate() {
        let kernel = maps.kernel_rows.get(*row as usize).ok_or_else(|| anyhow!("no kernel row {row}"))?;
        // SAFETY: a mapped row that no registered thread uses yet.
        unsafe {
            (*kernel).vm = MAX_VMS - 1;
            (*kernel).slot = slot as u32;
            (*kernel).registered = 1;
        }
    }
    std::thread::scope(|scope| -> Result<()> {
        let mut spinners = vec![];
        for row in rows {
            let vcpu = maps.rows.get(row as usize).ok_or_else(|| anyhow!("no row {row}"))? as usize;
            let (tid_out, tid_in) = std::sync::mpsc::channel();
            let stop = &stop;
            let spinner = scope.spawn(move || -> Result<()> {
                bind(&[cpu])?;
                set_policy(Policy::RoundRobin, VCPU_PRIORITY)?;
                tid_out.send(thread_id()).context("the calibration was given up")?;
                std::thread::sleep(Duration::from_millis(5));
                let word = vcpu as *mut u64;
                let mut seq = 0u32;
                let end = monotonic_ns() + RUN.as_nanos() as u64;
                while !stop.load(Ordering::Relaxed) && monotonic_ns() < end {
                    seq = seq.wrapping_add(1);
                    // SAFETY: the word is the first member of this thread's own mapped row.
                    unsafe { word.write_volatile(Word::new(Phase::Holding, 0, 0, seq).0) };
                }
                Ok(())
            });
            match tid_in.recv_timeout(Duration::from_secs(5)) {
                Ok(tid) => maps.register(tid, row)?,
                Err(_) => {
                    stop.store(true, Ordering::Relaxed);
                    return match spinner.join() {
                        Ok(outcome) => outcome.and_then(|()| bail!("a calibration thread did not start")),
                        Err(_) => bail!("a calibration thread panicked"),
                    };
                }
            }
            spinners.push(spinner);
        }
        for spinner in spinners {
            spinner.join().map_err(|_| anyhow!("a calibration thread panicked"))??;
        }
        Ok(())
    })?;

    let ring = maps.switch_rings.get(cpu).ok_or_else(|| anyhow!("no switch ring for CPU {cpu}"))?;
    let mut ends = vec![];
    // SAFETY: a mapped ring of which this process is the only consumer.
    while let Some(switch) = unsafe { SwitchRing::pop(ring) } {
        ends.push(switch.real_end % ns);
    }
    let phase_ns = phase_of(&mut ends, ns).ok_or_else(|| {
        anyhow!("{} switches in {RUN:?} show no tick of {ns} ns: is the machine overloaded?", ends.len())
    })?;
    for row in rows {
        if let Some(kernel) = maps.kernel_rows.get(row as usize) {
            // SAFETY: as above; both threads have ended.
            unsafe { (*kernel).registered = 0 };
        }
    }
    Ok(Tick { ns, phase_ns })
}

/// Earliest switch of the densest cluster, less the time that the tick's handler takes at the least.
fn phase_of(ends: &mut [u64], tick: u64) -> Option<u64> {
    ends.sort_unstable();
    let around = |begin: u64| ends.iter().filter(|&&e| (e + tick - begin) % tick < CLUSTER_NS).count();
    let (count, begin) =
        ends.iter().map(|&e| (around(e), e)).max_by_key(|&(count, e)| (count, u64::MAX - e))?;
    let phase = || if begin < ALIGNED_NS { 0 } else { begin - HANDLER_NS };
    (count >= 5 && count * 2 > ends.len()).then(phase)
}

/// Whether this kernel lets the quantum be changed, for `check`-like messages.
pub fn quantum_setting() -> &'static Path {
    Path::new("/proc/sys/kernel/sched_rr_timeslice_ms")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: u64 = 4_000_000;

    #[test]
    fn the_phase_is_the_beginning_of_the_densest_cluster() {
        let mut ends: Vec<u64> = (0..20).map(|i| 1_000_000 + i * 500).collect();
        ends.extend([5, 3_000_000, 2_222_222]);
        assert_eq!(phase_of(&mut ends, TICK), Some(1_000_000 - HANDLER_NS));
    }

    #[test]
    fn a_cluster_around_zero_is_one() {
        let mut ends: Vec<u64> = (0..10).map(|i| (TICK - 5_000 + i * 1_000) % TICK).collect();
        assert_eq!(phase_of(&mut ends, TICK), Some(TICK - 5_000 - HANDLER_NS));
    }

    #[test]
    fn aligned_ticks_have_no_phase() {
        let mut ends: Vec<u64> = (0..20).map(|i| 22_000 + i * 700).collect();
        assert_eq!(phase_of(&mut ends, TICK), Some(0));
    }

    #[test]
    fn noise_has_no_phase() {
        assert_eq!(phase_of(&mut [], TICK), None);
        let mut ends: Vec<u64> = (0..40).map(|i| i * 100_000).collect();
        assert_eq!(phase_of(&mut ends, TICK), None);
    }
}
