//! Items in lines, as many to a line as fit.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::{View, width};
use crate::format;
use crate::theme::Role;

/// Some words that stay together.
pub type Item = Vec<Span<'static>>;

const GAP: usize = 2;

/// Breaks items into lines of at most `columns`.
pub fn wrap(items: Vec<Item>, columns: u16) -> Vec<Line<'static>> {
    let columns = usize::from(columns);
    let mut lines: Vec<Vec<Span<'static>>> = Vec::new();
    let mut used = 0;
    for item in items {
        let need: usize = item.iter().map(Span::width).sum();
        match lines.last_mut() {
            Some(line) if used + GAP + need <= columns => {
                line.push(Span::raw(" ".repeat(GAP)));
                line.extend(item);
                used += GAP + need;
            }
            _ => {
                lines.push(item);
                used = need;
            }
        }
    }
    lines.into_iter().map(Line::from).collect()
}

/// Breaks a sentence between words into lines of at most `columns`.
pub fn wrap_words(view: View, role: Role, text: &str, columns: u16) -> Vec<Line<'static>> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if width(line) + 1 + width(word) <= columns => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines.into_iter().map(|line| Line::from(view.span(role, line))).collect()
}

/// Draws lines from the top of `area`, as many as there is room for.
pub fn draw(lines: &[Line], area: Rect, buf: &mut Buffer) {
    let area = area.intersection(buf.area);
    for (line, y) in lines.iter().zip(area.top()..area.bottom()) {
        buf.set_line(area.x, y, line, area.width);
    }
}

/// `name figure` and, with a baseline, its ratio.
pub fn figure(view: View, name: &str, role: Role, shown: String, now: f64, base: Option<f64>) -> Item {
    let mut item = vec![view.span(Role::Label, format!("{name} ")), view.span(role, shown)];
    if let Some(base) = base {
        item.push(view.span(Role::Ratio, format!(" {}", format::ratio(now, base))));
    }
    item
}

/// `name value`.
pub fn fact(view: View, name: &str, value: impl Into<String>) -> Item {
    vec![view.span(Role::Label, format!("{name} ")), view.span(Role::Plain, value)]
}
