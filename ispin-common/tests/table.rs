//! Per-lock and per-caller tables, and the word of the last release.

use std::collections::HashMap;

use ispin_common::classifier::Outcome;
use ispin_common::event::{Ctx, Event, EventKind, Level};
use ispin_common::incident::{Incident, PspKind};
use ispin_common::slot::Ids;
use ispin_common::table::{LastRelease, PROBES, Row, Table, first_place};
use proptest::prelude::*;

fn empty<const N: usize>() -> Table<N> {
    Table { overflowed: 0, rows: [Row::default(); N] }
}

fn event(kind: EventKind, lql: u32) -> Event {
    let ctx = Ctx::level_only(Level::Task);
    Event { kind, lock: 1, ip: 2, ticket: 3, lql, ids: Ids::new(1, 1), tsc: 4, cap: 5, ctx, start: 6, off: 7 }
}

#[test]
fn row_adds_what_the_event_meant() {
    let mut row = Row { key: 9, ..Row::default() };
    row.add(&event(EventKind::Take, 0), &Outcome::default());
    row.add(&event(EventKind::Take, 2), &Outcome::default());
    row.add(&event(EventKind::Incapable, 5), &Outcome::default());
    let lwp = Incident { kind: PspKind::Lwp as u8, lost: 40, ..Incident::default() };
    let wait = Outcome { wait: Some(100), spin: 60, incident: Some(lwp), ..Outcome::default() };
    row.add(&event(EventKind::Acquire, 0), &wait);
    let harmful = Incident { flags: Incident::HARMFUL, ..lwp };
    row.add(&event(EventKind::Acquire, 0), &Outcome { incident: Some(harmful), ..wait });
    row.add(&event(EventKind::Acquire, 0), &Outcome { incident: Some(harmful), ..wait });
    // An acquire that could not be paired counts, but has no wait.
    row.add(&event(EventKind::Acquire, 0), &Outcome::default());
    let lhp = Incident { kind: PspKind::Lhp as u8, lost: 1_000, ..Incident::default() };
    row.add(
        &event(EventKind::Release, 0),
        &Outcome { hold: Some(30), incident: Some(lhp), ..Outcome::default() },
    );
    let expected = Row {
        key: 9,
        acquires: 4,
        contended: 1,
        deferrals: 1,
        wait_cycles: 300,
        spin_cycles: 180,
        hold_cycles: 30,
        lhp: 1,
        lwp: 3,
        lwp_harmful: 2,
        idle_cycles: 80,
    };
    assert_eq!(row, expected);

    let mut doubled = row;
    doubled.merge(&row);
    assert_eq!(doubled.key, 9);
    assert_eq!((doubled.acquires, doubled.wait_cycles, doubled.idle_cycles), (8, 600, 160));
}

#[test]
fn zero_is_no_key() {
    let mut table = empty::<8>();
    assert!(table.row(0).is_none());
    assert_eq!(table.overflowed, 1);
    assert_eq!(table.rows, [Row::default(); 8]);
}

#[test]
fn a_key_without_a_place_is_counted_not_merged() {
    let mut table = empty::<64>();
    // Keys that all want the same places.
    let keys: Vec<u64> = (1..).filter(|&key| first_place(key, 64) == 60).take(PROBES as usize + 1).collect();
    for &key in &keys {
        if let Some(row) = table.row(key) {
            row.acquires += 1;
        }
    }
    assert_eq!(table.overflowed, 1);
    for key in &keys[..PROBES as usize] {
        assert_eq!(table.row(*key).map(|row| (row.key, row.acquires)), Some((*key, 1)));
    }
    assert!(table.row(keys[PROBES as usize]).is_none());
    // Probing went around the end of the table.
    assert!(table.rows[..4].iter().all(|row| row.key != 0));
}

proptest! {
    /// What the rows say and the overflow together are what happened.
    #[test]
    fn agrees_with_a_map(keys in prop::collection::vec(0u64..200, 0..400)) {
        let mut table = empty::<64>();
        let (mut map, mut lost) = (HashMap::new(), 0);
        for key in keys {
            match table.row(key * 64) {
                Some(row) => {
                    row.acquires += 1;
                    *map.entry(key * 64).or_insert(0u64) += 1;
                }
                None => lost += 1,
            }
        }
        prop_assert_eq!(table.overflowed, lost);
        let rows: HashMap<u64, u64> =
            table.rows.iter().filter(|row| row.key != 0).map(|row| (row.key, row.acquires)).collect();
        prop_assert_eq!(rows, map);
    }

    #[test]
    fn place_is_inside_the_table(key in any::<u64>(), log2 in 0u32..20) {
        prop_assert!(first_place(key, 1 << log2) < 1 << log2);
    }

    /// A release is found by the ticket that follows it, and by no other.
    #[test]
    fn last_release_is_told_from_others(
        lock in 1u64..,
        ticket in any::<u32>(),
        released in any::<u64>(),
        age in 0u64..1 << 47,
        stale in 1u32..250,
    ) {
        let now = released.wrapping_add(age);
        let word = LastRelease::new(lock, ticket, released);
        prop_assume!(word.0 != 0);
        prop_assert_eq!(word.before(lock, ticket.wrapping_add(1), now), Some(released));
        prop_assert_eq!(word.before(lock, ticket.wrapping_add(1 + stale), now), None);
        prop_assert_eq!(word.before(lock, ticket, now), None);
    }

    #[test]
    fn a_release_ahead_of_the_clock_is_now(lock in 1u64.., now in 1u64..1 << 60, ahead in 1u64..1 << 46) {
        let word = LastRelease::new(lock, 4, now + ahead);
        prop_assert_eq!(word.before(lock, 5, now), Some(now));
    }
}

#[test]
fn another_lock_in_the_same_word_is_told_apart_but_for_one_in_256() {
    let word = LastRelease::new(0xffff_8880_0001_0000, 8, 1_000);
    let mistaken =
        (1..=25_600u64).filter(|i| word.before(0xffff_8880_0001_0000 + i * 64, 9, 2_000).is_some()).count();
    assert!((50..200).contains(&mistaken), "{mistaken} of 25600");
    assert_eq!(LastRelease(0).before(1, 1, 1), None, "never released");
}
