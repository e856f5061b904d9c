//! CSV: a row per interval and vCPU, and one per VM with `vcpu` = `all`. Columns: docs/columns.md.

use anyhow::{Context, Result};
use ispin_common::counters::Counters;

use super::output::Output;
use super::{Kind, Sink};
use crate::interval::{Figures, Interval, VmDelta};
use crate::model::{CrossCheck, KernelCounts, LockStats, Losses, Snapshot, Vcpu};

pub const KIND: Kind = Kind {
    option: "csv",
    value: "FILE|-",
    help: "Write CSV: a row per interval and vCPU and one per VM; - is standard output",
    open: |value| Ok(Box::new(Csv { output: Output::open("csv", value)? })),
};

struct Csv {
    output: Output,
}

impl Sink for Csv {
    fn target(&self) -> String {
        self.output.name().to_owned()
    }

    fn begin(&mut self) -> Result<()> {
        self.output.begin()?;
        let mut writer = csv::Writer::from_writer(vec![]);
        writer.write_record(columns())?;
        self.output.write_block(&writer.into_inner().context("formatting CSV")?)
    }

    fn write(&mut self, previous: Option<&Snapshot>, now: &Snapshot) -> Result<()> {
        let interval = Interval::new(previous, now);
        let mut writer = csv::Writer::from_writer(vec![]);
        for vm in interval.vms() {
            for vcpu in &vm.vcpus {
                write_row(&mut writer, &interval, now, &vm, Some(vcpu))?;
            }
            write_row(&mut writer, &interval, now, &vm, None)?;
        }
        let block = writer.into_inner().context("formatting CSV")?;
        if block.is_empty() { Ok(()) } else { self.output.write_block(&block) }
    }
}

const LEADING: [&str; 13] = [
    "time_ms",
    "elapsed_ms",
    "interval_ms",
    "source",
    "time_unit",
    "lock",
    "slot_source",
    "vm",
    "vcpu",
    "slices",
    "dispatches",
    "on_time",
    "total_cycles",
];

/// What is known of convoys, in the rows of whole VMs.
const CONVOY: [&str; 6] =
    ["convoys", "convoy_psp", "convoy_cycles", "convoy_lock", "convoy_since_ms", "convoy_seed"];

/// The columns, in order. A name keeps its meaning for ever; new ones may come anywhere.
pub fn columns() -> Vec<String> {
    let mut columns: Vec<String> =
        LEADING.iter().chain(Counters::NAMES).chain(&Figures::NAMES).map(|s| s.to_string()).collect();
    columns.push("hold_over_csd_pct".into());
    columns.extend(CONVOY.map(str::to_owned));
    columns.extend(KernelCounts::default().named().iter().map(|(name, _)| format!("kernel_{name}")));
    columns.extend(LockStats::NAMES.iter().map(|name| format!("stats_{name}")));
    columns.extend(Losses::default().named().iter().map(|(name, _)| format!("losses_{name}")));
    columns.extend(CrossCheck::default().named().iter().map(|(name, _)| format!("cross_check_{name}")));
    columns
}

/// One row; `vcpu` `None` = the VM as a whole, whose row also says what concerns the whole observation.
fn write_row(
    writer: &mut csv::Writer<Vec<u8>>,
    interval: &Interval,
    now: &Snapshot,
    vm: &VmDelta,
    vcpu: Option<&Vcpu>,
) -> Result<()> {
    let delta = vcpu.unwrap_or(&vm.all);
    let milliseconds = |ns: u64| decimal(Some(ns as f64 / 1e6));
    writer.write_field(now.unix_ms.to_string())?;
    writer.write_field(milliseconds(now.elapsed_ns))?;
    writer.write_field(milliseconds(interval.ns()))?;
    writer.write_field(&now.source.kind)?;
    writer.write_field(&now.source.time_unit)?;
    writer.write_field(&now.source.lock)?;
    writer.write_field(&now.source.slot_source)?;
    writer.write_field(vm.name)?;
    writer.write_field(vcpu.map_or_else(|| "all".to_owned(), |vcpu| vcpu.id.to_string()))?;
    let times = [delta.slices, delta.dispatches, delta.on_time, delta.total_cycles];
    for n in times.into_iter().chain(delta.counters.values()) {
        writer.write_field(n.to_string())?;
    }
    for figure in Figures::of(delta, interval.ns()).values() {
        writer.write_field(decimal(figure))?;
    }
    let over_csd = vm.hold_over_csd_pct(now.source.csd).filter(|_| vcpu.is_none());
    writer.write_field(decimal(over_csd))?;
    if vcpu.is_none() {
        for n in [vm.convoys, vm.convoy_psp, vm.convoy_cycles] {
            writer.write_field(n.to_string())?;
        }
        let convoy = vm.convoy;
        writer.write_field(convoy.map_or("", |convoy| &convoy.lock))?;
        writer.write_field(convoy.map_or_else(String::new, |convoy| milliseconds(convoy.since_ns)))?;
        writer.write_field(convoy.map_or_else(String::new, |convoy| convoy.seed.to_string()))?;
    } else {
        for _ in CONVOY {
            writer.write_field("")?;
        }
    }
    for (_, n) in delta.kernel.named() {
        writer.write_field(n.to_string())?;
    }
    for name in LockStats::NAMES {
        let n = delta.stats.as_ref().and_then(|stats| stats.get(name));
        writer.write_field(n.map_or_else(String::new, |n| n.to_string()))?;
    }
    for (_, n) in interval.losses().named() {
        writer.write_field(if vcpu.is_none() { n.to_string() } else { String::new() })?;
    }
    let cross_check = interval.cross_check().filter(|_| vcpu.is_none());
    for (_, n) in cross_check.unwrap_or_default().named() {
        writer.write_field(if cross_check.is_some() { n.to_string() } else { String::new() })?;
    }
    // Ends the record.
    writer.write_record(None::<&[u8]>)?;
    Ok(())
}

/// At most four decimals, no trailing zeros; empty if unknown.
fn decimal(value: Option<f64>) -> String {
    value.map_or_else(String::new, |v| ((v * 1e4).round() / 1e4).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_unique() {
        let mut names = columns();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn decimals_are_short_and_unknown_is_empty() {
        assert_eq!(decimal(Some(2.0)), "2");
        assert_eq!(decimal(Some(1.0 / 3.0)), "0.3333");
        assert_eq!(decimal(None), "");
    }
}
