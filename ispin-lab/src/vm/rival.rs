//! Other observers of the same tracepoints, to compare the agent's cost with.

use super::packages::Needed;

/// An observer other than the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rival {
    /// The kernel's own ring buffer: every event is recorded
    Ftrace,
    /// bpftrace, counting and timing per lock. `perf lock contention -b`, which would be nearer, needs tracepoints
    /// that a ticket lock does not have
    Bpftrace,
}

/// Where the guest has bpftrace's program.
pub const PROGRAM: &str = "/ispin/rival.bt";

/// The debugger's file on the host, and in the guest.
pub const BPFTRACE: Needed = Needed { path: "/usr/bin/bpftrace", package: "bpftrace" };

/// What the agent keeps of ordinary operations, as far as bpftrace can: acquires, waits and holds per lock.
pub const BPFTRACE_PROGRAM: &str = "\
#define u64 unsigned long long
#define s64 long long
#define u32 unsigned int
BEGIN { printf(\"attached\\n\"); }
tracepoint:ispinlock:ispin_take { @taken[cpu, args->lock] = args->tsc; }
tracepoint:ispinlock:ispin_acquire {
	@acquires[args->lock] = count();
	@wait[args->lock] = sum(args->tsc - @taken[cpu, args->lock]);
	@acquired[cpu, args->lock] = args->tsc;
}
tracepoint:ispinlock:ispin_release { @hold[args->lock] = sum(args->tsc - @acquired[cpu, args->lock]); }
";

/// Folders of headers that bpftrace compiles its types with (package linux-libc-dev, which every compiler brings).
pub const BPFTRACE_HEADERS: [&str; 3] =
    ["/usr/include/linux", "/usr/include/asm-generic", "/usr/include/x86_64-linux-gnu/asm"];

impl Rival {
    /// Shell commands of the guest that attach it.
    pub fn attach(self) -> String {
        match self {
            Self::Ftrace => "echo 1024 > $tracing/buffer_size_kb || fail \"no memory for a trace\"\n\
                 echo 1 > $tracing/events/ispinlock/enable || fail \"the trace cannot be started\"\n"
                .to_owned(),
            Self::Bpftrace => format!(
                "{} {PROGRAM} > /tmp/rival 2>&1 &\n\
                 tries=0\n\
                 until grep -q '^attached' /tmp/rival; do\n\
                 \x20   tries=$((tries + 1))\n\
                 \x20   [ $tries -lt 1200 ] || fail \"bpftrace did not attach: $(head -n 3 /tmp/rival)\"\n\
                 \x20   sleep 0.05\n\
                 done\n",
                BPFTRACE.path
            ),
        }
    }
}
