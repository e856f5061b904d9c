//! The incident log.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::table::{self, Column, Field, Layout};
use super::{Frame, View, frame, tell_empty};
use crate::format::{time, total};
use crate::state::incidents::Logged;
use crate::state::measured::Place;
use crate::state::ui::{Order, Panel};
use crate::theme::Role;

const COLUMNS: &[Column] = &[
    Column::figure("at", 8, Some(Order::Newest), 0).without_ratio(),
    Column::name("kind", 4, None, 0),
    Column::name("vCPU", 8, None, 0),
    Column::name("lock", 10, None, 0),
    Column::name("caller", 12, None, 3),
    Column::figure("off", 7, Some(Order::Off), 0).without_ratio(),
    Column::figure("lost", 7, Some(Order::Lost), 0).without_ratio(),
    Column::figure("behind", 6, None, 2).without_ratio(),
    Column::name("reason", 9, None, 1),
    Column::name("cause", 8, None, 3),
    Column::name("marks", 13, None, 1),
    Column::figure("lql", 4, None, 4).without_ratio(),
    Column::figure("took", 7, None, 4).without_ratio(),
    Column::name("run", 8, None, 5),
];

/// Draws the log.
pub fn render(view: View, kind: Frame, area: Rect, buf: &mut Buffer) {
    let log = view.seen().incidents();
    let rows = view.app.ui.incidents(log.iter());
    let borders = if kind == Frame::Box { 2 } else { 0 };
    let layout = Layout::new(COLUMNS, area.width.saturating_sub(borders), false);
    let height = area.height.saturating_sub(borders.max(1));
    let shown = table::visible(rows.len(), layout.fitting(height), view.app.ui.selected(Panel::Incidents));
    let mut title = table::title(view, Panel::Incidents, 5, rows.len(), &shown);
    if log.total() > log.len() as u64 {
        title.push_span(view.span(Role::Label, format!("({} in all) ", total(log.total()))));
    }
    let inner = frame(view, kind, Some(Panel::Incidents), title, area, buf);
    if rows.is_empty() {
        let why = if log.is_empty() { "no incident yet" } else { "no incident passes the filter" };
        return tell_empty(view, why, inner, buf);
    }
    let fields = |row: usize| rows.get(row).map_or_else(Vec::new, |logged| fields(logged));
    table::draw(view, Panel::Incidents, &layout, shown, fields, inner, buf);
}

fn fields(logged: &Logged) -> Vec<Field> {
    let r = &logged.record;
    let unit = &*logged.time_unit;
    let kind = if r.kind == "lhp" { Role::Lhp } else { Role::Lwp };
    let length = |value: u64, role| Field::figure(time(value, unit), value as f64, None, role);
    let marks: Vec<_> = [(r.preempted, "pre"), (r.blocked, "blk"), (r.harmful, "harm")]
        .into_iter()
        .filter_map(|(set, name)| set.then_some(name))
        .collect();
    vec![
        Field::text(at(logged.elapsed_ns), Role::Label),
        Field::text(r.kind.to_uppercase(), kind),
        Field::text(Place { vm: r.vm.clone(), vcpu: r.vcpu }.to_string(), Role::Plain),
        Field::text(&*r.lock, Role::Plain),
        Field::text(&*r.caller, Role::Plain),
        length(r.off, Role::Plain),
        length(r.lost, if r.harmful { Role::Harmful } else { Role::Plain }),
        Field::figure(r.victims.len().to_string(), r.victims.len() as f64, None, Role::Plain),
        Field::text(if r.reason.is_empty() { "-" } else { &*r.reason }, Role::Plain),
        Field::text(if r.cause.is_empty() { "-" } else { &*r.cause }, Role::Plain),
        Field::text(marks.join(" "), if r.harmful { Role::Harmful } else { Role::Plain }),
        Field::text(r.lql.to_string(), Role::Plain),
        length(r.to.saturating_sub(r.from), Role::Plain),
        Field::text(&*logged.run, Role::Label),
    ]
}

/// Since the run began: `1:02.3`.
fn at(elapsed_ns: u64) -> String {
    let tenths = elapsed_ns / 100_000_000;
    format!("{}:{:02}.{}", tenths / 600, tenths / 10 % 60, tenths % 10)
}
