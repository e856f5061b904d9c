//! The convoy injector: takes the pCPU from a vCPU that holds a lock, at a moment that nothing announced, gives it back, and
//! watches how long the lock needs until no quantum ends in a problematic preemption any more.

use std::ptr::{addr_of, addr_of_mut, read_volatile};

use anyhow::{Result, anyhow};
use ispin_agent::bpf::publisher::PublisherMaps;
use ispin_common::ring::Ring;
use ispin_common::threads::{Phase, Word};

use super::host_windows::HostWindows;
use super::scheduling::{Policy, VCPU_PRIORITY, is_gone, set_policy_of};
use crate::healing::{Healing, Psp, Watch};

/// How long the injector waits before it looks for a holder again, ns.
const LOOK_AGAIN: u64 = 50_000;
/// Priority of a holder that is kept off its pCPU: below all vCPUs, of which there are always some, but a real-time one. As a normal
/// thread it can come before them: the scheduler lets normal threads that got nothing for a second run for up to 50 ms
/// (the fair server, Linux `kernel/sched/deadline.c`).
const AWAY_PRIORITY: i32 = VCPU_PRIORITY - 1;
/// Least distance to a host window, in quanta: within it nothing is injected.
const CLEAR_OF_WINDOW: u64 = 2;

/// What is asked of an injector.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// Quanta from the return of a holder to the next injection.
    pub every: u32,
    /// Take nothing from anybody, but observe as if: how long a lock seems to need that nothing was done to.
    pub sham: bool,
}

/// A vCPU thread that may be chosen.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its thread.
    pub tid: u32,
    /// Its row.
    pub row: u32,
    /// Its pCPU.
    pub cpu: usize,
    /// Incidents that its ring has dropped so far.
    pub dropped: u64,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Looks for a holder from this moment on.
    Looking(u64),
    /// The holder in `Target` is off its pCPU until this moment.
    Away(Target, u64),
    /// It came back at the first moment; what came of it is looked at once, at the second: a look takes the pCPU from a vCPU.
    Watching(u64, u64),
}

/// Injects again and again while a run lasts.
pub struct Injector {
    targets: Vec<Target>,
    quantum: u64,
    /// From the return of a holder to the next injection.
    every: u64,
    /// Quanta that have to be quiet.
    quiet: u64,
    /// Nothing is taken: what is observed goes on without an injection.
    sham: bool,
    state: State,
    /// Operations at the injection.
    begun: u64,
    /// What has been observed so far.
    pub healings: Vec<Healing>,
}

impl Injector {
    /// One that injects as asked, in quanta of `quantum` ns, beginning so many after `begin`, from one of `targets`; a lock has healed
    /// when `quiet` quanta are.
    pub fn new(asked: Asked, quantum: u64, quiet: u64, begin: u64, targets: Vec<Target>) -> Self {
        let every = quantum * u64::from(asked.every);
        Self {
            targets,
            quantum,
            every,
            quiet,
            sham: asked.sham,
            state: State::Looking(begin + every),
            begun: 0,
            healings: vec![],
        }
    }

    /// When [`Self::step`] has something to do next.
    pub fn next(&self) -> u64 {
        match self.state {
            State::Looking(at) | State::Away(_, at) | State::Watching(_, at) => at,
        }
    }

    /// Does what is due at `now`.
    pub fn step(&mut self, now: u64, maps: &PublisherMaps, window: &HostWindows) -> Result<()> {
        if now < self.next() {
            return Ok(());
        }
        match self.state {
            State::Looking(_) => {
                let soon = window.next.saturating_sub(now) < CLEAR_OF_WINDOW * self.quantum;
                self.state = match self.holder_here(maps)? {
                    Some(holder) if window.next == 0 || !soon => {
                        self.begun = self.operations(maps)?;
                        self.incidents(maps)?;
                        if !self.sham {
                            set_policy_of(holder.tid, Policy::RoundRobin, AWAY_PRIORITY)?;
                        }
                        State::Away(holder, now + self.quantum)
                    }
                    _ => State::Looking(now + LOOK_AGAIN),
                };
            }
            State::Away(holder, _) => {
                if !self.sham {
                    set_policy_of(holder.tid, Policy::RoundRobin, VCPU_PRIORITY)?;
                }
                self.state = State::Watching(now, now + self.every);
            }
            State::Watching(back, _) => {
                let (psp, dropped) = self.incidents(maps)?;
                let watched = (now - back) / self.quantum;
                let watch = Watch { back, quantum: self.quantum, watched, quiet: self.quiet };
                let acquisitions = self.operations(maps)? - self.begun;
                self.healings.push(Healing::of(watch, psp, dropped, acquisitions));
                self.state = State::Looking(now);
            }
        }
        Ok(())
    }

    /// Gives back what was taken, when the run ends before its time. Nothing is due any more.
    pub fn give_up(&mut self) -> Result<()> {
        let state = std::mem::replace(&mut self.state, State::Looking(u64::MAX));
        match state {
            State::Away(holder, _) if !self.sham => {
                match set_policy_of(holder.tid, Policy::RoundRobin, VCPU_PRIORITY) {
                    // It has come to its end without.
                    Err(error) if is_gone(&error) => Ok(()),
                    other => other,
                }
            }
            _ => Ok(()),
        }
    }

    /// A vCPU that holds a lock and that this very thread keeps from its pCPU at the moment: it cannot release meanwhile.
    fn holder_here(&self, maps: &PublisherMaps) -> Result<Option<Target>> {
        let here = rustix::thread::sched_getcpu();
        for target in self.targets.iter().filter(|target| target.cpu == here) {
            let row = maps.rows.get(target.row as usize).ok_or_else(|| anyhow!("no row {}", target.row))?;
            // SAFETY: mapped; one aligned word.
            let word = Word(unsafe { read_volatile(addr_of!((*row).word)) });
            if word.phase() == Some(Phase::Holding) {
                return Ok(Some(*target));
            }
        }
        Ok(None)
    }

    fn operations(&self, maps: &PublisherMaps) -> Result<u64> {
        let mut sum = 0;
        for target in &self.targets {
            let row = maps.rows.get(target.row as usize).ok_or_else(|| anyhow!("no row {}", target.row))?;
            // SAFETY: mapped; an aligned word that its thread writes.
            sum += unsafe { read_volatile(addr_of!((*row).operations)) };
        }
        Ok(sum)
    }

    /// The problematic preemptions since the last call, and how many more there were.
    fn incidents(&mut self, maps: &PublisherMaps) -> Result<(Vec<Psp>, u64)> {
        let (mut psp, mut dropped) = (vec![], 0);
        for target in &mut self.targets {
            let row = maps.rows.get(target.row as usize).ok_or_else(|| anyhow!("no row {}", target.row))?;
            // SAFETY: mapped; without an agent, which an injected run does not wait for, this is the one consumer.
            unsafe {
                while let Some(incident) = Ring::pop(addr_of_mut!((*row).incidents)) {
                    psp.push(Psp {
                        kind: incident.kind_name().to_owned(),
                        reason: incident.reason().map_or_else(String::new, |reason| reason.name().to_owned()),
                        from: incident.from_tsc,
                        to: incident.to_tsc,
                    });
                }
                let so_far = Ring::dropped(addr_of!((*row).incidents));
                dropped += so_far - target.dropped;
                target.dropped = so_far;
            }
        }
        Ok((psp, dropped))
    }
}
