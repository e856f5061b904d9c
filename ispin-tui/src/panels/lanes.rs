//! An incident to scale: a lane for the vCPU that was preempted, one for each that waited behind it.

use std::ops::Range;

use ispin_agent::model::{IncidentRecord, Victim};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::timeline::{Event, NOBODY, place};
use super::{View, put, put_cell, width};
use crate::format::time;
use crate::state::incidents::Logged;
use crate::state::measured::Place;
use crate::theme::Role;

/// Columns that the names before the lanes take.
const NAMES: u16 = 10;
/// With fewer columns than this there is nothing to see.
const FEWEST_COLUMNS: u16 = 10;

/// Times and the columns of the screen that they fall on.
struct Scale {
    begin: u64,
    end: u64,
    columns: u16,
}

impl Scale {
    /// From the first to the last known moment; `None` if there is no room or no time between them.
    fn new(r: &IncidentRecord, events: &[Event], width: u16) -> Option<Self> {
        let moments = || {
            let victims = r.victims.iter().flat_map(|v| [v.take, v.acquire]);
            events.iter().map(|event| event.at).chain(victims)
        };
        let (begin, end) = (moments().min()?, moments().max()?);
        let columns = width.saturating_sub(NAMES);
        (columns >= FEWEST_COLUMNS && begin < end).then_some(Self { begin, end, columns })
    }

    fn x(&self, at: u64) -> u16 {
        let along = u128::from(at.clamp(self.begin, self.end) - self.begin);
        let last = u128::from(self.columns - 1);
        NAMES + (along * last / u128::from(self.end - self.begin)) as u16
    }

    /// The columns of a stretch of time, one at least.
    fn range(&self, from: u64, to: u64) -> Range<u16> {
        let (from, to) = (self.x(from), self.x(to));
        from..to.max(from + 1)
    }
}

/// Draws the lanes; returns the lines used.
pub fn render(view: View, logged: &Logged, events: &[Event], area: Rect, buf: &mut Buffer) -> u16 {
    let r = &logged.record;
    let Some(scale) = Scale::new(r, events, area.width) else { return 0 };
    let mut y = letters(view, &scale, events, area, buf);

    put(buf, area, 0, y, &place(r).to_string(), view.style(Role::Strong));
    let holder = r.kind == "lhp";
    let acquire = if holder { r.from } else { r.to };
    fill(view, scale.range(r.take, acquire), '─', Role::Lwp, y, area, buf);
    if holder {
        fill(view, scale.range(r.from, r.to), '█', Role::Lhp, y, area, buf);
    }
    if r.preempted && r.back > 0 {
        let out = r.real_end.unwrap_or(r.back.saturating_sub(r.off));
        let (symbol, role) = if holder { ('▒', Role::Lhp) } else { ('░', Role::Lwp) };
        fill(view, scale.range(out, r.back), symbol, role, y, area, buf);
    }
    y += 1;

    let mut victims: Vec<_> = r.victims.iter().collect();
    victims.sort_by_key(|victim| victim.take);
    // One line stays for the key, and one for those that find no room.
    let room = usize::from(area.height.saturating_sub(y + 1));
    let drawn = if victims.len() > room { room.saturating_sub(1) } else { victims.len() };
    for victim in &victims[..drawn] {
        lane(view, &scale, logged, victim, y, area, buf);
        y += 1;
    }
    if drawn < victims.len() {
        let text = format!("and {} more that waited behind it", victims.len() - drawn);
        put(buf, area, NAMES, y, &text, view.style(Role::Label));
        y += 1;
    }
    if victims.is_empty() && y + 1 < area.height {
        put(buf, area, NAMES, y, NOBODY, view.style(Role::Label));
        y += 1;
    }
    let key = if holder {
        "─ waits   █ holds   ▒ holds, off its pCPU"
    } else {
        "─ waits   ░ waits, off its pCPU"
    };
    put(buf, area, NAMES, y, key, view.style(Role::Label));
    y + 1
}

/// Draws the letters of the moments, those that fall together above each other; returns the lines used.
fn letters(view: View, scale: &Scale, events: &[Event], area: Rect, buf: &mut Buffer) -> u16 {
    let mut places: Vec<(u16, u16)> = Vec::new();
    for event in events {
        let x = scale.x(event.at);
        let above = places.iter().filter(|(taken, _)| *taken == x).count() as u16;
        places.push((x, above));
    }
    let lines = places.iter().map(|(_, above)| above + 1).max().unwrap_or(0);
    for (event, (x, above)) in events.iter().zip(&places) {
        put_cell(buf, area, *x, lines - 1 - above, event.letter, view.style(Role::Strong));
    }
    lines
}

/// Draws the wait of one that stood behind.
fn lane(view: View, scale: &Scale, logged: &Logged, victim: &Victim, y: u16, area: Rect, buf: &mut Buffer) {
    let name = Place { vm: logged.record.vm.clone(), vcpu: victim.vcpu }.to_string();
    put(buf, area, 0, y, &name, view.style(Role::Plain));
    let range = scale.range(victim.take, victim.acquire);
    let waited = victim.acquire.saturating_sub(victim.take);
    let text = format!(" waited {} ", time(waited, &logged.time_unit));
    let after = range.end;
    fill(view, range.clone(), '─', Role::Lwp, y, area, buf);
    if after + width(&text) <= area.width {
        put(buf, area, after, y, &text, view.style(Role::Label));
    } else {
        put(buf, area, after.saturating_sub(width(&text) + 1).max(NAMES), y, &text, view.style(Role::Label));
    }
}

fn fill(view: View, columns: Range<u16>, symbol: char, role: Role, y: u16, area: Rect, buf: &mut Buffer) {
    for x in columns {
        put_cell(buf, area, x, y, symbol, view.style(role));
    }
}
