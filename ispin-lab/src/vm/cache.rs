//! Where what is built is kept from run to run, outside the tree. guest-patch/build looks in the same place.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::steps::Steps;

/// The folder of the cache: `ISPIN_CACHE`, else `ispin` in `XDG_CACHE_HOME`, else in `~/.cache`.
pub fn folder() -> Result<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = set("ISPIN_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|cache| cache.join("ispin")))
        .or_else(|| set("HOME").map(|home| home.join(".cache/ispin")))
        .context("set HOME, or ISPIN_CACHE to the folder in which built kernels are kept")?;
    ensure!(
        folder.is_absolute(),
        "the cache folder {} must be an absolute path; set ISPIN_CACHE",
        folder.display()
    );
    Ok(folder)
}

/// How often a lock that another process holds is tried.
const AGAIN: Duration = Duration::from_millis(200);

/// Waits until nobody else builds or installs: the lock of the cache `folder`, which guest-patch/build takes too. It is held until the
/// file is dropped.
///
/// # Errors
/// A signal came, or the folder cannot be written.
pub fn hold_lock(folder: &Path, steps: &Steps) -> Result<File> {
    let path = folder.join("build/lock");
    let locking = || format!("locking {}; set ISPIN_CACHE to a folder that can be written", path.display());
    fs::create_dir_all(folder.join("build")).with_context(locking)?;
    let file = File::options().write(true).create(true).truncate(false).open(&path).with_context(locking)?;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::WOULDBLOCK | Errno::INTR) => {}
            Err(error) => return Err(error).with_context(locking),
        }
        steps.check()?;
        steps.progress.detail("another build is at work; waiting for it");
        std::thread::sleep(AGAIN);
    }
}
