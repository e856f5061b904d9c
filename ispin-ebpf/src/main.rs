//! Kernel side of ispin, one object:
//!
//! - [`publisher`]: `tp_btf/sched_switch`, the hypervisor of the threads world;
//! - [`guest`]: four raw tracepoint programs for the patched guest kernel;
//! - [`memory`]: a look into the kernel's memory, for names.
#![no_std]
#![no_main]

mod guest;
mod memory;
mod publisher;

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    // The verifier rejects a program from which this can be reached.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
