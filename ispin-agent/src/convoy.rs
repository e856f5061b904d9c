//! Convoys: one preemption that goes on and on.
//!
//! A PSP begins when its vCPU takes the ticket or acquires the lock, and ends when it acquires or releases it. PSPs of
//! one lock whose times overlap, one with the next, form a *chain*: each made the next one wait. What one preemption can
//! do to a lock ends with one PSP for each vCPU. So a chain is a *convoy* once it holds more PSPs than the VM has vCPUs:
//! then preempted waiters make others wait until they are preempted, and it goes on by itself. The first of the chain is
//! its seed. Renewals without preemption make nobody wait and do not count.

use std::collections::BTreeMap;

use crate::model::{Convoy, IncidentRecord, Seed, Snapshot};

/// A convoy of which nothing has come for so long is over, ns.
const SILENCE_NS: u64 = 1_000_000_000;

/// The fewest PSPs of a convoy, however few vCPUs there are.
const LEAST: u64 = 4;

/// Finds the convoys of one session.
#[derive(Debug, Default)]
pub struct Convoys {
    /// The latest chain of each lock, by VM and name of the lock.
    chains: BTreeMap<(String, String), Chain>,
    /// Totals by VM.
    totals: BTreeMap<String, Totals>,
}

#[derive(Debug, Default)]
struct Totals {
    convoys: u64,
    psp: u64,
    /// Over and done with.
    cycles: u64,
}

#[derive(Debug)]
struct Chain {
    seed: Seed,
    since: u64,
    since_ns: u64,
    until: u64,
    seen_ns: u64,
    psp: u64,
    convoy: bool,
}

impl Chain {
    fn new(first: &IncidentRecord, now_ns: u64) -> Self {
        Self {
            seed: Seed {
                kind: first.kind.clone(),
                vcpu: first.vcpu,
                caller: first.caller.clone(),
                reason: first.reason.clone(),
            },
            since: first.from,
            since_ns: now_ns,
            until: first.to,
            seen_ns: now_ns,
            psp: 1,
            convoy: false,
        }
    }

    fn cycles(&self) -> u64 {
        self.until.saturating_sub(self.since)
    }
}

impl Convoys {
    /// Takes in the incidents of a snapshot, and tells it what there is.
    pub fn update(&mut self, snapshot: &mut Snapshot) {
        let now = snapshot.elapsed_ns;
        let limit = |vm: &str| {
            let vcpus = snapshot.vms.iter().find(|v| v.name == vm).map_or(0, |vm| vm.vcpus.len());
            LEAST.max(vcpus as u64 + 1)
        };
        // The source sorts them by their end; an owner's comes before those who waited for it.
        for incident in snapshot.incidents.iter().filter(|incident| incident.preempted) {
            let least = limit(&incident.vm);
            self.add(incident, now, least);
        }
        self.end_silent(now);
        for vm in &mut snapshot.vms {
            let totals = self.totals.get(&vm.name);
            let convoys = self.chains.iter().filter(|((name, _), chain)| *name == vm.name && chain.convoy);
            // The one that has cost most.
            let worst = convoys.clone().max_by_key(|(_, chain)| chain.psp);
            vm.convoy = worst.map(|((_, lock), chain)| Convoy {
                lock: lock.clone(),
                since: chain.since,
                since_ns: chain.since_ns,
                until: chain.until,
                psp: chain.psp,
                seed: chain.seed.clone(),
            });
            vm.convoys = totals.map_or(0, |totals| totals.convoys);
            vm.convoy_psp = totals.map_or(0, |totals| totals.psp);
            let open: u64 = convoys.map(|(_, chain)| chain.cycles()).sum();
            vm.convoy_cycles = totals.map_or(0, |totals| totals.cycles) + open;
        }
    }

    fn add(&mut self, incident: &IncidentRecord, now: u64, least: u64) {
        let key = (incident.vm.clone(), incident.lock.clone());
        let totals = self.totals.entry(incident.vm.clone()).or_default();
        let chain = match self.chains.get_mut(&key) {
            Some(chain) if incident.from <= chain.until => {
                chain.psp += 1;
                chain.until = chain.until.max(incident.to);
                chain.seen_ns = now;
                chain
            }
            over => {
                if let Some(chain) = over.filter(|chain| chain.convoy) {
                    totals.cycles += chain.cycles();
                }
                self.chains.insert(key, Chain::new(incident, now));
                return;
            }
        };
        if chain.convoy {
            totals.psp += 1;
        } else if chain.psp >= least {
            chain.convoy = true;
            totals.convoys += 1;
            totals.psp += chain.psp;
        }
    }

    fn end_silent(&mut self, now: u64) {
        let totals = &mut self.totals;
        self.chains.retain(|(vm, _), chain| {
            let alive = now.saturating_sub(chain.seen_ns) <= SILENCE_NS;
            if !alive && chain.convoy {
                totals.entry(vm.clone()).or_default().cycles += chain.cycles();
            }
            alive
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Vcpu, Vm};

    fn psp(lock: &str, vcpu: u32, from: u64, to: u64) -> IncidentRecord {
        IncidentRecord {
            kind: if vcpu == 0 { "lhp" } else { "lwp" }.into(),
            vm: "g1".into(),
            vcpu,
            lock: lock.into(),
            caller: format!("caller{vcpu}"),
            reason: "early".into(),
            from,
            to,
            preempted: true,
            ..IncidentRecord::default()
        }
    }

    fn snapshot(elapsed_ns: u64, incidents: Vec<IncidentRecord>) -> Snapshot {
        let vm = Vm { name: "g1".into(), vcpus: vec![Vcpu::default(); 4], ..Vm::default() };
        Snapshot { elapsed_ns, vms: vec![vm], incidents, ..Snapshot::default() }
    }

    fn after(convoys: &mut Convoys, mut snapshot: Snapshot) -> Vm {
        convoys.update(&mut snapshot);
        snapshot.vms.remove(0)
    }

    /// As many as there are vCPUs, one after the other: the wake of one preemption.
    fn wake(lock: &str) -> Vec<IncidentRecord> {
        (0..4).map(|i| psp(lock, i, 10 + u64::from(i), 100 + 10 * u64::from(i))).collect()
    }

    #[test]
    fn the_wake_of_one_preemption_is_no_convoy() {
        let mut convoys = Convoys::default();
        let vm = after(&mut convoys, snapshot(1, wake("a")));
        assert_eq!((vm.convoys, vm.convoy_psp, vm.convoy_cycles, vm.convoy), (0, 0, 0, None));
    }

    #[test]
    fn more_than_one_preemption_can_explain_is_one() {
        let mut convoys = Convoys::default();
        after(&mut convoys, snapshot(1, wake("a")));
        let vm = after(&mut convoys, snapshot(2, vec![psp("a", 0, 120, 200), psp("a", 1, 190, 300)]));
        assert_eq!((vm.convoys, vm.convoy_psp, vm.convoy_cycles), (1, 6, 290));
        let convoy = vm.convoy.unwrap();
        assert_eq!((convoy.lock.as_str(), convoy.since, convoy.since_ns, convoy.until), ("a", 10, 1, 300));
        assert_eq!(
            (convoy.seed.kind.as_str(), convoy.seed.vcpu, convoy.seed.reason.as_str()),
            ("lhp", 0, "early")
        );
        assert_eq!(convoy.seed.caller, "caller0");
    }

    #[test]
    fn a_gap_ends_it_and_so_does_silence() {
        let mut convoys = Convoys::default();
        after(&mut convoys, snapshot(1, [wake("a"), vec![psp("a", 0, 120, 200)]].concat()));
        let vm = after(&mut convoys, snapshot(2, vec![psp("a", 2, 201, 220)]));
        assert_eq!((vm.convoys, vm.convoy_cycles, vm.convoy), (1, 190, None));
        after(&mut convoys, snapshot(3, [wake("b"), vec![psp("b", 0, 120, 200)]].concat()));
        let vm = after(&mut convoys, snapshot(3 + SILENCE_NS, vec![]));
        assert_eq!((vm.convoys, vm.convoy.is_some()), (2, true));
        let vm = after(&mut convoys, snapshot(4 + SILENCE_NS, vec![]));
        assert_eq!((vm.convoys, vm.convoy_psp, vm.convoy_cycles, vm.convoy), (2, 10, 380, None));
    }

    #[test]
    fn other_locks_and_renewals_do_not_count() {
        let mut convoys = Convoys::default();
        let renewals =
            (0..9).map(|i| IncidentRecord { preempted: false, ..psp("a", i % 4, 10, 100 + u64::from(i)) });
        let mut all: Vec<_> = renewals.collect();
        all.extend((0..9).map(|i| psp(&format!("lock{i}"), i % 4, 10, 100)));
        assert_eq!(after(&mut convoys, snapshot(1, all)).convoys, 0);
    }
}
