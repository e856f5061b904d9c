//! Loads the guest programs: four raw tracepoint programs that feed the classifier in the kernel.

use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::ptr::{addr_of, addr_of_mut};

use anyhow::{Context, Result, anyhow, bail};
use aya::maps::{Array, Map};
use aya::programs::{ProgramError, RawTracePoint, RawTracePointRunOptions, TestRun};
use aya::{Ebpf, EbpfLoader};
use ispin_common::counters::Counters;
use ispin_common::event::{Event, EventKind, NR_LEVELS};
use ispin_common::guest::{GuestLane, GuestRing, INCIDENT_RING, NR_RELEASES, lane_key};
use ispin_common::incident::Incident;

use super::memory;
use super::mmap::{MappedArray, read_words};
use super::object::OBJECT;
use super::publisher::recursion_misses;

/// Name of the tracepoint and of the program for each kind of event.
pub const fn program_name(kind: EventKind) -> &'static str {
    match kind {
        EventKind::Take => "ispin_take",
        EventKind::Acquire => "ispin_acquire",
        EventKind::Release => "ispin_release",
        EventKind::Incapable => "ispin_incapable",
    }
}

const KINDS: [EventKind; 4] = [EventKind::Take, EventKind::Acquire, EventKind::Release, EventKind::Incapable];

/// What one CPU counted at one context level.
#[derive(Clone)]
pub struct Lane {
    /// CPU.
    pub cpu: u32,
    /// Context level.
    pub level: u32,
    /// Its counts.
    pub counts: Box<GuestLane>,
}

/// The loaded programs and their maps. Dropping it detaches and removes them.
pub struct GuestPrograms {
    bpf: Ebpf,
    lanes: MappedArray<GuestLane>,
    rings: MappedArray<GuestRing>,
    cpus: u32,
}

impl GuestPrograms {
    /// Has the kernel verify and load the programs. They are not attached and ignore every event until
    /// [`Self::enable`].
    pub fn load() -> Result<Self> {
        let cpus = aya::util::nr_cpus().map_err(|(what, e)| anyhow!("{what}: {e}"))? as u32;
        let mut bpf = EbpfLoader::new()
            .map_max_entries("GUEST_LANES", cpus * NR_LEVELS as u32)
            .map_max_entries("GUEST_RINGS", cpus * NR_LEVELS as u32)
            .load(OBJECT)
            .context("loading the eBPF object (needs root, or CAP_BPF and CAP_PERFMON)")?;
        for kind in KINDS {
            program_mut(&mut bpf, kind)?
                .load()
                .with_context(|| format!("the kernel refused the program {}", program_name(kind)))?;
        }
        let lanes = MappedArray::of(&bpf, "GUEST_LANES")?;
        let rings = MappedArray::of(&bpf, "GUEST_RINGS")?;
        Ok(Self { bpf, lanes, rings, cpus })
    }

    /// Attaches the programs to the tracepoints of the patched kernel, and enables them once all are in
    /// place, so that no episode loses its end to a program that was not there yet.
    pub fn attach(&mut self) -> Result<()> {
        for kind in KINDS {
            let name = program_name(kind);
            match program_mut(&mut self.bpf, kind)?.attach(name) {
                Ok(_) => {}
                Err(ProgramError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::ENOENT) => {
                    bail!(
                        "this kernel has no tracepoint {name}: the guest source needs a kernel with the patches of \
                     guest-patch/ and CONFIG_ISPINLOCK=y"
                    )
                }
                Err(e) => return Err(e).with_context(|| format!("attaching to the tracepoint {name}")),
            }
        }
        self.enable(true)
    }

    /// Reads `words` words of kernel memory at `address`: for names of what is known to the running kernel only.
    pub fn read_kernel(&mut self, address: u64, words: usize) -> Result<Vec<u64>> {
        memory::read(&mut self.bpf, address, words)
            .with_context(|| format!("reading kernel memory at {address:#x}"))
    }

    /// Lets the programs look at events, or ignore them.
    pub fn enable(&mut self, enabled: bool) -> Result<()> {
        for lane in (0..self.lanes.len()).filter_map(|i| self.lanes.get(i)) {
            // SAFETY: inside the mapping, which lives as long as self; one aligned store.
            unsafe { addr_of_mut!((*lane).enabled).write_volatile(enabled.into()) };
        }
        Ok(())
    }

    /// Tells the programs the critical section duration estimate, in cycles, which the reasons of PSP need. To be told
    /// again after [`Self::clear`].
    pub fn set_csd(&mut self, csd: u64) {
        for lane in (0..self.lanes.len()).filter_map(|i| self.lanes.get(i)) {
            // SAFETY: inside the mapping, which lives as long as self; one aligned store.
            unsafe { addr_of_mut!((*lane).classifier.csd).write_volatile(csd) };
        }
    }

    /// Runs the event's program on `cpu` as if its tracepoint had fired there: for tests, and to try the
    /// programs on a kernel without the tracepoints.
    pub fn feed(&self, event: &Event, cpu: u32) -> Result<()> {
        let mut options = RawTracePointRunOptions { cpu: Some(cpu), ..RawTracePointRunOptions::new() };
        for (to, from) in options.args.iter_mut().zip(event.to_args()) {
            *to = from;
        }
        let name = program_name(event.kind);
        let program: &RawTracePoint = self.bpf.program(name).ok_or_else(|| no_program(name))?.try_into()?;
        program.test_run(options).with_context(|| format!("running {name} on CPU {cpu}"))?;
        Ok(())
    }

    /// Forgets everything that was counted; the programs are disabled then.
    pub fn clear(&mut self) -> Result<()> {
        for lane in (0..self.lanes.len()).filter_map(|i| self.lanes.get(i)) {
            // SAFETY: inside the mapping; all zeroes is an empty lane that ignores events.
            unsafe { lane.write_bytes(0, 1) };
        }
        let mut releases: Array<_, [u64; NR_RELEASES as usize]> = Array::try_from(self.map_mut(".bss")?)?;
        releases.set(0, [0; NR_RELEASES as usize], 0)?;
        self.take_incidents();
        Ok(())
    }

    /// Number of CPUs that this kernel can ever have.
    pub fn cpus(&self) -> u32 {
        self.cpus
    }

    /// What has been counted so far, for every CPU and level at which there was an event.
    pub fn lanes(&self) -> Vec<Lane> {
        let mut lanes = vec![];
        for level in 0..NR_LEVELS as u32 {
            for cpu in 0..self.cpus {
                let Some(lane) = self.lanes.get(lane_key(cpu, level) as usize) else { continue };
                // Lanes are large, and few CPUs take spinlocks at all levels.
                // SAFETY: inside the mapping, which lives as long as self; integers all the way down.
                let counters = unsafe { read_words(addr_of!((*lane).classifier.counters)) };
                if used(&counters) {
                    // SAFETY: as above.
                    lanes.push(Lane { cpu, level, counts: unsafe { read_words(lane) } });
                }
            }
        }
        lanes
    }

    /// Takes the incidents out of all rings, oldest first.
    pub fn take_incidents(&mut self) -> Vec<Incident> {
        let mut incidents = vec![];
        for ring in (0..self.rings.len()).filter_map(|i| self.rings.get(i)) {
            // One ring's content at most: a busy producer must not keep the agent here.
            for _ in 0..INCIDENT_RING {
                // SAFETY: inside the mapping; the kernel is the one producer, and this exclusive borrow of
                // self, which alone has the mapping, the one consumer.
                match unsafe { GuestRing::pop(ring) } {
                    Some(incident) => incidents.push(incident),
                    None => break,
                }
            }
        }
        incidents.sort_by_key(|incident| incident.to_tsc);
        incidents
    }

    /// Events that the kernel did not hand to a program because that program was running on that CPU.
    pub fn recursion_misses(&self) -> Result<u64> {
        let mut misses = 0;
        for kind in KINDS {
            let name = program_name(kind);
            let program = self.bpf.program(name).ok_or_else(|| no_program(name))?;
            let fd = program.fd()?.as_fd().as_raw_fd();
            misses += recursion_misses(&PathBuf::from(format!("/proc/self/fdinfo/{fd}")))?;
        }
        Ok(misses)
    }

    /// Kernel-wide numbers of the programs.
    pub fn ids(&self) -> Result<Vec<u32>> {
        KINDS
            .iter()
            .map(|&kind| {
                let name = program_name(kind);
                let program = self.bpf.program(name).ok_or_else(|| no_program(name))?;
                Ok(program.info()?.id())
            })
            .collect()
    }

    fn map_mut(&mut self, name: &str) -> Result<&mut Map> {
        self.bpf
            .map_mut(name)
            .ok_or_else(|| anyhow!("the eBPF object has no map {name}: it was built from other sources"))
    }
}

fn used(counters: &Counters) -> bool {
    counters.takes + counters.acquires + counters.releases + counters.deferrals > 0
}

fn program_mut(bpf: &mut Ebpf, kind: EventKind) -> Result<&mut RawTracePoint> {
    let name = program_name(kind);
    Ok(bpf.program_mut(name).ok_or_else(|| no_program(name))?.try_into()?)
}

fn no_program(name: &str) -> anyhow::Error {
    anyhow!("the eBPF object has no program {name}: it was built from other sources")
}
