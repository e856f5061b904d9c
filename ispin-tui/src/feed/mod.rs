//! Where the dashboard's snapshots come from.
//!
//! | module | concept |
//! |---|---|
//! | [`local`] | a source in this process |
//! | [`socket`] | JSON Lines from an agent's unix socket |
//! | [`file`](mod@file) | JSON Lines from a file |

pub mod file;
pub mod local;
pub mod socket;

use std::os::fd::BorrowedFd;

use ispin_agent::model::Snapshot;

/// News from a feed.
#[derive(Clone, Debug)]
pub enum Update {
    /// The next snapshot.
    Snapshot(Box<Snapshot>),
    /// No snapshot yet, and why; the feed goes on trying.
    Waiting(String),
    /// The connection broke, and why; the feed goes on trying.
    Lost(String),
    /// The source failed, and how; nothing more will come.
    Failed(String),
    /// The source has ended; nothing more will come.
    Finished,
}

/// When a feed wants to be polled.
#[derive(Clone, Copy, Debug)]
pub enum Pace<'a> {
    /// At planned moments, an interval apart, and the program must not wake at any other: it may run above the
    /// observed vCPUs, and every wake-up of its own takes a pCPU away from one. Each moment is agreed upon by
    /// [`Feed::plan`] before it comes.
    Planned,
    /// When this can be read.
    Readable(BorrowedFd<'a>),
    /// At this moment, `CLOCK_MONOTONIC` ns.
    At(u64),
    /// Not any more.
    Over,
}

/// Something that yields snapshots.
pub trait Feed {
    /// What it is, for the screen.
    fn name(&self) -> String;

    /// When it wants to be polled.
    fn pace(&self) -> Pace<'_>;

    /// Whether snapshots come when somebody else decides, and maybe oftener than they are to be shown.
    fn sets_the_pace(&self) -> bool {
        false
    }

    /// The program would wake next at `wanted_ns`, `CLOCK_MONOTONIC`; it will wake at the moment that is returned,
    /// which is not earlier. Called only with [`Pace::Planned`].
    fn plan(&mut self, wanted_ns: u64) -> u64 {
        wanted_ns
    }

    /// The sample that follows was planned for a moment more than half an interval ago. Called only with
    /// [`Pace::Planned`].
    fn came_late(&mut self) {}

    /// The news since the last call, oldest first; never waits.
    fn poll(&mut self, now_ns: u64) -> Vec<Update>;
}
