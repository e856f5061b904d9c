//! The one line that tells how far things are while they are built and booted.

use std::cell::{Cell, RefCell};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Without a terminal, how often a step that takes long is told of.
const EVERY: Duration = Duration::from_secs(10);

/// On a terminal a line that changes in place; elsewhere a line per step, and one now and then within it.
pub struct Progress {
    bar: Option<ProgressBar>,
    step: RefCell<String>,
    told: Cell<Instant>,
}

impl Progress {
    /// On standard error.
    pub fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            let style = ProgressStyle::with_template("{spinner} {wide_msg} [{elapsed}]");
            // A template that does not parse would only cost the elapsed time.
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self { bar, step: RefCell::default(), told: Cell::new(Instant::now()) }
    }

    /// A step begins.
    pub fn step(&self, what: &str) {
        what.clone_into(&mut self.step.borrow_mut());
        match &self.bar {
            Some(bar) => bar.set_message(what.to_owned()),
            None => self.line(what),
        }
    }

    /// How far the step is. Cheap enough to be called at any rate.
    pub fn detail(&self, how_far: &str) {
        let text = || format!("{}: {how_far}", self.step.borrow());
        match &self.bar {
            Some(bar) => bar.set_message(text()),
            None if self.told.get().elapsed() >= EVERY => self.line(&text()),
            None => {}
        }
    }

    /// Says something that stays.
    pub fn say(&self, what: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| self.line(what)),
            None => self.line(what),
        }
    }

    /// Takes the line off the terminal.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn line(&self, text: &str) {
        // Who closed standard error does not want to know.
        let _ = writeln!(std::io::stderr(), "ispin-lab: {text}");
        self.told.set(Instant::now());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}
