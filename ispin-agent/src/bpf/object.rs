//! The eBPF object that the build script built, or took from `prebuilt/` when the sources' hash matched.

/// The object, aligned as the ELF reader wants it.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/ispin-ebpf"));
/// How it came about, in words: the toolchain that built it, or that it is the prebuilt one.
pub const ORIGIN: &str = env!("ISPIN_EBPF_ORIGIN");
