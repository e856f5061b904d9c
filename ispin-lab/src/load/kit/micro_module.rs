//! The kernel module `ispin_micro` (`guest-patch/modules/`): one run is a line written to its debugfs file.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result, bail};
use rustix::io::Errno;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::host_file::HostFile;
use super::module::Module;
use super::setup::Setup;

/// The module's file.
pub const MODULE: HostFile =
    HostFile::Module { file: "ispin_micro.ko", from: "guest-patch/modules, built with the guest's kernel" };

const NAME: &str = "ispin_micro";
const DEBUGFS: &str = "/sys/kernel/debug";

/// The part of a result that both modes have.
#[derive(Deserialize)]
struct Stuck {
    /// Threads that did not come back.
    stuck: u32,
}

/// Runs the module's benchmark with `parameters` (`threads=4 ms=3000`) and returns what it found.
pub fn run<T: DeserializeOwned>(setup: &Setup, parameters: &str) -> Result<T> {
    let module = Module::ensure(&setup.modules, NAME)?;
    let folder = Path::new(DEBUGFS).join(NAME);
    if !folder.is_dir() {
        bail!(
            "{} is not there: mount debugfs (mount -t debugfs none {DEBUGFS}); the kernel needs CONFIG_DEBUG_FS",
            folder.display()
        );
    }
    let path = folder.join("run");
    let file =
        File::options().write(true).open(&path).with_context(|| format!("opening {}", path.display()))?;
    // The write lasts as long as the run. A signal ends it early; it must not be repeated.
    let written = rustix::io::write(&file, parameters.as_bytes());
    // An open file keeps the module in use.
    drop(file);
    setup.signals.check()?;
    match written {
        Ok(_) => {}
        Err(Errno::INVAL) => {
            bail!("{NAME} did not take `{parameters}`: the kernel log (dmesg) has the reason")
        }
        Err(error) => return Err(error).with_context(|| format!("running {NAME} with `{parameters}`")),
    }
    let path = folder.join("result");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let parse = || format!("{} holds `{text}`", path.display());
    let stuck: Stuck = serde_json::from_str(&text).with_context(parse)?;
    // Threads that are stuck keep the module in use for ever.
    if stuck.stuck > 0 {
        module.leave()
    } else {
        module.remove()?
    }
    serde_json::from_str(&text).with_context(parse)
}
