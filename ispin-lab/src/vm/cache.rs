//! Where what is built is kept from run to run, outside the tree. guest-patch/build looks in the same place.

use std::env;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

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
