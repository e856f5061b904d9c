//! The threads world: attaches to a running `ispin-lab threads` and reads the memory that it shares.

mod attached;
mod records;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};

use self::attached::Attached;
use super::{OpenOptions, Source};
use crate::clock::now_ns as monotonic_ns;
use crate::convoy::Convoys;
use crate::model::{Snapshot, Source as SourceInfo};
use crate::session::{self, ProcessId, Session};

/// How long a look for a session waits before the next.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// How long a sample waits for the next world of the same process.
const WORLD_PATIENCE: Duration = Duration::from_millis(500);

/// Follows the worlds of one `ispin-lab threads` process, one after the other.
pub struct ThreadsSource {
    owner: ProcessId,
    world: Option<Attached>,
    /// Number of the latest world that was attached to.
    number: u32,
    convoys: Convoys,
    seq: u64,
}

impl ThreadsSource {
    /// Waits for a world of `options.command`, or of any process if there is none, and attaches to it.
    pub fn open(options: OpenOptions) -> Result<Self> {
        let give_up = monotonic_ns() + options.timeout.as_nanos() as u64;
        loop {
            let (sessions, errors) = session::list();
            let ours = |s: &&Session| {
                s.owner.alive() && options.command.is_none_or(|c| descends_from(s.owner.pid, c))
            };
            if let Some(session) = sessions.iter().filter(ours).find(|s| s.world.is_some()) {
                let mut source = Self {
                    owner: session.owner,
                    world: None,
                    number: 0,
                    convoys: Convoys::default(),
                    seq: 0,
                };
                source.follow(session)?;
                if source.world.is_some() {
                    return Ok(source);
                }
            }
            (options.keep_waiting)()?;
            if monotonic_ns() > give_up {
                if let Some(error) = errors.into_iter().next() {
                    return Err(error);
                }
                bail!(
                    "no threads world appeared within {:?}: start one with `ispin-lab threads`, or give it as COMMAND \
                     (`ispin-agent run -- ispin-lab threads --lock ticket`)",
                    options.timeout
                );
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Looks for the next world, for a while.
    fn wait_for_world(&mut self) -> Result<()> {
        let give_up = monotonic_ns() + WORLD_PATIENCE.as_nanos() as u64;
        while self.world.is_none() && self.owner.alive() {
            match Session::read(&Session::path_of(self.owner.pid)) {
                Ok(session) => self.follow(&session)?,
                // Its owner removes it on the way out, a moment before it ends.
                Err(error) if !self.owner.alive() || is_missing(&error) => {}
                Err(error) => return Err(error),
            }
            if monotonic_ns() > give_up {
                break;
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }

    /// Attaches to the session's world if it is a new one.
    fn follow(&mut self, session: &Session) -> Result<()> {
        if let Some(world) = session.world.as_ref().filter(|_| session.number > self.number) {
            match Attached::new(world) {
                Ok(attached) => {
                    self.world = Some(attached);
                    self.convoys = Convoys::default();
                    self.number = session.number;
                }
                // It may have ended between the reading of the file and the opening of its maps.
                Err(error) if !still_announced(session) => log::debug!("missed a world: {error:#}"),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn is_missing(error: &anyhow::Error) -> bool {
    let cause = error.root_cause().downcast_ref::<std::io::Error>();
    cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::NotFound)
}

fn still_announced(session: &Session) -> bool {
    Session::read(&Session::path_of(session.owner.pid))
        .is_ok_and(|now| now.owner == session.owner && now.number == session.number && now.world.is_some())
}

fn descends_from(pid: i32, ancestor: u32) -> bool {
    let mut at = pid;
    for _ in 0..64 {
        if at == ancestor as i32 {
            return true;
        }
        match procfs::process::Process::new(at).and_then(|p| p.stat()) {
            Ok(stat) if stat.ppid > 0 => at = stat.ppid,
            _ => return false,
        }
    }
    false
}

impl Source for ThreadsSource {
    fn kind(&self) -> &'static str {
        "threads"
    }

    fn programs(&self) -> Vec<u32> {
        self.world.iter().map(Attached::publisher_id).collect()
    }

    fn align(&mut self, wanted_ns: u64) -> u64 {
        self.world.as_ref().map_or(wanted_ns, |world| world.align(wanted_ns))
    }

    fn sample(&mut self) -> Result<Snapshot> {
        self.seq += 1;
        self.wait_for_world()?;
        let owner_alive = self.owner.alive();
        let mut snapshot = match &mut self.world {
            Some(world) => world.sample(!owner_alive)?,
            None => Snapshot { source: between_worlds(), ..Snapshot::default() },
        };
        if self.world.as_ref().is_some_and(|world| world.over) {
            // Dropping it tells the hypervisor that its maps may go.
            self.world = None;
        }
        snapshot.seq = self.seq;
        snapshot.unix_ms =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        snapshot.finished = !owner_alive;
        self.convoys.update(&mut snapshot);
        Ok(snapshot)
    }
}

fn between_worlds() -> SourceInfo {
    SourceInfo { kind: "threads".into(), time_unit: "ns".into(), ..SourceInfo::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_that_has_removed_its_file_is_on_its_way_out() {
        // This process lives and has no file.
        let owner = crate::session::ProcessId::of(std::process::id() as i32).expect("this process");
        let mut source = ThreadsSource { owner, world: None, number: 0, convoys: Convoys::default(), seq: 0 };
        source.wait_for_world().expect("no error");
        assert!(source.world.is_none());
    }
}
