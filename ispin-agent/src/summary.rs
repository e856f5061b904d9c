//! What a run showed, as a table for people at its end.

use tabled::builder::Builder;
use tabled::settings::object::Columns;
use tabled::settings::{Alignment, Modify, Style};

use ispin_common::reason::Reason;

use crate::interval::Figures;
use crate::model::{Snapshot, Vcpu};

/// One session: a row per VM, then losses and the cross-check.
pub fn of(last: &Snapshot) -> String {
    let mut builder = Builder::default();
    builder.push_record([
        "vm",
        "vCPUs",
        "acquires/s",
        "deferrals",
        "LHP",
        "LWP",
        "harmful",
        "PSP/s",
        "PSP/quantum",
        "spin %",
        "of all %",
        "defer %",
        "hold",
        "wait",
    ]);
    for vm in &last.vms {
        builder.push_record(row(&vm.name, vm.vcpus.len(), &vm.total(), last.elapsed_ns));
    }
    if last.vms.len() > 1 {
        let mut all = Vcpu::default();
        for vm in &last.vms {
            all.merge(&vm.total());
        }
        let vcpus = last.vms.iter().map(|vm| vm.vcpus.len()).sum();
        builder.push_record(row("all", vcpus, &all, last.elapsed_ns));
    }
    let mut table = builder.build();
    table.with(Style::blank()).with(Modify::new(Columns::new(1..)).with(Alignment::right()));
    let table: String = table.to_string().lines().map(|line| format!("{}\n", line.trim_end())).collect();

    let source = &last.source;
    let mut text = format!(
        "source {}, lock {}, {:.1} s observed; hold and wait are means in {}\n{table}",
        source.kind,
        source.lock,
        last.elapsed_ns as f64 / 1e9,
        source.time_unit
    );
    if let Some(caveat) = source.caveat() {
        text += &format!("NO RESULT: slots {}: {caveat}\n", source.slot_source);
    }
    for vm in &last.vms {
        let Some(over) = vm.hold_over_csd.filter(|_| vm.hold.count() > 0) else { continue };
        let share = over as f64 * 100.0 / vm.hold.count() as f64;
        text += &format!(
            "{}: {share:.3} % of the holds are not shorter than the csd of {}\n",
            vm.name, source.csd
        );
    }
    for vm in &last.vms {
        let total = vm.total().counters;
        let reasons: Vec<String> = Reason::ALL
            .into_iter()
            .filter(|&reason| total.of_reason(reason) > 0)
            .map(|reason| format!("{} {}", reason.name(), total.of_reason(reason)))
            .collect();
        if !reasons.is_empty() {
            text += &format!("{}: reasons of PSP: {}\n", vm.name, reasons.join(", "));
        }
        if total.deferred_takes > 0 {
            text += &format!(
                "{}: of {} deferred tickets {} came in the next quantum, {} with time enough\n",
                vm.name, total.deferred_takes, total.deferred_next, total.deferred_capable
            );
        }
        if vm.convoys > 0 {
            text += &format!("{}: CONVOYS: {}, with {} PSP in them", vm.name, vm.convoys, vm.convoy_psp);
            match &vm.convoy {
                Some(now) => text += &format!("; one goes on at {}, begun by {}\n", now.lock, now.seed),
                None => text += "\n",
            }
        }
    }
    let lost = named(&last.losses.named());
    text += &if lost.is_empty() { "nothing was lost\n".to_owned() } else { format!("LOST: {lost}\n") };
    for vm in &last.vms {
        let total = vm.total();
        let Some(stats) = &total.stats else { continue };
        // A plain ticket lock passes by the code that counts.
        if stats.0.values().all(|count| *count == 0) && source.lock == "ticket" {
            continue;
        }
        let ours = [
            ("takes", total.counters.takes),
            ("deferrals", total.counters.deferrals),
            ("unslotted", total.counters.unslotted),
            ("expired", total.counters.expired),
        ];
        let pairs = ours.iter().filter_map(|(name, seen)| {
            stats.get(name).map(|counted| format!("{name} {counted} (seen {seen})"))
        });
        let known = |name: &String| ours.iter().any(|(known, _)| known == name);
        let rest = stats.0.keys().filter(|name| !known(name)).map(|name| format!("{name} {}", stats.0[name]));
        let all: Vec<String> = pairs.chain(rest).collect();
        text += &format!("{}: the kernel's own counts: {}\n", vm.name, all.join(", "));
    }
    if let Some(check) = &last.cross_check {
        let seen = named(&check.named());
        let seen = if seen.is_empty() { "no preemption in mid-episode" } else { &seen };
        let verdict = if check.unexplained == 0 { "" } else { " (unexplained: please report)" };
        text += &format!("library against kernel: {seen}{verdict}\n");
    }
    text
}

fn row(name: &str, vcpus: usize, total: &Vcpu, ns: u64) -> Vec<String> {
    let f = Figures::of(total, ns);
    let c = &total.counters;
    let number =
        |value: Option<f64>, decimals: usize| value.map_or("-".into(), |v| format!("{v:.decimals$}"));
    vec![
        name.into(),
        vcpus.to_string(),
        number(f.acquires_per_s, 0),
        c.deferrals.to_string(),
        c.lhp.to_string(),
        c.lwp.to_string(),
        c.lwp_harmful.to_string(),
        number(f.psp_per_s, 1),
        number(f.psp_per_quantum, 4),
        number(f.spin_pct, 1),
        number(f.spin_total_pct, 1),
        number(f.defer_pct, 1),
        number(f.hold_mean, 0),
        number(f.wait_mean, 0),
    ]
}

/// Those that are not zero.
fn named(values: &[(&str, u64)]) -> String {
    let present = values.iter().filter(|(_, n)| *n > 0).map(|(name, n)| format!("{name} {n}"));
    present.collect::<Vec<_>>().join(", ")
}
