//! Where the panels stand: all of them at once on a large terminal, one of them at a time on a small one.

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};

use crate::panels::rows::Table;
use crate::panels::{
    Frame, View, flow, header, help, incidents, psp_chart, put, rows, status, timeline, times, vcpus, width,
};
use crate::state::app::App;
use crate::state::ui::Panel;
use crate::theme::{Role, Theme};

/// From this size on all panels are shown at once.
const LARGE: (u16, u16) = (120, 34);
/// Columns that the heading of a panel takes at most.
const OWN_TITLE: u16 = 22;

/// Draws the whole screen. Depends on nothing but what it is given, and works in any size.
pub fn render(app: &App, theme: Theme, area: Rect, buf: &mut Buffer) {
    let area = area.intersection(buf.area);
    if area.is_empty() {
        return;
    }
    let view = View { app, theme };
    let head = header::lines(view, area.width);
    let banner = status::banner(view, area.width);
    // On a low terminal the header must leave room for what follows, most of all for an incident.
    let most = match app.ui.opened {
        Some(_) if area.height < LARGE.1 => (area.height / 10).max(1),
        _ => (area.height / 3).max(1),
    };
    let head_height = (head.len() as u16).min(most);
    let [head_area, banner_area, body, status_area] = Layout::vertical([
        Constraint::Length(head_height),
        Constraint::Length(banner.len() as u16),
        Constraint::Fill(1),
        Constraint::Length(1),
    ])
    .areas(area);
    flow::draw(&head, head_area, buf);
    flow::draw(&banner, banner_area, buf);
    status::render(view, status_area, buf);

    if let Some(id) = app.ui.opened {
        timeline::render(view, id, body, buf);
    } else if area.width >= LARGE.0 && area.height >= LARGE.1 {
        large(view, body, buf);
    } else {
        small(view, body, buf);
    }
    if app.ui.help {
        help::render(view, Rect { height: area.height - status_area.height, ..area }, buf);
    }
}

fn large(view: View, area: Rect, buf: &mut Buffer) {
    let columns = Layout::horizontal([Constraint::Fill(11), Constraint::Fill(9)]);
    let [table_width, _] = columns.areas(area);
    let top_height = (area.height / 3).clamp(9, 16);
    // The table of vCPUs gets what it needs, unless the incidents then had nothing left.
    let rest = area.height.saturating_sub(top_height);
    let least = (rest / 2).clamp(12, 16);
    let middle_height = vcpus::wanted_height(view, table_width.width).clamp(least, (rest * 2 / 3).max(least));
    let [top, middle, bottom] = Layout::vertical([
        Constraint::Length(top_height),
        Constraint::Length(middle_height),
        Constraint::Fill(1),
    ])
    .areas(area);
    let [chart, hists] = Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)]).areas(top);
    psp_chart::render(view, Frame::Box, chart, buf);
    times::render(view, Frame::Box, hists, buf);
    let [table, right] = columns.areas(middle);
    vcpus::render(view, Frame::Box, table, buf);
    let [locks, callers] = Layout::vertical([Constraint::Fill(1), Constraint::Fill(1)]).areas(right);
    rows::render(view, Table::Locks, Frame::Box, locks, buf);
    rows::render(view, Table::Callers, Frame::Box, callers, buf);
    incidents::render(view, Frame::Box, bottom, buf);
}

fn small(view: View, area: Rect, buf: &mut Buffer) {
    // The chart goes first where there is no room for it and some rows of the panel.
    let chart_height = match area.height {
        0..11 => 0,
        11..14 => 4,
        14..18 => 6,
        more => more / 3,
    };
    let [chart, panel] =
        Layout::vertical([Constraint::Length(chart_height), Constraint::Fill(1)]).areas(area);
    if chart_height > 0 {
        psp_chart::render(view, Frame::Top, chart, buf);
    }
    match view.app.ui.focus {
        Panel::Vcpus => vcpus::render(view, Frame::Top, panel, buf),
        Panel::Times => times::render(view, Frame::Top, panel, buf),
        Panel::Locks => rows::render(view, Table::Locks, Frame::Top, panel, buf),
        Panel::Callers => rows::render(view, Table::Callers, Frame::Top, panel, buf),
        Panel::Incidents => incidents::render(view, Frame::Top, panel, buf),
    }
    other_panels(view, panel, buf);
}

/// Names the other panels at the right end of the panel's upper edge, if there is room.
fn other_panels(view: View, area: Rect, buf: &mut Buffer) {
    let mut names = String::from(" ");
    for (i, panel) in Panel::ALL.into_iter().enumerate() {
        if panel != view.app.ui.focus {
            names.push_str(&format!("{} {}  ", i + 1, panel.title()));
        }
    }
    let names = names.trim_end();
    // The panel's own heading stands at the left.
    if width(names) + OWN_TITLE <= area.width {
        put(buf, area, area.width - width(names), 0, names, view.style(Role::Label));
    }
}
