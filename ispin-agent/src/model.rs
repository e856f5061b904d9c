//! The one picture that every source makes and every sink and screen shows.
//!
//! A [`Snapshot`] holds totals since observation began; what happened in an interval is the difference of
//! two. All `*_cycles` and `*_time` values are in [`Source::time_unit`].

use ispin_common::counters::Counters;
use ispin_common::histogram::{Histogram, NR_BUCKETS};
use ispin_common::table::Row;
use serde::{Deserialize, Serialize};

/// State of the observed world at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Number of this snapshot, from 1.
    pub seq: u64,
    /// Milliseconds since the Unix epoch.
    pub unix_ms: u64,
    /// Nanoseconds since observation began.
    pub elapsed_ns: u64,
    /// What is observed.
    pub source: Source,
    /// The VMs, in order.
    pub vms: Vec<Vm>,
    /// Busiest locks first.
    pub locks: Vec<TableRow>,
    /// Busiest callers first.
    pub callers: Vec<TableRow>,
    /// Incidents that came in since the previous snapshot, oldest first.
    pub incidents: Vec<IncidentRecord>,
    /// What was lost on the way.
    pub losses: Losses,
    /// Library against kernel; `None` where there is one observer only.
    pub cross_check: Option<CrossCheck>,
    /// True in the last snapshot of a run: the observed world has ended.
    pub finished: bool,
}

/// What is observed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// `threads`, `guest`, ...
    pub kind: String,
    /// Name of the lock algorithm.
    pub lock: String,
    /// Unit of all times: `ns` or `tsc`.
    pub time_unit: String,
    /// Critical section duration estimate, in `time_unit`.
    pub csd: u64,
    /// Length of a full quantum, in `time_unit`; 0 = unknown.
    pub quantum: u64,
    /// pCPUs that the vCPUs share; 0 = unknown.
    pub pcpus: u32,
    /// Free text: what the workload is.
    pub workload: String,
}

/// One VM.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Vm {
    /// Its name.
    pub name: String,
    /// Its vCPUs, in order of their slots.
    pub vcpus: Vec<Vcpu>,
    /// Hold times of all its vCPUs.
    pub hold: Hist,
    /// Wait times of all its vCPUs.
    pub wait: Hist,
}

impl Vm {
    /// Sum over its vCPUs.
    pub fn total(&self) -> Vcpu {
        let mut total = Vcpu { phase: String::new(), ..Vcpu::default() };
        for vcpu in &self.vcpus {
            total.merge(vcpu);
        }
        total
    }
}

/// One vCPU, totals over its context levels.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Vcpu {
    /// Index of its slot.
    pub id: u32,
    /// On a pCPU at the moment of the snapshot.
    pub running: bool,
    /// Phase in a lock operation at that moment; empty if the source cannot tell.
    pub phase: String,
    /// Remaining quantum; `None` = off its pCPU, no limit or unknown.
    pub quantum_left: Option<u64>,
    /// `slice_id` of the latest quantum.
    pub slice_id: u32,
    /// Quanta granted since observation began.
    pub slices: u64,
    /// Dispatches since observation began.
    pub dispatches: u64,
    /// Time on a pCPU since observation began.
    pub on_time: u64,
    /// The classifier's counters, by the names of [`Counters::NAMES`].
    #[serde(with = "counters_by_name")]
    pub counters: Counters,
    /// What the kernel's own observer at `sched_switch` counted.
    pub kernel: KernelCounts,
}

impl Vcpu {
    /// Adds another vCPU's totals.
    pub fn merge(&mut self, other: &Self) {
        self.slices += other.slices;
        self.dispatches += other.dispatches;
        self.on_time += other.on_time;
        self.counters.merge(&other.counters);
        self.kernel.merge(&other.kernel);
    }

    /// What came on top since `earlier` (moment values are those of `self`).
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            slices: self.slices.saturating_sub(earlier.slices),
            dispatches: self.dispatches.saturating_sub(earlier.dispatches),
            on_time: self.on_time.saturating_sub(earlier.on_time),
            counters: self.counters.since(&earlier.counters),
            kernel: self.kernel.since(&earlier.kernel),
            ..self.clone()
        }
    }
}

/// Why vCPUs left their pCPU, as the publisher saw it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelCounts {
    /// Preempted while holding a lock.
    pub holders: u64,
    /// Preempted while queued for a lock.
    pub waiters: u64,
    /// Preempted in one of the named windows between two phases.
    pub edges: u64,
    /// Switch-outs because the quantum ended.
    pub out_quantum: u64,
    /// Switch-outs that the agent or the dashboard caused.
    pub out_observer: u64,
    /// Switch-outs that anything else on the machine caused.
    pub out_host: u64,
    /// Switch-outs because the vCPU slept.
    pub out_blocked: u64,
    /// Switch-outs because it yielded.
    pub out_yielded: u64,
    /// Switch-outs more than a tick before the published end.
    pub early: u64,
}

impl KernelCounts {
    /// Adds another vCPU's.
    pub fn merge(&mut self, o: &Self) {
        self.combine(o, |a, b| a + b);
    }

    /// What came on top since `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        let mut out = *self;
        out.combine(earlier, u64::saturating_sub);
        out
    }

    /// Name and value of each, for sinks and screen.
    pub fn named(&self) -> [(&'static str, u64); 9] {
        [
            ("holders", self.holders),
            ("waiters", self.waiters),
            ("edges", self.edges),
            ("out_quantum", self.out_quantum),
            ("out_observer", self.out_observer),
            ("out_host", self.out_host),
            ("out_blocked", self.out_blocked),
            ("out_yielded", self.out_yielded),
            ("early", self.early),
        ]
    }

    fn combine(&mut self, o: &Self, f: impl Fn(u64, u64) -> u64) {
        for (a, b) in [
            (&mut self.holders, o.holders),
            (&mut self.waiters, o.waiters),
            (&mut self.edges, o.edges),
            (&mut self.out_quantum, o.out_quantum),
            (&mut self.out_observer, o.out_observer),
            (&mut self.out_host, o.out_host),
            (&mut self.out_blocked, o.out_blocked),
            (&mut self.out_yielded, o.out_yielded),
            (&mut self.early, o.early),
        ] {
            *a = f(*a, b);
        }
    }
}

/// A log2 histogram; bucket `i` counts times in `[2^i, 2^(i+1))`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hist {
    /// Counts; trailing empty buckets are left out.
    pub buckets: Vec<u64>,
}

impl From<&Histogram> for Hist {
    fn from(h: &Histogram) -> Self {
        let used = h.buckets.iter().rposition(|&n| n > 0).map_or(0, |i| i + 1);
        Self { buckets: h.buckets[..used].to_vec() }
    }
}

impl Hist {
    /// Count of bucket `i`, 0 beyond the end.
    pub fn get(&self, i: usize) -> u64 {
        self.buckets.get(i).copied().unwrap_or(0)
    }

    /// How many values were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Adds another histogram.
    pub fn merge(&mut self, other: &Self) {
        let len = self.buckets.len().max(other.buckets.len()).min(NR_BUCKETS);
        self.buckets.resize(len, 0);
        for (a, b) in self.buckets.iter_mut().zip(&other.buckets) {
            *a += b;
        }
    }
}

/// Totals of one lock or caller.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableRow {
    /// Its name, or its address where there is none.
    pub name: String,
    /// Address, or number in the threads world.
    pub key: u64,
    /// Acquires.
    pub acquires: u64,
    /// Acquires that met a queue.
    pub contended: u64,
    /// Refused tickets.
    pub deferrals: u64,
    /// From take to acquire.
    pub wait_cycles: u64,
    /// From take to acquire, on the pCPU.
    pub spin_cycles: u64,
    /// From acquire to release.
    pub hold_cycles: u64,
    /// Lock holder preemptions.
    pub lhp: u64,
    /// Lock waiter preemptions.
    pub lwp: u64,
    /// Harmful ones of them.
    pub lwp_harmful: u64,
    /// How long the lock stood free because of them.
    pub idle_cycles: u64,
}

impl TableRow {
    /// The totals in `row`, whose key is called `name`.
    pub fn new(name: String, row: &Row) -> Self {
        Self {
            name,
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
        }
    }
}

/// One problematic spin preemption, for the log and the timeline.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IncidentRecord {
    /// `lhp` or `lwp`.
    pub kind: String,
    /// Name of the VM.
    pub vm: String,
    /// vCPU.
    pub vcpu: u32,
    /// Episode number of this vCPU.
    pub seq: u32,
    /// Name of the lock.
    pub lock: String,
    /// Name of the caller.
    pub caller: String,
    /// Ticket.
    pub ticket: u32,
    /// Queue length at the take.
    pub lql: u32,
    /// When the ticket was taken.
    pub take: u64,
    /// Take (LWP) or acquire (LHP): where the problematic stretch began.
    pub from: u64,
    /// Acquire (LWP) or release (LHP): where it ended.
    pub to: u64,
    /// Quantum at `from`.
    pub from_slice: u32,
    /// Quantum at `to`.
    pub to_slice: u32,
    /// Planned end of the quantum in which it began, if known.
    pub planned_end: Option<u64>,
    /// When the vCPU really left its pCPU, if known.
    pub real_end: Option<u64>,
    /// When it was back.
    pub back: u64,
    /// Time off the pCPU.
    pub off: u64,
    /// Time lost to others.
    pub lost: u64,
    /// The dispatch differs too.
    pub preempted: bool,
    /// The lock blocked or yielded.
    pub blocked: bool,
    /// The turn came while off the pCPU.
    pub harmful: bool,
    /// Why it lost its pCPU, if known: `quantum`, `observer`, `host`, `blocked`, `yielded`.
    pub cause: String,
    /// Who waited behind it meanwhile, if known: vCPU and time waited.
    pub victims: Vec<Victim>,
}

/// A vCPU that waited behind a preempted one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Victim {
    /// vCPU.
    pub vcpu: u32,
    /// When its ticket was taken.
    pub take: u64,
    /// When it got the lock.
    pub acquire: u64,
}

/// What was lost on the way from the event to this snapshot. All zero = nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Losses {
    /// Incidents that found their ring full.
    pub incidents_dropped: u64,
    /// Switch records that found their ring full.
    pub switches_dropped: u64,
    /// Lock or caller rows that found their table full.
    pub table_overflowed: u64,
    /// Runs of an eBPF program that the kernel skipped (`recursion_misses`).
    pub recursion_misses: u64,
    /// Snapshots that came more than half an interval late.
    pub late_samples: u64,
    /// Episodes that could not be paired (sum over vCPUs of the `unpaired_*` counters).
    pub unpaired: u64,
    /// Episodes pushed out of a full table of open episodes.
    pub overflowed: u64,
}

impl Losses {
    /// Name and value of each, for sinks and screen.
    pub fn named(&self) -> [(&'static str, u64); 7] {
        [
            ("incidents_dropped", self.incidents_dropped),
            ("switches_dropped", self.switches_dropped),
            ("table_overflowed", self.table_overflowed),
            ("recursion_misses", self.recursion_misses),
            ("late_samples", self.late_samples),
            ("unpaired", self.unpaired),
            ("overflowed", self.overflowed),
        ]
    }

    /// All of them together.
    pub fn total(&self) -> u64 {
        self.named().iter().map(|(_, n)| n).sum()
    }

    /// What came on top since `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            incidents_dropped: self.incidents_dropped.saturating_sub(earlier.incidents_dropped),
            switches_dropped: self.switches_dropped.saturating_sub(earlier.switches_dropped),
            table_overflowed: self.table_overflowed.saturating_sub(earlier.table_overflowed),
            recursion_misses: self.recursion_misses.saturating_sub(earlier.recursion_misses),
            late_samples: self.late_samples.saturating_sub(earlier.late_samples),
            unpaired: self.unpaired.saturating_sub(earlier.unpaired),
            overflowed: self.overflowed.saturating_sub(earlier.overflowed),
        }
    }
}

/// The lock library's incidents joined with the kernel's by vCPU and episode number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CrossCheck {
    /// Seen by both, same kind.
    pub agreed: u64,
    /// The switch fell between reading the ids and having the ticket.
    pub window_taking: u64,
    /// The switch fell between the turn and reading the ids for the acquire.
    pub window_acquiring: u64,
    /// The switch fell between reading the ids for the release and the release.
    pub window_releasing: u64,
    /// The episode was open when observation began or ended.
    pub window_attach: u64,
    /// A partner may have been lost to a full ring.
    pub window_dropped: u64,
    /// Not joined yet: the partner may still come.
    pub pending: u64,
    /// None of these. Anything but zero is a defect.
    pub unexplained: u64,
}

impl CrossCheck {
    /// Name and value of each, for sinks and screen.
    pub fn named(&self) -> [(&'static str, u64); 8] {
        [
            ("agreed", self.agreed),
            ("window_taking", self.window_taking),
            ("window_acquiring", self.window_acquiring),
            ("window_releasing", self.window_releasing),
            ("window_attach", self.window_attach),
            ("window_dropped", self.window_dropped),
            ("pending", self.pending),
            ("unexplained", self.unexplained),
        ]
    }

    /// What came on top since `earlier`; `pending` is a momentary value and stays.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            agreed: self.agreed.saturating_sub(earlier.agreed),
            window_taking: self.window_taking.saturating_sub(earlier.window_taking),
            window_acquiring: self.window_acquiring.saturating_sub(earlier.window_acquiring),
            window_releasing: self.window_releasing.saturating_sub(earlier.window_releasing),
            window_attach: self.window_attach.saturating_sub(earlier.window_attach),
            window_dropped: self.window_dropped.saturating_sub(earlier.window_dropped),
            pending: self.pending,
            unexplained: self.unexplained.saturating_sub(earlier.unexplained),
        }
    }
}

mod counters_by_name {
    use super::Counters;
    use serde::de::{Error, MapAccess, Visitor};
    use serde::{Deserializer, Serializer, ser::SerializeMap};

    pub fn serialize<S: Serializer>(c: &Counters, s: S) -> Result<S::Ok, S::Error> {
        let mut map = s.serialize_map(Some(Counters::COUNT))?;
        for (name, value) in Counters::NAMES.iter().zip(c.values()) {
            map.serialize_entry(name, &value)?;
        }
        map.end()
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Counters, D::Error> {
        struct ByName;
        impl<'de> Visitor<'de> for ByName {
            type Value = Counters;
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("a map from counter names to numbers")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Counters, A::Error> {
                let mut values = [0; Counters::COUNT];
                while let Some((name, value)) = map.next_entry::<String, u64>()? {
                    let at = Counters::NAMES
                        .iter()
                        .position(|known| **known == name)
                        .ok_or_else(|| A::Error::custom(format!("unknown counter `{name}`")))?;
                    values[at] = value;
                }
                Ok(Counters::from_values(&values))
            }
        }
        d.deserialize_map(ByName)
    }
}
