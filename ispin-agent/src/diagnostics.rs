//! What eBPF programs say of themselves (`aya-log-ebpf`), handed to this program's log.

use aya_log::EbpfLogger;

/// The open logs of some programs.
pub struct Diagnostics {
    logs: Vec<EbpfLogger<&'static dyn log::Log>>,
}

impl Diagnostics {
    /// Of the programs with these kernel-wide numbers. One that keeps no log is passed over.
    pub fn of(programs: &[u32]) -> Self {
        let open = |&id: &u32| match EbpfLogger::init_from_id(id) {
            Ok(log) => Some(log),
            Err(e) => {
                log::debug!("eBPF program {id} gives no diagnostics: {e}");
                None
            }
        };
        Self { logs: programs.iter().filter_map(open).collect() }
    }

    /// Logs what came in. It never waits, so that it can be done in the tick.
    pub fn flush(&mut self) {
        for log in &mut self.logs {
            log.flush();
        }
    }
}
