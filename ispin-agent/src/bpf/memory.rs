//! Asks the program `ispin_memory` for a piece of kernel memory.

use std::ptr::{addr_of, addr_of_mut};

use anyhow::{Context, Result, anyhow, bail};
use aya::Ebpf;
use aya::programs::RawTracePoint;
use ispin_common::memory::{ANSWERED, ASKED, MEMORY_WORDS, MemoryRequest};
use rustix::thread::gettid;

use super::mmap::MappedArray;

const PROGRAM: &str = "ispin_memory";

/// Reads `words` words at `address`. The program is attached only meanwhile.
pub fn read(bpf: &mut Ebpf, address: u64, words: usize) -> Result<Vec<u64>> {
    let request: MappedArray<MemoryRequest> = MappedArray::of(bpf, "MEMORY_REQUEST")?;
    let program = bpf.program_mut(PROGRAM).ok_or_else(|| {
        anyhow!("the eBPF object has no program {PROGRAM}: it was built from other sources")
    })?;
    let program: &mut RawTracePoint = program.try_into()?;
    if program.fd().is_err() {
        program.load().with_context(|| format!("the kernel refused the program {PROGRAM}"))?;
    }
    let link = program.attach("sys_enter").context("attaching to the tracepoint sys_enter")?;
    let read = ask_for_all(&request, address, words);
    program.detach(link).context("detaching from the tracepoint sys_enter")?;
    read
}

fn ask_for_all(request: &MappedArray<MemoryRequest>, address: u64, words: usize) -> Result<Vec<u64>> {
    let mut all = vec![];
    while all.len() < words {
        let at = address.wrapping_add(8 * all.len() as u64);
        let wanted = (words - all.len()).min(MEMORY_WORDS);
        all.extend_from_slice(&ask(request, at)?[..wanted]);
    }
    Ok(all)
}

fn ask(request: &MappedArray<MemoryRequest>, address: u64) -> Result<[u64; MEMORY_WORDS]> {
    let request = request.get(0).context("the BPF map MEMORY_REQUEST is empty")?;
    let tid = gettid().as_raw_nonzero().get() as u32;
    // SAFETY: inside the mapping, which the caller keeps; the program writes it only during a system call of this
    // thread, and only after `state` says that it may.
    unsafe {
        addr_of_mut!((*request).tid).write_volatile(tid);
        addr_of_mut!((*request).address).write_volatile(address);
        addr_of_mut!((*request).state).write_volatile(ASKED);
        // Any system call will do.
        let _ = rustix::process::getppid();
        let state = addr_of!((*request).state).read_volatile();
        addr_of_mut!((*request).state).write_volatile(0);
        match state {
            ANSWERED => Ok(addr_of!((*request).words).read_volatile()),
            ASKED => bail!("the program was not run at a system call"),
            _ => bail!("the kernel cannot read there"),
        }
    }
}
