//! How a guest of Xen reaches the host: shared pages between the guest and dom0, and a serial port from there on.
//!
//! ```text
//! agent, load -> named pipe -> [guest] ring in granted pages [relay] -> virtio port of dom0 -> host
//! ```
//!
//! The guest copies into memory that dom0 reads: no hypercall, no interrupt and no lock of the guest's kernel belongs
//! to it, so what is measured is not disturbed. dom0 looks at the pages now and then, on a pCPU of its own. A full
//! ring makes the guest's side wait, so nothing is ever lost; both sides count, and the host compares.
//!
//! | module | concept |
//! |---|---|
//! | [`ring`] | the layout of the shared pages |
//! | [`grants`] | memory that one domain lets another one map |
//! | [`xenstore`] | the small store through which the two find each other |
//! | [`guest`] | the guest's side: named pipes into rings |
//! | [`relay`] | dom0's side: rings into serial ports, and the moments at which all loads start and have ended (`together`) |
//! | [`start`], [`finish`] | waiting for those moments |

pub mod finish;
pub mod grants;
pub mod guest;
pub mod relay;
pub mod ring;
pub mod start;
mod together;
pub mod xenstore;

/// Where the guest leaves the grant of its first page, below its own place in the store.
pub const KEY: &str = "data/ispin";
