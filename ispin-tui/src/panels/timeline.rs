//! An opened incident: what happened to whom, in order of time and to scale.

use ispin_agent::model::IncidentRecord;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::Line;
use ratatui::widgets::{Block, Clear, Widget};

use super::flow::{self, Item, fact};
use super::{View, lanes, put, width};
use crate::format::{time, time_offset};
use crate::state::incidents::Logged;
use crate::state::measured::Place;
use crate::theme::Role;

/// Lines below which lanes show too little: letters of the moments, the vCPU, one behind it, the key.
const FEWEST_LANES: u16 = 5;
/// Said in place of those who waited.
pub const NOBODY: &str = "Nobody is known to have waited behind it.";

/// Something that happened at one moment.
#[derive(Clone, Debug)]
pub struct Event {
    /// When, in the source's time.
    pub at: u64,
    /// Names it in the lanes.
    pub letter: char,
    /// What it was.
    pub what: &'static str,
    /// What is to be said of it.
    pub remark: String,
}

/// Draws the incident with this number, or tells that it is no longer kept.
pub fn render(view: View, id: u64, area: Rect, buf: &mut Buffer) {
    Clear.render(area, buf);
    let logged = view.seen().incidents().get(id);
    let title = match logged {
        Some(logged) => format!(" {} of {} ", logged.record.kind.to_uppercase(), place(&logged.record)),
        None => " incident ".into(),
    };
    let block = Block::bordered()
        .border_style(view.style(Role::Focus))
        .title(Line::from(view.span(Role::Strong, title)))
        .title_bottom(Line::from(view.span(Role::Label, " j k next, before   Esc closes ")));
    let inner = block.inner(area);
    block.render(area, buf);
    let Some(logged) = logged else {
        return super::tell_empty(view, "this incident is no longer kept", inner, buf);
    };

    let events = events(logged);
    let mut lines = flow::wrap(facts(view, logged), inner.width);
    lines.extend(flow::wrap_words(view, Role::Strong, &story(logged), inner.width));
    let (text, listed) = (lines.len() as u16, events.len() as u16);
    // The list of moments says more than the lanes, so that it stays where there is no room for both.
    let room = inner.height.saturating_sub(text + listed);
    let lanes_height = if room >= FEWEST_LANES { room } else { 0 };
    if lanes_height == 0 {
        lines.extend(flow::wrap_words(view, Role::Plain, &behind(logged), inner.width));
    }
    flow::draw(&lines, inner, buf);
    let below =
        |y: u16| Rect { y: inner.y + y.min(inner.height), height: inner.height.saturating_sub(y), ..inner };
    let mut y = lines.len() as u16;
    // A free line before and after the lanes, if there is room.
    let free = u16::from(room > FEWEST_LANES + logged.record.victims.len() as u16 + 2);
    if lanes_height > 0 {
        let area = Rect { height: lanes_height - 2 * free, ..below(y + free) };
        y += 2 * free + lanes::render(view, logged, &events, area, buf);
    }
    list(view, logged, &events, below(y), buf);
}

/// The vCPU that it happened to.
pub fn place(r: &IncidentRecord) -> Place {
    Place { vm: r.vm.clone(), vcpu: r.vcpu }
}

fn facts(view: View, logged: &Logged) -> Vec<Item> {
    let r = &logged.record;
    let unit = &*logged.time_unit;
    let mut items = vec![
        fact(view, "lock", &*r.lock),
        fact(view, "caller", &*r.caller),
        fact(view, "ticket", r.ticket.to_string()),
        fact(view, "episode", r.seq.to_string()),
        fact(view, "quanta", format!("{}, {}", r.from_slice, r.to_slice)),
        fact(view, "off", time(r.off, unit)),
        fact(view, "lost", time(r.lost, unit)),
    ];
    if !r.reason.is_empty() {
        items.push(fact(view, "reason", &*r.reason));
    }
    if !r.cause.is_empty() {
        items.push(fact(view, "cause", &*r.cause));
    }
    items.push(fact(view, "run", &*logged.run));
    items
}

/// The incident in a sentence.
fn story(logged: &Logged) -> String {
    let r = &logged.record;
    let unit = &*logged.time_unit;
    let who = place(r);
    let did = if r.kind == "lhp" { "held" } else { "waited for" };
    let mut text = format!("{who} {did} {} across the end of its quantum", r.lock);
    if r.preempted {
        text.push_str(&format!(" and was off its pCPU for {}", time(r.off, unit)));
    } else {
        text.push_str(" but never left its pCPU");
    }
    if r.harmful {
        text.push_str(&format!(
            "; its turn came meanwhile and the lock stood free for {}",
            time(r.lost, unit)
        ));
    }
    if r.blocked {
        text.push_str("; the lock itself blocked or yielded");
    }
    text.push('.');
    text
}

/// Who waited behind it, in a sentence.
fn behind(logged: &Logged) -> String {
    let r = &logged.record;
    let waits: Vec<_> = r
        .victims
        .iter()
        .map(|victim| {
            let who = Place { vm: r.vm.clone(), vcpu: victim.vcpu };
            format!("{who} {}", time(victim.acquire.saturating_sub(victim.take), &logged.time_unit))
        })
        .collect();
    if waits.is_empty() { NOBODY.into() } else { format!("Waited behind it: {}.", waits.join(", ")) }
}

/// What is known to have happened to the vCPU itself, in order of time.
fn events(logged: &Logged) -> Vec<Event> {
    let r = &logged.record;
    let unit = &*logged.time_unit;
    let mut events = Vec::new();
    let mut add = |at, letter, what, remark| events.push(Event { at, letter, what, remark });
    let queue = match r.lql {
        0 => "met a free lock".into(),
        n => format!("met a queue of {n}"),
    };
    add(r.take, 'T', "take", queue);
    let acquire = if r.kind == "lhp" { r.from } else { r.to };
    add(acquire, 'A', "acquire", format!("waited {}", time(acquire.saturating_sub(r.take), unit)));
    if let Some(planned) = r.planned_end {
        add(planned, 'P', "planned end", "end of the quantum as published".into());
    }
    if let Some(real) = r.real_end {
        let remark = match r.planned_end {
            Some(planned) if real < planned => {
                format!("{} before the planned end", time(planned - real, unit))
            }
            Some(planned) => format!("{} after the planned end", time(real - planned, unit)),
            None => "the planned end is not known".into(),
        };
        add(real, 'O', "real end: off the pCPU", remark);
    }
    if r.preempted && r.back > 0 {
        add(r.back, 'B', "back on a pCPU", format!("off for {}", time(r.off, unit)));
    }
    if r.kind == "lhp" {
        add(r.to, 'R', "release", format!("held {}", time(r.to.saturating_sub(r.from), unit)));
    }
    events.sort_by_key(|event| event.at);
    events
}

/// Lists the moments with their distance from the first.
fn list(view: View, logged: &Logged, events: &[Event], area: Rect, buf: &mut Buffer) {
    let unit = &*logged.time_unit;
    let Some(first) = events.first() else { return };
    for (y, event) in events.iter().enumerate() {
        let offset = time_offset(i128::from(event.at) - i128::from(first.at), unit);
        let x = 10u16.saturating_sub(width(&offset));
        let y = y as u16;
        put(buf, area, x, y, &offset, view.style(Role::Plain));
        put(buf, area, 12, y, &event.letter.to_string(), view.style(Role::Strong));
        put(buf, area, 14, y, event.what, view.style(Role::Plain));
        put(buf, area, 38, y, &event.remark, view.style(Role::Label));
    }
}
