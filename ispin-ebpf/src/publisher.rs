//! The slot publisher of the threads world: a `sched_switch` program that plays the hypervisor.
//!
//! At the switch-in of a registered thread it publishes the thread's quantum: under `SCHED_RR` the end is
//! the next tick plus the remaining ticks of `rt.time_slice` (kernel/sched/rt.c, `task_tick_rt`), otherwise
//! there is no limit. At switch-out it stamps `last_out` and reads the thread's phase word: who leaves its
//! CPU in mid-episode is an incident, once per episode and phase. No lock; one hash lookup per thread and
//! switch; interrupts are off in `sched_switch`, so a CPU's ring has one producer.

use core::ptr::{addr_of, addr_of_mut, read_volatile, write_volatile};

use aya_ebpf::helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns};
use aya_ebpf::macros::{btf_tracepoint, map};
use aya_ebpf::maps::{Array, HashMap};
use aya_ebpf::programs::BtfTracePointContext;
use aya_log_ebpf::info;
use ispin_common::incident::SwitchIncident;
use ispin_common::slot::{Ids, NO_LIMIT, Slot, SlotPage};
use ispin_common::threads::{
    Control, KernelRow, MAX_ROWS, MAX_VMS, OBSERVER_ROW, OutCause, Phase, SwitchRing, VcpuRow, Word,
};

const BPF_F_MMAPABLE: u32 = 1 << 10;
const SCHED_RR: u32 = 2;
/// `__TASK_STOPPED` of `prev_state`: the VM is paused by a signal.
const TASK_STOPPED: u32 = 4;

#[map]
static SLOT_PAGES: Array<SlotPage> = Array::with_max_entries(MAX_VMS, BPF_F_MMAPABLE);
#[map]
static ROWS: Array<VcpuRow> = Array::with_max_entries(MAX_ROWS, BPF_F_MMAPABLE);
#[map]
static KERNEL_ROWS: Array<KernelRow> = Array::with_max_entries(MAX_ROWS, BPF_F_MMAPABLE);
/// The loader sets the number of CPUs.
#[map]
static SWITCH_RINGS: Array<SwitchRing> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static CONTROL: Array<Control> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static TID_TO_ROW: HashMap<u32, u32> = HashMap::with_max_entries(1024, 0);

// Offsets in struct task_struct, set by the loader from the kernel's BTF; constants to the verifier.
#[unsafe(no_mangle)]
static OFF_PID: u32 = 0;
#[unsafe(no_mangle)]
static OFF_PRIO: u32 = 0;
#[unsafe(no_mangle)]
static OFF_POLICY: u32 = 0;
#[unsafe(no_mangle)]
static OFF_RT_TIME_SLICE: u32 = 0;

macro_rules! member {
    ($task:expr, $offset:ident) => {{
        // SAFETY: the task is a trusted BTF pointer of a tp_btf program and the offset comes from the same
        // kernel's BTF, so the verifier has checked the load.
        unsafe { read_volatile($task.add(read_volatile(addr_of!($offset)) as usize).cast::<u32>()) }
    }};
}

/// `TP_PROTO(bool preempt, struct task_struct *prev, struct task_struct *next, unsigned int prev_state)`
#[btf_tracepoint(function = "sched_switch")]
pub fn ispin_switch(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: types and order of sched_switch's arguments, see above.
    let (preempt, prev, next, prev_state): (u64, *const u8, *const u8, u64) =
        (ctx.arg::<u64>(0), ctx.arg(1), ctx.arg(2), ctx.arg::<u64>(3));
    let (prev_tid, next_tid) = (member!(prev, OFF_PID), member!(next, OFF_PID));
    // SAFETY: the values are plain numbers that only the loader changes.
    let prev_row = unsafe { TID_TO_ROW.get(prev_tid) }.copied();
    // SAFETY: as above.
    let next_row = unsafe { TID_TO_ROW.get(next_tid) }.copied();
    // SAFETY: no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    let mut tick_pending = false;
    if let Some(row) = prev_row
        && row != OBSERVER_ROW
    {
        let incoming = Incoming {
            tid: next_tid,
            prio: member!(next, OFF_PRIO),
            is_observer: next_row == Some(OBSERVER_ROW),
            is_vcpu: next_row.is_some() && next_row != Some(OBSERVER_ROW),
        };
        let state = if preempt & 1 == 0 { prev_state as u32 } else { 0 };
        tick_pending = switch_out(row, now, state, member!(prev, OFF_RT_TIME_SLICE), &incoming);
    }
    if let Some(row) = next_row
        && row != OBSERVER_ROW
        && switch_in(row, now, member!(next, OFF_POLICY), member!(next, OFF_RT_TIME_SLICE), tick_pending)
    {
        // Once per vCPU and run: the log's ring buffer takes a lock, which an ordinary switch must not.
        info!(&ctx, "thread {} is vCPU row {}: first quantum published", next_tid, row);
    }
    0
}

struct Incoming {
    tid: u32,
    prio: u32,
    is_observer: bool,
    is_vcpu: bool,
}

#[inline(always)]
fn slot_of(kernel: *mut KernelRow) -> Option<*mut Slot> {
    // SAFETY: a pointer into KERNEL_ROWS.
    let (vm, slot, registered) = unsafe { ((*kernel).vm, (*kernel).slot, (*kernel).registered) };
    if registered == 0 {
        return None;
    }
    let page = SLOT_PAGES.get_ptr_mut(vm)?;
    // SAFETY: a pointer into SLOT_PAGES; get_mut bounds the index.
    unsafe { (*page).slots.get_mut(slot as usize).map(|slot| slot as *mut Slot) }
}

/// Returns whether this was the vCPU's first dispatch.
#[inline(always)]
fn switch_in(row: u32, now: u64, policy: u32, ticks: u32, tick_pending: bool) -> bool {
    let Some(kernel) = KERNEL_ROWS.get_ptr_mut(row) else { return false };
    let Some(slot) = slot_of(kernel) else { return false };
    let end = quantum_end(now, policy, ticks, tick_pending);
    // SAFETY: pointers into this program's maps; this vCPU's slot and kernel row have one writer, the CPU
    // that switches it. Times are stored before the ids that publish them; x86-64 keeps stores in order.
    unsafe {
        let ids = Ids(read_volatile(addr_of!((*slot).ids)));
        let yielded = (*kernel).last_cause == OutCause::Yielded as u64;
        // A yield within a quantum gives nothing new: the same end stands, and so does the slice_id.
        let next = if yielded && end == read_volatile(addr_of!((*slot).preemption_time)) {
            ids.next_stay()
        } else {
            ids.next_dispatch()
        };
        write_volatile(addr_of_mut!((*slot).preemption_time), end);
        write_volatile(addr_of_mut!((*slot).dispatch_start), now);
        write_volatile(addr_of_mut!((*slot).ids), next.0);
        (*kernel).dispatches += 1;
        (*kernel).ticks_in = ticks as u64;
        (*kernel).tick_pending_in = tick_pending as u64;
        (*kernel).dispatches == 1
    }
}

/// End of the quantum that begins or goes on at `now`. With `tick_pending` the latest tick is due, but its
/// interrupt has not come yet: it will be counted against this quantum.
#[inline(always)]
fn quantum_end(now: u64, policy: u32, ticks: u32, tick_pending: bool) -> u64 {
    let Some(control) = CONTROL.get_ptr(0) else { return NO_LIMIT };
    // SAFETY: a pointer into CONTROL; aligned words that user space sets before the start or moves on.
    let (tick, phase, window) = unsafe {
        (
            read_volatile(addr_of!((*control).tick_ns)),
            read_volatile(addr_of!((*control).tick_phase_ns)),
            read_volatile(addr_of!((*control).host_window_ns)),
        )
    };
    let mut end = NO_LIMIT;
    if policy == SCHED_RR
        && let Some(into_tick) = now.wrapping_sub(phase).checked_rem(tick)
    {
        let left = if ticks > 1 { ticks as u64 - 1 } else { 0 };
        let next_tick = if tick_pending { now - into_tick } else { now + (tick - into_tick) };
        end = next_tick + left * tick;
    }
    // Within a window, which lasts until the next one is announced, the end lies in the past: nothing is granted.
    if window != 0 && window < end {
        end = window;
    }
    end
}

/// Returns whether a tick is due whose interrupt has not come yet.
#[inline(always)]
fn switch_out(row: u32, now: u64, state: u32, ticks: u32, incoming: &Incoming) -> bool {
    let Some(kernel) = KERNEL_ROWS.get_ptr_mut(row) else { return false };
    let Some(slot) = slot_of(kernel) else { return false };
    // SAFETY: as in switch_in; last_out is stored before bit 0 of dispatch_id is cleared.
    let (ids, start, end) = unsafe {
        let ids = Ids(read_volatile(addr_of!((*slot).ids)));
        let start = read_volatile(addr_of!((*slot).dispatch_start));
        let end = read_volatile(addr_of!((*slot).preemption_time));
        write_volatile(addr_of_mut!((*slot).last_out), now);
        write_volatile(addr_of_mut!((*slot).ids), ids.switched_out().0);
        (ids, start, end)
    };
    if !ids.published() {
        // Its switch-in was before its registration.
        return false;
    }
    let Some(control) = CONTROL.get_ptr(0) else { return false };
    // SAFETY: a pointer into CONTROL.
    let (tick, phase_ns, quantum_ticks) = unsafe {
        (
            read_volatile(addr_of!((*control).tick_ns)),
            read_volatile(addr_of!((*control).tick_phase_ns)),
            read_volatile(addr_of!((*control).quantum_ticks)),
        )
    };
    // SAFETY: a pointer into KERNEL_ROWS.
    let (ticks_in, pending_in) = unsafe { ((*kernel).ticks_in, (*kernel).tick_pending_in) };
    let ticks = ticks as u64;
    // Ticks that this dispatch should have seen by the clock; the scheduler takes one off time_slice at each.
    let tick_of = |t: u64| t.wrapping_sub(phase_ns).checked_div(tick).unwrap_or(0);
    let ticks_due = tick_of(now) - tick_of(start) + pending_in;
    let cause = if state & TASK_STOPPED != 0 {
        OutCause::Host
    } else if state != 0 {
        OutCause::Blocked
    } else if incoming.is_observer {
        OutCause::Observer
    } else if !incoming.is_vcpu {
        OutCause::Host
    } else {
        // Another vCPU of the same priority: the quantum ended, or this one yielded. At the end of a quantum
        // the scheduler has refilled time_slice, which otherwise only falls with every tick.
        if ticks == quantum_ticks && (ticks_in < ticks || ticks_due >= ticks) {
            OutCause::Quantum
        } else {
            OutCause::Yielded
        }
    };
    // SAFETY: a pointer into KERNEL_ROWS, one writer; the index is one of the five causes.
    unsafe {
        (*kernel).last_cause = cause as u64;
        (*kernel).on_ns += now.wrapping_sub(start);
        if let Some(count) = (*kernel).outs.get_mut(cause as usize) {
            *count += 1;
        }
        if cause as u32 <= OutCause::Host as u32 && end != NO_LIMIT && now + tick < end {
            (*kernel).early += 1;
        }
    }
    record(row, kernel, cause, ids, start, end, now, incoming);
    cause as u32 != OutCause::Quantum as u32 && ticks <= ticks_in && ticks_in - ticks < ticks_due
}

/// Records that a vCPU lost its pCPU in mid-episode.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "inlined; a structure would go over the small BPF stack")]
fn record(
    row: u32,
    kernel: *mut KernelRow,
    cause: OutCause,
    ids: Ids,
    start: u64,
    end: u64,
    now: u64,
    incoming: &Incoming,
) {
    let Some(vcpu) = ROWS.get_ptr(row) else { return };
    // SAFETY: a pointer into ROWS; one aligned word, written by the thread that is being switched out.
    let word = Word(unsafe { read_volatile(addr_of!((*vcpu).word)) });
    let phase = word.phase_bits();
    if phase < Phase::Taking as u64 {
        return;
    }
    // Phase and episode number, without lock and ticket.
    let key = phase << 32 | word.seq() as u64;
    // SAFETY: a pointer into KERNEL_ROWS, one writer.
    unsafe {
        if (*kernel).last_recorded == key {
            return;
        }
        (*kernel).last_recorded = key;
        if phase == Phase::Waiting as u64 {
            (*kernel).waiters += 1;
        } else if phase == Phase::Holding as u64 {
            (*kernel).holders += 1;
        } else {
            (*kernel).edges += 1;
        }
    }
    // SAFETY: no preconditions.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    if let Some(ring) = SWITCH_RINGS.get_ptr_mut(cpu) {
        let incident = SwitchIncident {
            word: word.0,
            ids,
            dispatch_start: start,
            planned_end: end,
            real_end: now,
            next_tid: incoming.tid,
            next_prio: incoming.prio,
            cause: cause as u32,
            row,
        };
        // SAFETY: this CPU's ring, interrupts off: one producer. A full ring is counted in the ring.
        unsafe { SwitchRing::push(ring, &incident) };
    }
}
