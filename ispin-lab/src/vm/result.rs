//! The closing table of a run: what the load achieved and what the agent counted.

use std::io::Write;

use anyhow::{Context, Result};
use ispin_agent::model::Snapshot;
use tabled::builder::Builder;
use tabled::settings::Style;

use super::boot::Observed;
use super::options::{Hypervisor, VmOptions};
use super::report::LoadResult;

/// Of a run that went well.
fn table(options: &VmOptions, observed: &Observed) -> String {
    let mut builder = Builder::default();
    let mut row = |name: &str, value: String| builder.push_record([name.to_owned(), value]);
    if let Some(result) = observed.result() {
        row("load", format!("{}, {} threads", result.workload, result.threads));
    }
    for (name, result) in &observed.results {
        let of = if observed.results.len() > 1 { format!(" of {name}") } else { String::new() };
        row(&format!("result{of}"), achieved(result));
        if let Some((least, most)) = least_and_most(result) {
            row(&format!("a thread{of}"), format!("{least} to {most} operations"));
        }
    }
    row("lock", format!("{}, {} vCPUs", options.lock, options.vcpus));
    if options.hypervisor == Hypervisor::Xen {
        let xen = &options.xen;
        row(
            "Xen",
            format!(
                "{} {} guests on {} pCPU, {}, quanta: {}",
                xen.guests(),
                xen.guest_type(),
                xen.pcpus(),
                xen.scheduler(),
                options.policy()
            ),
        );
    }
    match &observed.last {
        Some(last) => {
            for (name, value) in counted(last) {
                row(name, value);
            }
        }
        None => row("counts", "none: there was no agent".to_owned()),
    }
    let table = builder.build().with(Style::blank()).to_string();
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// The figure that the load is about, and what it is made of.
fn achieved(result: &LoadResult) -> String {
    let operations = format!("{} operations in {:.2} s", result.operations, result.seconds);
    match result.value {
        Some(value) => format!("{} {} ({operations})", figure(value), result.unit),
        None => format!("{} operations/s ({operations})", figure(result.per_second)),
    }
}

/// Operations of the thread that did least, and of the one that did most, if the load tells them.
fn least_and_most(result: &LoadResult) -> Option<(u64, u64)> {
    let spread = result.other.get("per_thread")?.get("operations_spread")?;
    let of = |name: &str| Some(spread.get(name)?.as_f64()? as u64);
    Some((of("min")?, of("max")?))
}

fn figure(value: f64) -> String {
    if value.abs() < 1000.0 { format!("{value:.3}") } else { format!("{value:.0}") }
}

fn counted(last: &Snapshot) -> Vec<(&'static str, String)> {
    let mut total = ispin_common::counters::Counters::default();
    for vm in &last.vms {
        total.merge(&vm.total().counters);
    }
    let lost: Vec<String> = last
        .losses
        .named()
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    let lost = if lost.is_empty() { "nothing".to_owned() } else { lost.join(", ") };
    vec![
        ("takes", total.takes.to_string()),
        ("acquires", total.acquires.to_string()),
        ("releases", total.releases.to_string()),
        ("deferrals", total.deferrals.to_string()),
        ("LHP", total.lhp.to_string()),
        ("LWP", total.lwp.to_string()),
        ("lost", lost),
    ]
}

/// What must be known about the figures, if anything.
fn caution(source: Option<&str>) -> Option<&'static str> {
    match source {
        Some("software") => Some(
            "the kernel makes its quanta up: they preempt nobody, and LHP, LWP and deferrals are no results",
        ),
        Some("none") => {
            Some("nobody publishes slots: nothing can be deferred, and LHP and LWP cannot be seen")
        }
        _ => None,
    }
}

/// Prints the closing table.
pub fn tell(options: &VmOptions, observed: &Observed) -> Result<()> {
    let mut text = table(options, observed);
    if let Some(caution) = caution(observed.source.as_deref()) {
        text += &format!("{caution}\n");
    }
    // Standard output may carry the snapshots.
    if options.sinks.use_stdout() {
        std::io::stderr().write_all(text.as_bytes()).context("printing the result")
    } else {
        std::io::stdout().write_all(text.as_bytes()).context("printing the result")
    }
}

#[cfg(test)]
mod tests {
    use ispin_agent::model::{Losses, Vcpu, Vm};
    use ispin_common::counters::Counters;

    use super::*;

    fn options(arguments: &[&str]) -> VmOptions {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            options: VmOptions,
        }
        let line = <Line as clap::Parser>::try_parse_from(["vm"].iter().chain(arguments));
        line.expect("options").options
    }

    fn result(value: Option<f64>, unit: &str) -> LoadResult {
        LoadResult {
            workload: "kernbench".into(),
            threads: 4,
            seconds: 9.5,
            operations: 190,
            value,
            unit: unit.into(),
            per_second: 20.0,
            gate_seconds: None,
            other: serde_json::Map::new(),
        }
    }

    #[test]
    fn a_load_is_told_in_its_own_unit() {
        assert_eq!(achieved(&result(Some(9.5), "s")), "9.500 s (190 operations in 9.50 s)");
        assert_eq!(
            achieved(&result(Some(12345.6), "records/s")),
            "12346 records/s (190 operations in 9.50 s)"
        );
        assert_eq!(achieved(&result(None, "")), "20.000 operations/s (190 operations in 9.50 s)");
    }

    #[test]
    fn counts_and_losses_are_in_the_table() {
        let counters =
            Counters { takes: 70, acquires: 71, deferrals: 3, lhp: 1, lwp: 2, ..Counters::default() };
        let vcpu = Vcpu { counters, ..Vcpu::default() };
        let last = Snapshot {
            vms: vec![Vm { vcpus: vec![vcpu.clone(), vcpu], ..Vm::default() }],
            losses: Losses { unpaired: 4, ..Losses::default() },
            ..Snapshot::default()
        };
        let results = vec![("vm0".to_owned(), result(None, ""))];
        let observed = Observed { last: Some(last), source: None, results, ..Observed::default() };
        let text = table(&options(&["--lock", "hvm", "--vcpus", "2"]), &observed);
        for (name, value) in
            [("takes", "140"), ("acquires", "142"), ("deferrals", "6"), ("LWP", "4"), ("lost", "unpaired 4")]
        {
            let line = text.lines().find(|line| line.trim_start().starts_with(name)).unwrap_or_default();
            assert!(line.ends_with(value), "{name} {value}: {text}");
        }
        let mut observed = Observed { last: None, ..observed };
        let without = table(&options(&["--lock", "stock"]), &observed);
        assert!(without.contains("there was no agent"), "{without}");
        observed.results = ["g1", "g2"].map(|name| (name.to_owned(), result(None, ""))).to_vec();
        let xen = table(&options(&["--hypervisor", "xen", "--policy", "firm"]), &observed);
        assert!(
            xen.contains("result of g2") && xen.contains("2 pv guests on 1 pCPU, credit, quanta: firm"),
            "{xen}"
        );
    }

    #[test]
    fn made_up_quanta_are_told_as_such() {
        assert!(caution(Some("software")).is_some_and(|text| text.contains("preempt nobody")));
        assert_eq!(caution(Some("xen")), None);
        assert_eq!(caution(None), None);
    }
}
