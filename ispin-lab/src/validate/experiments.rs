//! The experiments that claims rest on: what they are.

use super::claims::EXACT_RUNS;
use crate::instructions::InstructionOptions;

/// What an experiment is run in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum World {
    /// Real threads; alone on the machine.
    Threads,
    /// Guests of Xen, emulated; a run for each core at a time.
    Xen,
    /// One guest, instructions counted: what a lock costs.
    Instructions,
    /// One guest, instructions counted: for how long locks are held.
    Holds,
}

/// An experiment by name.
pub struct Experiment {
    /// Its name, and that of its CSV.
    pub name: &'static str,
    /// Where it runs.
    pub world: World,
    /// Its file for `--quick`; `None`: only with `--full`.
    quick: Option<&'static str>,
    /// Its file for `--full`.
    full: &'static str,
}

macro_rules! file {
    ($name:literal) => {
        include_str!(concat!("../../../docs/experiments/", $name, ".toml"))
    };
}

/// All of them, in the order in which they are run. Adding one is its file, or two, and its line.
pub const EXPERIMENTS: [Experiment; 18] = [
    Experiment {
        name: "threads-locks",
        world: World::Threads,
        quick: Some(file!("quick/threads-locks")),
        full: file!("threads-locks"),
    },
    Experiment { name: "threads-long", world: World::Threads, quick: None, full: file!("threads-long") },
    Experiment {
        name: "threads-work",
        world: World::Threads,
        quick: Some(file!("quick/threads-work")),
        full: file!("threads-work"),
    },
    Experiment {
        name: "threads-ops",
        world: World::Threads,
        quick: Some(file!("quick/threads-ops")),
        full: file!("threads-ops"),
    },
    Experiment { name: "instructions", world: World::Instructions, quick: Some(""), full: "" },
    Experiment { name: "holds", world: World::Holds, quick: Some(""), full: "" },
    Experiment {
        name: "xen-micro",
        world: World::Xen,
        quick: Some(file!("quick/xen-micro")),
        full: file!("xen-micro"),
    },
    Experiment { name: "xen-locks", world: World::Xen, quick: None, full: file!("xen-locks") },
    Experiment { name: "xen-speed", world: World::Xen, quick: None, full: file!("xen-speed") },
    Experiment { name: "xen-today", world: World::Xen, quick: None, full: file!("xen-today") },
    Experiment { name: "xen-loads", world: World::Xen, quick: None, full: file!("xen-loads") },
    Experiment { name: "xen-programs", world: World::Xen, quick: None, full: file!("xen-programs") },
    Experiment { name: "xen-neighbour", world: World::Xen, quick: None, full: file!("xen-neighbour") },
    Experiment { name: "xen-sleepers", world: World::Xen, quick: None, full: file!("xen-sleepers") },
    Experiment { name: "xen-ends", world: World::Xen, quick: None, full: file!("xen-ends") },
    Experiment { name: "xen-csd", world: World::Xen, quick: None, full: file!("xen-csd") },
    Experiment { name: "xen-csd-programs", world: World::Xen, quick: None, full: file!("xen-csd-programs") },
    Experiment { name: "xen-alone", world: World::Xen, quick: None, full: file!("xen-alone") },
];

/// The names.
pub fn names() -> Vec<&'static str> {
    EXPERIMENTS.iter().map(|experiment| experiment.name).collect()
}

/// All of them in order; those of a group can run side by side. One guest keeps one core busy, and its instructions are counted.
pub fn groups() -> impl Iterator<Item = &'static [Experiment]> {
    let one_guest = |experiment: &Experiment| matches!(experiment.world, World::Instructions | World::Holds);
    EXPERIMENTS.chunk_by(move |one, next| one_guest(one) && one_guest(next))
}

/// How much is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// A few minutes of each.
    Quick,
    /// All of it, over as many sittings as it takes.
    Full,
}

impl Extent {
    /// The option that asks for it.
    pub fn option(self) -> &'static str {
        match self {
            Self::Quick => "--quick",
            Self::Full => "--full",
        }
    }
}

impl Experiment {
    /// Its file of this extent, if that has it; nothing of what needs none.
    pub(super) fn text(&self, extent: Extent) -> Option<&'static str> {
        match extent {
            Extent::Quick => self.quick,
            Extent::Full => Some(self.full),
        }
    }

    /// The file of this extent, as it is called in a checkout.
    pub(super) fn file(&self, extent: Extent) -> String {
        let folder = if extent == Extent::Quick { "quick/" } else { "" };
        format!("docs/experiments/{folder}{}.toml", self.name)
    }
}

/// Which instructions are counted. Rows in which somebody observes take longest.
pub(super) fn instruction_options(extent: Extent) -> InstructionOptions {
    InstructionOptions {
        only: None,
        unobserved: extent == Extent::Quick,
        uncontended: extent == Extent::Quick,
        repeats: EXACT_RUNS as u16,
        csv: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix;
    use crate::vm::xen;

    #[test]
    fn every_file_is_an_experiment() {
        for experiment in &EXPERIMENTS {
            for text in experiment.quick.iter().chain([&experiment.full]) {
                match experiment.world {
                    World::Threads => drop(matrix::Experiment::of(text).expect(experiment.name)),
                    World::Xen => drop(xen::experiment::Experiment::of(text).expect(experiment.name)),
                    World::Instructions | World::Holds => assert_eq!(*text, ""),
                }
            }
        }
    }

    #[test]
    fn what_takes_one_core_runs_beside_its_like() {
        let groups: Vec<Vec<_>> = groups().map(|group| group.iter().map(|one| one.name).collect()).collect();
        assert_eq!(groups.concat(), names());
        let shared: Vec<_> = groups.into_iter().filter(|group| group.len() > 1).collect();
        assert_eq!(shared, [["instructions", "holds"]]);
    }
}
