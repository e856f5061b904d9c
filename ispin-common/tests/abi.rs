//! The layouts that other programs rely on (docs/abi.md), byte for byte.

use std::mem::{align_of, offset_of, size_of};

use ispin_common::event::{Ctx, Event, EventKind, Level, NR_ARGS};
use ispin_common::incident::{Incident, PspKind, SwitchIncident};
use ispin_common::slot::{
    HEADER_OFFSET, HeaderError, Ids, MAGIC, MAX_SLOTS, NO_LIMIT, PAGE_SIZE, SLOTS_OFFSET, Slot, SlotHeader,
    SlotPage, TimeUnit, VERSION,
};
use rstest::rstest;

fn bytes_of<T>(value: &T) -> &[u8] {
    // SAFETY: the types given here are `repr(C)` without padding, so all their bytes are initialised.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

#[test]
fn page_has_its_documented_offsets() {
    assert_eq!(size_of::<SlotPage>(), 4096);
    assert_eq!(align_of::<SlotPage>(), 4096);
    assert_eq!(offset_of!(SlotPage, header), 3136);
    assert_eq!(offset_of!(SlotPage, slots), 3200);
    assert_eq!((HEADER_OFFSET, SLOTS_OFFSET, PAGE_SIZE), (3136, 3200, 4096));
    assert_eq!(MAX_SLOTS, 28);
    assert_eq!(SLOTS_OFFSET + MAX_SLOTS * size_of::<Slot>(), PAGE_SIZE);
}

#[test]
fn slot_is_four_little_endian_words() {
    assert_eq!((size_of::<Slot>(), align_of::<Slot>()), (32, 32));
    let slot = Slot {
        ids: Ids::new(0x0403_0201, 0x0807_0605).0,
        preemption_time: 0x100f_0e0d_0c0b_0a09,
        dispatch_start: 0x1817_1615_1413_1211,
        last_out: 0x201f_1e1d_1c1b_1a19,
    };
    let expected: Vec<u8> = (1..=32).collect();
    assert_eq!(bytes_of(&slot), expected);
}

#[test]
fn header_starts_with_spin() {
    let header = SlotHeader::new(5, TimeUnit::MonotonicNs);
    let mut expected = [0u8; 64];
    expected[..4].copy_from_slice(b"SPIN");
    expected[4] = 1;
    expected[8] = 5;
    expected[12] = 32;
    expected[16] = 1;
    assert_eq!(bytes_of(&header), expected);
    assert_eq!((MAGIC, VERSION), (0x4e49_5053, 1));
}

#[rstest]
#[case::tsc(SlotHeader::new(28, TimeUnit::GuestTsc), Ok(TimeUnit::GuestTsc))]
#[case::ns(SlotHeader::new(0, TimeUnit::MonotonicNs), Ok(TimeUnit::MonotonicNs))]
#[case::nobody(SlotHeader { magic: 0, ..SlotHeader::new(4, TimeUnit::GuestTsc) }, Err(HeaderError::Magic))]
#[case::version(SlotHeader { version: 2, ..SlotHeader::new(4, TimeUnit::GuestTsc) }, Err(HeaderError::Version))]
#[case::size(SlotHeader { slot_size: 64, ..SlotHeader::new(4, TimeUnit::GuestTsc) }, Err(HeaderError::Shape))]
#[case::count(SlotHeader { nr_slots: 29, ..SlotHeader::new(4, TimeUnit::GuestTsc) }, Err(HeaderError::Shape))]
#[case::unit(SlotHeader { time_unit: 2, ..SlotHeader::new(4, TimeUnit::GuestTsc) }, Err(HeaderError::Unit))]
fn header_is_checked(#[case] header: SlotHeader, #[case] expected: Result<TimeUnit, HeaderError>) {
    assert_eq!(header.validate(), expected);
}

#[test]
fn no_limit_is_all_ones() {
    assert_eq!(NO_LIMIT, !0);
}

#[rstest]
#[case(EventKind::Take, 0)]
#[case(EventKind::Acquire, 1)]
#[case(EventKind::Release, 2)]
#[case(EventKind::Incapable, 3)]
fn event_kinds_are_numbered(#[case] kind: EventKind, #[case] number: u32) {
    assert_eq!(kind as u32, number);
}

#[test]
fn events_are_ten_scalars_in_order() {
    let args: [u64; NR_ARGS] = [
        0xffff_8880_0000_1000,
        0xffff_ffff_8100_0042,
        7,
        3,
        Ids::new(5, 9).0,
        1_000_000,
        (-20i64) as u64,
        Level::Hardirq as u64 | Ctx::BLOCKED | Ctx::EXPIRED,
        900_000,
        55,
    ];
    let event = Event::from_args(EventKind::Acquire, &args);
    assert_eq!(event.lock, 0xffff_8880_0000_1000);
    assert_eq!(event.ip, 0xffff_ffff_8100_0042);
    assert_eq!((event.ticket, event.lql), (7, 3));
    assert_eq!((event.ids.slice_id(), event.ids.dispatch_id()), (5, 9));
    assert_eq!((event.tsc, event.cap), (1_000_000, -20));
    assert_eq!((event.start, event.off), (900_000, 55));
    assert_eq!(event.ctx.level(), 2);
    assert!(event.ctx.has(Ctx::BLOCKED) && event.ctx.has(Ctx::EXPIRED) && !event.ctx.has(Ctx::TRYLOCK));
    assert_eq!(event.to_args(), args);
}

#[test]
fn ctx_bits_do_not_overlap() {
    let all = [3, Ctx::TRYLOCK, Ctx::BLOCKED, Ctx::EXPIRED];
    for (i, a) in all.iter().enumerate() {
        for b in &all[i + 1..] {
            assert_eq!(a & b, 0);
        }
    }
    assert_eq!((Ctx::TRYLOCK, Ctx::BLOCKED, Ctx::EXPIRED), (4, 8, 16));
    for (level, number) in [Level::Task, Level::Softirq, Level::Hardirq, Level::Nmi].into_iter().zip(0..) {
        assert_eq!(Ctx::level_only(level), Ctx(number));
        assert_eq!(Ctx(number | !3).level(), number as u32);
    }
}

#[test]
fn incident_has_no_padding_and_its_documented_layout() {
    let incident = Incident {
        kind: PspKind::Lwp as u8,
        level: 2,
        flags: Incident::PREEMPTED | Incident::HARMFUL,
        reason: 0,
        vcpu: 0x0403_0201,
        lock: 1,
        ip: 2,
        from_ids: Ids(3),
        to_ids: Ids(4),
        from_tsc: 5,
        to_tsc: 6,
        start: 7,
        off: 8,
        lost: 9,
        cap: -1,
        take_tsc: 11,
        lql: 12,
        ticket: 13,
        seq: 14,
        reserved2: 0,
    };
    let mut expected = vec![2, 2, 5, 0, 1, 2, 3, 4];
    for word in [1u64, 2, 3, 4, 5, 6, 7, 8, 9, u64::MAX, 11] {
        expected.extend(word.to_le_bytes());
    }
    for word in [12u32, 13, 14, 0] {
        expected.extend(word.to_le_bytes());
    }
    assert_eq!(bytes_of(&incident), expected);
    assert_eq!(size_of::<Incident>(), 112);
    assert_eq!(size_of::<SwitchIncident>(), 56);
}
