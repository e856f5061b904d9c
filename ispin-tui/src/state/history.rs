//! The course of the PSP rate over observed time, over several runs.

use std::collections::VecDeque;

/// Points kept: ten minutes at four a second.
const CAPACITY: usize = 2400;

/// What came on top between two snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// Where it ends on the time axis.
    pub end_ns: u64,
    /// How long it lasted; more than zero.
    pub span_ns: u64,
    /// Lock holder preemptions.
    pub lhp: u64,
    /// Lock waiter preemptions.
    pub lwp: u64,
}

/// Where a run began, on the time axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Divider {
    /// When.
    pub at_ns: u64,
    /// Name of its lock.
    pub label: String,
}

/// Points and dividers, oldest first. The time axis is observed time: runs follow each other without a gap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    points: VecDeque<Point>,
    dividers: VecDeque<Divider>,
}

/// One column of the chart.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Column {
    /// LHP per second; `None` = not observed.
    pub lhp: Option<f64>,
    /// LWP per second; `None` = not observed.
    pub lwp: Option<f64>,
    /// The run that began in this column.
    pub begins: Option<String>,
}

impl History {
    /// Where the newest point ends.
    pub fn end_ns(&self) -> u64 {
        self.points.back().map_or(0, |p| p.end_ns)
    }

    /// Adds what came on top in `span_ns` after the newest point.
    pub fn push(&mut self, span_ns: u64, lhp: u64, lwp: u64) {
        if span_ns == 0 {
            return;
        }
        if self.points.len() == CAPACITY {
            self.points.pop_front();
            let oldest = self.points.front().map_or(0, |p| p.end_ns - p.span_ns);
            while self.dividers.get(1).is_some_and(|next| next.at_ns <= oldest) {
                self.dividers.pop_front();
            }
        }
        self.points.push_back(Point { end_ns: self.end_ns() + span_ns, span_ns, lhp, lwp });
    }

    /// A new run begins.
    pub fn divide(&mut self, label: &str) {
        self.dividers.push_back(Divider { at_ns: self.end_ns(), label: label.to_owned() });
    }

    /// The newest `count` columns of `width_ns` each, oldest first. Columns begin at multiples of their width,
    /// so that a bar that is full does not change any more; the last one may be in the making.
    pub fn columns(&self, count: usize, width_ns: u64) -> Vec<Column> {
        let mut columns = vec![Column::default(); count];
        if count == 0 || width_ns == 0 {
            return columns;
        }
        let end = self.end_ns().div_ceil(width_ns);
        // Column i covers [(first + i) * width_ns, (first + i + 1) * width_ns); negative = before the beginning.
        let first = end as i64 - count as i64;
        let place = |at_ns: u64| usize::try_from((at_ns / width_ns) as i64 - first).ok();
        let mut observed = vec![0u64; count];
        for point in self.points.iter().rev() {
            let begin = point.end_ns - point.span_ns;
            if place(point.end_ns - 1).is_none() {
                break;
            }
            for slot in (begin / width_ns)..=((point.end_ns - 1) / width_ns) {
                let Ok(i) = usize::try_from(slot as i64 - first) else { continue };
                let overlap = point.end_ns.min((slot + 1) * width_ns) - begin.max(slot * width_ns);
                let part = overlap as f64 / point.span_ns as f64;
                let Some(column) = columns.get_mut(i) else { continue };
                *column.lhp.get_or_insert(0.0) += point.lhp as f64 * part;
                *column.lwp.get_or_insert(0.0) += point.lwp as f64 * part;
                observed[i] += overlap;
            }
        }
        for (column, observed) in columns.iter_mut().zip(observed) {
            let seconds = observed as f64 / 1e9;
            column.lhp = column.lhp.map(|n| n / seconds);
            column.lwp = column.lwp.map(|n| n / seconds);
        }
        for divider in &self.dividers {
            if let Some(column) = place(divider.at_ns).and_then(|i| columns.get_mut(i)) {
                column.begins = Some(divider.label.clone());
            }
        }
        columns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn counts_are_spread_over_the_columns_that_they_cover() {
        let mut h = History::default();
        h.divide("ticket");
        h.push(SECOND, 4, 0);
        h.push(2 * SECOND, 0, 40);
        let columns = h.columns(4, SECOND);
        assert_eq!(columns[0], Column::default());
        assert_eq!(columns[1], Column { lhp: Some(4.0), lwp: Some(0.0), begins: Some("ticket".into()) });
        assert_eq!(columns[2], Column { lhp: Some(0.0), lwp: Some(20.0), begins: None });
        assert_eq!(columns[3], columns[2]);
    }

    #[test]
    fn a_column_in_the_making_shows_the_rate_so_far() {
        let mut h = History::default();
        h.push(SECOND / 4, 0, 10);
        let columns = h.columns(1, SECOND);
        assert_eq!(columns[0].lwp, Some(40.0));
    }

    #[test]
    fn only_the_newest_columns_are_shown() {
        let mut h = History::default();
        for i in 0..10 {
            h.push(SECOND, i, 0);
        }
        let lhp: Vec<_> = h.columns(3, SECOND).iter().map(|c| c.lhp).collect();
        assert_eq!(lhp, [Some(7.0), Some(8.0), Some(9.0)]);
        assert!(h.columns(0, SECOND).is_empty());
    }

    #[test]
    fn memory_is_bounded() {
        let mut h = History::default();
        for i in 0..3 * CAPACITY {
            if i % 100 == 0 {
                h.divide("x");
            }
            h.push(SECOND, 1, 1);
        }
        assert_eq!(h.points.len(), CAPACITY);
        assert!(h.dividers.len() <= CAPACITY / 100 + 1);
        assert_eq!(h.columns(1, SECOND)[0].lhp, Some(1.0));
    }
}
