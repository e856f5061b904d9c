//! Where things are.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use ispin_ebpf_build::compile;

/// The workspace's folder.
pub fn root() -> Result<PathBuf> {
    // cargo sets it for the programs that it runs; the copy made at build time serves a program started by hand.
    let package = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let root = Path::new(&package).parent().context("xtask is not in the workspace's folder")?;
    Ok(root.to_owned())
}

/// The folder in which the eBPF object is built, the same that the build script of `ispin-agent` uses.
pub fn ebpf_scratch() -> Result<PathBuf> {
    Ok(compile::scratch(&env::current_exe().context("cannot find this program's own path")?))
}

/// The target folder that this program was built in.
pub fn target() -> Result<PathBuf> {
    let scratch = ebpf_scratch()?;
    Ok(scratch.parent().unwrap_or(&scratch).to_owned())
}
