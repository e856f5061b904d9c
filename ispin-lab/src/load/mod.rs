//! Workloads that run inside a guest and contend its kernel's spinlocks the way user programs do.
//!
//! Adding one is one file with a `WORKLOAD` and one line in [`WORKLOADS`]. Each workload checks its own result,
//! so that a lock that fails to exclude is noticed; `docs/workloads.md` says which load notices what.

mod cpu;
mod create;
mod dup;
mod ebizzy;
mod fault;
mod futex;
mod kernbench;
pub mod kit;
pub mod micro;
mod pairs;
mod pbzip2;
mod pipe;
mod queue;
mod rotate;
mod scribble;
mod torture;
pub mod trace_dump;

use anyhow::Result;
use clap::{ArgMatches, Command};

pub use kit::host_file::{HostFile, MODULE_FOLDER};
use kit::report::Report;
use kit::setup::Setup;

/// A load by name.
pub struct Workload {
    /// Name on the command line and in results.
    pub name: &'static str,
    /// What it does, in one line.
    pub about: &'static str,
    /// Unit of the result's `value`.
    pub unit: &'static str,
    /// What the guest must have besides `ispin-load` itself. Each load checks that itself, to say what is missing.
    pub needs: &'static [HostFile],
    /// Adds the workload's own options to its command.
    pub options: fn(Command) -> Command,
    /// Runs it. A load that found a lock broken fails with [`kit::report::Broken`].
    pub run: fn(&Setup, &ArgMatches) -> Result<Report>,
}

/// All workloads.
pub static WORKLOADS: &[&Workload] = &[
    &dup::WORKLOAD,
    &futex::WORKLOAD,
    &pipe::WORKLOAD,
    &fault::WORKLOAD,
    &create::WORKLOAD,
    &micro::WORKLOAD,
    &pairs::WORKLOAD,
    &queue::WORKLOAD,
    &kernbench::WORKLOAD,
    &pbzip2::WORKLOAD,
    &ebizzy::WORKLOAD,
    &cpu::WORKLOAD,
    &torture::WORKLOAD,
    &rotate::WORKLOAD,
    &scribble::WORKLOAD,
];

/// The workload called `name`.
pub fn by_name(name: &str) -> Option<&'static Workload> {
    WORKLOADS.iter().copied().find(|w| w.name == name)
}

impl Workload {
    /// Its command line, without the options that all workloads share.
    pub fn command(&self) -> Command {
        (self.options)(Command::new(self.name).about(self.about))
    }

    /// Fails, naming everything that is missing, unless all that [`Workload::needs`] names is there.
    pub fn check_needs(&self, setup: &Setup) -> Result<()> {
        let missing: Vec<String> =
            self.needs.iter().filter_map(|file| file.missing(&setup.modules)).collect();
        anyhow::ensure!(missing.is_empty(), "{} needs what is not here: {}", self.name, missing.join("; "));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_commands_are_sound() {
        for (i, workload) in WORKLOADS.iter().enumerate() {
            assert_eq!(WORKLOADS.iter().position(|w| w.name == workload.name), Some(i));
            workload.command().debug_assert();
        }
    }
}
