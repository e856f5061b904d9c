//! The command line as it is typed.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Parser;
use ispin_agent::bpf::btf::{BTF_VARIABLE, KERNEL_BTF};
use ispin_agent::options::{duration, interval};
use ispin_agent::source::SourceKind;

use crate::feed::socket::Address;
use crate::theme::Colors;

const EXIT_CODES: &str = "\
Keys: ? shows them all, q quits.

Exit codes: 0 all went well (an end by a key or a signal included); 1 the source or the terminal failed in
mid-run; 2 it could not begin: usage, no terminal, a missing capability; 126 COMMAND is not executable; 127
COMMAND was not found; else the exit code of COMMAND, 128 + N if signal N ended it.";

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
