//! The terminal in its drawing state, and its way back from there whatever happens.

use std::io::{self, BufWriter, Stdout, Write, stdout};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use ratatui::backend::{Backend, CrosstermBackend};
use ratatui::buffer::Buffer;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::crossterm::{cursor, execute, style};
use ratatui::layout::Rect;

use crate::theme::Colors;

/// Whether the terminal is in its drawing state.
static DRAWING: AtomicBool = AtomicBool::new(false);
static PANIC_HOOK: Once = Once::new();

/// A terminal that is drawn on. Dropping it, or a panic, gives the terminal back as it was.
///
/// Holds two buffers itself instead of a [`ratatui::Terminal`], which asks for the size at every drawing and, on
/// a terminal that has gone away, panics when it is dropped.
pub struct Screen {
    backend: CrosstermBackend<BufWriter<Stdout>>,
    /// What the terminal shows.
    shown: Buffer,
    /// What it is to show next.
    next: Buffer,
}

impl Screen {
    /// Takes the terminal on standard output.
    pub fn enter(colors: Colors) -> Result<Self> {
        PANIC_HOOK.call_once(|| {
            let previous = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                // The message has to appear on the restored terminal; that restoring failed says nothing new.
                let _ = restore();
                previous(info);
            }));
        });
        // What is asked for is obeyed here, and not overruled by NO_COLOR further down.
        style::force_color_output(colors != Colors::None);
        DRAWING.store(true, Ordering::SeqCst);
        let entered = Self::start();
        if entered.is_err() {
            restore().context("restoring the terminal")?;
        }
        entered.context("preparing the terminal")
    }

    fn start() -> io::Result<Self> {
        enable_raw_mode()?;
        execute!(stdout(), EnterAlternateScreen, cursor::Hide)?;
        let backend = CrosstermBackend::new(BufWriter::with_capacity(64 << 10, stdout()));
        let mut screen = Self { backend, shown: Buffer::default(), next: Buffer::default() };
        screen.clear()?;
        Ok(screen)
    }

    /// Begins with an empty picture of the size that the terminal has now.
    fn clear(&mut self) -> io::Result<()> {
        let size = rustix::termios::tcgetwinsize(stdout())?;
        let area = Rect::new(0, 0, size.ws_col, size.ws_row);
        self.shown = Buffer::empty(area);
        self.next = Buffer::empty(area);
        self.backend.clear()
    }

    /// Takes over the size that the terminal has now.
    pub fn resize(&mut self) -> Result<()> {
        self.clear().context("taking over the terminal's size")
    }

    /// The size that it has.
    pub fn size(&self) -> Rect {
        self.shown.area
    }

    /// Draws what has changed. Nothing is drawn on a terminal of no size.
    pub fn draw(&mut self, render: impl FnOnce(Rect, &mut Buffer)) -> Result<()> {
        self.next.reset();
        render(self.next.area, &mut self.next);
        let changed = self.shown.diff(&self.next);
        if !changed.is_empty() {
            self.backend.draw(changed.into_iter()).context("drawing on the terminal")?;
        }
        Backend::flush(&mut self.backend).context("drawing on the terminal")?;
        std::mem::swap(&mut self.shown, &mut self.next);
        Ok(())
    }

    /// Gives the terminal back as it was.
    pub fn leave(self) -> Result<()> {
        restore().context("restoring the terminal")
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Reached with the terminal in its drawing state only on the way out with an error, which is the one to
        // report.
        let _ = restore();
    }
}

fn restore() -> io::Result<()> {
    if !DRAWING.swap(false, Ordering::SeqCst) {
        return Ok(());
    }
    let mut out = stdout();
    let shown =
        execute!(out, LeaveAlternateScreen, cursor::Show, style::ResetColor).and_then(|()| out.flush());
    disable_raw_mode().and(shown)
}
