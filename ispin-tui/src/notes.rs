//! What the user is told on standard error; warnings of the libraries are kept while the screen belongs to the dashboard.

use std::fmt::Display;
use std::io::Write;
use std::sync::{Mutex, PoisonError};

use log::{Level, LevelFilter, Log, Metadata, Record};

/// Tells the user something. Unlike `eprintln!` it does not panic when the terminal has gone: whoever closed it
/// does not want to know.
pub(crate) fn tell(what: impl Display) {
    let _ = writeln!(std::io::stderr(), "ispin-tui: {what}");
}

/// Warnings kept; what comes after them is counted.
const CAPACITY: usize = 50;

/// The kept warnings.
pub struct Notes {
    kept: Mutex<(Vec<String>, usize)>,
}

static NOTES: Notes = Notes { kept: Mutex::new((Vec::new(), 0)) };

impl Notes {
    /// Begins to keep them, for the whole program.
    pub fn start() -> &'static Self {
        // Fails only if the program has a logger already, which then does what this one would.
        if log::set_logger(&NOTES).is_ok() {
            log::set_max_level(LevelFilter::Warn);
        }
        &NOTES
    }

    /// What was kept since the last call.
    pub fn take(&self) -> Vec<String> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut notes, more) = std::mem::take(&mut *kept);
        if more > 0 {
            notes.push(format!("and {more} more warnings"));
        }
        notes
    }
}

impl Log for Notes {
    fn enabled(&self, metadata: &Metadata) -> bool {
        metadata.level() <= Level::Warn
    }

    fn log(&self, record: &Record) {
        if self.enabled(record.metadata()) {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.0.len() < CAPACITY {
                kept.0.push(record.args().to_string());
            } else {
                kept.1 += 1;
            }
        }
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_kept_up_to_a_number_and_then_counted() {
        let notes = Notes { kept: Mutex::default() };
        for i in 0..CAPACITY + 2 {
            notes.log(&Record::builder().level(Level::Warn).args(format_args!("note {i}")).build());
        }
        notes.log(&Record::builder().level(Level::Info).args(format_args!("no note")).build());
        let taken = notes.take();
        assert_eq!(taken.len(), CAPACITY + 1);
        assert_eq!(taken[0], "note 0");
        assert_eq!(taken[CAPACITY], "and 2 more warnings");
        assert!(notes.take().is_empty());
    }
}
