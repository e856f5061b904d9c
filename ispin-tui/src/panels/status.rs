//! The last line: what the dashboard does and the keys that matter most. And the banner that tells why nothing
//! new comes.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::flow::wrap_words;
use super::{View, put, width};
use crate::format::{clock, interval};
use crate::state::app::Link;
use crate::theme::Role;

/// Lines of a banner.
const LONGEST_BANNER: usize = 3;

/// Draws the last line.
pub fn render(view: View, area: Rect, buf: &mut Buffer) {
    let app = view.app;
    if app.ui.typing.is_some() {
        let text = format!("/{}▏", app.ui.filter);
        put(buf, area, 0, 0, &text, view.style(Role::Strong));
        hint(view, "Enter keeps, Esc drops", width(&text), area, buf);
        return;
    }
    let mut spans: Vec<Span> = Vec::new();
    let state = match &app.link {
        _ if app.paused() => view.span(Role::Warning, "PAUSED"),
        Link::Live if app.shown().between_runs() => view.span(Role::Label, "between runs"),
        Link::Live => view.span(Role::Good, format!("live, every {}", interval(app.interval))),
        Link::Waiting(_) => view.span(Role::Warning, "waiting"),
        Link::Lost(_) => view.span(Role::Warning, "lost"),
        Link::Failed(_) => view.span(Role::Bad, "failed"),
        Link::Finished => view.span(Role::Strong, "finished, q quits"),
    };
    spans.push(state);
    if let Some(baseline) = app.shown().baseline() {
        let span = clock(baseline.measured.span_ns);
        spans.push(view.span(Role::Ratio, format!("  × to {} over {span}", baseline.lock)));
    }
    if !app.ui.filter.is_empty() {
        spans.push(view.span(Role::Strong, format!("  filter /{}", app.ui.filter)));
    }
    let mut x = 0;
    for span in spans {
        put(buf, area, x, 0, &span.content, span.style);
        x += width(&span.content);
    }
    hint(view, "? keys  Tab panel  Space pause  m baseline  / filter  q quit", x, area, buf);
}

/// Words at the right edge, as many from the left as there is room for after `used` columns.
fn hint(view: View, text: &str, used: u16, area: Rect, buf: &mut Buffer) {
    let room = usize::from(area.width.saturating_sub(used + 2));
    let mut fitting = text;
    while fitting.chars().count() > room {
        match fitting.rfind("  ") {
            Some(at) => fitting = &fitting[..at],
            None => return,
        }
    }
    let x = area.width.saturating_sub(width(fitting));
    put(buf, area, x, 0, fitting, view.style(Role::Label));
}

/// Why nothing new comes, for a screen of so many columns; no line while snapshots come.
pub fn banner(view: View, columns: u16) -> Vec<Line<'static>> {
    let (role, text) = match &view.app.link {
        Link::Live | Link::Finished => return Vec::new(),
        Link::Waiting(why) => (Role::Warning, format!("waiting: {why}")),
        Link::Lost(why) => (Role::Bad, format!("no connection: {why}")),
        Link::Failed(why) => (Role::Bad, format!("the source failed: {why}")),
    };
    let mut lines = wrap_words(view, role, &text, columns);
    lines.truncate(LONGEST_BANNER);
    lines
}
