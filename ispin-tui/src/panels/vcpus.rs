//! Table per vCPU.

use ispin_agent::model::{Snapshot, Vcpu};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::table::{self, Column, Field, Layout};
use super::{Frame, View, frame, tell_empty};
use crate::format::{percent, time, total};
use crate::state::measured::{Place, Rates};
use crate::state::ui::{Order, Panel};
use crate::theme::Role;

const COLUMNS: &[Column] = &[
    Column::name("vCPU", 8, Some(Order::Place), 0),
    Column::figure("left", 7, None, 0).without_ratio(),
    Column::name("phase", 9, None, 1),
    Column::figure("takes/s", 8, Some(Order::Takes), 0),
    Column::figure("defer/s", 8, Some(Order::Deferrals), 0),
    Column::figure("LHP/s", 6, Some(Order::Lhp), 0),
    Column::figure("pre/s", 5, None, 4),
    Column::figure("LHP", 5, None, 5).without_ratio(),
    Column::figure("LWP/s", 6, Some(Order::Lwp), 0),
    Column::figure("pre/s", 5, None, 4),
    Column::figure("blk/s", 5, None, 4),
    Column::figure("harm/s", 7, Some(Order::Harmful), 0),
    Column::figure("LWP", 5, None, 5).without_ratio(),
    Column::figure("spin", 5, Some(Order::Spin), 0),
    Column::figure("PSP/q", 5, None, 2),
    Column::figure("lql", 5, None, 3),
];

/// How high it must be, in its box of this width, to show all vCPUs.
pub fn wanted_height(view: View, width: u16) -> u16 {
    let layout = Layout::new(COLUMNS, width.saturating_sub(2), view.baseline().is_some());
    layout.height(view.measured().vcpus.len()).saturating_add(2)
}

/// Draws the table.
pub fn render(view: View, kind: Frame, area: Rect, buf: &mut Buffer) {
    let rows = view.app.ui.vcpus(view.measured());
    let borders = if kind == Frame::Box { 2 } else { 0 };
    let layout = Layout::new(COLUMNS, area.width.saturating_sub(borders), view.baseline().is_some());
    let height = area.height.saturating_sub(borders.max(1));
    let shown = table::visible(rows.len(), layout.fitting(height), view.app.ui.selected(Panel::Vcpus));
    let title = table::title(view, Panel::Vcpus, 1, rows.len(), &shown);
    let inner = frame(view, kind, Some(Panel::Vcpus), title, area, buf);
    if rows.is_empty() {
        let all = view.measured().vcpus.len();
        let why = if all > 0 { "no vCPU passes the filter" } else { "no vCPU is observed yet" };
        return tell_empty(view, why, inner, buf);
    }
    let fields = |row: usize| match rows.get(row) {
        Some((place, rates)) => fields(view, place, rates),
        None => Vec::new(),
    };
    table::draw(view, Panel::Vcpus, &layout, shown, fields, inner, buf);
}

fn fields(view: View, place: &Place, rates: &Rates) -> Vec<Field> {
    let vcpu = view.seen().now().and_then(|now| find(now, place));
    let base = view.baseline().and_then(|baseline| baseline.vcpu(place));
    let rate = |role, of: fn(&Rates) -> f64| Field::rate(of(rates), base.map(of), role);
    let maybe = |of: fn(&Rates) -> Option<f64>, shown: fn(f64) -> String| match of(rates) {
        Some(value) => Field::figure(shown(value), value, base.and_then(of), Role::Plain),
        None => Field::text("-", Role::Label),
    };
    let count = |role, of: fn(&Vcpu) -> u64| Field::text(vcpu.map_or("-".into(), |v| total(of(v))), role);
    vec![
        Field::text(place.to_string(), Role::Plain),
        left(view, vcpu),
        phase(vcpu),
        rate(Role::Plain, |r| r.takes),
        rate(Role::Plain, |r| r.deferrals),
        rate(Role::Lhp, |r| r.lhp),
        rate(Role::Lhp, |r| r.lhp_preempted),
        count(Role::Plain, |v| v.counters.lhp),
        rate(Role::Lwp, |r| r.lwp),
        rate(Role::Lwp, |r| r.lwp_preempted),
        rate(Role::Lwp, |r| r.lwp_blocked),
        rate(Role::Harmful, |r| r.lwp_harmful),
        count(Role::Plain, |v| v.counters.lwp),
        maybe(|r| r.spin_pct, percent),
        maybe(|r| r.psp_per_quantum, |v| format!("{v:.2}")),
        maybe(|r| r.lql_mean, |v| format!("{v:.1}")),
    ]
}

fn find<'a>(now: &'a Snapshot, place: &Place) -> Option<&'a Vcpu> {
    now.vms.iter().find(|vm| vm.name == place.vm)?.vcpus.iter().find(|vcpu| vcpu.id == place.vcpu)
}

/// Remaining quantum: `off` its pCPU, `-` unknown or no limit. A source that knows no phase does not know this either.
fn left(view: View, vcpu: Option<&Vcpu>) -> Field {
    match vcpu {
        Some(vcpu) if !vcpu.running && vcpu.phase.is_empty() => Field::text("-", Role::Label),
        Some(vcpu) if !vcpu.running => Field::text("off", Role::Label),
        Some(Vcpu { quantum_left: Some(left), .. }) => {
            Field::text(time(*left, view.time_unit()), Role::Plain)
        }
        _ => Field::text("-", Role::Label),
    }
}

/// A vCPU that is off its pCPU in mid-operation is one that others wait for.
fn phase(vcpu: Option<&Vcpu>) -> Field {
    match vcpu {
        Some(vcpu) if vcpu.phase.is_empty() => Field::text("-", Role::Label),
        Some(vcpu) => {
            let role = match (vcpu.running, vcpu.phase.as_str()) {
                (_, "idle") => Role::Label,
                (false, "holding" | "acquiring" | "releasing") => Role::Lhp,
                (false, "waiting" | "taking") => Role::Lwp,
                _ => Role::Plain,
            };
            Field::text(&*vcpu.phase, role)
        }
        None => Field::text("-", Role::Label),
    }
}
