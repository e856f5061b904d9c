//! The VM lab: boots a guest kernel under QEMU, runs a load in it, and relays what the agent in the guest sees.
//!
//! | module | concept |
//! |---|---|
//! | [`options`] | what one run is, on the command line |
//! | `checkout`, `cache`, `packages` | where the sources are, where what is built is kept, what must be installed |
//! | `steps`, `progress` | running a builder, and the one line that tells how far it is |
//! | `built` | what every guest of a run is made of |
//! | `kernel`, `programs` | the guest's kernel and its static programs, built |
//! | [`image`], `libraries` | the initramfs, and the libraries of the programs in it |
//! | [`init`] | the script that is the guest's first process |
//! | [`accel`] | whether KVM really runs a guest here |
//! | [`qemu`] | QEMU's command line |
//! | `ports` | the host's ends of the guest's ports |
//! | [`console`] | what went wrong, read from the kernel's console |
//! | `report` | what the init script tells the host |
//! | `guest` | one guest, as the host hears it |
//! | `gaps` | whether the host let the machine run |
//! | `merge` | the snapshots of several guests, made one stream |
//! | `run` | a whole run, from building to the closing table |
//! | `boot` | what one boot is to do, and what came of it |
//! | `relay` | one boot, from QEMU's start to its end: snapshots to sinks, faults to errors |
//! | `trace_file` | the file of `--trace` |
//! | `result` | the closing table |
//! | [`xen`] | guests of Xen |
//! | [`rival`] | other observers, to compare costs |

pub mod accel;
mod boot;
mod built;
mod cache;
mod checkout;
pub mod console;
mod gaps;
mod guest;
pub mod image;
pub mod init;
mod kernel;
mod libraries;
pub mod lock;
mod merge;
pub mod options;
mod packages;
mod ports;
mod programs;
mod progress;
pub mod qemu;
mod relay;
mod report;
mod result;
pub mod rival;
mod run;
mod steps;
mod trace_file;
pub mod xen;

pub use boot::Observed;
pub use options::VmOptions;

pub use run::{observe, run};
