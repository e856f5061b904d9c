//! The one picture that every source makes and every sink and screen shows.
//!
//! A [`Snapshot`] holds totals since observation began; what happened in an interval is the difference of
//! two. All `*_cycles` and `*_time` values are in [`Source::time_unit`].

mod convoy;
mod counters_by_name;
mod guest_lock;
mod hist;
mod incident;
mod kernel_counts;
mod losses;
mod rows;
mod vcpu;

use serde::{Deserialize, Serialize};

pub use convoy::{Convoy, Seed};
pub use guest_lock::{GuestLock, LockStats};
pub use hist::Hist;
pub use incident::{IncidentRecord, Victim};
pub use kernel_counts::KernelCounts;
pub use losses::{CrossCheck, Losses};
pub use rows::{OTHERS, TableRow};
pub use vcpu::{Vcpu, Vm};

/// State of the observed world at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Number of this snapshot, from 1.
    pub seq: u64,
    /// Milliseconds since the Unix epoch.
    pub unix_ms: u64,
    /// Nanoseconds since observation began.
    pub elapsed_ns: u64,
    /// What is observed.
    pub source: Source,
    /// The VMs, in order.
    pub vms: Vec<Vm>,
    /// Busiest locks first; all that have no row of their own are in the last one, with key 0.
    pub locks: Vec<TableRow>,
    /// Busiest callers first; as for locks.
    pub callers: Vec<TableRow>,
    /// Incidents that came in since the previous snapshot, oldest first.
    pub incidents: Vec<IncidentRecord>,
    /// What was lost on the way.
    pub losses: Losses,
    /// Library against kernel; `None` where there is one observer only.
    pub cross_check: Option<CrossCheck>,
    /// The patched kernel's lock; `None` in other worlds.
    #[serde(default)]
    pub guest: Option<GuestLock>,
    /// True in the last snapshot of a run: the observed world has ended.
    pub finished: bool,
}

/// What is observed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// `threads`, `guest`, ...
    pub kind: String,
    /// Name of the lock algorithm.
    pub lock: String,
    /// Who publishes the vCPUs' quanta: `publisher` (threads), `xen`, `software`, `none`; empty = not known. See
    /// [`Self::caveat`].
    #[serde(default)]
    pub slot_source: String,
    /// Unit of all times: `ns` or `tsc`.
    pub time_unit: String,
    /// Critical section duration estimate, in `time_unit`.
    pub csd: u64,
    /// Length of a full quantum, in `time_unit`; 0 = unknown.
    pub quantum: u64,
    /// Longest time that a deferral may take, in `time_unit`, if the lock says.
    #[serde(default)]
    pub max_defer: Option<u64>,
    /// Whether a CPU that holds a lock may be refused another one, as in the paper, if the lock says.
    #[serde(default)]
    pub nested: Option<bool>,
    /// pCPUs that the vCPUs share; 0 = unknown.
    pub pcpus: u32,
    /// Free text: what the workload is.
    pub workload: String,
}

impl Source {
    /// Why figures of this source must not be reported as they are, in words; `None` if they may.
    pub fn caveat(&self) -> Option<&'static str> {
        match self.slot_source.as_str() {
            "software" => Some("quanta of the software source preempt nobody: this is no result"),
            "none" => {
                Some("nobody publishes quanta: takes are unslotted, and neither LHP nor LWP can be judged")
            }
            _ => None,
        }
    }
}
