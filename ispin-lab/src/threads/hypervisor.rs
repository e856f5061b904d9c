//! One run of the threads world: publisher, VM processes, barrier, host windows, end.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::ptr::{addr_of, addr_of_mut, read_volatile, write_volatile};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use ispin_agent::bpf::publisher::{Publisher, RunTime, run_time};
use ispin_agent::session::{ProcessId, VmInfo, World};
use ispin_common::counters::Counters;
use ispin_common::slot::{Ids, SlotHeader, TimeUnit};
use ispin_common::threads::{GATE_RUN, GATE_STOP, KernelRow};
use rustix::process::{Pid, Signal, kill_process};

use super::calibrate::{self, Tick};
use super::machine::Machine;
use super::options::RunOptions;
use super::result::{RunResult, mean_and_sd};
use super::scheduling::{HYPERVISOR_PRIORITY, Policy, choose_cpus, set_policy};
use super::vm_process::{Finished, Started, ThreadResult, VmConfig};
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
        let outcome = self.run_announced(lock, options, &mut publisher, &mut vms, cpus.len());
        self.publisher_cost = Some(run_time(&publisher.fdinfo_path()?)?);
        // SAFETY: mapped.
        unsafe { write_volatile(addr_of_mut!((*control).gate), GATE_STOP) };
        drop(vms);
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
                process: Some(ProcessId::of(vm.child.id() as i32)?),
            });
        }
        let session = self.machine.session();
        session.number += 1;
        session.world = Some(World {
            lock: lock.to_string(),
            lock_names: vec!["micro".into()],
            caller_names: vec!["micro".into()],
            csd_ns: options.csd,
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
        vms: &mut Vms,
        pcpus: usize,
    ) -> Result<RunResult> {
        for vm in &mut vms.running {
            let started: Started = vm.read_answer()?;
            for (i, tid) in started.tids.iter().enumerate() {
                publisher.maps.register(*tid, vm.first_row + i as u32)?;
            }
        }
        let control = publisher.maps.control()?;
        if self.wait_for_observer {
            self.wait_for_attach(control)?;
        }
        set_policy(Policy::Fifo, HYPERVISOR_PRIORITY)?;
        let before = Totals::read(publisher, options)?;
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
        let ran = self.supervise(control, vms, window, end);
        let after = Totals::read(publisher, options)?;
        let elapsed = monotonic_ns().min(end).saturating_sub(begin) as f64 / 1e9;
        let finished = ran.and_then(|()| vms.finish());
        set_policy(Policy::Normal, 0)?;
        let threads = finished?;
        Ok(after.since(&before).result(lock, options, pcpus, elapsed, &threads))
    }

    /// Pauses the VMs in every host window until the run ends.
    fn supervise(
        &self,
        control: *mut ispin_common::threads::Control,
        vms: &mut Vms,
        mut window: HostWindows,
        end: u64,
    ) -> Result<()> {
        let give_up = end + VM_GRACE.as_nanos() as u64;
        loop {
            let now = monotonic_ns();
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
            sleep_until(wake);
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

/// When the host's windows begin.
struct HostWindows {
    /// Begin of the next one, `CLOCK_MONOTONIC` ns; 0 = none.
    next: u64,
    every: u64,
    length: u64,
    /// End of the run.
    end: u64,
}

impl HostWindows {
    fn new(options: &RunOptions, begin: u64, end: u64) -> Self {
        let every = u64::from(options.host_every_ms) * 1_000_000;
        let mut windows = Self { next: begin, every, length: u64::from(options.host_ms) * 1_000_000, end };
        windows.advance(begin);
        windows
    }

    /// To the first window after `now` that is over before the run is.
    fn advance(&mut self, now: u64) {
        while self.next <= now && self.every != 0 {
            self.next += self.every;
        }
        if self.every == 0 || self.next + self.length > self.end {
            self.next = 0;
            self.every = 0;
        }
    }
}

fn sleep_until(ns: u64) {
    let at =
        rustix::time::Timespec { tv_sec: (ns / 1_000_000_000) as i64, tv_nsec: (ns % 1_000_000_000) as i64 };
    // An interrupted sleep is as good: the caller looks at the clock and at the signal flag.
    let _ = rustix::thread::clock_nanosleep_absolute(rustix::thread::ClockId::Monotonic, &at);
}

/// The VM processes of a run. Dropping ends them.
#[derive(Default)]
struct Vms {
    running: Vec<Vm>,
}

struct Vm {
    child: Child,
    stdin: ChildStdin,
    answers: BufReader<ChildStdout>,
    first_row: u32,
}

impl Vm {
    fn read_answer<T: serde::de::DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = String::new();
        self.answers.read_line(&mut line).context("reading a VM's answer")?;
        if line.is_empty() {
            let status = self.child.wait().context("waiting for a VM")?;
            bail!("a VM ended with {status} before it answered; its message is above");
        }
        serde_json::from_str(&line).with_context(|| format!("a VM answered `{}`", line.trim()))
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.child.id() as i32) {
            // A VM that has just ended cannot be signalled; its end is seen elsewhere.
            let _ = kill_process(pid, signal);
        }
    }
}

impl Vms {
    fn start(&mut self, config: VmConfig) -> Result<()> {
        let program = std::env::current_exe().context("finding this program's own file")?;
        let mut child = Command::new(program)
            .arg("vm-process")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting a VM process")?;
        let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("a VM process has no pipes");
        };
        let first_row = config.first_row;
        let mut line = serde_json::to_vec(&config)?;
        line.push(b'\n');
        let told = stdin.write_all(&line).context("configuring a VM process");
        self.running.push(Vm { child, stdin, answers: BufReader::new(stdout), first_row });
        told
    }

    /// Opens the start barriers.
    fn go(&mut self) -> Result<()> {
        self.running.iter_mut().try_for_each(|vm| vm.stdin.write_all(b"\n")).context("starting a VM")
    }

    fn all_ended(&mut self) -> Result<bool> {
        for vm in &mut self.running {
            if vm.child.try_wait().context("waiting for a VM")?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn finish(&mut self) -> Result<Vec<Vec<ThreadResult>>> {
        self.running.iter_mut().map(|vm| vm.read_answer::<Finished>().map(|f| f.threads)).collect()
    }

    fn pause(&self) {
        self.running.iter().for_each(|vm| vm.signal(Signal::STOP));
    }

    fn resume(&self) {
        self.running.iter().for_each(|vm| vm.signal(Signal::CONT));
    }
}

impl Drop for Vms {
    fn drop(&mut self) {
        for vm in &mut self.running {
            // Kills a paused process too. One that has ended and was waited for is left alone by `kill`.
            let _ = vm.child.kill();
            let _ = vm.child.wait();
        }
    }
}

/// What the shared memory says at one moment, summed over all vCPUs.
#[derive(Clone, Default)]
struct Totals {
    counters: Counters,
    kernel: KernelRow,
    slices: u64,
}

impl Totals {
    fn read(publisher: &Publisher, options: &RunOptions) -> Result<Self> {
        let mut totals = Self::default();
        for i in 0..options.vms * options.vcpus {
            let (vm, vcpu) = (i / options.vcpus, i % options.vcpus);
            let (Some(row), Some(kernel), Some(page)) = (
                publisher.maps.rows.get(i as usize),
                publisher.maps.kernel_rows.get(i as usize),
                publisher.maps.slot_pages.get(vm as usize),
            ) else {
                bail!("the publisher's maps have no vCPU {i}");
            };
            // SAFETY: mapped; values in mid-update are read at the beginning or end of a run only.
            unsafe {
                totals.counters.merge(&read_volatile(addr_of!((*row).classifier.counters)));
                let k = read_volatile(kernel);
                totals.kernel.on_ns += k.on_ns;
                totals.kernel.waiters += k.waiters;
                totals.kernel.holders += k.holders;
                totals.kernel.edges += k.edges;
                totals.kernel.early += k.early;
                totals.kernel.outs.iter_mut().zip(k.outs).for_each(|(a, b)| *a += b);
                let ids = read_volatile(addr_of!((*page).slots[vcpu as usize].ids));
                totals.slices += u64::from(Ids(ids).slice_id());
            }
        }
        Ok(totals)
    }

    fn since(mut self, earlier: &Self) -> Self {
        self.counters = self.counters.since(&earlier.counters);
        let (k, e) = (&mut self.kernel, &earlier.kernel);
        k.on_ns -= e.on_ns;
        k.waiters -= e.waiters;
        k.holders -= e.holders;
        k.edges -= e.edges;
        k.early -= e.early;
        k.outs.iter_mut().zip(e.outs).for_each(|(a, b)| *a -= b);
        self.slices -= earlier.slices;
        self
    }

    fn result(
        &self,
        lock: &str,
        options: &RunOptions,
        pcpus: usize,
        seconds: f64,
        threads: &[Vec<ThreadResult>],
    ) -> RunResult {
        let (c, k) = (&self.counters, &self.kernel);
        let operations: Vec<u64> = threads.iter().flatten().map(|t| t.operations).collect();
        let times: Vec<f64> = threads.iter().flatten().map(|t| t.elapsed_ns as f64 / 1e9).collect();
        let acquisitions: u64 = operations.iter().sum();
        let (thread_time_mean, thread_time_sd) = mean_and_sd(&times);
        let psp = c.psp();
        let operations_min = operations.iter().min().copied().unwrap_or(0);
        let operations_max = operations.iter().max().copied().unwrap_or(0);
        RunResult {
            lock: lock.to_string(),
            vms: options.vms,
            vcpus: options.vcpus,
            pcpus: pcpus as u32,
            slice_ms: options.slice_ms,
            csd: options.csd,
            hold: options.hold.to_string(),
            gap: options.gap.to_string(),
            host_every_ms: options.host_every_ms,
            host_ms: options.host_ms,
            seed: options.seed,
            repeat: 1,
            seconds,
            acquisitions,
            acquisitions_per_s: ratio(acquisitions as f64, seconds),
            lhp: c.lhp,
            lhp_preempted: c.lhp_preempted,
            lwp: c.lwp,
            lwp_preempted: c.lwp_preempted,
            lwp_blocked: c.lwp_blocked,
            lwp_harmful: c.lwp_harmful,
            idle_cycles: c.idle_cycles,
            psp,
            psp_per_s: ratio(psp as f64, seconds),
            psp_per_quantum: ratio(psp as f64, self.slices as f64),
            psp_per_million: ratio(psp as f64 * 1e6, acquisitions as f64),
            slices: self.slices,
            deferrals: c.deferrals,
            spin_pct: 100.0 * ratio((c.spin_cycles + c.defer_spin_cycles) as f64, k.on_ns as f64),
            lql_mean: ratio(c.lql_sum as f64, c.takes as f64),
            lql_max: c.lql_max,
            expired: c.expired,
            unslotted: c.unslotted,
            unpaired: c.unpaired(),
            kernel_holders: k.holders,
            kernel_waiters: k.waiters,
            kernel_edges: k.edges,
            out_quantum: k.outs[0],
            out_observer: k.outs[1],
            out_host: k.outs[2],
            out_blocked: k.outs[3],
            out_yielded: k.outs[4],
            early: k.early,
            thread_time_mean,
            thread_time_sd,
            fairness: ratio(operations_min as f64, operations_max as f64),
            operations_min,
            operations_max,
        }
    }
}

fn ratio(a: f64, b: f64) -> f64 {
    if b > 0.0 { a / b } else { 0.0 }
}
