//! What the guest programs counted, as a snapshot.

use std::collections::BTreeMap;

use ispin_common::histogram::Histogram;
use ispin_common::incident::{Incident, PspKind};

use super::cycles::Had;
use super::names::Names;
use super::rows::LockNames;
use super::{rows, stats};
use crate::bpf::guest::Lane;
use crate::model::{GuestLock, Hist, IncidentRecord, Losses, Snapshot, Source, Vcpu, Victim, Vm};

/// What one sample read.
#[derive(Default)]
pub struct Reading {
    /// Every CPU and level at which there was an event.
    pub lanes: Vec<Lane>,
    /// Incidents since the previous sample, oldest first.
    pub incidents: Vec<Incident>,
    /// Events that the kernel did not hand to a program.
    pub recursion_misses: u64,
    /// What is observed, and how the lock is set up.
    pub source: Source,
    /// The kernel's gate, if it has one.
    pub events: Option<bool>,
    /// Time of each vCPU.
    pub had: BTreeMap<u32, Had>,
    /// The kernel's own counts.
    pub kernel: stats::Reading,
}

/// The snapshot of a reading of the VM called `vm`; number and times are left to the caller. `lock_names` are those
/// that locks were given in earlier snapshots.
pub fn snapshot(vm: &str, names: &Names, lock_names: &mut LockNames, reading: &Reading) -> Snapshot {
    let (mut hold, mut wait) = (Histogram::default(), Histogram::default());
    let mut losses = Losses { recursion_misses: reading.recursion_misses, ..Losses::default() };
    for lane in &reading.lanes {
        let classifier = &lane.counts.classifier;
        hold.merge(&classifier.hold);
        wait.merge(&classifier.wait);
        losses.incidents_dropped += classifier.counters.dropped;
        losses.unpaired += classifier.counters.unpaired();
        losses.overflowed += classifier.counters.overflowed;
        losses.table_overflowed += lane.counts.locks.evicted + lane.counts.callers.evicted;
    }
    let (hold, wait) = (Hist::from(&hold), Hist::from(&wait));
    let hold_over_csd = hold.not_below(reading.source.csd);
    let locks = rows::locks(reading.lanes.iter().map(|lane| &lane.counts.locks), names, lock_names);
    let callers = rows::callers(reading.lanes.iter().map(|lane| &lane.counts.callers), names);
    let story = Story { vm, names, lock_names, csd: reading.source.csd, all: &reading.incidents };
    Snapshot {
        source: reading.source.clone(),
        vms: vec![Vm {
            name: vm.to_owned(),
            vcpus: vcpus(reading),
            hold,
            wait,
            hold_over_csd,
            ..Vm::default()
        }],
        locks,
        callers,
        incidents: reading.incidents.iter().map(|incident| story.record(incident)).collect(),
        losses,
        guest: Some(GuestLock { events: reading.events, irqs_off: reading.kernel.irqs_off.clone() }),
        ..Snapshot::default()
    }
}

/// What is needed to tell an incident's story.
struct Story<'a> {
    vm: &'a str,
    names: &'a Names,
    lock_names: &'a LockNames,
    csd: u64,
    /// All incidents of the sample.
    all: &'a [Incident],
}

impl Story<'_> {
    fn record(&self, incident: &Incident) -> IncidentRecord {
        let preempted = incident.flags & Incident::PREEMPTED != 0;
        IncidentRecord {
            kind: incident.kind_name().into(),
            vm: self.vm.to_owned(),
            vcpu: incident.vcpu,
            seq: incident.seq,
            lock: self.lock_names.of(incident.lock, incident.ip, self.names),
            caller: self.names.of(incident.ip),
            ticket: incident.ticket,
            lql: incident.lql,
            take: incident.take_tsc,
            from: incident.from_tsc,
            to: incident.to_tsc,
            from_slice: incident.from_ids.slice_id(),
            to_slice: incident.to_ids.slice_id(),
            planned_end: planned_end(incident, self.csd),
            // Exact if it left once between the two events; else when it would have left had it.
            real_end: preempted.then(|| incident.start.saturating_sub(incident.off)),
            back: incident.start,
            off: incident.off,
            lost: incident.lost,
            reason: incident.reason().map_or_else(String::new, |reason| reason.name().into()),
            preempted,
            blocked: incident.flags & Incident::BLOCKED != 0,
            harmful: incident.flags & Incident::HARMFUL != 0,
            // The guest sees that it was away, not why.
            cause: String::new(),
            victims: victims(incident, self.all),
        }
    }
}

/// Every vCPU that is or was online, or at which there was an event.
fn vcpus(reading: &Reading) -> Vec<Vcpu> {
    let mut vcpus: BTreeMap<u32, Vcpu> = BTreeMap::new();
    for &cpu in reading.had.keys().chain(reading.lanes.iter().map(|lane| &lane.cpu)) {
        vcpus.entry(cpu).or_insert_with(|| vcpu(cpu, &reading.lanes));
    }
    for (cpu, vcpu) in &mut vcpus {
        let had = reading.had.get(cpu).copied().unwrap_or_default();
        (vcpu.total_cycles, vcpu.on_time) = (had.total, had.used);
        vcpu.stats = reading.kernel.stats.as_ref().map(|stats| stats.get(cpu).cloned().unwrap_or_default());
    }
    vcpus.into_values().collect()
}

/// One vCPU: the sum of its levels, and the latest quantum that any of them saw.
fn vcpu(cpu: u32, lanes: &[Lane]) -> Vcpu {
    let mut vcpu = Vcpu { id: cpu, ..Vcpu::default() };
    let lanes = || lanes.iter().filter(|lane| lane.cpu == cpu).map(|lane| &lane.counts);
    for counts in lanes() {
        vcpu.counters.merge(&counts.classifier.counters);
    }
    let published = || lanes().filter(|counts| counts.last_ids.published());
    let last = published().max_by_key(|counts| counts.last_tsc).map(|counts| counts.last_ids);
    if let Some(last) = last {
        vcpu.slice_id = last.slice_id();
        // Levels begin to see quanta at different times; the distance to the farthest first one counts.
        for first in published().map(|counts| counts.first_ids) {
            let slices = last.slice_id().wrapping_sub(first.slice_id());
            let dispatches =
                (last.dispatch_id() >> 1).wrapping_sub(first.dispatch_id() >> 1) & (u32::MAX >> 1);
            vcpu.slices = vcpu.slices.max(slices.into());
            vcpu.dispatches = vcpu.dispatches.max(dispatches.into());
        }
    }
    vcpu
}

/// End of the quantum in which the stretch began: `lock_cap` at the take says it. Unknown without the csd, if
/// the quantum has no end, and for a hold that began in a later quantum than its take.
fn planned_end(incident: &Incident, csd: u64) -> Option<u64> {
    if csd == 0 || incident.cap == i64::MAX {
        return None;
    }
    let queue = (u64::from(incident.lql) + 1).saturating_mul(csd);
    let end = incident.take_tsc.saturating_add(queue).checked_add_signed(incident.cap)?;
    (end >= incident.from_tsc).then_some(end)
}

/// Preempted waiters with a later ticket of the same lock, whose wait overlaps: those of the same sample. A
/// waiter that lost no quantum of its own is not among the incidents and so not known here.
fn victims(culprit: &Incident, all: &[Incident]) -> Vec<Victim> {
    // Tickets of the kernel's lock have 16 bits.
    let behind = |ticket: u32| (ticket.wrapping_sub(culprit.ticket) as u16 as i16) > 0;
    let mut victims: Vec<Victim> = vec![];
    for i in all.iter().filter(|i| i.kind == PspKind::Lwp as u8 && i.lock == culprit.lock) {
        let overlaps = i.take_tsc < culprit.to_tsc && i.to_tsc > culprit.from_tsc;
        if overlaps && behind(i.ticket) && victims.iter().all(|known| known.vcpu != i.vcpu) {
            victims.push(Victim { vcpu: i.vcpu, take: i.take_tsc, acquire: i.to_tsc });
        }
    }
    victims
}

#[cfg(test)]
mod tests {
    use ispin_common::counters::Counters;
    use ispin_common::guest::GuestLane;
    use ispin_common::slot::Ids;
    use ispin_common::table::Row;

    use super::*;
    use crate::model::LockStats;

    fn lane(cpu: u32, level: u32, fill: impl FnOnce(&mut GuestLane)) -> Lane {
        let mut counts = Box::<GuestLane>::default();
        fill(&mut counts);
        Lane { cpu, level, counts }
    }

    fn reading(lanes: Vec<Lane>, incidents: Vec<Incident>) -> Reading {
        let source = Source { csd: 128, ..Source::default() };
        let had = [(0, Had { total: 100, used: 40 }), (1, Had::default())].into();
        Reading { lanes, incidents, recursion_misses: 3, source, had, ..Reading::default() }
    }

    fn shown(reading: &Reading) -> Snapshot {
        snapshot("vm", &Names::default(), &mut LockNames::default(), reading)
    }

    #[test]
    fn nothing_seen_is_a_snapshot_of_idle_vcpus() {
        let snapshot = shown(&reading(vec![], vec![]));
        assert_eq!(snapshot.vms.len(), 1);
        let times: Vec<_> =
            snapshot.vms[0].vcpus.iter().map(|vcpu| (vcpu.id, vcpu.total_cycles, vcpu.on_time)).collect();
        assert_eq!(times, [(0, 100, 40), (1, 0, 0)]);
        assert_eq!(snapshot.vms[0].total().counters, Counters::default());
        assert_eq!(snapshot.losses.total(), 3);
        assert_eq!(snapshot.vms[0].hold_over_csd, Some(0));
    }

    #[test]
    fn levels_are_summed_and_the_latest_quantum_shown() {
        let task = lane(1, 0, |counts| {
            counts.classifier.counters.takes = 5;
            counts.classifier.counters.lql_max = 3;
            counts.classifier.hold.record(9);
            counts.classifier.hold.record(128);
            counts.first_ids = Ids::new(u32::MAX - 1, 0x11);
            counts.last_ids = Ids::new(4, 0x17);
            counts.last_tsc = 1_000;
            counts.locks.rows[7] = Row { key: 0x40, acquires: 5, wait_cycles: 10, ..Row::EMPTY };
        });
        let irq = lane(1, 2, |counts| {
            counts.classifier.counters.takes = 2;
            counts.classifier.counters.lql_max = 4;
            counts.classifier.counters.dropped = 6;
            counts.first_ids = Ids::new(2, 0x15);
            counts.last_ids = Ids::new(3, 0x15);
            counts.last_tsc = 900;
            counts.locks.rows[9] = Row { key: 0x40, acquires: 1, ..Row::EMPTY };
            counts.locks.rows[3] = Row { key: 0x80, acquires: 1, wait_cycles: 50, ..Row::EMPTY };
            counts.callers.evicted = 8;
        });
        let snapshot = shown(&reading(vec![task, irq], vec![]));
        let vcpu = &snapshot.vms[0].vcpus[1];
        assert_eq!((vcpu.counters.takes, vcpu.counters.lql_max), (7, 4));
        assert_eq!((vcpu.slice_id, vcpu.slices, vcpu.dispatches), (4, 6, 3));
        assert_eq!((snapshot.vms[0].hold.count(), snapshot.vms[0].hold_over_csd), (2, Some(1)));
        let locks: Vec<_> = snapshot.locks.iter().map(|row| (row.name.as_str(), row.acquires)).collect();
        assert_eq!(locks, [("0x80", 1), ("0x40", 6)]);
        assert_eq!((snapshot.losses.incidents_dropped, snapshot.losses.table_overflowed), (6, 8));
    }

    #[test]
    fn the_kernels_own_counts_stand_beside() {
        let mut reading = reading(vec![], vec![]);
        assert_eq!(shown(&reading).vms[0].total().stats, None);
        let stats = LockStats([("takes".to_owned(), 5)].into());
        reading.kernel.stats = Some([(0, stats)].into());
        reading.events = Some(false);
        let snapshot = shown(&reading);
        assert_eq!(snapshot.vms[0].total().stats.and_then(|stats| stats.get("takes")), Some(5));
        assert_eq!(snapshot.guest.and_then(|guest| guest.events), Some(false));
    }

    #[test]
    fn an_incident_tells_its_story() {
        let holder = Incident {
            kind: PspKind::Lhp as u8,
            flags: Incident::PREEMPTED,
            vcpu: 0,
            lock: 0x40,
            ip: 0x99,
            from_ids: Ids::new(4, 9),
            to_ids: Ids::new(5, 11),
            take_tsc: 1_000,
            from_tsc: 1_010,
            to_tsc: 6_050,
            start: 6_000,
            off: 4_000,
            lost: 4_000,
            cap: 744,
            lql: 1,
            ticket: 0xffff,
            ..Incident::default()
        };
        let waiter = Incident {
            kind: PspKind::Lwp as u8,
            vcpu: 1,
            ticket: 0,
            take_tsc: 1_100,
            from_tsc: 1_100,
            to_tsc: 6_060,
            ..holder
        };
        let elsewhere = Incident { lock: 0x80, vcpu: 2, ..waiter };
        let snapshot = shown(&reading(vec![], vec![holder, waiter, elsewhere]));
        let record = &snapshot.incidents[0];
        assert_eq!(
            (record.kind.as_str(), record.lock.as_str(), record.caller.as_str()),
            ("lhp", "0x40", "0x99")
        );
        // Take at 1000 with 744 to spare after two critical sections of 128.
        assert_eq!((record.planned_end, record.real_end, record.back), (Some(2_000), Some(2_000), 6_000));
        assert_eq!(record.victims, [Victim { vcpu: 1, take: 1_100, acquire: 6_060 }]);
        assert!(snapshot.incidents[1].victims.is_empty(), "who is ahead is no victim");
    }

    #[test]
    fn the_planned_end_is_not_guessed() {
        let incident = Incident { take_tsc: 1_000, from_tsc: 1_000, cap: 500, ..Incident::default() };
        assert_eq!(planned_end(&incident, 100), Some(1_600));
        assert_eq!(planned_end(&incident, 0), None);
        assert_eq!(planned_end(&Incident { cap: i64::MAX, ..incident }, 100), None);
        assert_eq!(planned_end(&Incident { from_tsc: 1_700, ..incident }, 100), None);
    }
}
