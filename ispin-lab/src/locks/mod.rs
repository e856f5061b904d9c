//! The lock library: one file per algorithm behind one trait.
//!
//! Adding an algorithm is one file with an `ALGORITHM` and one line in [`ALGORITHMS`] (docs/development.md).
//!
//! | module | concept |
//! |---|---|
//! | [`passage`] | what every lock tells about a passage through it |
//! | `line` | cache lines of one's own |
//! | `off_cpu` | how long a vCPU was off its pCPU |
//! | `queue` | the FIFO of the plain and the informed ticket locks |
//! | `members` | a FIFO that knows who is in it |
//! | `parking` | sleeping until the turn is near, and waking |

mod atomics {
    //! The atomics of [`super::members`]; its models have their own.
    pub use std::sync::atomic::{AtomicU32, Ordering};
}
mod hvm;
mod ispin_plus;
mod line;
pub mod members;
mod off_cpu;
mod oticket;
mod parking;
pub mod passage;
mod pts;
mod pv;
mod pvticket;
mod queue;
mod ticket;
mod unfair;

use clap::Args;
use serde::{Deserialize, Serialize};

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
    /// Whether threads get the lock in the order in which they came.
    pub fifo: bool,
    /// Whether it asks when the quantum ends, and defers.
    pub informed: bool,
    /// Critical section duration estimate unless another is told, ns.
    pub csd_ns: u64,
    /// Makes lock number `id` of a VM.
    pub make: fn(id: u32, parameters: &Parameters) -> Box<dyn Lock>,
}

/// Critical section duration estimate of the paper's locks in the threads world, ns. Far above the 10 us that the
/// benchmark holds its lock, because it has to cover how long a holder can be away without notice (`ispin-lab noise`;
/// docs/results.md, "csd").
pub const CSD_NS: u64 = 1 << 20;

/// All algorithms.
pub static ALGORITHMS: &[&Algorithm] = &[
    &ticket::ALGORITHM,
    &hvm::ALGORITHM,
    &pv::ALGORITHM,
    &pts::ALGORITHM,
    &pvticket::ALGORITHM,
    &oticket::ALGORITHM,
    &unfair::ALGORITHM,
    &ispin_plus::ALGORITHM,
];

/// What the algorithms can be told.
#[derive(Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Parameters {
    /// `pts`: turns of a loop around PAUSE that a waiter waits for each ticket before its own (Ouyang and Lange, v1)
    #[arg(long, value_name = "TURNS", default_value_t = 1 << 14)]
    pub pts_timeout: u32,
    /// `pvticket`, `oticket`: turns of a loop around PAUSE before a waiter sleeps (Linux 3.13, SPIN_THRESHOLD)
    #[arg(long, value_name = "TURNS", default_value_t = 1 << 15)]
    pub spin_threshold: u32,
    /// `oticket`: so many waiters behind the holder are near, which spin before they sleep. No figure is public: an assumption
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub oticket_near: u32,
    /// `oticket`: turns before a waiter that is not near sleeps. No figure is public: an assumption
    #[arg(long, value_name = "TURNS", default_value_t = 1 << 8)]
    pub oticket_far_turns: u32,
    /// `ispin+`: how long a thread is refused at most before it takes a ticket all the same, ms; 16 times as long while somebody
    /// in the queue is off its pCPU
    #[arg(long, value_name = "MS", default_value_t = 250)]
    pub max_defer_ms: u32,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            pts_timeout: 1 << 14,
            spin_threshold: 1 << 15,
            oticket_near: 2,
            oticket_far_turns: 1 << 8,
            max_defer_ms: 250,
        }
    }
}

impl Parameters {
    /// Those that are not the default, as on a command line.
    pub fn flags(&self) -> String {
        let map = |parameters: &Self| match serde_json::to_value(parameters) {
            Ok(serde_json::Value::Object(map)) => map,
            _ => serde_json::Map::new(),
        };
        let usual = map(&Self::default());
        let other = map(self).into_iter().filter(|(name, value)| usual.get(name) != Some(value));
        let flags: Vec<String> =
            other.map(|(name, value)| format!("--{} {value}", name.replace('_', "-"))).collect();
        flags.join(" ")
    }
}

/// The algorithm called `name`.
pub fn by_name(name: &str) -> Option<&'static Algorithm> {
    ALGORITHMS.iter().copied().find(|a| a.name == name)
}

/// Locks some of whose parameters are assumptions, because no figure of theirs is public.
const ASSUMED: [&str; 1] = ["oticket"];

/// What a lock is called in tables and pictures: its name, with a mark where its figures rest on an assumption. What follows a
/// comma, such as who observed it, stays. CSV files have the bare name.
pub fn label(name: &str) -> String {
    let (lock, rest) = name.split_at(name.find(',').unwrap_or(name.len()));
    if ASSUMED.contains(&lock) { format!("{lock} (assumed){rest}") } else { name.to_owned() }
}

/// A value of something that varies, as tables and pictures show it: locks by their [`label`].
pub fn label_of(varied: &str, value: &str) -> String {
    if varied == "lock" { label(value) } else { value.to_owned() }
}

/// The names, for help and errors.
pub fn names() -> Vec<&'static str> {
    ALGORITHMS.iter().map(|a| a.name).collect()
}
