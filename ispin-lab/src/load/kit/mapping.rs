//! Anonymous private memory straight from the kernel.

use std::ptr::null_mut;
use std::slice::{from_raw_parts, from_raw_parts_mut};
use std::sync::atomic::AtomicU64;

use anyhow::{Context, Result};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// Mapped memory, zeroed, no page of it touched yet.
pub struct Mapping {
    address: *mut u64,
    length: usize,
}

impl Mapping {
    /// `length` bytes.
    pub fn new(length: usize) -> Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses a free range.
        let address = unsafe { mmap_anonymous(null_mut(), length, protection, MapFlags::PRIVATE) }
            .with_context(|| format!("mapping {length} bytes: give the guest more memory"))?;
        Ok(Self { address: address.cast(), length })
    }

    /// Its words.
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: mapped, aligned to a page; any bytes are a valid AtomicU64.
        unsafe { from_raw_parts(self.address.cast(), self.length / size_of::<u64>()) }
    }

    /// Its words, for whoever has them alone.
    pub fn words_mut(&mut self) -> &mut [u64] {
        // SAFETY: as above, and borrowed from `self` alone.
        unsafe { from_raw_parts_mut(self.address, self.length / size_of::<u64>()) }
    }

    /// Gives it back.
    pub fn unmap(mut self) -> Result<()> {
        self.release().context("unmapping memory")
    }

    fn release(&mut self) -> rustix::io::Result<()> {
        match std::mem::take(&mut self.length) {
            0 => Ok(()),
            // SAFETY: mapped by `new`, unmapped once; every reference into it borrowed `self`.
            length => unsafe { munmap(self.address.cast(), length) },
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if let Err(error) = self.release() {
            eprintln!("ispin-load: unmapping memory: {error}");
        }
    }
}
