//! Reads kernel memory for the agent, see [`ispin_common::memory`]. Attached for a moment only.

use core::ptr::{addr_of, addr_of_mut};

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use aya_ebpf::macros::{map, raw_tracepoint};
use aya_ebpf::maps::Array;
use aya_ebpf::programs::RawTracePointContext;
use ispin_common::memory::{ANSWERED, ASKED, MEMORY_WORDS, MemoryRequest, REFUSED};

const BPF_F_MMAPABLE: u32 = 1 << 10;

#[map]
static MEMORY_REQUEST: Array<MemoryRequest> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// A system call begins: answers a request if the calling thread made it.
#[raw_tracepoint(tracepoint = "sys_enter")]
pub fn ispin_memory(_ctx: RawTracePointContext) -> i32 {
    let Some(request) = MEMORY_REQUEST.get_ptr_mut(0) else { return 0 };
    // SAFETY: the map lives as long as the program. The thread that asked is the one that runs, so nobody else
    // touches the request.
    unsafe {
        if addr_of!((*request).state).read_volatile() != ASKED
            || addr_of!((*request).tid).read_volatile() != bpf_get_current_pid_tgid() as u32
        {
            return 0;
        }
        let from = addr_of!((*request).address).read_volatile() as *const core::ffi::c_void;
        let size = (MEMORY_WORDS * 8) as u32;
        let failed = bpf_probe_read_kernel(addr_of_mut!((*request).words).cast(), size, from) != 0;
        addr_of_mut!((*request).state).write_volatile(if failed { REFUSED } else { ANSWERED });
    }
    0
}
