//! What the agents saw of their vCPUs' quanta, against what Xen's own trace says it granted.
//!
//! The trace begins before the guests do, so a vCPU's `slice_id` is at most the number of grants in it: a decision by
//! which a quantum merely goes on is in the trace, too, and has no number. An agent sees an id at an event only; what
//! was before its first and after its last event is in the trace alone. So it may have seen fewer, and never more.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use ispin_agent::model::Snapshot;
use tabled::builder::Builder;
use tabled::settings::Style;

use super::xentrace::{Counts, Trace};

/// A vCPU, seen by both.
#[derive(Clone, Debug)]
pub struct Row {
    /// The guest and its vCPU.
    pub name: String,
    /// By Xen.
    pub xen: Counts,
    /// By the agent: the latest quantum's number, and how many quanta and dispatches there were from event to event.
    pub agent: (u64, u64, u64),
}

/// Puts both together. `domains` are the numbers that Xen gave to the guests.
pub fn compare(trace: &Trace, domains: &BTreeMap<String, u32>, last: &Snapshot) -> Result<Vec<Row>> {
    if trace.lost > 0 {
        bail!("Xen's trace lost {} records, so nothing can be compared with it", trace.lost);
    }
    let mut rows = vec![];
    for vm in &last.vms {
        let Some(&domain) = domains.get(&vm.name) else {
            bail!("dom0 did not tell which domain {} is", vm.name)
        };
        for vcpu in &vm.vcpus {
            let xen = trace.vcpus.get(&(domain, vcpu.id)).copied().unwrap_or_default();
            let agent = (u64::from(vcpu.slice_id), vcpu.slices, vcpu.dispatches);
            let name = format!("{} {}", vm.name, vcpu.id);
            if agent.0 > xen.grants() || agent.1 > xen.grants() || agent.2 > xen.switched_in {
                bail!(
                    "vCPU {name}: the agent saw quantum {}, {} quanta and {} dispatches, more than Xen's trace has: {} \
                     grants and {} switch-ins",
                    agent.0,
                    agent.1,
                    agent.2,
                    xen.grants(),
                    xen.switched_in
                );
            }
            rows.push(Row { name, xen, agent });
        }
    }
    Ok(rows)
}

/// For people.
pub fn table(rows: &[Row]) -> String {
    let mut builder = Builder::default();
    builder.push_record([
        "vCPU",
        "grants",
        "last seen",
        "seen",
        "switch-ins",
        "seen",
        "preempted",
        "yielded",
        "blocked",
    ]);
    for Row { name, xen, agent } in rows {
        let counts = [
            xen.grants(),
            agent.0,
            agent.1,
            xen.switched_in,
            agent.2,
            xen.preempted,
            xen.yielded,
            xen.blocked,
        ];
        builder.push_record(std::iter::once(name.clone()).chain(counts.map(|count| count.to_string())));
    }
    let table = builder.build().with(Style::blank()).to_string();
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

#[cfg(test)]
mod tests {
    use ispin_agent::model::{Vcpu, Vm};

    use super::*;

    fn snapshot(slice_id: u32, slices: u64, dispatches: u64) -> Snapshot {
        let vcpu = Vcpu { id: 1, slice_id, slices, dispatches, ..Vcpu::default() };
        Snapshot {
            vms: vec![Vm { name: "g2".into(), vcpus: vec![vcpu], ..Vm::default() }],
            ..Snapshot::default()
        }
    }

    fn trace() -> Trace {
        let counts = Counts { switched_in: 8, continued: 2, preempted: 3, ..Counts::default() };
        Trace { vcpus: BTreeMap::from([((5, 1), counts)]), ..Trace::default() }
    }

    #[test]
    fn an_agent_sees_no_more_than_there_was() {
        let domains = BTreeMap::from([("g2".to_owned(), 5)]);
        let rows = compare(&trace(), &domains, &snapshot(10, 6, 8)).unwrap();
        let text = table(&rows);
        assert!(text.contains("g2 1") && text.contains("10") && text.contains("preempted"), "{text}");
        for (slice_id, slices, dispatches) in [(11, 6, 8), (10, 11, 8), (10, 6, 9)] {
            let error = compare(&trace(), &domains, &snapshot(slice_id, slices, dispatches)).unwrap_err();
            assert!(error.to_string().contains("vCPU g2 1"), "{error}");
        }
        assert!(compare(&trace(), &BTreeMap::new(), &snapshot(1, 1, 1)).is_err());
        let lost = Trace { lost: 1, ..trace() };
        assert!(compare(&lost, &domains, &snapshot(1, 1, 1)).unwrap_err().to_string().contains("lost 1"));
    }
}
