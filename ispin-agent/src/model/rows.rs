//! Totals per lock and per caller.

use ispin_common::table::Row;
use serde::{Deserialize, Serialize};

/// Name of the row of all that have no row of their own.
pub const OTHERS: &str = "all others";

/// Totals of one lock or caller.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableRow {
    /// Its name, or its address where there is none.
    pub name: String,
    /// Address, or number in the threads world; 0 = all that have no row of their own.
    pub key: u64,
    /// Of a lock: who last met a queue at it; if nobody did, who took it first. Empty if not known.
    #[serde(default)]
    pub caller: String,
    /// Acquires.
    pub acquires: u64,
    /// Acquires that met a queue.
    pub contended: u64,
    /// Refused tickets.
    pub deferrals: u64,
    /// From take to acquire.
    pub wait_cycles: u64,
    /// From take to acquire, on the pCPU.
    pub spin_cycles: u64,
    /// From acquire to release.
    pub hold_cycles: u64,
    /// Lock holder preemptions.
    pub lhp: u64,
    /// Lock waiter preemptions.
    pub lwp: u64,
    /// Harmful ones of them.
    pub lwp_harmful: u64,
    /// How long the lock stood free because of them.
    pub idle_cycles: u64,
}

impl TableRow {
    /// The totals in `row`, whose key is called `name`.
    pub fn new(name: String, row: &Row) -> Self {
        Self {
            name,
            key: row.key,
            caller: String::new(),
            acquires: row.acquires,
            contended: row.contended,
            deferrals: row.deferrals,
            wait_cycles: row.wait_cycles,
            spin_cycles: row.spin_cycles,
            hold_cycles: row.hold_cycles,
            lhp: row.lhp,
            lwp: row.lwp,
            lwp_harmful: row.lwp_harmful,
            idle_cycles: row.idle_cycles,
        }
    }
}
