//! A convoy, as it is shown.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A chain of PSPs on one lock that goes on by itself. What makes one: [`crate::convoy`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Convoy {
    /// Name of the lock.
    pub lock: String,
    /// When its first PSP began, in the source's time unit.
    pub since: u64,
    /// When that was first seen, in nanoseconds since observation began.
    pub since_ns: u64,
    /// When its latest PSP ended, in the source's time unit.
    pub until: u64,
    /// PSPs so far.
    pub psp: u64,
    /// Its first PSP.
    pub seed: Seed,
}

/// The PSP that a convoy began with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seed {
    /// `lhp` or `lwp`.
    pub kind: String,
    /// vCPU.
    pub vcpu: u32,
    /// Name of the caller.
    pub caller: String,
    /// Its reason.
    pub reason: String,
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} of vCPU {} in {}, {}", self.kind, self.vcpu, self.caller, self.reason)
    }
}
