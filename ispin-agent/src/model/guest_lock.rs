//! What the patched guest kernel says of its own lock.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Counts that the patched kernel keeps itself, by the names that it gives them. A newer kernel may have more of
/// them than this program knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LockStats(pub BTreeMap<String, u64>);

impl LockStats {
    /// The counts that have a CSV column.
    pub const NAMES: [&'static str; 11] = [
        "takes",
        "deferrals",
        "timeouts",
        "unslotted",
        "expired",
        "nested",
        "nmi",
        "skipped",
        "stalled",
        "rwlocks",
        "rw_deferrals",
    ];

    /// The count of that name, if the kernel keeps it.
    pub fn get(&self, name: &str) -> Option<u64> {
        self.0.get(name).copied()
    }

    /// Adds another CPU's.
    pub fn merge(&mut self, other: &Self) {
        for (name, n) in &other.0 {
            *self.0.entry(name.clone()).or_default() += n;
        }
    }

    /// What came on top since `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        let came = |(name, n): (&String, &u64)| {
            (name.clone(), n.saturating_sub(earlier.get(name).unwrap_or_default()))
        };
        Self(self.0.iter().map(came).collect())
    }
}

/// State of the patched kernel's lock at the moment of a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestLock {
    /// The gate: `false` = the kernel holds all four events back; `None` = it has no gate.
    pub events: Option<bool>,
    /// How long deferral kept interrupts off since observation began, all CPUs together, as the kernel names its
    /// buckets; `None` = it does not say.
    pub irqs_off: Option<LockStats>,
}
