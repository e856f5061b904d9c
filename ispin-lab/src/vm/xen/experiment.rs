//! Experiments under Xen as data: every combination of some options of `ispin-lab vm`, several times with other seeds,
//! in one CSV that grows over as many sittings as it takes.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use serde::Deserialize;
use toml::{Table, Value};

use super::options::GUESTS;
use crate::vm::lock::Lock;
use crate::vm::options::{Hypervisor, VmOptions};

/// An experiment file with `world = "xen"`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experiment {
    /// `xen`.
    pub world: String,
    /// What it is about.
    pub title: String,
    /// How often each combination is run, with the seeds 1, 2, ...
    pub repeats: u64,
    /// Options of `ispin-lab vm` by name, each with the values that it takes in turn.
    pub vary: Table,
    /// Options of `ispin-lab vm` that are the same in all runs; `load` = those of the load, a list.
    #[serde(default)]
    pub options: Table,
}

const PROGRAM: &str = "ispin-lab vm";

/// One run of an experiment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// The options that vary and their values, in the order of the file.
    pub varied: Vec<(String, String)>,
    /// From 1.
    pub seed: u64,
    /// The arguments of `ispin-lab vm`.
    pub arguments: Vec<String>,
}

impl Cell {
    /// The run as it would be typed: what tells it from all others.
    pub fn command(&self) -> String {
        format!("{PROGRAM} {}", self.arguments.join(" "))
    }

    /// Whether this is its command.
    pub fn is(&self, command: &str) -> bool {
        // As [`Cell::command`] puts it together, without doing so: it is asked of every row for every cell.
        let mut rest = command.strip_prefix(PROGRAM);
        for argument in &self.arguments {
            rest = rest
                .and_then(|rest| rest.strip_prefix(' '))
                .and_then(|rest| rest.strip_prefix(argument.as_str()));
        }
        rest == Some("")
    }

    /// The value of an option that varies.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.varied.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// How many guests a run has, by its command; looked for in the text, because files hold hundreds of them.
pub fn guests_of(command: &str) -> usize {
    let mut words =
        command.split(' ').take_while(|word| *word != "--").skip_while(|word| *word != "--guests");
    words.nth(1).and_then(|number| number.parse().ok()).unwrap_or(GUESTS as usize)
}

/// `ispin-lab vm`'s options alone.
#[derive(Debug, Parser)]
#[command(name = "ispin-lab vm", no_binary_name = true)]
struct Line {
    #[command(flatten)]
    options: VmOptions,
}

/// The options that these arguments mean.
pub fn parse(arguments: &[String]) -> Result<VmOptions> {
    let line = Line::try_parse_from(arguments).map_err(|error| anyhow::anyhow!("{}", error.render()))?;
    line.options.validate()?;
    Ok(line.options)
}

impl Experiment {
    /// Whether a file is an experiment under Xen; other worlds have their own files.
    pub fn is_one(path: &Path) -> Result<bool> {
        let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let table: Table = toml::from_str(&text).with_context(|| format!("in {}", path.display()))?;
        match table.get("world").map(Value::as_str) {
            None => Ok(false),
            Some(Some("threads")) => bail!("{}: leave out `world`: threads is what it means", path.display()),
            Some(Some("xen")) => Ok(true),
            Some(_) => bail!("{}: `world` is \"xen\", or is left out for the threads world", path.display()),
        }
    }

    /// Reads and checks a file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        Self::of(&text).with_context(|| format!("in {}", path.display()))
    }

    /// Reads and checks the text of a file.
    pub fn of(text: &str) -> Result<Self> {
        let experiment: Self = toml::from_str(text)?;
        ensure!(experiment.repeats > 0, "`repeats` must be at least 1");
        for (name, values) in &experiment.vary {
            let values = values.as_array().with_context(|| format!("`vary.{name}` must be a list"))?;
            ensure!(!values.is_empty(), "`vary.{name}` names no value");
            ensure!(!experiment.options.contains_key(name), "`{name}` is in `vary` and in `options`");
        }
        for name in ["hypervisor", "seed", "csv", "json", "lines", "listen"] {
            let given = experiment.vary.contains_key(name) || experiment.options.contains_key(name);
            ensure!(!given, "`{name}` is not up to an experiment");
        }
        for cell in experiment.plan()? {
            let options = parse(&cell.arguments).with_context(|| cell.command())?;
            ensure!(options.hypervisor == Hypervisor::Xen, "not under Xen: {}", cell.command());
            ensure!(
                options.lock != Lock::ISPIN_PLUS || options.xen.policy.is_some(),
                "say which `policy`: without one, locks would be compared under different ends of quanta: {}",
                cell.command()
            );
        }
        Ok(experiment)
    }

    /// All runs: seed after seed, so that each combination has been run once before the first is run again.
    pub fn plan(&self) -> Result<Vec<Cell>> {
        let mut combinations: Vec<Vec<(String, &Value)>> = vec![vec![]];
        for (name, values) in &self.vary {
            let values = values.as_array().with_context(|| format!("`vary.{name}` must be a list"))?;
            let more = |combination: &Vec<(String, _)>| {
                let with = |value| [combination.as_slice(), &[(name.clone(), value)]].concat();
                values.iter().map(with).collect::<Vec<_>>()
            };
            combinations = combinations.iter().flat_map(more).collect();
        }
        let mut cells = vec![];
        for seed in 1..=self.repeats {
            for combination in &combinations {
                cells.push(self.cell(combination, seed)?);
            }
        }
        Ok(cells)
    }

    fn cell(&self, combination: &[(String, &Value)], seed: u64) -> Result<Cell> {
        let mut arguments: Vec<String> = vec!["--hypervisor".into(), "xen".into()];
        let mut load = vec![];
        let fixed = self.options.iter().map(|(name, value)| (name.clone(), value));
        let all: Vec<(String, &Value)> = combination.iter().cloned().chain(fixed).collect();
        let stock = is_stock(&all)?;
        if stock {
            arguments.push("--no-agent".into());
        }
        for (name, value) in all {
            if stock && OF_THE_SERIES.contains(&name.as_str()) {
                continue;
            }
            if name == "load" {
                let words = value.as_array().context("`load` must be a list of words")?;
                load = words.iter().map(|word| text(&name, word)).collect::<Result<_>>()?;
                continue;
            }
            match value {
                Value::Boolean(false) => {}
                Value::Boolean(true) => arguments.push(format!("--{name}")),
                Value::Array(values) => {
                    for value in values {
                        arguments.extend([format!("--{name}"), text(&name, value)?]);
                    }
                }
                value => arguments.extend([format!("--{name}"), text(&name, value)?]),
            }
        }
        arguments.extend(["--seed".into(), seed.to_string()]);
        if !load.is_empty() {
            arguments.push("--".into());
            arguments.extend(load);
        }
        let varied = combination.iter().map(|(name, value)| Ok((name.clone(), text(name, value)?)));
        Ok(Cell { varied: varied.collect::<Result<_>>()?, seed, arguments })
    }
}

/// Options that a kernel without the series does not know, or that tell the agent something. A cell of such a kernel
/// goes without them, and without the agent.
const OF_THE_SERIES: [&str; 3] = ["csd", "interval", "no-agent"];

/// Whether the lock among these options is one of an unpatched kernel.
fn is_stock(options: &[(String, &Value)]) -> Result<bool> {
    let Some((name, lock)) = options.iter().find(|(name, _)| name == "lock") else { return Ok(false) };
    // What is no lock is told when the cell is parsed.
    Ok(Lock::from_str(&text(name, lock)?, false).is_ok_and(Lock::is_stock))
}

fn text(name: &str, value: &Value) -> Result<String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Integer(number) => Ok(number.to_string()),
        Value::Float(number) => Ok(number.to_string()),
        Value::Boolean(is) => Ok(is.to_string()),
        other => bail!("`{name}` cannot be {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "world='xen'\ntitle='t'\nrepeats=2\n[vary]\nlock=['ticket','hvm']\nvcpus=[2,4]\n\
                         [options]\nworkload='micro'\nseconds=1.5\ndeterministic=true\nload=['--hold','5']\n";

    #[test]
    fn every_combination_comes_once_before_the_next_seed() {
        let plan = Experiment::of(SMALL).unwrap().plan().unwrap();
        let short = |cell: &Cell| format!("{}{} {}", cell.varied[0].1, cell.varied[1].1, cell.seed);
        let all: Vec<String> = plan.iter().map(short).collect();
        assert_eq!(all[..5], ["ticket2 1", "ticket4 1", "hvm2 1", "hvm4 1", "ticket2 2"]);
        assert_eq!(all.len(), 8);
        assert_eq!(plan[3].value("vcpus"), Some("4"));
    }

    #[test]
    fn a_cell_is_a_command() {
        let plan = Experiment::of(SMALL).unwrap().plan().unwrap();
        assert_eq!(
            plan[0].command(),
            "ispin-lab vm --hypervisor xen --lock ticket --vcpus 2 --workload micro --seconds 1.5 --deterministic \
             --seed 1 -- --hold 5"
        );
        for (i, cell) in plan.iter().enumerate() {
            let same: Vec<usize> = (0..plan.len()).filter(|&other| cell.is(&plan[other].command())).collect();
            assert_eq!(same, [i]);
        }
        assert!(!plan[0].is(&format!("{}0", plan[0].command())) && !plan[0].is("ispin-lab vm"));
        let options = parse(&plan[0].arguments).unwrap();
        assert_eq!((options.vcpus, options.seconds, options.deterministic), (2, 1.5, true));
        assert_eq!(options.load_options, ["--hold", "5"]);
    }

    #[test]
    fn a_command_tells_how_many_guests_there_are() {
        for (from, guests) in
            [("workload='micro'", 2), ("guests=1\nworkload='micro'", 1), ("guests=4\nworkload='micro'", 4)]
        {
            for cell in Experiment::of(&SMALL.replace("workload='micro'", from)).unwrap().plan().unwrap() {
                assert_eq!(guests_of(&cell.command()), guests);
                assert_eq!(parse(&cell.arguments).unwrap().xen.guests() as usize, guests);
            }
        }
        assert_eq!(guests_of("ispin-lab vm --seed 1 -- --guests 7"), 2);
    }

    #[test]
    fn an_unpatched_kernel_goes_without_the_agent() {
        let text = SMALL.replace("'hvm'", "'pvqueued'").replace("seconds", "csd=4096\nseconds");
        let plan = Experiment::of(&text).unwrap().plan().unwrap();
        let command =
            |lock: &str| plan.iter().find(|cell| cell.value("lock") == Some(lock)).unwrap().command();
        assert!(command("ticket").contains("--csd 4096") && !command("ticket").contains("--no-agent"));
        assert!(!command("pvqueued").contains("--csd") && command("pvqueued").contains("--no-agent"));
    }

    #[test]
    fn errors_name_what_is_wrong() {
        for (from, to, word) in [
            ("repeats=2", "repeats=0", "repeats"),
            ("vcpus=[2,4]", "vcpus=[]", "vcpus"),
            ("vcpus=[2,4]", "vcpus=4", "vcpus"),
            ("vcpus=[2,4]", "vcpus=[2,99]", "--vcpus 99"),
            ("'hvm'", "'mcs'", "mcs"),
            ("seconds", "secs", "--secs"),
            ("workload='micro'", "lock='pv'", "`lock` is in"),
            ("workload='micro'", "seed=4", "`seed`"),
            ("title='t'", "titel='t'", "titel"),
            ("load=['--hold','5']", "load='--hold'", "`load`"),
        ] {
            let error = format!("{:#}", Experiment::of(&SMALL.replace(from, to)).expect_err(to));
            assert!(error.contains(word), "{to}: {error}");
        }
    }
}
