//! The log of incidents, bounded, newest last.

use std::collections::VecDeque;

use ispin_agent::model::IncidentRecord;

/// Incidents kept.
pub const CAPACITY: usize = 1000;

/// An incident and what its run says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// Number since the dashboard began, from 0: names it even after others were pushed out.
    pub id: u64,
    /// `elapsed_ns` of the snapshot that brought it.
    pub elapsed_ns: u64,
    /// Lock algorithm of the run.
    pub run: String,
    /// Unit of its times.
    pub time_unit: String,
    /// The incident.
    pub record: IncidentRecord,
}

/// The newest incidents.
#[derive(Clone, Debug, Default)]
pub struct IncidentLog {
    entries: VecDeque<Logged>,
    next_id: u64,
}

impl IncidentLog {
    /// Adds an incident; the oldest goes if there is no room.
    pub fn push(&mut self, elapsed_ns: u64, run: &str, time_unit: &str, record: IncidentRecord) {
        if self.entries.len() == CAPACITY {
            self.entries.pop_front();
        }
        let (run, time_unit) = (run.to_owned(), time_unit.to_owned());
        self.entries.push_back(Logged { id: self.next_id, elapsed_ns, run, time_unit, record });
        self.next_id += 1;
    }

    /// All that are kept, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Logged> {
        self.entries.iter()
    }

    /// The incident with this number, unless it was pushed out.
    pub fn get(&self, id: u64) -> Option<&Logged> {
        let first = self.entries.front()?.id;
        self.entries.get(usize::try_from(id.checked_sub(first)?).ok()?)
    }

    /// How many came in since the dashboard began.
    pub fn total(&self) -> u64 {
        self.next_id
    }

    /// How many are kept.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_outlive_their_neighbours() {
        let mut log = IncidentLog::default();
        for seq in 0..CAPACITY as u32 + 10 {
            log.push(0, "ticket", "ns", IncidentRecord { seq, ..IncidentRecord::default() });
        }
        assert_eq!(log.len(), CAPACITY);
        assert_eq!(log.total(), CAPACITY as u64 + 10);
        assert_eq!(log.get(9), None);
        assert_eq!(log.get(10).map(|l| l.record.seq), Some(10));
        assert_eq!(log.get(CAPACITY as u64 + 9).map(|l| l.record.seq), Some(CAPACITY as u32 + 9));
        assert_eq!(log.get(CAPACITY as u64 + 10), None);
    }
}
