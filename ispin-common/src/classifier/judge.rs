//! What an episode that ended in another quantum is told as: kind, flags, what it cost, and why (rules 2 to 4).

use super::{Classifier, DEFERRED, Episode, elapsed, other_quantum};
use crate::event::{Ctx, Report};
use crate::incident::{Incident, PspKind};
use crate::reason::Passage;

impl Classifier {
    /// Counts and tells the LWP of the episode at `index`, which `acquire` ended the wait of. `last_release` is when
    /// its lock was last released by anybody, if known.
    pub fn judge_wait(&mut self, index: usize, acquire: &impl Report, last_release: Option<u64>) -> Incident {
        let Some(episode) = self.episodes.get(index) else { return Incident::default() };
        let counters = &mut self.counters;
        let mut flags = 0;
        let mut idle = 0;
        counters.lwp += 1;
        if !episode.take_ids.same_dispatch(acquire.ids()) {
            flags |= Incident::PREEMPTED;
            counters.lwp_preempted += 1;
            match last_release {
                Some(released) if released < acquire.start() => {
                    flags |= Incident::HARMFUL;
                    counters.lwp_harmful += 1;
                    let since_turn = acquire.start() - released.max(episode.take_tsc).min(acquire.start());
                    idle = since_turn.min(acquire.off());
                    counters.idle_cycles += idle;
                }
                Some(_) => {}
                None => counters.harm_unknown += 1,
            }
        }
        if acquire.ctx().has(Ctx::BLOCKED) {
            flags |= Incident::BLOCKED;
            counters.lwp_blocked += 1;
        }
        let reason = Passage {
            preempted: flags & Incident::PREEMPTED != 0,
            early: acquire.ctx().has(Ctx::EARLY),
            ..passage(PspKind::Lwp, self.csd, episode)
        }
        .reason();
        *counters.of_reason_mut(reason) += 1;
        Incident {
            kind: PspKind::Lwp as u8,
            flags,
            reason: reason as u8,
            from_ids: episode.take_ids,
            from_tsc: episode.take_tsc,
            lost: idle,
            ..incident_of(acquire, episode)
        }
    }

    /// Counts and tells the LHP of the episode that was at `index`, which `release` ended.
    pub fn judge_hold(&mut self, index: usize, release: &impl Report) -> Incident {
        let Some(episode) = self.episodes.get(index) else { return Incident::default() };
        let mut flags = 0;
        // A release tells the latest absence, whenever that was: it was during the hold only if the dispatch differs.
        let mut off = 0;
        self.counters.lhp += 1;
        if !episode.acquire_ids.same_dispatch(release.ids()) {
            flags |= Incident::PREEMPTED;
            off = release.off();
            self.counters.lhp_preempted += 1;
        }
        let once = episode.acquire_ids.next_dispatch().same_dispatch(release.ids());
        let reason = Passage {
            preempted: flags & Incident::PREEMPTED != 0,
            waited_over: other_quantum(episode.take_ids, episode.acquire_ids),
            left: once.then(|| elapsed(release.off(), release.start())),
            ..passage(PspKind::Lhp, self.csd, episode)
        }
        .reason();
        *self.counters.of_reason_mut(reason) += 1;
        Incident {
            kind: PspKind::Lhp as u8,
            flags,
            reason: reason as u8,
            from_ids: episode.acquire_ids,
            from_tsc: episode.acquire_tsc,
            off,
            lost: off.min(elapsed(episode.acquire_tsc, release.tsc())),
            ..incident_of(release, episode)
        }
    }
}

/// What an episode tells of its PSP, whatever its kind.
#[inline(always)]
fn passage(kind: PspKind, csd: u64, episode: &Episode) -> Passage {
    let mark = |mark: u64| u64::from(episode.marks) & mark != 0;
    Passage {
        kind,
        csd,
        preempted: false,
        slotted: episode.take_ids.published(),
        trylock: mark(Ctx::TRYLOCK),
        waited_over: false,
        expired: mark(Ctx::EXPIRED),
        nested: mark(Ctx::NESTED),
        deferred: mark(u64::from(DEFERRED)),
        early: false,
        take_tsc: episode.take_tsc,
        cap: episode.cap,
        lql: episode.lql,
        acquire_tsc: episode.acquire_tsc,
        left: None,
    }
}

#[inline(always)]
fn incident_of(event: &impl Report, episode: &Episode) -> Incident {
    Incident {
        level: event.ctx().level() as u8,
        lock: event.lock(),
        ip: episode.ip,
        to_ids: event.ids(),
        to_tsc: event.tsc(),
        start: event.start(),
        off: event.off(),
        cap: episode.cap,
        take_tsc: episode.take_tsc,
        lql: episode.lql,
        ticket: episode.ticket,
        seq: episode.seq,
        ..Incident::default()
    }
}
