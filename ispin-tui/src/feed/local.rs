//! A source in this process, and the COMMAND that makes its world, if this program started one.

use std::process::ExitStatus;

use anyhow::Result;
use ispin_agent::clock;
use ispin_agent::command::{Child, GRACE};
use ispin_agent::source::{self, Source};

use super::{Feed, Pace, Update};

/// Samples a source: a live one at every planned moment, a recorded one at its recorded pace.
pub struct LocalFeed {
    source: Box<dyn Source>,
    command: Option<Child>,
    over: bool,
    late_samples: u64,
    /// When the next snapshot of a recorded run is due.
    next_ns: u64,
}

/// What is left of COMMAND.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// As the user called it.
    pub name: String,
    /// How it ended, if it did so by itself.
    pub by_itself: Option<ExitStatus>,
    /// The last that it wrote.
    pub said: String,
}

impl LocalFeed {
    /// Of an opened source.
    pub fn new(source: Box<dyn Source>, command: Option<Child>) -> Self {
        Self { source, command, over: false, late_samples: 0, next_ns: 0 }
    }

    /// Ends the observation, then COMMAND; says how that ended.
    pub fn close(self) -> Result<Option<Closed>> {
        // The world learns that nobody observes it any more before it is ended.
        drop(self.source);
        let Some(mut command) = self.command else { return Ok(None) };
        let by_itself = if self.over { command.wait(Some(GRACE))? } else { command.try_wait()? };
        if by_itself.is_none() {
            command.end(signal_hook::consts::SIGTERM, GRACE)?;
        }
        Ok(Some(Closed { name: command.name().to_owned(), by_itself, said: command.said()? }))
    }

    fn sample(&mut self) -> Result<Vec<Update>> {
        // Before the sample, so that the last one is taken after the end.
        let command_ended = match &mut self.command {
            Some(command) => command.try_wait()?.is_some(),
            None => false,
        };
        let mut snapshot = self.source.sample()?;
        snapshot.finished |= command_ended;
        snapshot.losses.late_samples += self.late_samples;
        self.over = snapshot.finished;
        let mut updates = vec![Update::Snapshot(Box::new(snapshot))];
        if self.over {
            updates.push(Update::Finished);
        }
        Ok(updates)
    }
}

impl Feed for LocalFeed {
    fn name(&self) -> String {
        match &self.command {
            Some(command) => format!("{} around {}", self.source.kind(), command.name()),
            None => self.source.kind().to_owned(),
        }
    }

    fn pace(&self) -> Pace<'_> {
        match self.source.pace() {
            _ if self.over => Pace::Over,
            source::Pace::Clock => Pace::Planned,
            source::Pace::Recorded(_) => Pace::At(self.next_ns),
        }
    }

    fn sets_the_pace(&self) -> bool {
        matches!(self.source.pace(), source::Pace::Recorded(_))
    }

    fn plan(&mut self, wanted_ns: u64) -> u64 {
        let at_ns = self.source.align(wanted_ns);
        self.source.announce(at_ns);
        if let Some(command) = &mut self.command
            && let Err(error) = command.listen()
        {
            log::warn!("{error:#}");
        }
        at_ns
    }

    fn came_late(&mut self) {
        self.late_samples += 1;
    }

    fn poll(&mut self, now_ns: u64) -> Vec<Update> {
        let recorded = matches!(self.source.pace(), source::Pace::Recorded(_));
        if self.over || (recorded && now_ns < self.next_ns) {
            return Vec::new();
        }
        match self.sample() {
            Ok(updates) => {
                if let source::Pace::Recorded(step) = self.source.pace() {
                    let step_ns = clock::as_ns(step);
                    // From when it was due, so that a little delay does not add up; from now after a long one.
                    let on_time = now_ns.saturating_sub(self.next_ns) <= step_ns;
                    self.next_ns = if on_time { self.next_ns } else { now_ns }.saturating_add(step_ns);
                }
                updates
            }
            Err(error) => {
                self.over = true;
                vec![Update::Failed(format!("{error:#}"))]
            }
        }
    }
}
