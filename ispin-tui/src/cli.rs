//! The program: what follows from its command line.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Parser;
use ispin_agent::command::{self, SpawnError};
use ispin_agent::run::DEFAULT_INTERVAL;
use ispin_agent::signals::Signals;
use ratatui::layout::Rect;

use crate::feed::file::FileFeed;
use crate::feed::local::Closed;
use crate::feed::socket::SocketFeed;
use crate::feed::{Feed, Pace};
use crate::notes::{Notes, tell};
use crate::open::{self, EndedTooSoon};
use crate::options::{Cli, Size};
use crate::run::{End, Options, Outcome, picture, run};
use crate::state::app::App;
use crate::svg;
use crate::theme::{Colors, Theme};

/// Exit code: all went well.
const OK: u8 = 0;
/// Exit code: something failed in mid-run.
const FAILED: u8 = 1;
/// Exit code: it could not begin.
const CANNOT_START: u8 = 2;

/// The program: reads the command line, shows, says what went wrong.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let notes = Notes::start();
    let result = show(&cli);
    // The terminal is the user's again: now is the time for what was noted meanwhile.
    for note in notes.take() {
        tell(note);
    }
    let code = result.unwrap_or_else(|error| {
        tell(format_args!("{error:#}"));
        match (error.downcast_ref::<SpawnError>(), error.downcast_ref::<EndedTooSoon>()) {
            (Some(error), _) => error.exit_code(),
            (_, Some(error)) => error.exit_code(CANNOT_START),
            _ => CANNOT_START,
        }
    });
    ExitCode::from(code)
}

fn show(cli: &Cli) -> Result<u8> {
    let options = Options {
        colors: cli.colors.unwrap_or_else(Colors::from_environment),
        interval: cli.interval.unwrap_or(DEFAULT_INTERVAL),
        baseline_lock: cli.baseline.clone(),
        leave_at_end: cli.leave,
        export_svg: cli.export_svg.clone(),
    };
    if let (Some(file), Some(svg)) = (&cli.read, &cli.export_svg) {
        export(FileFeed::open(file)?, &options, cli.size, svg)?;
        return Ok(OK);
    }
    if !std::io::stdout().is_terminal() {
        bail!(
            "standard output is no terminal. Without one, `ispin-agent run` writes the same figures: --csv -, --json -"
        );
    }
    if let Some(address) = &cli.connect {
        return live(&mut SocketFeed::new(address.clone()), &options);
    }
    if let Some(file) = &cli.read {
        return live(&mut FileFeed::open(file)?, &options);
    }
    local(cli, &options)
}

/// Shows a feed that needs no more than that.
fn live(feed: &mut dyn Feed, options: &Options) -> Result<u8> {
    let signals = Signals::catch()?;
    conclude(run(feed, &signals, options))
}

/// Shows a source in this process.
fn local(cli: &Cli, options: &Options) -> Result<u8> {
    let signals = Signals::catch()?;
    let opened = open::open(cli, &signals)?;
    let mut feed = opened.feed;
    let result = run(&mut feed, &signals, options);
    drop(opened.priority);
    let closed = feed.close()?;
    let code = conclude(result)?;
    let Some(Closed { name, by_itself, said }) = closed else { return Ok(code) };
    // Whoever has closed standard error does not want to know.
    let _ = std::io::stderr().write_all(said.as_bytes());
    match by_itself {
        Some(status) if !status.success() => {
            tell(format_args!("COMMAND `{name}` {}", command::describe(status)));
            Ok(command::exit_code(status))
        }
        _ => Ok(code),
    }
}

fn conclude(result: Result<Outcome>) -> Result<u8> {
    match result {
        Ok(Outcome { end: End::Failed(why), .. }) => {
            tell(format_args!("no sample could be taken any more: {why}"));
            Ok(FAILED)
        }
        Ok(_) => Ok(OK),
        Err(error) => {
            tell(format_args!("{error:#}"));
            Ok(FAILED)
        }
    }
}

/// Draws all of a recorded run into a file.
fn export(mut feed: FileFeed, options: &Options, size: Size, to: &Path) -> Result<()> {
    let mut app = App::new(&feed.name(), options.interval, options.baseline_lock.clone());
    while !matches!(feed.pace(), Pace::Over) {
        for update in feed.poll(0) {
            app.update(update);
        }
    }
    let area = Rect::new(0, 0, size.width, size.height);
    svg::write(&picture(&app, Theme { colors: options.colors }, area), to)
}
