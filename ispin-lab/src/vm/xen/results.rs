//! The file in which runs accumulate: CSV, a line per run. A run that is in it already is not run again.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use ispin_agent::interval::Figures;
use ispin_agent::model::Vcpu;
use serde::{Deserialize, Serialize};

use crate::vm::boot::Observed;
use crate::vm::options::VmOptions;

/// One run. The first part says which; two runs with the same one are the same run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Spinlock of the guests' kernel.
    pub lock: String,
    /// Number of guests.
    pub guests: u32,
    /// vCPUs of each.
    pub vcpus: u32,
    /// pCPUs that they share.
    pub pcpus: u32,
    /// How Xen runs them.
    pub guest_type: String,
    /// What Xen publishes.
    pub policy: String,
    /// Xen's scheduler.
    pub scheduler: String,
    /// Length of a time slice, if it was said, ms.
    pub slice_ms: Option<u32>,
    /// Rate limit, if it was said, us.
    pub ratelimit_us: Option<u32>,
    /// Critical section duration estimate, if it was said, cycles.
    pub csd: Option<u64>,
    /// The load, with its options.
    pub workload: String,
    /// Threads of the load, in each guest.
    pub threads: u32,
    /// Length of the load, s.
    pub seconds: f64,
    /// Whether instructions were counted instead of time.
    pub deterministic: bool,
    /// More kernel parameters.
    pub append: String,
    /// Seed of the run.
    pub seed: u64,

    /// Who published slots.
    pub slot_source: String,
    /// How long the loads ran, s: the longest of the guests'.
    pub load_s: f64,
    /// What the loads did per second, all guests together, in the load's own operations.
    pub operations_per_s: f64,
    /// The figures below are those of all guests together, under the names of docs/columns.md.
    pub takes: u64,
    /// See there.
    pub acquires: u64,
    /// See there.
    pub contended: u64,
    /// See there.
    pub deferrals: u64,
    /// See there.
    pub lhp: u64,
    /// See there.
    pub lhp_preempted: u64,
    /// See there.
    pub lwp: u64,
    /// See there.
    pub lwp_preempted: u64,
    /// See there.
    pub lwp_blocked: u64,
    /// See there.
    pub lwp_harmful: u64,
    /// See there.
    pub idle_cycles: u64,
    /// See there.
    pub slices: u64,
    /// See there.
    pub dispatches: u64,
    /// LHP and LWP per second of the load.
    pub psp_per_s: f64,
    /// LHP and LWP, really preempted, per million acquires.
    pub psp_preempted_per_million: f64,
    /// See docs/columns.md.
    pub spin_total_pct: f64,
    /// Takes without a published slot.
    pub unslotted: u64,
    /// Takes whose published deadline had expired.
    pub expired: u64,
    /// The most that the host made the machine wait at a time, ms; empty = not known.
    pub gap_ms: Option<f64>,
    /// All losses together.
    pub lost: u64,
}

impl Row {
    /// Which run it is, without what came of it.
    pub fn of(options: &VmOptions, seed: u64) -> Self {
        let xen = &options.xen;
        let words: Vec<&str> = std::iter::once(options.workload.as_str())
            .chain(options.load_options.iter().map(String::as_str))
            .collect();
        Self {
            lock: options.lock.to_string(),
            guests: xen.guests(),
            vcpus: options.vcpus,
            pcpus: xen.pcpus(),
            guest_type: xen.guest_type().to_string(),
            policy: xen.policy().to_string(),
            scheduler: xen.scheduler().to_string(),
            slice_ms: xen.slice_ms,
            ratelimit_us: xen.ratelimit_us,
            csd: options.csd,
            workload: words.join(" "),
            threads: options.threads(),
            seconds: options.seconds,
            deterministic: options.deterministic,
            append: options.append.join(" "),
            seed,
            ..Self::default()
        }
    }

    /// Adds what came of it.
    pub fn with(self, observed: &Observed) -> Self {
        let operations_per_s = observed.results.iter().map(|(_, result)| result.per_second).sum();
        let slot_source = observed.source.clone().unwrap_or_default();
        // The agents are there for longer; until the loads start, and when they have ended, nothing is counted.
        let load_s = observed.results.iter().map(|(_, result)| result.seconds).fold(0.0, f64::max);
        let Some(last) = &observed.last else {
            return Self { slot_source, operations_per_s, load_s, ..self };
        };
        let mut all = Vcpu::default();
        for vm in &last.vms {
            all.merge(&vm.total());
        }
        let c = &all.counters;
        let figures = Figures::of(&all, (load_s * 1e9) as u64);
        let preempted = (c.lhp_preempted + c.lwp_preempted) as f64;
        Self {
            slot_source,
            load_s,
            operations_per_s,
            takes: c.takes,
            acquires: c.acquires,
            contended: c.contended,
            deferrals: c.deferrals,
            lhp: c.lhp,
            lhp_preempted: c.lhp_preempted,
            lwp: c.lwp,
            lwp_preempted: c.lwp_preempted,
            lwp_blocked: c.lwp_blocked,
            lwp_harmful: c.lwp_harmful,
            idle_cycles: c.idle_cycles,
            slices: all.slices,
            dispatches: all.dispatches,
            psp_per_s: figures.psp_per_s.unwrap_or_default(),
            psp_preempted_per_million: preempted * 1e6 / c.acquires.max(1) as f64,
            spin_total_pct: figures.spin_total_pct.unwrap_or_default(),
            gap_ms: observed.gap.map(|gap| (gap.as_secs_f64() * 1e4).round() / 10.0),
            unslotted: c.unslotted,
            expired: c.expired,
            lost: last.losses.total(),
            ..self
        }
    }

    /// Whether `other` is the same run, whatever came of it.
    pub fn same_run(&self, other: &Self) -> bool {
        let which = |row: &Self| {
            let numbers = (row.guests, row.vcpus, row.pcpus, row.threads, row.seed, row.deterministic);
            let told = (row.slice_ms, row.ratelimit_us, row.csd, row.seconds.to_bits());
            let words = [&row.lock, &row.guest_type, &row.policy, &row.scheduler, &row.workload, &row.append];
            (numbers, told, words.map(String::clone))
        };
        which(self) == which(other)
    }
}

/// The file.
pub struct ResultFile {
    path: PathBuf,
    file: File,
    rows: Vec<Row>,
}

impl ResultFile {
    /// Opens or creates it. A line that a kill cut off is dropped, for its run is not complete.
    pub fn open(path: &Path) -> Result<Self> {
        let opening = || format!("--results {}", path.display());
        let mut options = OpenOptions::new();
        let mut file =
            options.read(true).write(true).create(true).truncate(false).open(path).with_context(opening)?;
        let text = fs::read(path).with_context(opening)?;
        let whole = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        if whole < text.len() {
            log::warn!("{}: dropped a line that was cut off", path.display());
            file.set_len(whole as u64).with_context(opening)?;
        }
        file.seek(SeekFrom::End(0)).with_context(opening)?;
        let mut rows = vec![];
        for (number, row) in csv::Reader::from_reader(&text[..whole]).deserialize().enumerate() {
            match row {
                Ok(row) => rows.push(row),
                Err(error) => bail!(
                    "--results {}, line {}: {error}: not a result of this version; name another file",
                    path.display(),
                    number + 2
                ),
            }
        }
        Ok(Self { path: path.to_owned(), file, rows })
    }

    /// The result of this run, if it is there.
    pub fn find(&self, run: &Row) -> Option<&Row> {
        self.rows.iter().find(|row| row.same_run(run))
    }

    /// Appends one row in one write.
    pub fn append(&mut self, row: Row) -> Result<()> {
        let writing = || format!("--results {}", self.path.display());
        let empty = self.file.stream_position().with_context(writing)? == 0;
        let mut writer = csv::WriterBuilder::new().has_headers(empty).from_writer(vec![]);
        writer.serialize(&row).with_context(writing)?;
        let bytes = writer.into_inner().map_err(|error| error.into_error()).with_context(writing)?;
        self.file.write_all(&bytes).and_then(|()| self.file.sync_data()).with_context(writing)?;
        self.rows.push(row);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(seed: u64) -> Row {
        Row { lock: "pv".into(), seed, seconds: 2.0, csd: Some(5), lwp: 7, ..Row::default() }
    }

    #[test]
    fn results_survive_a_cut_and_are_found_again() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("r.csv");
        let mut file = ResultFile::open(&path).expect("new");
        file.append(row(1)).expect("append");
        file.append(row(2)).expect("append");
        drop(file);
        let mut text = fs::read(&path).expect("read");
        text.extend(b"pv,2,4");
        fs::write(&path, &text).expect("write");
        let mut file = ResultFile::open(&path).expect("cut");
        assert_eq!(file.find(&Row { lwp: 0, ..row(2) }), Some(&row(2)));
        assert_eq!(file.find(&row(3)), None);
        assert_eq!(file.find(&Row { csd: None, ..row(1) }), None);
        file.append(row(3)).expect("append");
        assert_eq!(ResultFile::open(&path).expect("again").rows.len(), 3);
    }

    #[test]
    fn a_foreign_file_is_left_alone() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("r.csv");
        fs::write(&path, "a,b\n1,2\n").expect("write");
        let error = format!("{:#}", ResultFile::open(&path).err().expect("foreign"));
        assert!(error.contains("line 2") && error.contains("another file"), "{error}");
        assert_eq!(fs::read_to_string(&path).expect("read"), "a,b\n1,2\n");
    }
}
