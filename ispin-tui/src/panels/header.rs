//! What is observed and its figures in brief; what was lost on the way; whether both observers agree.

use ispin_agent::model::{CrossCheck, Snapshot, Vcpu};
use ispin_common::reason::Reason;
use ratatui::text::Line;

use super::View;
use super::flow::{Item, fact, figure, wrap};
use crate::format::{clock, count, percent, time, total};
use crate::state::measured::Rates;
use crate::theme::Role;

/// From this width on the header tells all; below, it leaves out what the tables and the documentation of the run
/// tell as well.
const WIDE: u16 = 120;

/// The header's lines for a screen of so many columns.
pub fn lines(view: View, columns: u16) -> Vec<Line<'static>> {
    let Some(now) = view.seen().now() else {
        return wrap(
            vec![vec![view.span(Role::Strong, "ispin")], fact(view, "from", &*view.app.feed)],
            columns,
        );
    };
    let wide = columns >= WIDE;
    let sum = sum_of(now);
    let mut lines = wrap(identity(view, now), columns);
    lines.extend(wrap(figures(view, &sum, wide), columns));
    let mut rest = vec![losses(view, now, &sum)];
    rest.extend(reasons(view, &sum));
    rest.extend(now.cross_check.as_ref().map(|check| cross_check(view, check)));
    rest.extend(switches(view, &sum).filter(|_| wide));
    lines.extend(wrap(rest, columns));
    lines.extend(wrap(convoys(view, now), columns));
    lines
}

fn sum_of(now: &Snapshot) -> Vcpu {
    let mut sum = Vcpu::default();
    for vm in &now.vms {
        sum.merge(&vm.total());
    }
    sum
}

fn identity(view: View, now: &Snapshot) -> Vec<Item> {
    let source = &now.source;
    let unit = &source.time_unit;
    let vcpus: usize = now.vms.iter().map(|vm| vm.vcpus.len()).sum();
    let mut size = format!("{}, {}", plural(now.vms.len(), "VM"), plural(vcpus, "vCPU"));
    if source.pcpus > 0 {
        size.push_str(&format!(" on {}", plural(source.pcpus as usize, "pCPU")));
    }
    let mut items = vec![
        vec![view.span(Role::Strong, "ispin"), view.span(Role::Plain, format!(" {}", source.kind))],
        vec![view.span(Role::Label, "lock "), view.span(Role::Strong, &*source.lock)],
        vec![view.span(Role::Plain, size)],
    ];
    if source.quantum > 0 {
        items.push(fact(view, "quantum", time(source.quantum, unit)));
    }
    items.push(fact(view, "csd", time(source.csd, unit)));
    if source.caveat().is_some() {
        let slots = format!("{}: no result", source.slot_source);
        items.push(vec![view.span(Role::Label, "slots "), view.span(Role::Warning, slots)]);
    } else if source.kind == "guest" && !source.slot_source.is_empty() {
        items.push(fact(view, "slots", &*source.slot_source));
    }
    if now.guest.as_ref().is_some_and(|guest| guest.events == Some(false)) {
        items.push(vec![view.span(Role::Warning, "gate closed")]);
    }
    items.push(fact(view, "up", clock(now.elapsed_ns)));
    if !source.workload.is_empty() {
        items.push(fact(view, "work", &*source.workload));
    }
    items
}

fn plural(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// Figures of all vCPUs together.
fn figures(view: View, sum: &Vcpu, wide: bool) -> Vec<Item> {
    let guest = view.seen().now().is_some_and(|now| now.source.kind == "guest");
    let now = &view.measured().all;
    let base = view.baseline().map(|measured| &measured.all);
    let unit = view.time_unit();
    let per_second = |name, role, of: fn(&Rates) -> f64| {
        figure(view, name, role, format!("{}/s", count(of(now))), of(now), base.map(of))
    };
    // A figure that has no value now shows none, and no ratio.
    let maybe = |name, of: fn(&Rates) -> Option<f64>, shown: fn(f64) -> String| {
        of(now).map(|value| figure(view, name, Role::Plain, shown(value), value, base.and_then(of)))
    };
    let part =
        |name, role, of: fn(&Rates) -> f64| figure(view, name, role, count(of(now)), of(now), base.map(of));
    // On a narrow screen they are named as in the tables.
    let [preempted, blocked, harmful] =
        if wide { ["preempted", "blocked", "harmful"] } else { ["pre", "blk", "harm"] };
    let mut items = vec![
        per_second("PSP", Role::Strong, Rates::psp),
        with_parts(
            view,
            per_second("LHP", Role::Lhp, |r| r.lhp),
            vec![part(preempted, Role::Lhp, |r| r.lhp_preempted)],
        ),
        with_parts(
            view,
            per_second("LWP", Role::Lwp, |r| r.lwp),
            vec![
                part(preempted, Role::Lwp, |r| r.lwp_preempted),
                part(blocked, Role::Lwp, |r| r.lwp_blocked),
                part(harmful, Role::Harmful, |r| r.lwp_harmful),
            ],
        ),
        per_second("takes", Role::Plain, |r| r.takes),
        per_second("deferrals", Role::Plain, |r| r.deferrals),
    ];
    items.extend(maybe("PSP/quantum", |r| r.psp_per_quantum, |v| format!("{v:.2}")));
    // In other worlds the two are the same.
    let of_all = maybe("of all", |r| r.spin_total_pct, percent).filter(|_| guest);
    items.extend(maybe("spin", |r| r.spin_pct, percent).map(|spin| match of_all {
        Some(of_all) => with_parts(view, spin, vec![of_all]),
        None => spin,
    }));
    items.extend(maybe("defer", |r| r.defer_pct, percent));
    if let Some(mut lql) = maybe("lql", |r| r.lql_mean, |v| format!("{v:.1}")) {
        lql.push(view.span(Role::Label, format!(" max {}", total(sum.counters.lql_max))));
        items.push(lql);
    }
    let idle = format!("{}/s", time(now.idle as u64, unit));
    items.push(figure(view, "free", Role::Harmful, idle, now.idle, base.map(|r| r.idle)));
    items
}

/// A figure and, in brackets, what it is made of.
fn with_parts(view: View, mut whole: Item, parts: Vec<Item>) -> Item {
    for (i, part) in parts.into_iter().enumerate() {
        whole.push(view.span(Role::Label, if i == 0 { " (" } else { ", " }));
        whole.extend(part);
    }
    whole.push(view.span(Role::Label, ")"));
    whole
}

/// Everything that was lost or could not be judged, by name.
fn losses(view: View, now: &Snapshot, sum: &Vcpu) -> Item {
    let counters = &sum.counters;
    let judged = [
        ("dropped", counters.dropped),
        ("unslotted", counters.unslotted),
        ("expired", counters.expired),
        ("harm_unknown", counters.harm_unknown),
        ("open_at_exit", counters.open_at_exit),
    ];
    let mut item = vec![view.span(Role::Label, "lost ")];
    let lost: Vec<_> = now.losses.named().into_iter().chain(judged).filter(|(_, n)| *n > 0).collect();
    if lost.is_empty() {
        item.push(view.span(Role::Good, "nothing"));
    }
    for (i, (name, n)) in lost.into_iter().enumerate() {
        let comma = if i > 0 { ", " } else { "" };
        item.push(view.span(Role::Warning, format!("{comma}{name} {}", total(n))));
    }
    item
}

/// Why all PSP happened; nothing without one.
fn reasons(view: View, sum: &Vcpu) -> Option<Item> {
    let text: Vec<_> = Reason::ALL
        .into_iter()
        .map(|reason| (reason.name(), sum.counters.of_reason(reason)))
        .filter(|(_, n)| *n > 0)
        .map(|(name, n)| format!("{name} {}", total(n)))
        .collect();
    (!text.is_empty()).then(|| fact(view, "why", text.join(", ")))
}

/// The convoys of each VM: one that goes on stands out.
fn convoys(view: View, now: &Snapshot) -> Vec<Item> {
    let mut items = vec![];
    for vm in now.vms.iter().filter(|vm| vm.convoys > 0) {
        items.push(match &vm.convoy {
            Some(convoy) => {
                let since = clock(convoy.since_ns);
                let seed = format!(" since {since}, {} PSP, begun by {}", total(convoy.psp), convoy.seed);
                vec![
                    view.span(Role::Bad, format!("CONVOY in {} at {}", vm.name, convoy.lock)),
                    view.span(Role::Plain, seed),
                ]
            }
            None => {
                let text =
                    format!("{} in {}, over, {} PSP", total(vm.convoys), vm.name, total(vm.convoy_psp));
                vec![view.span(Role::Label, "convoys "), view.span(Role::Warning, text)]
            }
        });
    }
    items
}

fn cross_check(view: View, check: &CrossCheck) -> Item {
    let windows = [
        ("taking", check.window_taking),
        ("acquiring", check.window_acquiring),
        ("releasing", check.window_releasing),
        ("attach", check.window_attach),
        ("dropped", check.window_dropped),
    ];
    let mut item = fact(view, "cross-check", format!("agreed {}", total(check.agreed)));
    for (name, n) in windows.into_iter().filter(|(_, n)| *n > 0) {
        item.push(view.span(Role::Plain, format!(", {name} {}", total(n))));
    }
    if check.pending > 0 {
        item.push(view.span(Role::Plain, format!(", pending {}", total(check.pending))));
    }
    item.push(view.span(Role::Plain, ", "));
    let role = if check.unexplained > 0 { Role::Bad } else { Role::Good };
    item.push(view.span(role, format!("unexplained {}", total(check.unexplained))));
    item
}

/// Why vCPUs left their pCPU; nothing if the source cannot tell.
fn switches(view: View, sum: &Vcpu) -> Option<Item> {
    let k = &sum.kernel;
    let causes = [
        ("quantum", k.out_quantum),
        ("observer", k.out_observer),
        ("host", k.out_host),
        ("blocked", k.out_blocked),
        ("yielded", k.out_yielded),
        ("early", k.early),
    ];
    if causes.iter().all(|(_, n)| *n == 0) {
        return None;
    }
    let text: Vec<_> =
        causes.iter().filter(|(_, n)| *n > 0).map(|(name, n)| format!("{name} {}", total(*n))).collect();
    Some(fact(view, "switched out", text.join(", ")))
}
