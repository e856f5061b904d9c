//! Top locks and top callers.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::table::{self, Column, Field, Layout};
use super::{Frame, View, frame, tell_empty, width};
use crate::format::{percent, time};
use crate::state::measured::{Measured, RowRates};
use crate::state::ui::{Order, Panel};
use crate::theme::Role;

const COLUMNS: &[Column] = &[
    Column::name("name", 10, Some(Order::Name), 0),
    Column::figure("acq/s", 6, Some(Order::Takes), 0),
    Column::figure("cont", 5, Some(Order::Contended), 2),
    Column::figure("defer/s", 8, Some(Order::Deferrals), 3),
    Column::figure("wait", 7, Some(Order::Wait), 1),
    Column::figure("spin", 7, None, 4),
    Column::figure("hold", 7, Some(Order::Hold), 1),
    Column::figure("LHP/s", 6, Some(Order::Lhp), 0),
    Column::figure("LWP/s", 6, Some(Order::Lwp), 0),
    Column::figure("harm/s", 7, Some(Order::Harmful), 2),
    Column::figure("free/s", 7, None, 4),
];

/// Names take more columns only where some are left over.
const WIDEST_NAME: u16 = 22;

/// Which of the two tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// Top locks.
    Locks,
    /// Top callers.
    Callers,
}

impl Table {
    const fn panel(self) -> Panel {
        match self {
            Self::Locks => Panel::Locks,
            Self::Callers => Panel::Callers,
        }
    }

    const fn number(self) -> usize {
        match self {
            Self::Locks => 3,
            Self::Callers => 4,
        }
    }

    fn rows(self, measured: &Measured) -> &[RowRates] {
        match self {
            Self::Locks => &measured.locks,
            Self::Callers => &measured.callers,
        }
    }

    const fn nothing(self) -> &'static str {
        match self {
            Self::Locks => "no lock was taken yet",
            Self::Callers => "no caller took a lock yet",
        }
    }
}

/// Draws one of them.
pub fn render(view: View, which: Table, kind: Frame, area: Rect, buf: &mut Buffer) {
    let panel = which.panel();
    let all = which.rows(view.measured());
    let base = view.baseline().map(|measured| which.rows(measured));
    let rows = view.app.ui.rows(panel, all);
    let borders = if kind == Frame::Box { 2 } else { 0 };
    let columns = columns(&rows);
    let layout = Layout::new(&columns, area.width.saturating_sub(borders), base.is_some());
    let height = area.height.saturating_sub(borders.max(1));
    let shown = table::visible(rows.len(), layout.fitting(height), view.app.ui.selected(panel));
    let title = table::title(view, panel, which.number(), rows.len(), &shown);
    let inner = frame(view, kind, Some(panel), title, area, buf);
    if rows.is_empty() {
        let why = if all.is_empty() { which.nothing() } else { "no name passes the filter" };
        return tell_empty(view, why, inner, buf);
    }
    let fields = |row: usize| match rows.get(row) {
        Some(row) => fields(view, row, base.and_then(|rows| rows.iter().find(|old| old.name == row.name))),
        None => Vec::new(),
    };
    table::draw(view, panel, &layout, shown, fields, inner, buf);
}

/// The columns, with room for the names as far as there is some: of a kernel's locks the name says most.
fn columns(rows: &[&RowRates]) -> Vec<Column> {
    let longest = rows.iter().map(|row| width(&row.name)).max().unwrap_or(0);
    let mut columns = COLUMNS.to_vec();
    if let Some(name) = columns.first_mut() {
        *name = name.clone().of_width(longest.clamp(name.width, WIDEST_NAME));
    }
    columns
}

fn fields(view: View, row: &RowRates, base: Option<&RowRates>) -> Vec<Field> {
    let unit = view.time_unit();
    let rate = |role, of: fn(&RowRates) -> f64| Field::rate(of(row), base.map(of), role);
    let length = |role, of: fn(&RowRates) -> f64| {
        Field::figure(time(of(row) as u64, unit), of(row), base.map(of), role)
    };
    vec![
        Field::text(&*row.name, Role::Plain),
        rate(Role::Plain, |r| r.acquires),
        Field::figure(
            percent(row.contended_pct),
            row.contended_pct,
            base.map(|r| r.contended_pct),
            Role::Plain,
        ),
        rate(Role::Plain, |r| r.deferrals),
        length(Role::Plain, |r| r.wait),
        length(Role::Plain, |r| r.spin),
        length(Role::Plain, |r| r.hold),
        rate(Role::Lhp, |r| r.lhp),
        rate(Role::Lwp, |r| r.lwp),
        rate(Role::Harmful, |r| r.lwp_harmful),
        length(Role::Harmful, |r| r.idle),
    ]
}
