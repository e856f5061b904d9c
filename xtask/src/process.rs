//! Running other programs, in the open.

use std::ffi::OsStr;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::workspace;

/// The cargo that runs this program, in the workspace's folder.
pub fn cargo(arguments: &[&str]) -> Result<Command> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace::root()?).args(arguments);
    Ok(cargo)
}

/// Shows a command, runs it, and fails if it fails.
pub fn run(command: &mut Command) -> Result<()> {
    eprintln!("    $ {}", shown(command));
    let status = command.status().with_context(|| format!("cannot run `{}`", shown(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", shown(command));
    }
    Ok(())
}

/// Whether a command can be run and succeeds; what it prints is dropped.
pub fn works(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

/// A command as a person would type it, with the variables that were set for it.
pub fn shown(command: &Command) -> String {
    let mut words: Vec<String> = command
        .get_envs()
        .filter_map(|(key, value)| Some(format!("{}={}", key.to_string_lossy(), quoted(value?))))
        .collect();
    let program = std::path::Path::new(command.get_program());
    words.push(quoted(program.file_name().unwrap_or(program.as_os_str())));
    words.extend(command.get_args().map(quoted));
    words.join(" ")
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.into_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shown_command_can_be_typed() {
        let mut command = Command::new("/usr/bin/cargo");
        command.args(["clippy", "--", "it's"]).env("RUSTDOCFLAGS", "-D warnings").env_remove("RUSTC");
        assert_eq!(shown(&command), r"RUSTDOCFLAGS='-D warnings' cargo clippy -- 'it'\''s'");
    }

    #[test]
    fn a_failing_command_says_which() {
        let error = run(Command::new("sh").args(["-c", "exit 3"])).unwrap_err();
        assert_eq!(error.to_string(), "`sh -c 'exit 3'` failed: exit status: 3");
        assert!(!works(&mut Command::new("/nonexistent/program")));
    }
}
