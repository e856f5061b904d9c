//! One function per capability. None of them changes anything that outlives it.

use std::fs;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use aya::programs::ProgramType;
use aya::sys::is_program_supported;
use rustix::thread::{CapabilitySet, CpuSet, capabilities, sched_getaffinity};

use super::State::{No, Unknown, Yes};
use super::{Capability, Depth, State, cgroup};
use crate::bpf::btf::KernelBtf;
use crate::bpf::publisher::Publisher;
use crate::source::guest::KALLSYMS;
use crate::{rt, session};

const THREADS: &[&str] = &["threads"];
const GUEST: &[&str] = &["guest"];
const BOTH: &[&str] = &["threads", "guest"];
const NONE: &[&str] = &[];

/// All capabilities, in the order in which they are shown.
pub fn all(btf: &Path, depth: Depth) -> Vec<Capability> {
    let effective = capabilities(None).map(|sets| sets.effective).unwrap_or(CapabilitySet::empty());
    let mut list = privileges(effective);
    list.extend([bpf_syscall(), mmapable_arrays(), socket_filters(), kernel_btf(btf), raw_tracepoints()]);
    if depth == Depth::Thorough {
        list.push(slot_publisher(btf));
    }
    list.extend([
        sched_rr(),
        rt_group_limit(),
        rt_throttling(),
        cpus(),
        unix_sockets(),
        ispinlock_tracepoints(btf),
        xen_slots(),
        threads_session(),
    ]);
    list
}

fn capability(
    name: &'static str,
    needed_by: &'static [&'static str],
    state: State,
    found: impl Into<String>,
    remedy: impl Into<String>,
) -> Capability {
    let remedy = (state != Yes).then(|| remedy.into());
    Capability { name, state, found: found.into(), remedy, needed_by }
}

/// The kernel lets CAP_SYS_ADMIN stand in for CAP_BPF and CAP_PERFMON, not for CAP_SYS_NICE.
fn privileges(effective: CapabilitySet) -> Vec<Capability> {
    let admin = effective.contains(CapabilitySet::SYS_ADMIN);
    let one = |name: &'static str, needed_by, has: bool, what_for: &str| {
        let found = if has { "effective".to_owned() } else { format!("not effective; {what_for}") };
        let remedy =
            format!("run as root (sudo), or give this program file the privilege: setcap {name}+ep FILE");
        capability(name, needed_by, if has { Yes } else { No }, found, remedy)
    };
    let has = |set| effective.contains(set);
    vec![
        one("cap_bpf", BOTH, admin || has(CapabilitySet::BPF), "loads eBPF programs"),
        one("cap_perfmon", BOTH, admin || has(CapabilitySet::PERFMON), "attaches them to tracepoints"),
        one("cap_sys_nice", THREADS, has(CapabilitySet::SYS_NICE), "makes threads real-time"),
        one(
            "cap_sys_admin",
            THREADS,
            admin,
            "opens the BPF maps of a running threads world by their numbers",
        ),
    ]
}

fn bpf_syscall() -> Capability {
    // SAFETY: BPF_MAP_CREATE with an attribute of size 0 reads nothing and is refused.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, 0, std::ptr::null::<u8>(), 0) };
    let error = io::Error::last_os_error();
    let absent = answer < 0 && error.raw_os_error() == Some(libc::ENOSYS);
    let (state, found) = if absent { (No, "bpf() is not implemented") } else { (Yes, "bpf() answers") };
    capability(
        "bpf_syscall",
        BOTH,
        state,
        found,
        "a kernel with CONFIG_BPF_SYSCALL=y (and CONFIG_BPF_EVENTS=y)",
    )
}

/// The start of `union bpf_attr` as BPF_MAP_CREATE reads it.
#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

fn mmapable_arrays() -> Capability {
    const BPF_MAP_CREATE: i32 = 0;
    const BPF_MAP_TYPE_ARRAY: u32 = 2;
    const BPF_F_MMAPABLE: u32 = 1 << 10;
    let attr = MapCreate {
        map_type: BPF_MAP_TYPE_ARRAY,
        key_size: 4,
        value_size: 8,
        max_entries: 1,
        map_flags: BPF_F_MMAPABLE,
    };
    // SAFETY: `attr` is valid for reading for its whole size, which is passed along.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_CREATE, &attr, size_of::<MapCreate>()) };
    let error = io::Error::last_os_error();
    let (state, found) = match (fd, error.raw_os_error()) {
        (0.., _) => {
            // SAFETY: a new descriptor that nothing else owns.
            drop(unsafe { OwnedFd::from_raw_fd(fd as i32) });
            (Yes, "made one".to_owned())
        }
        (_, Some(libc::EPERM)) => (Unknown, "this user may not try".to_owned()),
        _ => (No, format!("refused: {error}")),
    };
    capability("mmapable_arrays", BOTH, state, found, "Linux 5.5 or later, and CAP_BPF to find out")
}

fn socket_filters() -> Capability {
    let (state, found) = match is_program_supported(ProgramType::SocketFilter) {
        Ok(true) => (Yes, "socket filter programs load".to_owned()),
        Ok(false) => (No, "socket filter programs are refused".to_owned()),
        Err(e) => (Unknown, format!("this user cannot try: {}", chain(&e))),
    };
    capability(
        "socket_filters",
        BOTH,
        state,
        found,
        "a kernel with CONFIG_NET=y (the eBPF loader, aya, finds out with such a program whether programs may have \
         constant data), and CAP_BPF to find out",
    )
}

fn kernel_btf(path: &Path) -> Capability {
    let wanted = KernelBtf::read(path).and_then(|btf| btf.offset_of("task_struct", "rt.time_slice"));
    let (state, found) = match wanted {
        Ok(_) => (Yes, path.display().to_string()),
        Err(e) => (No, format!("{e:#}")),
    };
    capability(
        "kernel_btf",
        THREADS,
        state,
        found,
        "a kernel with CONFIG_DEBUG_INFO_BTF=y, or its BTF file named by --btf or ISPIN_BTF",
    )
}

fn raw_tracepoints() -> Capability {
    let (state, found) = match is_program_supported(ProgramType::RawTracePoint) {
        Ok(true) => (Yes, "raw tracepoint programs load".to_owned()),
        Ok(false) => (No, "raw tracepoint programs are refused".to_owned()),
        Err(e) => (Unknown, format!("this user cannot try: {}", chain(&e))),
    };
    capability(
        "raw_tracepoints",
        GUEST,
        state,
        found,
        "Linux 4.17 or later with CONFIG_BPF_EVENTS=y, and CAP_BPF to find out",
    )
}

fn slot_publisher(btf: &Path) -> Capability {
    let (state, found) = match Publisher::load(btf) {
        Ok(_) => (Yes, "tp_btf/sched_switch program loads and attaches".to_owned()),
        Err(e) => (No, format!("{e:#}")),
    };
    capability(
        "slot_publisher",
        THREADS,
        state,
        found,
        "what is missing above; if nothing is, Linux 5.5 or later with CONFIG_BPF_EVENTS=y and CONFIG_BPF_JIT=y",
    )
}

fn sched_rr() -> Capability {
    let (state, found) = match rt::try_round_robin() {
        Ok(()) => (Yes, "a thread ran under SCHED_RR".to_owned()),
        Err(e) => (No, format!("refused: {e}")),
    };
    capability(
        "sched_rr",
        THREADS,
        state,
        found,
        "CAP_SYS_NICE; with CONFIG_RT_GROUP_SCHED=y also run time for this scheduler group, see rt_group_limit",
    )
}

fn rt_group_limit() -> Capability {
    let (state, found, remedy) = match cgroup::rt_limit() {
        Ok(None) => (Yes, "no limit per group is visible".to_owned(), String::new()),
        Ok(Some(limit)) => (
            if limit.runtime_us == 0 { No } else { Yes },
            format!("{}: {} us of {} us", limit.file.display(), limit.runtime_us, limit.period_us),
            format!(
                "write a number above 0 to {}, its parent groups first; or leave the group; or boot with rt_group_sched=0",
                limit.file.display()
            ),
        ),
        Err(e) => (Unknown, format!("{e:#}"), "mount /proc and the cgroup file systems".to_owned()),
    };
    capability("rt_group_limit", NONE, state, found, remedy)
}

fn rt_throttling() -> Capability {
    const FILE: &str = "/proc/sys/kernel/sched_rt_runtime_us";
    let (state, found) = match fs::read_to_string(FILE) {
        Ok(text) if text.trim() == "-1" => {
            (No, "off: real-time threads that run wild would stall a CPU".to_owned())
        }
        Ok(text) => (Yes, format!("real-time threads get at most {} us in a period", text.trim())),
        Err(e) => (Unknown, format!("{FILE}: {e}")),
    };
    capability("rt_throttling", NONE, state, found, "sysctl kernel.sched_rt_runtime_us=950000")
}

fn cpus() -> Capability {
    let (state, found) = match sched_getaffinity(None) {
        Ok(set) => {
            let count = (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).count();
            (Yes, format!("{count} for this process"))
        }
        Err(e) => (Unknown, format!("sched_getaffinity: {e}")),
    };
    capability("cpus", NONE, state, found, "a kernel that answers sched_getaffinity")
}

fn unix_sockets() -> Capability {
    let (state, found) = match UnixStream::pair() {
        Ok(_) => (Yes, "made a pair".to_owned()),
        Err(e) => (No, e.to_string()),
    };
    capability(
        "unix_sockets",
        NONE,
        state,
        found,
        "a kernel with CONFIG_UNIX=y (--listen and COMMAND need it)",
    )
}

fn ispinlock_tracepoints(btf: &Path) -> Capability {
    // Tracefs, which may not be mounted, and the kernel's symbols are readable by root alone. Its BTF, which it may not
    // have, names a type `btf_trace_NAME` for each tracepoint and is readable by everybody.
    const TYPE: &[u8] = b"\0btf_trace_ispin_take\0";
    const TRACEFS: [&str; 2] =
        ["/sys/kernel/tracing/events/ispinlock", "/sys/kernel/debug/tracing/events/ispinlock"];
    const SYMBOL: &str = " __tracepoint_ispin_take";
    let in_btf = fs::read(btf).map(|data| data.windows(TYPE.len()).any(|w| w == TYPE));
    let has_symbol = |text: String| text.lines().any(|line| line.contains(SYMBOL));
    let (state, found) = if let Some(folder) = TRACEFS.iter().find(|folder| Path::new(folder).exists()) {
        (Yes, (*folder).to_owned())
    } else if let Ok(true) = in_btf {
        (Yes, format!("named in {}", btf.display()))
    } else if fs::read_to_string(KALLSYMS).is_ok_and(has_symbol) {
        (Yes, format!("named in {KALLSYMS}"))
    } else {
        match in_btf {
            Ok(_) => (No, "this kernel has none".to_owned()),
            Err(e) => {
                (Unknown, format!("no {}, not named in {KALLSYMS}, and {}: {e}", TRACEFS[0], btf.display()))
            }
        }
    };
    capability(
        "ispinlock_tracepoints",
        GUEST,
        state,
        found,
        "a guest kernel with the series of guest-patch/ and CONFIG_ISPINLOCK=y",
    )
}

fn xen_slots() -> Capability {
    let (state, found) = match fs::read_to_string("/sys/hypervisor/type") {
        Ok(_) if lock_source().as_deref() == Some("xen") => (Yes, "the kernel's lock reads them".to_owned()),
        Ok(kind) if kind.trim() == "xen" => {
            (Unknown, "under Xen; only the guest kernel sees whether slots are published".to_owned())
        }
        Ok(kind) => (No, format!("under {}, which publishes no slots", kind.trim())),
        Err(_) if lock_source().as_deref() == Some("software") => (
            No,
            "not under Xen; the kernel's software source stands in: its quanta preempt nobody".to_owned(),
        ),
        Err(_) => (No, "not under Xen".to_owned()),
    };
    capability(
        "xen_slots",
        NONE,
        state,
        found,
        "a Xen with the series of xen-patch/; without it the guest source counts every take as unslotted",
    )
}

/// Who the patched kernel's lock says publishes slots.
fn lock_source() -> Option<String> {
    let text = fs::read_to_string("/sys/module/ispinlock/parameters/source").ok()?;
    Some(text.trim().to_owned())
}

fn threads_session() -> Capability {
    let (sessions, errors) = session::list();
    let alive: Vec<_> = sessions.iter().filter(|s| s.owner.alive()).collect();
    let describe = |s: &&session::Session| match &s.world {
        Some(world) => format!("process {} runs {} with {} VMs", s.owner.pid, world.lock, world.vms.len()),
        None => format!("process {} is between two worlds", s.owner.pid),
    };
    let (state, found) = if !alive.is_empty() {
        (Yes, alive.iter().map(describe).collect::<Vec<_>>().join("; "))
    } else if let Some(e) = errors.first() {
        (Unknown, format!("{e:#}"))
    } else {
        (No, "none is running".to_owned())
    };
    capability(
        "threads_session",
        NONE,
        state,
        found,
        "`ispin-agent run -- ispin-lab threads` starts one; root sees it",
    )
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}
