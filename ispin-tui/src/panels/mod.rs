//! The parts of the screen, one file each. A panel draws what it is given and changes nothing.
//!
//! | module | part |
//! |---|---|
//! | [`header`] | what is observed, its figures, cross-check and losses |
//! | [`psp_chart`] | PSP rate over time, split into LHP and LWP |
//! | [`vcpus`] | table per vCPU |
//! | [`times`] | histograms of hold and wait |
//! | [`rows`] | top locks and top callers |
//! | [`incidents`] | incident log |
//! | [`timeline`], [`lanes`] | an opened incident: its moments as a list, and to scale |
//! | [`help`] | the list of keys |
//! | [`status`] | what the dashboard does, last line; and the banner of a lost connection |
//! | [`table`], [`flow`] | what several of them need: rows of figures, wrapped items |

pub mod flow;
pub mod header;
pub mod help;
pub mod incidents;
pub mod lanes;
pub mod psp_chart;
pub mod rows;
pub mod status;
pub mod table;
pub mod timeline;
pub mod times;
pub mod vcpus;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, BorderType, Borders, Widget};

use crate::state::app::App;
use crate::state::measured::Measured;
use crate::state::observed::Observed;
use crate::state::ui::Panel;
use crate::theme::{Role, Theme};

/// What every panel may look at.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// The dashboard's state.
    pub app: &'a App,
    /// Turns meanings into styles.
    pub theme: Theme,
}

impl<'a> View<'a> {
    /// What was learnt from snapshots, as far as the screen shows it.
    pub fn seen(&self) -> &'a Observed {
        self.app.shown()
    }

    /// Figures of the last second.
    pub fn measured(&self) -> &'a Measured {
        self.app.shown().measured()
    }

    /// Figures to compare with.
    pub fn baseline(&self) -> Option<&'a Measured> {
        self.app.shown().baseline().map(|baseline| &baseline.measured)
    }

    /// Unit of all times; empty before the first snapshot.
    pub fn time_unit(&self) -> &'a str {
        self.seen().now().map_or("", |now| &now.source.time_unit)
    }

    /// The style of a meaning.
    pub fn style(&self, role: Role) -> Style {
        self.theme.style(role)
    }

    /// Text of a meaning.
    pub fn span(&self, role: Role, text: impl Into<String>) -> Span<'static> {
        Span::styled(text.into(), self.style(role))
    }
}

/// How much of a frame a panel gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A line above it.
    Top,
    /// A box.
    Box,
}

/// Draws a panel's frame; returns what is left inside. `panel` = the panel that can have the keys, if it is one.
pub fn frame(
    view: View,
    frame: Frame,
    panel: Option<Panel>,
    title: Line<'static>,
    area: Rect,
    buf: &mut Buffer,
) -> Rect {
    let focused = panel == Some(view.app.ui.focus);
    let role = if focused { Role::Focus } else { Role::Frame };
    let borders = match frame {
        Frame::Top => Borders::TOP,
        Frame::Box => Borders::ALL,
    };
    // The panel with the keys is told by the kind of its frame too, for terminals without colours.
    let kind = if focused && frame == Frame::Box { BorderType::Thick } else { BorderType::Plain };
    let block = Block::new().borders(borders).border_type(kind).border_style(view.style(role)).title(title);
    let inner = block.inner(area);
    block.render(area, buf);
    inner
}

/// Writes `text` at a place relative to `area`, cut at its edges.
pub fn put(buf: &mut Buffer, area: Rect, x: u16, y: u16, text: &str, style: Style) {
    let area = area.intersection(buf.area);
    if x < area.width && y < area.height {
        buf.set_stringn(area.x + x, area.y + y, text, usize::from(area.width - x), style);
    }
}

/// Writes one cell at a place relative to `area`, if it lies inside.
pub fn put_cell(buf: &mut Buffer, area: Rect, x: u16, y: u16, symbol: char, style: Style) {
    if x < area.width
        && y < area.height
        && let Some(cell) = buf.cell_mut((area.x + x, area.y + y))
    {
        // Nothing of what stood there before shines through.
        cell.reset();
        cell.set_char(symbol).set_style(style);
    }
}

/// How many columns `text` takes.
pub fn width(text: &str) -> u16 {
    Span::raw(text).width().try_into().unwrap_or(u16::MAX)
}

/// Tells in the middle of an empty panel why it is empty.
pub fn tell_empty(view: View, text: &str, area: Rect, buf: &mut Buffer) {
    let x = area.width.saturating_sub(width(text)) / 2;
    put(buf, area, x, area.height / 2, text, view.style(Role::Label));
}
