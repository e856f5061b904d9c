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
BEGIN { printf(\"attached\\n\"); }
rawtracepoint:ispin_take { @taken[cpu, arg0] = arg5; }
rawtracepoint:ispin_acquire {
	@acquires[arg0] = count();
	@wait[arg0] = sum(arg5 - @taken[cpu, arg0]);
	@acquired[cpu, arg0] = arg5;
}
rawtracepoint:ispin_release { @hold[arg0] = sum(arg5 - @acquired[cpu, arg0]); }
";

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
