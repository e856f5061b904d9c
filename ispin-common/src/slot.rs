//! What a hypervisor publishes for each vCPU (paper, section 4.2.1; Xen: unused tail of `struct shared_info`).
//!
//! | offset in the page | content |
//! |---|---|
//! | 3136 | [`SlotHeader`], 64 bytes |
//! | 3200 | [`MAX_SLOTS`] times [`Slot`], 32 bytes each, indexed by the hypervisor's vCPU id |
//!
//! The writer stores `preemption_time` and `dispatch_start` first and then publishes with one aligned
//! 64-bit store of `ids`. A vCPU reads its own slot with [`read_own`]; of another vCPU it reads `ids` alone.

use core::mem::{offset_of, size_of};
use core::ptr::{addr_of, read_volatile};

/// Size of the page that carries the slots.
pub const PAGE_SIZE: usize = 4096;
/// Where [`SlotHeader`] starts: the size of `struct shared_info` on x86-64.
pub const HEADER_OFFSET: usize = 3136;
/// Where slot 0 starts.
pub const SLOTS_OFFSET: usize = 3200;
/// Slots in one page.
pub const MAX_SLOTS: usize = 28;
/// `"SPIN"`, little endian.
pub const MAGIC: u32 = 0x4e49_5053;
/// Version of this layout.
pub const VERSION: u32 = 1;
/// `preemption_time` of a vCPU whose quantum has no end.
pub const NO_LIMIT: u64 = u64::MAX;
/// The paper's estimate of a critical section, in the slot's time unit (section 4.1; its Figure 5 says 2^15).
pub const DEFAULT_CSD: u64 = 1 << 14;

/// Unit of every time in a page of slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum TimeUnit {
    /// Cycles of the guest's TSC.
    GuestTsc = 0,
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    MonotonicNs = 1,
}

/// Says that the tail of the page holds slots, and how they look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct SlotHeader {
    /// [`MAGIC`]
    pub magic: u32,
    /// [`VERSION`]
    pub version: u32,
    /// Slots in use: the number of vCPUs, at most [`MAX_SLOTS`].
    pub nr_slots: u32,
    /// Size of one slot in bytes.
    pub slot_size: u32,
    /// A [`TimeUnit`] as a number.
    pub time_unit: u32,
    /// Zero.
    pub reserved: [u32; 11],
}

impl SlotHeader {
    /// The header of a page with `nr_slots` slots.
    pub const fn new(nr_slots: u32, unit: TimeUnit) -> Self {
        Self {
            magic: MAGIC,
            version: VERSION,
            nr_slots,
            slot_size: size_of::<Slot>() as u32,
            time_unit: unit as u32,
            reserved: [0; 11],
        }
    }

    /// The unit of the times in this page, or what is wrong with the header.
    pub const fn validate(&self) -> Result<TimeUnit, HeaderError> {
        if self.magic != MAGIC {
            return Err(HeaderError::Magic);
        }
        if self.version != VERSION {
            return Err(HeaderError::Version);
        }
        if self.slot_size as usize != size_of::<Slot>() || self.nr_slots as usize > MAX_SLOTS {
            return Err(HeaderError::Shape);
        }
        match self.time_unit {
            0 => Ok(TimeUnit::GuestTsc),
            1 => Ok(TimeUnit::MonotonicNs),
            _ => Err(HeaderError::Unit),
        }
    }
}

/// Why a [`SlotHeader`] cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderError {
    /// No magic: nobody publishes slots in this page.
    Magic,
    /// Published by a hypervisor with another version of the layout.
    Version,
    /// Slot size or slot count out of range.
    Shape,
    /// Unknown time unit.
    Unit,
}

/// `slice_id` (low half) and `dispatch_id` (high half) in the one word that is published atomically.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Ids(pub u64);

impl Ids {
    /// Nothing published yet.
    pub const UNPUBLISHED: Self = Self(0);

    /// Joins the halves.
    #[inline(always)]
    pub const fn new(slice_id: u32, dispatch_id: u32) -> Self {
        Self((dispatch_id as u64) << 32 | slice_id as u64)
    }

    /// Number of the quantum; 0 = none published.
    #[inline(always)]
    pub const fn slice_id(self) -> u32 {
        self.0 as u32
    }

    /// Number of the dispatch; bit 0 is set while the vCPU is on a pCPU.
    #[inline(always)]
    pub const fn dispatch_id(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Whether a quantum has been published.
    #[inline(always)]
    pub const fn published(self) -> bool {
        self.slice_id() != 0
    }

    /// Whether the vCPU is on a pCPU now.
    #[inline(always)]
    pub const fn on_pcpu(self) -> bool {
        self.0 >> 32 & 1 == 1
    }

    /// The ids of the next dispatch, which comes with a new quantum. Skips `slice_id` 0.
    #[inline(always)]
    pub const fn next_dispatch(self) -> Self {
        let dispatch = (self.dispatch_id() | 1).wrapping_add(2);
        Self::new(self.next_slice_id(), dispatch)
    }

    /// The ids of the next dispatch when it goes on with the same quantum.
    #[inline(always)]
    pub const fn next_stay(self) -> Self {
        Self::new(self.slice_id(), (self.dispatch_id() | 1).wrapping_add(2))
    }

    /// The ids after a renewal: a new quantum for a vCPU that stays on its pCPU.
    #[inline(always)]
    pub const fn next_renewal(self) -> Self {
        Self::new(self.next_slice_id(), self.dispatch_id())
    }

    /// The ids after a switch-out: bit 0 of `dispatch_id` cleared.
    #[inline(always)]
    pub const fn switched_out(self) -> Self {
        Self(self.0 & !(1 << 32))
    }

    /// The same uninterrupted stay on a pCPU.
    #[inline(always)]
    pub const fn same_dispatch(self, other: Self) -> bool {
        self.0 >> 33 == other.0 >> 33
    }

    /// The same quantum.
    #[inline(always)]
    pub const fn same_slice(self, other: Self) -> bool {
        self.0 as u32 == other.0 as u32
    }

    #[inline(always)]
    const fn next_slice_id(self) -> u32 {
        let next = self.slice_id().wrapping_add(1);
        if next == 0 { 1 } else { next }
    }
}

/// What is published for one vCPU. Times are in the unit of the header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(32))]
pub struct Slot {
    /// [`Ids`]; stored last at switch-in and at renewal.
    pub ids: u64,
    /// End of the current quantum; [`NO_LIMIT`] = none.
    pub preemption_time: u64,
    /// When the current dispatch began.
    pub dispatch_start: u64,
    /// When the vCPU last left its pCPU.
    pub last_out: u64,
}

/// A page as a guest maps it.
#[derive(Clone, Copy)]
#[repr(C, align(4096))]
pub struct SlotPage {
    /// Owned by somebody else (`struct shared_info` under Xen).
    pub foreign: [u8; HEADER_OFFSET],
    /// Header of the slots.
    pub header: SlotHeader,
    /// The slots.
    pub slots: [Slot; MAX_SLOTS],
}

const _: () = {
    assert!(size_of::<SlotHeader>() == 64);
    assert!(size_of::<Slot>() == 32);
    assert!(size_of::<SlotPage>() == PAGE_SIZE);
    assert!(offset_of!(SlotHeader, magic) == 0);
    assert!(offset_of!(SlotHeader, version) == 4);
    assert!(offset_of!(SlotHeader, nr_slots) == 8);
    assert!(offset_of!(SlotHeader, slot_size) == 12);
    assert!(offset_of!(SlotHeader, time_unit) == 16);
    assert!(offset_of!(Slot, ids) == 0);
    assert!(offset_of!(Slot, preemption_time) == 8);
    assert!(offset_of!(Slot, dispatch_start) == 16);
    assert!(offset_of!(Slot, last_out) == 24);
    assert!(offset_of!(SlotPage, header) == HEADER_OFFSET);
    assert!(offset_of!(SlotPage, slots) == SLOTS_OFFSET);
    assert!(SLOTS_OFFSET + MAX_SLOTS * size_of::<Slot>() == PAGE_SIZE);
    assert!(MAGIC.to_le_bytes()[0] == b'S' && MAGIC.to_le_bytes()[3] == b'N');
};

/// `ids` of any vCPU's slot.
///
/// # Safety
/// `slot` points to a readable, aligned [`Slot`] that stays mapped.
#[inline(always)]
pub unsafe fn read_ids(slot: *const Slot) -> Ids {
    // SAFETY: readable and aligned by the caller's word; an aligned 64-bit load is not torn.
    Ids(unsafe { read_volatile(addr_of!((*slot).ids)) })
}

/// A consistent copy of the reader's own slot: ids, times, ids again, until both agree.
///
/// The reader runs on the vCPU that the slot describes, so a change in mid-read means that it was off its
/// pCPU and came back; the loop ends as soon as one pass is not interrupted.
///
/// # Safety
/// `slot` points to a readable, aligned [`Slot`] that stays mapped.
#[inline(always)]
pub unsafe fn read_own(slot: *const Slot) -> Slot {
    loop {
        // SAFETY: as the caller promises; volatile loads are not reordered among themselves by the
        // compiler, and x86-64 does not reorder loads.
        unsafe {
            let ids = read_volatile(addr_of!((*slot).ids));
            let copy = Slot {
                ids,
                preemption_time: read_volatile(addr_of!((*slot).preemption_time)),
                dispatch_start: read_volatile(addr_of!((*slot).dispatch_start)),
                last_out: read_volatile(addr_of!((*slot).last_out)),
            };
            if read_volatile(addr_of!((*slot).ids)) == ids {
                return copy;
            }
        }
    }
}
