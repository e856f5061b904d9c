//! `ispin-lab vm`: builds what a guest needs, boots it, runs a load in it.

use std::path::PathBuf;

use anyhow::Result;
use ispin_agent::signals::Signals;

use super::boot::{Boot, Observed};
use super::built::{Built, add_scripts, find_workload, parameters, patience, plan};
use super::init::{self, Way};
use super::options::{Hypervisor, VmOptions};
use super::ports::Shared;
use super::progress::Progress;
use super::qemu::Machine;
use super::steps::Steps;
use super::trace_file::{TraceFile, Traced};
use super::{checkout, relay, result, xen};

/// Does a whole run and tells what came of it.
pub fn run(options: &VmOptions) -> Result<()> {
    if options.hypervisor == Hypervisor::Xen {
        return xen::run::run(options);
    }
    match observe(options)? {
        Some(observed) => result::tell(options, &observed),
        None => Ok(()),
    }
}

/// Does a whole run. `None` = who read the output has gone, so it was ended early.
pub fn observe(options: &VmOptions) -> Result<Option<Observed>> {
    options.validate()?;
    if options.hypervisor == Hypervisor::Xen {
        return xen::run::observe(options);
    }
    let workload = find_workload(&options.workload)?;
    let root = checkout::root()?;
    let signals = Signals::catch()?;
    let progress = Progress::new();
    let steps = Steps { signals: &signals, progress: &progress };
    // Before anything is built: an output that cannot be opened is told at once.
    let sinks = options.sinks.open()?;
    let trace = |path| Ok(Traced { port: init::TRACE.to_owned(), file: TraceFile::new("--trace", path)? });
    let traces = options.trace.as_deref().map(trace).into_iter().collect::<Result<Vec<_>>>()?;

    let built = Built::obtain(&root, options, &[workload], &steps)?;
    let initramfs = Shared::new("the initramfs")?;
    let mut image = built.common(options, &[workload])?;
    add_scripts(&mut image, &plan(options, workload, init::NAME, Way::Serial, options.seed))?;
    image.write(initramfs.file())?;

    let boot = Boot {
        machine: Machine {
            mode: built.mode,
            vcpus: options.vcpus,
            memory_mb: options.memory_mb(),
            kernel: built.kernel.image.clone(),
            dom0: None,
            initramfs: initramfs.path(),
            parameters: parameters(options, built.mode),
            console: PathBuf::new(),
            ports: vec![],
        },
        guests: vec![init::NAME.to_owned()],
        world: None,
        timeout: options.timeout(),
        patience: patience(options),
        agent: !options.no_agent,
        seconds: options.seconds,
        keep_console: options.keep_console.clone(),
    };
    initramfs.lend(true)?;
    let observed = relay::run(&boot, sinks, &traces, &steps)?;
    progress.finish();
    Ok(observed)
}
