//! The snapshots of several guests, made one stream: each snapshot shows all guests.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use ispin_agent::model::{GuestLock, IncidentRecord, LockStats, Losses, OTHERS, Snapshot, TableRow};

/// Puts together what the guests saw at about the same time: within one interval between snapshots, by the clock that
/// all guests of one Xen have in common from the start of their loads on. Before that each has its own.
pub struct Merge {
    guests: Vec<Queue>,
    /// What is known about all of them; `None` = there is one guest, whose snapshots go on as they are.
    world: Option<World>,
    seq: u64,
    /// Number of the interval that is next.
    next: Option<u64>,
}

/// What the guests do not know about the machine that they share.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// pCPUs that they share.
    pub pcpus: u32,
    /// The load.
    pub workload: String,
    /// Time between two snapshots of a guest.
    pub interval: Duration,
}

#[derive(Default)]
struct Queue {
    name: String,
    waiting: VecDeque<Snapshot>,
    last: Option<Snapshot>,
    /// Told since the last snapshot of all.
    incidents: Vec<IncidentRecord>,
}

impl Queue {
    /// Whether everything up to the end of interval `number` has come.
    fn has(&self, number: u64, interval_ms: u64) -> bool {
        let latest = self.waiting.back().or(self.last.as_ref());
        latest.is_some_and(|latest| latest.finished || latest.unix_ms / interval_ms > number)
    }

    /// When its agent began to observe, by the latest that was taken in, ns since the Unix epoch.
    fn began_ns(&self) -> Option<u64> {
        self.last.as_ref().map(|last| (last.unix_ms * 1_000_000).saturating_sub(last.elapsed_ns))
    }

    /// Takes in what belongs to the intervals up to `number`.
    fn take(&mut self, number: u64, interval_ms: u64) {
        let due = |next: &Snapshot| next.unix_ms / interval_ms <= number;
        while self.waiting.front().is_some_and(due)
            && let Some(mut next) = self.waiting.pop_front()
        {
            self.incidents.append(&mut next.incidents);
            self.last = Some(next);
        }
    }
}

impl Merge {
    /// Of these guests, in this order.
    pub fn new(names: &[String], world: Option<World>) -> Self {
        let queue = |name: &String| Queue { name: name.clone(), ..Queue::default() };
        Self { guests: names.iter().map(queue).collect(), world, seq: 0, next: None }
    }

    /// A snapshot of guest number `guest`.
    pub fn push(&mut self, guest: usize, snapshot: Snapshot) {
        self.guests[guest].waiting.push_back(snapshot);
    }

    /// The next snapshot of all, if every guest has come so far. What it says depends on what the guests sent, never on
    /// how much of it has come already.
    pub fn next(&mut self) -> Result<Option<Snapshot>> {
        let Some(world) = &self.world else { return Ok(self.guests[0].waiting.pop_front()) };
        let interval_ms = (world.interval.as_millis() as u64).max(1);
        let number = match self.next {
            Some(number) => number,
            None => {
                // The first one of all is that of the interval in which the last guest began.
                let first = |queue: &Queue| queue.waiting.front().map(|first| first.unix_ms / interval_ms);
                let Some(firsts) = self.guests.iter().map(first).collect::<Option<Vec<_>>>() else {
                    return Ok(None);
                };
                firsts.into_iter().max().unwrap_or_default()
            }
        };
        let earliest = self.guests.iter().filter_map(|queue| queue.waiting.front());
        let Some(earliest) = earliest.map(|next| next.unix_ms / interval_ms).min() else { return Ok(None) };
        let number = number.max(earliest);
        self.next = Some(number);
        if !self.guests.iter().all(|queue| queue.has(number, interval_ms)) {
            return Ok(None);
        }
        for queue in &mut self.guests {
            queue.take(number, interval_ms);
        }
        self.next = Some(number + 1);
        self.seq += 1;
        let began = self.guests.iter().filter_map(Queue::began_ns).min().unwrap_or_default();
        let mut all = Snapshot { seq: self.seq, finished: true, ..Snapshot::default() };
        for queue in &mut self.guests {
            add(&mut all, queue, began)?;
        }
        all.source.pcpus = world.pcpus;
        all.source.workload.clone_from(&world.workload);
        sort(&mut all.locks);
        sort(&mut all.callers);
        all.incidents.sort_by_key(|incident| incident.to);
        Ok(Some(all))
    }
}

/// Adds the latest of a guest. `began` is when the first agent began to observe, ns since the Unix epoch.
fn add(all: &mut Snapshot, queue: &mut Queue, began: u64) -> Result<()> {
    let name = &queue.name;
    let Some(one) = &queue.last else { bail!("{name} has sent no snapshot") };
    if all.vms.is_empty() {
        all.source = one.source.clone();
    }
    ensure!(
        all.source == one.source,
        "the guests do not run the same lock: {name} has {:?}, another one {:?}",
        one.source,
        all.source
    );
    all.unix_ms = all.unix_ms.max(one.unix_ms);
    let since_first = queue.began_ns().unwrap_or_default().saturating_sub(began) + one.elapsed_ns;
    all.elapsed_ns = all.elapsed_ns.max(since_first);
    all.finished &= one.finished && queue.waiting.is_empty();
    for vm in &one.vms {
        ensure!(vm.name == *name, "the guest {name} sent a snapshot of a VM that is called {}", vm.name);
        all.vms.push(vm.clone());
    }
    rows(&mut all.locks, &one.locks, name);
    rows(&mut all.callers, &one.callers, name);
    all.losses = sum(&all.losses, &one.losses);
    if let Some(guest) = &one.guest {
        let lock = all.guest.get_or_insert_default();
        *lock = both(lock, guest);
    }
    all.incidents.append(&mut queue.incidents);
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
    use ispin_agent::model::{Source, Vm};
    use proptest::prelude::*;

    use super::*;

    /// A snapshot of a guest whose agent began to observe at `began_ms`, one per 250 ms.
    fn one(name: &str, began_ms: u64, seq: u64, finished: bool) -> Snapshot {
        let row =
            |key, name: &str, acquires| TableRow { key, name: name.into(), acquires, ..Default::default() };
        Snapshot {
            seq,
            unix_ms: began_ms + seq * 250,
            elapsed_ns: seq * 250_000_000,
            source: Source { kind: "guest".into(), lock: "pv".into(), ..Source::default() },
            vms: vec![Vm { name: name.into(), ..Vm::default() }],
            locks: vec![row(5, "files", seq * 10 + name.len() as u64), row(0, OTHERS, 1)],
            incidents: vec![IncidentRecord { vm: name.into(), to: seq, ..Default::default() }],
            losses: Losses { unpaired: 1, ..Losses::default() },
            guest: Some(GuestLock { events: Some(seq == 1), irqs_off: None }),
            finished,
            ..Snapshot::default()
        }
    }

    fn merge() -> Merge {
        let world = World { pcpus: 1, workload: "dup".into(), interval: Duration::from_millis(250) };
        Merge::new(&["g1".into(), "g22".into()], Some(world))
    }

    /// What each guest's row of a lock says in the snapshots that are there: which snapshot of it was taken.
    fn taken(merge: &mut Merge) -> Vec<(u64, Vec<u64>)> {
        let mut all = vec![];
        while let Some(next) = merge.next().unwrap() {
            let mut numbers: Vec<(String, u64)> = next
                .locks
                .iter()
                .filter(|row| row.key != 0)
                .map(|row| (row.name.clone(), row.acquires / 10))
                .collect();
            numbers.sort();
            all.push((next.elapsed_ns / 1_000_000, numbers.into_iter().map(|(_, number)| number).collect()));
        }
        all
    }

    #[test]
    fn what_was_seen_at_the_same_time_is_put_together() {
        let mut merge = merge();
        // The second guest's agent begins 1.1 s later.
        for seq in 1..=6 {
            merge.push(0, one("g1", 10_000, seq, false));
        }
        assert_eq!(taken(&mut merge), []);
        merge.push(1, one("g22", 11_100, 1, false));
        merge.push(1, one("g22", 11_100, 2, false));
        // 11_350 and 11_250 are in the same interval; 11_600 is in that of 11_500.
        assert_eq!(taken(&mut merge), [(1350, vec![5, 1])]);
        merge.push(0, one("g1", 10_000, 7, true));
        merge.push(1, one("g22", 11_100, 3, true));
        assert_eq!(taken(&mut merge), [(1600, vec![6, 2]), (1850, vec![7, 3])]);
    }

    #[test]
    fn all_guests_are_in_it_each_with_its_own() {
        let mut merge = merge();
        for (number, name) in ["g1", "g22"].into_iter().enumerate() {
            merge.push(number, one(name, 10_000, 1, false));
            merge.push(number, one(name, 10_000, 2, false));
        }
        let all = merge.next().unwrap().expect("both are there");
        assert_eq!((all.seq, all.elapsed_ns, all.source.pcpus, all.finished), (1, 250_000_000, 1, false));
        assert_eq!(all.vms.iter().map(|vm| vm.name.as_str()).collect::<Vec<_>>(), ["g1", "g22"]);
        let names: Vec<&str> = all.locks.iter().map(|row| row.name.as_str()).collect();
        assert_eq!(names, ["g22: files", "g1: files", OTHERS]);
        assert_eq!((all.locks[2].acquires, all.losses.unpaired, all.incidents.len()), (2, 2, 2));
        assert!(merge.next().unwrap().is_none());
    }

    #[test]
    fn a_guest_that_has_finished_stays_as_it_was() {
        let mut merge = merge();
        merge.push(0, one("g1", 10_000, 1, true));
        for seq in 1..=3 {
            merge.push(1, one("g22", 10_000, seq, seq == 3));
        }
        assert!(!merge.next().unwrap().unwrap().finished);
        let all = merge.next().unwrap().unwrap();
        assert!(!all.finished && all.seq == 2);
        assert_eq!(all.incidents.len(), 1, "incidents are told once");
        assert!(merge.next().unwrap().unwrap().finished);
        assert!(merge.next().unwrap().is_none());
    }

    proptest! {
        /// However the snapshots of each guest come in, and however late those of the other one: the same stream.
        #[test]
        fn when_it_comes_changes_nothing(
            gaps in prop::array::uniform2(prop::collection::vec((1u64..900, 0u64..1_000_000), 1..12)),
            order in prop::collection::vec(any::<bool>(), 24),
        ) {
            let sent = ["g1", "g22"].map(|name| {
                let gaps = &gaps[usize::from(name == "g22")];
                let mut at = 10_000;
                let mut all = vec![];
                for (number, (gap, within)) in gaps.iter().enumerate() {
                    at += gap;
                    let mut next = one(name, 0, number as u64 + 1, number + 1 == gaps.len());
                    next.unix_ms = at;
                    // The wall clock is rounded to milliseconds, the other one is not.
                    next.elapsed_ns = (at - 10_000) * 1_000_000 + within;
                    all.push(next);
                }
                all
            });
            let stream = |chosen: &mut dyn FnMut() -> bool| {
                let (mut merge, mut came, mut all) = (merge(), [0, 0], vec![]);
                while came != [sent[0].len(), sent[1].len()] {
                    let mut guest = usize::from(chosen());
                    if came[guest] == sent[guest].len() {
                        guest = 1 - guest;
                    }
                    merge.push(guest, sent[guest][came[guest]].clone());
                    came[guest] += 1;
                    while let Some(next) = merge.next().unwrap() {
                        all.push(next);
                    }
                }
                all
            };
            let mut order = order.into_iter();
            let (one_by_one, mixed) =
                (stream(&mut || false), stream(&mut || order.next().unwrap_or_default()));
            prop_assert!(one_by_one.last().is_some_and(|last| last.finished));
            prop_assert_eq!(one_by_one, mixed);
        }
    }

    #[test]
    fn guests_that_differ_are_an_error() {
        let mut merge = merge();
        merge.push(0, one("g1", 10_000, 1, true));
        let mut other = one("g22", 10_000, 1, true);
        other.source.lock = "hvm".into();
        merge.push(1, other);
        assert!(merge.next().unwrap_err().to_string().contains("g22"));
    }

    #[test]
    fn a_guest_that_is_alone_is_passed_on() {
        let mut merge = Merge::new(&["vm0".into()], None);
        merge.push(0, one("vm0", 10_000, 7, false));
        assert_eq!(merge.next().unwrap(), Some(one("vm0", 10_000, 7, false)));
        assert_eq!(merge.next().unwrap(), None);
    }
}
