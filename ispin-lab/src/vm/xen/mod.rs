//! Guests of Xen: what boots under QEMU is Xen with a small dom0, which starts the guests and relays what they say.
//!
//! | module | concept |
//! |---|---|
//! | [`options`] | what a run under Xen is, on the command line |
//! | `debs` | dom0's kernel and tools, from Debian's packages |
//! | `vmlinux` | an uncompressed kernel out of a compressed one |
//! | `hypervisor` | Xen itself, built or named, and its command line |
//! | [`xl`] | the guests' configurations |
//! | [`dom0_init`] | the script that is dom0's first process |
//! | `dom0_image` | dom0's initramfs, with the guests' in it |
//! | `dom0` | dom0 as the host hears it |
//! | [`xentrace`] | Xen's own trace of its scheduler |
//! | `truth` | what the agents saw, against that trace |
//! | `run` | a run, put together; several of them |
//! | [`inject`] | preempting a holder on purpose, and what comes of it |
//! | [`experiment`], [`cells`], [`results`], [`matrix`], [`plot`] | experiments as data, what came of a run, the CSV that they accumulate in, their runs, and a picture of them |

pub mod cells;
pub mod debs;
pub mod dom0;
pub mod dom0_image;
pub mod dom0_init;
pub mod experiment;
pub mod hypervisor;
pub mod inject;
pub mod matrix;
pub mod options;
pub mod plot;
pub mod results;
pub mod run;
pub mod truth;
pub mod vmlinux;
pub mod xentrace;
pub mod xl;

/// Name of the port of dom0's init script.
pub const REPORT: &str = "ispin.dom0";
/// Name of the port of Xen's trace.
pub const XENTRACE: &str = "ispin.xentrace";

/// Name of the machine's port that belongs to a guest's own port `channel`.
pub fn guest_port(guest: &str, channel: &str) -> String {
    format!("{guest}.{channel}")
}
