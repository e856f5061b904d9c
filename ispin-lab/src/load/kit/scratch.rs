//! The only place where a workload writes: a temporary folder of its own, in memory, gone when the load ends.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::statfs;
use tempfile::TempDir;

use super::setup::Setup;

/// `TMPFS_MAGIC`, linux/magic.h.
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// Where a tmpfs usually is.
const USUAL: [&str; 3] = ["/dev/shm", "/tmp", "/run"];

/// A temporary folder in a tmpfs.
pub struct Scratch(TempDir);

impl Scratch {
    /// Makes it, in the folder that was asked for or in the first usual one that is a tmpfs.
    pub fn new(setup: &Setup) -> Result<Self> {
        let parent = match &setup.folder {
            Some(folder) if is_tmpfs(folder)? => folder.clone(),
            Some(folder) => bail!(
                "--folder {}: not in a tmpfs, so the load would measure a disk: mount one there (mount -t tmpfs none DIR)",
                folder.display()
            ),
            None => usual()?,
        };
        let folder = tempfile::Builder::new()
            .prefix("ispin-load-")
            .tempdir_in(&parent)
            .with_context(|| format!("making a temporary folder in {}", parent.display()))?;
        Ok(Self(folder))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Removes it, and says so if that fails.
    pub fn remove(self) -> Result<()> {
        let path = self.0.path().to_owned();
        self.0.close().with_context(|| format!("removing {}", path.display()))
    }
}

fn is_tmpfs(folder: &Path) -> Result<bool> {
    let stat = statfs(folder).with_context(|| format!("looking at {}", folder.display()))?;
    Ok(stat.f_type as i64 == TMPFS_MAGIC)
}

fn usual() -> Result<PathBuf> {
    for folder in USUAL.map(Path::new) {
        if folder.is_dir() && is_tmpfs(folder)? {
            return Ok(folder.to_owned());
        }
    }
    bail!(
        "none of {} is a tmpfs: mount one (mount -t tmpfs none /tmp) or name another with --folder",
        USUAL.join(", ")
    )
}
