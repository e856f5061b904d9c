//! Histograms of hold and wait with the csd: times that are longer than it are what the estimate misses.

use ispin_agent::model::Hist;
use ispin_common::histogram::{Histogram, NR_BUCKETS};
use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::text::Line;

use super::flow::{self, fact};
use super::{Frame, View, frame, put, put_cell, tell_empty, width};
use crate::format::{percent, ratio, time, total};
use crate::state::measured::{Shape, hold_of, wait_of};
use crate::state::ui::Panel;
use crate::theme::Role;

const EIGHTHS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// A bar is not wider than this.
const WIDEST_BAR: u16 = 4;

/// Draws both, side by side or one above the other.
pub fn render(view: View, kind: Frame, area: Rect, buf: &mut Buffer) {
    let title = Line::from(vec![
        view.span(Role::Strong, format!(" 2 {} ", Panel::Times.title())),
        view.span(Role::Label, "of this run, log heights "),
    ]);
    let inner = frame(view, kind, Some(Panel::Times), title, area, buf);
    let Some(now) = view.seen().now() else {
        return tell_empty(view, "nothing measured yet", inner, buf);
    };
    let base = view.baseline();
    let csd = now.source.csd;
    let halves = [Constraint::Fill(1), Constraint::Fill(1)];
    let [hold, wait] = if inner.width >= 44 {
        Layout::horizontal(halves).spacing(2).areas(inner)
    } else {
        Layout::vertical(halves).areas(inner)
    };
    let measured = view.measured();
    histogram(view, "hold", &hold_of(now), &measured.hold, base.map(|b| &b.hold), csd, hold, buf);
    histogram(view, "wait", &wait_of(now), &measured.wait, base.map(|b| &b.wait), csd, wait, buf);
}

#[expect(clippy::too_many_arguments, reason = "one histogram, its figures and its place")]
fn histogram(
    view: View,
    name: &str,
    hist: &Hist,
    shape: &Shape,
    base: Option<&Shape>,
    csd: u64,
    area: Rect,
    buf: &mut Buffer,
) {
    let unit = view.time_unit();
    let bound = |name: &str, of: fn(&Shape) -> u64| {
        let now = of(shape);
        let shown = match now {
            u64::MAX => format!(">{}", time(1 << (NR_BUCKETS - 1), unit)),
            bound => format!("<{}", time(bound, unit)),
        };
        let mut item = fact(view, name, shown);
        if let Some(base) = base {
            let ratio = ratio(now as f64, of(base) as f64);
            item.push(view.span(Role::Ratio, format!(" {ratio}")));
        }
        item
    };
    let mut items = vec![vec![view.span(Role::Strong, name.to_owned())]];
    if shape.count == 0 {
        items.push(vec![view.span(Role::Label, "none yet")]);
    } else {
        items[0].push(view.span(Role::Plain, format!(" {}", total(shape.count))));
        items.push(bound("p50", |s| s.p50));
        items.push(bound("p99", |s| s.p99));
        items.push(bound("max", |s| s.max));
        // How long others have to wait is no matter of the estimate.
        if let Some(over) = hist.not_below(csd).filter(|_| name == "hold") {
            items.push(fact(view, "≥csd", share(over, shape.count)));
        }
    }
    let lines = flow::wrap(items, area.width);
    flow::draw(&lines, area, buf);
    let text = lines.len() as u16;
    if area.height < text + 3 {
        return;
    }
    let below = Rect { y: area.y + text, height: area.height - text, ..area };
    bars(view, hist, csd, below, buf);
}

/// A part of a whole, small ones too.
fn share(part: u64, whole: u64) -> String {
    let percentage = part as f64 * 100.0 / whole.max(1) as f64;
    if part > 0 && percentage < 0.01 { "<0.01%".to_owned() } else { percent(percentage) }
}

fn bars(view: View, hist: &Hist, csd: u64, area: Rect, buf: &mut Buffer) {
    let unit = view.time_unit();
    let at_csd = Histogram::bucket_of(csd);
    let used = |n: &u64| *n > 0;
    let first = hist.buckets.iter().position(used).unwrap_or(at_csd).min(at_csd);
    let last = hist.buckets.iter().rposition(used).unwrap_or(at_csd).max(at_csd).min(NR_BUCKETS - 1);
    let buckets = (last - first + 1) as u16;
    let bar = (area.width / buckets.max(1)).clamp(1, WIDEST_BAR);
    let highest = hist.buckets.iter().copied().max().unwrap_or(0);
    // Two lines below: the scale, and the csd.
    let rows = area.height.saturating_sub(2);
    let x_of = |bucket: usize| (bucket - first) as u16 * bar;

    let csd_x = x_of(at_csd) + bar / 2;
    for y in 0..rows {
        put_cell(buf, area, csd_x, y, '┊', view.style(Role::Csd));
    }
    for bucket in first..=last {
        let n = hist.get(bucket);
        if n == 0 {
            continue;
        }
        // Logarithmic, so that the rare long ones are seen beside the many short ones.
        let height = (n as f64).ln_1p() / (highest as f64).ln_1p() * f64::from(rows) * 8.0;
        let mut eighths = (height.round() as u16).max(1);
        // A gap between bars, where they are wide enough to have one.
        let filled = if bar > 1 { bar - 1 } else { 1 };
        for y in (0..rows).rev() {
            if eighths == 0 {
                break;
            }
            let part = eighths.min(8);
            for x in x_of(bucket)..x_of(bucket) + filled {
                put_cell(buf, area, x, y, EIGHTHS[usize::from(part)], view.style(Role::Bar));
            }
            eighths -= part;
        }
    }
    scale(view, first, last, bar, Rect { y: area.y + rows, height: 1, ..area }, buf);
    let text = format!("csd {}", time(csd, unit));
    let most_left = area.width.saturating_sub(width(&text) + 2);
    if csd_x <= most_left {
        put(buf, area, csd_x, rows + 1, &format!("↑ {text}"), view.style(Role::Csd));
    } else {
        let text = format!("{text} ↑");
        let x = (csd_x + 1).saturating_sub(width(&text));
        put(buf, area, x, rows + 1, &text, view.style(Role::Csd));
    }
}

/// Names the lower bounds of as many buckets as there is room for.
fn scale(view: View, first: usize, last: usize, bar: u16, area: Rect, buf: &mut Buffer) {
    let unit = view.time_unit();
    let mut free = 0;
    for bucket in first..=last {
        let x = (bucket - first) as u16 * bar;
        let text = time(1 << bucket, unit);
        if x >= free && x + width(&text) <= area.width {
            put(buf, area, x, 0, &text, view.style(Role::Label));
            free = x + width(&text) + 2;
        }
    }
}
