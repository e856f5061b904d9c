//! What every guest of a run is made of: its kernel, its programs, its scripts, its parameters.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::image::Image;
use super::init::{self, Plan, Way};
use super::kernel::Kernel;
use super::lock::Lock;
use super::options::{Hypervisor, VmOptions};
use super::packages::{self, BUSYBOX, Needed, QEMU};
use super::programs::Programs;
use super::qemu::{self, Mode};
use super::rival::{self, BPFTRACE, BPFTRACE_HEADERS, Rival};
use super::steps::Steps;
use super::{accel, libraries};
use crate::load::{self, HostFile, MODULE_FOLDER, Workload};

/// Cycles of the guest's TSC per millisecond while instructions are counted: QEMU's runs at 1 GHz then.
pub(super) const DETERMINISTIC_CYCLES_PER_MS: f64 = 1e6;

/// How many times slower than its own clock a guest may be before its silence is taken for a hang.
const SLOWNESS: f64 = 30.0;

/// The load of this name.
pub fn find_workload(name: &str) -> Result<&'static Workload> {
    match load::by_name(name) {
        Some(workload) => Ok(workload),
        None => {
            let names: Vec<&str> = load::WORKLOADS.iter().map(|workload| workload.name).collect();
            bail!("no load `{name}`; there are {}", names.join(", "))
        }
    }
}

/// What every guest of a run is made of.
pub struct Built {
    /// Its kernel.
    pub kernel: Kernel,
    /// Its programs.
    pub programs: Programs,
    /// How QEMU runs instructions.
    pub mode: Mode,
}

impl Built {
    /// Installs and builds it.
    pub fn obtain(root: &Path, options: &VmOptions, workloads: &[&Workload], steps: &Steps) -> Result<Self> {
        packages::ensure(steps, &needed(workloads, options.rival))?;
        let kernel = Kernel::obtain(root, options, steps)?;
        let programs = Programs::build(root, steps)?;
        let (mode, why) = accel::choose(options.accel, options.deterministic, &kernel, steps)?;
        steps.progress.say(&format!("the guest runs under {why}"));
        Ok(Self { kernel, programs, mode })
    }

    /// A guest's initramfs, without its scripts.
    pub fn common(&self, options: &VmOptions, workloads: &[&Workload]) -> Result<Image> {
        let (kernel, programs) = (&self.kernel, &self.programs);
        let mut image = Image::default();
        for folder in ["/dev", "/proc", "/sys", "/tmp", "/run"] {
            image.folder(folder)?;
        }
        image.copy(BUSYBOX.path.as_ref(), "/bin/busybox", 0o755)?;
        for tool in TOOLS {
            image.link(&format!("/bin/{tool}"), "busybox")?;
        }
        image.copy(&programs.load, init::LOAD, 0o755)?;
        if !options.no_agent {
            image.copy(&programs.agent, init::AGENT, 0o755)?;
        }
        if options.hypervisor == Hypervisor::Xen {
            image.copy(&programs.port, init::CARRIER, 0o755)?;
        }
        image.folder(MODULE_FOLDER)?;
        for module in &kernel.modules {
            let name =
                module.file_name().and_then(|name| name.to_str()).context("a module without a name")?;
            image.copy(module, &format!("{MODULE_FOLDER}/{name}"), 0o644)?;
        }
        if options.rival == Some(Rival::Bpftrace) {
            image.file(rival::PROGRAM, rival::BPFTRACE_PROGRAM.into(), 0o644)?;
            add_program(&mut image, BPFTRACE.path)?;
            for folder in BPFTRACE_HEADERS {
                image.copy_folder(folder.as_ref(), folder)?;
            }
        }
        let needs =
            workloads.iter().flat_map(|workload| workload.needs.iter().map(|file| (workload.name, file)));
        for (workload, file) in needs {
            match file {
                HostFile::Program { path, .. } => add_program(&mut image, path)?,
                HostFile::Module { file, from } => {
                    let there = kernel.modules.iter().any(|module| module.ends_with(file));
                    if !there {
                        bail!(
                            "the load {workload} needs {file} ({from}), which is not in {}",
                            kernel.folder.display()
                        );
                    }
                }
            }
        }
        Ok(image)
    }
}

/// What must be installed on the host.
fn needed(workloads: &[&Workload], rival: Option<Rival>) -> Vec<Needed> {
    let needs = workloads.iter().flat_map(|workload| workload.needs);
    let programs = needs.filter_map(|file| match *file {
        HostFile::Program { path, package } => Some(Needed { path, package }),
        HostFile::Module { .. } => None,
    });
    let rival = (rival == Some(Rival::Bpftrace)).then_some(BPFTRACE);
    [QEMU, BUSYBOX].into_iter().chain(rival).chain(programs).collect()
}

/// Adds the scripts that are made for one guest.
pub fn add_scripts(image: &mut Image, plan: &Plan) -> Result<()> {
    image.file("/init", plan.init().into_bytes(), 0o755)?;
    image.file(init::RUN_LOAD, plan.run_load().into_bytes(), 0o755)
}

/// Copies a program of the host and what it is linked with.
fn add_program(image: &mut Image, path: &str) -> Result<()> {
    image.copy(path.as_ref(), path, 0o755)?;
    for library in libraries::of(path.as_ref())? {
        let at = library.to_str().context("a library whose path is not Unicode")?;
        image.copy(&library, at, 0o755)?;
    }
    Ok(())
}

/// Tools of busybox that the scripts use, and a person who looks around in a guest.
const TOOLS: [&str; 23] = [
    "cat", "cp", "dd", "dmesg", "echo", "free", "grep", "head", "hostname", "insmod", "kill", "ls", "mkdir",
    "mount", "poweroff", "ps", "rm", "rmmod", "sh", "sleep", "sync", "tail", "uname",
];

/// The scripts of one guest.
pub fn plan(options: &VmOptions, workload: &Workload, name: &str, way: Way, seed: u64) -> Plan {
    let mut load = vec!["run".to_owned(), workload.name.to_owned()];
    load.extend(["--threads".into(), options.threads().to_string()]);
    load.extend(["--seconds".into(), options.seconds.to_string()]);
    load.extend(["--seed".into(), seed.to_string()]);
    if workload.name == options.workload {
        load.extend(options.load_options.iter().cloned());
    }
    Plan {
        name: name.to_owned(),
        way,
        load,
        interval: (!options.no_agent).then(|| format!("{}ms", options.interval.as_millis())),
        trace_kb: options.trace.is_some().then(|| options.trace_mb() * 1024 / options.vcpus),
        lock: (!options.lock.is_stock()).then(|| options.lock.to_string()),
        rival: options.rival,
        kill: options.xen.killed(name).map(|victim| (victim, options.seconds / 2.0)),
    }
}

/// The guest kernel's command line.
pub fn parameters(options: &VmOptions, mode: Mode) -> Vec<String> {
    let console = match options.hypervisor {
        Hypervisor::None => "console=ttyS0",
        Hypervisor::Xen => "console=hvc0",
    };
    let mut parameters = vec![console.to_owned()];
    parameters.extend(qemu::PARAMETERS.map(str::to_owned));
    if options.lock == Lock::Queued {
        parameters.push("nopvspin".to_owned());
    }
    if !options.lock.is_stock() {
        // The gate: no event before every observer is there.
        parameters.extend([format!("ispinlock={}", options.lock), "ispinlock.events=0".into()]);
    }
    if let Some(csd) = options.csd {
        parameters.push(format!("ispinlock.csd={csd}"));
    }
    if let Some(ms) = options.soft_slice_ms {
        let cycles = (ms * cycles_per_ms(mode)).round() as u64;
        parameters.push(format!("ispinlock.soft_slice={cycles}"));
    }
    parameters.extend(options.append.iter().cloned());
    parameters
}

/// Cycles of the guest's TSC per millisecond.
fn cycles_per_ms(mode: Mode) -> f64 {
    if mode == Mode::Deterministic {
        return DETERMINISTIC_CYCLES_PER_MS;
    }
    // Otherwise the guest sees the host's TSC.
    let begin = (Instant::now(), tsc());
    std::thread::sleep(Duration::from_millis(50));
    let cycles = tsc().wrapping_sub(begin.1);
    cycles as f64 / (begin.0.elapsed().as_secs_f64() * 1e3)
}

fn tsc() -> u64 {
    // SAFETY: every x86-64 processor has RDTSC, and it has no effect on memory.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// With an agent there is a snapshot now and then; without one nothing comes while the load runs.
pub fn patience(options: &VmOptions) -> Duration {
    if options.no_agent { Duration::from_secs_f64(options.seconds * SLOWNESS) } else { Duration::ZERO }
}
