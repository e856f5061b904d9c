//! One world of the threads kind, its memory mapped: what an observer reads from it.

use std::ptr::{addr_of, addr_of_mut, read_volatile, write_volatile};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use ispin_common::histogram::Histogram;
use ispin_common::incident::{Incident, SwitchIncident};
use ispin_common::ring::Ring;
use ispin_common::slot::{NO_LIMIT, Slot};
use ispin_common::table::Row;
use ispin_common::threads::{
    Control, GATE_STOP, GATE_WAIT, KernelRow, OBSERVER_ROW, OutCause, SwitchRing, VcpuRow, Word,
};

use super::records::{incident_records, table_rows};
use crate::bpf::publisher::{PublisherMaps, recursion_misses};
use crate::clock::now_ns as monotonic_ns;
use crate::model::{Hist, KernelCounts, Losses, Snapshot, Source as SourceInfo, Vcpu, Vm};
use crate::session::{ProcessId, World};
use crate::source::cross_check::CrossChecker;

/// How long a look at the gate waits before the next.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// How long a sample waits for an attached world to begin.
const GATE_PATIENCE: Duration = Duration::from_secs(1);
/// Samples are taken this long after a host window began: by then the VMs are paused.
const INTO_WINDOW_NS: u64 = 300_000;

/// One world, its memory mapped.
pub struct Attached {
    world: World,
    maps: PublisherMaps,
    since_ns: u64,
    base: Vec<VmBase>,
    cross: CrossChecker,
    late_samples: u64,
    observers: Vec<u32>,
    /// The world has ended: this was its last sample.
    pub over: bool,
}

/// What had been counted when observation began.
struct VmBase {
    vcpus: Vec<VcpuBase>,
}

struct VcpuBase {
    slice_id: u32,
    kernel: KernelRow,
    seq: u32,
}

/// Pointers to one vCPU's parts.
#[derive(Clone, Copy)]
struct Parts {
    row: *mut VcpuRow,
    kernel: *mut KernelRow,
    slot: *mut Slot,
}

impl Attached {
    /// Maps the memory of `world` and becomes its observer.
    pub fn new(world: &World) -> Result<Self> {
        let maps = PublisherMaps::open(&world.maps)?;
        let mut attached = Self {
            world: world.clone(),
            maps,
            since_ns: monotonic_ns(),
            base: vec![],
            cross: CrossChecker::default(),
            late_samples: 0,
            observers: vec![],
            over: false,
        };
        attached.claim()?;
        attached.register_observers()?;
        attached.base = attached.baseline()?;
        Ok(attached)
    }

    /// The rings have one consumer: this process, if no other lives.
    fn claim(&self) -> Result<()> {
        let control = self.maps.control()?;
        // SAFETY: mapped and aligned; the word is only ever used as an atomic by observers.
        let owner = unsafe { AtomicU32::from_ptr(addr_of_mut!((*control).observer_pid)) };
        let me = std::process::id();
        let mut seen = 0;
        while let Err(other) = owner.compare_exchange(seen, me, Ordering::AcqRel, Ordering::Acquire) {
            if ProcessId::of(other as i32).is_ok_and(|p| p.alive()) {
                bail!(
                    "process {other} observes this world already; connect to it with `ispin-tui --connect` instead"
                );
            }
            seen = other;
        }
        Ok(())
    }

    /// Kernel-wide number of the publisher's program.
    pub fn publisher_id(&self) -> u32 {
        self.world.publisher_id
    }

    fn register_observers(&mut self) -> Result<()> {
        let tasks =
            procfs::process::Process::myself().and_then(|p| p.tasks()).context("listing own threads")?;
        for task in tasks.flatten() {
            let tid = task.tid as u32;
            self.maps.register(tid, OBSERVER_ROW)?;
            self.observers.push(tid);
        }
        Ok(())
    }

    fn parts(&self, vm: usize, vcpu: usize) -> Result<Parts> {
        let info = &self.world.vms[vm];
        let row = info.rows[vcpu] as usize;
        let page = self.maps.slot_pages.get(info.page as usize);
        let (Some(page), Some(row), Some(kernel)) =
            (page, self.maps.rows.get(row), self.maps.kernel_rows.get(row))
        else {
            bail!("the session names a vCPU that the publisher's maps have not");
        };
        // SAFETY: a mapped page; the slice access is bounded.
        let slot = unsafe {
            (&raw mut (*page).slots).cast::<Slot>().add(vcpu.min(ispin_common::slot::MAX_SLOTS - 1))
        };
        Ok(Parts { row, kernel, slot })
    }

    fn baseline(&self) -> Result<Vec<VmBase>> {
        let mut base = vec![];
        for (v, info) in self.world.vms.iter().enumerate() {
            let mut vcpus = vec![];
            for vcpu in 0..info.rows.len() {
                let parts = self.parts(v, vcpu)?;
                // SAFETY: mapped.
                vcpus.push(unsafe {
                    VcpuBase {
                        slice_id: ispin_common::slot::read_ids(parts.slot).slice_id(),
                        kernel: read_volatile(parts.kernel),
                        seq: Word(read_volatile(addr_of!((*parts.row).word))).seq(),
                    }
                });
            }
            base.push(VmBase { vcpus });
        }
        Ok(base)
    }

    fn control(&self) -> Result<Control> {
        let control = self.maps.control()?;
        // SAFETY: mapped; plain words.
        Ok(unsafe { read_volatile(control) })
    }

    /// The first host window at or after `wanted_ns`: the VMs are paused then, so that observing takes no
    /// vCPU off its pCPU.
    pub fn align(&self, wanted_ns: u64) -> u64 {
        match self.wait_for_gate() {
            Ok(c) if c.host_window_ns != 0 && c.host_window_every_ns != 0 => {
                let first = c.host_window_ns + INTO_WINDOW_NS;
                let behind = wanted_ns.saturating_sub(first);
                first + behind.div_ceil(c.host_window_every_ns) * c.host_window_every_ns
            }
            _ => wanted_ns,
        }
    }

    /// Waits for the gate, so that the next sample can be aligned to the first host window. Nothing runs
    /// yet that this could disturb.
    fn wait_for_gate(&self) -> Result<Control> {
        let give_up = monotonic_ns() + GATE_PATIENCE.as_nanos() as u64;
        loop {
            let control = self.control()?;
            if control.gate != GATE_WAIT || monotonic_ns() > give_up {
                return Ok(control);
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// What the world counted since the attachment.
    pub fn sample(&mut self, owner_gone: bool) -> Result<Snapshot> {
        let control = if owner_gone { self.control()? } else { self.wait_for_gate()? };
        let now = monotonic_ns();
        let mut snapshot = Snapshot { source: self.info(), ..Snapshot::default() };
        self.over = control.gate == GATE_STOP || owner_gone;
        if control.gate == GATE_WAIT && !self.over {
            return Ok(snapshot);
        }
        let end = if control.ends_ns == 0 { now } else { now.min(control.ends_ns) };
        snapshot.elapsed_ns = end.saturating_sub(control.started_ns.max(self.since_ns));

        // Words first, then the library's rings, then the kernel's: an episode with a number below its row's
        // word is over, its incidents are in the first rings and its switches in the second.
        let words = self.words()?;
        let incidents = self.drain_incidents()?;
        let mut losses = Losses { late_samples: self.late_samples, ..Losses::default() };
        losses.switches_dropped = self.drain_switches()?;
        let causes: Vec<Option<SwitchIncident>> =
            incidents.iter().map(|(vm, i)| self.cross.cause_of(self.row_of(*vm, i.vcpu), i)).collect();

        let mut locks = vec![];
        let mut callers = vec![];
        for v in 0..self.world.vms.len() {
            snapshot.vms.push(self.read_vm(v, now, &mut losses, &mut locks, &mut callers)?);
        }
        losses.recursion_misses = recursion_misses(&self.world.publisher_fdinfo).unwrap_or(0);
        for vm in &snapshot.vms {
            let c = vm.total().counters;
            losses.unpaired += c.unpaired();
            losses.overflowed += c.overflowed;
        }
        if control.tracing != 0 {
            let lost = losses.incidents_dropped + losses.switches_dropped > 0;
            // A world that ended as planned has no episode open; one that was killed may.
            let ended = control.gate == GATE_STOP;
            let attached_at = self.base_seqs();
            self.cross.judge(
                |(row, seq)| ended || words.iter().any(|&(r, word)| r == row && seq < word.seq()),
                |row| attached_at.iter().find(|(r, _)| *r == row).map_or(0, |(_, seq)| *seq),
                lost,
            );
            if self.over && !ended {
                self.cross.judge(|_| true, |_| u32::MAX, lost);
            }
            snapshot.cross_check = Some(self.cross.counts());
        }
        snapshot.locks = table_rows(&locks, &self.world.lock_names);
        snapshot.callers = table_rows(&callers, &self.world.caller_names);
        snapshot.incidents = incident_records(&self.world, &incidents, &causes);
        snapshot.losses = losses;
        Ok(snapshot)
    }

    fn info(&self) -> SourceInfo {
        SourceInfo {
            kind: "threads".into(),
            lock: self.world.lock.clone(),
            slot_source: "publisher".into(),
            time_unit: "ns".into(),
            csd: self.world.csd_ns,
            quantum: self.world.quantum_ns,
            max_defer: None,
            nested: None,
            pcpus: self.world.pcpus.len() as u32,
            workload: self.world.workload.clone(),
        }
    }

    fn row_of(&self, vm: usize, vcpu: u32) -> u32 {
        self.world.vms[vm].rows.get(vcpu as usize).copied().unwrap_or(u32::MAX)
    }

    fn base_seqs(&self) -> Vec<(u32, u32)> {
        let rows = self.world.vms.iter().flat_map(|vm| vm.rows.iter().copied());
        rows.zip(self.base.iter().flat_map(|vm| vm.vcpus.iter().map(|v| v.seq))).collect()
    }

    fn words(&self) -> Result<Vec<(u32, Word)>> {
        let mut words = vec![];
        for (v, vm) in self.world.vms.iter().enumerate() {
            for (i, &row) in vm.rows.iter().enumerate() {
                let parts = self.parts(v, i)?;
                // SAFETY: mapped; one aligned word.
                words.push((row, Word(unsafe { read_volatile(addr_of!((*parts.row).word)) })));
            }
        }
        Ok(words)
    }

    fn drain_incidents(&mut self) -> Result<Vec<(usize, Incident)>> {
        let mut incidents = vec![];
        for v in 0..self.world.vms.len() {
            for (i, &row) in self.world.vms[v].rows.clone().iter().enumerate() {
                let parts = self.parts(v, i)?;
                // SAFETY: mapped; `claim` made this process the only consumer.
                while let Some(incident) = unsafe { Ring::pop(addr_of_mut!((*parts.row).incidents)) } {
                    self.cross.add_incident(row, &incident);
                    incidents.push((v, incident));
                }
            }
        }
        incidents.sort_by_key(|(_, i)| i.to_tsc);
        Ok(incidents)
    }

    /// Returns how many switches were ever dropped.
    fn drain_switches(&mut self) -> Result<u64> {
        let mut dropped = 0;
        for cpu in 0..self.maps.switch_rings.len() {
            let ring = self.maps.switch_rings.get(cpu).ok_or_else(|| anyhow!("no switch ring {cpu}"))?;
            // SAFETY: mapped; the only consumer, as above.
            unsafe {
                while let Some(switch) = SwitchRing::pop(ring) {
                    self.cross.add_switch(&switch);
                }
                dropped += SwitchRing::dropped(ring);
            }
        }
        Ok(dropped)
    }

    fn read_vm(
        &self,
        v: usize,
        now: u64,
        losses: &mut Losses,
        locks: &mut Vec<Row>,
        callers: &mut Vec<Row>,
    ) -> Result<Vm> {
        let info = &self.world.vms[v];
        let (mut hold, mut wait) = (Histogram::default(), Histogram::default());
        let mut vcpus = vec![];
        for i in 0..info.rows.len() {
            let parts = self.parts(v, i)?;
            // SAFETY: mapped; counters are single words, so that a copy in mid-update is at most one event
            // apart in its parts. The thread itself is off its pCPU during an aligned sample.
            unsafe {
                hold.merge(&read_volatile(addr_of!((*parts.row).classifier.hold)));
                wait.merge(&read_volatile(addr_of!((*parts.row).classifier.wait)));
                losses.incidents_dropped += Ring::dropped(addr_of!((*parts.row).incidents));
                for (table, rows) in [
                    (addr_of!((*parts.row).locks), &mut *locks),
                    (addr_of!((*parts.row).callers), &mut *callers),
                ] {
                    let table = read_volatile(table);
                    losses.table_overflowed += table.evicted;
                    merge_rows(rows, &table.rows);
                    merge_others(rows, table.others());
                }
            }
            vcpus.push(self.read_vcpu(v, i, parts, now));
        }
        let (hold, wait) = (Hist::from(&hold), Hist::from(&wait));
        let hold_over_csd = hold.not_below(self.world.csd_ns);
        Ok(Vm { name: info.name.clone(), vcpus, hold, wait, hold_over_csd, ..Vm::default() })
    }

    fn read_vcpu(&self, v: usize, i: usize, parts: Parts, now: u64) -> Vcpu {
        let base = &self.base[v].vcpus[i];
        // SAFETY: mapped; single words, see read_vm. read_own retries while the vCPU is being switched.
        let (slot, kernel, word, counters) = unsafe {
            (
                ispin_common::slot::read_own(parts.slot),
                read_volatile(parts.kernel),
                Word(read_volatile(addr_of!((*parts.row).word))),
                read_volatile(addr_of!((*parts.row).classifier.counters)),
            )
        };
        let ids = ispin_common::slot::Ids(slot.ids);
        let (outs, base_outs) = (kernel.outs, base.kernel.outs);
        let out = |cause: OutCause| outs[cause as usize].saturating_sub(base_outs[cause as usize]);
        let running = ids.on_pcpu();
        let current = if running { now.saturating_sub(slot.dispatch_start) } else { 0 };
        let on_time = (kernel.on_ns + current).saturating_sub(base.kernel.on_ns);
        Vcpu {
            id: i as u32,
            running,
            phase: word.phase().map_or("?", |p| p.name()).to_string(),
            quantum_left: (running && slot.preemption_time != NO_LIMIT)
                .then(|| slot.preemption_time.saturating_sub(now)),
            slice_id: ids.slice_id(),
            slices: u64::from(ids.slice_id().wrapping_sub(base.slice_id)),
            dispatches: kernel.dispatches.saturating_sub(base.kernel.dispatches),
            on_time,
            total_cycles: on_time,
            counters,
            kernel: KernelCounts {
                holders: kernel.holders - base.kernel.holders,
                waiters: kernel.waiters - base.kernel.waiters,
                edges: kernel.edges - base.kernel.edges,
                out_quantum: out(OutCause::Quantum),
                out_observer: out(OutCause::Observer),
                out_host: out(OutCause::Host),
                out_blocked: out(OutCause::Blocked),
                out_yielded: out(OutCause::Yielded),
                early: kernel.early - base.kernel.early,
            },
            stats: None,
        }
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        for &tid in &self.observers {
            self.maps.unregister(tid);
        }
        if let Ok(control) = self.maps.control() {
            // SAFETY: mapped; see claim.
            unsafe { write_volatile(addr_of_mut!((*control).observer_pid), 0) };
        }
    }
}

fn merge_others(all: &mut Vec<Row>, others: &Row) {
    if *others == Row::EMPTY {
        return;
    }
    match all.iter_mut().find(|known| known.key == 0) {
        Some(known) => known.merge(others),
        None => all.push(*others),
    }
}

fn merge_rows(all: &mut Vec<Row>, rows: &[Row]) {
    for row in rows.iter().filter(|row| row.key != 0) {
        match all.iter_mut().find(|known| known.key == row.key) {
            Some(known) => known.merge(row),
            None => all.push(*row),
        }
    }
}
