//! The terminal in its drawing state, and its way back from there whatever happens.

use std::io::{self, BufWriter, Stdout, Write, stdout};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use ratatui::backend::CrosstermBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::crossterm::{cursor, execute, style};
use ratatui::layout::Rect;
use ratatui::{Terminal, TerminalOptions, Viewport};

use crate::theme::Colors;

/// Whether the terminal is in its drawing state.
static DRAWING: AtomicBool = AtomicBool::new(false);
static PANIC_HOOK: Once = Once::new();

/// A terminal that is drawn on. Dropping it, or a panic, gives the terminal back as it was.
pub struct Screen {
    terminal: Terminal<CrosstermBackend<BufWriter<Stdout>>>,
    size: Rect,
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
        let size = terminal_size().context("asking standard output for the size of its terminal")?;
        DRAWING.store(true, Ordering::SeqCst);
        let entered = Self::start(size);
        if entered.is_err() {
            restore().context("restoring the terminal")?;
        }
        entered.context("preparing the terminal")
    }

    fn start(size: Rect) -> io::Result<Self> {
        enable_raw_mode()?;
        execute!(stdout(), EnterAlternateScreen, cursor::Hide)?;
        let backend = CrosstermBackend::new(BufWriter::with_capacity(64 << 10, stdout()));
        // A fixed viewport asks for no size at every drawing; `resize` is told by a signal.
        let options = TerminalOptions { viewport: Viewport::Fixed(size) };
        let mut terminal = Terminal::with_options(backend, options)?;
        if !size.is_empty() {
            terminal.resize(size)?;
        }
        Ok(Self { terminal, size })
    }

    /// Takes over the size that the terminal has now.
    pub fn resize(&mut self) -> Result<()> {
        self.size = terminal_size().context("asking for the terminal's size")?;
        if !self.size.is_empty() {
            self.terminal.resize(self.size).context("resizing the picture")?;
        }
        Ok(())
    }

    /// The size that it has.
    pub fn size(&self) -> Rect {
        self.size
    }

    /// Draws what has changed. Nothing is drawn on a terminal of no size.
    pub fn draw(&mut self, render: impl FnOnce(Rect, &mut Buffer)) -> Result<()> {
        if !self.size.is_empty() {
            self.terminal
                .draw(|frame| {
                    let area = frame.area();
                    render(area, frame.buffer_mut());
                })
                .context("drawing on the terminal")?;
        }
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

fn terminal_size() -> io::Result<Rect> {
    let size = rustix::termios::tcgetwinsize(stdout())?;
    Ok(Rect::new(0, 0, size.ws_col, size.ws_row))
}
