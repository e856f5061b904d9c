//! The list of keys, over the rest of the screen.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::Line;
use ratatui::widgets::{Block, Clear, Widget};

use super::{View, put};
use crate::keys::BINDINGS;
use crate::theme::Role;

const WORDS: &[(&str, &str)] = &[
    ("LHP", "lock holder preempted: acquire, release in different quanta"),
    ("LWP", "lock waiter preempted: take, acquire in different quanta"),
    ("PSP", "problematic spin preemption: LHP and LWP"),
    ("pre", "of these: the vCPU really lost its pCPU"),
    ("blk", "of LWP: the lock itself blocked or yielded"),
    ("harm", "of LWP: its turn came while it was off its pCPU"),
    ("free", "how long the lock stood free because of that"),
    ("deferral", "a ticket refused because the quantum would end too soon"),
    ("lql", "queue length that a take met"),
    ("csd", "critical section duration estimate"),
];

/// Draws it in the middle of `area`.
pub fn render(view: View, area: Rect, buf: &mut Buffer) {
    let keys: Vec<_> = BINDINGS.iter().filter(|binding| !binding.shown.is_empty()).collect();
    let height_keys = keys.len() as u16 + 2;
    let with_words = height_keys + WORDS.len() as u16 + 2 <= area.height;
    let height = height_keys + if with_words { WORDS.len() as u16 + 1 } else { 0 };
    let (width, height) = (78.min(area.width), height.min(area.height));
    let place =
        Rect { x: area.x + (area.width - width) / 2, y: area.y + (area.height - height) / 2, width, height };
    Clear.render(place, buf);
    let title = Line::from(view.span(Role::Strong, " keys, ? or Esc closes "));
    let block = Block::bordered().border_style(view.style(Role::Focus)).title(title);
    let inner = block.inner(place);
    block.render(place, buf);
    for (y, binding) in keys.iter().enumerate() {
        put(buf, inner, 1, y as u16, binding.shown, view.style(Role::Strong));
        put(buf, inner, 17, y as u16, binding.help, view.style(Role::Plain));
    }
    if with_words {
        for (i, (word, meaning)) in WORDS.iter().enumerate() {
            let y = (keys.len() + 1 + i) as u16;
            put(buf, inner, 1, y, word, view.style(Role::Strong));
            put(buf, inner, 17, y, meaning, view.style(Role::Label));
        }
    }
}
