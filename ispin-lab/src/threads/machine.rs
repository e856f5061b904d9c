//! What a run changes on the machine, and putting it back: on return, on error, on signals (the signal ends
//! the wait of the hypervisor, which then returns), and after a `kill -9` at the next start.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use ispin_agent::session::{self, Changed, Session};

/// Length of a `SCHED_RR` quantum, in milliseconds, for the whole machine.
const RR_TIMESLICE: &str = "/proc/sys/kernel/sched_rr_timeslice_ms";

/// Owns the session file and the changed settings; dropping it puts them back.
pub struct Machine {
    session: Session,
}

impl Machine {
    /// Repairs what earlier processes left behind, then takes the machine.
    pub fn take() -> Result<Self> {
        for line in session::repair().context("repairing what an earlier run left behind")? {
            log::warn!("left behind by an earlier run: {line}");
        }
        let (sessions, _) = session::list();
        if let Some(other) = sessions.iter().find(|s| s.owner.alive()) {
            anyhow::bail!(
                "process {} runs a threads world already; two would disturb each other. Wait for it or end it",
                other.owner.pid
            );
        }
        let session = Session::new()?;
        session.save()?;
        Ok(Self { session })
    }

    /// Sets the length of a quantum.
    pub fn set_quantum_ms(&mut self, ms: u32) -> Result<()> {
        self.change(Path::new(RR_TIMESLICE), &ms.to_string())
    }

    /// The session, to announce a world in it.
    pub fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    fn change(&mut self, path: &Path, value: &str) -> Result<()> {
        let before = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        if !self.session.changed.iter().any(|c| c.path == path) {
            // Noted before it is changed: a kill in between costs a needless restore, not a lost value.
            self.session.changed.push(Changed { path: path.to_path_buf(), original: before });
            self.session.save()?;
        }
        fs::write(path, value).with_context(|| format!("setting {} to {value} (needs root)", path.display()))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for changed in self.session.changed.iter().rev() {
            if let Err(e) = fs::write(&changed.path, &changed.original) {
                eprintln!(
                    "ispin-lab: cannot restore {} to {}: {e}; the next start tries again",
                    changed.path.display(),
                    changed.original.trim()
                );
                return;
            }
        }
        if let Err(e) = self.session.remove() {
            eprintln!("ispin-lab: {e:#}");
        }
    }
}
