//! Four raw tracepoint programs for the patched guest kernel: each hands its event to the lane of its CPU and
//! context level ([`ispin_common::guest`]).
//!
//! They trace spinlocks and so must not take any: only array maps, whose look-up is arithmetic, and rings of
//! our own. They run for every lock operation of the kernel: what is rare is kept out of line, and arguments are read
//! where they are needed.

use core::ffi::c_void;
use core::ptr::addr_of_mut;

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::bpf_get_smp_processor_id;
use aya_ebpf::macros::{map, raw_tracepoint};
use aya_ebpf::maps::Array;
use aya_ebpf::programs::RawTracePointContext;
use ispin_common::classifier::Tag;
use ispin_common::event::{Ctx, NR_LEVELS, Report};
use ispin_common::guest::{GuestLane, GuestRing, NR_RELEASES, lane_key};
use ispin_common::incident::Incident;
use ispin_common::slot::Ids;
use ispin_common::table::{LastRelease, release_place};

const BPF_F_MMAPABLE: u32 = 1 << 10;
const LEVELS: u32 = NR_LEVELS as u32;

/// Resized by the loader to the possible CPUs times the context levels.
#[map]
static GUEST_LANES: Array<GuestLane> = Array::with_max_entries(LEVELS, BPF_F_MMAPABLE);
/// Resized as the lanes.
#[map]
static GUEST_RINGS: Array<GuestRing> = Array::with_max_entries(LEVELS, BPF_F_MMAPABLE);

/// Last releases of all locks. No map of its own: that would have to be looked up at each release.
static mut RELEASES: [u64; NR_RELEASES as usize] = [0; NR_RELEASES as usize];

/// A ticket was taken.
#[raw_tracepoint(tracepoint = "ispin_take")]
pub fn ispin_take(ctx: RawTracePointContext) -> i32 {
    let event = Arguments(ctx);
    if let Some(lane) = lane(event.key()) {
        lane.take(&event);
    }
    0
}

/// A lock was acquired.
#[raw_tracepoint(tracepoint = "ispin_acquire")]
pub fn ispin_acquire(ctx: RawTracePointContext) -> i32 {
    let event = Arguments(ctx);
    if let Some(lane) = lane(event.key())
        && let Some(index) = lane.acquire(&event)
    {
        waiter_preempted(event.0.as_ptr(), lane, index);
    }
    0
}

/// A lock was released.
#[raw_tracepoint(tracepoint = "ispin_release")]
pub fn ispin_release(ctx: RawTracePointContext) -> i32 {
    let event = Arguments(ctx);
    if let Some(lane) = lane(event.key()) {
        let word = LastRelease::new(event.lock(), event.ticket(), event.tsc()).0;
        // SAFETY: the map lives as long as the program; an aligned 64-bit store is not torn.
        unsafe { last_release(event.lock()).write_volatile(word) };
        if let Some(hold) = lane.release(&event) {
            holder_preempted(event.0.as_ptr(), lane, hold.index, hold.tag);
        }
    }
    0
}

/// A ticket was refused.
#[raw_tracepoint(tracepoint = "ispin_incapable")]
pub fn ispin_incapable(ctx: RawTracePointContext) -> i32 {
    let event = Arguments(ctx);
    if let Some(lane) = lane(event.key()) {
        lane.refuse(&event);
    }
    0
}

/// A tracepoint's arguments, in the order of docs/abi.md.
struct Arguments(RawTracePointContext);

impl Arguments {
    /// Key of the lane.
    #[inline(always)]
    fn key(&self) -> u32 {
        // SAFETY: a helper without preconditions.
        lane_key(unsafe { bpf_get_smp_processor_id() }, self.ctx().level())
    }
}

impl Report for Arguments {
    #[inline(always)]
    fn lock(&self) -> u64 {
        self.0.arg(0)
    }
    #[inline(always)]
    fn ip(&self) -> u64 {
        self.0.arg(1)
    }
    #[inline(always)]
    fn ticket(&self) -> u32 {
        self.0.arg::<u64>(2) as u32
    }
    #[inline(always)]
    fn lql(&self) -> u32 {
        self.0.arg::<u64>(3) as u32
    }
    #[inline(always)]
    fn ids(&self) -> Ids {
        Ids(self.0.arg(4))
    }
    #[inline(always)]
    fn tsc(&self) -> u64 {
        self.0.arg(5)
    }
    #[inline(always)]
    fn cap(&self) -> i64 {
        self.0.arg::<u64>(6) as i64
    }
    #[inline(always)]
    fn ctx(&self) -> Ctx {
        Ctx(self.0.arg(7))
    }
    #[inline(always)]
    fn start(&self) -> u64 {
        self.0.arg(8)
    }
    #[inline(always)]
    fn off(&self) -> u64 {
        self.0.arg(9)
    }
}

/// The lane, if it is enabled.
#[inline(always)]
fn lane(key: u32) -> Option<&'static mut GuestLane> {
    let lane = GUEST_LANES.get_ptr_mut(key)?;
    // SAFETY: this CPU at this level is the entry's one writer; the kernel does not run a program in the
    // middle of itself, and another of the four comes in between only at a higher level.
    let lane = unsafe { &mut *lane };
    (lane.enabled != 0).then_some(lane)
}

/// The word of the last release of `lock`.
#[inline(always)]
fn last_release(lock: u64) -> *mut u64 {
    // SAFETY: the place is inside the array.
    unsafe { addr_of_mut!(RELEASES).cast::<u64>().add(release_place(lock, NR_RELEASES) as usize) }
}

#[inline(never)]
fn waiter_preempted(ctx: *mut c_void, lane: &mut GuestLane, index: usize) {
    let event = Arguments(RawTracePointContext::new(ctx));
    // SAFETY: the map lives as long as the program; an aligned 64-bit load is not torn.
    let released = LastRelease(unsafe { last_release(event.lock()).read_volatile() });
    let released = released.before(event.lock(), event.ticket(), event.tsc());
    let incident = lane.judge_wait(index, &event, released);
    tell(incident, event.key(), lane);
}

#[inline(never)]
fn holder_preempted(ctx: *mut c_void, lane: &mut GuestLane, index: usize, tag: Tag) {
    let event = Arguments(RawTracePointContext::new(ctx));
    let incident = lane.judge_hold(index, tag, &event);
    tell(incident, event.key(), lane);
}

/// Appends the incident to the lane's ring, or counts that it was full.
#[inline(always)]
fn tell(mut incident: Incident, key: u32, lane: &mut GuestLane) {
    let Some(ring) = GUEST_RINGS.get_ptr_mut(key) else { return };
    incident.vcpu = key / LEVELS;
    // SAFETY: the map zeroed the ring; this CPU at this level is its one producer.
    if !unsafe { GuestRing::push(ring, &incident) } {
        lane.classifier.counters.dropped += 1;
    }
}
