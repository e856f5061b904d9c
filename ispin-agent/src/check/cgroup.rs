//! Real-time limits of the scheduler group that this process is in (`CONFIG_RT_GROUP_SCHED`, cgroup v1).

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};

/// Run time for real-time threads of a group.
pub struct RtLimit {
    /// The file that sets it.
    pub file: PathBuf,
    /// Run time in each period; 0 = no real-time threads at all.
    pub runtime_us: i64,
    /// Length of a period.
    pub period_us: u64,
}

/// The limit of this process's group; `None` if the kernel shows none.
pub fn rt_limit() -> Result<Option<RtLimit>> {
    let this = procfs::process::Process::myself().context("reading /proc/self")?;
    let groups = this.cgroups().context("reading /proc/self/cgroup")?;
    let Some(group) = groups.0.iter().find(|g| g.controllers.iter().any(|c| c == "cpu")) else {
        return Ok(None);
    };
    let mounts = this.mountinfo().context("reading /proc/self/mountinfo")?;
    let is_cpu =
        |m: &&procfs::process::MountInfo| m.fs_type == "cgroup" && m.super_options.contains_key("cpu");
    let Some(mount) = mounts.0.iter().find(is_cpu) else {
        return Ok(None);
    };
    // The mount may show a part of the hierarchy only.
    let inside = Path::new(&group.pathname).strip_prefix(&mount.root).unwrap_or(Path::new(""));
    let folder = mount.mount_point.join(inside);
    let file = folder.join("cpu.rt_runtime_us");
    if !file.exists() {
        return Ok(None);
    }
    let period = folder.join("cpu.rt_period_us");
    Ok(Some(RtLimit { runtime_us: number(&file)?, period_us: number(&period)? as u64, file }))
}

fn number(file: &Path) -> Result<i64> {
    let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    text.trim().parse().map_err(|_| anyhow!("{}: `{}` is not a number", file.display(), text.trim()))
}
