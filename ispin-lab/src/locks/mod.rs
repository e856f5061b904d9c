//! The lock library: one file per algorithm behind one trait.
//!
//! Adding an algorithm is one file with an `ALGORITHM` and one line in [`ALGORITHMS`].

mod hvm;
mod pv;
mod queue;
mod ticket;

pub use queue::TicketQueue;

use crate::vcpu::Vcpu;

/// A spinlock that vCPU threads of one VM share.
pub trait Lock: Send + Sync {
    /// Acquires the lock for `me`; `caller` is the number of the call site.
    fn lock(&self, me: &mut Vcpu, caller: u64);

    /// Acquires the lock if that needs no wait. Never defers.
    fn try_lock(&self, me: &mut Vcpu, caller: u64) -> bool;

    /// Releases the lock, which `me` holds.
    fn unlock(&self, me: &mut Vcpu, caller: u64);
}

/// An algorithm by name.
pub struct Algorithm {
    /// Name on the command line, in CSV and on screen.
    pub name: &'static str,
    /// Name in the paper (Table 2).
    pub paper: &'static str,
    /// What it does, in one line.
    pub about: &'static str,
    /// Makes lock number `id` of a VM.
    pub make: fn(id: u32) -> Box<dyn Lock>,
}

/// All algorithms.
pub static ALGORITHMS: &[&Algorithm] = &[&ticket::ALGORITHM, &hvm::ALGORITHM, &pv::ALGORITHM];

/// The algorithm called `name`.
pub fn by_name(name: &str) -> Option<&'static Algorithm> {
    ALGORITHMS.iter().copied().find(|a| a.name == name)
}

/// The names, for help and errors.
pub fn names() -> Vec<&'static str> {
    ALGORITHMS.iter().map(|a| a.name).collect()
}
