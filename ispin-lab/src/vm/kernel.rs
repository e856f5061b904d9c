//! The guest's kernel: built by guest-patch/build, or named.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::options::{Hypervisor, VmOptions};
use super::steps::{Job, Steps};

/// A built kernel.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The folder of the build.
    pub folder: PathBuf,
    /// The image to boot.
    pub image: PathBuf,
    /// Its modules, sorted by name.
    pub modules: Vec<PathBuf>,
}

impl Kernel {
    /// Builds the kernel that `options` ask for, or takes the one that they name.
    pub fn obtain(root: &Path, options: &VmOptions, steps: &Steps) -> Result<Self> {
        match &options.kernel {
            Some(folder) => Self::at(folder).context("--kernel"),
            None => Self::at(&build(root, options, steps)?),
        }
    }

    fn at(folder: &Path) -> Result<Self> {
        let folder = folder.canonicalize().with_context(|| format!("there is no {}", folder.display()))?;
        let image = folder.join("bzImage");
        if !image.is_file() {
            bail!("{} holds no bzImage; name a folder that guest-patch/build printed", folder.display());
        }
        let mut modules = vec![];
        let place = folder.join("modules");
        if place.is_dir() {
            let reading = || format!("reading {}", place.display());
            for entry in std::fs::read_dir(&place).with_context(reading)? {
                modules.push(entry.with_context(reading)?.path());
            }
        }
        modules.retain(|path| path.extension().is_some_and(|extension| extension == "ko"));
        modules.sort();
        Ok(Self { folder, image, modules })
    }
}

/// Makes waiting cheap for QEMU where instructions are counted.
const COUNTED_PAUSE: &str = "guest-patch/debug/counted-pause.patch";

/// Whether the kernel gets a PAUSE that does not leave the loop in which QEMU runs a vCPU.
///
/// Guests that share one pCPU only ever wait for what no other pCPU does meanwhile. With several pCPUs, which QEMU runs in
/// turn, the one that waits must let the others go on, so there the PAUSE stays.
fn counts_pauses(options: &VmOptions) -> bool {
    options.hypervisor == Hypervisor::Xen && options.deterministic && options.xen.pcpus() == 1
}

/// Runs guest-patch/build; its last line is the folder.
fn build(root: &Path, options: &VmOptions, steps: &Steps) -> Result<PathBuf> {
    let variant = &options.variant;
    let mut arguments: Vec<OsString> = vec!["--series".into(), options.series().into()];
    let mut option = |name: &str, value: OsString| arguments.extend([name.into(), value]);
    if let Some(version) = &variant.linux {
        option("--linux", version.into());
    }
    if let Some(source) = &variant.source {
        option("--source", source.into());
    }
    let xen = (options.hypervisor == Hypervisor::Xen).then(|| "xen".to_owned());
    for fragment in xen.iter().chain(&variant.fragment) {
        option("--fragment", fragment.into());
    }
    if counts_pauses(options) {
        option("--patch", root.join(COUNTED_PAUSE).into());
    }
    for patch in &variant.patch {
        option("--patch", patch.into());
    }
    if let Some(jobs) = variant.jobs {
        option("--jobs", jobs.to_string().into());
    }
    let said = steps.complete(&Job {
        what: "the guest's kernel",
        program: root.join("guest-patch/build").into(),
        arguments,
        environment: vec![],
    })?;
    let folder = said.lines().last().map(PathBuf::from).filter(|folder| folder.is_dir());
    folder.with_context(|| format!("guest-patch/build printed no folder but: {said}"))
}
