//! The sinks' options of the command line, made from [`KINDS`].

use anyhow::{Result, bail};
use clap::{Arg, ArgMatches, Args, Command, Error, FromArgMatches};

use super::{KINDS, Kind, Sink};

/// Which sinks were asked for, with the values of their options.
#[derive(Clone, Debug, Default)]
pub struct SinkOptions {
    wanted: Vec<(Kind, String)>,
}

impl SinkOptions {
    /// Whether one of them writes to standard output.
    pub fn use_stdout(&self) -> bool {
        self.wanted.iter().any(|(_, value)| value == "-")
    }

    /// Whether none was asked for.
    pub fn is_empty(&self) -> bool {
        self.wanted.is_empty()
    }

    /// Opens them all, or none.
    pub fn open(&self) -> Result<Vec<Box<dyn Sink>>> {
        for (i, (kind, value)) in self.wanted.iter().enumerate() {
            if let Some((other, _)) = self.wanted[..i].iter().find(|(_, v)| v == value) {
                let target = if value == "-" { "standard output" } else { value };
                bail!(
                    "--{} and --{} cannot both write to {target}; give one of them another place",
                    other.option,
                    kind.option
                );
            }
        }
        self.wanted.iter().map(|(kind, value)| (kind.open)(value)).collect()
    }
}

impl FromArgMatches for SinkOptions {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let value = |kind: &Kind| matches.get_one::<String>(kind.option).map(|v| (*kind, v.clone()));
        Ok(Self { wanted: KINDS.iter().filter_map(value).collect() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for SinkOptions {
    fn augment_args(command: Command) -> Command {
        command.args(KINDS.iter().map(|kind| {
            Arg::new(kind.option)
                .long(kind.option)
                .value_name(kind.value)
                .help(kind.help)
                .help_heading("Output")
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> SinkOptions {
        let command = SinkOptions::augment_args(Command::new("test"));
        let matches = command.try_get_matches_from(["test"].iter().chain(arguments)).expect("valid");
        SinkOptions::from_arg_matches(&matches).expect("valid")
    }

    #[test]
    fn every_kind_is_an_option() {
        for kind in KINDS {
            assert!(!parse(&[&format!("--{}", kind.option), "x"]).is_empty());
        }
        assert!(parse(&[]).is_empty());
        assert!(parse(&["--json", "-"]).use_stdout());
    }

    #[test]
    fn two_sinks_on_one_place_are_refused() {
        let error = |a: &[&str]| parse(a).open().err().map(|e| e.to_string()).expect("must fail");
        let both = error(&["--csv", "-", "--json", "-"]);
        assert!(both.contains("--csv and --json cannot both write to standard output"), "{both}");
        assert!(error(&["--csv", "/tmp/x", "--json", "/tmp/x"]).contains("/tmp/x"));
    }
}
