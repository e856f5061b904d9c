//! Rows of figures: as many columns as fit, ratios beside the figures or below them.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::{View, put, width};
use crate::format;
use crate::state::ui::{Order, Panel};
use crate::theme::Role;

/// Columns that a ratio and its gap take.
const RATIO: u16 = 6;

/// A column of a table.
#[derive(Clone, Debug)]
pub struct Column {
    /// Its heading.
    pub title: &'static str,
    /// Columns of the screen that it takes.
    pub width: u16,
    /// Figures stand to the right; names stand to the left.
    pub figure: bool,
    /// With a baseline, its figures have a ratio.
    pub ratio: bool,
    /// The order of rows that goes by it.
    pub order: Option<Order>,
    /// Columns with a higher rank go first where there is no room; those of rank 0 stay. Ratios stand beside their
    /// figures if ranks 0 and 1 have room for it.
    pub rank: u8,
}

impl Column {
    /// A column of names.
    pub const fn name(title: &'static str, width: u16, order: Option<Order>, rank: u8) -> Self {
        Self { title, width, figure: false, ratio: false, order, rank }
    }

    /// A column of figures.
    pub const fn figure(title: &'static str, width: u16, order: Option<Order>, rank: u8) -> Self {
        Self { title, width, figure: true, ratio: true, order, rank }
    }

    /// The same, so wide.
    pub const fn of_width(self, width: u16) -> Self {
        Self { width, ..self }
    }

    /// The same without a ratio: what it shows is of the moment, or a total.
    pub const fn without_ratio(self) -> Self {
        Self { ratio: false, ..self }
    }
}

/// One field of a row.
#[derive(Clone, Debug)]
pub struct Field {
    text: String,
    role: Role,
    ratio: Option<String>,
}

impl Field {
    /// A text.
    pub fn text(text: impl Into<String>, role: Role) -> Self {
        Self { text: text.into(), role, ratio: None }
    }

    /// A figure; `shown` is how it reads, `base` what to compare it with.
    pub fn figure(shown: String, now: f64, base: Option<f64>, role: Role) -> Self {
        // What is zero does not catch the eye.
        let role = if now == 0.0 { Role::Label } else { role };
        Self { text: shown, role, ratio: base.map(|base| format::ratio(now, base)) }
    }

    /// A rate.
    pub fn rate(now: f64, base: Option<f64>, role: Role) -> Self {
        Self::figure(format::count(now), now, base, role)
    }
}

/// Which columns a table shows and how.
#[derive(Debug)]
pub struct Layout {
    columns: Vec<(usize, Column)>,
    /// Ratios stand beside their figures, else below.
    beside: bool,
    /// Lines per row.
    row_height: u16,
}

impl Layout {
    /// For a table of so many columns of the screen, with ratios or without.
    pub fn new(columns: &[Column], available: u16, ratios: bool) -> Self {
        let need = |columns: &[(usize, Column)], beside: bool| -> u16 {
            let extra = |c: &Column| if beside && c.ratio { RATIO } else { 0 };
            columns.iter().map(|(_, c)| c.width + extra(c) + 1).sum::<u16>().saturating_sub(1)
        };
        let mut columns: Vec<_> = columns.iter().cloned().enumerate().collect();
        let core: Vec<_> = columns.iter().filter(|(_, c)| c.rank <= 1).cloned().collect();
        let beside = ratios && need(&core, true) <= available;
        while need(&columns, beside) > available {
            let Some(worst) = columns.iter().map(|(_, c)| c.rank).max().filter(|rank| *rank > 0) else {
                break;
            };
            let last = columns.iter().rposition(|(_, c)| c.rank == worst);
            columns.remove(last.unwrap_or(columns.len() - 1));
        }
        // Names take what is left over.
        let spare = available.saturating_sub(need(&columns, beside));
        let names = columns.iter().filter(|(_, c)| !c.figure).count() as u16;
        if let Some(share) = spare.checked_div(names) {
            for (_, column) in columns.iter_mut().filter(|(_, c)| !c.figure) {
                column.width += share.min(column.width);
            }
        }
        Self { columns, beside, row_height: if ratios && !beside { 2 } else { 1 } }
    }

    /// Lines of headings and so many rows.
    pub fn height(&self, rows: usize) -> u16 {
        u16::try_from(rows).unwrap_or(u16::MAX).saturating_mul(self.row_height).saturating_add(1)
    }

    /// Rows that fit below the headings.
    pub fn fitting(&self, height: u16) -> usize {
        usize::from(height.saturating_sub(1) / self.row_height)
    }
}

/// The rows that are shown so that `selected` is among them.
pub fn visible(rows: usize, fitting: usize, selected: usize) -> std::ops::Range<usize> {
    let selected = selected.min(rows.saturating_sub(1));
    let first = selected.saturating_sub(fitting / 2).min(rows.saturating_sub(fitting));
    first..(first + fitting).min(rows)
}

/// A panel's heading with the rows that it shows.
pub fn title(
    view: View,
    panel: Panel,
    number: usize,
    rows: usize,
    shown: &std::ops::Range<usize>,
) -> Line<'static> {
    let name = format!(" {number} {} ", panel.title());
    let mut spans = vec![view.span(Role::Strong, name)];
    if shown.len() < rows {
        spans.push(view.span(Role::Label, format!("{}-{} of {rows} ", shown.start + 1, shown.end)));
    } else {
        spans.push(view.span(Role::Label, format!("{rows} ")));
    }
    Line::from(spans)
}

/// Draws headings and rows; `fields` makes the fields of row `i` in the order of all columns.
pub fn draw(
    view: View,
    panel: Panel,
    layout: &Layout,
    shown: std::ops::Range<usize>,
    fields: impl Fn(usize) -> Vec<Field>,
    area: Rect,
    buf: &mut Buffer,
) {
    let order = view.app.ui.order(panel);
    let mut x = 0;
    for (_, column) in &layout.columns {
        let sorted = column.order.is_some() && column.order == order;
        let up = matches!(order, Some(Order::Name | Order::Place));
        let mark = if !sorted {
            ""
        } else if up {
            "▲"
        } else {
            "▼"
        };
        let text = format!("{}{mark}", column.title);
        let style = view.style(if sorted { Role::Strong } else { Role::Label });
        let at = if column.figure { x + column.width.saturating_sub(width(&text)) } else { x };
        put(buf, area, at, 0, &text, style);
        x += column.width + if layout.beside && column.ratio { RATIO } else { 0 } + 1;
    }
    let selected = view.app.ui.selected(panel);
    let focused = view.app.ui.focus == panel;
    for (line, row) in shown.clone().enumerate() {
        let y = 1 + line as u16 * layout.row_height;
        let fields = fields(row);
        let mut x = 0;
        for (at, column) in &layout.columns {
            if let Some(field) = fields.get(*at) {
                draw_field(view, layout, column, field, x, y, area, buf);
            }
            x += column.width + if layout.beside && column.ratio { RATIO } else { 0 } + 1;
        }
        let last = shown.end.saturating_sub(1);
        if focused && row == selected.min(last) {
            let line = Rect { y: area.y + y, height: layout.row_height, ..area };
            buf.set_style(line.intersection(area).intersection(buf.area), view.style(Role::Selected));
        }
    }
}

#[expect(clippy::too_many_arguments, reason = "a place on the screen and what stands there")]
fn draw_field(
    view: View,
    layout: &Layout,
    column: &Column,
    field: &Field,
    x: u16,
    y: u16,
    area: Rect,
    buf: &mut Buffer,
) {
    let within = Rect { width: area.width.min(x + column.width), ..area };
    if !column.figure {
        put(buf, within, x, y, &cut(&field.text, column.width), view.style(field.role));
        return;
    }
    let at = x + column.width.saturating_sub(width(&field.text));
    put(buf, within, at, y, &field.text, view.style(field.role));
    if let Some(ratio) = &field.ratio {
        let style = view.style(Role::Ratio);
        if layout.beside {
            put(buf, area, x + column.width + 1, y, ratio, style);
        } else if layout.row_height > 1 {
            let at = (x + column.width).saturating_sub(width(ratio));
            put(buf, area, at, y + 1, ratio, style);
        }
    }
}

/// Digits that tell locks of one kind apart.
const DIGITS: usize = 6;

/// `text` in at most so many columns, cut with a mark: of a lock in allocated memory (`function@0xaddress`) the
/// address loses its beginning first, of everything else the end.
fn cut(text: &str, columns: u16) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    if let Some((function, address)) = text.split_once("@0x")
        && let Some(tail) = address.len().checked_sub(DIGITS).and_then(|at| address.get(at..))
        && usize::from(columns) >= 2 * DIGITS + 2
    {
        let room = columns - DIGITS as u16 - 2;
        return format!("{}@…{tail}", cut_end(function, room));
    }
    cut_end(text, columns)
}

fn cut_end(text: &str, columns: u16) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut out = String::new();
    for c in text.chars() {
        let mut longer = out.clone();
        longer.push(c);
        if Span::raw(&longer).width() + 1 > usize::from(columns) {
            break;
        }
        out = longer;
    }
    out.push('…');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_selected_row_is_among_the_visible_ones() {
        assert_eq!(visible(0, 10, 0), 0..0);
        assert_eq!(visible(5, 10, 4), 0..5);
        assert_eq!(visible(100, 10, 0), 0..10);
        assert_eq!(visible(100, 10, 50), 45..55);
        assert_eq!(visible(100, 10, 99), 90..100);
        assert_eq!(visible(100, 10, usize::MAX), 90..100);
        assert_eq!(visible(3, 0, 1), 1..1);
    }

    #[test]
    fn names_are_cut_with_a_mark() {
        assert_eq!(cut("counter", 7), "counter");
        assert_eq!(cut("counter", 4), "cou…");
        assert_eq!(cut("counter", 0), "…");
    }

    #[test]
    fn locks_of_one_kind_stay_apart() {
        let name = "file_close_fd@0xffff888002de8600";
        assert_eq!(cut(name, 32), name);
        assert_eq!(cut(name, 24), "file_close_fd@…de8600");
        assert_eq!(cut(name, 16), "file_cl…@…de8600");
        assert_eq!(cut(name, 10), "file_clos…");
        assert_eq!(cut("runqueues[12]+0x40", 12), "runqueues[1…");
    }

    fn columns() -> [Column; 4] {
        [
            Column::name("name", 8, None, 0),
            Column::figure("a", 6, None, 0),
            Column::figure("b", 6, None, 1),
            Column::figure("c", 6, None, 2),
        ]
    }

    #[test]
    fn columns_of_high_rank_go_first() {
        let titles = |available| {
            let layout = Layout::new(&columns(), available, false);
            layout.columns.iter().map(|(_, c)| c.title).collect::<Vec<_>>()
        };
        assert_eq!(titles(29), ["name", "a", "b", "c"]);
        assert_eq!(titles(28), ["name", "a", "b"]);
        assert_eq!(titles(21), ["name", "a"]);
        assert_eq!(titles(0), ["name", "a"]);
    }

    #[test]
    fn ratios_stand_beside_where_there_is_room_else_below() {
        assert_eq!(Layout::new(&columns(), 34, true).row_height, 1);
        assert_eq!(Layout::new(&columns(), 33, true).row_height, 2);
        assert_eq!(Layout::new(&columns(), 21, false).row_height, 1);
    }
}
