//! One run of the threads world, from the start of the publisher to its end.

use std::path::PathBuf;
use std::ptr::{addr_of, addr_of_mut, read_volatile, write_volatile};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use ispin_agent::bpf::publisher::{Publisher, PublisherMaps, RunTime, run_time};
use ispin_agent::session::{ProcessId, VmInfo, World};
use ispin_common::slot::{SlotHeader, TimeUnit};
use ispin_common::threads::{GATE_RUN, GATE_STOP, KernelRow};

use super::calibrate::{self, Tick};
use super::host_windows::HostWindows;
use super::injector::{Asked, Injector, Target};
use super::machine::Machine;
use super::options::RunOptions;
use super::result::RunResult;
use super::scheduling::{HYPERVISOR_PRIORITY, Policy, RealTime, choose_cpus};
use super::stolen::stolen_ms;
use super::totals::Totals;
use super::vm_process::{Started, ThreadResult, VmConfig};
use super::vms::{Vms, timespec};
use crate::healing::{Healing, quiet_quanta};
use crate::vcpu::monotonic_ns;
use crate::workload;

/// How long the hypervisor waits for VMs beyond the run, before it, for an observer to attach, and to detach.
const VM_GRACE: Duration = Duration::from_secs(3);
/// Attempts to find the tick on a busy machine.
const CALIBRATIONS: u32 = 8;
const HEAD_START: Duration = Duration::from_millis(20);
const OBSERVER_ATTACH: Duration = Duration::from_secs(10);
const OBSERVER_DETACH: Duration = Duration::from_secs(3);

/// Plays the hypervisor for one run after the other.
pub struct Hypervisor {
    machine: Machine,
    kernel_btf: PathBuf,
    interrupted: Arc<AtomicBool>,
    wait_for_observer: bool,
    tick: Option<Tick>,
    iterations_per_ns: f64,
    publisher_cost: Option<RunTime>,
}

impl Hypervisor {
    /// Takes the machine. `interrupted` is set by signals and ends a run early. With `wait_for_observer` no
    /// run begins before an observer has attached.
    pub fn new(kernel_btf: PathBuf, interrupted: Arc<AtomicBool>, wait_for_observer: bool) -> Result<Self> {
        let machine = Machine::take()?;
        let iterations_per_ns = workload::calibrate();
        let (tick, publisher_cost) = (None, None);
        Ok(Self {
            machine,
            kernel_btf,
            interrupted,
            wait_for_observer,
            tick,
            iterations_per_ns,
            publisher_cost,
        })
    }

    /// Whether the next runs wait for an observer.
    pub fn wait_for_observer(&mut self, wait: bool) {
        self.wait_for_observer = wait;
    }

    /// What the publisher cost in the latest run, if the kernel's BPF statistics were on.
    pub fn publisher_cost(&self) -> Option<RunTime> {
        self.publisher_cost.filter(|cost| cost.runs > 0)
    }

    /// Runs `lock` under `options`.
    pub fn run(&mut self, lock: &str, options: &RunOptions) -> Result<RunResult> {
        Ok(self.run_with(lock, options, None)?.0)
    }

    /// The same, taking the pCPU from a holder now and then.
    pub fn run_injected(
        &mut self,
        lock: &str,
        options: &RunOptions,
        asked: Asked,
    ) -> Result<(RunResult, Vec<Healing>)> {
        if options.untraced {
            bail!("--untraced: the injector counts what the classifiers find");
        }
        self.run_with(lock, options, Some(asked))
    }

    fn run_with(
        &mut self,
        lock: &str,
        options: &RunOptions,
        inject: Option<Asked>,
    ) -> Result<(RunResult, Vec<Healing>)> {
        options.validate()?;
        let cpus = choose_cpus(options.pcpus)?;
        let mut publisher = Publisher::load(&self.kernel_btf)?;
        let tick = match self.tick {
            Some(tick) => tick,
            None => {
                let tick =
                    calibrate::tick_within(CALIBRATIONS, &mut self.machine, &mut publisher.maps, cpus[0])?;
                log::debug!("tick {} ns, phase {} ns", tick.ns, tick.phase_ns);
                *self.tick.insert(tick)
            }
        };
        self.machine.set_quantum_ms(options.slice_ms)?;
        let control = publisher.maps.control()?;
        // SAFETY: mapped; nobody else uses this publisher yet.
        unsafe {
            write_volatile(addr_of_mut!((*control).tick_ns), tick.ns);
            write_volatile(addr_of_mut!((*control).tick_phase_ns), tick.phase_ns);
            let quantum_ticks = (u64::from(options.slice_ms) * 1_000_000).div_ceil(tick.ns);
            write_volatile(addr_of_mut!((*control).quantum_ticks), quantum_ticks);
            write_volatile(addr_of_mut!((*control).tracing), u32::from(!options.untraced));
            let ms = |ms: u32| u64::from(ms) * 1_000_000;
            write_volatile(addr_of_mut!((*control).host_window_len_ns), ms(options.host_ms));
            write_volatile(addr_of_mut!((*control).host_window_every_ns), ms(options.host_every_ms));
        }
        let mut vms = Vms::default();
        for vm in 0..options.vms {
            vms.start(self.config_of(lock, options, vm, &cpus, &publisher)?)?;
        }
        self.announce(lock, options, &cpus, &publisher, &vms)?;
        let outcome = self.run_announced(lock, options, &mut publisher, vms, &cpus, inject);
        self.publisher_cost = Some(run_time(&publisher.fdinfo_path()?)?);
        // SAFETY: mapped.
        unsafe { write_volatile(addr_of_mut!((*control).gate), GATE_STOP) };
        self.wait_for_detach(control);
        self.machine.session().world = None;
        self.machine.session().save()?;
        outcome
    }

    fn config_of(
        &self,
        lock: &str,
        options: &RunOptions,
        vm: u32,
        cpus: &[usize],
        publisher: &Publisher,
    ) -> Result<VmConfig> {
        let first_row = vm * options.vcpus;
        let page = publisher.maps.slot_pages.get(vm as usize).ok_or_else(|| anyhow!("no slot page {vm}"))?;
        // SAFETY: mapped; no VM uses it yet. The header is written when the VM is created.
        unsafe {
            write_volatile(
                addr_of_mut!((*page).header),
                SlotHeader::new(options.vcpus, TimeUnit::MonotonicNs),
            );
        }
        for vcpu in 0..options.vcpus {
            let row = (first_row + vcpu) as usize;
            let kernel = publisher.maps.kernel_rows.get(row).ok_or_else(|| anyhow!("no kernel row {row}"))?;
            let fresh = KernelRow { vm, slot: vcpu, registered: 1, ..KernelRow::default() };
            // SAFETY: mapped; no thread is registered for it yet.
            unsafe { write_volatile(kernel, fresh) };
        }
        Ok(VmConfig {
            lock: lock.to_string(),
            options: options.clone(),
            page: vm,
            first_row,
            cpus: (0..options.vcpus).map(|v| cpus[(first_row + v) as usize % cpus.len()]).collect(),
            iterations_per_ns: self.iterations_per_ns,
            maps: publisher.map_ids(),
        })
    }

    fn announce(
        &mut self,
        lock: &str,
        options: &RunOptions,
        cpus: &[usize],
        publisher: &Publisher,
        vms: &Vms,
    ) -> Result<()> {
        let mut infos = vec![];
        for (i, vm) in vms.running.iter().enumerate() {
            let first = i as u32 * options.vcpus;
            infos.push(VmInfo {
                name: format!("vm{i}"),
                page: i as u32,
                rows: (first..first + options.vcpus).collect(),
                process: Some(ProcessId::of(vm.pid())?),
            });
        }
        let session = self.machine.session();
        session.number += 1;
        session.world = Some(World {
            lock: lock.to_string(),
            lock_names: vec!["micro".into()],
            caller_names: vec!["micro".into()],
            csd_ns: options.csd_for(lock),
            quantum_ns: u64::from(options.slice_ms) * 1_000_000,
            pcpus: cpus.to_vec(),
            workload: options.workload(),
            vms: infos,
            maps: publisher.map_ids(),
            publisher_fdinfo: publisher.fdinfo_path()?,
            publisher_id: publisher.program_id()?,
        });
        session.save()
    }

    fn run_announced(
        &self,
        lock: &str,
        options: &RunOptions,
        publisher: &mut Publisher,
        mut vms: Vms,
        cpus: &[usize],
        inject: Option<Asked>,
    ) -> Result<(RunResult, Vec<Healing>)> {
        let mut targets = vec![];
        for vm in &mut vms.running {
            let started: Started = vm.read_answer()?;
            for (i, tid) in started.tids.iter().enumerate() {
                let row = vm.first_row + i as u32;
                publisher.maps.register(*tid, row)?;
                targets.push(Target { tid: *tid, row, cpu: cpus[row as usize % cpus.len()], dropped: 0 });
            }
        }
        let control = publisher.maps.control()?;
        if self.wait_for_observer {
            self.wait_for_attach(control)?;
        }
        let urgent = RealTime::begin(Policy::Fifo, HYPERVISOR_PRIORITY)?;
        // Dropped before `urgent`, whatever fails: real-time vCPUs that still run would not let a normal thread end them.
        let mut vms = vms;
        let before = Totals::read(publisher, options)?;
        let stolen_before = stolen_ms(cpus)?;
        // Announced ahead, so that an observer that has just attached aligns itself before the vCPUs run.
        let begin = monotonic_ns() + HEAD_START.as_nanos() as u64;
        let end = begin + options.duration().as_nanos() as u64;
        let window = HostWindows::new(options, begin, end);
        // SAFETY: mapped.
        unsafe {
            write_volatile(addr_of_mut!((*control).host_window_ns), window.next);
            write_volatile(addr_of_mut!((*control).started_ns), begin);
            write_volatile(addr_of_mut!((*control).ends_ns), end);
            write_volatile(addr_of_mut!((*control).gate), GATE_RUN);
        }
        sleep_until(begin);
        vms.go()?;
        let mut injector = inject.map(|asked| {
            let quantum = u64::from(options.slice_ms) * 1_000_000;
            let vcpus = u64::from(options.vms * options.vcpus);
            Injector::new(asked, quantum, quiet_quanta(vcpus, cpus.len() as u64), begin, targets)
        });
        let ran = self.supervise(control, &mut vms, window, end, injector.as_mut(), &publisher.maps);
        let after = Totals::read(publisher, options)?;
        let stolen_ms = stolen_ms(cpus)?.saturating_sub(stolen_before);
        let over = monotonic_ns().min(end);
        let finished = ran.and_then(|()| vms.finish());
        let threads = finished?;
        urgent.end()?;
        let seconds = measured_seconds(options, begin, over, &threads);
        let counted = after.since(&before).result(lock, options, cpus.len(), seconds, &threads);
        let result = RunResult { stolen_ms, ..counted };
        Ok((result, injector.map_or_else(Vec::new, |injector| injector.healings)))
    }

    /// Pauses the VMs in every host window until the run ends. Asleep in between: the vCPUs, which come after this thread, lose none
    /// of their pCPUs' time to it.
    fn supervise(
        &self,
        control: *mut ispin_common::threads::Control,
        vms: &mut Vms,
        mut window: HostWindows,
        end: u64,
        mut injector: Option<&mut Injector>,
        maps: &PublisherMaps,
    ) -> Result<()> {
        let give_up = end + VM_GRACE.as_nanos() as u64;
        loop {
            let now = monotonic_ns();
            if let Some(injector) = &mut injector {
                if now < end {
                    injector.step(now, maps, &window)?;
                } else {
                    // A holder that was taken off comes back, or nobody gets to the end.
                    injector.give_up()?;
                }
            }
            if self.interrupted.load(Ordering::Relaxed) {
                // SAFETY: mapped; the vCPU threads look at it before every operation.
                unsafe { write_volatile(addr_of_mut!((*control).ends_ns), now) };
                sleep_until(now + 50_000_000);
                bail!("interrupted");
            }
            if vms.all_ended()? {
                return Ok(());
            }
            if now > give_up {
                bail!("the VMs did not end within {VM_GRACE:?} after the run");
            }
            if window.next != 0 && now >= window.next {
                vms.pause();
                let over = window.next + window.length;
                window.advance(over);
                sleep_until(over);
                // The next window is known before any vCPU is given a quantum again.
                // SAFETY: mapped.
                unsafe { write_volatile(addr_of_mut!((*control).host_window_ns), window.next) };
                vms.resume();
                continue;
            }
            let mut wake = if now < end { end } else { now + 2_000_000 };
            if window.next != 0 {
                wake = wake.min(window.next);
            }
            if let Some(injector) = injector.as_ref().filter(|_| now < end) {
                wake = wake.min(injector.next());
            }
            vms.wait_for_an_end(wake)?;
        }
    }

    fn wait_for_attach(&self, control: *mut ispin_common::threads::Control) -> Result<()> {
        let give_up = monotonic_ns() + OBSERVER_ATTACH.as_nanos() as u64;
        // SAFETY: mapped.
        while unsafe { read_volatile(addr_of!((*control).observer_pid)) } == 0 {
            if self.interrupted.load(Ordering::Relaxed) {
                bail!("interrupted");
            }
            if monotonic_ns() > give_up {
                bail!(
                    "no observer attached within {OBSERVER_ATTACH:?}; start without --wait-for-observer to run alone"
                );
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Gives the observer time to read the final totals before the maps go away.
    fn wait_for_detach(&self, control: *mut ispin_common::threads::Control) {
        let give_up = monotonic_ns() + OBSERVER_DETACH.as_nanos() as u64;
        loop {
            // SAFETY: mapped.
            let pid = unsafe { read_volatile(addr_of!((*control).observer_pid)) };
            let gone = pid == 0 || ProcessId::of(pid as i32).is_err();
            if gone || monotonic_ns() > give_up {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// How long a run was that began at `begin` and was over at `over` at the latest. Threads with a number of accesses end it with the
/// last of them; what came after, a host window perhaps, is no part of it.
fn measured_seconds(options: &RunOptions, begin: u64, over: u64, threads: &[Vec<ThreadResult>]) -> f64 {
    let last = threads.iter().flatten().map(|thread| thread.ended_ns).max();
    let over = last.filter(|_| options.accesses > 0).map_or(over, |last| last.min(over));
    over.saturating_sub(begin) as f64 / 1e9
}

fn sleep_until(ns: u64) {
    let at = timespec(ns);
    // An interrupted sleep is as good: the caller looks at the clock and at the signal flag.
    let _ = rustix::thread::clock_nanosleep_absolute(rustix::thread::ClockId::Monotonic, &at);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_work_ends_a_run_with_its_last_access() {
        let ended = |ended_ns| ThreadResult { operations: 10, elapsed_ns: 1, ended_ns };
        let threads = [vec![ended(1_020_000_000), ended(1_030_000_000)], vec![ended(1_025_000_000)]];
        let seconds = |accesses, over| {
            let options = RunOptions { accesses, ..RunOptions::default() };
            measured_seconds(&options, 1_000_000_000, over, &threads)
        };
        assert_eq!(seconds(10, 1_100_000_000), 0.03);
        // As many as fit the time: to its end.
        assert_eq!(seconds(0, 1_100_000_000), 0.1);
        // The time ended it before the work was done: an access that was begun does not count for time.
        assert_eq!(seconds(10, 1_020_000_000), 0.02);
    }
}
