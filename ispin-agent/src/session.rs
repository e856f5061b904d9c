//! Where a running threads world says what it is, so that an observer finds it, and what it changed on the
//! machine, so that the next start can put it back after a `kill -9`.
//!
//! One file per world in [`DIRECTORY`], `<pid>.json`, readable by root only.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::bpf::publisher::PublisherMapIds;

/// Where sessions are announced; `ISPIN_RUN_DIR` overrides it.
pub const DIRECTORY: &str = "/run/ispin";

/// The directory in use.
pub fn directory() -> PathBuf {
    std::env::var_os("ISPIN_RUN_DIR").map_or_else(|| PathBuf::from(DIRECTORY), PathBuf::from)
}

/// A process, safe against reuse of its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Process id.
    pub pid: i32,
    /// Start time in clock ticks since boot (`/proc/PID/stat`, field 22).
    pub start_time: u64,
}

impl ProcessId {
    /// Of the running process `pid`.
    pub fn of(pid: i32) -> Result<Self> {
        let stat = procfs::process::Process::new(pid)
            .and_then(|p| p.stat())
            .with_context(|| format!("reading /proc/{pid}/stat"))?;
        Ok(Self { pid, start_time: stat.starttime })
    }

    /// Of this process.
    pub fn this() -> Result<Self> {
        Self::of(std::process::id() as i32)
    }

    /// Whether it still runs (a zombie does not).
    pub fn alive(&self) -> bool {
        procfs::process::Process::new(self.pid)
            .and_then(|p| p.stat())
            .is_ok_and(|stat| stat.starttime == self.start_time && stat.state != 'Z')
    }
}

/// A setting that was changed and its value before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// File of the setting.
    pub path: PathBuf,
    /// Its content before.
    pub original: String,
}

/// One VM of a threads world.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmInfo {
    /// Its name.
    pub name: String,
    /// Its page in the slot map.
    pub page: u32,
    /// Rows of its vCPUs, in order of their slots.
    pub rows: Vec<u32>,
    /// Its process, once started.
    pub process: Option<ProcessId>,
}

/// What a threads world says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct World {
    /// Name of the lock algorithm.
    pub lock: String,
    /// Names of the locks, by their number.
    pub lock_names: Vec<String>,
    /// Names of the callers, by their number.
    pub caller_names: Vec<String>,
    /// Critical section duration estimate, ns.
    pub csd_ns: u64,
    /// Length of a quantum, ns.
    pub quantum_ns: u64,
    /// pCPUs that the vCPUs share.
    pub pcpus: Vec<usize>,
    /// The workload in words.
    pub workload: String,
    /// The VMs.
    pub vms: Vec<VmInfo>,
    /// Maps of the publisher.
    pub maps: PublisherMapIds,
    /// Where the publisher's own counts are, see [`crate::bpf::publisher::recursion_misses`].
    pub publisher_fdinfo: PathBuf,
    /// Kernel-wide number of the publisher, for its diagnostics.
    pub publisher_id: u32,
}

/// Content of a session file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Layout of this file.
    pub version: u32,
    /// The process that made it.
    pub owner: ProcessId,
    /// Number of the world within that process: the worlds of a sequence differ in it.
    pub number: u32,
    /// What to put back.
    pub changed: Vec<Changed>,
    /// The running world; `None` while it is being set up or between two.
    pub world: Option<World>,
}

/// Version of the layout of the session file.
pub const VERSION: u32 = 1;

impl Session {
    /// A new session of this process, with nothing changed and no world yet.
    pub fn new() -> Result<Self> {
        Ok(Self { version: VERSION, owner: ProcessId::this()?, number: 0, changed: vec![], world: None })
    }

    /// The file of the session that `pid` owns.
    pub fn path_of(pid: i32) -> PathBuf {
        directory().join(format!("{pid}.json"))
    }

    /// Writes the file in one step: a reader sees the old content or the new.
    pub fn save(&self) -> Result<()> {
        let dir = directory();
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .with_context(|| format!("creating {} (set ISPIN_RUN_DIR for another place)", dir.display()))?;
        let path = Self::path_of(self.owner.pid);
        let partial = path.with_extension("partial");
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&partial)
            .with_context(|| format!("creating {}", partial.display()))?;
        file.write_all(&serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("writing {}", partial.display()))?;
        fs::rename(&partial, &path).with_context(|| format!("putting {} in place", path.display()))
    }

    /// Reads a session file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let session: Self = serde_json::from_str(&text)
            .with_context(|| format!("{} is not a session file of this version", path.display()))?;
        if session.version != VERSION {
            bail!("{} has version {}, this program reads {VERSION}", path.display(), session.version);
        }
        Ok(session)
    }

    /// Removes the file.
    pub fn remove(&self) -> Result<()> {
        let path = Self::path_of(self.owner.pid);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(e).with_context(|| format!("removing {}", path.display()))
            }
            _ => Ok(()),
        }
    }
}

/// All readable sessions, alive or not, and what could not be read.
pub fn list() -> (Vec<Session>, Vec<anyhow::Error>) {
    let (mut sessions, mut errors) = (vec![], vec![]);
    let Ok(entries) = fs::read_dir(directory()) else { return (sessions, errors) };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|e| e == "json") {
            match Session::read(&path) {
                Ok(session) => sessions.push(session),
                // It may have ended between the listing and the reading.
                Err(_) if !path.exists() => {}
                Err(error) => errors.push(error),
            }
        }
    }
    sessions.sort_by_key(|s| s.owner.start_time);
    (sessions, errors)
}

/// Puts back what sessions changed whose process is gone; says what it did.
pub fn repair() -> Result<Vec<String>> {
    let mut done = vec![];
    let (sessions, errors) = list();
    for session in sessions.iter().filter(|s| !s.owner.alive()) {
        for vm in session.world.iter().flat_map(|w| &w.vms) {
            if let Some(process) = vm.process.filter(ProcessId::alive)
                && let Some(pid) = rustix::process::Pid::from_raw(process.pid)
            {
                rustix::process::kill_process(pid, rustix::process::Signal::KILL)
                    .with_context(|| format!("ending left-over VM process {}", process.pid))?;
                done.push(format!("ended left-over VM process {}", process.pid));
            }
        }
        for changed in session.changed.iter().rev() {
            fs::write(&changed.path, &changed.original)
                .with_context(|| format!("restoring {}", changed.path.display()))?;
            done.push(format!("restored {} to {}", changed.path.display(), changed.original.trim()));
        }
        session.remove()?;
        done.push(format!("removed the session of process {}, which is gone", session.owner.pid));
    }
    if let Some(error) = errors.into_iter().next() {
        return Err(error.context("a left-over session cannot be read; look at it and remove it by hand"));
    }
    Ok(done)
}
