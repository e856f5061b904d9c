//! The snapshots of several guests, made one stream: each snapshot shows all guests.

use std::collections::VecDeque;

use anyhow::{Result, bail, ensure};
use ispin_agent::model::{GuestLock, LockStats, Losses, OTHERS, Snapshot, TableRow};

/// Gathers snapshots until every guest has one, and puts them together.
pub struct Merge {
    guests: Vec<Queue>,
    /// What is known about all of them; `None` = there is one guest, whose snapshots go on as they are.
    world: Option<World>,
    seq: u64,
}

/// What the guests do not know about the machine that they share.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// pCPUs that they share.
    pub pcpus: u32,
    /// The load.
    pub workload: String,
}

#[derive(Default)]
struct Queue {
    name: String,
    waiting: VecDeque<Snapshot>,
    last: Option<Snapshot>,
}

impl Queue {
    fn finished(&self) -> bool {
        self.last.as_ref().is_some_and(|last| last.finished)
    }
}

impl Merge {
    /// Of these guests, in this order.
    pub fn new(names: &[String], world: Option<World>) -> Self {
        let queue = |name: &String| Queue { name: name.clone(), ..Queue::default() };
        Self { guests: names.iter().map(queue).collect(), world, seq: 0 }
    }

    /// A snapshot of guest number `guest`.
    pub fn push(&mut self, guest: usize, snapshot: Snapshot) {
        self.guests[guest].waiting.push_back(snapshot);
    }

    /// The next snapshot of all, if every guest that has not finished has sent one.
    pub fn next(&mut self) -> Result<Option<Snapshot>> {
        let missing = |queue: &Queue| queue.waiting.is_empty() && !queue.finished();
        if self.guests.iter().any(missing) || self.guests.iter().all(|queue| queue.waiting.is_empty()) {
            return Ok(None);
        }
        let mut fresh = vec![];
        for queue in &mut self.guests {
            let next = queue.waiting.pop_front();
            fresh.push(next.is_some());
            queue.last = next.or(queue.last.take());
        }
        let Some(world) = &self.world else { return Ok(self.guests[0].last.clone()) };
        self.seq += 1;
        let mut all = Snapshot { seq: self.seq, finished: true, ..Snapshot::default() };
        for (queue, fresh) in self.guests.iter().zip(fresh) {
            let Some(one) = &queue.last else { bail!("{} has sent no snapshot", queue.name) };
            add(&mut all, queue, one, fresh)?;
        }
        all.source.pcpus = world.pcpus;
        all.source.workload.clone_from(&world.workload);
        sort(&mut all.locks);
        sort(&mut all.callers);
        all.incidents.sort_by_key(|incident| incident.to);
        Ok(Some(all))
    }
}

fn add(all: &mut Snapshot, queue: &Queue, one: &Snapshot, fresh: bool) -> Result<()> {
    let name = &queue.name;
    if all.vms.is_empty() {
        all.source = one.source.clone();
    }
    ensure!(
        all.source == one.source,
        "the guests do not run the same lock: {name} has {:?}, another one {:?}",
        one.source,
        all.source
    );
    // Their clocks are the same; the stretch that a snapshot of all covers ends with the latest of them.
    all.unix_ms = all.unix_ms.max(one.unix_ms);
    all.elapsed_ns = all.elapsed_ns.max(one.elapsed_ns);
    all.finished &= one.finished;
    for vm in &one.vms {
        ensure!(vm.name == *name, "the guest {name} sent a snapshot of a VM that is called {}", vm.name);
        all.vms.push(vm.clone());
    }
    rows(&mut all.locks, &one.locks, name);
    rows(&mut all.callers, &one.callers, name);
    if fresh {
        all.incidents.extend(one.incidents.iter().cloned());
    }
    all.losses = sum(&all.losses, &one.losses);
    if let Some(guest) = &one.guest {
        let lock = all.guest.get_or_insert_default();
        *lock = both(lock, guest);
    }
    Ok(())
}

/// Rows of a guest: its locks are others than those of the same name in another guest. What has no row of its own
/// goes into one row for all guests.
fn rows(all: &mut Vec<TableRow>, rows: &[TableRow], guest: &str) {
    for row in rows {
        if row.key != 0 {
            let mut row = row.clone();
            row.name = format!("{guest}: {}", row.name);
            all.push(row);
            continue;
        }
        let other = match all.iter().position(|row| row.key == 0) {
            Some(at) => &mut all[at],
            None => {
                all.push(TableRow { name: OTHERS.to_owned(), ..TableRow::default() });
                let at = all.len() - 1;
                &mut all[at]
            }
        };
        other.acquires += row.acquires;
        other.contended += row.contended;
        other.deferrals += row.deferrals;
        other.wait_cycles += row.wait_cycles;
        other.spin_cycles += row.spin_cycles;
        other.hold_cycles += row.hold_cycles;
        other.lhp += row.lhp;
        other.lwp += row.lwp;
        other.lwp_harmful += row.lwp_harmful;
        other.idle_cycles += row.idle_cycles;
    }
}

/// Busiest first, as in a snapshot of one guest; what has no row of its own last.
fn sort(rows: &mut [TableRow]) {
    rows.sort_by(|a, b| {
        (a.key == 0, std::cmp::Reverse(a.acquires), &a.name).cmp(&(
            b.key == 0,
            std::cmp::Reverse(b.acquires),
            &b.name,
        ))
    });
}

fn sum(a: &Losses, b: &Losses) -> Losses {
    Losses {
        incidents_dropped: a.incidents_dropped + b.incidents_dropped,
        switches_dropped: a.switches_dropped + b.switches_dropped,
        table_overflowed: a.table_overflowed + b.table_overflowed,
        recursion_misses: a.recursion_misses + b.recursion_misses,
        late_samples: a.late_samples + b.late_samples,
        unpaired: a.unpaired + b.unpaired,
        overflowed: a.overflowed + b.overflowed,
    }
}

/// The gates are open if one of them is.
fn both(a: &GuestLock, b: &GuestLock) -> GuestLock {
    let events = match (a.events, b.events) {
        (Some(a), Some(b)) => Some(a || b),
        (one, other) => one.or(other),
    };
    let mut irqs_off: Option<LockStats> = a.irqs_off.clone();
    if let Some(stats) = &b.irqs_off {
        irqs_off.get_or_insert_default().merge(stats);
    }
    GuestLock { events, irqs_off }
}

#[cfg(test)]
mod tests {
    use ispin_agent::model::{IncidentRecord, Source, Vm};

    use super::*;

    fn one(name: &str, seq: u64, finished: bool) -> Snapshot {
        let row =
            |key, name: &str, acquires| TableRow { key, name: name.into(), acquires, ..Default::default() };
        Snapshot {
            seq,
            elapsed_ns: seq * 250,
            source: Source { kind: "guest".into(), lock: "pv".into(), ..Source::default() },
            vms: vec![Vm { name: name.into(), ..Vm::default() }],
            locks: vec![row(5, "files", seq * 10 + name.len() as u64), row(0, OTHERS, 1)],
            incidents: vec![IncidentRecord { vm: name.into(), ..Default::default() }],
            losses: Losses { unpaired: 1, ..Losses::default() },
            guest: Some(GuestLock { events: Some(seq == 1), irqs_off: None }),
            finished,
            ..Snapshot::default()
        }
    }

    fn merge() -> Merge {
        let world = World { pcpus: 1, workload: "dup".into() };
        Merge::new(&["g1".into(), "g22".into()], Some(world))
    }

    #[test]
    fn a_snapshot_of_all_comes_when_all_have_sent_one() {
        let mut merge = merge();
        merge.push(0, one("g1", 1, false));
        assert!(merge.next().unwrap().is_none());
        merge.push(1, one("g22", 1, false));
        let all = merge.next().unwrap().expect("both are there");
        assert_eq!((all.seq, all.elapsed_ns, all.source.pcpus, all.finished), (1, 250, 1, false));
        assert_eq!(all.vms.iter().map(|vm| vm.name.as_str()).collect::<Vec<_>>(), ["g1", "g22"]);
        let names: Vec<&str> = all.locks.iter().map(|row| row.name.as_str()).collect();
        assert_eq!(names, ["g22: files", "g1: files", OTHERS]);
        assert_eq!((all.locks[2].acquires, all.losses.unpaired, all.incidents.len()), (2, 2, 2));
        assert!(merge.next().unwrap().is_none());
    }

    #[test]
    fn a_guest_that_has_finished_stays_as_it_was() {
        let mut merge = merge();
        merge.push(0, one("g1", 1, true));
        merge.push(1, one("g22", 1, false));
        merge.push(1, one("g22", 2, true));
        assert!(!merge.next().unwrap().unwrap().finished);
        let all = merge.next().unwrap().unwrap();
        assert!(all.finished && all.seq == 2);
        assert_eq!(all.incidents.len(), 1, "incidents are told once");
        assert!(merge.next().unwrap().is_none());
    }

    #[test]
    fn guests_that_differ_are_an_error() {
        let mut merge = merge();
        merge.push(0, one("g1", 1, false));
        let mut other = one("g22", 1, false);
        other.source.lock = "hvm".into();
        merge.push(1, other);
        assert!(merge.next().unwrap_err().to_string().contains("g22"));
    }

    #[test]
    fn a_guest_that_is_alone_is_passed_on() {
        let mut merge = Merge::new(&["vm0".into()], None);
        merge.push(0, one("vm0", 7, false));
        assert_eq!(merge.next().unwrap(), Some(one("vm0", 7, false)));
    }
}
