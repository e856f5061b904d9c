//! The guest world: this kernel's own spinlocks, observed through the tracepoints of the guest patches.

mod cycles;
mod names;
mod parameters;
mod rows;
mod snapshot;
mod stats;
mod symbols;

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;

use self::cycles::Cycles;
pub use self::names::KALLSYMS;
use self::parameters::{PARAMETERS, Parameters};
use self::rows::LockNames;
use self::snapshot::Reading;
use self::stats::{DEBUGFS, KernelStats};
use self::symbols::Symbols;
use super::Source;
use crate::bpf::guest::GuestPrograms;
use crate::clock::now_ns;
use crate::convoy::Convoys;
use crate::model::{Snapshot, Source as SourceInfo};

/// Observes this kernel.
pub struct GuestSource {
    programs: GuestPrograms,
    ids: Vec<u32>,
    vm: String,
    symbols: Symbols,
    lock_names: LockNames,
    session: Session,
}

/// Since when counts are of one and the same lock.
struct Session {
    source: SourceInfo,
    since_ns: u64,
    cycles: Cycles,
    kernel: KernelStats,
    convoys: Convoys,
    seq: u64,
}

impl Session {
    fn begin(parameters: &Parameters) -> Result<Self> {
        Ok(Self {
            source: parameters.source(),
            since_ns: now_ns(),
            cycles: Cycles::begin()?,
            kernel: KernelStats::begin(Path::new(DEBUGFS))?,
            convoys: Convoys::default(),
            seq: 0,
        })
    }
}

impl GuestSource {
    /// Loads the programs and attaches them to the tracepoints.
    pub fn open() -> Result<Self> {
        let mut programs = GuestPrograms::load()?;
        programs.attach()?;
        Self::over(programs)
    }

    /// Observes what `programs` count, attached or fed by hand.
    pub fn over(mut programs: GuestPrograms) -> Result<Self> {
        let mut symbols = Symbols::read()?;
        if symbols.names().is_empty() {
            log::warn!(
                "{KALLSYMS} hides addresses (kernel.kptr_restrict): locks and callers are shown by address"
            );
        }
        find_per_cpu_data(&mut programs, &mut symbols);
        let parameters = Parameters::read(Path::new(PARAMETERS))?;
        let session = Session::begin(&parameters)?;
        programs.set_csd(session.source.csd);
        if let Some(caveat) = session.source.caveat() {
            log::warn!("{caveat}");
        }
        let nodename = rustix::system::uname().nodename().to_string_lossy().into_owned();
        // What a kernel is called to which nobody gave a name.
        let vm = if matches!(nodename.as_str(), "" | "(none)") { "guest".into() } else { nodename };
        let ids = programs.ids()?;
        Ok(Self { programs, ids, vm, symbols, lock_names: LockNames::default(), session })
    }

    fn read(&mut self, events: Option<bool>) -> Result<Snapshot> {
        self.symbols.refresh()?;
        // Incidents first: counters read after them cannot be behind them.
        let incidents = self.programs.take_incidents();
        let session = &mut self.session;
        let reading = Reading {
            incidents,
            lanes: self.programs.lanes(),
            recursion_misses: self.programs.recursion_misses()?,
            source: session.source.clone(),
            events,
            had: session.cycles.read()?,
            kernel: session.kernel.read()?,
        };
        let mut snapshot = snapshot::snapshot(&self.vm, self.symbols.names(), &mut self.lock_names, &reading);
        session.seq += 1;
        snapshot.seq = session.seq;
        snapshot.elapsed_ns = now_ns().saturating_sub(session.since_ns);
        snapshot.unix_ms =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        session.convoys.update(&mut snapshot);
        Ok(snapshot)
    }
}

impl Source for GuestSource {
    fn kind(&self) -> &'static str {
        "guest"
    }

    /// When the kernel's lock was set up in another way since the previous sample, this one tells what was counted
    /// until now, still of the former set-up, and counting begins again.
    fn sample(&mut self) -> Result<Snapshot> {
        let parameters = Parameters::read(Path::new(PARAMETERS))?;
        if parameters.source() == self.session.source {
            return self.read(parameters.events);
        }
        self.programs.enable(false)?;
        let snapshot = self.read(parameters.events)?;
        self.programs.clear()?;
        self.session = Session::begin(&parameters)?;
        self.programs.set_csd(self.session.source.csd);
        self.programs.enable(true)?;
        let source = &self.session.source;
        log::info!("the lock was changed to {} with csd {}; counting begins again", source.lock, source.csd);
        Ok(snapshot)
    }

    fn programs(&self) -> Vec<u32> {
        self.ids.clone()
    }
}

/// Looks up where each CPU's copy of the per-CPU variables is, so that locks in them have names.
fn find_per_cpu_data(programs: &mut GuestPrograms, symbols: &mut Symbols) {
    let Some(address) = symbols.names().address_of("__per_cpu_offset") else {
        log::info!(
            "the kernel's symbols do not tell where per-CPU data are: their locks are shown by address"
        );
        return;
    };
    match programs.read_kernel(address, programs.cpus() as usize) {
        Ok(distances) => symbols.set_distances(distances),
        Err(e) => log::warn!("locks in per-CPU data are shown by address: {e:#}"),
    }
}
