//! The dashboard's state: takes updates from a feed and actions from the keys, and says when the screen is
//! out of date. Knows nothing of drawing.

use std::time::Duration;

use ispin_agent::clock::as_ns;
use ispin_agent::model::Snapshot;

use super::observed::Observed;
use super::ui::{Panel, Ui};
use crate::feed::Update;
use crate::keys::Action;

/// Lengths of time between updates that `+` and `-` step through.
pub const INTERVALS: [Duration; 8] = [
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(10),
];

/// Rows that a page moves the selection by.
const PAGE: isize = 10;

/// Whether snapshots come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// None came yet, and why.
    Waiting(String),
    /// They come.
    Live,
    /// They come no more, and why; more may come.
    Lost(String),
    /// They come no more: the source failed, and how.
    Failed(String),
    /// All have come.
    Finished,
}

/// The dashboard's state.
#[derive(Clone, Debug)]
pub struct App {
    /// What snapshots come from, for the screen.
    pub feed: String,
    /// Whether they come.
    pub link: Link,
    /// Choices of the person at the keys.
    pub ui: Ui,
    /// Time between updates.
    pub interval: Duration,
    /// Asked to leave.
    pub quit: bool,
    live: Observed,
    /// What the screen holds still, while paused.
    frozen: Option<Box<Observed>>,
    /// A run of this lock becomes the baseline when it ends.
    baseline_lock: Option<String>,
    /// Snapshots may come oftener than they are to be shown.
    thins: bool,
    /// When the next one is to be shown, `elapsed_ns` of its run.
    due_ns: u64,
    /// A snapshot that came too early to be shown; the next one carries its incidents on.
    early: Option<Box<Snapshot>>,
    stale: bool,
}

impl App {
    /// A dashboard that has seen nothing yet.
    pub fn new(feed: &str, interval: Duration, baseline_lock: Option<String>) -> Self {
        Self {
            feed: feed.to_owned(),
            link: Link::Waiting("no snapshot yet".into()),
            ui: Ui::default(),
            interval,
            quit: false,
            live: Observed::default(),
            frozen: None,
            baseline_lock,
            thins: false,
            due_ns: 0,
            early: None,
            stale: true,
        }
    }

    /// The same for a feed whose sender sets the pace: what comes oftener than once an interval is not all shown.
    pub fn thinning(self) -> Self {
        Self { thins: true, ..self }
    }

    /// What the screen shows.
    pub fn shown(&self) -> &Observed {
        self.frozen.as_deref().unwrap_or(&self.live)
    }

    /// The newest, even if the screen holds still.
    pub fn newest(&self) -> &Observed {
        &self.live
    }

    /// Whether the screen holds still.
    pub fn paused(&self) -> bool {
        self.frozen.is_some()
    }

    /// Whether the screen is out of date; from now on it is not.
    pub fn take_stale(&mut self) -> bool {
        std::mem::take(&mut self.stale)
    }

    /// The screen is out of date, for a reason of its own: its size.
    pub fn set_stale(&mut self) {
        self.stale = true;
    }

    /// Takes an update from the feed.
    pub fn update(&mut self, update: Update) {
        let link = match update {
            Update::Snapshot(snapshot) => {
                self.take_snapshot(snapshot);
                Link::Live
            }
            Update::Waiting(why) => match self.link {
                Link::Waiting(_) => Link::Waiting(why),
                _ => Link::Lost(why),
            },
            Update::Lost(why) => Link::Lost(why),
            Update::Failed(why) => Link::Failed(why),
            Update::Finished => Link::Finished,
        };
        if !matches!(link, Link::Live) {
            self.show_early();
        }
        if link != self.link {
            self.link = link;
            self.stale = true;
        }
    }

    /// Shows a snapshot, or holds it back if it comes before the interval is over: totals lose nothing by it,
    /// incidents are carried on.
    fn take_snapshot(&mut self, mut snapshot: Box<Snapshot>) {
        let goes_on = self.live.goes_on_with(&snapshot);
        match self.early.take() {
            Some(early) if goes_on => {
                snapshot.incidents.splice(0..0, early.incidents);
            }
            Some(early) => self.show(early),
            None => {}
        }
        let interval_ns = as_ns(self.interval);
        let at_ns = snapshot.elapsed_ns;
        // Half an interval of tolerance, because who sends may be a little early or late; the moments when one is
        // due stay an interval apart, so that this does not add up.
        let too_early = at_ns.saturating_add(interval_ns / 2) < self.due_ns;
        if self.thins && goes_on && too_early && !snapshot.finished {
            self.early = Some(snapshot);
            return;
        }
        self.due_ns = match self.due_ns.saturating_add(interval_ns) {
            due_ns if goes_on && due_ns > at_ns && due_ns - at_ns <= 2 * interval_ns => due_ns,
            _ => at_ns.saturating_add(interval_ns),
        };
        self.show(snapshot);
    }

    fn show_early(&mut self) {
        if let Some(early) = self.early.take() {
            self.show(early);
        }
    }

    fn show(&mut self, snapshot: Box<Snapshot>) {
        let ended = self.live.run_ends_with(&snapshot);
        if ended.is_some() && ended == self.baseline_lock.as_deref() {
            self.live.mark_baseline();
        }
        self.live.take(*snapshot);
        if !self.paused() {
            self.follow_incident();
            self.stale = true;
        }
    }

    /// Obeys a key.
    pub fn act(&mut self, action: Action) {
        self.stale = true;
        let ui = &mut self.ui;
        match action {
            Action::Quit => self.quit = true,
            Action::Help => ui.help = !ui.help,
            Action::NextPanel => ui.turn(1),
            Action::PreviousPanel => ui.turn(-1),
            Action::Panel(number) => {
                if let Some(panel) = Panel::ALL.get(number) {
                    ui.focus = *panel;
                }
            }
            Action::Move(rows) => self.move_selection(rows),
            Action::Page(pages) => self.move_selection(pages * PAGE),
            Action::First => self.move_selection(isize::MIN),
            Action::Last => self.move_selection(isize::MAX),
            Action::Pause => {
                self.frozen = if self.paused() { None } else { Some(Box::new(self.live.clone())) };
                self.follow_incident();
            }
            Action::Filter => {
                ui.typing = Some(ui.filter.clone());
            }
            Action::Type(c) => {
                ui.filter.push(c);
                self.filter_changed();
            }
            Action::Erase => {
                ui.filter.pop();
                self.filter_changed();
            }
            Action::Accept => ui.typing = None,
            Action::Cancel => {
                if let Some(before) = ui.typing.take() {
                    ui.filter = before;
                }
                self.filter_changed();
            }
            Action::Sort => {
                ui.next_order(ui.focus);
                self.follow_incident();
            }
            Action::Faster => self.change_interval(-1),
            Action::Slower => self.change_interval(1),
            Action::Open => self.open(),
            Action::Close => {
                if ui.help {
                    ui.help = false;
                } else if ui.opened.is_some() {
                    ui.opened = None;
                } else {
                    ui.filter.clear();
                    self.filter_changed();
                }
            }
            Action::Baseline => {
                // What is marked is what the person sees.
                match &mut self.frozen {
                    Some(frozen) => {
                        frozen.mark_baseline();
                        self.live.set_baseline(frozen.baseline().cloned());
                    }
                    None => {
                        self.live.mark_baseline();
                    }
                }
            }
            Action::ForgetBaseline => {
                self.live.set_baseline(None);
                if let Some(frozen) = &mut self.frozen {
                    frozen.set_baseline(None);
                }
            }
        }
    }

    fn change_interval(&mut self, steps: isize) {
        let at = INTERVALS.partition_point(|interval| *interval < self.interval) as isize;
        // Between two steps, faster means the one below and slower the one above.
        let on_step = INTERVALS.get(at as usize) == Some(&self.interval);
        let to = if on_step || steps < 0 { at + steps } else { at };
        if let Some(interval) = usize::try_from(to).ok().and_then(|to| INTERVALS.get(to)) {
            self.interval = *interval;
        }
    }

    /// How many rows `panel` shows.
    fn rows(&self, panel: Panel) -> usize {
        let shown = self.shown();
        match panel {
            Panel::Vcpus => self.ui.vcpus(shown.measured()).len(),
            Panel::Times => 0,
            Panel::Locks => self.ui.rows(panel, &shown.measured().locks).len(),
            Panel::Callers => self.ui.rows(panel, &shown.measured().callers).len(),
            Panel::Incidents => self.ui.incidents(shown.incidents().iter()).len(),
        }
    }

    fn move_selection(&mut self, rows: isize) {
        let panel = self.ui.focus;
        let last = self.rows(panel).saturating_sub(1);
        let to = self.ui.selected(panel).min(last).saturating_add_signed(rows).min(last);
        self.ui.select(panel, to);
        if panel == Panel::Incidents {
            // The first row stays the first row, so that a log that nobody moves in shows the newest.
            let shown = self.frozen.as_deref().unwrap_or(&self.live);
            let id = self.ui.incidents(shown.incidents().iter()).get(to).map(|logged| logged.id);
            self.ui.selected_incident = id.filter(|_| to > 0);
            if self.ui.opened.is_some() {
                self.ui.opened = id;
            }
        }
    }

    /// Keeps the selection on its incident while rows come in above it.
    fn follow_incident(&mut self) {
        let Some(id) = self.ui.selected_incident else { return };
        let shown = self.frozen.as_deref().unwrap_or(&self.live);
        let row = self.ui.incidents(shown.incidents().iter()).iter().position(|logged| logged.id == id);
        match row {
            Some(row) => self.ui.select(Panel::Incidents, row),
            None => self.ui.selected_incident = None,
        }
    }

    fn filter_changed(&mut self) {
        for panel in Panel::ALL {
            self.ui.select(panel, 0);
        }
        self.ui.selected_incident = None;
    }

    fn open(&mut self) {
        if self.ui.focus != Panel::Incidents {
            return;
        }
        let shown = self.frozen.as_deref().unwrap_or(&self.live);
        let rows = self.ui.incidents(shown.incidents().iter());
        let row = self.ui.selected(Panel::Incidents).min(rows.len().saturating_sub(1));
        let id = rows.get(row).map(|logged| logged.id);
        self.ui.opened = id;
    }
}
