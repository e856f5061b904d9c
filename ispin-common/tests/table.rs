//! Per-lock and per-caller tables, and the word of the last release.

use std::collections::HashMap;

use ispin_common::classifier::Outcome;
use ispin_common::event::{Ctx, Event, EventKind, Level};
use ispin_common::incident::{Incident, PspKind};
use ispin_common::slot::Ids;
use ispin_common::table::{LastRelease, PROBES, Row, Table, first_place};
use proptest::prelude::*;

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
        partner: 1,
        cold: 0,
    };
    assert_eq!(row, expected);

    let mut doubled = row;
    doubled.merge(&row);
    assert_eq!(doubled.key, 9);
    assert_eq!((doubled.acquires, doubled.wait_cycles, doubled.idle_cycles), (8, 600, 160));
}

/// A caller's row remembers a lock, a lock's row a caller: who met a queue rather than who took it first.
#[test]
fn partners() {
    let outcome = Outcome { ip: 2, wait: Some(0), ..Outcome::default() };
    let mut lock = Row { key: 1, ..Row::default() };
    lock.add(&event(EventKind::Acquire, 0), &Outcome { ip: 7, ..outcome });
    assert_eq!(lock.partner, 7);
    lock.add(&event(EventKind::Acquire, 0), &outcome);
    assert_eq!(lock.partner, 7);
    lock.add(&event(EventKind::Take, 1), &outcome);
    assert_eq!(lock.partner, 2);
    let mut caller = Row { key: 2, ..Row::default() };
    caller.add(&event(EventKind::Acquire, 0), &outcome);
    assert_eq!(caller.partner, 1);

    let mut sum = Row { partner: 5, acquires: 100, ..Row::default() };
    sum.merge(&Row { partner: 6, acquires: 200, ..Row::default() });
    assert_eq!(sum.partner, 6);
    sum.merge(&Row { partner: 7, acquires: 1, contended: 1, ..Row::default() });
    assert_eq!(sum.partner, 7);
    sum.merge(&Row { partner: 8, acquires: 900, ..Row::default() });
    assert_eq!(sum.partner, 7);
}

#[test]
fn zero_is_no_key() {
    let mut table = Table::<9>::new();
    table.row(0).acquires += 1;
    assert_eq!((table.evicted, table.others().acquires), (0, 1));
    assert_eq!(table.rows[1..], [Row::default(); 8]);
}

/// Keys that all want the same places.
fn rivals(rows: u32) -> impl Iterator<Item = u64> {
    (1..).filter(move |&key| first_place(key, rows) == rows - 4)
}

#[test]
fn the_coldest_has_to_go_and_its_totals_stay() {
    let mut table = Table::<65>::new();
    let keys: Vec<u64> = rivals(64).take(PROBES as usize + 1).collect();
    for (&key, acquires) in keys.iter().zip([5, 6, 7, 2, 8, 9, 10, 11, 1]) {
        let row = table.row(key);
        row.acquires += acquires;
        row.wait_cycles += 100;
    }
    assert_eq!((table.evicted, table.others().acquires, table.others().wait_cycles), (1, 2, 100));
    for (i, &key) in keys.iter().enumerate().filter(|(i, _)| *i != 3) {
        let place = table.place(key);
        assert_eq!(table.rows[place as usize].key, key, "{i}");
    }
    assert_eq!(table.evicted, 1);
    // Probing went around the end of the table.
    assert!(table.rows[1..5].iter().all(|row| row.key != 0));
}

/// A lock that becomes hot when the table is full of others that once were gets a row, in spite of a stream of new
/// ones that are used once.
#[test]
fn what_is_hot_now_gets_a_row() {
    let mut table = Table::<65>::new();
    let mut keys = rivals(64);
    for key in keys.by_ref().take(PROBES as usize) {
        table.row(key).acquires += 1_000;
    }
    let hot = keys.next().expect("there is no end of keys");
    for once in keys.take(100) {
        table.row(once).acquires += 1;
        for _ in 0..6 {
            table.row(hot).acquires += 1;
        }
    }
    let row = *table.row(hot);
    assert!(row.key == hot && row.acquires > 500, "{row:?}");
}

proptest! {
    /// What the rows say, and that of all others, together are what happened.
    #[test]
    fn sums_are_exact(keys in prop::collection::vec(0u64..200, 0..400)) {
        let mut table = Table::<65>::new();
        let mut map = HashMap::new();
        for &key in &keys {
            table.row(key * 64).acquires += 1;
            *map.entry(key * 64).or_insert(0u64) += 1;
        }
        let rows = || table.rows.iter().filter(|row| row.key != 0);
        let sum = table.others().acquires + rows().map(|row| row.acquires).sum::<u64>();
        prop_assert_eq!(sum, keys.len() as u64);
        for row in rows() {
            prop_assert!(row.acquires <= map[&row.key]);
            prop_assert!(table.evicted > 0 || row.acquires == map[&row.key]);
        }
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
