//! The layout of the pages that a guest shares with dom0: one page of control, then the rings, one per channel.
//!
//! A ring has one writer, the guest, and one reader, dom0. Positions count bytes since the beginning and never wrap.

use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use anyhow::{Result, bail, ensure};

/// Bytes of a page.
pub const PAGE: usize = 4096;
/// Pages of a ring: the snapshots of half a second. One that does not fit makes the guest's side look for room until dom0
/// has looked, and each of those looks can take the CPU from another guest.
pub const RING_PAGES: usize = 64;
/// Bytes of a ring.
pub const RING: usize = RING_PAGES * PAGE;
/// Channels at most.
pub const CHANNELS: usize = 4;
/// Pages after the first at most.
pub const GRANTS: usize = CHANNELS * RING_PAGES;

const MAGIC: u32 = u32::from_le_bytes(*b"ISPR");

/// The first page. The guest makes it; from then on each field has one writer.
#[repr(C)]
struct Control {
    /// Written last when the page is made.
    magic: AtomicU32,
    /// By the guest: how many channels there are.
    channels: AtomicU32,
    /// By the guest: its load is about to start.
    ready: AtomicU32,
    /// By the guest: its load runs.
    running: AtomicU32,
    /// By the guest: its load has ended.
    loaded: AtomicU32,
    /// By dom0: all loads have ended.
    all_loaded: AtomicU32,
    /// By the guest: nothing more will come.
    ended: AtomicU32,
    /// By dom0: when all loads start, ns since the Unix epoch by dom0's clock; 0 = not known yet.
    start_ns: AtomicU64,
    /// By dom0, before that: what its clock is.
    now_ns: AtomicU64,
    rings: [Positions; CHANNELS],
    /// By the guest: the grants of the rings' pages.
    grants: [AtomicU32; GRANTS],
}

#[repr(C)]
struct Positions {
    /// By the guest.
    produced: AtomicU64,
    /// By dom0.
    consumed: AtomicU64,
}

const _: () = assert!(size_of::<Control>() <= PAGE);

/// When all loads start, by dom0's clock, ns since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// The moment.
    pub at_ns: u64,
    /// What the clock was when that was told.
    pub now_ns: u64,
}

/// Memory that another domain may change at any time.
pub struct Mapping {
    base: NonNull<u8>,
    len: usize,
    unmap: bool,
}

// SAFETY: the memory is reached through atomics, and through copies of bytes that the positions give to one side.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Takes over pages that were mapped with `mmap`.
    ///
    /// # Safety
    /// `base` to `base + len` must be a mapping that nobody else unmaps or reaches by reference.
    pub unsafe fn new(base: NonNull<u8>, len: usize) -> Self {
        Self { base, len, unmap: true }
    }

    fn control(&self) -> &Control {
        assert!(self.len >= PAGE);
        // SAFETY: a whole page is mapped while self lives, aligned to a page, and `Control` is atomics alone.
        unsafe { self.base.cast::<Control>().as_ref() }
    }

    /// The bytes of ring `channel` from `offset` on, `len` of them.
    fn bytes(&self, first: usize, channel: usize, offset: usize, len: usize) -> *mut u8 {
        let begin = first + channel * RING + offset;
        assert!(offset + len <= RING && begin + len <= self.len);
        // SAFETY: within the mapping, as was just checked.
        unsafe { self.base.as_ptr().add(begin) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.unmap {
            // SAFETY: this value owns the mapping (see `new`).
            if let Err(error) = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) } {
                log::warn!("unmapping shared pages: {error}");
            }
        }
    }
}

/// The guest's side.
pub struct Writer {
    pages: Mapping,
}

impl Writer {
    /// Makes the layout in pages that are zero. `grants` are those of the pages after the first.
    pub fn new(pages: Mapping, channels: usize, grants: &[u32]) -> Self {
        assert!(channels <= CHANNELS && grants.len() == channels * RING_PAGES);
        assert!(pages.len >= PAGE + channels * RING);
        let control = pages.control();
        for (place, grant) in control.grants.iter().zip(grants) {
            place.store(*grant, Ordering::Relaxed);
        }
        control.channels.store(channels as u32, Ordering::Relaxed);
        control.magic.store(MAGIC, Ordering::Release);
        Self { pages }
    }

    /// How much fits into the ring now.
    pub fn room(&self, channel: usize) -> usize {
        let ring = &self.pages.control().rings[channel];
        let waiting = ring.produced.load(Ordering::Relaxed) - ring.consumed.load(Ordering::Acquire);
        RING.saturating_sub(waiting as usize)
    }

    /// Writes what must fit into [`Self::room`].
    pub fn write(&mut self, channel: usize, data: &[u8]) {
        assert!(data.len() <= self.room(channel));
        let ring = &self.pages.control().rings[channel];
        let produced = ring.produced.load(Ordering::Relaxed);
        let at = (produced % RING as u64) as usize;
        let (head, tail) = data.split_at(data.len().min(RING - at));
        for (part, at) in [(head, at), (tail, 0)] {
            let place = self.pages.bytes(PAGE, channel, at, part.len());
            // SAFETY: `place` has room for the part; these bytes are the writer's until `produced` grows.
            unsafe { place.copy_from_nonoverlapping(part.as_ptr(), part.len()) };
        }
        ring.produced.store(produced + data.len() as u64, Ordering::Release);
    }

    /// Whether everything was read.
    pub fn drained(&self) -> bool {
        self.pages
            .control()
            .rings
            .iter()
            .all(|ring| ring.produced.load(Ordering::Relaxed) == ring.consumed.load(Ordering::Acquire))
    }

    /// The load is about to start.
    pub fn set_ready(&mut self) {
        self.pages.control().ready.store(1, Ordering::Release);
    }

    /// When the load is to start, once dom0 has told.
    pub fn start(&self) -> Option<Start> {
        let control = self.pages.control();
        let at_ns = Some(control.start_ns.load(Ordering::Acquire)).filter(|&ns| ns != 0)?;
        Some(Start { at_ns, now_ns: control.now_ns.load(Ordering::Relaxed) })
    }

    /// The load runs.
    pub fn set_running(&mut self) {
        self.pages.control().running.store(1, Ordering::Release);
    }

    /// The load has ended.
    pub fn set_loaded(&mut self) {
        self.pages.control().loaded.store(1, Ordering::Release);
    }

    /// Whether those of the other guests have, too.
    pub fn all_loaded(&self) -> bool {
        self.pages.control().all_loaded.load(Ordering::Acquire) != 0
    }

    /// Nothing more will come.
    pub fn set_ended(&mut self) {
        self.pages.control().ended.store(1, Ordering::Release);
    }
}

/// dom0's side. What it reads was written by a guest and is checked.
pub struct Reader {
    control: Mapping,
    rings: Mapping,
    channels: usize,
}

/// Reads the first page: number of channels, and the grants of the pages that follow.
pub fn layout(control: &Mapping) -> Result<(usize, Vec<u32>)> {
    let page = control.control();
    ensure!(page.magic.load(Ordering::Acquire) == MAGIC, "the guest's first page is no control page");
    let channels = page.channels.load(Ordering::Relaxed) as usize;
    ensure!((1..=CHANNELS).contains(&channels), "the guest has {channels} channels");
    let grants = page.grants[..channels * RING_PAGES].iter().map(|grant| grant.load(Ordering::Relaxed));
    Ok((channels, grants.collect()))
}

impl Reader {
    /// From the first page and the pages of the rings.
    pub fn new(control: Mapping, rings: Mapping, channels: usize) -> Self {
        assert!(rings.len >= channels * RING);
        Self { control, rings, channels }
    }

    /// How many channels there are.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Appends what has come to `out` and gives its room back.
    pub fn read(&mut self, channel: usize, out: &mut Vec<u8>) -> Result<usize> {
        let ring = &self.control.control().rings[channel];
        let consumed = ring.consumed.load(Ordering::Relaxed);
        let waiting = ring.produced.load(Ordering::Acquire).wrapping_sub(consumed);
        if waiting > RING as u64 {
            bail!("the guest's ring {channel} holds {waiting} bytes, more than there is room for");
        }
        let (waiting, at) = (waiting as usize, (consumed % RING as u64) as usize);
        let first = waiting.min(RING - at);
        for (at, len) in [(at, first), (0, waiting - first)] {
            let place = self.rings.bytes(0, channel, at, len);
            // SAFETY: `len` bytes are mapped there, and the writer leaves them alone until `consumed` grows.
            out.extend_from_slice(unsafe { slice::from_raw_parts(place, len) });
        }
        ring.consumed.store(consumed + waiting as u64, Ordering::Release);
        Ok(waiting)
    }

    /// Whether the guest's load is about to start.
    pub fn ready(&self) -> bool {
        self.control.control().ready.load(Ordering::Acquire) != 0
    }

    /// Tells the guest when its load is to start.
    pub fn set_start(&mut self, Start { at_ns, now_ns }: Start) {
        let control = self.control.control();
        control.now_ns.store(now_ns, Ordering::Relaxed);
        control.start_ns.store(at_ns, Ordering::Release);
    }

    /// Whether the guest's load runs, or has run.
    pub fn running(&self) -> bool {
        self.control.control().running.load(Ordering::Acquire) != 0
    }

    /// Whether the guest's load has ended.
    pub fn loaded(&self) -> bool {
        self.control.control().loaded.load(Ordering::Acquire) != 0
    }

    /// Tells the guest that all loads have ended.
    pub fn set_all_loaded(&mut self) {
        self.control.control().all_loaded.store(1, Ordering::Release);
    }

    /// Whether nothing more will come. Asked before the last [`Self::read`].
    pub fn ended(&self) -> bool {
        self.control.control().ended.load(Ordering::Acquire) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both sides over the same memory, which lives until the process ends.
    fn pair(channels: usize) -> (Writer, Reader) {
        let len = PAGE + channels * RING;
        let words = Box::leak(vec![[0u64; PAGE / 8]; len / PAGE + 1].into_boxed_slice());
        let begin = words.as_mut_ptr().cast::<u8>();
        let begin = begin.map_addr(|address| address.next_multiple_of(PAGE));
        let part = |offset: usize, len: usize| Mapping {
            // SAFETY: within the leaked memory, which has a page more than `len`.
            base: NonNull::new(unsafe { begin.add(offset) }).unwrap(),
            len,
            unmap: false,
        };
        let grants: Vec<u32> = (100..).take(channels * RING_PAGES).collect();
        let writer = Writer::new(part(0, len), channels, &grants);
        let control = part(0, PAGE);
        assert_eq!(layout(&control).unwrap(), (channels, grants));
        (writer, Reader::new(control, part(PAGE, channels * RING), channels))
    }

    #[test]
    fn bytes_arrive_in_order_however_they_wrap() {
        let (mut writer, mut reader) = pair(2);
        let (mut sent, mut got) = (vec![], vec![]);
        for round in 0..400u32 {
            let data: Vec<u8> = (0..round * 37 % 5000).map(|i| (i ^ round) as u8).collect();
            writer.write(1, &data);
            sent.extend(data);
            reader.read(1, &mut got).unwrap();
        }
        assert!(sent.len() > 3 * RING && sent == got);
        assert!(writer.drained());
        assert_eq!(reader.read(0, &mut got).unwrap(), 0);
    }

    #[test]
    fn a_full_ring_has_no_room_until_it_is_read() {
        let (mut writer, mut reader) = pair(1);
        writer.write(0, &[7; RING]);
        assert_eq!((writer.room(0), writer.drained()), (0, false));
        let mut got = vec![];
        assert_eq!(reader.read(0, &mut got).unwrap(), RING);
        assert_eq!((writer.room(0), writer.drained()), (RING, true));
    }

    #[test]
    fn start_and_end_are_told() {
        let (mut writer, mut reader) = pair(1);
        assert!(!reader.ready() && !reader.loaded() && !reader.ended());
        assert!(writer.start().is_none() && !writer.all_loaded());
        writer.set_ready();
        let start = Start { at_ns: 5, now_ns: 3 };
        reader.set_start(start);
        assert!(reader.ready() && !reader.running());
        assert_eq!(writer.start(), Some(start));
        writer.set_running();
        assert!(reader.running() && !reader.loaded());
        writer.set_loaded();
        reader.set_all_loaded();
        assert!(reader.loaded() && !reader.ended() && writer.all_loaded());
        writer.set_ended();
        assert!(reader.ended());
    }

    #[test]
    fn a_guest_that_writes_nonsense_is_an_error() {
        let (writer, mut reader) = pair(1);
        writer.pages.control().rings[0].produced.store(RING as u64 + 1, Ordering::Release);
        assert!(reader.read(0, &mut vec![]).is_err());
        writer.pages.control().channels.store(99, Ordering::Release);
        assert!(layout(&reader.control).is_err());
    }
}
