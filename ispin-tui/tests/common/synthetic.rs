//! A made-up world: snapshots as a source would deliver them, the same at every run.

use ispin_agent::model::{
    Convoy, CrossCheck, GuestLock, Hist, IncidentRecord, KernelCounts, Seed, Snapshot, Source, TableRow,
    Vcpu, Victim, Vm,
};
use ispin_common::counters::Counters;

/// Time between two snapshots.
pub const INTERVAL_NS: u64 = 250_000_000;
const MS: u64 = 1_000_000;
/// 2026-01-01, in milliseconds since the Unix epoch.
const BEGAN_MS: u64 = 1_767_225_600_000;

/// A world of VMs of equal size under one lock.
#[derive(Clone, Debug)]
pub struct World {
    /// VMs.
    pub vms: u32,
    /// vCPUs of each.
    pub vcpus: u32,
    /// Name of the lock; `ticket` falls into the convoy, every other behaves.
    pub lock: String,
    /// Which run of a series this is: runs begin at different times.
    pub run: u64,
}

impl World {
    /// Of so many VMs and vCPUs.
    pub fn new(vms: u32, vcpus: u32, lock: &str) -> Self {
        Self { vms, vcpus, lock: lock.into(), run: 0 }
    }

    /// Snapshot number `n`, from 1.
    pub fn snapshot(&self, n: u64) -> Snapshot {
        let elapsed_ns = n * INTERVAL_NS;
        let vms: Vec<_> = (0..self.vms).map(|vm| self.vm(vm, n)).collect();
        let sum = vms.iter().map(Vm::total).fold(Vcpu::default(), |mut sum, vm| {
            sum.merge(&vm);
            sum
        });
        let row = |name: &str, key, share: u64| TableRow {
            name: name.into(),
            key,
            acquires: sum.counters.acquires / share,
            contended: sum.counters.contended / share,
            deferrals: sum.counters.deferrals / share,
            wait_cycles: sum.counters.wait_cycles / share,
            spin_cycles: sum.counters.spin_cycles / share,
            hold_cycles: sum.counters.hold_cycles / share,
            lhp: sum.counters.lhp / share,
            lwp: sum.counters.lwp / share,
            lwp_harmful: sum.counters.lwp_harmful / share,
            idle_cycles: sum.counters.idle_cycles / share,
            ..TableRow::default()
        };
        Snapshot {
            seq: n,
            unix_ms: BEGAN_MS + self.run * 60_000 + elapsed_ns / MS,
            elapsed_ns,
            source: Source {
                kind: "threads".into(),
                lock: self.lock.clone(),
                time_unit: "ns".into(),
                csd: 10_000,
                quantum: 8 * MS,
                pcpus: 2,
                workload: "hold 2us gap 5us".into(),
                ..Source::default()
            },
            vms,
            locks: vec![row("counter", 1, 1), row("journal", 2, 5), row("inode", 3, 40)],
            callers: vec![row("bench_add", 10, 1), row("journal_commit", 11, 6)],
            incidents: if self.convoy() { vec![self.incident(n)] } else { vec![] },
            losses: Default::default(),
            cross_check: Some(CrossCheck {
                agreed: sum.counters.psp(),
                window_taking: n / 8,
                ..CrossCheck::default()
            }),
            finished: false,
            guest: None,
        }
    }

    /// The same as it would look in a guest: locks by the kernel's names, no phases, made-up quanta.
    #[allow(dead_code, reason = "not every test file looks at guests")]
    pub fn guest_snapshot(&self, n: u64) -> Snapshot {
        let mut snapshot = self.snapshot(n);
        snapshot.source.kind = "guest".into();
        snapshot.source.time_unit = "tsc".into();
        snapshot.source.slot_source = "software".into();
        snapshot.source.csd = 1 << 14;
        snapshot.source.pcpus = 0;
        snapshot.source.workload = "this kernel's spinlocks".into();
        snapshot.cross_check = None;
        snapshot.guest = Some(GuestLock { events: Some(false), irqs_off: None });
        for vcpu in snapshot.vms.iter_mut().flat_map(|vm| &mut vm.vcpus) {
            (vcpu.running, vcpu.quantum_left, vcpu.phase) = (false, None, String::new());
            vcpu.total_cycles = 2 * vcpu.on_time;
        }
        let names = ["file_close_fd@0xffff888002de8600", "runqueues[2]", "all others"];
        for (row, name) in snapshot.locks.iter_mut().zip(names) {
            row.name = name.into();
        }
        for (row, name) in snapshot.callers.iter_mut().zip(["alloc_fd+0x3a", "raw_spin_rq_lock_nested+0x9"]) {
            row.name = name.into();
        }
        for incident in &mut snapshot.incidents {
            (incident.lock, incident.caller) = (names[0].into(), "alloc_fd+0x3a".into());
        }
        snapshot
    }

    fn convoy(&self) -> bool {
        self.lock == "ticket"
    }

    fn vm(&self, vm: u32, n: u64) -> Vm {
        let scale = |bucket: u64| n * bucket;
        let mut hold = vec![0; 11];
        hold.extend([4, 900, 40, 2].map(scale));
        let mut wait = vec![0; 9];
        wait.extend([700, 200, 30, 12, 6, 3, 1].map(scale));
        if self.convoy() {
            wait.extend([0, 0, 0, 0, 0, 1, 2, 25, 60, 3].map(scale));
        }
        let mut hold = Hist { buckets: hold };
        if !self.convoy() {
            hold.buckets.truncate(14);
        }
        Vm {
            name: format!("vm{vm}"),
            vcpus: (0..self.vcpus).map(|vcpu| self.vcpu(vm, vcpu, n)).collect(),
            hold,
            wait: Hist { buckets: wait },
            convoys: u64::from(self.convoy()),
            convoy_psp: if self.convoy() { 30 * n } else { 0 },
            // The second VM's has healed.
            convoy: (self.convoy() && vm == 0).then(|| Convoy {
                lock: "counter".into(),
                since: 3 * MS,
                since_ns: INTERVAL_NS,
                until: n * INTERVAL_NS,
                psp: 30 * n,
                seed: Seed {
                    kind: "lhp".into(),
                    vcpu: 2,
                    caller: "bench_add".into(),
                    reason: "early".into(),
                },
            }),
            ..Vm::default()
        }
    }

    fn vcpu(&self, vm: u32, vcpu: u32, n: u64) -> Vcpu {
        let at = u64::from(vm * self.vcpus + vcpu);
        // A little different from vCPU to vCPU, so that sorting shows.
        let some = |each: u64| each * n * (100 + (at * 37) % 23) / 100;
        let counters = if self.convoy() {
            Counters {
                takes: some(32),
                acquires: some(32),
                contended: some(30),
                releases: some(32),
                wait_cycles: some(200 * MS),
                spin_cycles: some(25 * MS),
                hold_cycles: some(64_000),
                lql_sum: some(96),
                lql_max: u64::from(self.vcpus - 1),
                lhp: n * (at % 3) / 4,
                lhp_preempted: n * (at % 3) / 4,
                lwp: some(7),
                lwp_preempted: some(7),
                lwp_harmful: some(3),
                psp_early: n * (at % 3) / 4,
                psp_long_wait: some(7),
                idle_cycles: some(9 * MS),
                ..Counters::default()
            }
        } else {
            Counters {
                takes: some(3_000),
                acquires: some(3_000),
                contended: some(600),
                releases: some(3_000),
                deferrals: some(15),
                defer_cycles: some(8 * MS),
                defer_spin_cycles: some(2 * MS),
                wait_cycles: some(600_000),
                spin_cycles: some(600_000),
                hold_cycles: some(6_000_000),
                lql_sum: some(660),
                lql_max: 3,
                ..Counters::default()
            }
        };
        let quanta = some(16);
        let running = at % 4 == n % 4;
        Vcpu {
            id: vcpu,
            running,
            phase: ["idle", "waiting", "holding", "waiting"][((at + n) % 4) as usize].into(),
            quantum_left: running.then_some(8 * MS - (at + n) % 8 * MS),
            slice_id: quanta as u32,
            slices: quanta,
            dispatches: quanta,
            on_time: some(62 * MS),
            counters,
            kernel: KernelCounts {
                holders: counters.lhp,
                waiters: counters.lwp,
                out_quantum: quanta,
                out_observer: n / 4,
                ..KernelCounts::default()
            },
            ..Vcpu::default()
        }
    }

    /// The incident that comes with snapshot `n`: every fourth is an LHP.
    pub fn incident(&self, n: u64) -> IncidentRecord {
        let take = n * INTERVAL_NS + 1_000 * n;
        let lhp = n.is_multiple_of(4);
        let acquire = take + 3_000;
        let planned = take + 2 * MS;
        let real = planned + 20_000 - n * 1_000;
        let back = real + 8 * MS;
        let harmful = n.is_multiple_of(3);
        let victims = if lhp {
            (1..self.vcpus.min(4))
                .map(|vcpu| Victim {
                    vcpu,
                    take: take + u64::from(vcpu) * 400_000,
                    acquire: back + 5_000 * u64::from(vcpu),
                })
                .collect()
        } else {
            vec![]
        };
        let idle = if harmful { 3 * MS } else { 0 };
        IncidentRecord {
            kind: if lhp { "lhp" } else { "lwp" }.into(),
            vm: format!("vm{}", n % u64::from(self.vms)),
            vcpu: 0,
            seq: 100 + n as u32,
            lock: "counter".into(),
            caller: "bench_add".into(),
            ticket: 800 + n as u32,
            lql: 2,
            take,
            from: if lhp { acquire } else { take },
            to: back + 1_500,
            from_slice: 41,
            to_slice: 42,
            planned_end: Some(planned),
            real_end: Some(real),
            back,
            off: back - real,
            lost: if lhp { back - real } else { idle },
            preempted: true,
            blocked: false,
            harmful: harmful && !lhp,
            reason: if lhp { "early" } else { "long_wait" }.into(),
            cause: "quantum".into(),
            victims,
        }
    }
}
