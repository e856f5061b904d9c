//! Which rows there are: a lock, who observes, how many are in the queue.

use std::fmt;

use anyhow::{Context, Result};
use clap::Parser;

use super::InstructionOptions;
use crate::vm::VmOptions;
use crate::vm::rival::Rival;

/// One row: a kernel, its lock, and who observes or is in the queue.
pub(super) struct Case {
    /// Of the row.
    pub(super) name: &'static str,
    arguments: &'static [&'static str],
    rival: Option<Rival>,
    /// How many are in the queue already. 0 = a lock and unlock that nobody contends.
    pub(super) members: u32,
}

const fn case(name: &'static str, arguments: &'static [&'static str]) -> Case {
    Case { name, arguments, rival: None, members: 0 }
}

const fn behind(name: &'static str, arguments: &'static [&'static str], members: u32) -> Case {
    Case { name, arguments, rival: None, members }
}

const fn observed(name: &'static str, arguments: &'static [&'static str], rival: Rival) -> Case {
    Case { name, arguments, rival: Some(rival), members: 0 }
}

impl Case {
    fn is_observed(&self) -> bool {
        self.rival.is_some() || !self.arguments.contains(&"--no-agent")
    }
}

/// How the names of rows end in which others are in the queue.
pub const IN_THE_QUEUE: &str = " in the queue";

const PATCHED: &[&str] = &["--soft-slice-ms", "1000"];

const TICKET: &[&str] = &["--lock", "ticket", "--no-agent"];
const HVM: &[&str] = &["--lock", "hvm", "--no-agent"];
const PV: &[&str] = &["--lock", "pv", "--no-agent"];
const PLUS: &[&str] = &["--lock", "ispin+", "--no-agent"];

pub(super) static CASES: [Case; 23] = [
    case("stock queued spinlock", &["--lock", "stock", "--no-agent"]),
    // The first two patches are the generic ticket lock and nothing else.
    case("stock ticket lock", &["--lock", "stock", "--series", "2", "--no-agent"]),
    case("ticket", TICKET),
    case("hvm", HVM),
    case("pv", PV),
    case("ispin+", PLUS),
    case("unfair", &["--lock", "unfair", "--no-agent"]),
    case("pts", &["--lock", "pts", "--no-agent"]),
    case("pvticket", &["--lock", "pvticket", "--no-agent"]),
    case("oticket", &["--lock", "oticket", "--no-agent"]),
    behind("ticket, 8 in the queue", TICKET, 8),
    behind("pv, 8 in the queue", PV, 8),
    behind("ispin+, 1 in the queue", PLUS, 1),
    behind("ispin+, 2 in the queue", PLUS, 2),
    behind("ispin+, 4 in the queue", PLUS, 4),
    behind("ispin+, 8 in the queue", PLUS, 8),
    case("ticket, agent", &["--lock", "ticket"]),
    case("hvm, agent", &["--lock", "hvm"]),
    case("pv, agent", &["--lock", "pv"]),
    observed("ticket, ftrace", TICKET, Rival::Ftrace),
    observed("hvm, ftrace", HVM, Rival::Ftrace),
    observed("ticket, bpftrace", &["--lock", "ticket", "--no-agent", "--memory-mb", "2048"], Rival::Bpftrace),
    observed("hvm, bpftrace", &["--lock", "hvm", "--no-agent", "--memory-mb", "2048"], Rival::Bpftrace),
];

/// The rows that are asked for.
fn wanted(options: &InstructionOptions) -> Vec<&'static Case> {
    let exact = |word: &str| CASES.iter().any(|case| case.name == word);
    let named = |case: &Case| {
        options.only.as_deref().is_none_or(|word| match exact(word) {
            true => case.name == word,
            false => case.name.contains(word),
        })
    };
    let left_out =
        |case: &Case| options.unobserved && case.is_observed() || options.uncontended && case.members > 0;
    CASES.iter().filter(|case| named(case) && !left_out(case)).collect()
}

/// One measurement of a row, as it is told.
pub(super) struct Planned {
    pub(super) case: &'static Case,
    /// Which one of the row, from 1.
    pub(super) repeat: u64,
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.case.name)
    }
}

/// The measurements that are asked for, in the order of the table.
pub(super) fn planned(options: &InstructionOptions) -> impl Iterator<Item = Planned> {
    let repeats = u64::from(options.repeats);
    wanted(options)
        .into_iter()
        .flat_map(move |case| (1..=repeats).map(move |repeat| Planned { case, repeat }))
}

/// The measurements that are asked for: names of rows, and which one of the row.
pub fn plan(options: &InstructionOptions) -> impl Iterator<Item = (&'static str, u64)> {
    planned(options).map(|one| (one.case.name, one.repeat))
}

/// Of all rows.
pub(super) fn names() -> String {
    CASES.iter().map(|case| case.name).collect::<Vec<_>>().join("; ")
}

/// The guest that measures one row.
pub(super) fn vm_options(case: &Case, repeat: u64) -> Result<VmOptions> {
    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        vm: VmOptions,
    }
    // Who asks, and those that are in the queue.
    let threads = (case.members + 1).to_string();
    let (vcpus, workload, operations) = match case.members {
        0 => ("2", "pairs", "20000"),
        _ => (threads.as_str(), "queue", "300"),
    };
    let mut line =
        vec!["vm", "--vcpus", vcpus, "--threads", &threads, "--workload", workload, "--deterministic"];
    line.extend(case.arguments);
    if !case.arguments.contains(&"stock") {
        line.extend(PATCHED);
    }
    let seed = repeat.to_string();
    line.extend(["--seed", &seed, "--", "--operations", operations]);
    let mut options = Line::try_parse_from(line).context("the options of this row")?.vm;
    options.rival = case.rival;
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_whether_others_are_in_the_queue() {
        assert!(CASES.iter().all(|case| case.name.ends_with(IN_THE_QUEUE) == (case.members > 0)));
    }

    #[test]
    fn every_row_is_a_run_that_can_be() {
        for case in &CASES {
            vm_options(case, 2)
                .and_then(|options| options.validate())
                .unwrap_or_else(|e| panic!("{}: {e:#}", case.name));
        }
    }

    #[test]
    fn a_whole_name_is_one_row() {
        let of = |only: &str, unobserved| {
            let only = (!only.is_empty()).then(|| only.to_owned());
            plan(&InstructionOptions { only, unobserved, uncontended: false, repeats: 2, csv: None }).count()
        };
        assert_eq!((of("hvm", false), of("agent", false), of("", true), of("queue,", false)), (2, 6, 32, 0));
        assert_eq!(of("in the queue", true), 12);
    }
}
