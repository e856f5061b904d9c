//! Joins what the lock library says of an episode with what the kernel saw at `sched_switch`.
//!
//! The library compares ids at take, acquire and release; the kernel reads the phase word of a thread that
//! leaves its CPU. Both name the episode by vCPU row and number. They must agree, but for switches that fall
//! between two phases: there the library may have read its ids already or not yet. These are the named
//! windows; whatever falls in none is unexplained, and a defect.

use std::collections::HashMap;

use ispin_common::incident::{Incident, PspKind, SwitchIncident};
use ispin_common::threads::{Phase, Word};

use crate::model::CrossCheck;

/// Row and number of an episode.
pub type EpisodeKey = (u32, u32);

#[derive(Default)]
struct Episode {
    lhp: bool,
    lwp: bool,
    switches: Vec<SwitchIncident>,
}

/// Episodes that are not judged yet, and the judgement so far.
#[derive(Default)]
pub struct CrossChecker {
    open: HashMap<EpisodeKey, Episode>,
    counts: CrossCheck,
}

impl CrossChecker {
    /// Adds a library incident.
    pub fn add_incident(&mut self, row: u32, incident: &Incident) {
        let episode = self.open.entry((row, incident.seq)).or_default();
        if incident.kind == PspKind::Lhp as u8 {
            episode.lhp = true;
        } else {
            episode.lwp = true;
        }
    }

    /// Adds a switch.
    pub fn add_switch(&mut self, switch: &SwitchIncident) {
        let key = (switch.row, Word(switch.word).seq());
        self.open.entry(key).or_default().switches.push(*switch);
    }

    /// The switch that caused a library incident, the latest one in a fitting phase.
    pub fn cause_of(&self, row: u32, incident: &Incident) -> Option<SwitchIncident> {
        let fits: &[Phase] = if incident.kind == PspKind::Lhp as u8 {
            &[Phase::Holding, Phase::Acquiring, Phase::Releasing]
        } else {
            &[Phase::Waiting, Phase::Acquiring, Phase::Taking]
        };
        let episode = self.open.get(&(row, incident.seq))?;
        let of_phase = |phase: &Phase| {
            episode.switches.iter().rev().find(|s| Word(s.word).phase() == Some(*phase)).copied()
        };
        fits.iter().find_map(of_phase)
    }

    /// Judges every episode that is over: those with a number below `current` of their row, or all of them at
    /// the end. `attached_at` gives the episode that was current when observation began, and `lost` says
    /// whether any record may have been dropped.
    pub fn judge(&mut self, over: impl Fn(EpisodeKey) -> bool, attached_at: impl Fn(u32) -> u32, lost: bool) {
        let keys: Vec<EpisodeKey> = self.open.keys().copied().filter(|&key| over(key)).collect();
        for key in keys {
            if let Some(episode) = self.open.remove(&key) {
                let excuse = if key.1 <= attached_at(key.0) {
                    Excuse::Attach
                } else if lost {
                    Excuse::Dropped
                } else {
                    Excuse::None
                };
                episode.judge(&mut self.counts, excuse);
            }
        }
        self.counts.pending = self.open.len() as u64;
    }

    /// The judgement so far.
    pub fn counts(&self) -> CrossCheck {
        self.counts
    }
}

#[derive(Clone, Copy)]
enum Excuse {
    None,
    Attach,
    Dropped,
}

impl Episode {
    fn judge(&self, counts: &mut CrossCheck, excuse: Excuse) {
        let (mut lwp_left, mut lhp_left) = (self.lwp, self.lhp);
        // Certain phases first, so that they claim the library's incidents before the windows do.
        for switch in &self.switches {
            match Word(switch.word).phase() {
                Some(Phase::Waiting) if lwp_left => {
                    lwp_left = false;
                    counts.agreed += 1;
                }
                Some(Phase::Holding) if lhp_left => {
                    lhp_left = false;
                    counts.agreed += 1;
                }
                Some(Phase::Taking | Phase::Acquiring | Phase::Releasing) => {}
                _ => unexplained(counts, excuse),
            }
        }
        for switch in &self.switches {
            match Word(switch.word).phase() {
                Some(Phase::Taking) => {
                    lwp_left = false;
                    counts.window_taking += 1;
                }
                Some(Phase::Acquiring) => {
                    if lwp_left {
                        lwp_left = false;
                    } else {
                        lhp_left = false;
                    }
                    counts.window_acquiring += 1;
                }
                Some(Phase::Releasing) => {
                    lhp_left = false;
                    counts.window_releasing += 1;
                }
                _ => {}
            }
        }
        for _ in 0..u32::from(lwp_left) + u32::from(lhp_left) {
            unexplained(counts, excuse);
        }
    }
}

fn unexplained(counts: &mut CrossCheck, excuse: Excuse) {
    match excuse {
        Excuse::None => counts.unexplained += 1,
        Excuse::Attach => counts.window_attach += 1,
        Excuse::Dropped => counts.window_dropped += 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn incident(kind: PspKind, seq: u32) -> Incident {
        Incident { kind: kind as u8, seq, ..Incident::default() }
    }

    fn switch(phase: Phase, seq: u32) -> SwitchIncident {
        SwitchIncident { word: Word::new(phase, 0, 0, seq).0, ..SwitchIncident::default() }
    }

    fn judged(
        incidents: &[Incident],
        switches: &[SwitchIncident],
        attached_at: u32,
        lost: bool,
    ) -> CrossCheck {
        let mut checker = CrossChecker::default();
        incidents.iter().for_each(|i| checker.add_incident(0, i));
        switches.iter().for_each(|s| checker.add_switch(s));
        checker.judge(|_| true, |_| attached_at, lost);
        checker.counts()
    }

    #[test]
    fn certain_phases_agree_with_their_kind_only() {
        let lwp = incident(PspKind::Lwp, 1);
        let lhp = incident(PspKind::Lhp, 1);
        let both = judged(&[lwp, lhp], &[switch(Phase::Waiting, 1), switch(Phase::Holding, 1)], 0, false);
        assert_eq!(both, CrossCheck { agreed: 2, ..CrossCheck::default() });
        let crossed = judged(&[lwp], &[switch(Phase::Holding, 1)], 0, false);
        assert_eq!(crossed, CrossCheck { unexplained: 2, ..CrossCheck::default() });
        assert_eq!(judged(&[lwp], &[], 0, false).unexplained, 1);
        assert_eq!(judged(&[], &[switch(Phase::Waiting, 1)], 0, false).unexplained, 1);
        assert_eq!(judged(&[lwp], &[switch(Phase::Waiting, 2)], 0, false).unexplained, 2);
    }

    #[test]
    fn windows_explain_with_and_without_a_library_incident() {
        for (phase, kind) in [
            (Phase::Taking, PspKind::Lwp),
            (Phase::Acquiring, PspKind::Lwp),
            (Phase::Acquiring, PspKind::Lhp),
            (Phase::Releasing, PspKind::Lhp),
        ] {
            for incidents in [vec![], vec![incident(kind, 1)]] {
                let c = judged(&incidents, &[switch(phase, 1)], 0, false);
                assert_eq!(c.unexplained, 0, "{phase:?} {kind:?}");
                assert_eq!(c.window_taking + c.window_acquiring + c.window_releasing, 1);
            }
        }
        // A window does not take what a certain phase claims.
        let c = judged(
            &[incident(PspKind::Lwp, 1)],
            &[switch(Phase::Taking, 1), switch(Phase::Waiting, 1)],
            0,
            false,
        );
        assert_eq!((c.agreed, c.window_taking, c.unexplained), (1, 1, 0));
        // The wrong kind is not explained by a window.
        assert_eq!(
            judged(&[incident(PspKind::Lhp, 1)], &[switch(Phase::Taking, 1)], 0, false).unexplained,
            1
        );
    }

    #[test]
    fn excuses_have_names() {
        assert_eq!(judged(&[incident(PspKind::Lwp, 3)], &[], 3, false).window_attach, 1);
        assert_eq!(judged(&[incident(PspKind::Lwp, 3)], &[], 0, true).window_dropped, 1);
    }

    #[test]
    fn what_is_not_over_stays_pending() {
        let mut checker = CrossChecker::default();
        checker.add_incident(0, &incident(PspKind::Lwp, 7));
        checker.judge(|(_, seq)| seq < 7, |_| 0, false);
        assert_eq!(checker.counts(), CrossCheck { pending: 1, ..CrossCheck::default() });
    }
}
