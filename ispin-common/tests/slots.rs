//! Ids, reading a slot, and lock completion capability.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ispin_common::capability::{Capability, capability};
use ispin_common::slot::{Ids, NO_LIMIT, Slot, read_ids, read_own};
use proptest::prelude::*;
use rstest::rstest;

#[test]
fn nothing_published_is_zero() {
    assert_eq!(Ids::UNPUBLISHED, Ids(0));
    assert!(!Ids::UNPUBLISHED.published());
    // A dispatch without a quantum is not published either.
    assert!(!Ids::new(0, 7).published());
    assert!(Ids::new(1, 0).published());
}

#[test]
fn first_dispatch_and_what_follows() {
    let first = Ids::UNPUBLISHED.next_dispatch();
    assert_eq!(first.slice_id(), 1);
    assert!(first.on_pcpu());
    let renewed = first.next_renewal();
    assert_eq!((renewed.slice_id(), renewed.dispatch_id()), (2, first.dispatch_id()));
    let out = renewed.switched_out();
    assert!(!out.on_pcpu());
    assert!(out.same_dispatch(renewed) && out.same_slice(renewed));
    let stay = out.next_stay();
    assert!(stay.on_pcpu() && stay.same_slice(out) && !stay.same_dispatch(out));
    let second = out.next_dispatch();
    assert!(second.on_pcpu() && !second.same_dispatch(out) && !second.same_slice(out));
}

#[rstest]
#[case(u32::MAX, 1)]
#[case(u32::MAX - 1, u32::MAX)]
#[case(0, 1)]
#[case(41, 42)]
fn slice_id_wraps_past_zero(#[case] slice: u32, #[case] next: u32) {
    assert_eq!(Ids::new(slice, 5).next_renewal().slice_id(), next);
    assert_eq!(Ids::new(slice, 5).next_dispatch().slice_id(), next);
}

#[test]
fn dispatch_wraps_without_touching_slice() {
    let last = Ids::new(9, u32::MAX);
    let next = last.next_dispatch();
    assert_eq!((next.slice_id(), next.dispatch_id()), (10, 1));
    assert!(next.on_pcpu());
}

proptest! {
    #[test]
    fn ids_arithmetic(raw in any::<u64>()) {
        let ids = Ids(raw);
        prop_assert_eq!(Ids::new(ids.slice_id(), ids.dispatch_id()), ids);
        prop_assert_eq!(ids.on_pcpu(), ids.dispatch_id() % 2 == 1);
        prop_assert_eq!(ids.switched_out().slice_id(), ids.slice_id());
        prop_assert!(!ids.switched_out().on_pcpu());
        prop_assert!(ids.switched_out().same_dispatch(ids));

        let next = ids.next_dispatch();
        prop_assert!(next.on_pcpu() && next.published());
        prop_assert!(!next.same_slice(ids) && !next.same_dispatch(ids));
        // The count of dispatches goes up by one, whether or not the vCPU was on its pCPU.
        prop_assert_eq!(next.dispatch_id() >> 1, (ids.dispatch_id() >> 1).wrapping_add(1) & (u32::MAX >> 1));
        prop_assert_eq!(ids.switched_out().next_dispatch(), next);

        let renewed = ids.next_renewal();
        prop_assert!(renewed.published() && !renewed.same_slice(ids));
        prop_assert_eq!(renewed.dispatch_id(), ids.dispatch_id());
    }

    /// Equation 1 of the paper in arbitrary precision.
    #[test]
    fn lock_cap_is_the_papers(
        left in -5_000_000i64..5_000_000,
        now in 10_000_000u64..1 << 62,
        lql in prop_oneof![0u32..40, any::<u32>()],
        csd in prop_oneof![1u64..1 << 20, any::<u64>()],
        tolerance in 0u64..4_000_000,
    ) {
        let preemption_time = now.wrapping_add_signed(left);
        let slot = Slot { ids: Ids::new(3, 5).0, preemption_time, dispatch_start: 1, last_out: 0 };
        let cap = left as i128 - (lql as i128 + 1) * csd as i128;
        let expected = if left < 0 && left.unsigned_abs() > tolerance {
            None
        } else {
            Some(cap > 0)
        };
        match capability(&slot, now, lql, csd, tolerance) {
            Capability::Capable(got) => {
                prop_assert_eq!(expected, Some(true));
                prop_assert_eq!(got as i128, cap);
            }
            Capability::Incapable(got) => {
                prop_assert_eq!(expected, Some(false));
                prop_assert!(got <= 0);
                // Exact unless it does not fit: a queue that long needs no exact answer.
                if cap > -(1 << 62) {
                    prop_assert_eq!(got as i128, cap);
                }
            }
            Capability::Expired => prop_assert_eq!(expected, None),
            Capability::Unslotted => prop_assert!(false, "the slot is published"),
        }
    }
}

#[rstest]
#[case::enough(1_000, 0, 500, Capability::Capable(500))]
#[case::one_more_is_enough(501, 0, 500, Capability::Capable(1))]
#[case::zero_is_not_enough(500, 0, 500, Capability::Incapable(0))]
#[case::queue(1_000, 1, 500, Capability::Incapable(0))]
#[case::longer_queue(1_000, 3, 500, Capability::Incapable(-1_000))]
fn capability_counts_the_queue_and_oneself(
    #[case] left: u64,
    #[case] lql: u32,
    #[case] csd: u64,
    #[case] expected: Capability,
) {
    let slot = Slot { ids: Ids::new(1, 1).0, preemption_time: 70_000 + left, ..Slot::default() };
    assert_eq!(capability(&slot, 70_000, lql, csd, 0), expected);
}

#[test]
fn slots_that_say_nothing_never_refuse() {
    let unpublished = Slot { ids: 0, preemption_time: 1, ..Slot::default() };
    assert_eq!(capability(&unpublished, 500, 9, 1 << 14, 0), Capability::Unslotted);
    let endless = Slot { ids: Ids::new(1, 1).0, preemption_time: NO_LIMIT, ..Slot::default() };
    assert_eq!(capability(&endless, u64::MAX, u32::MAX, u64::MAX, 0), Capability::Capable(i64::MAX));
    let old = Slot { ids: Ids::new(1, 1).0, preemption_time: 1_000, ..Slot::default() };
    assert_eq!(capability(&old, 1_101, 0, 10, 100), Capability::Expired);
    assert_eq!(capability(&old, 1_100, 0, 10, 100), Capability::Incapable(-110));
}

/// A hypervisor publishes in one thread while the vCPU reads in another, which is harder than what happens:
/// a vCPU never reads while it is switched in. No copy may join the times of two quanta.
#[test]
fn read_own_never_joins_two_quanta() {
    #[repr(align(32))]
    struct Shared([AtomicU64; 4]);
    let shared = Shared([0, 0, 0, 0].map(AtomicU64::new));
    let stop = AtomicBool::new(false);
    let published = 200_000;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut ids = Ids::UNPUBLISHED;
            for _ in 0..published {
                // Times first, ids last, as the ABI says; off its pCPU in between.
                shared.0[0].store(ids.switched_out().0, Ordering::Release);
                ids = ids.next_dispatch();
                let quantum = ids.slice_id() as u64;
                shared.0[1].store(quantum * 10, Ordering::Release);
                shared.0[2].store(quantum * 10 + 1, Ordering::Release);
                shared.0[0].store(ids.0, Ordering::Release);
            }
            stop.store(true, Ordering::Release);
        });
        let slot = std::ptr::from_ref(&shared).cast::<Slot>();
        let (mut copies, mut last) = (0, 0);
        while !stop.load(Ordering::Acquire) {
            // SAFETY: the shared words have the size and alignment of a slot and outlive the scope.
            let (slot, ids) = unsafe { (read_own(slot), read_ids(slot)) };
            assert!(ids.slice_id() >= Ids(slot.ids).slice_id());
            if Ids(slot.ids).on_pcpu() {
                let quantum = Ids(slot.ids).slice_id() as u64;
                assert!(quantum >= last, "quanta go forward");
                last = quantum;
                assert_eq!((slot.preemption_time, slot.dispatch_start), (quantum * 10, quantum * 10 + 1));
                copies += 1;
            }
        }
        assert!(copies > 0 || last == 0);
    });
    assert_eq!(Ids(shared.0[0].load(Ordering::Relaxed)).slice_id(), published);
}
