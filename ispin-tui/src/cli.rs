//! The command line, and what follows from it.

use std::ffi::OsString;
use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Parser;
use ispin_agent::bpf::btf::{BTF_VARIABLE, KERNEL_BTF};
use ispin_agent::command::{self, SpawnError};
use ispin_agent::options::{duration, interval};
use ispin_agent::run::DEFAULT_INTERVAL;
use ispin_agent::signals::Signals;
use ispin_agent::source::SourceKind;
use ratatui::layout::Rect;

use crate::feed::file::FileFeed;
use crate::feed::local::Closed;
use crate::feed::socket::{Address, SocketFeed};
use crate::feed::{Feed, Pace};
use crate::notes::Notes;
use crate::open::{self, EndedTooSoon};
use crate::run::{End, Options, Outcome, picture, run};
use crate::state::app::App;
use crate::svg;
use crate::theme::{Colors, Theme};

const EXIT_CODES: &str = "\
Keys: ? shows them all, q quits.

Exit codes: 0 all went well (an end by a key or a signal included); 1 the source or the terminal failed in
mid-run; 2 it could not begin: usage, no terminal, a missing capability; 126 COMMAND is not executable; 127
COMMAND was not found; else the exit code of COMMAND, 128 + N if signal N ended it.";

/// Exit code: all went well.
const OK: u8 = 0;
/// Exit code: something failed in mid-run.
const FAILED: u8 = 1;
/// Exit code: it could not begin.
const CANNOT_START: u8 = 2;

/// Shows lock holder and lock waiter preemptions in virtual machines, live on a terminal
#[derive(Debug, Parser)]
#[command(name = "ispin-tui", version, after_help = EXIT_CODES)]
pub struct Cli {
    /// What to observe: auto, threads, guest, or replay:FILE for a run that `ispin-agent run --json` recorded
    #[arg(long, value_name = "SOURCE", default_value = "auto")]
    pub source: SourceKind,
    /// Time between two updates, 10ms to 1h; the keys + and - change it [default: 250ms]
    #[arg(long, value_name = "TIME", value_parser = interval)]
    pub interval: Option<Duration>,
    /// Show what an agent observes that runs with `ispin-agent run --listen unix:PATH`
    #[arg(long, value_name = "unix:PATH", conflicts_with_all = ["source", "read", "command", "wait"])]
    pub connect: Option<Address>,
    /// Show a run that `ispin-agent run --json FILE` recorded, all of it at once
    #[arg(long, value_name = "FILE", conflicts_with_all = ["source", "command", "wait"])]
    pub read: Option<PathBuf>,
    /// Mark the baseline at the end of every run of this lock, as the key m does at any moment
    #[arg(long, value_name = "LOCK")]
    pub baseline: Option<String>,
    /// How many colours to use [default: 16, or none if NO_COLOR is set]
    #[arg(long, value_name = "COLORS")]
    pub colors: Option<Colors>,
    /// Leave when the run has ended, without waiting for a key
    #[arg(long)]
    pub leave: bool,
    /// Write the last picture as SVG; together with --read this needs no terminal
    #[arg(long, value_name = "FILE")]
    pub export_svg: Option<PathBuf>,
    /// Size of the picture that --read and --export-svg make, in columns and rows
    #[arg(long, value_name = "WxH", default_value = "120x40", requires = "read", requires = "export_svg")]
    pub size: Size,
    /// How long to wait for the observed world to appear
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "10s")]
    pub wait: Duration,
    /// Kernel type information (BTF)
    #[arg(long, value_name = "PATH", env = BTF_VARIABLE, default_value = KERNEL_BTF)]
    pub btf: PathBuf,
    /// Start COMMAND and observe while it runs; the last of what it prints is shown afterwards
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// Columns and rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = |text: &str| text.parse().ok().filter(|n| (1..=1000).contains(n));
        text.split_once('x')
            .and_then(|(width, height)| Some(Self { width: parse(width)?, height: parse(height)? }))
            .ok_or_else(|| "give columns and rows from 1 to 1000, as in 120x40".into())
    }
}

/// Tells the user something. Unlike `eprintln!` it does not panic when the terminal has gone: whoever closed it
/// does not want to know.
pub(crate) fn tell(what: impl Display) {
    let _ = writeln!(std::io::stderr(), "ispin-tui: {what}");
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_are_columns_by_rows() {
        assert_eq!("120x40".parse(), Ok(Size { width: 120, height: 40 }));
        for bad in ["", "120", "x", "0x5", "5x0", "120x40x3", "2000x4", "-1x4"] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
    }

    #[test]
    fn one_feed_at_a_time() {
        for bad in [
            &["--connect", "unix:/x", "--read", "f"][..],
            &["--connect", "unix:/x", "--source", "threads"],
            &["--connect", "tcp:/x"],
            &["--read", "f", "--", "true"],
            &["--size", "10x10"],
            &["--interval", "1ms"],
        ] {
            let arguments = ["ispin-tui"].iter().chain(bad);
            assert!(Cli::try_parse_from(arguments).is_err(), "{bad:?}");
        }
        let cli = Cli::try_parse_from(["ispin-tui", "--source", "threads", "--", "sleep", "1"]);
        assert_eq!(cli.map(|cli| cli.command.len()).ok(), Some(2));
    }
}
