//! `ispin-lab`: runs locks in worlds and measures them.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use ispin_agent::bpf::btf::KERNEL_BTF;
use ispin_lab::healing::{self, InjectionResult};
use ispin_lab::instructions::{self, InstructionOptions};
use ispin_lab::interrupt;
use ispin_lab::matrix::{self, Experiment, ResultFile};
use ispin_lab::noise;
use ispin_lab::overhead;
use ispin_lab::threads::hypervisor::Hypervisor;
use ispin_lab::threads::injector::Asked;
use ispin_lab::threads::options::{RunOptions, parse_lock};
use ispin_lab::threads::result::{self, RunResult};
use ispin_lab::threads::undisturbed::Patience;
use ispin_lab::threads::vm_process;
use ispin_lab::validate::{self, ValidateOptions};
use ispin_lab::vm::xen::inject::Injection;
use ispin_lab::vm::xen::options::Policy;
use ispin_lab::vm::xen::{self, matrix::Share};
use ispin_lab::vm::{self, VmOptions};
use ispin_lab::workload::nanoseconds;

/// Runs spinlocks in virtual machines of several kinds and measures lock holder and waiter preemption.
#[derive(Parser)]
#[command(name = "ispin-lab", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Cmd,
    /// Kernel type information to use instead of the running kernel's
    #[arg(long, global = true, env = "ISPIN_BTF", value_name = "PATH", default_value = KERNEL_BTF)]
    btf: PathBuf,
    /// More messages (twice: even more)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

#[derive(Subcommand)]
enum Cmd {
    /// Real-time threads as vCPUs, SCHED_RR as the hypervisor (needs root and BTF)
    Threads {
        /// Lock algorithms to run one after the other
        #[arg(long, value_delimiter = ',', default_value = "ticket", value_parser = parse_lock)]
        lock: Vec<String>,
        /// Rounds through the list of locks
        #[arg(long, default_value_t = 1)]
        rounds: u32,
        /// Write the results as a JSON array; - for standard output (then without the table)
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Begin each run only when an observer (ispin-agent, ispin-tui) has attached
        #[arg(long, env = "ISPIN_WAIT_FOR_OBSERVER", value_parser = clap::builder::FalseyValueParser::new())]
        wait_for_observer: bool,
        /// No table
        #[arg(long)]
        quiet: bool,
        #[command(flatten)]
        options: RunOptions,
    },
    /// Experiments as data: locks x vCPUs x repeats, alternated; interrupt it and it goes on where it was
    Matrix {
        /// The experiment, TOML
        file: PathBuf,
        /// CSV that the runs accumulate in [default: the experiment's name with .csv, here]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Write the closing table, Markdown
        #[arg(long, value_name = "FILE")]
        table: Option<PathBuf>,
        /// Draw what is there, SVG: performance and PSP over the vCPUs (experiments under Xen that vary `lock` and `vcpus`)
        #[arg(long, value_name = "FILE")]
        plot: Option<PathBuf>,
        /// Do this share of the runs only (1/2, 2/2), so that several processes can work on an experiment under Xen; 0/1
        /// does none and sums up what is there
        #[arg(long, value_name = "PART/PARTS", default_value = "1/1")]
        part: Share,
    },
    /// Take the pCPU from a lock holder on purpose, and see how long each lock needs to heal (threads world)
    Inject {
        /// Lock algorithms, one after the other
        #[arg(long, value_delimiter = ',', default_value = "ticket,hvm,pv,ispin+", value_parser = parse_lock)]
        lock: Vec<String>,
        /// Quanta from one injection to the next: how long a lock has to heal
        #[arg(long, value_name = "QUANTA", default_value_t = 30)]
        every: u32,
        /// Runs of each lock, in turn with those of the others, with the seeds that follow
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
        repeats: u32,
        /// Take nothing from anybody, but observe as if: how long a lock seems to need that nothing was done to
        #[arg(long)]
        sham: bool,
        /// Write each injection and each run as JSON; after each run anew
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        #[command(flatten)]
        options: RunOptions,
    },
    /// The same in two guests of Xen that share a pCPU
    InjectXen {
        /// Spinlocks of the guests' kernel, one after the other
        #[arg(long, value_delimiter = ',', default_value = "ticket,hvm,pv,ispin+")]
        lock: Vec<String>,
        /// Quanta from one injection to the next: how long a lock has to heal
        #[arg(long, value_name = "QUANTA", default_value_t = 30)]
        every: u32,
        /// vCPUs of each guest
        #[arg(long, value_name = "N", default_value_t = 4)]
        vcpus: u32,
        /// What Xen publishes as the end of a quantum, as --policy of vm
        #[arg(long, value_enum, default_value_t = Policy::Firm)]
        policy: Policy,
        /// Length of a run in seconds of the guests
        #[arg(long, default_value_t = 6.0)]
        seconds: f64,
        /// Critical section duration estimate in cycles
        #[arg(long, default_value_t = 1 << 18)]
        csd: u64,
        /// Seed of the first run
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Runs of each lock, with the seeds that follow
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1000))]
        repeats: u64,
        /// Write each injection as JSON; after each run anew
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// Throughput with an agent attached over without, in pairs; the publisher's cost per switch
    Overhead {
        /// Lock algorithm
        #[arg(long, default_value = "hvm", value_parser = parse_lock)]
        lock: String,
        /// Pairs of runs
        #[arg(long, default_value_t = 5)]
        pairs: u32,
        #[command(flatten)]
        options: RunOptions,
    },
    /// What stops real-time threads although nothing preempts them; how many convoys that should seed (needs root)
    Noise {
        /// pCPUs to measure; 0 = all that this process may use
        #[arg(long, default_value_t = 2)]
        pcpus: u32,
        /// Length of the measurement in seconds
        #[arg(long, default_value_t = 8.0)]
        seconds: f64,
        /// Quantum of the forecast in milliseconds
        #[arg(long, default_value_t = 8)]
        slice_ms: u32,
        /// Critical section duration estimates of the forecast, with unit
        #[arg(long, value_delimiter = ',', default_value = "16384ns,131072ns,1048576ns", value_parser = nanoseconds)]
        csd: Vec<u64>,
        /// Print JSON instead of tables
        #[arg(long)]
        json: bool,
    },
    /// A guest under QEMU that runs a load, observed by the agent inside it; builds what it needs
    Vm(Box<VmOptions>),
    /// Instructions of an uncontended lock and unlock in a guest's kernel: each lock, alone and observed
    Instructions(InstructionOptions),
    /// Which of the paper's claims hold here: runs the experiments that they rest on and writes a report
    Validate(ValidateOptions),
    #[command(hide = true)]
    VmProcess,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let level = ["warn", "info", "debug"][usize::from(cli.verbose.min(2))];
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(level)).init();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ispin-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs what is missing of an experiment under Xen; the closing table is of all that is there, whoever ran it.
fn xen_matrix(file: &Path, out: &Path, plot: Option<&Path>, part: Share) -> Result<String> {
    let experiment = xen::experiment::Experiment::read(file)?;
    let varied: Vec<String> = experiment.vary.keys().cloned().collect();
    let mut results = xen::results::ResultFile::open(out, &varied)?;
    let done = xen::matrix::run_missing(&experiment, &mut results, part);
    let summary = xen::matrix::summary(&experiment, results.rows())?;
    if let Some(path) = plot {
        xen::plot::draw(&experiment, results.rows(), path)?;
    }
    if let Err(error) = done {
        println!("{summary}");
        return Err(error);
    }
    Ok(summary)
}

fn run(cli: Cli) -> Result<()> {
    match cli.command {
        Cmd::VmProcess => vm_process::main(),
        Cmd::Vm(options) => vm::run(&options),
        Cmd::Instructions(options) => {
            println!("{}", instructions::table(&instructions::measure(&options)?));
            Ok(())
        }
        Cmd::Validate(options) => {
            print!("{}", validate::run(&options, &cli.btf, &interrupt::flag()?)?);
            Ok(())
        }
        Cmd::Matrix { file, out, table, plot, part } => {
            let out = match (out, file.file_stem()) {
                (Some(out), _) => out,
                (None, Some(stem)) => PathBuf::from(stem).with_extension("csv"),
                (None, None) => bail!("{} has no file name", file.display()),
            };
            let summary = if xen::experiment::Experiment::is_one(&file)? {
                xen_matrix(&file, &out, plot.as_deref(), part)?
            } else {
                if part != (Share { part: 1, parts: 1 }) {
                    bail!("--part: runs of the threads world would disturb each other");
                }
                if plot.is_some() {
                    bail!("--plot draws experiments under Xen only");
                }
                let experiment = Experiment::read(&file)?;
                let mut results = ResultFile::open(&out)?;
                let start = || Hypervisor::new(cli.btf, interrupt::flag()?, false);
                let rows = matrix::run(&experiment, &mut results, start)?;
                matrix::summary(&experiment, &rows)
            } + "\n";
            if let Some(path) = table {
                std::fs::write(&path, &summary).with_context(|| format!("writing {}", path.display()))?;
            }
            print!("{summary}");
            Ok(())
        }
        Cmd::Overhead { lock, pairs, options } => {
            options.validate()?;
            let mut hypervisor = Hypervisor::new(cli.btf, interrupt::flag()?, false)?;
            let overhead = overhead::measure(&mut hypervisor, &lock, &options, pairs)?;
            println!("{}", serde_json::to_string_pretty(&overhead)?);
            Ok(())
        }
        Cmd::Inject { lock, every, repeats, sham, json, options } => {
            options.validate()?;
            let mut hypervisor = Hypervisor::new(cli.btf, interrupt::flag()?, false)?;
            let mut results: Vec<InjectionResult> = vec![];
            let asked = Asked { every, sham };
            let mut patience = Patience::with(repeats.saturating_mul(lock.len() as u32));
            for repeat in 0..repeats {
                let seed = options.seed.wrapping_add(u64::from(repeat));
                let options = RunOptions { seed, ..options.clone() };
                for (i, name) in lock.iter().enumerate() {
                    let of = format!("--lock {name} --seed {seed}");
                    let inject = || hypervisor.run_injected(name, &options, asked).context(of.clone());
                    let (run, healings) = patience.undisturbed(&of, inject)?;
                    if results.len() == i {
                        let vcpus = u64::from(options.vms * options.vcpus);
                        let quiet = healing::quiet_quanta(vcpus, u64::from(run.pcpus));
                        results.push(InjectionResult::new(name.clone(), options.vcpus, quiet));
                    }
                    results[i].add(healings, Some(run));
                    healing::save(&results, json.as_deref())?;
                }
            }
            drop(hypervisor);
            tell_healings(&results, json.as_deref())
        }
        Cmd::InjectXen { lock, every, vcpus, policy, seconds, csd, seed, repeats, json } => {
            let mut results: Vec<InjectionResult> = vec![];
            let injection = Injection { vcpus, policy, seconds, every, seed, csd };
            let quiet_quanta = injection.quiet_quanta();
            for name in lock {
                results.push(InjectionResult::new(name.clone(), vcpus, quiet_quanta));
                for seed in seed..seed.saturating_add(repeats) {
                    eprintln!("{name}, seed {seed}");
                    let healings = Injection { seed, ..injection }
                        .run(&name)
                        .with_context(|| format!("--lock {name} --seed {seed}"))?;
                    if let Some(result) = results.last_mut() {
                        result.add(healings, None);
                    }
                    healing::save(&results, json.as_deref())?;
                }
            }
            tell_healings(&results, json.as_deref())
        }
        Cmd::Noise { pcpus, seconds, slice_ms, csd, json } => {
            let interrupted = interrupt::flag()?;
            let noise = noise::measure(pcpus, seconds, slice_ms, &csd, &interrupted)?;
            let text = if json { serde_json::to_string_pretty(&noise)? } else { noise::tables(&noise) };
            println!("{text}");
            Ok(())
        }
        Cmd::Threads { lock, rounds, json, wait_for_observer, quiet, options } => {
            options.validate()?;
            let interrupted = interrupt::flag()?;
            let mut hypervisor = Hypervisor::new(cli.btf, interrupted, wait_for_observer)?;
            let mut results: Vec<RunResult> = vec![];
            for _ in 0..rounds {
                for name in &lock {
                    results.push(hypervisor.run(name, &options)?);
                }
            }
            drop(hypervisor);
            report(&results, json.as_deref(), quiet)
        }
    }
}

fn tell_healings(results: &[InjectionResult], json: Option<&Path>) -> Result<()> {
    healing::save(results, json)?;
    println!("{}", healing::table(results));
    print!("{}", healing::slow(results));
    Ok(())
}

fn report(results: &[RunResult], json: Option<&std::path::Path>, quiet: bool) -> Result<()> {
    if let Some(path) = json {
        let text = serde_json::to_string_pretty(results)? + "\n";
        if path.as_os_str() == "-" {
            print!("{text}");
            return Ok(());
        }
        std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    if !quiet {
        println!("{}", result::table(results));
    }
    Ok(())
}
