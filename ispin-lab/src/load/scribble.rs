//! A guest that misbehaves: garbage over the slots of its own vCPUs, which neither Xen nor another guest must mind.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ArgMatches;

use super::Workload;
use super::kit::host_file::HostFile;
use super::kit::module::Module;
use super::kit::report::Report;
use super::kit::setup::Setup;

pub(super) const WORKLOAD: Workload = Workload {
    name: "scribble",
    about: "under Xen: writes garbage over the slots of the own vCPUs, on all of them, all the time",
    unit: "words/s",
    needs: &[MODULE],
    options: |command| command,
    run,
};

const MODULE: HostFile = HostFile::Module {
    file: "ispin_scribble.ko",
    from: "guest-patch/modules, built with the guest's kernel",
};

const NAME: &str = "ispin_scribble";
const POINTER: &str = "HYPERVISOR_shared_info";
/// How often it is looked whether a signal came.
const LOOK: Duration = Duration::from_millis(20);

fn run(setup: &Setup, _: &ArgMatches) -> Result<Report> {
    WORKLOAD.check_needs(setup)?;
    let pointer = address_of(POINTER)?;
    let module = Module::insert(&setup.modules, NAME, &format!("pointer={pointer:#x}"))?;
    let begin = Instant::now();
    while begin.elapsed() < setup.time {
        setup.signals.check()?;
        std::thread::sleep(LOOK.min(setup.time.saturating_sub(begin.elapsed())));
    }
    let time = begin.elapsed();
    let path = Path::new("/sys/module").join(NAME).join("parameters/written");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let words: u64 = text.trim().parse().with_context(|| format!("{} holds `{text}`", path.display()))?;
    module.remove()?;
    if words == 0 {
        bail!("nothing was written in {time:?}");
    }
    Ok(Report::new(words, time))
}

/// The address of a kernel variable.
fn address_of(name: &str) -> Result<u64> {
    let symbols = fs::read_to_string("/proc/kallsyms").context("reading /proc/kallsyms")?;
    let line = symbols.lines().find(|line| line.split_whitespace().nth(2) == Some(name));
    let Some(address) = line.and_then(|line| line.split_whitespace().next()) else {
        bail!("this kernel has no {name}: the load needs a guest of Xen");
    };
    let address = u64::from_str_radix(address, 16).with_context(|| format!("{name} at `{address}`"))?;
    if address == 0 {
        bail!("/proc/kallsyms hides addresses: run it as root, with kernel.kptr_restrict=0");
    }
    Ok(address)
}
