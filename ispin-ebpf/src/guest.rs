//! Four raw tracepoint programs for the patched guest kernel: each hands its event to the classifier of its
//! CPU and context level.
//!
//! They trace spinlocks and so must not take any: only array maps, whose look-up is arithmetic, and rings of
//! our own. The maps are described in [`ispin_common::guest`].

use core::ptr::addr_of;

use aya_ebpf::helpers::bpf_get_smp_processor_id;
use aya_ebpf::macros::{map, raw_tracepoint};
use aya_ebpf::maps::Array;
use aya_ebpf::programs::RawTracePointContext;
use ispin_common::event::{Event, EventKind, NR_ARGS, NR_LEVELS};
use ispin_common::guest::{GuestControl, GuestLane, GuestRing, NR_RELEASES, lane_key};
use ispin_common::incident::Incident;
use ispin_common::table::{LastRelease, first_place};

const BPF_F_MMAPABLE: u32 = 1 << 10;
const LEVELS: u32 = NR_LEVELS as u32;

#[map]
static GUEST_CONTROL: Array<GuestControl> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// Resized by the loader to the possible CPUs times the context levels.
#[map]
static GUEST_LANES: Array<GuestLane> = Array::with_max_entries(LEVELS, BPF_F_MMAPABLE);
#[map]
static GUEST_RELEASES: Array<u64> = Array::with_max_entries(NR_RELEASES, 0);
/// Resized as the lanes.
#[map]
static GUEST_RINGS: Array<GuestRing> = Array::with_max_entries(LEVELS, BPF_F_MMAPABLE);

/// A ticket was taken.
#[raw_tracepoint(tracepoint = "ispin_take")]
pub fn ispin_take(ctx: RawTracePointContext) -> i32 {
    observe(EventKind::Take, &ctx)
}

/// A lock was acquired.
#[raw_tracepoint(tracepoint = "ispin_acquire")]
pub fn ispin_acquire(ctx: RawTracePointContext) -> i32 {
    observe(EventKind::Acquire, &ctx)
}

/// A lock was released.
#[raw_tracepoint(tracepoint = "ispin_release")]
pub fn ispin_release(ctx: RawTracePointContext) -> i32 {
    observe(EventKind::Release, &ctx)
}

/// A ticket was refused.
#[raw_tracepoint(tracepoint = "ispin_incapable")]
pub fn ispin_incapable(ctx: RawTracePointContext) -> i32 {
    observe(EventKind::Incapable, &ctx)
}

#[inline(always)]
fn observe(kind: EventKind, ctx: &RawTracePointContext) -> i32 {
    if !enabled() {
        return 0;
    }
    let args: [u64; NR_ARGS] = [
        ctx.arg(0),
        ctx.arg(1),
        ctx.arg(2),
        ctx.arg(3),
        ctx.arg(4),
        ctx.arg(5),
        ctx.arg(6),
        ctx.arg(7),
        ctx.arg(8),
        ctx.arg(9),
    ];
    let event = Event::from_args(kind, &args);
    // SAFETY: a helper without preconditions.
    let key = lane_key(unsafe { bpf_get_smp_processor_id() }, event.ctx.level());
    let Some(lane) = GUEST_LANES.get_ptr_mut(key) else { return 0 };
    // SAFETY: this CPU at this level is the entry's one writer; the kernel does not run a program in the
    // middle of itself, and another of the four comes in between only at a higher level.
    let lane = unsafe { &mut *lane };
    if kind == EventKind::Release {
        store_release(&event);
    }
    if let Some(incident) = lane.observe(&event, || last_release(&event))
        && !report(&incident, key)
    {
        lane.classifier.counters.dropped += 1;
    }
    0
}

#[inline(always)]
fn enabled() -> bool {
    // SAFETY: the map lives as long as the program; the agent writes the word with one store.
    GUEST_CONTROL
        .get_ptr(0)
        .is_some_and(|control| unsafe { addr_of!((*control).enabled).read_volatile() } != 0)
}

#[inline(always)]
fn store_release(event: &Event) {
    if let Some(word) = GUEST_RELEASES.get_ptr_mut(first_place(event.lock, NR_RELEASES)) {
        // SAFETY: the map lives as long as the program; an aligned 64-bit store is not torn.
        unsafe { word.write_volatile(LastRelease::new(event.lock, event.ticket, event.tsc).0) };
    }
}

/// When the lock of an acquire was last released.
#[inline(always)]
fn last_release(event: &Event) -> Option<u64> {
    let word = GUEST_RELEASES.get_ptr(first_place(event.lock, NR_RELEASES))?;
    // SAFETY: the map lives as long as the program; an aligned 64-bit load is not torn.
    LastRelease(unsafe { word.read_volatile() }).before(event.lock, event.ticket, event.tsc)
}

/// Appends the incident to the lane's ring; false if it was full.
#[inline(always)]
fn report(incident: &Incident, key: u32) -> bool {
    let Some(ring) = GUEST_RINGS.get_ptr_mut(key) else { return false };
    let incident = Incident { vcpu: key / LEVELS, ..*incident };
    // SAFETY: the map zeroed the ring; this CPU at this level is its one producer.
    unsafe { GuestRing::push(ring, &incident) }
}
