//! What the guest programs counted, as a snapshot.

use std::collections::BTreeMap;

use ispin_common::histogram::Histogram;
use ispin_common::incident::{Incident, PspKind};
use ispin_common::table::Row;

use super::names::Names;
use crate::bpf::guest::Lane;
use crate::model::{Hist, IncidentRecord, Losses, Snapshot, Source, TableRow, Vcpu, Victim, Vm};

/// What does not change from sample to sample.
pub struct Guest {
    /// Name of this VM.
    pub vm: String,
    /// Numbers of its vCPUs.
    pub vcpus: Vec<u32>,
    /// Names of locks and callers.
    pub names: Names,
}

/// What one sample read from the programs.
pub struct Reading {
    /// Every CPU and level at which there was an event.
    pub lanes: Vec<Lane>,
    /// Incidents since the previous sample, oldest first.
    pub incidents: Vec<Incident>,
    /// Events that the kernel did not hand to a program.
    pub recursion_misses: u64,
    /// What is observed, and how the lock is set up.
    pub source: Source,
}

impl Guest {
    /// The snapshot of a reading; number and times are left to the caller.
    pub fn snapshot(&self, reading: &Reading) -> Snapshot {
        let vcpus: Vec<Vcpu> = self.vcpus.iter().map(|&cpu| vcpu(cpu, &reading.lanes)).collect();
        let (mut hold, mut wait) = (Histogram::default(), Histogram::default());
        let (mut locks, mut callers) = (BTreeMap::new(), BTreeMap::new());
        let mut losses = Losses { recursion_misses: reading.recursion_misses, ..Losses::default() };
        for lane in &reading.lanes {
            hold.merge(&lane.state.classifier.hold);
            wait.merge(&lane.state.classifier.wait);
            merge_rows(&mut locks, &lane.locks.rows);
            merge_rows(&mut callers, &lane.callers.rows);
            let counters = &lane.state.classifier.counters;
            losses.incidents_dropped += counters.dropped;
            losses.unpaired += counters.unpaired();
            losses.overflowed += counters.overflowed;
            losses.table_overflowed += lane.locks.overflowed + lane.callers.overflowed;
        }
        let (hold, wait) = (Hist::from(&hold), Hist::from(&wait));
        Snapshot {
            source: reading.source.clone(),
            vms: vec![Vm { name: self.vm.clone(), vcpus, hold, wait }],
            locks: self.table(locks),
            callers: self.table(callers),
            incidents: reading
                .incidents
                .iter()
                .map(|incident| self.record(incident, &reading.incidents, reading.source.csd))
                .collect(),
            losses,
            ..Snapshot::default()
        }
    }

    fn table(&self, rows: BTreeMap<u64, Row>) -> Vec<TableRow> {
        let named = |row: Row| TableRow::new(self.names.of(row.key), &row);
        let mut rows: Vec<TableRow> = rows.into_values().map(named).collect();
        rows.sort_by(|a, b| b.wait_cycles.cmp(&a.wait_cycles).then_with(|| b.acquires.cmp(&a.acquires)));
        rows
    }

    fn record(&self, incident: &Incident, all: &[Incident], csd: u64) -> IncidentRecord {
        let preempted = incident.flags & Incident::PREEMPTED != 0;
        IncidentRecord {
            kind: if incident.kind == PspKind::Lhp as u8 { "lhp" } else { "lwp" }.into(),
            vm: self.vm.clone(),
            vcpu: incident.vcpu,
            seq: incident.seq,
            lock: self.names.of(incident.lock),
            caller: self.names.of(incident.ip),
            ticket: incident.ticket,
            lql: incident.lql,
            take: incident.take_tsc,
            from: incident.from_tsc,
            to: incident.to_tsc,
            from_slice: incident.from_ids.slice_id(),
            to_slice: incident.to_ids.slice_id(),
            planned_end: planned_end(incident, csd),
            // Exact if it left once between the two events; else when it would have left had it.
            real_end: preempted.then(|| incident.start.saturating_sub(incident.off)),
            back: incident.start,
            off: incident.off,
            lost: incident.lost,
            preempted,
            blocked: incident.flags & Incident::BLOCKED != 0,
            harmful: incident.flags & Incident::HARMFUL != 0,
            // The guest sees that it was away, not why.
            cause: String::new(),
            victims: victims(incident, all),
        }
    }
}

/// One vCPU: the sum of its levels, and the latest quantum that any of them saw.
fn vcpu(cpu: u32, lanes: &[Lane]) -> Vcpu {
    let mut vcpu = Vcpu { id: cpu, ..Vcpu::default() };
    let lanes = || lanes.iter().filter(|lane| lane.cpu == cpu);
    for lane in lanes() {
        vcpu.counters.merge(&lane.state.classifier.counters);
    }
    let published = || lanes().map(|lane| &lane.state).filter(|state| state.last_ids.published());
    let last = published().max_by_key(|state| state.last_tsc).map(|state| state.last_ids);
    if let Some(last) = last {
        vcpu.slice_id = last.slice_id();
        // Levels begin to see quanta at different times; the distance to the farthest first one counts.
        for first in published().map(|state| state.first_ids) {
            let slices = last.slice_id().wrapping_sub(first.slice_id());
            let dispatches =
                (last.dispatch_id() >> 1).wrapping_sub(first.dispatch_id() >> 1) & (u32::MAX >> 1);
            vcpu.slices = vcpu.slices.max(slices.into());
            vcpu.dispatches = vcpu.dispatches.max(dispatches.into());
        }
    }
    vcpu
}

fn merge_rows(all: &mut BTreeMap<u64, Row>, rows: &[Row]) {
    for row in rows.iter().filter(|row| row.key != 0) {
        all.entry(row.key).and_modify(|known| known.merge(row)).or_insert(*row);
    }
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
    use ispin_common::guest::{GuestState, GuestTable};
    use ispin_common::slot::Ids;

    use super::*;

    fn lane(cpu: u32, level: u32) -> Lane {
        let table = GuestTable { overflowed: 0, rows: [Row::default(); _] };
        Lane { cpu, level, state: GuestState::default(), locks: table, callers: table }
    }

    fn guest() -> Guest {
        Guest { vm: "vm".into(), vcpus: vec![0, 1], names: Names::default() }
    }

    fn reading(lanes: Vec<Lane>, incidents: Vec<Incident>) -> Reading {
        let source = Source { csd: 100, ..Source::default() };
        Reading { lanes, incidents, recursion_misses: 3, source }
    }

    #[test]
    fn nothing_seen_is_a_snapshot_of_idle_vcpus() {
        let snapshot = guest().snapshot(&reading(vec![], vec![]));
        assert_eq!(snapshot.vms.len(), 1);
        let ids: Vec<u32> = snapshot.vms[0].vcpus.iter().map(|vcpu| vcpu.id).collect();
        assert_eq!(ids, [0, 1]);
        assert_eq!(snapshot.vms[0].total().counters, Counters::default());
        assert_eq!(snapshot.losses.total(), 3);
    }

    #[test]
    fn levels_are_summed_and_the_latest_quantum_shown() {
        let mut task = lane(1, 0);
        task.state.classifier.counters.takes = 5;
        task.state.classifier.counters.lql_max = 3;
        task.state.classifier.hold.record(9);
        task.state.first_ids = Ids::new(u32::MAX - 1, 0x11);
        task.state.last_ids = Ids::new(4, 0x17);
        task.state.last_tsc = 1_000;
        task.locks.rows[7] = Row { key: 0x40, acquires: 5, wait_cycles: 10, ..Row::default() };
        let mut irq = lane(1, 2);
        irq.state.classifier.counters.takes = 2;
        irq.state.classifier.counters.lql_max = 4;
        irq.state.classifier.counters.dropped = 6;
        irq.state.first_ids = Ids::new(2, 0x15);
        irq.state.last_ids = Ids::new(3, 0x15);
        irq.state.last_tsc = 900;
        irq.locks.rows[9] = Row { key: 0x40, acquires: 1, ..Row::default() };
        irq.locks.rows[3] = Row { key: 0x80, acquires: 1, wait_cycles: 50, ..Row::default() };
        irq.callers.overflowed = 8;

        let snapshot = guest().snapshot(&reading(vec![task, irq], vec![]));
        let vcpu = &snapshot.vms[0].vcpus[1];
        assert_eq!((vcpu.counters.takes, vcpu.counters.lql_max), (7, 4));
        assert_eq!((vcpu.slice_id, vcpu.slices, vcpu.dispatches), (4, 6, 3));
        assert_eq!(snapshot.vms[0].hold.count(), 1);
        let locks: Vec<_> = snapshot.locks.iter().map(|row| (row.name.as_str(), row.acquires)).collect();
        assert_eq!(locks, [("0x80", 1), ("0x40", 6)]);
        assert_eq!((snapshot.losses.incidents_dropped, snapshot.losses.table_overflowed), (6, 8));
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
            cap: 800,
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
        let snapshot = guest().snapshot(&reading(vec![], vec![holder, waiter, elsewhere]));
        let record = &snapshot.incidents[0];
        assert_eq!(
            (record.kind.as_str(), record.lock.as_str(), record.caller.as_str()),
            ("lhp", "0x40", "0x99")
        );
        // Take at 1000 with 800 to spare after two critical sections of 100.
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
