//! A single-producer, single-consumer ring in memory that two parties map.
//!
//! The producer is an eBPF program (one ring per CPU and context level, so it never meets itself) or a vCPU
//! thread; the consumer is the agent. No lock, no system call; a record that finds the ring full is counted.

use core::ptr::{addr_of, addr_of_mut, read_volatile, write_volatile};

/// A ring of `N` records, a power of two.
#[repr(C, align(64))]
pub struct Ring<T: Copy, const N: usize> {
    /// Records ever pushed; written by the producer.
    pub head: u64,
    /// Records that found the ring full; written by the producer.
    pub dropped: u64,
    pad: [u64; 6],
    /// Records ever popped; written by the consumer.
    pub tail: u64,
    pad2: [u64; 7],
    slots: [T; N],
}

impl<T: Copy, const N: usize> Ring<T, N> {
    const MASK: u64 = {
        assert!(N.is_power_of_two());
        N as u64 - 1
    };

    /// Appends `record`, or counts it as dropped and returns false when the ring is full.
    ///
    /// # Safety
    /// `ring` points to a mapped, aligned ring, zeroed before its first use; no other producer runs.
    #[inline(always)]
    pub unsafe fn push(ring: *mut Self, record: &T) -> bool {
        // SAFETY: by the caller's word; indices are masked, so the slot is inside the ring.
        unsafe {
            let head = read_volatile(addr_of!((*ring).head));
            let tail = read_volatile(addr_of!((*ring).tail));
            if head.wrapping_sub(tail) >= N as u64 {
                let dropped = read_volatile(addr_of!((*ring).dropped));
                write_volatile(addr_of_mut!((*ring).dropped), dropped.wrapping_add(1));
                return false;
            }
            let slot = addr_of_mut!((*ring).slots).cast::<T>().add((head & Self::MASK) as usize);
            // The record is complete before the head says so: volatile accesses keep their order in the
            // compiler (BPF has no fence), and x86-64 keeps stores in order.
            write_volatile(slot, *record);
            write_volatile(addr_of_mut!((*ring).head), head.wrapping_add(1));
        }
        true
    }

    /// Takes the oldest record.
    ///
    /// # Safety
    /// As for [`Self::push`]; no other consumer runs.
    #[inline(always)]
    pub unsafe fn pop(ring: *mut Self) -> Option<T> {
        // SAFETY: by the caller's word; the slot at tail is not rewritten before tail moves.
        unsafe {
            let tail = read_volatile(addr_of!((*ring).tail));
            if read_volatile(addr_of!((*ring).head)) == tail {
                return None;
            }
            let slot = addr_of!((*ring).slots).cast::<T>().add((tail & Self::MASK) as usize);
            let record = read_volatile(slot);
            write_volatile(addr_of_mut!((*ring).tail), tail.wrapping_add(1));
            Some(record)
        }
    }

    /// Records that found the ring full so far.
    ///
    /// # Safety
    /// `ring` points to a mapped, aligned ring.
    pub unsafe fn dropped(ring: *const Self) -> u64 {
        // SAFETY: by the caller's word.
        unsafe { read_volatile(addr_of!((*ring).dropped)) }
    }
}
