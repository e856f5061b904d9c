//! PSP rate over time, split into LHP and LWP, each on a scale of its own because one may dwarf the other.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::Line;

use super::{Frame, View, frame, put, put_cell, tell_empty, width};
use crate::format::{count, interval, ratio};
use crate::state::history::Column;
use crate::theme::Role;

/// A column of the chart is at least this long.
const SHORTEST_COLUMN_NS: u64 = 500_000_000;
/// Columns of the screen that the scale takes.
const SCALE: u16 = 12;
/// Parts of a cell that a bar can fill.
const EIGHTHS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Columns between two marks of the time axis.
const TICKS: usize = 20;

/// Draws the chart.
pub fn render(view: View, kind: Frame, area: Rect, buf: &mut Buffer) {
    let inner = frame(view, kind, None, title(view), area, buf);
    if view.seen().now().is_none() {
        return tell_empty(view, "nothing measured yet", inner, buf);
    }
    if inner.height < 3 || inner.width <= SCALE {
        return;
    }
    let bars = Rect { x: inner.x + SCALE, width: inner.width - SCALE, ..inner };
    let column_ns = SHORTEST_COLUMN_NS.max(view.app.interval.as_nanos() as u64);
    let columns = view.seen().history().columns(usize::from(bars.width), column_ns);
    let lhp_rows = (inner.height - 1) / 2;
    let lwp_rows = inner.height - 1 - lhp_rows;
    lane(view, "LHP/s", Role::Lhp, &columns, |c| c.lhp, Rect { height: lhp_rows, ..inner }, buf);
    let below = Rect { y: inner.y + lhp_rows, height: lwp_rows, ..inner };
    lane(view, "LWP/s", Role::Lwp, &columns, |c| c.lwp, below, buf);
    let axis_area = Rect { y: inner.bottom() - 1, height: 1, ..bars };
    axis(view, &columns, column_ns, axis_area, buf);
}

fn title(view: View) -> Line<'static> {
    let mut spans = vec![view.span(Role::Strong, " PSP/s ")];
    if view.seen().now().is_some() {
        let now = view.measured().all.psp();
        spans.push(view.span(Role::Strong, count(now)));
        if let Some(base) = view.baseline() {
            spans.push(view.span(Role::Ratio, format!(" {}", ratio(now, base.all.psp()))));
        }
        let column = interval(view.app.interval.max(std::time::Duration::from_nanos(SHORTEST_COLUMN_NS)));
        spans.push(view.span(Role::Label, format!("  a column is {column} ")));
    }
    Line::from(spans)
}

/// Draws the bars of one kind with their scale.
fn lane(
    view: View,
    name: &str,
    role: Role,
    columns: &[Column],
    of: fn(&Column) -> Option<f64>,
    area: Rect,
    buf: &mut Buffer,
) {
    let highest = columns.iter().filter_map(of).fold(0.0, f64::max);
    put(buf, area, 0, 0, name, view.style(role));
    let top = count(highest);
    put(buf, area, (SCALE - 1).saturating_sub(width(&top)), 0, &top, view.style(Role::Label));
    if area.height > 1 {
        put(buf, area, SCALE - 2, area.height - 1, "0", view.style(Role::Label));
    }
    for (x, column) in columns.iter().enumerate() {
        let x = SCALE + x as u16;
        if column.begins.is_some() {
            for y in 0..area.height {
                put_cell(buf, area, x, y, '│', view.style(Role::Label));
            }
        }
        let Some(value) = of(column) else { continue };
        if value == 0.0 {
            // Observed, and nothing happened: not the same as not observed.
            if column.begins.is_none() {
                put_cell(buf, area, x, area.height - 1, '·', view.style(Role::Label));
            }
            continue;
        }
        let full = f64::from(area.height) * 8.0;
        let mut eighths = ((value / highest * full).round() as u16).max(1);
        for y in (0..area.height).rev() {
            if eighths == 0 {
                break;
            }
            let part = eighths.min(8);
            put_cell(buf, area, x, y, EIGHTHS[usize::from(part)], view.style(role));
            eighths -= part;
        }
    }
}

/// Names runs where they begin, and counts back in time from the right.
fn axis(view: View, columns: &[Column], column_ns: u64, area: Rect, buf: &mut Buffer) {
    let mut taken = vec![false; columns.len()];
    let mut write = |x: usize, text: &str, role: Role, buf: &mut Buffer| {
        let end = (x + usize::from(width(text))).min(taken.len());
        // One free cell between two texts.
        let around = x.saturating_sub(1)..(end + 1).min(taken.len());
        if taken.get(around).is_some_and(|cells| cells.iter().all(|taken| !taken)) {
            put(buf, area, x as u16, 0, text, view.style(role));
            taken[x..end].fill(true);
        }
    };
    // The newest runs first, should two of them be too near to be named both.
    for (x, column) in columns.iter().enumerate().rev() {
        if let Some(label) = &column.begins {
            write(x, label, Role::Strong, buf);
        }
    }
    write(columns.len().saturating_sub(3), "now", Role::Label, buf);
    let mut back = TICKS;
    while back < columns.len() {
        let seconds = back as u64 * column_ns / 1_000_000_000;
        let text = format!("-{seconds}s");
        write(columns.len() - 1 - back, &text, Role::Label, buf);
        back += TICKS;
    }
}
