//! BPF arrays mapped into this process.

use std::marker::PhantomData;
use std::os::fd::AsFd;
use std::ptr::NonNull;

use anyhow::{Context, Result, anyhow, bail};
use aya::maps::{Map, MapData, MapInfo};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// A copy of what `from` points to, taken word by word: no 64-bit number in it is torn, though it may be written
/// meanwhile.
///
/// # Safety
/// `from` is aligned to 8 bytes and points to mapped memory. `T` is a multiple of 8 bytes long and valid for every bit
/// pattern.
pub unsafe fn read_words<T>(from: *const T) -> Box<T> {
    const { assert!(size_of::<T>().is_multiple_of(8) && align_of::<T>() >= 8) };
    let mut copy = Box::<T>::new_uninit();
    for word in 0..size_of::<T>() / 8 {
        // SAFETY: both sides are inside their objects; the rest by the caller's word.
        unsafe {
            copy.as_mut_ptr().cast::<u64>().add(word).write(from.cast::<u64>().add(word).read_volatile())
        };
    }
    // SAFETY: every word was written, and every bit pattern is valid by the caller's word.
    unsafe { copy.assume_init() }
}

/// A `BPF_F_MMAPABLE` array of `T`, mapped shared. Elements are reached through raw pointers, because the
/// kernel and other processes write them at any time.
pub struct MappedArray<T> {
    base: NonNull<u8>,
    bytes: usize,
    len: usize,
    stride: usize,
    id: u32,
    _elements: PhantomData<T>,
}

// SAFETY: the mapping belongs to the process; access is through raw pointers whose users state their rules.
unsafe impl<T> Send for MappedArray<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for MappedArray<T> {}

impl<T> MappedArray<T> {
    /// Maps the array called `name` of a loaded object.
    pub fn of(bpf: &aya::Ebpf, name: &str) -> Result<Self> {
        match bpf.map(name) {
            Some(Map::Array(data)) => Self::new(data).with_context(|| format!("mapping BPF map {name}")),
            Some(_) => bail!("BPF map {name} is not an array"),
            None => bail!("the eBPF object has no map {name}: it was built from other sources"),
        }
    }

    /// Maps the array with kernel-wide number `id`.
    pub fn from_id(id: u32) -> Result<Self> {
        let data = MapData::from_id(id).with_context(|| format!("opening BPF map {id}"))?;
        Self::new(&data).with_context(|| format!("mapping BPF map {id}"))
    }

    fn new(data: &MapData) -> Result<Self> {
        let info = MapInfo::from_id(data.info()?.id())?;
        // Elements of an array are laid out at multiples of 8 bytes (kernel/bpf/arraymap.c).
        let stride = (info.value_size() as usize).next_multiple_of(8);
        if stride != size_of::<T>().next_multiple_of(8) {
            bail!(
                "its elements have {} bytes where this program expects {}: the programs that share it are of different versions",
                info.value_size(),
                size_of::<T>()
            );
        }
        let len = info.max_entries() as usize;
        let bytes = (stride * len).next_multiple_of(rustix::param::page_size());
        // SAFETY: a new shared mapping of the map's own memory; nothing else is placed there.
        let base = unsafe {
            mmap(
                std::ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                data.fd().as_fd(),
                0,
            )
        }
        .context("mmap of the BPF array (needs Linux 5.5 and BPF_F_MMAPABLE)")?;
        let base = NonNull::new(base.cast()).ok_or_else(|| anyhow!("mmap returned a null pointer"))?;
        Ok(Self { base, bytes, len, stride, id: info.id(), _elements: PhantomData })
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none (BPF does not allow that).
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The map's kernel-wide number.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Pointer to element `i`, valid while `self` lives.
    pub fn get(&self, i: usize) -> Option<*mut T> {
        // SAFETY: the offset is inside the mapping for i < len.
        (i < self.len).then(|| unsafe { self.base.as_ptr().add(i * self.stride).cast() })
    }
}

impl<T> Drop for MappedArray<T> {
    fn drop(&mut self) {
        // SAFETY: base and bytes are those of the mapping made in `new`; no pointer outlives self.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}
