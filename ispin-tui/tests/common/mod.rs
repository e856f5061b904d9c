//! What several tests need: a made-up world on a made-up screen.
#![allow(dead_code, reason = "each test uses a part of it")]

pub mod synthetic;

use std::time::Duration;

use ispin_tui::feed::Update;
use ispin_tui::keys::{Key, action};
use ispin_tui::panels::View;
use ispin_tui::state::app::App;
use ispin_tui::theme::{Colors, Theme};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use synthetic::World;

/// A dashboard that saw nothing yet.
pub fn new_app() -> App {
    App::new("unix:/run/ispin.sock", Duration::from_millis(250), None)
}

/// A dashboard that saw `count` snapshots of `world`.
pub fn app_of(world: &World, count: u64) -> App {
    let mut app = new_app();
    feed(&mut app, world, 1..=count);
    app
}

/// A dashboard with ticket as baseline that now sees `lock`.
pub fn app_with_baseline(lock: &str) -> App {
    let mut app = app_of(&World::new(2, 4, "ticket"), 60);
    press(&mut app, "m");
    feed(&mut app, &World { run: 1, ..World::new(2, 4, lock) }, 1..=40);
    app
}

/// Shows `app` these snapshots of `world`.
pub fn feed(app: &mut App, world: &World, numbers: impl IntoIterator<Item = u64>) {
    for n in numbers {
        app.update(Update::Snapshot(Box::new(world.snapshot(n))));
    }
}

/// Presses keys; `\n` is Enter, `\t` is Tab, `\x1b` is Escape, `\x08` is Backspace.
pub fn press(app: &mut App, keys: &str) {
    for c in keys.chars() {
        let key = match c {
            '\n' => Key::Enter,
            '\t' => Key::Tab,
            '\x1b' => Key::Esc,
            '\x08' => Key::Backspace,
            c => Key::Char(c),
        };
        if let Some(action) = action(key, app.ui.typing.is_some()) {
            app.act(action);
        }
    }
}

/// The screen in this size.
pub fn screen(app: &App, colors: Colors, width: u16, height: u16) -> TestBackend {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("no I/O");
    terminal
        .draw(|frame| {
            let area = frame.area();
            ispin_tui::screen::render(app, Theme { colors }, area, frame.buffer_mut());
        })
        .expect("no I/O");
    terminal.backend().clone()
}

/// The screen in this size, as text.
pub fn text(app: &App, width: u16, height: u16) -> String {
    screen(app, Colors::Sixteen, width, height).to_string()
}

/// One panel in this size, as text.
pub fn panel(
    app: &App,
    width: u16,
    height: u16,
    render: impl FnOnce(View, Rect, &mut Buffer),
) -> TestBackend {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("no I/O");
    terminal
        .draw(|frame| {
            let view = View { app, theme: Theme::default() };
            let area = frame.area();
            render(view, area, frame.buffer_mut());
        })
        .expect("no I/O");
    terminal.backend().clone()
}
