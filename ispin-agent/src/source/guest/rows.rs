//! Rows of locks and callers: sums over CPUs and levels, the ones that matter, under their names.

use std::collections::{BTreeMap, BTreeSet};

use ispin_common::guest::GuestTable;
use ispin_common::table::Row;

use super::names::Names;
use crate::model::{OTHERS, TableRow};

/// Of each of these kinds of rows so many are shown: the longest waits, the most acquires, the most preemptions. All
/// others are shown as one.
const SHOWN: usize = 40;

/// Names of locks as they were shown before. A lock in allocated memory is named after its user, and has several: it
/// keeps its first name, but for one that was given before anybody met a queue there.
#[derive(Debug, Default)]
pub struct LockNames {
    names: BTreeMap<u64, LockName>,
}

#[derive(Debug)]
struct LockName {
    name: String,
    /// Somebody had met a queue there.
    contended: bool,
}

impl LockNames {
    /// The name of `lock`, which `caller` uses.
    pub fn of(&self, lock: u64, caller: u64, names: &Names) -> String {
        self.names.get(&lock).map_or_else(|| names.of_lock(lock, caller), |known| known.name.clone())
    }

    /// Names the locks of `rows`, and forgets those that are not among them.
    fn follow(&mut self, rows: &BTreeMap<u64, Row>, names: &Names) {
        self.names.retain(|key, _| rows.contains_key(key));
        for (key, row) in rows.iter().filter(|(key, _)| **key != 0) {
            let contended = row.contended > 0;
            if self.names.get(key).is_none_or(|known| contended && !known.contended) {
                let name = names.of_lock(*key, row.partner);
                self.names.insert(*key, LockName { name, contended });
            }
        }
    }
}

/// The rows of locks.
pub fn locks<'a>(
    tables: impl Iterator<Item = &'a GuestTable>,
    names: &Names,
    lock_names: &mut LockNames,
) -> Vec<TableRow> {
    let rows = bounded(sums(tables));
    lock_names.follow(&rows, names);
    let lock = |row: &Row| TableRow {
        caller: names.of(row.partner),
        ..TableRow::new(lock_names.of(row.key, row.partner, names), row)
    };
    in_order(&rows, lock)
}

/// The rows of callers.
pub fn callers<'a>(tables: impl Iterator<Item = &'a GuestTable>, names: &Names) -> Vec<TableRow> {
    in_order(&bounded(sums(tables)), |row| TableRow::new(names.of(row.key), row))
}

/// One row for each key. The row of all others has key 0.
fn sums<'a>(tables: impl Iterator<Item = &'a GuestTable>) -> BTreeMap<u64, Row> {
    let mut all: BTreeMap<u64, Row> = BTreeMap::new();
    for table in tables {
        let rows = table.rows.iter().filter(|row| row.key != 0);
        let others = Some(table.others()).filter(|others| **others != Row::EMPTY);
        for row in rows.chain(others) {
            all.entry(row.key).and_modify(|known| known.merge(row)).or_insert(*row);
        }
    }
    all
}

/// The rows that matter, by one measure or another; the rest joins the row of all others.
fn bounded(rows: BTreeMap<u64, Row>) -> BTreeMap<u64, Row> {
    let measures: [fn(&Row) -> u64; 3] = [|row| row.wait_cycles, |row| row.acquires, |row| row.lhp + row.lwp];
    let mut shown = BTreeSet::from([0]);
    for measure in measures {
        let measured = rows.iter().map(|(key, row)| (measure(row), *key));
        let mut best: Vec<(u64, u64)> = measured.filter(|(n, key)| *n > 0 && *key != 0).collect();
        best.sort_unstable_by(|a, b| b.cmp(a));
        shown.extend(best.iter().take(SHOWN).map(|(_, key)| *key));
    }
    let mut bounded: BTreeMap<u64, Row> = BTreeMap::new();
    for (key, row) in rows {
        let key = if shown.contains(&key) { key } else { 0 };
        bounded.entry(key).and_modify(|known| known.merge(&row)).or_insert(Row { key, ..row });
    }
    bounded
}

/// The longest waits first, that of all others last.
fn in_order(rows: &BTreeMap<u64, Row>, named: impl Fn(&Row) -> TableRow) -> Vec<TableRow> {
    let mut shown: Vec<TableRow> = rows.values().filter(|row| row.key != 0).map(named).collect();
    shown.sort_by(|a, b| b.wait_cycles.cmp(&a.wait_cycles).then_with(|| b.acquires.cmp(&a.acquires)));
    shown.extend(rows.get(&0).map(|row| TableRow::new(OTHERS.into(), row)));
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rows: &[Row]) -> GuestTable {
        let mut table = GuestTable::new();
        table.rows[1..=rows.len()].copy_from_slice(rows);
        table
    }

    fn row(key: u64, acquires: u64) -> Row {
        Row { key, acquires, partner: key + 1, ..Row::EMPTY }
    }

    #[test]
    fn what_is_not_shown_is_among_all_others() {
        let rows: Vec<Row> = (1..=200).map(|key| row(key, key)).collect();
        let mut tables = [table(&rows), table(&rows[..1])];
        tables[1].rows[0] = Row { acquires: 1_000, ..Row::EMPTY };
        tables[0].rows[6].wait_cycles = 9;
        let shown = callers(tables.iter(), &Names::default());
        assert_eq!(shown.len(), SHOWN + 2);
        assert_eq!((shown[0].key, shown[1].key), (6, 200));
        let others = &shown[SHOWN + 1];
        assert_eq!((others.name.as_str(), others.key), (OTHERS, 0));
        let all: u64 = shown.iter().map(|row| row.acquires).sum();
        assert_eq!(all, 200 * 201 / 2 + 1 + 1_000);
    }

    #[test]
    fn a_lock_keeps_its_name_but_for_a_better_one() {
        let (names, mut lock_names) = (Names::default(), LockNames::default());
        let mut name = |row: Row, key: u64| {
            lock_names.follow(&BTreeMap::from([(key, row)]), &names);
            lock_names.names.get(&7).map(|known| known.contended)
        };
        assert_eq!(name(row(7, 1), 7), Some(false));
        assert_eq!(name(Row { contended: 1, ..row(7, 1) }, 7), Some(true));
        assert_eq!(name(row(7, 1), 7), Some(true));
        assert_eq!(name(row(8, 1), 8), None, "a lock that is gone is forgotten");
    }
}
