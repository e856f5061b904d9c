//! The guest in user space: the classifier and tables of `ispin-common`, joined as the guest programs join
//! them, but written apart from them.

use std::collections::{BTreeMap, HashMap};

use ispin_common::event::{Event, EventKind};
use ispin_common::guest::{GuestLane, GuestRing, NR_RELEASES};
use ispin_common::incident::Incident;
use ispin_common::table::{LastRelease, OTHERS, Row, release_place};

use super::{Lane, World};

struct Cell {
    lane: Lane,
    ring: Box<GuestRing>,
    /// Where the rows of held locks are, by lock.
    held: HashMap<u64, (u32, u32)>,
}

impl Cell {
    fn new(vcpu: u32, level: u32) -> Self {
        // SAFETY: all zeroes is an empty ring.
        let ring = unsafe { Box::<GuestRing>::new_zeroed().assume_init() };
        let counts = Box::<GuestLane>::default();
        Self { lane: Lane { vcpu, level, counts }, ring, held: HashMap::new() }
    }
}

/// See the module.
pub struct UserWorld {
    enabled: bool,
    csd: u64,
    cells: BTreeMap<(u32, u32), Cell>,
    releases: Vec<LastRelease>,
}

impl UserWorld {
    pub fn new() -> Self {
        let releases = vec![LastRelease(0); NR_RELEASES as usize];
        Self { enabled: false, csd: 0, cells: BTreeMap::new(), releases }
    }
}

impl World for UserWorld {
    fn enable(&mut self, enabled: bool) {
        self.enabled = enabled;
    }

    fn set_csd(&mut self, csd: u64) {
        self.csd = csd;
    }

    fn feed(&mut self, event: &Event, vcpu: u32) {
        if !self.enabled {
            return;
        }
        let release = &mut self.releases[release_place(event.lock, NR_RELEASES) as usize];
        let known = match event.kind {
            EventKind::Acquire => release.before(event.lock, event.ticket, event.tsc),
            EventKind::Release => {
                *release = LastRelease::new(event.lock, event.ticket, event.tsc);
                None
            }
            EventKind::Take | EventKind::Incapable => None,
        };
        let level = event.ctx.level();
        let cell = self.cells.entry((level, vcpu)).or_insert_with(|| Cell::new(vcpu, level));
        let counts = &mut *cell.lane.counts;
        counts.classifier.csd = self.csd;
        if event.ids.slice_id() != 0 && event.ids != counts.last_ids {
            if counts.first_ids.slice_id() == 0 {
                counts.first_ids = event.ids;
            }
            (counts.last_ids, counts.last_tsc) = (event.ids, event.tsc);
        }
        let outcome = counts.classifier.on_event(event, known);
        if let Some(incident) = outcome.incident {
            let incident = Incident { vcpu, ..incident };
            // SAFETY: a live ring, used by this thread alone.
            if !unsafe { GuestRing::push(&raw mut *cell.ring, &incident) } {
                counts.classifier.counters.dropped += 1;
            }
        }
        let places = match event.kind {
            EventKind::Take if event.lql == 0 => return,
            EventKind::Release => match outcome.hold.and_then(|_| cell.held.remove(&event.lock)) {
                Some(places) => places,
                None => return,
            },
            _ => {
                let evicted = (counts.locks.evicted, counts.callers.evicted);
                let places = (counts.locks.place(event.lock), counts.callers.place(outcome.ip));
                // Whose row had to go is not found there any more.
                for held in cell.held.values_mut() {
                    if counts.locks.evicted != evicted.0 && held.0 == places.0 {
                        held.0 = OTHERS;
                    }
                    if counts.callers.evicted != evicted.1 && held.1 == places.1 {
                        held.1 = OTHERS;
                    }
                }
                places
            }
        };
        if event.kind == EventKind::Acquire && outcome.wait.is_some() {
            cell.held.insert(event.lock, places);
        }
        // To the row of all others everything is a stranger.
        let row = |key, row: &mut Row| match row.key {
            0 => row.add(&Event { lock: key, ..*event }, &outcome),
            _ => row.add(event, &outcome),
        };
        row(0, &mut counts.locks.rows[places.0 as usize]);
        row(event.lock, &mut counts.callers.rows[places.1 as usize]);
    }

    fn lanes(&self) -> Vec<Lane> {
        self.cells.values().map(|cell| cell.lane.clone()).collect()
    }

    fn take_incidents(&mut self) -> Vec<Incident> {
        let mut incidents = vec![];
        for (_, cell) in self.cells.iter_mut() {
            // SAFETY: a live ring, used by this thread alone.
            while let Some(incident) = unsafe { GuestRing::pop(&raw mut *cell.ring) } {
                incidents.push(incident);
            }
        }
        // In the order of the kernel's rings, where times are equal.
        incidents.sort_by_key(|incident| (incident.to_tsc, incident.vcpu, incident.level));
        incidents
    }
}
