//! The process that is a VM: its threads are vCPUs. Reads a [`VmConfig`] from standard input, answers with
//! [`Started`], waits for an empty line, which opens the start barrier, and answers with [`Finished`] at the
//! end, a line of JSON each.

use std::io::{self, BufRead, Write};
use std::ptr::{addr_of, read_volatile};
use std::sync::{Condvar, Mutex, PoisonError, mpsc};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use ispin_agent::bpf::publisher::{PublisherMapIds, PublisherMaps};
use ispin_common::slot::Slot;
use ispin_common::threads::{Control, VcpuRow};
use serde::{Deserialize, Serialize};

use super::options::RunOptions;
use super::scheduling::{Policy, VCPU_PRIORITY, bind, set_policy, thread_id};
use crate::locks::{self, Lock};
use crate::vcpu::{Vcpu, monotonic_ns};
use crate::workload::{Drawer, work};

/// What a VM process is told.
#[derive(Debug, Serialize, Deserialize)]
pub struct VmConfig {
    /// Name of the lock algorithm.
    pub lock: String,
    /// The run.
    pub options: RunOptions,
    /// Page of this VM in the slot map.
    pub page: u32,
    /// Row of its vCPU 0; the others follow.
    pub first_row: u32,
    /// CPU of each vCPU.
    pub cpus: Vec<usize>,
    /// Iterations of `work` per ns.
    pub iterations_per_ns: f64,
    /// The publisher's maps.
    pub maps: PublisherMapIds,
}

/// First answer: the threads exist and wait at the barrier.
#[derive(Debug, Serialize, Deserialize)]
pub struct Started {
    /// Thread ids in order of the vCPUs.
    pub tids: Vec<u32>,
}

/// Second answer: the run is over.
#[derive(Debug, Serialize, Deserialize)]
pub struct Finished {
    /// Per vCPU.
    pub threads: Vec<ThreadResult>,
}

/// What one vCPU thread did.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct ThreadResult {
    /// Lock operations completed.
    pub operations: u64,
    /// From the opening of the gate to its last operation, ns.
    pub elapsed_ns: u64,
    /// When that was, `CLOCK_MONOTONIC` ns.
    pub ended_ns: u64,
}

/// How long a vCPU that is not published yet sleeps, and how often, before its run is given up.
const NAP: Duration = Duration::from_micros(50);
const MOST_NAPS: u32 = 100;
/// CPU time that a vCPU thread may use beyond the run before the kernel ends it.
const RT_GRACE: Duration = Duration::from_secs(5);

/// Body of the VM process.
pub fn main() -> Result<()> {
    let parent = rustix::process::getppid();
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .context("tying this VM to its hypervisor")?;
    if rustix::process::getppid() != parent {
        bail!("the hypervisor has ended already");
    }
    // Signals from a terminal go to the whole group; the hypervisor decides what they mean.
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: ignoring a signal has no preconditions.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    let mut line = String::new();
    // The lock shares its buffer with `go`.
    io::stdin().lock().read_line(&mut line).context("reading the VM's configuration")?;
    let config: VmConfig = serde_json::from_str(&line).context("the VM's configuration")?;
    let maps = PublisherMaps::open(&config.maps)?;
    bound_realtime(config.options.duration() + RT_GRACE)?;

    let threads = run(&config, &maps)?;
    answer(&Finished { threads })
}

fn run(config: &VmConfig, maps: &PublisherMaps) -> Result<Vec<ThreadResult>> {
    let algorithm =
        locks::by_name(&config.lock).ok_or_else(|| anyhow!("no lock algorithm `{}`", config.lock))?;
    let lock = (algorithm.make)(0, &config.options.parameters);
    let page = maps.slot_pages.get(config.page as usize).ok_or_else(|| anyhow!("no page {}", config.page))?;
    let control = Shared(maps.control()? as *const Control);
    let barrier = &Barrier::new();
    std::thread::scope(|scope| {
        let (tid_out, tid_in) = mpsc::channel();
        let mut threads = vec![];
        for (i, &cpu) in config.cpus.iter().enumerate() {
            let row =
                maps.rows.get(config.first_row as usize + i).ok_or_else(|| anyhow!("no row for vCPU {i}"))?;
            // SAFETY: a mapped page; the index is below MAX_SLOTS by RunOptions::validate.
            let slot = Shared(unsafe { addr_of!((*page).slots[i]) });
            let (row, tid_out, lock) = (Shared(row as *const VcpuRow), tid_out.clone(), lock.as_ref());
            let thread =
                std::thread::Builder::new().name(format!("vcpu{i}")).spawn_scoped(scope, move || {
                    vcpu_thread(config, lock, i, cpu, slot, row, control, barrier, &tid_out)
                });
            threads.push(thread.with_context(|| format!("starting vCPU thread {i}"))?);
        }
        drop(tid_out);
        let mut tids = vec![0; threads.len()];
        for _ in 0..tids.len() {
            // Fails when a thread ended before it could say its id; its error comes out of the join below.
            let Ok((i, tid)) = tid_in.recv() else { break };
            tids[i] = tid;
        }
        // Without all of them there is an error to be had from a thread.
        let opened =
            if tids.contains(&0) { Ok(false) } else { answer(&Started { tids }).and_then(|()| go()) };
        barrier.set(if matches!(opened, Ok(true)) { State::Run } else { State::GiveUp });
        let mut results = vec![];
        for thread in threads {
            results.push(thread.join().map_err(|_| anyhow!("a vCPU thread panicked"))?);
        }
        opened?;
        results.into_iter().collect()
    })
}

/// A pointer into shared memory, handed to a thread.
struct Shared<T>(*const T);
impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Shared<T> {}
// SAFETY: the mappings outlive the threads (scope); each row has one writing thread, slots and control block
// are read with volatile loads.
unsafe impl<T> Send for Shared<T> {}

#[allow(clippy::too_many_arguments, reason = "the thread's whole world, once")]
fn vcpu_thread(
    config: &VmConfig,
    lock: &dyn Lock,
    i: usize,
    cpu: usize,
    slot: Shared<Slot>,
    row: Shared<VcpuRow>,
    control: Shared<Control>,
    barrier: &Barrier,
    tid_out: &mpsc::Sender<(usize, u32)>,
) -> Result<ThreadResult> {
    let Shared(slot) = slot;
    let (Shared(row), Shared(control)) = (row, control);
    bind(&[cpu])?;
    // Real-time before the barrier: a normal thread would not get past the first real-time spinner.
    set_policy(Policy::RoundRobin, VCPU_PRIORITY)?;
    tid_out.send((i, thread_id())).context("the VM is being given up")?;

    let options = &config.options;
    let seed = options.seed.wrapping_mul(0x9e37_79b9).wrapping_add(config.first_row as u64 + i as u64);
    let mut hold = Drawer::new(options.hold, config.iterations_per_ns, seed);
    let mut gap = Drawer::new(options.gap, config.iterations_per_ns, seed ^ 0x5555);
    barrier.wait()?;
    // A thread that the machine kept from going to sleep in the barrier until it opened was not switched since it was
    // registered. Sleeping now does it.
    let mut naps = 0;
    // SAFETY: the slot is mapped.
    while !unsafe { ispin_common::slot::read_ids(slot) }.published() {
        if naps == MOST_NAPS {
            bail!("vCPU {i} was not published: is the publisher attached to sched_switch?");
        }
        naps += 1;
        std::thread::sleep(NAP);
    }
    // SAFETY: mapped until the thread ends; this thread alone writes the row.
    let mut me = unsafe { Vcpu::new(slot, row.cast_mut(), control, i as u32, options.csd_for(&config.lock)) };

    let begin = monotonic_ns();
    let mut operations = 0;
    let mut now = begin;
    // SAFETY: the control block is mapped.
    while now < unsafe { read_volatile(addr_of!((*control).ends_ns)) }
        && (options.accesses == 0 || operations < options.accesses)
    {
        work(gap.next_iterations());
        lock.lock(&mut me, 1);
        work(hold.next_iterations());
        lock.unlock(&mut me, 1);
        operations += 1;
        me.count_operation();
        now = me.now();
    }
    me.retire();
    set_policy(Policy::Normal, 0)?;
    Ok(ThreadResult { operations, elapsed_ns: now - begin, ended_ns: now })
}

/// The start barrier. Threads sleep in it without waking, so that waiting grants them no quanta, and are
/// published when they wake: a thread that takes tickets without a slot seeds convoys.
struct Barrier {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Wait,
    Run,
    GiveUp,
}

impl Barrier {
    fn new() -> Self {
        Self { state: Mutex::new(State::Wait), changed: Condvar::new() }
    }

    fn set(&self, state: State) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
        self.changed.notify_all();
    }

    fn wait(&self) -> Result<()> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state =
            self.changed.wait_while(state, |s| *s == State::Wait).unwrap_or_else(PoisonError::into_inner);
        if *state == State::GiveUp {
            bail!("the run was given up before it began");
        }
        Ok(())
    }
}

/// The kernel ends this process if a real-time thread of it runs longer than `limit` without sleeping.
fn bound_realtime(limit: Duration) -> Result<()> {
    let micros = limit.as_micros() as u64;
    rustix::process::setrlimit(
        rustix::process::Resource::Rttime,
        rustix::process::Rlimit { current: Some(micros), maximum: Some(micros) },
    )
    .context("bounding the CPU time of real-time threads")
}

/// Waits for the hypervisor's go; false if it went away instead. From then on this thread is above its vCPUs,
/// so that it can wake all of them before the first takes the CPU.
fn go() -> Result<bool> {
    set_policy(Policy::Fifo, VCPU_PRIORITY + 1)?;
    let mut line = String::new();
    Ok(io::stdin().lock().read_line(&mut line).context("waiting for the start")? > 0)
}

fn answer<T: Serialize>(what: &T) -> Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    let mut out = io::stdout().lock();
    out.write_all(&line).and_then(|()| out.flush()).context("answering the hypervisor")
}
