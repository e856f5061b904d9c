//! A run under Xen, from building to the closing table; several with `--repeats`.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ispin_agent::signals::Signals;
use ispin_agent::sink::Sink;
use ispin_common::counters::Counters;

use super::debs::Dom0Files;
use super::dom0_image::{self, Guest};
use super::dom0_init::{self, GUESTS, KERNEL};
use super::hypervisor::{self, DOM0_MB};
use super::options::{GuestType, Policy, XenOptions};
use super::truth;
use super::xentrace;
use super::xl::Config;
use super::{XENTRACE, guest_port};
use crate::load::Workload;
use crate::vm::boot::{Boot, Observed};
use crate::vm::built::{Built, add_scripts, find_workload, parameters, patience, plan};
use crate::vm::checkout;
use crate::vm::image::Image;
use crate::vm::init::{self, Way};
use crate::vm::merge::World;
use crate::vm::options::VmOptions;
use crate::vm::ports::Shared;
use crate::vm::progress::Progress;
use crate::vm::qemu::{Dom0, Machine};
use crate::vm::relay;
use crate::vm::result;
use crate::vm::steps::Steps;
use crate::vm::trace_file::{TraceFile, Traced};

/// Memory of Xen itself, MiB, and of what it keeps about each guest.
const XEN_MB: u32 = 128;
const PER_GUEST_MB: u32 = 24;

/// dom0's kernel: what goes wrong on the console that Xen hands on; nothing random in addresses.
const DOM0_PARAMETERS: [&str; 6] =
    ["console=hvc0", "loglevel=4", "panic=-1", "nokaslr", "norandmaps", "no_hash_pointers"];

/// Does a whole run, or several, and tells what came of it.
pub fn run(options: &VmOptions) -> Result<()> {
    options.validate()?;
    if options.xen.repeats() > 1 {
        return repeat(options);
    }
    let Some((observed, rows)) = once(options)? else { return Ok(()) };
    result::tell(options, &observed)?;
    if let Some(gap) = gap(options, &observed) {
        eprintln!("{}: such waits look like preemptions; --deterministic has none", told(gap));
    }
    if let Some(rows) = rows {
        eprint!("{}", truth::table(&rows));
    }
    Ok(())
}

/// Does a whole run. `None` = who read the output has gone, so it was ended early.
pub fn observe(options: &VmOptions) -> Result<Option<Observed>> {
    Ok(once(options)?.map(|(observed, _)| observed))
}

/// The second part is there with `--xentrace`.
type Once = Option<(Observed, Option<Vec<truth::Row>>)>;

fn once(options: &VmOptions) -> Result<Once> {
    options.validate()?;
    let signals = Signals::catch()?;
    let progress = Progress::new();
    let steps = Steps { signals: &signals, progress: &progress };
    // Before anything is built: an output that cannot be opened is told at once.
    let sinks = options.sinks.open()?;
    let traces = traces(options)?;
    let lab = Lab::prepare(options, &steps)?;
    let Some(observed) = lab.boot(options.seed, sinks, &traces, &steps)? else { return Ok(None) };
    progress.finish();
    let xentrace = traces.iter().find(|trace| trace.port == XENTRACE);
    let rows = match (xentrace, &observed.last) {
        (Some(xentrace), Some(last)) => {
            let trace = xentrace::parse(&xentrace.file.content()?).context("--xentrace")?;
            Some(truth::compare(&trace, &observed.domains, last).context("--xentrace")?)
        }
        _ => None,
    };
    Ok(Some((observed, rows)))
}

/// Makes the files of the traces that are asked for.
fn traces(options: &VmOptions) -> Result<Vec<Traced>> {
    let mut traces = vec![];
    if let Some(path) = &options.trace {
        for name in options.xen.names() {
            let file = TraceFile::new("--trace", &of_guest(path, &name))?;
            traces.push(Traced { port: guest_port(&name, init::TRACE), file });
        }
    }
    if let Some(path) = &options.xen.xentrace {
        traces.push(Traced { port: XENTRACE.to_owned(), file: TraceFile::new("--xentrace", path)? });
    }
    Ok(traces)
}

/// The path of one guest's file: the guest's name comes before the extension.
fn of_guest(path: &Path, guest: &str) -> PathBuf {
    match path.extension() {
        Some(extension) => {
            let mut last = OsString::from(guest);
            last.push(".");
            last.push(extension);
            path.with_extension(last)
        }
        None => path.with_extension(guest),
    }
}

/// Runs with one seed after the other, a line for each. A run in which the host kept the machine from running does not
/// count. To keep results, and to go on where one was: `ispin-lab matrix`.
fn repeat(options: &VmOptions) -> Result<()> {
    let signals = Signals::catch()?;
    let progress = Progress::new();
    let steps = Steps { signals: &signals, progress: &progress };
    let lab = Lab::prepare(options, &steps)?;
    let mut discarded = vec![];
    for (number, seed) in (options.seed..).take(options.xen.repeats() as usize).enumerate() {
        progress.say(&format!("run {} of {}, seed {seed}", number + 1, options.xen.repeats()));
        let Some(observed) = lab.boot(seed, vec![], &[], &steps)? else { return Ok(()) };
        if let Some(gap) = gap(options, &observed) {
            progress.say(&format!("seed {seed} does not count: {}", told(gap)));
            discarded.push(seed.to_string());
            continue;
        }
        progress.finish();
        std::io::stdout().write_all(line(seed, &observed).as_bytes()).context("printing the result")?;
    }
    if !discarded.is_empty() {
        bail!(
            "{} of {} runs do not count, those with the seeds {}: the host was too busy",
            discarded.len(),
            options.xen.repeats(),
            discarded.join(", ")
        );
    }
    Ok(())
}

/// A run in a line: all guests together.
fn line(seed: u64, observed: &Observed) -> String {
    let operations: f64 = observed.results.iter().map(|(_, result)| result.per_second).sum();
    let mut all = Counters::default();
    for vm in observed.last.iter().flat_map(|last| &last.vms) {
        all.merge(&vm.total().counters);
    }
    let lost = observed.last.as_ref().map_or(0, |last| last.losses.total());
    format!(
        "seed {seed}: {operations:.0} operations/s, {} acquires, {} deferrals, LHP {}, LWP {}, lost {lost}\n",
        all.acquires, all.deferrals, all.lhp, all.lwp
    )
}

/// A wait that is no longer does not look like a preemption that ends a quantum early.
const LONGEST_GAP: Duration = Duration::from_millis(10);

/// How long the host made a run wait, if that is too long for it to count.
pub fn gap(options: &VmOptions, observed: &Observed) -> Option<Duration> {
    // While instructions are counted, the machine's clock waits with it.
    observed.gap.filter(|&gap| !options.deterministic && gap > LONGEST_GAP)
}

/// The same in words.
pub fn told(gap: Duration) -> String {
    format!("the host made the machine wait for {} ms at a time while the load ran", gap.as_millis())
}

/// What all runs of one command line have in common.
struct Lab<'a> {
    options: &'a VmOptions,
    workload: &'static Workload,
    /// What each guest runs.
    workloads: Vec<&'static Workload>,
    built: Built,
    xen: PathBuf,
    dom0: Dom0Files,
    common: Image,
}

impl<'a> Lab<'a> {
    /// Builds and fetches it.
    fn prepare(options: &'a VmOptions, steps: &Steps) -> Result<Self> {
        let workload = find_workload(&options.workload)?;
        let root = checkout::root()?;
        let own = |name: String| find_workload(options.xen.workload_of(&name).unwrap_or(&options.workload));
        let workloads = options.xen.names().into_iter().map(own).collect::<Result<Vec<_>>>()?;
        let built = Built::obtain(&root, options, &workloads, steps)?;
        let xen = hypervisor::obtain(&root, &options.xen, options.policy(), steps)?;
        let dom0 = Dom0Files::obtain(steps)?;
        let common = built.common(options, &workloads)?;
        Ok(Self { options, workload, workloads, built, xen, dom0, common })
    }

    /// Boots Xen and the guests once.
    fn boot(
        &self,
        seed: u64,
        sinks: Vec<Box<dyn Sink>>,
        traces: &[Traced],
        steps: &Steps,
    ) -> Result<Option<Observed>> {
        let (options, xen) = (self.options, &self.options.xen);
        let names = xen.names();
        let guests = (1..)
            .zip(&self.workloads)
            .map(|(number, workload)| self.guest(number, workload, seed))
            .collect::<Result<Vec<_>>>()?;
        let plan = dom0_init::Plan {
            guests: names.clone(),
            xentrace: xen.xentrace.is_some(),
            traced: options.trace.is_some(),
        };
        let initramfs = Shared::new("dom0's initramfs")?;
        let (port, kernel) = (&self.built.programs.port, &self.built.kernel.image);
        dom0_image::assemble(&self.dom0, &plan, port, kernel, &self.common, &guests)?
            .write(initramfs.file())?;
        let boot = Boot {
            machine: Machine {
                mode: self.built.mode,
                vcpus: 1 + xen.pcpus(),
                memory_mb: DOM0_MB + XEN_MB + xen.guests() * (options.memory_mb() + PER_GUEST_MB),
                kernel: self.xen.clone(),
                dom0: Some(Dom0 {
                    kernel: self.dom0.kernel.clone(),
                    parameters: DOM0_PARAMETERS.map(str::to_owned).to_vec(),
                    virtualization: xen.guest_type() == GuestType::Pvh,
                }),
                initramfs: initramfs.path(),
                parameters: hypervisor::parameters(xen, options.policy()),
                console: PathBuf::new(),
                ports: vec![],
            },
            guests: names,
            world: Some(World {
                pcpus: xen.pcpus(),
                workload: self.workload.name.to_owned(),
                interval: options.interval,
            }),
            timeout: options.timeout(),
            patience: patience(options),
            agent: !options.no_agent,
            seconds: options.seconds,
            keep_console: options.keep_console.clone(),
        };
        initramfs.lend(true)?;
        let observed = relay::run(&boot, sinks, traces, steps);
        initramfs.lend(false)?;
        let observed = observed?;
        if let Some(observed) = &observed {
            self.published(observed)?;
        }
        Ok(observed)
    }

    /// One guest's configuration and scripts.
    fn guest(&self, number: u32, workload: &Workload, seed: u64) -> Result<Guest> {
        let (options, xen) = (self.options, &self.options.xen);
        let name = format!("g{number}");
        let way = Way::Shared { offset_us: XenOptions::start_offset_us(seed, number) };
        let load_seed = XenOptions::load_seed(seed, number);
        let mut image = Image::default();
        add_scripts(&mut image, &plan(options, workload, &name, way, load_seed))?;
        let config = Config {
            guest_type: xen.guest_type(),
            kernel: format!("{GUESTS}/{KERNEL}"),
            initramfs: format!("/run/{name}.cpio"),
            parameters: parameters(options, self.built.mode),
            memory_mb: options.memory_mb(),
            vcpus: options.vcpus,
            pcpus: xen.pcpus(),
            name,
        };
        Ok(Guest { config, image })
    }

    /// Fails if Xen published nothing although it was asked to.
    fn published(&self, observed: &Observed) -> Result<()> {
        let source = observed.source.as_deref();
        let asked = self.options.policy() != Policy::Off;
        if asked && source.is_some_and(|source| source != "xen") {
            bail!(
                "Xen published no quanta (the guests' kernel says {}): {} has no patches, or was built without \
                 them; --policy off runs it as it is",
                source.unwrap_or_default(),
                self.xen.display()
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_guest_has_a_trace_of_its_own() {
        for (path, of_g1) in
            [("d/trace.tar", "d/trace.g1.tar"), ("a.b/t", "a.b/t.g1"), ("x.tar.gz", "x.tar.g1.gz")]
        {
            assert_eq!(of_guest(Path::new(path), "g1"), Path::new(of_g1));
        }
    }
}
