//! A world without a kernel, for the tests of the lock library: they publish the slots themselves.

use std::cell::UnsafeCell;

use ispin_common::slot::{Ids, Slot};
use ispin_common::threads::{Control, VcpuRow, Word};
use ispin_lab::vcpu::Vcpu;

/// So long that a test thread stays incapable however late it runs on a busy machine.
pub const CSD: u64 = 60_000_000_000;

/// Shared memory of a world without a kernel: the tests publish the slots themselves.
pub struct World {
    slots: Vec<UnsafeCell<Slot>>,
    rows: Vec<Box<UnsafeCell<VcpuRow>>>,
    control: Control,
}

// SAFETY: slots are written by one publisher with volatile stores, each row by its thread.
unsafe impl Sync for World {}

impl World {
    pub fn new(vcpus: usize, preemption_time: u64) -> Self {
        let slot = Slot { ids: Ids::UNPUBLISHED.next_dispatch().0, preemption_time, ..Slot::default() };
        // SAFETY: all zeroes is a valid row.
        let row = || unsafe { Box::<UnsafeCell<VcpuRow>>::new_zeroed().assume_init() };
        Self {
            slots: (0..vcpus).map(|_| UnsafeCell::new(slot)).collect(),
            rows: (0..vcpus).map(|_| row()).collect(),
            control: Control { tracing: 1, tick_ns: 4_000_000, ..Control::default() },
        }
    }

    pub fn vcpu(&self, i: usize) -> Vcpu {
        self.vcpu_with_csd(i, CSD)
    }

    pub fn vcpu_with_csd(&self, i: usize, csd: u64) -> Vcpu {
        // SAFETY: the world outlives its vCPUs in every test; one thread per row.
        unsafe { Vcpu::new(self.slots[i].get(), self.rows[i].get(), &self.control, i as u32, csd) }
    }

    pub fn row(&self, i: usize) -> &VcpuRow {
        // SAFETY: read after its thread has ended.
        unsafe { &*self.rows[i].get() }
    }

    /// What vCPU `i` does, while it runs too.
    pub fn word(&self, i: usize) -> Word {
        // SAFETY: one aligned word, written by a running thread with volatile stores.
        Word(unsafe { (&raw const (*self.rows[i].get()).word).read_volatile() })
    }

    /// For the one thread that publishes: what comes after the slot as it is.
    pub fn publish(&self, i: usize, next: impl FnOnce(Slot) -> Slot) {
        // SAFETY: no other thread writes it; ids last.
        unsafe {
            let at = self.slots[i].get();
            let slot = next(at.read_volatile());
            (&raw mut (*at).preemption_time).write_volatile(slot.preemption_time);
            (&raw mut (*at).dispatch_start).write_volatile(slot.dispatch_start);
            (&raw mut (*at).last_out).write_volatile(slot.last_out);
            (&raw mut (*at).ids).write_volatile(slot.ids);
        }
    }
}
