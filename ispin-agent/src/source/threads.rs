//! The threads world: attaches to a running `ispin-lab threads` and reads the memory that it shares.

use std::collections::HashSet;
use std::ptr::{addr_of, addr_of_mut, read_volatile, write_volatile};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail};
use ispin_common::histogram::Histogram;
use ispin_common::incident::{Incident, PspKind, SwitchIncident};
use ispin_common::ring::Ring;
use ispin_common::slot::{NO_LIMIT, Slot};
use ispin_common::table::Row;
use ispin_common::threads::{
    Control, GATE_STOP, GATE_WAIT, KernelRow, OBSERVER_ROW, OutCause, SwitchRing, VcpuRow, Word,
};

use super::cross_check::CrossChecker;
use super::{OpenOptions, Source};
use crate::bpf::publisher::{PublisherMaps, recursion_misses};
use crate::clock::now_ns as monotonic_ns;
use crate::model::{
    Hist, IncidentRecord, KernelCounts, Losses, Snapshot, Source as SourceInfo, TableRow, Vcpu, Victim, Vm,
};
use crate::session::{self, ProcessId, Session, World};

/// How long a look for a session waits before the next.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// How long a sample waits for an attached world to begin.
const GATE_PATIENCE: Duration = Duration::from_secs(1);
/// How long a sample waits for the next world of the same process.
const WORLD_PATIENCE: Duration = Duration::from_millis(500);
/// Samples are taken this long after a host window began: by then the VMs are paused.
const INTO_WINDOW_NS: u64 = 300_000;

/// Follows the worlds of one `ispin-lab threads` process, one after the other.
pub struct ThreadsSource {
    owner: ProcessId,
    world: Option<Attached>,
    /// Number of the latest world that was attached to.
    number: u32,
    seq: u64,
}

impl ThreadsSource {
    /// Waits for a world of `options.command`, or of any process if there is none, and attaches to it.
    pub fn open(options: OpenOptions) -> Result<Self> {
        let give_up = monotonic_ns() + options.timeout.as_nanos() as u64;
        loop {
            let (sessions, errors) = session::list();
            let ours = |s: &&Session| {
                s.owner.alive() && options.command.is_none_or(|c| descends_from(s.owner.pid, c))
            };
            if let Some(session) = sessions.iter().filter(ours).find(|s| s.world.is_some()) {
                let mut source = Self { owner: session.owner, world: None, number: 0, seq: 0 };
                source.follow(session)?;
                if source.world.is_some() {
                    return Ok(source);
                }
            }
            (options.keep_waiting)()?;
            if monotonic_ns() > give_up {
                if let Some(error) = errors.into_iter().next() {
                    return Err(error);
                }
                bail!(
                    "no threads world appeared within {:?}: start one with `ispin-lab threads`, or give it as COMMAND \
                     (`ispin-agent run -- ispin-lab threads --lock ticket`)",
                    options.timeout
                );
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Looks for the next world, for a while.
    fn wait_for_world(&mut self) -> Result<()> {
        let give_up = monotonic_ns() + WORLD_PATIENCE.as_nanos() as u64;
        while self.world.is_none() && self.owner.alive() {
            match Session::read(&Session::path_of(self.owner.pid)) {
                Ok(session) => self.follow(&session)?,
                Err(_) if !self.owner.alive() => {}
                Err(error) => return Err(error),
            }
            if monotonic_ns() > give_up {
                break;
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }

    /// Attaches to the session's world if it is a new one.
    fn follow(&mut self, session: &Session) -> Result<()> {
        if let Some(world) = session.world.as_ref().filter(|_| session.number > self.number) {
            match Attached::new(world) {
                Ok(attached) => {
                    self.world = Some(attached);
                    self.number = session.number;
                }
                // It may have ended between the reading of the file and the opening of its maps.
                Err(error) if !still_announced(session) => log::debug!("missed a world: {error:#}"),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn still_announced(session: &Session) -> bool {
    Session::read(&Session::path_of(session.owner.pid))
        .is_ok_and(|now| now.owner == session.owner && now.number == session.number && now.world.is_some())
}

fn descends_from(pid: i32, ancestor: u32) -> bool {
    let mut at = pid;
    for _ in 0..64 {
        if at == ancestor as i32 {
            return true;
        }
        match procfs::process::Process::new(at).and_then(|p| p.stat()) {
            Ok(stat) if stat.ppid > 0 => at = stat.ppid,
            _ => return false,
        }
    }
    false
}

impl Source for ThreadsSource {
    fn kind(&self) -> &'static str {
        "threads"
    }

    fn programs(&self) -> Vec<u32> {
        self.world.iter().map(|attached| attached.world.publisher_id).collect()
    }

    fn align(&mut self, wanted_ns: u64) -> u64 {
        self.world.as_ref().map_or(wanted_ns, |world| world.align(wanted_ns))
    }

    fn sample(&mut self) -> Result<Snapshot> {
        self.seq += 1;
        self.wait_for_world()?;
        let owner_alive = self.owner.alive();
        let mut snapshot = match &mut self.world {
            Some(world) => world.sample(!owner_alive)?,
            None => Snapshot { source: between_worlds(), ..Snapshot::default() },
        };
        if self.world.as_ref().is_some_and(|world| world.over) {
            // Dropping it tells the hypervisor that its maps may go.
            self.world = None;
        }
        snapshot.seq = self.seq;
        snapshot.unix_ms =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        snapshot.finished = !owner_alive;
        Ok(snapshot)
    }
}

fn between_worlds() -> SourceInfo {
    SourceInfo { kind: "threads".into(), time_unit: "ns".into(), ..SourceInfo::default() }
}

/// One world, its memory mapped.
struct Attached {
    world: World,
    maps: PublisherMaps,
    since_ns: u64,
    base: Vec<VmBase>,
    cross: CrossChecker,
    late_samples: u64,
    observers: Vec<u32>,
    over: bool,
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
    fn new(world: &World) -> Result<Self> {
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
    fn align(&self, wanted_ns: u64) -> u64 {
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

    fn sample(&mut self, owner_gone: bool) -> Result<Snapshot> {
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
        snapshot.incidents = self.records(&incidents, &causes);
        snapshot.losses = losses;
        Ok(snapshot)
    }

    fn info(&self) -> SourceInfo {
        SourceInfo {
            kind: "threads".into(),
            lock: self.world.lock.clone(),
            time_unit: "ns".into(),
            csd: self.world.csd_ns,
            quantum: self.world.quantum_ns,
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
                    losses.table_overflowed += table.overflowed;
                    merge_rows(rows, &table.rows);
                }
            }
            vcpus.push(self.read_vcpu(v, i, parts, now));
        }
        Ok(Vm { name: info.name.clone(), vcpus, hold: Hist::from(&hold), wait: Hist::from(&wait) })
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
        Vcpu {
            id: i as u32,
            running,
            phase: word.phase().map_or("?", |p| p.name()).to_string(),
            quantum_left: (running && slot.preemption_time != NO_LIMIT)
                .then(|| slot.preemption_time.saturating_sub(now)),
            slice_id: ids.slice_id(),
            slices: u64::from(ids.slice_id().wrapping_sub(base.slice_id)),
            dispatches: kernel.dispatches.saturating_sub(base.kernel.dispatches),
            on_time: (kernel.on_ns + current).saturating_sub(base.kernel.on_ns),
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
        }
    }

    fn records(
        &self,
        incidents: &[(usize, Incident)],
        causes: &[Option<SwitchIncident>],
    ) -> Vec<IncidentRecord> {
        let record = |(at, (vm, i)): (usize, &(usize, Incident))| {
            let cause = causes[at].as_ref();
            IncidentRecord {
                kind: if i.kind == PspKind::Lhp as u8 { "lhp" } else { "lwp" }.into(),
                vm: self.world.vms[*vm].name.clone(),
                vcpu: i.vcpu,
                seq: i.seq,
                lock: name_of(i.lock, &self.world.lock_names),
                caller: name_of(i.ip, &self.world.caller_names),
                ticket: i.ticket,
                lql: i.lql,
                take: i.take_tsc,
                from: i.from_tsc,
                to: i.to_tsc,
                from_slice: i.from_ids.slice_id(),
                to_slice: i.to_ids.slice_id(),
                planned_end: cause.map(|c| c.planned_end).filter(|&end| end != NO_LIMIT),
                real_end: cause.map(|c| c.real_end),
                back: i.start,
                off: i.off,
                lost: i.lost,
                preempted: i.flags & Incident::PREEMPTED != 0,
                blocked: i.flags & Incident::BLOCKED != 0,
                harmful: i.flags & Incident::HARMFUL != 0,
                cause: cause
                    .and_then(|c| OutCause::ALL.get(c.cause as usize))
                    .map_or_else(String::new, |c| c.name().into()),
                victims: victims_of(incidents, *vm, i),
            }
        };
        incidents.iter().enumerate().map(record).collect()
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

/// Preempted waiters with a later ticket of the same lock whose wait overlaps: those of the same sample. A
/// waiter that lost no quantum of its own is not among the incidents and so not known here.
fn victims_of(incidents: &[(usize, Incident)], vm: usize, culprit: &Incident) -> Vec<Victim> {
    let mut seen = HashSet::new();
    let behind = |(v, i): &&(usize, Incident)| {
        *v == vm
            && i.kind == PspKind::Lwp as u8
            && i.lock == culprit.lock
            && (i.ticket.wrapping_sub(culprit.ticket) as i32) > 0
            && i.take_tsc < culprit.to_tsc
    };
    incidents
        .iter()
        .filter(behind)
        .filter(|(_, i)| seen.insert(i.vcpu))
        .map(|(_, i)| Victim { vcpu: i.vcpu, take: i.take_tsc, acquire: i.to_tsc })
        .collect()
}

fn merge_rows(all: &mut Vec<Row>, rows: &[Row]) {
    for row in rows.iter().filter(|row| row.key != 0) {
        match all.iter_mut().find(|known| known.key == row.key) {
            Some(known) => known.merge(row),
            None => all.push(*row),
        }
    }
}

/// Keys of the threads world count from 1.
fn name_of(key: u64, names: &[String]) -> String {
    let named = (key as usize).checked_sub(1).and_then(|i| names.get(i));
    named.cloned().unwrap_or_else(|| format!("#{key}"))
}

fn table_rows(rows: &[Row], names: &[String]) -> Vec<TableRow> {
    let mut out: Vec<TableRow> = rows
        .iter()
        .map(|row| TableRow {
            name: name_of(row.key, names),
            key: row.key,
            acquires: row.acquires,
            contended: row.contended,
            deferrals: row.deferrals,
            wait_cycles: row.wait_cycles,
            spin_cycles: row.spin_cycles,
            hold_cycles: row.hold_cycles,
            lhp: row.lhp,
            lwp: row.lwp,
            lwp_harmful: row.lwp_harmful,
            idle_cycles: row.idle_cycles,
        })
        .collect();
    out.sort_by(|a, b| b.wait_cycles.cmp(&a.wait_cycles).then_with(|| a.name.cmp(&b.name)));
    out
}
