//! A look into the kernel's memory, for the agent: one small request at a time.
//!
//! What is only known to the running kernel (where it put each CPU's copy of the per-CPU variables) is read by the
//! eBPF program `ispin_memory`, which answers the request in `MEMORY_REQUEST` at the next system call of the asking
//! thread.

/// Words that one request reads.
pub const MEMORY_WORDS: usize = 64;

/// The one element of the memory-mapped array `MEMORY_REQUEST`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct MemoryRequest {
    /// Who asks: thread id.
    pub tid: u32,
    /// [`ASKED`], [`ANSWERED`] or [`REFUSED`]; 0 = nothing.
    pub state: u32,
    /// What is to be read.
    pub address: u64,
    /// What was read there.
    pub words: [u64; MEMORY_WORDS],
}

/// Value of [`MemoryRequest::state`]: the agent waits.
pub const ASKED: u32 = 1;
/// Value of [`MemoryRequest::state`]: `words` are there.
pub const ANSWERED: u32 = 2;
/// Value of [`MemoryRequest::state`]: the kernel could not read there.
pub const REFUSED: u32 = 3;
