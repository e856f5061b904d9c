//! Incidents and tables of the threads world under the names that its session gives.

use std::collections::HashSet;

use ispin_common::incident::{Incident, PspKind, SwitchIncident};
use ispin_common::slot::NO_LIMIT;
use ispin_common::table::Row;
use ispin_common::threads::OutCause;

use crate::model::{IncidentRecord, OTHERS, TableRow, Victim};
use crate::session::World;

/// The incidents of one sample, each with the switch that caused it where that is known.
pub fn incident_records(
    world: &World,
    incidents: &[(usize, Incident)],
    causes: &[Option<SwitchIncident>],
) -> Vec<IncidentRecord> {
    let record = |(at, (vm, i)): (usize, &(usize, Incident))| {
        let cause = causes[at].as_ref();
        IncidentRecord {
            kind: i.kind_name().into(),
            vm: world.vms[*vm].name.clone(),
            vcpu: i.vcpu,
            seq: i.seq,
            lock: name_of(i.lock, &world.lock_names),
            caller: name_of(i.ip, &world.caller_names),
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
            reason: i.reason().map_or_else(String::new, |reason| reason.name().into()),
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

/// Keys of the threads world count from 1.
fn name_of(key: u64, names: &[String]) -> String {
    let named = (key as usize).checked_sub(1).and_then(|i| names.get(i));
    named.cloned().unwrap_or_else(|| format!("#{key}"))
}

/// The rows under their names, the longest waits first.
pub fn table_rows(rows: &[Row], names: &[String]) -> Vec<TableRow> {
    let name = |key| if key == 0 { OTHERS.to_owned() } else { name_of(key, names) };
    let mut out: Vec<TableRow> = rows.iter().map(|row| TableRow::new(name(row.key), row)).collect();
    let others_last = |row: &TableRow| row.key == 0;
    out.sort_by(|a, b| {
        let by_wait = b.wait_cycles.cmp(&a.wait_cycles).then_with(|| a.name.cmp(&b.name));
        others_last(a).cmp(&others_last(b)).then(by_wait)
    });
    out
}
