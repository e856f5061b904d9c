//! One boot: what it is to do, and what came of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use ispin_agent::model::Snapshot;

use super::merge::World;
use super::qemu::Machine;
use super::report::LoadResult;

/// What one boot is to do.
pub struct Boot {
    /// The machine, but for its console and ports.
    pub machine: Machine,
    /// Names of the guests.
    pub guests: Vec<String>,
    /// What the guests share, if they are guests of Xen.
    pub world: Option<World>,
    /// Silence that ends the run, in time of the host.
    pub timeout: Duration,
    /// More of it while the load runs, for runs in which nothing comes meanwhile.
    pub patience: Duration,
    /// Whether the agent sends snapshots.
    pub agent: bool,
    /// Length of the load in time of the guest, s.
    pub seconds: f64,
    /// Gets the console.
    pub keep_console: Option<PathBuf>,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Observed {
    /// The last snapshot, if there was an agent.
    pub last: Option<Snapshot>,
    /// Who published slots; `None` = the kernel has no informed locks.
    pub source: Option<String>,
    /// What the load reported, by guest.
    pub results: Vec<(String, LoadResult)>,
    /// Numbers that Xen gave to the guests.
    pub domains: BTreeMap<String, u32>,
    /// The most that the host made the machine wait at a time while the load ran; `None` = it is not known.
    pub gap: Option<Duration>,
}

impl Observed {
    /// What the load of the first guest reported.
    pub fn result(&self) -> Option<&LoadResult> {
        self.results.first().map(|(_, result)| result)
    }
}
