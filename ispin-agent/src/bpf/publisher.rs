//! Loads the slot publisher: the hypervisor of the threads world.

use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use aya::maps::{HashMap, Map, MapData};
use aya::programs::BtfTracePoint;
use aya::{Btf, Ebpf, EbpfLoader};
use ispin_common::slot::SlotPage;
use ispin_common::threads::{Control, KernelRow, MAX_CPUS, SwitchRing, VcpuRow};

use super::btf::KernelBtf;
use super::mmap::MappedArray;
use super::object::OBJECT;

/// The publisher's memory, mapped.
pub struct PublisherMaps {
    /// One page per VM.
    pub slot_pages: MappedArray<SlotPage>,
    /// One row per vCPU thread.
    pub rows: MappedArray<VcpuRow>,
    /// What the publisher keeps per vCPU thread.
    pub kernel_rows: MappedArray<KernelRow>,
    /// One ring per CPU.
    pub switch_rings: MappedArray<SwitchRing>,
    /// Gates and settings.
    pub control: MappedArray<Control>,
    tid_to_row: HashMap<MapData, u32, u32>,
}

/// Kernel-wide numbers of the publisher's maps, by which another process opens them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PublisherMapIds {
    slot_pages: u32,
    rows: u32,
    kernel_rows: u32,
    switch_rings: u32,
    control: u32,
    tid_to_row: u32,
}

impl PublisherMaps {
    /// Opens the maps of a publisher that runs in another process.
    pub fn open(ids: &PublisherMapIds) -> Result<Self> {
        let tids = MapData::from_id(ids.tid_to_row).context("opening the publisher's thread table")?;
        Ok(Self {
            slot_pages: MappedArray::from_id(ids.slot_pages)?,
            rows: MappedArray::from_id(ids.rows)?,
            kernel_rows: MappedArray::from_id(ids.kernel_rows)?,
            switch_rings: MappedArray::from_id(ids.switch_rings)?,
            control: MappedArray::from_id(ids.control)?,
            tid_to_row: HashMap::try_from(Map::HashMap(tids))?,
        })
    }

    /// The control block.
    pub fn control(&self) -> Result<*mut Control> {
        self.control.get(0).ok_or_else(|| anyhow!("the publisher's control map is empty"))
    }

    /// Makes the publisher know thread `tid` as vCPU `row`, or as an observer
    /// ([`ispin_common::threads::OBSERVER_ROW`]).
    pub fn register(&mut self, tid: u32, row: u32) -> Result<()> {
        self.tid_to_row.insert(tid, row, 0).with_context(|| format!("registering thread {tid}"))
    }

    /// Forgets thread `tid`; one that is not registered is fine.
    pub fn unregister(&mut self, tid: u32) {
        let _ = self.tid_to_row.remove(&tid);
    }
}

/// The attached publisher. Dropping it detaches the program; slots keep their last content.
pub struct Publisher {
    /// The maps.
    pub maps: PublisherMaps,
    ids: PublisherMapIds,
    bpf: Ebpf,
}

/// Name of the program in the object.
pub const PROGRAM: &str = "ispin_switch";

impl Publisher {
    /// Loads the object with the offsets of this kernel and attaches the program to `sched_switch`.
    pub fn load(kernel_btf: &Path) -> Result<Self> {
        let btf = KernelBtf::read(kernel_btf)?;
        let offset = |path| btf.offset_of("task_struct", path);
        let (pid, prio, policy, slice) =
            (offset("pid")?, offset("prio")?, offset("policy")?, offset("rt.time_slice")?);
        let mut bpf = EbpfLoader::new()
            .override_global("OFF_PID", &pid, true)
            .override_global("OFF_PRIO", &prio, true)
            .override_global("OFF_POLICY", &policy, true)
            .override_global("OFF_RT_TIME_SLICE", &slice, true)
            .map_max_entries("SWITCH_RINGS", possible_cpus()?)
            .load(OBJECT)
            .context("loading the eBPF object (needs root, or CAP_BPF and CAP_PERFMON)")?;
        let program: &mut BtfTracePoint = bpf
            .program_mut(PROGRAM)
            .ok_or_else(|| anyhow!("the eBPF object has no program {PROGRAM}"))?
            .try_into()?;
        let aya_btf = Btf::parse_file(kernel_btf, aya::Endianness::default())
            .with_context(|| format!("reading {}", kernel_btf.display()))?;
        program.load("sched_switch", &aya_btf).context("the kernel refused the slot publisher")?;
        program.attach().context("attaching to sched_switch")?;

        let tids = bpf.take_map("TID_TO_ROW").ok_or_else(|| {
            anyhow!("the eBPF object has no map TID_TO_ROW: it was built from other sources")
        })?;
        let tid_to_row_id = match &tids {
            Map::HashMap(data) => data.info()?.id(),
            _ => return Err(anyhow!("BPF map TID_TO_ROW is not a hash map")),
        };
        let maps = PublisherMaps {
            slot_pages: MappedArray::of(&bpf, "SLOT_PAGES")?,
            rows: MappedArray::of(&bpf, "ROWS")?,
            kernel_rows: MappedArray::of(&bpf, "KERNEL_ROWS")?,
            switch_rings: MappedArray::of(&bpf, "SWITCH_RINGS")?,
            control: MappedArray::of(&bpf, "CONTROL")?,
            tid_to_row: HashMap::try_from(tids)?,
        };
        let ids = PublisherMapIds {
            slot_pages: maps.slot_pages.id(),
            rows: maps.rows.id(),
            kernel_rows: maps.kernel_rows.id(),
            switch_rings: maps.switch_rings.id(),
            control: maps.control.id(),
            tid_to_row: tid_to_row_id,
        };
        Ok(Self { maps, ids, bpf })
    }

    /// Kernel-wide numbers of the maps.
    pub fn map_ids(&self) -> PublisherMapIds {
        self.ids
    }

    /// Kernel-wide number of the program.
    pub fn program_id(&self) -> Result<u32> {
        let program = self.bpf.program(PROGRAM).ok_or_else(|| anyhow!("no program {PROGRAM}"))?;
        Ok(program.info()?.id())
    }

    /// Where `/proc` shows the program's own counts, for [`recursion_misses`]; readable while this process
    /// lives.
    pub fn fdinfo_path(&self) -> Result<PathBuf> {
        let program = self.bpf.program(PROGRAM).ok_or_else(|| anyhow!("no program {PROGRAM}"))?;
        let fd = program.fd()?.as_fd().as_raw_fd();
        Ok(PathBuf::from(format!("/proc/{}/fdinfo/{fd}", std::process::id())))
    }
}

/// Times that the kernel skipped a program because it was already running on that CPU, from the `fdinfo` of
/// a descriptor of the program (Linux 5.12).
pub fn recursion_misses(fdinfo: &Path) -> Result<u64> {
    fdinfo_value(fdinfo, "recursion_misses:")
}

/// What the kernel's BPF statistics (`kernel.bpf_stats_enabled`) say of a program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunTime {
    /// Runs while statistics were on.
    pub runs: u64,
    /// Time of all of them, ns.
    pub nanoseconds: u64,
}

/// Reads a program's statistics from its `fdinfo`.
pub fn run_time(fdinfo: &Path) -> Result<RunTime> {
    Ok(RunTime {
        runs: fdinfo_value(fdinfo, "run_cnt:")?,
        nanoseconds: fdinfo_value(fdinfo, "run_time_ns:")?,
    })
}

fn fdinfo_value(fdinfo: &Path, name: &str) -> Result<u64> {
    let text = std::fs::read_to_string(fdinfo).with_context(|| format!("reading {}", fdinfo.display()))?;
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|value| value.trim().parse().ok())
        .ok_or_else(|| anyhow!("{} shows no {name} (needs Linux 5.12)", fdinfo.display()))
}

/// Number of CPUs that this kernel can ever have.
fn possible_cpus() -> Result<u32> {
    let cpus = aya::util::nr_cpus().map_err(|(what, e)| anyhow!("{what}: {e}"))? as u32;
    if cpus > MAX_CPUS {
        return Err(anyhow!("{cpus} possible CPUs; the publisher keeps rings for {MAX_CPUS} at most"));
    }
    Ok(cpus)
}
