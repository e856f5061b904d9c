//! The loop: news from the feed, then keys, then the picture if it changed, then sleep.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use ispin_agent::clock::now_ns;
use ispin_agent::model::Snapshot;
use ispin_agent::run::DEFAULT_INTERVAL;
use ispin_agent::signals::Signals;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use crate::feed::{Feed, Pace};
use crate::input::Keyboard;
use crate::plan::Plan;
use crate::resize::Resized;
use crate::sleep::Sleeper;
use crate::state::app::{App, Link};
use crate::terminal::Screen;
use crate::theme::{Colors, Theme};
use crate::{keys, screen, svg};

/// How to show.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many colours may be used.
    pub colors: Colors,
    /// Time between updates, to begin with.
    pub interval: Duration,
    /// A run of this lock becomes the baseline when it ends.
    pub baseline_lock: Option<String>,
    /// When all has been shown: leave, or stay until a key is pressed.
    pub leave_at_end: bool,
    /// Where the last picture goes, as SVG.
    pub export_svg: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            colors: Colors::from_environment(),
            interval: DEFAULT_INTERVAL,
            baseline_lock: None,
            leave_at_end: false,
            export_svg: None,
        }
    }
}

/// How it ended.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    /// A key asked for it.
    Quit,
    /// All has been shown.
    Finished,
    /// The source failed; the terminal is restored, the message is still to be told.
    Failed(String),
    /// A signal of this number asked for it.
    Signal(i32),
}

/// What is left when the dashboard has gone.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// How it ended.
    pub end: End,
    /// The last snapshot, if any came.
    pub last: Option<Snapshot>,
}

/// Shows a feed on the terminal until a key, a signal or, if wanted, its end.
pub fn run(feed: &mut dyn Feed, signals: &Signals, options: &Options) -> Result<Outcome> {
    let mut keyboard = Keyboard::open()?;
    let resized = Resized::watch()?;
    let mut app = App::new(&feed.name(), options.interval, options.baseline_lock.clone());
    if feed.sets_the_pace() {
        app = app.thinning();
    }
    let theme = Theme { colors: options.colors };
    let mut screen = Screen::enter(options.colors)?;
    let parts = Parts { signals, keyboard: &mut keyboard, resized: &resized, screen: &mut screen };
    let shown = show(feed, &mut app, parts, theme, options.leave_at_end);
    let size = screen.size();
    let restored = screen.leave();
    let end = shown?;
    // With SIGHUP the terminal may be gone, and that it cannot be restored then is no failure.
    if end != End::Signal(signal_hook::consts::SIGHUP) {
        restored?;
    }
    if let Some(path) = &options.export_svg {
        svg::write(&picture(&app, theme, size), path)?;
    }
    Ok(Outcome { end, last: app.newest().now().cloned() })
}

/// What a screen of this size shows.
pub fn picture(app: &App, theme: Theme, size: Rect) -> Buffer {
    let mut buf = Buffer::empty(size);
    screen::render(app, theme, size, &mut buf);
    buf
}

/// What the loop talks to besides the feed.
struct Parts<'a> {
    signals: &'a Signals,
    keyboard: &'a mut Keyboard,
    resized: &'a Resized,
    screen: &'a mut Screen,
}

fn show(feed: &mut dyn Feed, app: &mut App, parts: Parts, theme: Theme, leave_at_end: bool) -> Result<End> {
    let Parts { signals, keyboard, resized, screen } = parts;
    let sleeper = Sleeper::new(signals)?;
    let mut plan = Plan::begin(now_ns());
    loop {
        match feed.pace() {
            Pace::Planned if !plan.samples() => {}
            Pace::Planned => {
                if plan.late(now_ns(), app.interval) {
                    feed.came_late();
                }
                take_news(feed, app);
            }
            _ => take_news(feed, app),
        }
        if let Some(signal) = signals.take() {
            return Ok(End::Signal(signal));
        }
        if resized.take()? {
            screen.resize()?;
            app.set_stale();
        }
        for key in keyboard.pressed()? {
            if let Some(action) = keys::action(key, app.ui.typing.is_some()) {
                app.act(action);
            }
        }
        if app.take_stale() {
            screen.draw(|area, buf| screen::render(app, theme, area, buf))?;
        }
        if let Some(end) = end_of(app, leave_at_end) {
            return Ok(end);
        }
        match feed.pace() {
            Pace::Planned => {
                plan.advance(app.interval, now_ns(), |wanted_ns| feed.plan(wanted_ns));
                sleeper.until(plan.wake_ns())?;
            }
            Pace::Readable(fd) => sleeper.until_news(Some(fd), None, keyboard, resized)?,
            Pace::At(at_ns) => sleeper.until_news(None, Some(at_ns), keyboard, resized)?,
            Pace::Over => sleeper.until_news(None, None, keyboard, resized)?,
        }
    }
}

fn take_news(feed: &mut dyn Feed, app: &mut App) {
    for update in feed.poll(now_ns()) {
        app.update(update);
    }
}

fn end_of(app: &App, leave_at_end: bool) -> Option<End> {
    let leave = app.quit || leave_at_end;
    match &app.link {
        Link::Failed(why) if leave => Some(End::Failed(why.clone())),
        Link::Finished if leave => Some(End::Finished),
        _ => app.quit.then_some(End::Quit),
    }
}
